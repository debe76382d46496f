//! Which guest driver a host manager takes: NVIDIA's rule by major release as policy, the protocol range
//! compiled into each driver branch as the hard stop (it allows a little more than the rule).

use crate::knowledge::Basis;
use crate::knowledge::table::rows;
use std::sync::LazyLock;

const RULES: &str = "vgpu_compat_rules.tsv";
const PROTOCOLS: &str = "vgpu_protocol_versions.tsv";

/// What the rule says of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// Goes together.
    Allow,
    /// Goes together, with what both releases support.
    Limited,
    /// Does not.
    Deny,
}

/// One rule that names a pair of majors.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Major release of the host.
    pub host: u32,
    /// Major release of the guest.
    pub guest: u32,
    /// What it says.
    pub says: Says,
    /// In NVIDIA's sense.
    pub text: &'static str,
    /// Where it comes from.
    pub basis: Basis,
}

static ALL: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let rule = |r: crate::knowledge::table::Row| {
        let says = match r.get("verdict") {
            "allow" => Says::Allow,
            "allow-limited" => Says::Limited,
            _ => Says::Deny,
        };
        let (host, guest) = (r.get("host_major"), r.get("guest_major"));
        let basis = r.basis(RULES, format!("host {host}, guest {guest}"));
        Some(Rule { host: host.parse().ok()?, guest: guest.parse().ok()?, says, text: r.get("rule"), basis })
    };
    rows("vgpu_compat_rules.tsv").filter_map(rule).collect()
});

/// A rule that names no pair, by the words in its columns: `newer than host`, `data-center driver`.
pub fn general(host: &str, guest: &str) -> Option<(&'static str, Basis)> {
    let found = rows("vgpu_compat_rules.tsv")
        .find(|r| r.get("host_major").starts_with(host) && r.get("guest_major").starts_with(guest));
    found.map(|r| {
        (
            r.get("rule"),
            r.basis(RULES, format!("host {}, guest {}", r.get("host_major"), r.get("guest_major"))),
        )
    })
}

/// The rule for a pair of majors.
pub fn rule(host: u32, guest: u32) -> Option<&'static Rule> {
    ALL.iter().find(|r| r.host == host && r.guest == guest)
}

/// Majors of guests that a host takes, newest first.
pub fn guests_of(host: u32) -> Vec<u32> {
    let mut all: Vec<u32> =
        ALL.iter().filter(|r| r.host == host && r.says != Says::Deny).map(|r| r.guest).collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    all
}

/// Majors of hosts that take a guest, oldest first.
pub fn hosts_of(guest: u32) -> Vec<u32> {
    let mut all: Vec<u32> =
        ALL.iter().filter(|r| r.guest == guest && r.says != Says::Deny).map(|r| r.host).collect();
    all.sort_unstable();
    all
}

/// The protocol versions of a branch: the newest it speaks, the oldest it still takes; in major numbers.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// Newest.
    pub max: u32,
    /// Oldest, where known.
    pub min: Option<u32>,
    /// Where it comes from.
    pub basis: Basis,
}

/// Protocol of a driver branch (580 of R580).
pub fn protocol(branch: u32) -> Option<Protocol> {
    let major = |text: &str| u32::from_str_radix(text.trim_start_matches("0x").split('.').next()?, 16).ok();
    let row = rows("vgpu_protocol_versions.tsv").find(|r| r.get("driver_branch") == format!("R{branch}"))?;
    Some(Protocol {
        max: major(row.get("external_version_max"))?,
        min: major(row.get("external_version_min_supported")),
        basis: row.basis(PROTOCOLS, format!("R{branch}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_protocols_are_read_whole() {
        assert_eq!(ALL.len(), 32, "rules that name a pair");
        for (host, guest) in
            [("any", "newer"), ("any", "data-center"), ("none", "data-center"), ("none", "-grid")]
        {
            assert!(general(host, guest).is_some(), "{host} {guest}");
        }
        assert_eq!(rule(19, 16).map(|r| (r.says, r.basis.confirmed)), Some((Says::Limited, true)));
        assert_eq!(rule(18, 16).map(|r| (r.says, r.basis.confirmed)), Some((Says::Deny, false)));
        assert!(rule(17, 15).is_none());
        assert_eq!(protocol(595).map(|p| (p.max, p.min)), Some((0x1c, Some(0x18))));
        assert_eq!(protocol(535).map(|p| (p.max, p.min)), Some((0x12, None)));
        assert_eq!((guests_of(19), hosts_of(16)), (vec![19, 18, 16], vec![16, 17, 19]));
    }
}
