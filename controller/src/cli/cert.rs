//! `vsgpu cert issue` and `vsgpu cert renew`: the folder of certificates that a node's agent needs, and the next one before it ends.

use super::{Chosen, Ended, own_pki};
use crate::error::{Error, Exit, Kind};
use crate::range;
use crate::render::Printer;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use std::path::{Path, PathBuf};
use vsgpu_proto::pki;

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
    /// Issue them anew before they end, or after; the ones before are kept beside them
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
    pub fn run(self, printer: &Printer, chosen: &Chosen) -> Ended {
        match self.verb {
            Verb::Issue { name, role, pki, days } => issue(printer, &name, role.word(), &own_pki(pki.as_ref(), chosen)?, days),
            Verb::Renew { name, pki, days, .. } if name == "controller" => renew_own(printer, &own_pki(pki.as_ref(), chosen)?, days),
            Verb::Renew { name, role, pki, days } => renew(printer, &name, role, &own_pki(pki.as_ref(), chosen)?, days),
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

fn issue(printer: &Printer, name: &str, role: &str, folder: &Path, days: u32) -> Ended {
    let names = names(name)?;
    // All or none: a range that stops in its middle leaves the reader to find out where.
    let folders = names.iter().map(|node| pki::node_folder(folder, node, role));
    let taken: Vec<PathBuf> = folders.filter(|folder| is_there(folder)).collect();
    if !taken.is_empty() {
        let error = Error::new(Kind::Usage, format!("certificates are there already: {}; nothing was issued", listed(&taken).join(", ")));
        let hint = format!("to replace them: `vsgpu cert renew {name} --role {role}`; to keep them, name the other nodes only");
        return Err(vec![error.code("certificates").hint(hint)]);
    }
    let made = names.iter().map(|node| pki::issue_node(folder, node, role, days, now()).map_err(|e| vec![Error::from(e)]));
    let made = made.collect::<Result<Vec<_>, _>>()?;
    let then = match role {
        "monitor" => "for the TLS client of your Prometheus: cert_file node.pem, key_file node.key, ca_file ca.pem".to_string(),
        role => format!("copy each folder to its node, then: vsgpu-{role}-agent serve --pki FOLDER"),
    };
    let text = format!("{}\n{then}", listed(&made).join("\n"));
    printer.answer(&json!({ "folders": made }), &text);
    Ok(Exit::Done)
}

/// Which role a name has certificates of, where that is one.
fn role_of(folder: &Path, node: &str, role: Option<Role>) -> Result<Role, Error> {
    let wanted: Vec<Role> = role.map_or(Role::ALL.to_vec(), |role| vec![role]);
    let found: Vec<Role> = wanted.into_iter().filter(|role| is_there(&pki::node_folder(folder, node, role.word()))).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => {
            let as_role = role.map_or(String::new(), |role| format!(" as {}", role.word()));
            let error =
                Error::new(Kind::Usage, format!("{}: there is no certificate of `{node}`{as_role}; nothing was issued", folder.display()));
            Err(error.code("certificates").hint("`vsgpu cert issue` makes the first one; `--pki DIR` names another folder"))
        }
        several => {
            let words: Vec<&str> = several.iter().map(|role| role.word()).collect();
            let error = Error::new(Kind::Usage, format!("`{node}` has certificates as {}; nothing was issued", words.join(" and ")));
            Err(error.code("certificates").hint(format!("say which: `--role {}`", words[0])))
        }
    }
}

fn renew(printer: &Printer, name: &str, role: Option<Role>, folder: &Path, days: u32) -> Ended {
    // All or none, as `issue`.
    let roles: Vec<Result<(String, Role), Error>> =
        names(name)?.into_iter().map(|node| Ok((node.clone(), role_of(folder, &node, role)?))).collect();
    let errors: Vec<Error> = roles.iter().filter_map(|found| found.as_ref().err().cloned()).collect();
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut made = vec![];
    let mut then = std::collections::BTreeSet::new();
    for (node, role) in roles.into_iter().flatten() {
        made.push(pki::renew_node(folder, &node, role.word(), days, now()).map_err(|e| vec![Error::from(e)])?);
        then.insert(match role {
            Role::Host => "on each host: the three files to /etc/opt/vsgpu, then: /sbin/auto-backup.sh && /etc/init.d/vsgpu-host-agent restart\n  served over ssh: to /etc/vsgpu-host-agent/NODE beside it, then: systemctl restart vsgpu-host-agent@NODE",
            Role::Guest => "in each guest: the three files to /etc/vsgpu, then: systemctl restart vsgpu-guest-agent",
            Role::Monitor => "where it scrapes: the three files, then a reload of Prometheus or a restart of vsgpu-exporter",
        });
    }
    let then: Vec<String> = then.into_iter().map(|text| format!("  {text}")).collect();
    let text = format!(
        "{}\nnew for {days} days; the one before is beside each as FOLDER.old and works until its own end\nnext, on the nodes:\n{}",
        listed(&made).join("\n"),
        then.join("\n")
    );
    printer.answer(&json!({ "folders": made }), &text);
    Ok(Exit::Done)
}

fn renew_own(printer: &Printer, folder: &Path, days: u32) -> Ended {
    if !folder.join("controller.pem").exists() {
        let error = Error::new(Kind::Usage, format!("{}: there is no certificate of an operator; nothing was issued", folder.display()));
        return Err(vec![error.code("certificates").hint("`vsgpu ca init` makes the first one; `--pki DIR` names another folder")]);
    }
    pki::renew_operator(folder, days, now()).map_err(|e| vec![Error::from(e)])?;
    let shown = folder.display();
    let text = format!(
        "{shown}/controller.pem and {shown}/controller.key are new for {days} days; the ones before are beside them as .old\nnothing has to be done on the nodes"
    );
    printer.answer(&json!({ "folders": [folder] }), &text);
    Ok(Exit::Done)
}
