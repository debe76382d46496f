//! `vsgpu abort --adopt HOST`: a run whose controller or records are gone left a host in maintenance mode, or
//! VMs shut down. What its agent kept of that is taken over, and restored by a run of our own.

use crate::cli::global::{CliResult, block_on, connector, now};
use crate::cli::run::RunCommand;
use crate::error::{Error, Kind};
use crate::fleet::Fleet;
use crate::fleet::range::nearest;
use crate::inventory::{self, Scope, acquired};
use crate::journal::{self, Folder};
use crate::node::{NodeId, NodeKind};
use crate::plan::{adopt, still_outstanding};
use crate::render::Printer;

pub(super) fn run(printer: &Printer, fleet: &Fleet, host: &str, yes: bool) -> CliResult {
    let one = |e: Error| vec![e];
    if !fleet.hosts.iter().any(|h| h.name == host) {
        let error =
            Error::new(Kind::Usage, format!("the fleet file has no host `{host}`")).code("unknown-node");
        return Err(one(match nearest(host, fleet.hosts.iter().map(|h| h.name.as_str())) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("a name and its `address:` under `hosts:` are enough"),
        }));
    }
    let folder = fleet.state_folder();
    let lock = journal::lock(&folder).map_err(one)?;
    // Our own comes first: two runs that restore one host's VMs would be in each other's way.
    if let Some(run) = journal::latest(&Folder(folder)).map_err(one)?.filter(|run| run.status.ended.is_none())
    {
        let error = Error::new(
            Kind::Blocked,
            format!("run {} of this fleet is not finished; {host} was left as it is", run.number),
        );
        let first = format!(
            "`vsgpu resume` or `vsgpu abort` first: both act on all hosts of that run; then `vsgpu abort --adopt {host}`"
        );
        let beside = format!(
            "or leave that run as it is: a fleet file in another folder that has only {host} and its address"
        );
        return Err(one(error.code("unfinished-run").hint(first).hint(beside)));
    }
    let connector = connector(fleet)?;
    let own = crate::cli::global::leftovers(fleet)?;
    let wanted = |id: &NodeId| id.kind == NodeKind::Host && (id.name == host || own.concern(fleet, &id.name));
    let inventory = block_on(inventory::gather(fleet, &connector, Scope::Wished, &wanted))?;
    let node = NodeId::new(NodeKind::Host, host);
    let seen = match inventory.nodes.get(&node) {
        Some(Ok(seen)) => seen,
        Some(Err(error)) => return Err(one(error.clone())),
        None => return Err(one(Error::new(Kind::Internal, format!("{host} was not asked")))),
    };
    let lefts = acquired::of_host(host, &seen.temporary, seen.holder.as_ref());
    let adoption = adopt::adopt(fleet, &inventory, host).beside(still_outstanding(fleet, &inventory, own));
    if adoption.plan.steps.is_empty() {
        if !lefts.is_empty() {
            acquired::told(&lefts, now()).iter().for_each(|told| printer.note(told));
            let error = Error::new(
                Kind::Usage,
                format!("{host}: the fleet file wants `power: off` for all that was shut down there"),
            );
            return Err(one(error
                .code("nothing-left")
                .hint("nothing was changed; take `power: off` out, and they are started")));
        }
        let error = Error::new(
            Kind::Usage,
            format!("no run has left anything changed on {host}, as far as its agent knows"),
        )
        .code("nothing-left");
        return Err(one(
            error.hint("`vsgpu facts` shows how it is; what somebody did by hand is theirs to undo")
        ));
    }
    acquired::told(&lefts, now()).iter().for_each(|told| printer.note(told));
    if let Some((busy, who)) = lefts.iter().find_map(|left| Some((left, left.at_work.as_ref()?))) {
        let error = Error::new(Kind::Blocked, format!("{host}: {who} works on it now; nothing was changed"))
            .code("taken-over");
        return Err(one(busy.advice().into_iter().fold(error, Error::hint)));
    }
    // Machines go on: unlike other verbs, nothing here was agreed to by whoever made the plan.
    if !yes && !printer.can_ask() {
        let error = Error::new(Kind::Usage, "nobody can be asked; nothing was changed").code("not-confirmed");
        return Err(one(error.hint(format!("{} Then add `--yes`", adoption.question()))));
    }
    let command = RunCommand { yes, adoption: Some(adoption), ..RunCommand::to(printer, fleet) };
    let ended = command.locked();
    drop(lock);
    ended
}
