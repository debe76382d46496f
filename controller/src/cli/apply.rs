//! `vsgpu apply`: walks the plan. An unfinished run is gone on with first, and that is said.

use super::walk::Walk;
use super::{Ended, FleetArg};
use crate::error::{Error, Kind};
use crate::files;
use crate::plan::{self, Plan};
use crate::render::Printer;
use crate::run::Unfinished;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct Apply {
    /// Fleet file, or a plan saved by `vsgpu plan --out`
    #[arg(value_name = "FLEET or PLAN", default_value = "fleet.yaml")]
    file: PathBuf,
    /// Folder of certificates [default: `pki` in the fleet file, or beside it]
    #[arg(long, value_name = "DIR")]
    pki: Option<PathBuf>,
    /// Do not ask before the first change (asked only at a terminal; a script is never asked)
    #[arg(short, long)]
    yes: bool,
    /// Stop after the first wave (the canary, say); `vsgpu resume` goes on
    #[arg(long)]
    pause: bool,
    /// Do nothing if the plan touches more hosts than this
    #[arg(long, value_name = "N")]
    max_hosts: Option<usize>,
    /// Give up an unfinished run and plan anew from how the nodes are now
    #[arg(long)]
    abandon: bool,
}

impl Apply {
    pub fn run(self, printer: &Printer) -> Ended {
        let saved = self.saved_plan()?;
        let file = saved.as_ref().map_or(self.file.clone(), |plan| plan.fleet_file.clone().into());
        let fleet = FleetArg { fleet: file, pki: self.pki.clone() }.read(true)?;
        let unfinished = if self.abandon { Unfinished::GiveUp } else { Unfinished::GoOnIfSame };
        Walk { saved, yes: self.yes, unfinished, pause: self.pause, max_hosts: self.max_hosts, ..Walk::to(printer, &fleet) }.run()
    }

    /// A plan that was saved, if the file is one.
    fn saved_plan(&self) -> Result<Option<Plan>, Vec<Error>> {
        let text = files::read_text(&self.file, 1 << 30).map_err(|e| vec![e])?;
        // A fleet file is YAML with keys; a saved plan is the JSON object that `plan --out` wrote, whatever its name.
        if !text.trim_start().starts_with('{') {
            return Ok(None);
        }
        let wrong = |why: String| {
            vec![Error::new(Kind::Usage, format!("{}: {why}", self.file.display())).hint("make a new one with `vsgpu plan --out FILE`")]
        };
        let saved: serde_json::Value = serde_json::from_str(&text).map_err(|e| wrong(format!("this is no saved plan: {e}")))?;
        if saved["plan"]["version"] != plan::VERSION {
            return Err(wrong(format!("the plan has format {}, this vsgpu reads {}", saved["plan"]["version"], plan::VERSION)));
        }
        serde_json::from_value(saved["plan"].clone()).map(Some).map_err(|e| wrong(format!("this is no saved plan: {e}")))
    }
}
