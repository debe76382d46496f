//! Xid events: what the vGPU manager's module wrote into the host's kernel log when something went wrong on a
//! GPU.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use vsgpu_core::knowledge::xids;
use vsgpu_core::{Fact, Observation, Probe, Subject, Unreadable};

const LOG: &str = "/var/log/vmkernel.log";

/// Events by GPU and code, in what is left of the log.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Xids {
    /// One per GPU and code.
    pub xids: Vec<XidCount>,
}

/// One code on one GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct XidCount {
    /// PCI address, as the module writes it.
    pub gpu: String,
    /// Code.
    pub code: u32,
    /// NVIDIA's meaning, or its name for the code.
    pub meaning: String,
    /// How often.
    pub count: u32,
    /// When last, in seconds since 1970; absent where the log says no time.
    pub last: Option<i64>,
}

impl Fact for Xids {
    const NAME: &'static str = "xids";
    const ABOUT: &'static str = "Xid events in the host's kernel log";
    fn probes(_: &Subject, _: &Observation) -> Vec<Probe> {
        vec![Probe::Tail(LOG.into())]
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let log = seen.text(&Probe::Tail(LOG.into()))?.unwrap_or_default();
        Ok(Self { xids: of(log) })
    }
    fn sentence(&self) -> Option<String> {
        let one =
            |xid: &XidCount| format!("{} on {}, {} times: {}", xid.code, xid.gpu, xid.count, xid.meaning);
        Some(vsgpu_core::words::first(self.xids.iter().map(one), 4, "none in this boot"))
    }
}

fn of(log: &str) -> Vec<XidCount> {
    let mut all: BTreeMap<(String, u32), XidCount> = BTreeMap::new();
    for line in log.lines() {
        let Some((gpu, code, _)) = xids::read(line) else { continue };
        let known = xids::of_code(code);
        let meaning = known.map_or("", |x| if x.meaning.is_empty() { x.mnemonic } else { x.meaning });
        let new = || XidCount { gpu: gpu.clone(), code, meaning: meaning.into(), count: 0, last: None };
        let seen = all.entry((gpu.clone(), code)).or_insert_with(new);
        seen.count += 1;
        let at = line.split_whitespace().next().and_then(|word| OffsetDateTime::parse(word, &Rfc3339).ok());
        seen.last = at.map(OffsetDateTime::unix_timestamp).or(seen.last);
    }
    all.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_by_gpu_and_code() {
        let log = "2026-11-01T10:00:00.000Z In(182) vmkernel: cpu1:2099897)NVRM: Xid (PCI:0000:3b:00): 79, pid=0, GPU has fallen off the bus.\n\
                   2026-11-01T10:00:01.000Z In(182) vmkernel: cpu1:2099897)something else\n\
                   2026-11-01T10:00:02.000Z In(182) vmkernel: cpu1:2099897)NVRM: Xid (PCI:0000:3b:00): 79, again\n";
        let all = of(log);
        assert_eq!(all.len(), 1);
        assert_eq!(
            (all[0].gpu.as_str(), all[0].code, all[0].count, all[0].last),
            ("0000:3b:00", 79, 2, Some(1_793_527_202))
        );
    }
}
