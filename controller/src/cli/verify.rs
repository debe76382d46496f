//! `vsgpu verify`: is everything as wished? Changes nothing.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs, block_on, connected, now, worst};
use crate::error::{Error, Exit, Kind};
use crate::inventory::{self, Scope};
use crate::plan::verify::checks;
use crate::render::{Printer, report};
use crate::setup::certificates;
use clap::Args;
use serde_json::json;
use std::time::{Duration, Instant};

/// Between two looks at the whole fleet.
const LOOK: Duration = Duration::from_secs(5);

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu verify\n  vsgpu verify -o name              nodes that differ\n  vsgpu verify -o wide              what is met as well\n  vsgpu verify --wait --timeout 600 until everything is as the fleet file says"
)]
pub(super) struct Verify {
    #[command(flatten)]
    fleet: FleetArg,
    /// Look again until everything is as the fleet file says
    #[arg(long)]
    wait: bool,
    /// How long `--wait` waits
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "wait")]
    timeout: u64,
    /// Look again and again until stopped
    #[arg(short, long, conflicts_with = "wait")]
    watch: bool,
}

impl Verify {
    #[expect(clippy::disallowed_methods, reason = "the edge: how long an operator waits")]
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let mut fleet = self.fleet.read(true, chosen)?;
        let connector = connected(&mut fleet)?;
        let begun = Instant::now();
        let mut shown = String::new();
        loop {
            let inventory = block_on(inventory::gather(&fleet, &connector, Scope::Wished, &|_| true))?;
            let checks = checks(&fleet, &inventory);
            let ending = certificates::ending(&fleet, Some(&connector), now());
            let mut answer = report::verify(&fleet, &checks, &inventory);
            answer.json["certificates"] = json!(ending);
            let mut errors: Vec<Error> = inventory.nodes.into_values().filter_map(Result::err).collect();
            errors.dedup();
            let met = errors.is_empty() && checks.iter().all(|c| c.met);
            let late = begun.elapsed() > Duration::from_secs(self.timeout);
            if self.watch && answer.text != shown {
                shown.clone_from(&answer.text);
                printer.redraw();
                printer.show(answer);
                certificates::warnings(&ending).iter().for_each(|warning| printer.warn(warning));
                printer.errors(&errors);
            } else if !self.watch && (!self.wait || met || late) {
                printer.show(answer);
                certificates::warnings(&ending).iter().for_each(|warning| printer.warn(warning));
                if self.wait && !met {
                    let error = Error::new(
                        Kind::Differs,
                        format!("not everything is as the fleet file says after {} s", self.timeout),
                    )
                    .code("timeout");
                    errors.push(
                        error.hint("what is missing is listed above; `vsgpu plan` shows what would be done"),
                    );
                }
                printer.errors(&errors);
                return Ok(match (errors.is_empty(), met) {
                    (false, _) => worst(&errors),
                    (true, true) => Exit::Done,
                    (true, false) => Exit::Not(Kind::Differs),
                });
            }
            if !printer.is_heard() {
                return Ok(Exit::Done);
            }
            std::thread::sleep(LOOK);
        }
    }
}
