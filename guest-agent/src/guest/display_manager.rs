//! The display manager stopped, and kept from starting with the machine: a running X server holds the GPU and
//! the driver's installer refuses to work beside it.

use crate::guest::driver::spec::wanted;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{
    Command, Effect, ExitKind, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict,
};

/// Display manager of a guest.
pub struct DisplayManager;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// Not running, and not started at boot.
    Stopped,
}

/// What is so.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DisplayManagerFact {
    /// Whether one runs.
    pub active: bool,
    /// systemd's default target.
    pub default_target: Option<String>,
}

const UNIT: &str = "display-manager.service";

fn is_active() -> Command {
    Command::new("systemctl", ["is-active", UNIT])
}

fn get_default() -> Command {
    Command::new("systemctl", ["get-default"])
}

impl Fact for DisplayManagerFact {
    const NAME: &'static str = "display-manager";
    const ABOUT: &'static str = "Whether a display manager runs";
    fn probes(_: &Subject, _: &Observation) -> Vec<Probe> {
        vec![Probe::Run(is_active()), Probe::Run(get_default())]
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let output = seen.output(&is_active())?;
        // The exit status is 3 or 4 for a unit that is inactive or unknown: the word decides.
        if !matches!(output.ended, ExitKind::Status(_)) {
            return Err(Unreadable::of(&is_active(), output, "systemctl does not answer"));
        }
        let active = matches!(output.stdout.trim(), "active" | "activating" | "reloading");
        Ok(Self { active, default_target: seen.stdout_if_ok(&get_default()).map(|t| t.trim().to_string()) })
    }
}

impl Requirement for DisplayManager {
    const NAME: &'static str = "display-manager";
    const ABOUT: &'static str = "Display manager stopped, now and at boot";
    const AFTER: &'static [&'static str] = &["nouveau"];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 30;
    const IMPLIED_BY: &'static [Implied] =
        &[Implied { by: "driver", spec: |driver| wanted(driver).map(|_| serde_json::json!(Wish::Stopped)) }];
    const EXAMPLE: &'static str = r#""stopped""#;
    type Spec = Wish;
    type Fact = DisplayManagerFact;

    fn check(_: &Wish, fact: &DisplayManagerFact) -> Verdict {
        if !fact.active {
            return Verdict::met("stopped");
        }
        let run = |args: &[&str]| Effect::run(Command::new("systemctl", args.iter().copied()));
        let mut effects = vec![];
        if fact.default_target.as_deref() == Some("graphical.target") {
            effects.push(run(&["set-default", "multi-user.target"]));
        }
        effects.push(run(&["stop", UNIT]));
        Verdict::unmet("running", "stopped", effects)
    }

    fn as_spec(fact: &DisplayManagerFact) -> Option<Wish> {
        (!fact.active).then_some(Wish::Stopped)
    }
}
