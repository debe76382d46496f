//! `vsgpu cert issue`: the folder of certificates that a node's agent needs.

use super::{Chosen, Ended, own_pki};
use crate::error::{Error, Exit, Kind};
use crate::range;
use crate::render::Printer;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use std::path::PathBuf;
use vsgpu_proto::pki;

#[derive(Args)]
#[command(after_help = "Examples:\n  vsgpu cert issue esx-[01-16] --role host\n  vsgpu cert issue prometheus --role monitor")]
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

impl Cert {
    pub fn run(self, printer: &Printer, chosen: &Chosen) -> Ended {
        let Verb::Issue { name, role, pki: folder, days } = self.verb;
        let folder = own_pki(folder.as_ref(), chosen)?;
        let role = match role {
            Role::Host => "host",
            Role::Guest => "guest",
            Role::Monitor => "monitor",
        };
        let names = range::expand(&name).map_err(|why| vec![Error::new(Kind::Usage, why)])?;
        // All or none: a range that stops in its middle leaves the reader to find out where.
        let there = |folder: &PathBuf| ["node.key", "node.pem", "ca.pem"].iter().any(|file| folder.join(file).exists());
        let taken: Vec<PathBuf> = names.iter().map(|(node, _)| pki::node_folder(&folder, node, role)).filter(there).collect();
        if !taken.is_empty() {
            let list: Vec<String> = taken.iter().map(|p| p.display().to_string()).collect();
            let error = Error::new(Kind::Usage, format!("certificates are there already: {}; nothing was issued", list.join(", ")));
            let hint = "to keep them, name the other nodes only; to replace them, move these folders away first";
            return Err(vec![error.code("certificates").hint(hint)]);
        }
        let mut made = vec![];
        for (node, _) in names {
            #[expect(clippy::disallowed_methods, reason = "the edge: certificates carry dates")]
            made.push(pki::issue_node(&folder, &node, role, days, std::time::SystemTime::now()).map_err(|e| vec![Error::from(e)])?);
        }
        let list: Vec<String> = made.iter().map(|p| p.display().to_string()).collect();
        let then = match role {
            "monitor" => "for the TLS client of your Prometheus: cert_file node.pem, key_file node.key, ca_file ca.pem".to_string(),
            role => format!("copy each folder to its node, then: vsgpu-{role}-agent serve --pki FOLDER"),
        };
        let text = format!("{}\n{then}", list.join("\n"));
        printer.answer(&json!({ "folders": made }), &text);
        Ok(Exit::Done)
    }
}
