//! The guest's clock against this machine's: a license is refused by its server where they are far apart
//! (facts: failures F21), and so is every certificate.

use crate::compat::combination::{Combination, Finding};
use vsgpu_core::knowledge::Basis;

/// Seconds that a look at a guest may take, and that nobody has to explain.
const NOTICED: u64 = 120;
/// Seconds beyond which no license server goes along: leases are issued for a day (facts: guests "gridd.conf
/// keys": LicenseInterval).
const REFUSED: u64 = 24 * 3600;

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    let Some(offset) = &c.clock_offset else { return vec![] };
    let apart = offset.value.unsigned_abs();
    if apart <= NOTICED {
        return vec![];
    }
    let side = if offset.value < 0 { "behind" } else { "ahead of" };
    let time = match apart {
        s if s >= 48 * 3600 => format!("{} days", s / 86_400),
        s if s >= 2 * 3600 => format!("{} hours", s / 3600),
        s => format!("{} minutes", s / 60),
    };
    let what = format!("{}: the clock is {time} {side} this machine's", offset.by);
    let nearest = Some("type `timedatectl set-ntp true` in the guest (chrony or systemd-timesyncd), `timedatectl` shows it; the VM takes its first time from the ESXi host".into());
    let finding = c.finding(
        what,
        Basis::document("license servers' own messages about response time and windback", true),
        nearest,
    );
    vec![if apart > REFUSED && c.license.is_some() { finding } else { finding.doubtful() }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compat::combination::{LicenseWay, Stated};

    fn judged(seconds: i64, licensed: bool) -> Vec<(bool, String)> {
        let c = Combination {
            clock_offset: Some(Stated::new(seconds, "vm-01 (guest)")),
            license: licensed.then(|| Stated::new(LicenseWay::Nls, "vm-01 (guest)")),
            ..Combination::default()
        };
        check(&c).into_iter().map(|f| (f.refused(), f.what)).collect()
    }

    #[test]
    fn a_little_is_nothing_an_hour_warns_and_years_are_refused() {
        assert!(judged(-90, true).is_empty());
        assert_eq!(
            judged(-3700, true),
            [(false, "vm-01 (guest): the clock is 61 minutes behind this machine's".into())]
        );
        assert_eq!(
            judged(200_000_000, true),
            [(true, "vm-01 (guest): the clock is 2314 days ahead of this machine's".into())]
        );
        assert!(!judged(200_000_000, false)[0].0, "without a license it is only said");
    }
}
