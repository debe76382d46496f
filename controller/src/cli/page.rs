//! `vsgpu page`: the fleet for a browser, as long as it runs. Changes nothing.

use crate::cli::exporter::serve;
use crate::cli::global::{CliResult, FleetArg, GlobalArgs};
use crate::render::Printer;
use clap::Args;
use std::net::SocketAddr;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu page                         for a browser on this machine\n  ssh -L 9745:localhost:9745 ops     for yours: http://localhost:9745/\n  vsgpu page --listen 0.0.0.0:9745 --auth token:/etc/vsgpu/token\n\nThe exporter shows the same pages at its own address."
)]
pub(super) struct Page {
    #[command(flatten)]
    fleet: FleetArg,
    /// For the browser
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9745")]
    listen: SocketAddr,
    /// Beyond this machine: token:FILE (as password) or mtls
    #[arg(long, value_name = "GATE")]
    auth: Option<String>,
    /// Between two rounds over the agents
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    every: u32,
}

impl Page {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let fleet = self.fleet.read(false, chosen)?;
        let scheme = if self.auth.as_deref() == Some("mtls") { "https" } else { "http" };
        serve(&fleet, self.listen, self.auth.as_deref(), self.every, || {
            printer.note(&format!("open {scheme}://{}/ in a browser; Ctrl-C ends it", self.listen));
        })
    }
}
