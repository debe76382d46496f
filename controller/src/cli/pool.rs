//! `vsgpu pool`: GPUs over the network, as an operator sees them.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs, block_on, connector, reader, worst};
use crate::error::{Error, Exit, Kind};
use crate::fleet::range::nearest;
use crate::monitoring::pools;
use crate::render::{Printer, pool};
use clap::{Args, Subcommand};
use serde_json::json;
use vsgpu_wire::client::Target;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu pool status\n  vsgpu pool drain gpu-srv-1\n  vsgpu pool evict gpu-srv-1 7 --why 'the GPU is needed tonight'"
)]
pub(super) struct Pool {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Show who has which GPU, and who waits
    Status {
        #[command(flatten)]
        fleet: FleetArg,
    },
    /// Give out no new GPU leases; those that run go on
    Drain {
        /// GPU server: a VM of the fleet file
        node: String,
        #[command(flatten)]
        fleet: FleetArg,
    },
    /// Give out GPU leases again
    Undrain {
        /// GPU server: a VM of the fleet file
        node: String,
        #[command(flatten)]
        fleet: FleetArg,
    },
    /// End a GPU lease: its program gets error 46 at its next call
    Evict {
        /// GPU server: a VM of the fleet file
        node: String,
        /// Number of the GPU lease, as `vsgpu pool status` shows it
        lease: u64,
        /// What its user is told
        #[arg(long, value_name = "TEXT")]
        why: String,
        /// Ask nobody
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        fleet: FleetArg,
    },
}

/// The gateways that are meant.
fn targets(fleet: &crate::fleet::Fleet, node: Option<&str>) -> Result<Vec<Target>, Vec<Error>> {
    let all = pools::servers(fleet);
    if all.is_empty() {
        let error = Error::new(Kind::Usage, "no VM of the fleet file is a GPU server").code("unknown-node");
        return Err(vec![error.hint("`gpu-server:` under a VM's `guest:` makes it one")]);
    }
    let Some(node) = node else { return Ok(all) };
    let names: Vec<String> = all.iter().map(|target| target.node.clone()).collect();
    match all.into_iter().find(|target| target.node == node) {
        Some(target) => Ok(vec![target]),
        None => {
            let error = Error::new(Kind::Usage, format!("`{node}` is no GPU server of the fleet file"))
                .code("unknown-node")
                .detail(format!("there are: {}", names.join(", ")));
            Err(vec![match nearest(node, names.iter().map(String::as_str)) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error,
            }])
        }
    }
}

impl Pool {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        match self.verb {
            Verb::Status { fleet } => {
                let fleet = fleet.read(false, chosen)?;
                let targets = targets(&fleet, None)?;
                let reader = reader(&fleet)?;
                let all = block_on(pools::statuses(&reader, &targets, pools::ALL_WITHIN))?;
                printer.show(pool::status(&all));
                let errors: Vec<Error> = all.into_iter().filter_map(|server| server.said.err()).collect();
                printer.errors(&errors);
                Ok(if errors.is_empty() { Exit::Done } else { worst(&errors) })
            }
            Verb::Drain { node, fleet } => drain(printer, chosen, &fleet, &node, true),
            Verb::Undrain { node, fleet } => drain(printer, chosen, &fleet, &node, false),
            Verb::Evict { node, lease, why, yes, fleet } => {
                let fleet = fleet.read(false, chosen)?;
                let target = targets(&fleet, Some(&node))?.remove(0);
                let connector = connector(&fleet)?;
                if !yes {
                    let text = format!(
                        "the program that uses GPU lease {lease} of {node} fails at its next CUDA call"
                    );
                    let question = format!("end GPU lease {lease} of {node}?");
                    match printer.confirm(&text, &question, &|| false) {
                        Some(true) => {}
                        answer => {
                            let why = if answer.is_none() { "nobody can be asked" } else { "not confirmed" };
                            let error = Error::new(Kind::Usage, format!("{why}; nothing was changed"));
                            return Err(vec![error.code("not-confirmed").hint("add `--yes`")]);
                        }
                    }
                }
                let ended = block_on(async {
                    let gateway = pools::open(&connector, &target).await?;
                    gateway.evict(lease, &why, pools::WITHIN).await
                })?;
                ended.map_err(|e| vec![Error::from(e).hint("`vsgpu pool status` shows the GPU leases")])?;
                printer.answer(
                    &json!({ "server": node, "evicted": lease }),
                    &format!("GPU lease {lease} of {node} is ended"),
                );
                Ok(Exit::Done)
            }
        }
    }
}

fn drain(printer: &Printer, chosen: &GlobalArgs, fleet: &FleetArg, node: &str, drained: bool) -> CliResult {
    let fleet = fleet.read(false, chosen)?;
    let target = targets(&fleet, Some(node))?.remove(0);
    let connector = connector(&fleet)?;
    let leases = block_on(async {
        let gateway = pools::open(&connector, &target).await?;
        gateway.drain(drained, pools::WITHIN).await
    })?;
    let leases = leases.map_err(|e| vec![Error::from(e)])?;
    let text = match (drained, leases) {
        (false, _) => format!("{node} gives out GPU leases again"),
        (true, 0) => format!("{node} gives out no new GPU leases; none runs"),
        (true, 1) => format!("{node} gives out no new GPU leases; one still runs: `vsgpu pool status`"),
        (true, n) => format!("{node} gives out no new GPU leases; {n} still run: `vsgpu pool status`"),
    };
    printer.answer(&json!({ "server": node, "drained": drained, "leases": leases }), &text);
    Ok(Exit::Done)
}
