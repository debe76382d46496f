//! The gateway: this agent beside a vCenter or a standalone ESXi, by their API. `gateway serve` serves their hosts; the
//! other verbs look.

mod answers;
mod asked;
mod boot;
mod changes;
mod check;
mod config;
mod door;
mod evacuation;
mod images;
mod login;
mod metrics;
mod probe;
mod serve;
mod site;
mod software;
mod tasks;
mod tool_xml;
mod vmx;

pub use serve::doors_to;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use vsgpu_wire::server::{Agent, Verb};

/// What this agent knows beside `serve` and `facts`.
pub const VERB: Verb = Verb { command: || <Cli as clap::CommandFactory>::command(), run };

/// Speak with vCenter or ESXi by their API, with nothing installed on a host
#[derive(Parser)]
#[command(name = "gateway", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: What,
}

#[derive(Subcommand)]
enum What {
    /// Log in, find each host, and say by purpose which privilege is missing; changes nothing
    #[command(
        after_help = "FILE, one `name = value` in a line (it has no secret; only you may write it):\n  vcenter = vc.example.com            or  esxi = esx-01.example.com\n  user = svc-vsgpu@vsphere.local      (esxi: root, or a local user)\n  password-file = /etc/vsgpu-host-agent/vc.pass    (mode 0600)\n  trust = sha256:4c3d..               or  ca = /etc/vsgpu-host-agent/vmca.pem\n  host = esx-01.example.com           one line for each host, by its name in vCenter\n  cluster = GPU-A                     all hosts of it"
    )]
    Check {
        /// The gateway's file
        file: PathBuf,
    },
    /// Print or serve the GPU counters that vCenter measures, for Prometheus; nothing is on any host
    #[command(
        after_help = "Examples:\n  vsgpu-host-agent gateway metrics gateway.conf\n  vsgpu-host-agent gateway metrics gateway.conf --listen 127.0.0.1:9455\nThe label `gpu` is what vCenter calls the GPU, `node` the host's name in vCenter."
    )]
    Metrics {
        /// The gateway's file
        file: PathBuf,
        #[command(flatten)]
        served: metrics::Served,
    },
    /// Serve the hosts in FILE to vsgpu through vCenter: `vsgpu apply` can reboot hosts and stop VMs this way
    #[command(
        after_help = "FILE begins as `gateway check --help` shows. More lines, with their defaults:\n  listen = 0.0.0.0:7443               one address for all hosts\n  pki = /etc/vsgpu-host-agent/pki     folders of `vsgpu cert issue`: esx-01.host\n  state = /var/lib/vsgpu-host-agent/gateway\n  metrics = 127.0.0.1:9455            GPU counters, for Prometheus (default: none)\n  metrics-auth = token:FILE           needed beyond this machine\n  images = never                      or commit (vsgpu changes the image,\n                                      you remediate), or remediate (vsgpu\n                                      does both, and accepts VMware's\n                                      license agreement for you)\n  images-in-vcf = refuse              or allow: also those of SDDC Manager\n  depot = 10.0.0.5:7480               vCenter fetches bundles here, by plain\n                                      HTTP (default: none, you import them)\nIn the fleet file each host has `address: THIS-MACHINE:7443`.\nHosts of a cluster are those of the start: restart it after you add one.\nRestart it after you change FILE."
    )]
    Serve {
        /// The gateway's file
        file: PathBuf,
        /// Write the address to this file when it listens
        #[arg(long, value_name = "FILE")]
        ready_file: Option<PathBuf>,
    },
    /// Print the facts of one host, or of a VM on it, and change nothing
    #[command(
        after_help = "Example:\n  vsgpu-host-agent gateway facts /etc/vsgpu-host-agent/vc.conf esx-01.example.com --vm vm-01"
    )]
    Facts {
        /// The gateway's file
        file: PathBuf,
        /// The host's name in vCenter
        host: String,
        /// Facts of this VM on it instead
        #[arg(long, value_name = "NAME")]
        vm: Option<String>,
    },
    /// Print what vsgpu does, the privileges it takes, and the role for govc and PowerCLI; asks nobody
    Role,
    /// Print what this server says about GPUs, names and ids hidden, to send to whoever builds vsgpu; changes nothing
    #[command(
        after_help = "Read it before you send it:\n  vsgpu-host-agent gateway probe gateway.conf > report.json\nKept are words of NVIDIA's, VMware's and PCI's, numbers and times. Names of hosts, VMs and\npeople, ids, addresses and serial numbers are hidden."
    )]
    Probe {
        /// The gateway's file
        file: PathBuf,
    },
}

fn run(agent: Agent, matches: &clap::ArgMatches) -> Result<(), String> {
    let cli = <Cli as clap::FromArgMatches>::from_arg_matches(matches).map_err(|e| e.to_string())?;
    match cli.verb {
        What::Check { file } => check::run(&config::read(&file)?),
        What::Probe { file } => probe::run(&config::read(&file)?),
        What::Serve { file, ready_file } => serve::run(agent, config::read(&file)?, ready_file.as_deref()),
        What::Facts { file, host, vm } => serve::facts(agent, config::read(&file)?, &host, vm.as_ref()),
        What::Role => check::role(),
        What::Metrics { file, served } => metrics::run(config::read(&file)?, &served),
    }
}
