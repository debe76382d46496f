//! Observe, check, apply and verify: once, for all requirements. Runs on the agent, against its `System`.
//!
//! ```text
//! observe -> check -+-> Met ----------------------------------------------> AlreadyMet
//!                   +-> Unmet, as planned -> effects -> observe -> check -> Applied / Failed
//!                   +-> Unmet, not as planned ----------------------------> Stale
//!                   +-> Waits, Blocked -----------------------------------> Blocked
//! ```

use crate::catalogue::{Entry, FactEntry};
use crate::effect::{Command, Effect, Probe};
use crate::evidence::{Answer, Evidence, Unreadable, head};
use crate::packages::Packages;
use crate::planted::{Bug, planted};
use crate::requirement::{Explained, Fact, Failure, Needs, Subject, TakesEffect, Verdict};
use crate::system::{Ended, Holder, KEEP_MODE, Output, System, Trouble};
use crate::text::hides;
use crate::{esxcli, lines, vim_cmd, vmx};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

const READ_LIMIT: usize = 1 << 20;
const TAIL_LIMIT: usize = 256 << 10;
const HEAD_LIMIT: usize = 4 << 10;

/// Facts by name; one that could not be read is its own error entry.
pub type Facts = BTreeMap<String, Result<Value, Unreadable>>;

/// A fact that could be read, with its type.
pub fn typed<F: Fact>(facts: &Facts) -> Option<F> {
    F::deserialize(facts.get(F::NAME)?.as_ref().ok()?).ok()
}

/// Facts as the JSON object that `facts -o json` prints: an unreadable one is `{"error": {...}}`.
pub fn facts_as_json<N: AsRef<str>, V: std::borrow::Borrow<Value>>(facts: &BTreeMap<N, Result<V, Unreadable>>) -> Value {
    let value = |fact: &Result<V, Unreadable>| match fact {
        Ok(value) => value.borrow().clone(),
        Err(error) => json!({ "error": error }),
    };
    facts.iter().map(|(name, fact)| (name.as_ref().to_string(), value(fact))).collect::<serde_json::Map<_, _>>().into()
}

/// Looks at a machine for these facts. Distinct probes run once, concurrently; a failure is kept per fact.
pub fn observe(system: &dyn System, on: &Subject, facts: &[FactEntry]) -> Facts {
    let mut seen = Evidence::default();
    let mut asked: BTreeMap<&str, (&FactEntry, Subject)> = BTreeMap::new();
    for fact in facts {
        let (_, on) = asked.entry(fact.name).or_insert_with(|| (fact, on.clone()));
        on.vmx_keys.extend(fact.vmx_keys);
    }
    look(system, &mut seen, |seen| asked.values().flat_map(|(fact, on)| (fact.probes)(on, seen)).collect());
    asked.into_iter().map(|(name, (fact, on))| (name.to_string(), (fact.parse)(&on, &seen))).collect()
}

/// Asks in rounds, until nothing new is asked.
fn look(system: &dyn System, seen: &mut Evidence, ask: impl Fn(&Evidence) -> Vec<Probe>) {
    // Four rounds are enough for "list, find the id, ask about it"; what asks for ever is cut off here.
    for _ in 0..4 {
        let mut wanted: Vec<Probe> = ask(seen).into_iter().filter(|p| !seen.has(p)).collect();
        wanted.sort();
        wanted.dedup();
        if wanted.is_empty() {
            break;
        }
        for group in wanted.chunks(system.probes_at_once().max(1)) {
            let answers: Vec<Answer> = std::thread::scope(|scope| {
                // The first one needs no thread of its own.
                // Where there is no thread left, the question is asked in this one.
                let beside = |p| std::thread::Builder::new().spawn_scoped(scope, move || answer(system, p)).map_err(|_| p);
                let others: Vec<_> = group[1..].iter().map(beside).collect();
                let first = std::panic::catch_unwind(AssertUnwindSafe(|| answer(system, &group[0])));
                let join = |other: Result<std::thread::ScopedJoinHandle<'_, Answer>, &Probe>| match other {
                    Ok(thread) => thread.join(),
                    Err(p) => std::panic::catch_unwind(AssertUnwindSafe(|| answer(system, p))),
                };
                let all = std::iter::once(first).chain(others.into_iter().map(join));
                all.map(|a| a.unwrap_or_else(|_| Answer::Text(Err(broken("probe", "the probe panicked"))))).collect()
            });
            seen.0.extend(group.iter().cloned().zip(answers));
        }
    }
}

fn broken(path: &str, why: &str) -> Trouble {
    Trouble::Other { path: path.into(), why: why.into() }
}

fn answer(system: &dyn System, probe: &Probe) -> Answer {
    let text = |bytes: Result<Vec<u8>, Trouble>| Answer::Text(bytes.map(|b| String::from_utf8_lossy(&b).into_owned()));
    match probe {
        Probe::Run(command) => Answer::Ran(system.run(command)),
        Probe::Read(path) => text(system.read(path, READ_LIMIT)),
        Probe::Tail(path) => text(system.tail(path, TAIL_LIMIT)),
        Probe::List(path) => Answer::Text(system.list(path).map(|names| names.join("\n"))),
        Probe::Hash(path) => Answer::Text(system.hash(path)),
        Probe::Hex(path) => {
            let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect();
            Answer::Text(system.head(path, HEAD_LIMIT).map(hex))
        }
        Probe::Holders(prefix) => {
            let lines = |holders: Vec<Holder>| holders.iter().map(|h| json!(h).to_string()).collect::<Vec<_>>().join("\n");
            Answer::Text(system.holders(prefix).map(lines))
        }
        Probe::Now => Answer::Text(Ok(system.now().to_string())),
        Probe::BootId => Answer::Text(system.boot_id()),
        Probe::KernelRelease => Answer::Text(Ok(system.kernel_release())),
    }
}

/// Observes one requirement's fact and judges it.
pub fn verdict(system: &dyn System, entry: &Entry, on: &Subject, spec: &Value) -> Result<Verdict, Unreadable> {
    (entry.check)(spec, &fact(system, entry, on)?).map_err(Unreadable::new)
}

fn fact(system: &dyn System, entry: &Entry, on: &Subject) -> Result<Value, Unreadable> {
    observe(system, on, &[entry.fact]).remove(entry.fact.name).unwrap_or_else(|| Err(Unreadable::new("not observed")))
}

/// What the plan said about a step. The agent refuses to do anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation {
    /// What was so when the plan was made.
    pub is: String,
    /// The effects that the plan showed.
    pub effects: Arc<[Effect]>,
    /// Some of them may have run already (the step was started before).
    pub started: bool,
}

/// What the caller of a change says about it.
#[derive(Clone, Default)]
pub struct Terms<'a> {
    /// What the plan showed; absent where it could not be known.
    pub expected: Option<&'a Expectation>,
    /// What must still be so on this node before anything is changed.
    pub still: &'a [Still],
    /// Everything must have ended within this time.
    pub deadline: Option<Duration>,
    /// Asked once, when something is about to be changed and before it is: with what the change needs. It may refuse.
    pub gate: Option<&'a Gate<'a>>,
}

/// See `Terms::gate`.
pub type Gate<'a> = dyn Fn(Needs) -> Result<(), Outcome> + 'a;

/// A requirement that was met, or that this run made so.
#[derive(Clone, Debug)]
pub struct Still {
    /// The requirement.
    pub entry: Entry,
    /// What was wanted of it.
    pub spec: Value,
}

/// How an `apply` ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// Nothing was to do.
    AlreadyMet {
        /// What is so.
        is: String,
    },
    /// The effects have run.
    Applied {
        /// What is so.
        is: String,
        /// Whether it is active, or waits for a restart or reboot.
        active: bool,
    },
    /// The machine is neither as planned nor as wanted. Nothing was done.
    Stale {
        /// What the plan said.
        planned: String,
        /// What is so.
        is: String,
    },
    /// Somebody changed on the node what this run had made so or relies on. Nothing was done.
    Drifted {
        /// The requirement that is no longer met.
        requirement: String,
        /// What is so.
        is: String,
        /// What was so.
        was: String,
    },
    /// The time given was over before the end. What was begun has been ended.
    Late {
        /// Seconds that were given.
        secs: u64,
        /// What was being done.
        doing: String,
        /// Why, as far as it can be told; may be empty.
        why: String,
        /// What to do, where the cause is understood.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
    /// A person must act. Nothing was done.
    Blocked {
        /// Why.
        why: String,
        /// What to do.
        hint: String,
    },
    /// An effect failed, or did not bring what it should.
    Failed {
        /// Why, with the tool's own words.
        why: String,
        /// What to do, where the cause is understood.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
}

impl Outcome {
    /// `Failed` for a reason that nobody can explain further.
    pub fn failed(why: impl Into<String>) -> Self {
        Self::Failed { why: why.into(), hint: None }
    }
}

/// An effect that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Broken {
    /// Why, with the tool's own words.
    pub why: String,
    /// The failing command's answer.
    pub output: Option<Output>,
}

impl From<String> for Broken {
    fn from(why: String) -> Self {
        Self { why, output: None }
    }
}

/// Makes one requirement so. `say` hears each effect before it runs.
pub fn apply(system: &dyn System, entry: &Entry, on: &Subject, spec: &Value, terms: &Terms<'_>, say: &mut dyn FnMut(String)) -> Outcome {
    let start = system.elapsed();
    let judged = fact(system, entry, on).and_then(|fact| Ok(((entry.check)(spec, &fact).map_err(Unreadable::new)?, fact)));
    let (first, fact) = match judged {
        Ok(judged) => judged,
        Err(unreadable) => return Outcome::failed(unreadable.to_string()),
    };
    let (is, effects) = match first {
        Verdict::Met { is } => return Outcome::AlreadyMet { is },
        Verdict::Blocked { why, hint } => return drifted(system, on, terms.still).unwrap_or(Outcome::Blocked { why, hint }),
        Verdict::Waits { on: what, wants, .. } => {
            return drifted(system, on, terms.still).unwrap_or_else(|| Outcome::Blocked {
                why: format!("{wants} cannot be judged yet: {what}"),
                hint: "run `vsgpu plan` again: an earlier step did not bring what it should".into(),
            });
        }
        Verdict::Unmet { is, effects, .. } => (is, effects),
    };
    // With nothing left to run there is nothing that could be done wrongly: an act that was still under way when the plan was
    // made has ended, and only its activation is missing.
    if let Some(plan) = terms.expected.filter(|_| !effects.is_empty()) {
        let unplanned = effects.iter().find(|e| !plan.effects.contains(e));
        if unplanned.is_some() || (plan.is != is && !plan.started) {
            return Outcome::Stale { planned: plan.is.clone(), is: unplanned.map_or(is.clone(), |e| format!("{is}; now needed: {e}")) };
        }
    }
    if effects.is_empty() {
        return settle(system, entry, on, spec);
    }
    if let Some(drifted) = drifted(system, on, terms.still) {
        return drifted;
    }
    if let Some(Err(refused)) = terms.gate.map(|gate| gate((entry.cost)(spec, &fact).needs)) {
        return refused;
    }
    let (packages, spec) = match Packages::take(system, entry, spec, &effects) {
        Ok(taken) => taken,
        Err(outcome) => return outcome,
    };
    // What the packages say of themselves may be more than was said over the wire.
    match (entry.check)(&spec, &fact) {
        Ok(Verdict::Unmet { effects: again, .. }) if again == effects => {}
        Ok(Verdict::Blocked { why, hint }) => return Outcome::Blocked { why, hint },
        Ok(_) => return Outcome::Stale { planned: is, is: "the packages ask for other commands than the plan showed".into() },
        Err(why) => return Outcome::failed(why),
    }
    let since = system.now();
    for effect in &effects {
        say(effect.to_string());
        let left = terms.deadline.map(|d| (start + d).saturating_sub(system.elapsed()));
        let late = |why, hint| Outcome::Late { secs: terms.deadline.unwrap_or_default().as_secs(), doing: effect.to_string(), why, hint };
        if left.is_some_and(|left| left.is_zero()) {
            return late(String::new(), None);
        }
        let bounded = left.map_or_else(|| effect.clone(), |left| effect.bounded(left));
        if let Err(broken) = act(&packages, &bounded) {
            let over = terms.deadline.is_some_and(|d| system.elapsed() >= start + d);
            return match understood(system, entry, on, Failure { why: broken.why, output: broken.output, since }) {
                Outcome::Failed { why, hint } if over => late(why, hint),
                outcome => outcome,
            };
        }
    }
    drop(packages);
    settle(system, entry, on, &spec)
}

/// Whether somebody changed what must still be so. All are looked at together, each distinct probe once. What only waits to
/// become active, or cannot be read just now, is no drift; a driver or a license has its own time to come back.
pub fn drifted(system: &dyn System, on: &Subject, still: &[Still]) -> Option<Outcome> {
    if still.is_empty() || planted(Bug::DriftIgnored) {
        return None;
    }
    let start = system.elapsed();
    loop {
        let facts: Vec<FactEntry> = still.iter().map(|s| s.entry.fact).collect();
        let seen = observe(system, on, &facts);
        let judged = still.iter().find_map(|s| {
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
    let mut seen = Evidence::default();
    look(system, &mut seen, |seen| (entry.probes_after_failure)(on, seen));
    match (entry.explain)(&failure, on, &seen) {
        Some(Explained { cause, fix }) => Outcome::Failed { why: format!("{cause} ({})", failure.why), hint: Some(fix) },
        None => Outcome::failed(failure.why),
    }
}

/// Observes until `Met`, or until the requirement's own time is over.
pub fn settle(system: &dyn System, entry: &Entry, on: &Subject, spec: &Value) -> Outcome {
    let start = system.elapsed();
    loop {
        let settle_secs = (entry.settle_secs)(spec);
        let over = (system.elapsed() - start) >= Duration::from_secs(settle_secs.into());
        match verdict(system, entry, on, spec) {
            Ok(Verdict::Met { is }) => return Outcome::Applied { is, active: true },
            Ok(Verdict::Unmet { is, effects, .. }) if effects.is_empty() && entry.takes_effect != TakesEffect::AtOnce => {
                return Outcome::Applied { is, active: false };
            }
            Ok(Verdict::Blocked { why, hint }) => return Outcome::Blocked { why, hint },
            Ok(Verdict::Unmet { is, wants, .. }) if over => {
                let waited = if settle_secs > 0 { format!(" {settle_secs} s after") } else { " after".into() };
                return Outcome::failed(format!("still {is}{waited} the commands ran without an error; wanted: {wants}"));
            }
            Ok(Verdict::Waits { on, .. }) if over => return Outcome::failed(on),
            Err(unreadable) if over => return Outcome::failed(unreadable.to_string()),
            _ => system.sleep(Duration::from_secs(1)),
        }
    }
}

/// Why a command is counted as failed, with the tool's own words.
fn failure(command: &Command, output: &Output) -> String {
    let classed = |class: Option<String>, text: String| class.map(|c| format!("[{c}] ")).unwrap_or_default() + &text;
    let hostd = if command.program == "vim-cmd" { vim_cmd::fault(&output.both()) } else { None };
    let words = match (hostd, esxcli::refusal(&output.both())) {
        (Some(fault), _) => classed(fault.fault, fault.text),
        (None, Some(refusal)) => classed(refusal.class, refusal.text),
        (None, None) => head(&output.both()).replace('\n', " | "),
    };
    format!("`{command}`: {}{}{words}", output.ended, if words.is_empty() { "" } else { ": " })
}

/// Does one effect.
///
/// # Errors
/// Why it failed, with the tool's own words.
pub fn act(system: &dyn System, effect: &Effect) -> Result<(), Broken> {
    let run = |command: &Command, already: Option<&str>| {
        let output = system.run(command);
        // vim-cmd answers some failures with exit status 0.
        let said_no = command.program == "vim-cmd" && output.stdout.lines().any(|l| l.contains(" failed: ") || l.starts_with("Failed to"));
        if (output.ok() && !said_no) || already.is_some_and(|text| output.both().contains(text)) {
            Ok(())
        } else {
            Err(Broken { why: failure(command, &output), output: Some(output) })
        }
    };
    let words = |trouble: Trouble| Broken::from(trouble.to_string());
    match effect {
        Effect::Run { command, already } => run(command, already.as_deref()),
        Effect::Require { command, shows, otherwise } => match system.run(command) {
            output if output.ok() && output.stdout.contains(shows.as_str()) => Ok(()),
            output => Err(format!("{otherwise} ({})", failure(command, &output)).into()),
        },
        Effect::RunUntil { command, done, shows, deadline_secs, otherwise, give_up } => {
            let started = run(command, None);
            let start = system.elapsed();
            loop {
                // Looked at even where the command failed: one that was cut off at its deadline may have come through.
                if system.run(done).stdout.contains(shows.as_str()) {
                    return Ok(());
                }
                // One that was cut off at its deadline may only be slow: hostd goes on with it.
                let hopeless = started.as_ref().is_err_and(|b| !matches!(b.output.as_ref().map(|o| &o.ended), Some(Ended::TimedOut(_))));
                if hopeless || system.elapsed() - start >= Duration::from_secs((*deadline_secs).into()) {
                    break;
                }
                system.sleep(Duration::from_secs(1));
            }
            let ended = match (otherwise, started) {
                (Some(last), _) => run(last, None),
                (None, Err(why)) => Err(why),
                (None, Ok(())) => Err(format!("`{command}` ran, but `{done}` did not show \"{shows}\" within {deadline_secs} s").into()),
            };
            if let (Err(_), Some(command)) = (&ended, give_up) {
                // The first failure is the one that tells something.
                drop(system.run(command));
            }
            ended
        }
        Effect::Write { path, contents, .. } if hides(contents) => {
            Err(format!("{path}: a password would be lost: nothing was written").into())
        }
        Effect::Write { path, contents, mode } => system.write(path, contents.as_bytes(), *mode).map_err(words),
        Effect::Copy { from, to, mode } => system.copy(from, to, *mode).map_err(words),
        Effect::EditVmx { path, set } => {
            let before = system.read(path, READ_LIMIT).map_err(words)?;
            let after = vmx::edit(&before, set);
            if after == before {
                return Ok(());
            }
            system.write(&format!("{path}.before-vsgpu"), &before, 0o600).map_err(words)?;
            system.write(path, &after, 0o755).map_err(words)
        }
        Effect::DeriveVmx { from, to, set } => {
            let base = system.read(from, READ_LIMIT).map_err(words)?;
            system.write(to, &vmx::edit(&base, set), 0o755).map_err(words)
        }
        Effect::EditLines { path, section, set } => {
            let before = match system.read(path, READ_LIMIT) {
                // Lines that are not ours stay as they are, byte by byte.
                Ok(bytes) => String::from_utf8(bytes).map_err(|_| format!("{path} is not UTF-8: edit it by hand, or convert it"))?,
                Err(Trouble::NotFound(_)) => String::new(),
                Err(trouble) => return Err(words(trouble)),
            };
            let after = lines::set(&before, section.as_deref(), set);
            if after == before { Ok(()) } else { system.write(path, after.as_bytes(), KEEP_MODE).map_err(words) }
        }
        Effect::Remove { path } => system.remove(path).map_err(words),
        Effect::Record { commands, path, beside } => {
            let outputs: Vec<Value> = commands.iter().map(|c| json!({ "command": c.to_string(), "output": system.run(c) })).collect();
            let kept = system.read(beside, READ_LIMIT).ok().map(|b| String::from_utf8_lossy(&b).into_owned());
            let record = json!({ "version": 1, "at": system.now(), "boot_id": system.boot_id().map_err(words)?, "beside": kept, "outputs": outputs });
            system.write(path, record.to_string().as_bytes(), 0o644).map_err(words)
        }
    }
}
