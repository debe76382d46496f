//! Looking at a machine: distinct probes run once, beside each other; a failure is kept per fact.

use crate::catalogue::FactEntry;
use crate::effect::Probe;
use crate::observation::{Answer, Observation, Unreadable};
use crate::requirement::{Fact, Subject};
use crate::system::{IoError, OpenedBy, System};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

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
pub fn facts_as_json<N: AsRef<str>, V: std::borrow::Borrow<Value>>(
    facts: &BTreeMap<N, Result<V, Unreadable>>,
) -> Value {
    let value = |fact: &Result<V, Unreadable>| match fact {
        Ok(value) => value.borrow().clone(),
        Err(error) => json!({ "error": error }),
    };
    facts
        .iter()
        .map(|(name, fact)| (name.as_ref().to_string(), value(fact)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Looks at a machine for these facts. Distinct probes run once, concurrently; a failure is kept per fact.
pub fn observe(system: &dyn System, on: &Subject, facts: &[FactEntry]) -> Facts {
    let mut seen = Observation::default();
    let mut asked: BTreeMap<&str, (&FactEntry, Subject)> = BTreeMap::new();
    for fact in facts {
        let (_, on) = asked.entry(fact.name).or_insert_with(|| (fact, on.clone()));
        on.vmx_keys.extend(fact.vmx_keys);
    }
    run_probes(system, &mut seen, |seen| {
        asked.values().flat_map(|(fact, on)| (fact.probes)(on, seen)).collect()
    });
    asked.into_iter().map(|(name, (fact, on))| (name.to_string(), (fact.parse)(&on, &seen))).collect()
}

/// Asks in rounds, until nothing new is asked.
pub(crate) fn run_probes(
    system: &dyn System,
    seen: &mut Observation,
    ask: impl Fn(&Observation) -> Vec<Probe>,
) {
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
                let beside = |p| {
                    std::thread::Builder::new().spawn_scoped(scope, move || answer(system, p)).map_err(|_| p)
                };
                let others: Vec<_> = group[1..].iter().map(beside).collect();
                let first = std::panic::catch_unwind(AssertUnwindSafe(|| answer(system, &group[0])));
                let join = |other: Result<std::thread::ScopedJoinHandle<'_, Answer>, &Probe>| match other {
                    Ok(thread) => thread.join(),
                    Err(p) => std::panic::catch_unwind(AssertUnwindSafe(|| answer(system, p))),
                };
                let all = std::iter::once(first).chain(others.into_iter().map(join));
                all.map(|a| a.unwrap_or_else(|_| Answer::Text(Err(broken("probe", "the probe panicked")))))
                    .collect()
            });
            seen.0.extend(group.iter().cloned().zip(answers));
        }
    }
}

fn broken(path: &str, why: &str) -> IoError {
    IoError::Other { path: path.into(), why: why.into() }
}

fn answer(system: &dyn System, probe: &Probe) -> Answer {
    let text = |bytes: Result<Vec<u8>, IoError>| {
        Answer::Text(bytes.map(|b| String::from_utf8_lossy(&b).into_owned()))
    };
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
            let lines = |holders: Vec<OpenedBy>| {
                holders.iter().map(|h| json!(h).to_string()).collect::<Vec<_>>().join("\n")
            };
            Answer::Text(system.holders(prefix).map(lines))
        }
        Probe::Size(path) => Answer::Text(system.size(path).and_then(|size| match size {
            Some(bytes) => Ok(bytes.to_string()),
            None => Err(IoError::NotFound(path.clone())),
        })),
        Probe::Machine => Answer::Text(system.machine().map(|machine| json!(machine).to_string())),
        Probe::Inventory(what) => Answer::Text(system.inventory(what)),
        Probe::Now => Answer::Text(Ok(system.now().to_string())),
        Probe::BootId => Answer::Text(system.boot_id()),
        Probe::KernelRelease => Answer::Text(Ok(system.kernel_release())),
    }
}
