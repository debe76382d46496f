//! Acceptance level of a host: which packages it takes. Read before every installation; raised or lowered
//! only where the fleet file says so in so many words.

use crate::facts::acceptance::{AcceptanceFact, Level};
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{Command, Effect, Requirement, Verdict};

/// Acceptance level of a host.
pub struct AcceptanceLevel;

impl Requirement for AcceptanceLevel {
    const NAME: &'static str = "acceptance-level";
    const ABOUT: &'static str = "Lowest acceptance level of packages that the host takes; never changed unless the fleet file says so";
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
        let set =
            Command::new("esxcli", ["software", "acceptance", "set", &format!("--level={}", spec.word())]);
        Verdict::unmet(&fact.level, spec.word(), vec![Effect::run(set)])
    }

    fn as_spec(fact: &AcceptanceFact) -> Option<Level> {
        Level::of_word(&fact.level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::acceptance::AcceptanceFact;
    use vsgpu_core::observation::Answer;
    use vsgpu_core::{ExitKind, Fact as _, Observation, Output, Subject, Unreadable};

    /// The fact that a host's answer makes.
    fn fact(text: &str) -> Result<AcceptanceFact, Unreadable> {
        let on = Subject::node();
        let mut seen = Observation::default();
        // As the machine is asked: in rounds, until nothing new is asked.
        while let Some(probe) = AcceptanceFact::probes(&on, &seen).into_iter().find(|probe| !seen.has(probe))
        {
            seen.0.insert(
                probe,
                Answer::Ran(Output {
                    ended: ExitKind::Status(0),
                    stdout: text.into(),
                    stderr: String::new(),
                }),
            );
        }
        AcceptanceFact::parse(&on, &seen)
    }

    #[test]
    fn a_level_is_read_judged_and_set() {
        let partner = fact("PartnerSupported\n").unwrap();
        assert!(matches!(AcceptanceLevel::check(&Level::PartnerSupported, &partner), Verdict::Met { .. }));
        let Verdict::Unmet { is, wants, effects } =
            AcceptanceLevel::check(&Level::CommunitySupported, &partner)
        else {
            panic!("met")
        };
        assert_eq!((is.as_str(), wants.as_str()), ("PartnerSupported", "CommunitySupported"));
        assert_eq!(effects[0].to_string(), "esxcli software acceptance set --level=CommunitySupported");
        assert_eq!(AcceptanceLevel::as_spec(&partner), Some(Level::PartnerSupported));
        assert!(fact("Connect to localhost failed\n").is_err());
    }
}
