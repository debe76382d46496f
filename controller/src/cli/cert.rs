//! `vsgpu cert issue` and `vsgpu cert renew`: the folder of certificates that a node's agent needs, and the
//! next one before it ends.

use crate::cli::global::{CliResult, GlobalArgs, own_pki};
use crate::error::{Error, Exit, Kind};
use crate::fleet::range;
use crate::inventory::acquired::some_of;
use crate::render::Printer;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use std::path::{Path, PathBuf};
use vsgpu_core::words::counted;
use vsgpu_wire::pki;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu cert issue esx-[01-16] --role host\n  vsgpu cert issue prometheus --role monitor\n  vsgpu cert renew esx-[01-16]\n  vsgpu cert renew controller"
)]
pub(super) struct Cert {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Issue certificates for a node, or for a range of nodes
    Issue {
        /// Name in the fleet file, or a range: esx-[01-16]
        name: String,
        /// What the node is
        #[arg(long, value_enum)]
        role: Role,
        /// Folder of the CA [default: pki]
        #[arg(long, value_name = "DIR")]
        pki: Option<PathBuf>,
        /// Days until they expire
        #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
    /// Replace certificates, before or after they expire; the old ones stay as NAME.old
    Renew {
        /// Name in the fleet file, a range: esx-[01-16], or `controller` for your own
        name: String,
        /// What the node is, where one name has several certificates
        #[arg(long, value_enum)]
        role: Option<Role>,
        /// Folder of the CA [default: pki]
        #[arg(long, value_name = "DIR")]
        pki: Option<PathBuf>,
        /// Days until they expire
        #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    /// An ESXi host
    Host,
    /// A Linux VM
    Guest,
    /// Whoever scrapes metrics
    Monitor,
}

impl Role {
    const ALL: [Self; 3] = [Self::Host, Self::Guest, Self::Monitor];

    fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Guest => "guest",
            Self::Monitor => "monitor",
        }
    }
}

impl Cert {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        match self.verb {
            Verb::Issue { name, role, pki, days } => {
                issue(printer, &name, role.word(), &own_pki(pki.as_ref(), chosen)?, days)
            }
            Verb::Renew { name, role: None, pki, days } if name == "controller" => {
                renew_own(printer, &own_pki(pki.as_ref(), chosen)?, days)
            }
            Verb::Renew { name, role, pki, days } => {
                renew(printer, &name, role, &own_pki(pki.as_ref(), chosen)?, days)
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the edge: certificates carry dates")]
fn now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

fn names(name: &str) -> Result<Vec<String>, Vec<Error>> {
    let names = range::expand(name).map_err(|why| vec![Error::new(Kind::Usage, why)])?;
    Ok(names.into_iter().map(|(node, _)| node).collect())
}

fn is_there(folder: &Path) -> bool {
    ["node.key", "node.pem", "ca.pem"].iter().any(|file| folder.join(file).exists())
}

fn listed(folders: &[PathBuf]) -> Vec<String> {
    folders.iter().map(|p| p.display().to_string()).collect()
}

fn issue(printer: &Printer, name: &str, role: &str, folder: &Path, days: u32) -> CliResult {
    let names = names(name)?;
    // All or none: a range that stops in its middle leaves the reader to find out where.
    let (taken, missing): (Vec<&String>, Vec<&String>) =
        names.iter().partition(|node| is_there(&pki::node_folder(folder, node, role)));
    if let Some(first) = taken.first() {
        let shown: Vec<String> =
            taken.iter().map(|node| pki::node_folder(folder, node, role).display().to_string()).collect();
        let error = Error::new(
            Kind::Usage,
            format!("certificates are there already: {}; nothing was issued", some_of(&shown)),
        );
        let error = error.code("certificates").hint(format!(
            "to replace {}: `vsgpu cert renew {} --role {role}`",
            if taken.len() == 1 { "it" } else { "them, one by one" },
            if missing.is_empty() { name } else { first.as_str() }
        ));
        return Err(vec![match missing.first() {
            Some(first) => {
                error.hint(format!("{} missing: `vsgpu cert issue {first} --role {role}`", missing.len()))
            }
            None => error,
        }]);
    }
    let made = names
        .iter()
        .map(|node| pki::issue_node(folder, node, role, days, now()).map_err(|e| vec![Error::from(e)]));
    let made = made.collect::<Result<Vec<_>, _>>()?;
    let then = match role {
        "monitor" => {
            "for the TLS client of your Prometheus: cert_file node.pem, key_file node.key, ca_file ca.pem"
                .to_string()
        }
        role => format!("copy each folder to its node, then: vsgpu-{role}-agent serve --pki FOLDER"),
    };
    let text = format!("{}\n{then}", listed(&made).join("\n"));
    printer.answer(&json!({ "folders": made }), &text);
    Ok(Exit::Done)
}

/// Which role a name has certificates of, where that is one.
fn role_of(folder: &Path, node: &str, role: Option<Role>) -> Result<Role, Error> {
    let wanted: Vec<Role> = role.map_or(Role::ALL.to_vec(), |role| vec![role]);
    let found: Vec<Role> =
        wanted.into_iter().filter(|role| is_there(&pki::node_folder(folder, node, role.word()))).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => {
            let as_role = role.map_or(String::new(), |role| format!(" as {}", role.word()));
            let error = Error::new(
                Kind::Usage,
                format!(
                    "{}: there is no certificate of `{node}`{as_role}; nothing was issued",
                    folder.display()
                ),
            );
            let role = role.map_or("host", Role::word);
            let hint = format!(
                "`vsgpu cert issue {node} --role {role}` makes the first one; `--pki DIR` names another folder"
            );
            Err(error.code("certificates").hint(hint))
        }
        several => {
            let words: Vec<&str> = several.iter().map(|role| role.word()).collect();
            let error = Error::new(
                Kind::Usage,
                format!("`{node}` has certificates as {}; nothing was issued", words.join(" and ")),
            );
            Err(error.code("certificates").hint(format!("say which: `--role {}`", words[0])))
        }
    }
}

fn renew(printer: &Printer, name: &str, role: Option<Role>, folder: &Path, days: u32) -> CliResult {
    // All or none, as `issue`.
    let roles: Vec<Result<(String, Role), Error>> =
        names(name)?.into_iter().map(|node| Ok((node.clone(), role_of(folder, &node, role)?))).collect();
    let errors: Vec<Error> = roles.iter().filter_map(|found| found.as_ref().err().cloned()).collect();
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut made = vec![];
    let mut then = vec![];
    for (node, role) in roles.into_iter().flatten() {
        made.push(
            pki::renew_node(folder, &node, role.word(), days, now()).map_err(|e| vec![Error::from(e)])?,
        );
        then.push(next(&node, role, folder));
    }
    let shown = match then.len() {
        0 | 1 => then.join("\n"),
        more => format!("{}\n(and so for the other {})", then[0], more - 1),
    };
    let text = format!(
        "{}\nnew for {}; the old files are beside them as FOLDER.old and work until they expire\n{shown}\nnot while `vsgpu status` says \"running now\" or \"works on it now\"",
        listed(&made).join("\n"),
        days_of(days)
    );
    printer.answer(&json!({ "folders": made }), &text);
    Ok(Exit::Done)
}

fn days_of(days: u32) -> String {
    counted(days as usize, "day")
}

/// What is to be typed next.
fn next(node: &str, role: Role, pki: &Path) -> String {
    let from = pki::node_folder(pki, node, role.word());
    let from = from.display();
    match role {
        Role::Host => format!(
            "agent on the host:\n  scp {from}/* root@{node}:/etc/opt/vsgpu/\n  on {node}: /sbin/auto-backup.sh && /etc/init.d/vsgpu-host-agent restart\nhost served over ssh, on the Linux machine that serves it:\n  copy the files to /etc/vsgpu-host-agent/{node}/\n  systemctl restart vsgpu-host-agent@{node}"
        ),
        Role::Guest => format!(
            "  scp {from}/* root@{node}:/etc/vsgpu/\n  on {node}: systemctl restart vsgpu-guest-agent"
        ),
        Role::Monitor => {
            format!("copy {from}/* to where it scrapes; reload Prometheus, or restart vsgpu-exporter")
        }
    }
}

fn renew_own(printer: &Printer, folder: &Path, days: u32) -> CliResult {
    if !folder.join("controller.pem").exists() {
        let error = Error::new(
            Kind::Usage,
            format!("{}: there is no certificate of an operator; nothing was issued", folder.display()),
        );
        return Err(vec![
            error
                .code("certificates")
                .hint("`vsgpu ca init` makes the first one; `--pki DIR` names another folder"),
        ]);
    }
    let before = pki::own_life(folder);
    pki::renew_operator(folder, days, now()).map_err(|e| vec![Error::from(e)])?;
    let shown = folder.display();
    let now = now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let left = before.map_or(0, |life| life.ends.saturating_sub(now) / 86_400);
    // Whoever asked for less than there was may not have meant it.
    let shorter = if left > u64::from(days) {
        format!(" (the old one had {left} left: `--days N` makes it longer)")
    } else {
        String::new()
    };
    let text = format!(
        "{shown}/controller.pem and {shown}/controller.key are new for {}{shorter}\nthe old files are beside them as .old\ncopy both files to every other machine that uses this folder; nothing has to be done on the nodes",
        days_of(days)
    );
    printer.answer(&json!({ "folders": [folder] }), &text);
    Ok(Exit::Done)
}
