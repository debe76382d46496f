//! Check, apply and verify: once, for all requirements. Runs on the agent, against its `System`.
//!
//! ```text
//! observe -> check -+-> Met ----------------------------------------------> AlreadyMet
//!                   +-> Unmet, as planned -> effects -> observe -> check -> Applied / Failed
//!                   +-> Unmet, not as planned ----------------------------> Stale
//!                   +-> Waits, Blocked -----------------------------------> Blocked
//! ```

use crate::catalogue::{Entry, FactEntry};
use crate::effect::Effect;
use crate::effects::{EffectError, act};
use crate::failpoint;
use crate::observation::{Observation, Unreadable};
use crate::observe::{observe, run_probes};
use crate::outcome::{Expectation, Outcome};
use crate::packages::Packages;
use crate::requirement::{Explained, Failure, Needs, Stuck, Subject, TakesEffect, Verdict};
use crate::system::System;
use serde_json::Value;
use std::time::Duration;

/// Observes one requirement's fact and judges it.
pub fn verdict(
    system: &dyn System,
    entry: &Entry,
    on: &Subject,
    spec: &Value,
) -> Result<Verdict, Unreadable> {
    (entry.check)(spec, &fact(system, entry, on)?).map_err(Unreadable::new)
}

fn fact(system: &dyn System, entry: &Entry, on: &Subject) -> Result<Value, Unreadable> {
    observe(system, on, &[entry.fact])
        .remove(entry.fact.name)
        .unwrap_or_else(|| Err(Unreadable::new("not observed")))
}

/// What the caller of a change says about it.
#[derive(Clone, Default)]
pub struct ApplyOptions<'a> {
    /// What the plan showed; absent where it could not be known.
    pub expected: Option<&'a Expectation>,
    /// What must still be so on this node before anything is changed.
    pub preconditions: &'a [Precondition],
    /// Everything must have ended within this time.
    pub deadline: Option<Duration>,
    /// Asked once, when something is about to be changed and before it is: with what the change needs. It may
    /// refuse.
    pub allowed: Option<&'a MayChange<'a>>,
}

/// See `ApplyOptions::allowed`.
pub type MayChange<'a> = dyn Fn(Needs) -> Result<(), Outcome> + 'a;

/// A requirement that was met, or that this run made so.
#[derive(Clone, Debug)]
pub struct Precondition {
    /// The requirement.
    pub entry: Entry,
    /// What was wanted of it.
    pub spec: Value,
}

/// Between two looks at what an effect tells.
const TOLD: Duration = Duration::from_millis(300);

/// Does an effect. Of a machine elsewhere, what people can find it by is said while it goes on: it may take an hour, and
/// whoever says it may be gone at its end.
fn act_and_tell(
    system: &dyn System,
    effect: &Effect,
    say: &mut dyn FnMut(String),
) -> Result<(), EffectError> {
    if !system.is_remote() {
        return act(system, effect);
    }
    std::thread::scope(|scope| {
        let (over, ended) = std::sync::mpsc::channel();
        let acting = scope.spawn(move || {
            let acted = act(system, effect);
            let _ = over.send(());
            acted
        });
        let by = acting.thread().id();
        while ended.recv_timeout(TOLD) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            system.told(by).into_iter().for_each(&mut *say);
        }
        let acted = acting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        system.told(by).into_iter().for_each(say);
        acted
    })
}

/// Makes one requirement so. `say` hears each effect before it runs.
pub fn apply(
    system: &dyn System,
    entry: &Entry,
    on: &Subject,
    spec: &Value,
    terms: &ApplyOptions<'_>,
    say: &mut dyn FnMut(String),
) -> Outcome {
    let start = system.elapsed();
    let judged = fact(system, entry, on)
        .and_then(|fact| Ok(((entry.check)(spec, &fact).map_err(Unreadable::new)?, fact)));
    let (first, fact) = match judged {
        Ok(judged) => judged,
        Err(unreadable) => return Outcome::failed(unreadable.to_string()),
    };
    let (is, effects) = match first {
        Verdict::Met { is } => return Outcome::AlreadyMet { is },
        Verdict::Blocked { why, hint, .. } => {
            return drifted(system, on, terms.preconditions).unwrap_or(Outcome::Blocked { why, hint });
        }
        Verdict::Waits { on: what, wants, .. } => {
            return drifted(system, on, terms.preconditions).unwrap_or_else(|| Outcome::Blocked {
                why: format!("{wants} cannot be judged yet: {what}"),
                hint: "run `vsgpu plan` again: an earlier step did not bring what it should".into(),
            });
        }
        Verdict::Unmet { is, effects, .. } => (is, effects),
    };
    // With nothing left to run there is nothing that could be done wrongly: an act that was still under way
    // when the plan was made has ended, and only its activation is missing.
    if let Some(plan) = terms.expected.filter(|_| !effects.is_empty()) {
        let unplanned = effects.iter().find(|e| !plan.effects.contains(e));
        if unplanned.is_some() || (plan.is != is && !plan.started) {
            return Outcome::Stale {
                planned: plan.is.clone(),
                is: unplanned.map_or(is.clone(), |e| format!("{is}; now needed: {e}")),
            };
        }
    }
    if effects.is_empty() {
        return settle(system, entry, on, spec);
    }
    if let Some(drifted) = drifted(system, on, terms.preconditions) {
        return drifted;
    }
    if let Some(Err(refused)) = terms.allowed.map(|allowed| allowed((entry.cost)(spec, &fact).needs)) {
        return refused;
    }
    let (packages, spec) = match Packages::take(system, entry, spec, &effects) {
        Ok(taken) => taken,
        Err(outcome) => return outcome,
    };
    // What the packages say of themselves may be more than was said over the wire.
    match (entry.check)(&spec, &fact) {
        Ok(Verdict::Unmet { effects: again, .. }) if again == effects => {}
        Ok(Verdict::Blocked { why, hint, .. }) => return Outcome::Blocked { why, hint },
        Ok(_) => {
            return Outcome::Stale {
                planned: is,
                is: "the packages ask for other commands than the plan showed".into(),
            };
        }
        Err(why) => return Outcome::failed(why),
    }
    let since = system.now();
    for effect in &effects {
        system.shown(effect).into_iter().for_each(&mut *say);
        let left = terms.deadline.map(|d| (start + d).saturating_sub(system.elapsed()));
        let late = |why, hint| Outcome::Late {
            secs: terms.deadline.unwrap_or_default().as_secs(),
            doing: effect.to_string(),
            why,
            hint,
        };
        if left.is_some_and(|left| left.is_zero()) {
            return late(String::new(), None);
        }
        let bounded = left.map_or_else(|| effect.clone(), |left| effect.bounded(left));
        let acted = act_and_tell(&packages, &bounded, say);
        if let Err(broken) = acted {
            let over = terms.deadline.is_some_and(|d| system.elapsed() >= start + d);
            return match understood(
                system,
                entry,
                on,
                Failure { why: broken.why, output: broken.output, since },
            ) {
                Outcome::Failed { why, hint } if over => late(why, hint),
                outcome => outcome,
            };
        }
    }
    drop(packages);
    // What brings its own reboot is waited for: a second one would be in vain.
    let is_over = effects.iter().any(|effect| matches!(effect, Effect::Remediate { .. }));
    settled(system, entry, on, &spec, is_over)
}

/// Whether somebody changed what must still be so. All are looked at together, each distinct probe once. What
/// only waits to become active, or cannot be read just now, is no drift; a driver or a license has its own
/// time to come back.
pub fn drifted(system: &dyn System, on: &Subject, preconditions: &[Precondition]) -> Option<Outcome> {
    if failpoint!(DriftIgnored, true, preconditions.is_empty()) {
        return None;
    }
    let start = system.elapsed();
    loop {
        let facts: Vec<FactEntry> = preconditions.iter().map(|s| s.entry.fact).collect();
        let seen = observe(system, on, &facts);
        let judged = preconditions.iter().find_map(|s| {
            let fact = seen.get(s.entry.fact.name)?.as_ref().ok()?;
            let (is, was) = match (s.entry.check)(&s.spec, fact).ok()? {
                Verdict::Unmet { is, wants, effects } if !effects.is_empty() => (is, wants),
                Verdict::Blocked { why, .. } => (why, "met".into()),
                _ => return None,
            };
            Some((s, Outcome::Drifted { requirement: s.entry.name.into(), is, was }))
        });
        let (s, outcome) = judged?;
        if system.elapsed() - start >= Duration::from_secs((s.entry.settle_secs)(&s.spec).into()) {
            return Some(outcome);
        }
        system.sleep(Duration::from_secs(1));
    }
}

/// A failure with its cause, where the requirement can tell it from what was said and logged.
fn understood(system: &dyn System, entry: &Entry, on: &Subject, failure: Failure) -> Outcome {
    let mut seen = Observation::default();
    run_probes(system, &mut seen, |seen| (entry.probes_after_failure)(on, seen));
    match (entry.explain)(&failure, on, &seen) {
        Some(Explained { cause, fix }) => {
            Outcome::Failed { why: format!("{cause} ({})", failure.why), hint: Some(fix) }
        }
        None => Outcome::failed(failure.why),
    }
}

/// How long a reason must have stood that no waiting mends: what a log held before the commands ran is gone by then.
const FOR_GOOD: Duration = Duration::from_secs(10);

/// Observes until `Met`, until the requirement's own time is over, or until it is known that waiting is in vain.
pub fn settle(system: &dyn System, entry: &Entry, on: &Subject, spec: &Value) -> Outcome {
    settled(system, entry, on, spec, false)
}

/// `was_activated`: the machine was rebooted for it already.
fn settled(system: &dyn System, entry: &Entry, on: &Subject, spec: &Value, was_activated: bool) -> Outcome {
    let start = system.elapsed();
    let mut reason: Option<(Stuck, Duration)> = None;
    loop {
        let settle_secs = (entry.settle_secs)(spec);
        let waited = system.elapsed() - start;
        let over = waited >= Duration::from_secs(settle_secs.into());
        let judged = fact(system, entry, on)
            .and_then(|fact| Ok(((entry.check)(spec, &fact).map_err(Unreadable::new)?, fact)));
        match judged {
            Ok((Verdict::Met { is }, _)) => return Outcome::Applied { is, active: true },
            Ok((Verdict::Unmet { is, effects, .. }, _))
                if effects.is_empty() && entry.takes_effect != TakesEffect::AtOnce && !was_activated =>
            {
                return Outcome::Applied { is, active: false };
            }
            Ok((Verdict::Blocked { why, hint, .. }, _)) => return Outcome::Blocked { why, hint },
            Ok((Verdict::Unmet { is, wants, .. }, fact)) => {
                reason = (entry.stuck)(spec, &fact).map(|now| match reason.take() {
                    Some((before, since)) if before == now => (before, since),
                    _ => (now, system.elapsed()),
                });
                match &reason {
                    Some((stuck, since))
                        if over || stuck.for_good && system.elapsed() - *since >= FOR_GOOD =>
                    {
                        let Explained { cause, fix } = stuck.explained.clone();
                        let after = if stuck.for_good || settle_secs == 0 {
                            String::new()
                        } else {
                            format!(", and that did not change in {settle_secs} s")
                        };
                        return Outcome::Failed { why: format!("{cause}{after}"), hint: Some(fix) };
                    }
                    None if over => {
                        let waited =
                            if settle_secs > 0 { format!(" {settle_secs} s after") } else { " after".into() };
                        return Outcome::failed(format!(
                            "still {is}{waited} the commands ran without an error; wanted: {wants}"
                        ));
                    }
                    _ => system.sleep(Duration::from_secs(1)),
                }
            }
            Ok((Verdict::Waits { on, .. }, _)) if over => return Outcome::failed(on),
            Err(unreadable) if over => return Outcome::failed(unreadable.to_string()),
            _ => system.sleep(Duration::from_secs(1)),
        }
    }
}
