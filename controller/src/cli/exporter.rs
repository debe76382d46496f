//! `vsgpu exporter`: the metrics of all agents and of the runs on one page, for Prometheus, and pages for a browser.
//! Changes nothing.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs, block_on, now, reader};
use crate::error::{Error, Exit, Kind};
use crate::fleet::Fleet;
use crate::monitoring::exporter::{self, Collected};
use crate::render::Printer;
use crate::web::Site;
use clap::Args;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use vsgpu_wire::metrics::listener::{self, ScrapeAuth};
use vsgpu_wire::pki;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu exporter --listen 0.0.0.0:9744 --metrics-auth token:/etc/vsgpu/token\n  vsgpu exporter --pki pki/prometheus.monitor      with a certificate that changes nothing"
)]
pub(super) struct Exporter {
    #[command(flatten)]
    fleet: FleetArg,
    /// Where Prometheus scrapes
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9744")]
    listen: SocketAddr,
    /// What a scrape needs beyond loopback: token:FILE or mtls
    #[arg(long, value_name = "GATE")]
    metrics_auth: Option<String>,
    /// Seconds between two rounds over the nodes
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    every: u32,
}

impl Exporter {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let fleet = self.fleet.read(false, chosen)?;
        let auth = self.metrics_auth.as_deref();
        serve(&fleet, self.listen, auth, self.every, || {
            printer.note(&format!(
                "serving the metrics of {} agents on {}, /metrics; for a browser, /",
                exporter::agents(&fleet),
                self.listen
            ));
        })
    }
}

/// Asks all agents every so many seconds, and serves what they say to monitoring systems and to browsers, behind the
/// same gate. `serving`: what to say when it does.
pub(super) fn serve(
    fleet: &Fleet,
    listen: SocketAddr,
    gate: Option<&str>,
    every: u32,
    serving: impl FnOnce(),
) -> CliResult {
    let connector = reader(fleet)?;
    let refused = |why: String| vec![Error::new(Kind::Usage, why)];
    let auth = ScrapeAuth::of(listen, gate, &fleet.pki, pki::own_file(&fleet.pki)).map_err(refused)?;
    let within = Duration::from_secs(fleet.deadlines.connect_secs.into());
    let collected = Arc::new(Collected::new(fleet));
    let site = Arc::new(Site::new(fleet, collected.clone(), now));
    block_on(async {
        listener::listen(listen, auth, site).map_err(refused)?;
        serving();
        let mut tick = tokio::time::interval(Duration::from_secs(every.into()));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            collected.round(fleet, &connector, within).await;
        }
    })
    .and_then(|ended: Result<Exit, Vec<Error>>| ended)
}
