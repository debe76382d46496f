//! `vsgpu apply`: executes the plan. An unfinished run is resumed first, and the screen says so.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs};
use crate::cli::run::RunCommand;
use crate::error::{Error, Kind};
use crate::files;
use crate::plan::{self, Plan};
use crate::render::Printer;
use crate::run::Unfinished;
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu apply\n  vsgpu apply --pause --max-hosts 1      the canary first\n  vsgpu apply tonight.plan --yes"
)]
pub(super) struct Apply {
    /// Fleet file, or a plan saved by `vsgpu plan --out`
    #[arg(value_name = "FLEET or PLAN")]
    file: Option<PathBuf>,
    /// Folder of certificates
    #[arg(long, value_name = "DIR", display_order = 992)]
    pki: Option<PathBuf>,
    /// Do not ask before the first change (a script is never asked)
    #[arg(short, long)]
    yes: bool,
    /// Stop after the first wave; `vsgpu resume` goes on
    #[arg(long)]
    pause: bool,
    /// Do nothing if the plan touches more hosts than this
    #[arg(long, value_name = "N")]
    max_hosts: Option<usize>,
    /// Give up an unfinished run and plan anew
    #[arg(long)]
    abandon: bool,
}

impl Apply {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let named = FleetArg { fleet: self.file.clone(), pki: self.pki.clone() };
        let choice = named.choice(chosen).map_err(|e| vec![e])?;
        let saved = self.saved_plan(&choice.fleet.value)?;
        let fleet = match &saved {
            Some(plan) => {
                FleetArg { fleet: Some(plan.fleet_file.clone().into()), pki: choice.pki.map(|pki| pki.value) }
            }
            None => named,
        };
        let fleet = fleet.read(true, chosen)?;
        let unfinished = if self.abandon { Unfinished::GiveUp } else { Unfinished::GoOnIfSame };
        RunCommand {
            saved,
            yes: self.yes,
            unfinished,
            pause: self.pause,
            max_hosts: self.max_hosts,
            ..RunCommand::to(printer, &fleet)
        }
        .run()
    }

    /// A plan that was saved, if the file is one.
    fn saved_plan(&self, file: &Path) -> Result<Option<Plan>, Vec<Error>> {
        let text = files::read_text(file, 1 << 30).map_err(|e| vec![e])?;
        // A fleet file is YAML with keys; a saved plan is the JSON object that `plan --out` wrote, whatever
        // its name.
        if !text.trim_start().starts_with('{') {
            return Ok(None);
        }
        let wrong = |why: String| {
            vec![
                Error::new(Kind::Usage, format!("{}: {why}", file.display()))
                    .code("saved-plan")
                    .hint("make a new one with `vsgpu plan --out FILE`"),
            ]
        };
        let saved: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| wrong(format!("this is no saved plan: {e}")))?;
        if saved["plan"]["version"] != plan::VERSION {
            return Err(wrong(format!(
                "the plan has format {}, this vsgpu reads {}",
                saved["plan"]["version"],
                plan::VERSION
            )));
        }
        serde_json::from_value(saved["plan"].clone())
            .map(Some)
            .map_err(|e| wrong(format!("this is no saved plan: {e}")))
    }
}
