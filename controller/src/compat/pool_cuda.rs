//! CUDA on both sides: the server's driver serves the engine's CUDA, and the client's programs need no newer one.

use crate::compat::combination::Finding;
use crate::compat::pool_link::PoolLink;
use vsgpu_core::knowledge::{Basis, cuda};

pub(super) fn check(link: &PoolLink) -> Vec<Finding> {
    let PoolLink { client, server, .. } = link;
    let mut found = vec![];
    let engine = link.builds.1.as_ref().or(link.builds.0.as_ref());
    let Some(engine) = engine else { return found };
    if let Some(driver) = &link.driver
        && let Some(minimum) =
            cuda::minimum(&engine.cuda).filter(|minimum| !cuda::at_least(&driver.value, minimum.driver))
    {
        let what = format!(
            "the engine of {server} was built for CUDA {}, which needs driver {} or later; {} has {}",
            engine.cuda, minimum.driver, driver.by, driver.value
        );
        let nearest = cuda::newest_for(&driver.value).map(|toolkit| {
            format!("build it with the headers of CUDA {toolkit}, or give {server} a newer driver")
        });
        found.push(link.finding(what, minimum.basis, nearest));
    }
    let number = |v: &str| {
        let mut parts = v.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    };
    if let Some(toolkit) = link.toolkit.as_ref().filter(|toolkit| number(toolkit) > number(&engine.cuda)) {
        let what =
            format!("{client} has CUDA {toolkit}, the engine of {server} was built for {}", engine.cuda);
        // A program may use nothing of what is newer.
        let basis = Basis::document("Lupine: only functions of the headers it was built with", false);
        found.push(link.finding(
            what,
            basis,
            Some(format!("build the engine with the headers of CUDA {toolkit}")),
        ));
    }
    found
}
