//! What a guest's logs tell, by the catalogue of causes: the kernel's of this boot, the license daemon's, and that of
//! NVIDIA's installer.

use crate::facts::gridd_log::journal;
use crate::facts::kernel_log;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::diagnosis::{Input, LogFindings, Source};
use vsgpu_core::readers::nvidia_smi;
use vsgpu_core::{Fact, Observation, Probe, Subject, Unreadable};

/// NVIDIA's installer writes it anew with each run.
pub(crate) const INSTALLER_LOG: &str = "/var/log/nvidia-installer.log";

/// Of all of them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct GuestLog(pub LogFindings);

impl Fact for GuestLog {
    const NAME: &'static str = "log-findings";
    const ABOUT: &'static str =
        "Known causes of trouble in the guest's logs: kernel, license daemon, installer";
    fn probes(_: &Subject, _: &Observation) -> Vec<Probe> {
        vec![
            Probe::Run(kernel_log::command()),
            Probe::Run(journal()),
            Probe::Run(nvidia_smi::query()),
            Probe::Tail(INSTALLER_LOG.into()),
        ]
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let smi = seen.output(&nvidia_smi::query()).map(vsgpu_core::system::Output::both).unwrap_or_default();
        let works = nvidia_smi::report(seen).is_ok_and(|report| !report.gpus.is_empty());
        // Where the driver works, an old installation's log has nothing to say.
        let installer = match works {
            true => "",
            false => seen.text(&Probe::Tail(INSTALLER_LOG.into())).ok().flatten().unwrap_or_default(),
        };
        let input = |name: &str, text, source| Input { name: name.into(), text, sources: vec![source] };
        Ok(Self(LogFindings::of(&[
            input(
                "kernel log",
                seen.stdout_if_ok(&kernel_log::command()).unwrap_or_default(),
                Source::GuestKernel,
            ),
            input("nvidia-gridd", seen.stdout_if_ok(&journal()).unwrap_or_default(), Source::Gridd),
            input("nvidia-smi", &smi, Source::GuestSmi),
            input("nvidia-installer.log", installer, Source::Installer),
        ])))
    }
    fn sentence(&self) -> Option<String> {
        Some(self.0.in_words())
    }
}
