//! Packages that bring a driver of their own are kept from being installed, by whatever rule or upgrade
//! (facts: failures F18): `cuda` and `cuda-drivers` would replace the driver that fits the host. Toolkits
//! without a driver stay free.

use crate::distro::{self, OS_RELEASE, os_release};
use crate::guest::driver::spec::wanted;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

pub struct DriverHeld;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// No package replaces the driver.
    Held,
}

/// What is so.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DriverHeldFact {
    /// os-release, to choose the package tool.
    pub os_release: String,
    /// The rules that keep packages out; nothing else of their file.
    pub rules: Option<String>,
}

impl Fact for DriverHeldFact {
    const NAME: &'static str = "driver-held";
    const ABOUT: &'static str = "Whether packages that would replace the driver are kept out";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        let rules = distro::seen(seen).map(|f| Probe::Read(f.pins_file().into()));
        std::iter::once(Probe::Read(OS_RELEASE.into())).chain(rules).collect()
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let rules = distro::seen(seen).map(|f| seen.file(f.pins_file())).transpose()?.flatten();
        Ok(Self {
            os_release: os_release(seen)?.into(),
            rules: distro::seen(seen).zip(rules).map(|(f, text)| f.rules_in(text)),
        })
    }
    fn sentence(&self) -> Option<String> {
        Some(match &self.rules {
            Some(rules) if !rules.is_empty() => "packages that would replace the driver are kept out".into(),
            _ => "packages that would replace the driver are not kept out".into(),
        })
    }
}

impl Requirement for DriverHeld {
    const NAME: &'static str = "driver-held";
    const ABOUT: &'static str =
        "Packages that would replace the driver (cuda, cuda-drivers, ...) are kept out";
    const AFTER: &'static [&'static str] = &["package-source"];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] =
        &[Implied { by: "driver", spec: |driver| wanted(driver).map(|_| serde_json::json!(Wish::Held)) }];
    const EXAMPLE: &'static str = r#""held""#;
    type Spec = Wish;
    type Fact = DriverHeldFact;

    fn check(_: &Wish, fact: &DriverHeldFact) -> Verdict {
        let Some(family) = distro::of(&fact.os_release) else {
            return Verdict::blocked(
                "this distribution's package tool is not known",
                format!("{}; say `driver-held: null` to go on without", distro::UNKNOWN),
            );
        };
        match family.pins(fact.rules.as_deref().unwrap_or_default()) {
            None => Verdict::met("kept out"),
            Some(effect) => Verdict::unmet(
                "packages that replace the driver could be installed",
                "kept out",
                vec![effect],
            ),
        }
    }

    fn as_spec(fact: &DriverHeldFact) -> Option<Wish> {
        Self::check(&Wish::Held, fact).is_met().then_some(Wish::Held)
    }
}
