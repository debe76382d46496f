//! The distribution of a guest, its kernel and how it was booted.

use crate::distro::{OS_RELEASE, os_release};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::{Fact, Observation, Probe, Subject, Unreadable};

/// Distribution and kernel.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Os {
    /// `ID` of os-release.
    pub id: String,
    /// `VERSION_ID`.
    pub version: Option<String>,
    /// Running kernel.
    pub kernel: String,
    /// Family whose tools are used: `Debian`, `Ubuntu`, `RHEL`, `SLES`; absent where vsgpu knows no tools for
    /// it.
    #[serde(default)]
    pub family: Option<String>,
}

pub(crate) fn kernel(seen: &Observation) -> Result<String, Unreadable> {
    let kernel = seen.text(&Probe::KernelRelease)?.unwrap_or_default();
    if kernel.is_empty() || kernel.contains('/') {
        Err(Unreadable::new("the release of the running kernel is not known"))
    } else {
        Ok(kernel.into())
    }
}

impl Fact for Os {
    const NAME: &'static str = "os";
    const ABOUT: &'static str = "Distribution and running kernel";
    fn probes(_: &Subject, _: &Observation) -> Vec<Probe> {
        vec![Probe::Read(OS_RELEASE.into()), Probe::KernelRelease]
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let text = os_release(seen)?;
        let value = |key: &str| {
            text.lines().find_map(|l| l.strip_prefix(key)).map(|v| v.trim_matches('"').to_string())
        };
        Ok(Self {
            id: value("ID=").unwrap_or_default(),
            version: value("VERSION_ID="),
            kernel: kernel(seen)?,
            family: crate::distro::of(text).map(|f| f.name().into()),
        })
    }
    fn sentence(&self) -> Option<String> {
        Some(format!("{} {}, kernel {}", self.id, self.version.as_deref().unwrap_or_default(), self.kernel))
    }
}
