//! `vsgpu page`: the fleet for a browser, as long as it runs. Changes nothing.

use crate::cli::exporter::serve;
use crate::cli::global::{CliResult, FleetArg, GlobalArgs};
use crate::render::Printer;
use clap::Args;
use std::net::SocketAddr;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu page                         for a browser on this machine\n  ssh -L 9745:localhost:9745 ops     for yours: http://localhost:9745/\n  vsgpu page --listen 0.0.0.0:9745 --metrics-auth token:/etc/vsgpu/token\n\nThe exporter shows the same pages at its own address."
)]
pub(super) struct Page {
    #[command(flatten)]
    fleet: FleetArg,
    /// For the browser
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9745")]
    listen: SocketAddr,
    /// Beyond this machine: token:FILE (as password) or mtls
    #[arg(long, value_name = "GATE")]
    metrics_auth: Option<String>,
    /// Between two rounds over the agents
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    every: u32,
}

impl Page {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let fleet = self.fleet.read(false, chosen)?;
        let address = match self.metrics_auth.as_deref() {
            // Its certificate is for this name.
            Some("mtls") => format!("https://{}:{}/", vsgpu_wire::pki::CONTROLLER, self.listen.port()),
            _ if self.listen.ip().is_unspecified() => format!("http://this-machine:{}/", self.listen.port()),
            _ => format!("http://{}/", self.listen),
        };
        serve(&fleet, self.listen, self.metrics_auth.as_deref(), self.every, || {
            printer.note(&format!("open {address} in a browser; Ctrl-C ends it"));
        })
    }
}
