//! `vsgpu discover` and `vsgpu init`: what hosts are out there, and the fleet file that follows. Both only
//! look.

use crate::cli::global::{CliResult, GlobalArgs, block_on, own_pki, worst};
use crate::error::{Error, Exit, Kind};
use crate::files;
use crate::inventory::readiness::of_host;
use crate::render::{Answer, Printer, readiness};
use crate::setup::discover::{self, Found};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use vsgpu_core::text::sentence;
use vsgpu_core::words::counted;
use vsgpu_machine::ssh::Target;
use vsgpu_wire::client::Connector;

/// Which hosts, and how they are reached.
#[derive(Args)]
struct Where {
    /// A host over ssh; nothing of ours needs to be on it (repeat for more)
    #[arg(long, value_name = "USER@HOST[:PORT]")]
    ssh: Vec<String>,
    /// A host whose agent runs (repeat for more)
    #[arg(long, value_name = "NAME=ADDRESS")]
    agent: Vec<String>,
    #[command(flatten)]
    keys: Keys,
    /// Folder of certificates, for agents [default: pki]
    #[arg(long, value_name = "DIR")]
    pki: Option<PathBuf>,
    /// For the built-in lab: as the agents' options
    #[arg(long, hide = true)]
    tools: Option<PathBuf>,
    #[arg(long, hide = true, default_value = "/")]
    root: PathBuf,
}

/// Keys of ssh.
#[derive(Args, Clone)]
pub(super) struct Keys {
    /// Private key [default: ssh's own configuration]
    #[arg(long, value_name = "FILE")]
    ssh_identity: Option<PathBuf>,
    /// Host keys [default: ssh's own configuration]
    #[arg(long, value_name = "FILE")]
    ssh_known_hosts: Option<PathBuf>,
}

impl Keys {
    /// A machine with them.
    pub(super) fn target(&self, text: &str) -> Result<Target, Vec<Error>> {
        let target = Target::parse(text).map_err(|why| vec![Error::new(Kind::Usage, why)])?;
        Ok(Target {
            identity: self.ssh_identity.clone(),
            known_hosts: self.ssh_known_hosts.clone(),
            ..target
        })
    }
}

impl Where {
    fn look(&self, chosen: &GlobalArgs) -> Result<Vec<Found>, Vec<Error>> {
        let wrong = |why: String| vec![Error::new(Kind::Usage, why)];
        if self.ssh.is_empty() && self.agent.is_empty() {
            return Err(vec![
                Error::new(Kind::Usage, "no host was named")
                    .hint("`--ssh root@esx-01`, or `--agent esx-01=10.0.0.11:7443`"),
            ]);
        }
        let targets = self.ssh.iter().map(|text| self.keys.target(text)).collect::<Result<Vec<_>, _>>()?;
        let mut found = discover::over_ssh(targets, self.tools.as_deref(), &self.root);
        let agent = |text: &String| {
            let pair = text.split_once('=').map(|(name, address)| (name.to_string(), address.to_string()));
            pair.ok_or_else(|| wrong(format!("`{text}` is not NAME=ADDRESS, as `esx-01=10.0.0.11:7443`")))
        };
        let agents = self.agent.iter().map(agent).collect::<Result<Vec<_>, _>>()?;
        if !agents.is_empty() {
            let pki = own_pki(self.pki.as_ref(), chosen)?;
            let connector = Connector::load(&pki).map_err(|e| vec![Error::from(e)])?;
            found.extend(block_on(discover::by_agents(&agents, pki, &connector))??);
        }
        let mut names = std::collections::BTreeSet::new();
        match found.iter().find(|host| !names.insert(host.name.clone())) {
            Some(twice) => {
                Err(wrong(format!("two hosts are called `{}`: look at them one after the other", twice.name)))
            }
            None => Ok(found),
        }
    }
}

fn failures(found: &[Found]) -> Vec<Error> {
    found.iter().filter_map(|host| host.seen.as_ref().err().cloned()).collect()
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu discover --ssh root@esx-01 --ssh root@esx-02\n  vsgpu discover --agent esx-01=10.0.0.11:7443 -o json"
)]
pub(super) struct Discover {
    #[command(flatten)]
    hosts: Where,
}

impl Discover {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let found = self.hosts.look(chosen)?;
        let mut text = String::new();
        let mut json = serde_json::Map::new();
        for host in &found {
            let Ok(seen) = &host.seen else { continue };
            let gpus = of_host(seen);
            text += &format!("{}  {}\n", host.name, discover::summary(seen));
            if let Some(gpus) = &gpus {
                text += &format!("{}\n", readiness::text(gpus, false));
            }
            let vms = discover::vms(seen);
            let listed: Vec<String> = vms
                .iter()
                .map(|(name, runs)| format!("{}{}", sentence(name), if *runs { "" } else { " (off)" }))
                .collect();
            text +=
                &format!("  VMs: {}\n\n", if listed.is_empty() { "none".into() } else { listed.join(", ") });
            let vms: Vec<_> =
                vms.iter().map(|(name, runs)| json!({ "name": name, "running": runs })).collect();
            let facts = vsgpu_core::observe::facts_as_json(&seen.facts);
            json.insert(
                host.name.clone(),
                json!({ "address": host.address, "readiness": gpus, "vms": vms, "facts": facts }),
            );
        }
        text += "nothing was changed; `vsgpu init` with the same options writes a fleet file";
        let errors = failures(&found);
        if json.is_empty() {
            return Err(errors);
        }
        let names = json.keys().cloned().collect();
        printer.show(Answer { names, ..Answer::new(json.into(), text) });
        printer.errors(&errors);
        Ok(if errors.is_empty() { Exit::Done } else { worst(&errors) })
    }
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu init --ssh root@esx-01 --ssh root@esx-02\n  vsgpu init --agent esx-01=10.0.0.11:7443 --out gpu.yaml"
)]
pub(super) struct Init {
    #[command(flatten)]
    hosts: Where,
    /// The fleet file to be; one that is there is not touched
    #[arg(long, value_name = "FILE", default_value = "fleet.yaml")]
    out: PathBuf,
}

impl Init {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        if self.out.exists() {
            let error = Error::new(
                Kind::Usage,
                format!("{}: is there already and was not touched", self.out.display()),
            )
            .code("file");
            return Err(vec![error.hint("`--out FILE` writes another one")]);
        }
        let found = self.hosts.look(chosen)?;
        let errors = failures(&found);
        let hosts = found.len() - errors.len();
        if hosts == 0 {
            return Err(errors);
        }
        let text = discover::fleet_file(&found);
        // What we write must be what we read.
        crate::fleet::file::from_text(&self.out, &text)?;
        files::write_text(&self.out, &text).map_err(|e| vec![e])?;
        let said = format!(
            "{} written: {}, nothing set yet\nnext: edit it, then `vsgpu validate` and `vsgpu plan`, which change nothing",
            self.out.display(),
            counted(hosts, "host")
        );
        printer.answer(&json!({ "file": self.out, "hosts": hosts }), &said);
        printer.errors(&errors);
        Ok(if errors.is_empty() { Exit::Done } else { worst(&errors) })
    }
}
