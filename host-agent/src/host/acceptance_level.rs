//! Acceptance level of a host: which packages it takes. Read before every installation; raised or lowered only where the
//! fleet file says so in so many words.

use super::ask;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{Command, Effect, Evidence, Fact, Probe, Requirement, Subject, Unreadable, Verdict};

pub(crate) const ACCEPTANCE: [&str; 3] = ["software", "acceptance", "get"];

/// Acceptance level of a host.
pub struct AcceptanceLevel;

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

    /// esxcli's word.
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
pub(crate) fn level(records: &[vsgpu_core::esxcli::Record]) -> Result<String, String> {
    let words = records.iter().flat_map(|r| std::iter::once(r.title.as_str()).chain(r.fields.iter().map(|(_, value)| value.as_str())));
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
    fn probes(_: &Subject, seen: &Evidence) -> Vec<Probe> {
        ask::probes(&ACCEPTANCE, seen)
    }
    fn parse(_: &Subject, seen: &Evidence) -> Result<Self, Unreadable> {
        Ok(Self { level: ask::parsed(&ACCEPTANCE, seen, level)? })
    }
}

impl Requirement for AcceptanceLevel {
    const NAME: &'static str = "acceptance-level";
    const ABOUT: &'static str = "Lowest acceptance level of packages that the host takes; never changed unless wished for";
    const AFTER: &'static [&'static str] = &[];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#""PartnerSupported""#;
    type Spec = Level;
    type Fact = AcceptanceFact;

    fn check(spec: &Level, fact: &AcceptanceFact) -> Verdict {
        if fact.level == spec.word() {
            return Verdict::met(&fact.level);
        }
        let set = Command::new("esxcli", ["software", "acceptance", "set", &format!("--level={}", spec.word())]);
        Verdict::unmet(&fact.level, spec.word(), vec![Effect::run(set)])
    }

    fn as_spec(fact: &AcceptanceFact) -> Option<Level> {
        Level::of_word(&fact.level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsgpu_core::evidence::Answer;
    use vsgpu_core::{Ended, Output};

    /// The fact that a host's answer makes.
    fn fact(text: &str) -> Result<AcceptanceFact, Unreadable> {
        let on = Subject::node();
        let mut seen = Evidence::default();
        // As the machine is asked: in rounds, until nothing new is asked.
        while let Some(probe) = AcceptanceFact::probes(&on, &seen).into_iter().find(|probe| !seen.has(probe)) {
            seen.0.insert(probe, Answer::Ran(Output { ended: Ended::Status(0), stdout: text.into(), stderr: String::new() }));
        }
        AcceptanceFact::parse(&on, &seen)
    }

    #[test]
    fn a_level_is_read_judged_and_set() {
        let partner = fact("PartnerSupported\n").unwrap();
        assert!(matches!(AcceptanceLevel::check(&Level::PartnerSupported, &partner), Verdict::Met { .. }));
        let Verdict::Unmet { is, wants, effects } = AcceptanceLevel::check(&Level::CommunitySupported, &partner) else { panic!("met") };
        assert_eq!((is.as_str(), wants.as_str()), ("PartnerSupported", "CommunitySupported"));
        assert_eq!(effects[0].to_string(), "esxcli software acceptance set --level=CommunitySupported");
        assert_eq!(AcceptanceLevel::as_spec(&partner), Some(Level::PartnerSupported));
        assert!(fact("Connect to localhost failed\n").is_err());
    }
}
