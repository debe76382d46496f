//! `vsgpu bootstrap ssh`: package, enrolment, start, health, from a machine with nothing but sshd.

use crate::cli::discover::Keys;
use crate::cli::global::{CliResult, GlobalArgs, block_on, own_pki};
use crate::error::{Error, Exit, Kind};
use crate::files;
use crate::fleet::range;
use crate::render::Printer;
use crate::setup::bootstrap::{Visit, Wanted, acts};
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vsgpu_wire::client::{Connector, Target};

/// Largest package that is sent so.
const MAX_PACKAGE: u64 = 64 << 20;
/// How long a new agent may take to answer.
const ANSWER: Duration = Duration::from_secs(60);

#[derive(Args)]
pub(super) struct Bootstrap {
    #[command(subcommand)]
    way: Way,
}

#[derive(Subcommand)]
enum Way {
    /// Install, enrol and start the agent of an ESXi host or a Linux VM over ssh
    Ssh(Ssh),
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu bootstrap ssh root@esx-01 --package vsgpu-host-agent-0.1.0-1.vib\n  vsgpu bootstrap ssh admin@vm-01 --package vsgpu-guest-agent_0.1.0_amd64.deb"
)]
struct Ssh {
    /// The machine; in a VM a user who may `sudo` will do
    #[arg(value_name = "USER@HOST[:PORT]")]
    machine: String,
    /// Its agent: a .vib, .deb or .rpm
    #[arg(long, value_name = "FILE")]
    package: PathBuf,
    /// Its name [default: the host's first label]
    #[arg(long)]
    name: Option<String>,
    /// Where its agent will be [default: HOST:7443]
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Let a host take community packages (read install.md before: Secure Boot!)
    #[arg(long)]
    set_acceptance_level: bool,
    #[command(flatten)]
    keys: Keys,
    /// Folder of the CA [default: pki]
    #[arg(long, value_name = "DIR", display_order = 992)]
    pki: Option<PathBuf>,
    /// Do not ask before the first change
    #[arg(short, long)]
    yes: bool,
    #[arg(long, hide = true)]
    tools: Option<PathBuf>,
    #[arg(long, hide = true, default_value = "/")]
    root: PathBuf,
}

impl Bootstrap {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let Way::Ssh(ssh) = self.way;
        ssh.run(printer, chosen)
    }
}

impl Ssh {
    fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let pki = own_pki(self.pki.as_ref(), chosen)?;
        let one = |e: Error| vec![e];
        let target = self.keys.target(&self.machine)?;
        let host = target.host().to_string();
        let name = match &self.name {
            Some(name) => name.clone(),
            None if host.parse::<std::net::IpAddr>().is_ok() => {
                let error = Error::new(Kind::Usage, format!("{host} is an address, and a node has a name"));
                return Err(vec![
                    error.hint("`--name esx-01`: the name that its certificate has, and the fleet file"),
                ]);
            }
            None => host.split('.').next().unwrap_or(&host).to_string(),
        };
        let names = range::expand(&name)
            .map_err(|why| vec![Error::new(Kind::Usage, why).hint("`--name` gives it another one")])?;
        if names.len() != 1 {
            return Err(vec![Error::new(Kind::Usage, format!("`{name}` is a range: one machine at a time"))]);
        }
        let bytes = files::read_bytes(&self.package, MAX_PACKAGE).map_err(one)?;
        let package = self.package.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let connector = Connector::load(&pki).map_err(|e| vec![Error::from(e)])?;
        let visit = Visit::new(target, self.tools.as_deref(), &self.root).map_err(one)?;
        let machine = visit.machine().map_err(one)?;
        let role = machine.role();
        // Shown with the sizes of what will be there; a certificate is only made when somebody said yes.
        let mut wanted = Wanted {
            package,
            bytes,
            certificates: vec![],
            set_acceptance: self.set_acceptance_level,
            folder: format!("/tmp/vsgpu-{}", files::random_name().map_err(one)?),
        };
        let known = certificates(&pki, &name, role).ok();
        wanted.certificates = known
            .clone()
            .unwrap_or_else(|| ["ca.pem", "node.pem", "node.key"].map(|file| (file, vec![])).to_vec());
        let plan = acts(&machine, &wanted).map_err(one)?;
        let shown: String =
            plan.iter().map(|act| format!("  {act}\n")).collect::<String>().replace("(0 bytes, ", "(");
        let made = if known.is_none() {
            format!("  make the certificate {}/{name}.{role}\n", pki.display())
        } else {
            String::new()
        };
        let shown = format!("{name} ({role}) at {}\n{made}{shown}Nothing has been changed.", self.machine);
        if !self.yes {
            if !printer.can_ask() {
                let error = Error::new(Kind::Usage, "nobody can be asked here; nothing was changed")
                    .code("not-confirmed");
                printer.note(&shown);
                return Err(vec![error.hint("add `--yes`")]);
            }
            match printer.confirm(&shown, "go on?", &|| false) {
                Some(true) => {}
                Some(false) => {
                    return Err(vec![
                        Error::new(Kind::Usage, "not confirmed; nothing was changed").code("not-confirmed"),
                    ]);
                }
                None => {
                    let error = Error::new(
                        Kind::Usage,
                        "nobody can be asked, because what is said goes elsewhere; nothing was changed",
                    );
                    return Err(vec![error.code("not-confirmed").hint("add `--yes`")]);
                }
            }
        }
        if known.is_none() {
            #[expect(clippy::disallowed_methods, reason = "the edge: certificates carry dates")]
            vsgpu_wire::pki::issue_node(&pki, &name, role, 365, std::time::SystemTime::now())
                .map_err(|e| vec![Error::from(e)])?;
            wanted.certificates = certificates(&pki, &name, role).map_err(one)?;
        }
        let acts = acts(&machine, &wanted).map_err(one)?;
        for (at, act) in acts.iter().enumerate() {
            printer.note(&format!("  {act}"));
            if let Err(error) = visit.act(act) {
                // What lies there for a while, a key perhaps, does not stay.
                acts[at..].iter().filter(|act| act.tidies()).for_each(|act| drop(visit.act(act)));
                return Err(vec![error]);
            }
        }
        let address = self.address.clone().unwrap_or_else(|| crate::setup::discover::agent_at(&host));
        let target = Target { address: address.clone(), node: name.clone(), role };
        let answer = block_on(async {
            let connection = crate::inventory::patient(&connector, &target, ANSWER).await?;
            connection.describe(Duration::from_secs(20)).await
        })?;
        let described = answer.map_err(|why| {
            vec![Error::from(why).hint(format!(
                "the agent of {name} was started, and does not answer at {address}: is the port open? (`--address`, firewall)"
            ))]
        })?;
        let text = format!(
            "{name} answers: {role} agent {}, {} requirements, at {address}\nin the fleet file: `address: {address}`",
            described.agent_version,
            described.known.len()
        );
        printer.answer(&json!({ "node": name, "role": role, "address": address, "agent-version": described.agent_version }), &text);
        Ok(Exit::Done)
    }
}

/// The node's certificates, as they were issued.
fn certificates(pki: &Path, name: &str, role: &str) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
    let folder = vsgpu_wire::pki::node_folder(pki, name, role);
    ["ca.pem", "node.pem", "node.key"]
        .into_iter()
        .map(|file| Ok((file, files::read_bytes(&folder.join(file), 1 << 20)?)))
        .collect()
}
