//! Options of an agent's command line.

use crate::server::agent::Agent;
use clap::{Args, ValueEnum};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vsgpu_core::System;
use vsgpu_machine::OverSsh;
use vsgpu_machine::local::Posix;
use vsgpu_machine::ssh::Target;

#[derive(Args, Clone)]
pub(crate) struct Machine {
    /// Folder searched first for every external program
    #[arg(long, value_name = "DIR")]
    pub(crate) tools: Option<PathBuf>,
    /// Prefix of every file that is read or written
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,
    /// Reach the host through OpenSSH: no program of ours runs there
    #[arg(long, value_name = "USER@HOST[:PORT]")]
    pub(crate) ssh: Option<String>,
    /// Private key for it [default: what ssh's own configuration says]
    #[arg(long, value_name = "FILE", requires = "ssh")]
    pub(crate) ssh_identity: Option<PathBuf>,
    /// Host keys for it [default: what ssh's own configuration says]
    #[arg(long, value_name = "FILE", requires = "ssh")]
    pub(crate) ssh_known_hosts: Option<PathBuf>,
}

/// Options of `serve`.
#[derive(Args, Clone)]
pub struct Serve {
    /// File with more options, `name = value` on each line; what stands on the command line counts more
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// Folder with ca.pem, node.pem and node.key, as `vsgpu cert issue` makes it
    #[arg(long, value_name = "DIR", default_value = "/etc/vsgpu")]
    pub(crate) pki: PathBuf,
    /// Where the agent keeps its memory of a host over ssh
    #[arg(long, value_name = "DIR", default_value = "/var/lib/vsgpu-host-agent", requires = "ssh")]
    pub(crate) state: PathBuf,
    /// Where the controller connects to
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:7443")]
    pub(crate) listen: SocketAddr,
    /// Where Prometheus scrapes
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9743")]
    pub(crate) metrics: SocketAddr,
    /// What a scrape needs: a bearer token from a file, or a certificate of this CA. Without it only loopback
    /// is served
    #[arg(long, value_name = "token:FILE|mtls")]
    pub(crate) metrics_auth: Option<String>,
    /// Names of the metrics of GPUs: ours, or DCGM's beside them
    #[arg(long, value_enum, default_value_t = MetricsNames::Vsgpu)]
    pub(crate) metrics_names: MetricsNames,
    /// Seconds between two looks for the metrics
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) observe_every: u32,
    /// Write the address to this file when the agent listens
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct FactsArgs {
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// Facts of a VM of this host instead
    #[arg(long, value_name = "NAME")]
    pub(crate) vm: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Json)]
    pub(crate) output: Format,
}

/// Which names the metrics of GPUs have.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MetricsNames {
    /// `vsgpu_gpu_..`
    Vsgpu,
    /// The same, and `DCGM_FI_DEV_..` beside them
    Both,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    /// One JSON object keyed by fact name
    Json,
}

impl Machine {
    /// Here, or over ssh. `state`: where an agent that serves keeps its memory of a machine over ssh; a visit
    /// keeps none.
    pub(crate) fn system(&self, agent: &Agent, state: Option<&Path>) -> Result<Arc<dyn System>, String> {
        let absolute =
            |path: &PathBuf| std::path::absolute(path).map_err(|e| format!("{}: {e}", path.display()));
        if let Some(target) = self.target(agent)? {
            let door = match state {
                Some(state) => OverSsh::serve(
                    &target,
                    self.tools.as_deref(),
                    &self.root,
                    agent.state,
                    &absolute(&state.into())?,
                )?,
                None => OverSsh::temporary(&target, self.tools.as_deref(), &self.root)?,
            };
            return Ok(door.with_boot((agent.boot)()));
        }
        if let Some(tools) = self.tools.as_ref().filter(|t| !t.is_dir()) {
            return Err(format!("--tools {}: no such folder", tools.display()));
        }
        Ok(Posix::new(self.tools.as_ref().map(absolute).transpose()?, absolute(&self.root)?)
            .with_boot((agent.boot)()))
    }

    fn target(&self, agent: &Agent) -> Result<Option<Target>, String> {
        let Some(text) = &self.ssh else { return Ok(None) };
        if agent.role != "host" {
            return Err("--ssh is for host agents: a guest's agent runs in its VM".into());
        }
        let target = Target::parse(text).map_err(|why| format!("--ssh {why}"))?;
        Ok(Some(Target {
            identity: self.ssh_identity.clone(),
            known_hosts: self.ssh_known_hosts.clone(),
            ..target
        }))
    }
}
