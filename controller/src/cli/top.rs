//! `vsgpu top`: the fleet at a glance, live. Changes nothing, and looks at nothing either: it shows what the
//! agents' metrics say.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs, block_on, reader};
use crate::error::{Error, Exit, Kind};
use crate::monitoring::exporter::{Collected, agents};
use crate::monitoring::top::{FleetSummary, View, glance, seats, view};
use crate::render::{self, Answer, Printer};
use clap::Args;
use serde_json::json;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;
use vsgpu_wire::metrics::listener::Pages as _;

#[derive(Args)]
#[command(after_help = "Examples:\n  vsgpu top\n  vsgpu top --once")]
pub(super) struct Top {
    #[command(flatten)]
    fleet: FleetArg,
    /// Seconds between two rounds over the agents
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    every: u32,
    /// Print it once and leave; so it is wherever there is no terminal
    #[arg(long)]
    once: bool,
}

impl Top {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let fleet = Arc::new(self.fleet.read(false, chosen)?);
        let connector = reader(&fleet)?;
        let within = Duration::from_secs(fleet.deadlines.connect_secs.into());
        let collected = Arc::new(Collected::new(&fleet));
        let name = fleet.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let seats = seats(&fleet);
        if self.once || !std::io::stdout().is_terminal() {
            block_on(collected.round(&fleet, &connector, within))?;
            let seen = glance(&name, &seats, &collected.metrics());
            let now = view(&seen, 80);
            let View { head, columns, .. } = &now;
            let lines: Vec<&str> = head
                .iter()
                .map(String::as_str)
                .chain([""])
                .chain(columns.iter().map(String::as_str))
                .chain(now.lines())
                .collect();
            printer.show(Answer { names: names(&seen), ..Answer::new(json!(seen), lines.join("\n")) });
            return Ok(Exit::Done);
        }
        // Rounds beside the screen: a node that does not answer must not keep a key waiting.
        let (rounds, every) = (collected.clone(), Duration::from_secs(self.every.into()));
        let (asked, count) = (fleet.clone(), agents(&fleet));
        std::thread::spawn(move || {
            block_on(async {
                loop {
                    rounds.round(&asked, &connector, within).await;
                    tokio::time::sleep(every).await;
                }
            })
        });
        let waits = [name.clone(), format!("asking {count} agents")];
        let mut last = (String::new(), Err(waits));
        let shown = render::top::show(|| {
            // Once a round: reading the pages of thousands of nodes takes longer than a key may wait.
            if let Ok(round) = collected.ready().map_err(drop)
                && round != last.0
            {
                last = (round, Ok(Arc::new(glance(&name, &seats, &collected.metrics()))));
            }
            last.1.clone()
        });
        shown.map_err(|why| {
            vec![
                Error::new(Kind::Internal, format!("the terminal cannot be used: {why}"))
                    .hint("`vsgpu top --once` needs none"),
            ]
        })?;
        Ok(Exit::Done)
    }
}

/// Hosts and guests, whole: lines cut long names.
fn names(seen: &FleetSummary) -> Vec<String> {
    let hosts = seen.hosts.iter().map(|host| format!("host/{}", host.name));
    hosts.chain(seen.guests.iter().map(|guest| format!("guest/{}", guest.name))).collect()
}
