//! What the host's kernel log and a VM's own log tell, by the catalogue of causes.

use crate::facts::host_summary::HostSummary;
use crate::facts::virtual_machines::VirtualMachines;
use crate::facts::vm_config::find;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::diagnosis::{Input, LogFindings, Source};
use vsgpu_core::{Fact, Observation, Probe, Subject, Unreadable};

pub(crate) const VMKERNEL: &str = "/var/log/vmkernel.log";

/// Of the host's kernel log, since its boot.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct HostLog(pub LogFindings);

/// Of a VM's own log: it begins with its latest power-on.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct VmLog(pub LogFindings);

/// Lines since a time, both as `2026-11-01T10:00:00.000Z`; a line without a time goes with the one before it.
fn since<'a>(text: &'a str, boot: Option<&str>) -> &'a str {
    let Some(boot) = boot.and_then(|b| b.get(..19)).filter(|b| b.as_bytes()[10] == b'T') else { return text };
    let is_time =
        |line: &str| line.get(..19).is_some_and(|t| t.as_bytes()[4] == b'-' && t.as_bytes()[10] == b'T');
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if is_time(line) && &line[..19] >= boot {
            return &text[at..];
        }
        at += line.len();
    }
    // None is newer, or none has a time at all.
    if text.lines().any(is_time) { "" } else { text }
}

impl Fact for HostLog {
    const NAME: &'static str = "log-findings";
    const ABOUT: &'static str = "Known causes of trouble in the host's kernel log, since its boot";
    fn probes(on: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = HostSummary::probes(on, seen);
        probes.push(Probe::Tail(VMKERNEL.into()));
        probes
    }
    fn parse(on: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let log = seen.text(&Probe::Tail(VMKERNEL.into()))?.unwrap_or_default();
        let boot = HostSummary::parse(on, seen).ok().and_then(|summary| summary.boot_time);
        let text = since(log, boot.as_deref());
        let input = Input { name: "vmkernel.log".into(), text, sources: vec![Source::Vmkernel] };
        Ok(Self(LogFindings::of(&[input])))
    }
    fn sentence(&self) -> Option<String> {
        Some(self.0.in_words())
    }
}

fn log_of(on: &Subject, seen: &Observation) -> Option<String> {
    Some(format!("{}/vmware.log", find(on, seen).ok()?.vmx.rsplit_once('/')?.0))
}

impl Fact for VmLog {
    const NAME: &'static str = "log-findings";
    const ABOUT: &'static str = "Known causes of trouble in the VM's own log, since its latest power-on";
    fn probes(on: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = VirtualMachines::probes(on, seen);
        probes.extend(log_of(on, seen).map(Probe::Tail));
        probes
    }
    fn parse(on: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        find(on, seen)?;
        let path = log_of(on, seen).unwrap_or_default();
        let text = seen.text(&Probe::Tail(path))?.unwrap_or_default();
        let input = Input { name: "vmware.log".into(), text, sources: vec![Source::VmwareLog] };
        Ok(Self(LogFindings::of(&[input])))
    }
    fn sentence(&self) -> Option<String> {
        Some(self.0.in_words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_boot_wrote_does_not_count() {
        let log = "2026-11-01T10:00:00.000Z old\nmore of it\n2026-11-02T10:00:00.000Z new\n";
        assert_eq!(since(log, Some("2026-11-02T09:00:00Z")), "2026-11-02T10:00:00.000Z new\n");
        assert_eq!(since(log, Some("2026-11-03T09:00:00Z")), "");
        assert_eq!(since(log, None), log);
        assert_eq!(since("no times\n", Some("2026-11-03T09:00:00Z")), "no times\n");
        assert_eq!(since(log, Some("unknown")), log);
    }
}
