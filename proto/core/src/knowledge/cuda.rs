//! Which driver a CUDA toolkit needs at least.

use crate::knowledge::Basis;
use crate::knowledge::table::rows;

const TABLE: &str = "cuda_driver.tsv";

/// The oldest driver that runs programs of a toolkit.
#[derive(Clone, Debug)]
pub struct Minimum {
    /// `525.60.13`, or a branch alone.
    pub driver: &'static str,
    /// Whether that minimum is confirmed, and where it comes from.
    pub basis: Basis,
}

/// The minimum for a toolkit's version such as `12.2.2` or `12.2`.
pub fn minimum(toolkit: &str) -> Option<Minimum> {
    let (major, rest) = toolkit.split_once('.')?;
    let short = format!("{major}.{}", rest.split('.').next()?);
    // Updates of a toolkit (`12.2U2`) have its minimum.
    let row = rows("cuda_driver.tsv").find(|r| r.get("toolkit").split('U').next() == Some(short.as_str()))?;
    let mut basis = row.basis(TABLE, row.get("toolkit"));
    basis.confirmed = row.get("status").contains("minimum confirmed") || basis.confirmed;
    // Where the status names an older table's smaller minimum, that one counts: what some table allows is not
    // refused.
    let mut named = row
        .get("status")
        .split([' ', ',', '(', ')'])
        .filter(|word| word.parse::<crate::units::DriverVersion>().is_ok());
    let stated = row.get("min_driver_minor_compat");
    let smaller = named.find(|word| word.parse::<crate::units::DriverVersion>() < stated.parse());
    Some(Minimum { driver: smaller.unwrap_or(stated), basis })
}

/// The newest toolkit that a driver of this version runs.
pub fn newest_for(driver: &crate::units::DriverVersion) -> Option<&'static str> {
    let fits = |minimum: &str| at_least(driver, minimum);
    rows("cuda_driver.tsv").find(|r| fits(r.get("min_driver_minor_compat"))).map(|r| r.get("toolkit"))
}

/// Whether a driver is at least that version or branch.
pub fn at_least(driver: &crate::units::DriverVersion, minimum: &str) -> bool {
    match minimum.parse::<crate::units::DriverVersion>() {
        Ok(version) => *driver >= version,
        Err(_) => minimum.parse::<u32>().is_ok_and(|branch| driver.branch() >= branch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toolkits_have_minimum_drivers() {
        assert_eq!(minimum("12.2.2").map(|m| (m.driver, m.basis.confirmed)), Some(("525.60.13", true)));
        assert_eq!(minimum("9.1.85").map(|m| m.driver), Some("387.26"), "the table of its first release");
        assert_eq!(minimum("13.0").map(|m| m.driver), Some("580"));
        assert!(minimum("99.1").is_none() && minimum("x").is_none());
        let newest = |v: &str| v.parse().ok().and_then(|v| newest_for(&v));
        assert_eq!(
            (newest("390.42"), newest("535.183.01"), newest("580.65.06")),
            (Some("9.0"), Some("12.9U1"), Some("13.1"))
        );
    }
}
