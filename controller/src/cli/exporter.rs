//! `vsgpu exporter`: the metrics of all agents and of the runs on one page, for Prometheus. Changes nothing.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs, block_on, reader};
use crate::error::{Error, Exit, Kind};
use crate::monitoring::exporter::{self, Collected};
use crate::render::Printer;
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
        let connector = reader(&fleet)?;
        let refused = |why: String| vec![Error::new(Kind::Usage, why)];
        let auth =
            ScrapeAuth::of(self.listen, self.metrics_auth.as_deref(), &fleet.pki, pki::own_file(&fleet.pki))
                .map_err(refused)?;
        let within = Duration::from_secs(fleet.deadlines.connect_secs.into());
        let collected = Arc::new(Collected::new(&fleet));
        block_on(async {
            listener::listen(self.listen, auth, collected.clone()).map_err(refused)?;
            printer.note(&format!(
                "serving the metrics of {} agents on {}, /metrics",
                exporter::agents(&fleet),
                self.listen
            ));
            let mut tick = tokio::time::interval(Duration::from_secs(self.every.into()));
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                collected.round(&fleet, &connector, within).await;
            }
        })
        .and_then(|ended: Result<Exit, Vec<Error>>| ended)
    }
}
