//! `vsgpu abort --adopt HOST`: a run whose controller or records are gone left a host in maintenance mode, or VMs shut down. What its
//! agent kept of that is taken over, and given back by a run of our own.

use super::walk::Walk;
use super::{Ended, block_on, now, operator};
use crate::error::{Error, Kind};
use crate::fleet::{Fleet, NodeId, NodeKind};
use crate::inventory::{self, Scope};
use crate::journal::{self, Folder};
use crate::planner::left;
use crate::range::nearest;
use crate::render::Printer;

pub(super) fn run(printer: &Printer, fleet: &Fleet, host: &str, yes: bool) -> Ended {
    let one = |e: Error| vec![e];
    if !fleet.hosts.iter().any(|h| h.name == host) {
        let error = Error::new(Kind::Usage, format!("the fleet file has no host `{host}`")).code("unknown-node");
        return Err(one(match nearest(host, fleet.hosts.iter().map(|h| h.name.as_str())) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("a name and its `address:` under `hosts:` are enough"),
        }));
    }
    let folder = fleet.state_folder();
    let lock = journal::lock(&folder).map_err(one)?;
    // Our own comes first: two runs that give back one host's VMs would be in each other's way.
    if let Some(run) = journal::latest(&Folder(folder)).map_err(one)?.filter(|run| run.status.ended.is_none()) {
        let error = Error::new(Kind::Blocked, format!("run {} of this fleet is not finished", run.number)).code("unfinished-run");
        return Err(one(error.hint("`vsgpu abort` gives back what it took; then `vsgpu abort --adopt` what others left")));
    }
    let operator = operator(fleet)?;
    let inventory = block_on(inventory::gather(fleet, &operator, Scope::Wished, &|id| id.kind == NodeKind::Host && id.name == host))?;
    let node = NodeId::new(NodeKind::Host, host);
    let seen = match inventory.nodes.get(&node) {
        Some(Ok(seen)) => seen,
        Some(Err(error)) => return Err(one(error.clone())),
        None => return Err(one(Error::new(Kind::Internal, format!("{host} was not asked")))),
    };
    let lefts = left::of_host(host, &seen.taken, seen.holder.as_ref());
    let adoption = left::adopt(fleet, &inventory, host);
    if adoption.plan.steps.is_empty() {
        let error = Error::new(Kind::Usage, format!("no run has taken anything of {host}, as far as its agent knows")).code("nothing-left");
        return Err(one(error.hint("`vsgpu facts` shows how it is; what somebody did by hand is theirs to undo")));
    }
    lefts.iter().for_each(|left| printer.note(&left.line(now())));
    if let Some(busy) = lefts.iter().find(|left| left.at_work) {
        let error = Error::new(Kind::Blocked, format!("{host}: the run that took it is at work there now")).code("taken-over");
        return Err(one(error.hint(busy.advice())));
    }
    let walk = Walk { yes, adoption: Some(adoption), ..Walk::to(printer, fleet) };
    let ended = walk.locked();
    drop(lock);
    ended
}
