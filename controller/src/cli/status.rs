//! `vsgpu status`: the latest run, from its journal; talks to no node.

use super::{Chosen, Ended, FleetArg, now};
use crate::certificates;
use crate::error::Exit;
use crate::journal::{self, Folder};
use crate::render::{Printer, status};
use clap::Args;
use serde_json::json;
use std::time::Duration;

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
}

impl Status {
    pub fn run(self, printer: &Printer, chosen: &Chosen) -> Ended {
        let fleet = self.fleet.read(false, chosen)?;
        let folder = fleet.state_folder();
        let ending = certificates::ending(&fleet, None, now());
        let mut shown = String::new();
        loop {
            let at_work = journal::at_work(&folder).is_some();
            let run = journal::latest(&Folder(folder.clone())).map_err(|e| vec![e])?;
            let mut answer = status::status(run.as_ref(), at_work);
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
