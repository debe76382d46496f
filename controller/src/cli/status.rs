//! `vsgpu status`: the latest run, from its journal; and what the hosts' agents know that other runs took and left.

use super::{Chosen, Ended, FleetArg, block_on, now};
use crate::certificates;
use crate::error::{Error, Exit};
use crate::fleet::Fleet;
use crate::inventory;
use crate::journal::{self, Folder};
use crate::planner::left::{self, Left};
use crate::render::{Printer, status};
use clap::Args;
use serde_json::json;
use std::time::Duration;
use vsgpu_proto::client::Operator;

/// Between two looks at the journal, which is a local file.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Args)]
#[command(after_help = "Examples:\n  vsgpu status\n  vsgpu status --watch")]
pub(super) struct Status {
    #[command(flatten)]
    fleet: FleetArg,
    /// Show it again whenever something happens, until nobody works on the fleet any more
    #[arg(short, long)]
    watch: bool,
    /// From the journal alone: no host is asked
    #[arg(long)]
    local: bool,
}

/// Longest wait for the hosts: what the journal says is wanted at once.
const HOSTS: Duration = Duration::from_secs(3);

impl Status {
    pub fn run(self, printer: &Printer, chosen: &Chosen) -> Ended {
        let fleet = self.fleet.read(false, chosen)?;
        let folder = fleet.state_folder();
        let (others, operator) = if self.local { (vec![], None) } else { others(printer, &fleet)? };
        let ending = certificates::ending(&fleet, operator.as_ref(), now());
        let mut shown = String::new();
        loop {
            let at_work = journal::at_work(&folder).is_some();
            let run = journal::latest(&Folder(folder.clone())).map_err(|e| vec![e])?;
            let own = run.as_ref().map(|run| run.status.run.as_str());
            let others: Vec<&Left> = others.iter().filter(|left| Some(left.run.as_str()) != own).collect();
            let mut answer = status::status(run.as_ref(), at_work, &others, now());
            answer.json["certificates"] = json!(ending);
            if answer.text != shown {
                if self.watch {
                    printer.redraw();
                }
                shown.clone_from(&answer.text);
                printer.show(answer);
            }
            if !self.watch || !at_work || !printer.is_heard() {
                certificates::warnings(&ending).iter().for_each(|warning| printer.warn(warning));
                return Ok(Exit::Done);
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// What runs took of the hosts, by the hosts' own word.
fn others(printer: &Printer, fleet: &Fleet) -> Result<(Vec<Left>, Option<Operator>), Vec<Error>> {
    // Without certificates the journal still tells its part.
    let operator = match Operator::load(&fleet.pki) {
        Ok(operator) => operator,
        Err(why) => {
            printer.note(&format!("the hosts are not asked: {why}"));
            return Ok((vec![], None));
        }
    };
    let within = HOSTS.min(Duration::from_secs(fleet.deadlines.connect_secs.into()));
    let (said, silent) = block_on(inventory::describe(fleet, &operator, within))?;
    if silent > 0 {
        let hosts = if silent == 1 { "host does" } else { "hosts do" };
        printer.note(&format!("{silent} {hosts} not answer: what other runs took of them is not known"));
    }
    Ok((said.iter().flat_map(|(host, said)| left::described(host, said)).collect(), Some(operator)))
}
