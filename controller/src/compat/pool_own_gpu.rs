//! A client that has a GPU of its own: its programs see that one, or the other machine's, by how they are started.

use crate::compat::combination::Finding;
use crate::compat::pool_link::PoolLink;
use vsgpu_core::knowledge::Basis;

pub(super) fn check(link: &PoolLink) -> Vec<Finding> {
    if !link.own_gpus {
        return vec![];
    }
    let what = format!("{} uses GPUs of {} and has a GPU of its own", link.client, link.server);
    let nearest = "programs started with `vsgpu-gpu run` see only the other machine's".to_string();
    let basis = Basis::document("the engine's libraries stand in front of the driver's", false);
    vec![link.finding(what, basis, Some(nearest))]
}
