//! Both sides have the same build of the engine: its messages have no version, and their layout follows from the
//! headers that it was built with.

use crate::compat::combination::Finding;
use crate::compat::pool_link::PoolLink;
use vsgpu_core::knowledge::Basis;

pub(super) fn check(link: &PoolLink) -> Vec<Finding> {
    let (Some(own), Some(there)) = &link.builds else { return vec![] };
    if own == there {
        return vec![];
    }
    let short = |build: &str| build.chars().take(12).collect::<String>();
    let what = format!(
        "{} has build {} of {}, its GPU server {} has build {} of {}",
        link.client,
        short(&own.build),
        own.name,
        link.server,
        short(&there.build),
        there.name
    );
    let basis =
        Basis::document("Lupine: functions are numbered, structures follow the headers (source)", true);
    vec![link.finding(what, basis, Some("name the two files that one run of `build-lupine` made".into()))]
}
