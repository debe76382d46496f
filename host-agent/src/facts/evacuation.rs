//! What becomes of a host's running VMs when it enters maintenance mode in its cluster: which of them DRS moves, which
//! somebody has to move, which cannot move while they run. Only a gateway knows it, and only by asking vCenter.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::words::{counted, first};
use vsgpu_core::{Fact, InVcenter, Observation, Probe, Subject, Unreadable};

/// VMs that are named in a sentence.
const NAMED: usize = 3;

/// Of a host in vCenter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Evacuation {
    /// None where this agent does not reach its host by vCenter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Forecast>,
}

/// The forecast.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Forecast {
    /// The cluster; none where the host stands alone, and nobody moves anything.
    #[serde(default)]
    pub cluster: Option<String>,
    /// VMs that run, by name; those of vSphere's own are not among them.
    pub vms: Vec<Leaving>,
    /// What may go wrong with the cluster while the host is away.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A VM that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Leaving {
    /// Its name.
    pub name: String,
    /// How it leaves the host.
    pub way: Way,
    /// Why it does not leave by itself; empty where it does.
    #[serde(default)]
    pub why: String,
    /// The host that DRS would move it to now.
    #[serde(default)]
    pub to: Option<String>,
    /// Seconds that it stands still while it moves, where a vGPU makes that long.
    #[serde(default)]
    pub stun_secs: Option<u64>,
}

/// How a VM leaves a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// DRS moves it.
    Drs,
    /// It can move, and somebody has to move it.
    ByHand,
    /// Nothing can move it now while it runs.
    Off,
    /// Not known: vCenter was not heard, or did not let this account ask.
    Unknown,
}

impl Forecast {
    /// Those that leave in this way.
    pub fn of(&self, way: Way) -> impl Iterator<Item = &Leaving> {
        self.vms.iter().filter(move |vm| vm.way == way)
    }

    /// `DRS moves 12 VMs; cannot move: llm-7 (it has a whole GPU)`.
    pub fn sentence(&self) -> String {
        if self.vms.is_empty() {
            return "no VM runs here".into();
        }
        let named = |way: Way| first(self.of(way).map(|vm| format!("{} ({})", vm.name, vm.why)), NAMED, "");
        let mut parts = vec![];
        match self.of(Way::Drs).count() {
            0 => {}
            n => parts.push(format!("DRS moves {}", counted(n, "VM"))),
        }
        if self.of(Way::ByHand).next().is_some() {
            parts.push(format!("somebody has to move {}", named(Way::ByHand)));
        }
        if self.of(Way::Off).next().is_some() {
            parts.push(format!("cannot move: {}", named(Way::Off)));
        }
        if self.of(Way::Unknown).next().is_some() {
            parts.push(format!("not known of {}", named(Way::Unknown)));
        }
        parts.join("; ")
    }
}

impl Fact for Evacuation {
    const NAME: &'static str = "evacuation";
    const ABOUT: &'static str = "What becomes of the running VMs when the host enters maintenance mode";
    fn probes(_: &Subject, _: &Observation) -> Vec<Probe> {
        vec![Probe::Inventory(InVcenter::Evacuation)]
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let Some(text) = seen.text(&Probe::Inventory(InVcenter::Evacuation))? else {
            return Ok(Self::default());
        };
        let forecast = serde_json::from_str(text)
            .map_err(|why| Unreadable::new(format!("what vCenter says cannot be read: {why}")))?;
        Ok(Self { forecast: Some(forecast) })
    }
    fn sentence(&self) -> Option<String> {
        self.forecast.as_ref().map(Forecast::sentence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_names_what_does_not_go_by_itself() {
        let vm = |name: &str, way, why: &str| Leaving {
            name: name.into(),
            way,
            why: why.into(),
            to: None,
            stun_secs: None,
        };
        let mut forecast = Forecast::default();
        assert_eq!(forecast.sentence(), "no VM runs here");
        forecast.vms =
            vec![vm("a", Way::Drs, ""), vm("llm-7", Way::Off, "it has a whole GPU"), vm("b", Way::Drs, "")];
        assert_eq!(forecast.sentence(), "DRS moves 2 VMs; cannot move: llm-7 (it has a whole GPU)");
    }
}
