//! The servers that a client names are GPU servers of the same fleet file, and one that stays as it is keeps its
//! clients as they are: half of a change of the engine would leave them without any GPU.

use crate::compat::combination::Finding;
use crate::compat::pool_link::PoolLink;
use vsgpu_core::knowledge::Basis;

pub(super) fn check(link: &PoolLink) -> Vec<Finding> {
    let PoolLink { client, server, .. } = link;
    let basis =
        || Basis::document("a client finds its GPU servers, and they know it, by this fleet file", true);
    let mut found = vec![];
    if !link.known {
        let what = format!("{client} uses GPUs of {server}, which is no VM of this file");
        found.push(link.finding(
            what,
            basis(),
            Some(format!("list {server} under `vms:`, with `gpu-server:`")),
        ));
    } else if link.serves.is_none() && !link.stays {
        let what = format!("{client} uses GPUs of {server}, which has no `gpu-server`");
        found.push(link.finding(
            what,
            basis(),
            Some(format!("write `gpu-server:` under `guest:` of {server}")),
        ));
    }
    if let Some(why) = &link.blocked {
        let what = format!("{client} is left as it is, because its GPU server {server} is: {why}");
        let basis = Basis::document("both sides need one build of the engine", true);
        found.push(link.finding(what, basis, Some(format!("mend what stops {server} first"))));
    }
    found
}
