//! `vsgpu ca init`: one private CA and the operator's own certificate; no openssl needed.

use crate::cli::global::{CliResult, GlobalArgs, own_pki};
use crate::error::Exit;
use crate::render::Printer;
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::PathBuf;
use vsgpu_wire::pki;

#[derive(Args)]
#[command(after_help = "Example:\n  vsgpu ca init")]
pub(super) struct Ca {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a CA and the operator's certificate
    Init {
        /// Folder for them [default: pki]
        #[arg(long, value_name = "DIR")]
        pki: Option<PathBuf>,
    },
}

impl Ca {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let Verb::Init { pki: folder } = self.verb;
        let folder = own_pki(folder.as_ref(), chosen)?;
        #[expect(clippy::disallowed_methods, reason = "the edge: certificates carry dates")]
        pki::init(&folder, std::time::SystemTime::now()).map_err(|e| vec![e.into()])?;
        let shown = folder.display();
        let text = format!(
            "{shown}: CA and the operator's certificate are made; keep ca.key and controller.key secret\nnext: vsgpu cert issue NODE --role host|guest --pki {shown}"
        );
        printer.answer(&json!({ "folder": folder }), &text);
        Ok(Exit::Done)
    }
}
