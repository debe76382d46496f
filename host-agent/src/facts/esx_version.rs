//! The release of ESXi.

use crate::esxcli;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::{Fact, Observation, Probe, Subject, Unreadable};

/// `esxcli system version get`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EsxVersion {
    /// `VMware ESXi`.
    pub product: String,
    /// `8.0.3`.
    pub version: String,
    /// `Releasebuild-24677879`.
    pub build: String,
    /// Update number.
    pub update: Option<String>,
    /// Patch number.
    pub patch: Option<String>,
}

impl EsxVersion {
    const ASK: [&str; 3] = ["system", "version", "get"];

    /// First number of the version.
    pub fn major(version: &str) -> Option<u32> {
        version.split('.').next()?.parse().ok()
    }

    /// Whether a version such as `8.0.3` is at least another one.
    pub fn at_least(version: &str, least: &str) -> bool {
        let numbers = |text: &str| text.split('.').map(|n| n.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>();
        numbers(version) >= numbers(least)
    }

    /// The version, once it was seen.
    pub(crate) fn running(seen: &Observation) -> Option<String> {
        Self::parse(&Subject::node(), seen).ok().map(|v| v.version)
    }

    /// Probes of the version, for requirements that decide by it.
    pub(crate) fn ask(seen: &Observation) -> Vec<Probe> {
        esxcli::probes(&Self::ASK, seen)
    }
}

impl Fact for EsxVersion {
    const NAME: &'static str = "esx-version";
    const ABOUT: &'static str = "Release of ESXi";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        Self::ask(seen)
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        esxcli::single(&Self::ASK, seen, |record| {
            let need = |name| record.need(name).map(String::from);
            let text = |name| record.get(name).map(String::from);
            Ok(Self {
                product: need("Product")?,
                version: need("Version")?,
                build: need("Build")?,
                update: text("Update"),
                patch: text("Patch"),
            })
        })
    }
    fn sentence(&self) -> Option<String> {
        Some(format!("{} {} ({})", self.product, self.version, self.build))
    }
}
