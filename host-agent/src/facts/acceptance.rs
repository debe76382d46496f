//! The acceptance level of a host: which packages it takes.

use crate::esxcli;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::{Fact, Observation, Probe, Subject, Unreadable};

pub(crate) const ACCEPTANCE: [&str; 3] = ["software", "acceptance", "get"];

/// Levels, the least trusting last in esxcli's order and first here (facts: esxi A3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Level {
    /// Anybody's.
    CommunitySupported,
    /// Partners'.
    PartnerSupported,
    /// Partners', tested by VMware's program.
    VMwareAccepted,
    /// VMware's own tests.
    VMwareCertified,
}

impl Level {
    const ALL: [(Self, &'static str, &'static str); 4] = [
        (Self::CommunitySupported, "CommunitySupported", "community"),
        (Self::PartnerSupported, "PartnerSupported", "partner"),
        (Self::VMwareAccepted, "VMwareAccepted", "accepted"),
        (Self::VMwareCertified, "VMwareCertified", "certified"),
    ];

    pub(crate) fn word(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    pub(crate) fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, w, _)| *w == word).map(|(level, ..)| level)
    }

    /// The word of a VIB's descriptor.
    pub(crate) fn of_descriptor(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(.., w)| *w == word).map(|(level, ..)| level)
    }
}

/// Reads `software acceptance get`: one bare word.
pub(crate) fn level(records: &[vsgpu_core::readers::esxcli::Record]) -> Result<String, String> {
    let words = records.iter().flat_map(|r| {
        std::iter::once(r.title.as_str()).chain(r.fields.iter().map(|(_, value)| value.as_str()))
    });
    let found = words.map(str::trim).find(|word| Level::of_word(word).is_some());
    found.map(String::from).ok_or_else(|| "the answer is no acceptance level".into())
}

/// The level.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AcceptanceFact {
    /// esxcli's word.
    pub level: String,
}

impl Fact for AcceptanceFact {
    const NAME: &'static str = "acceptance-level";
    const ABOUT: &'static str = "Acceptance level of the host";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        esxcli::probes(&ACCEPTANCE, seen)
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        Ok(Self { level: esxcli::parsed(&ACCEPTANCE, seen, level)? })
    }
}
