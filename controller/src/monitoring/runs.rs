//! What the journals tell monitoring systems: the latest run in detail, and the last ones over time.

use crate::journal::outcome::{NodeState, nodes};
use crate::journal::{self, Disk as _, Folder, Purpose, Status, StepState};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use vsgpu_wire::metrics::Sample;

/// Runs that are shown over time.
const LAST: usize = 20;

type Which = fn(&StepState) -> bool;

/// Steps by their state, as both series name them.
const STATES: [(&str, Which); 4] = [
    ("waiting", |s| matches!(s, StepState::Waiting)),
    ("started", |s| matches!(s, StepState::Started { .. })),
    ("done", |s| matches!(s, StepState::Done { .. })),
    ("failed", |s| matches!(s, StepState::Failed { .. })),
];

/// The runs of one fleet. What has ended is read once: a journal of thousands of hosts is large.
#[derive(Default)]
pub(super) struct Runs {
    folder: PathBuf,
    ended: Mutex<BTreeMap<u32, Vec<Sample>>>,
}

impl Runs {
    pub(super) fn of(folder: PathBuf) -> Self {
        Self { folder, ..Self::default() }
    }

    pub(super) fn samples(&self) -> Vec<Sample> {
        let mut all = of_latest(&self.folder);
        let disk = Folder(self.folder.clone());
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let last: Vec<u32> = disk.numbers().into_iter().take(LAST).collect();
        ended.retain(|number, _| last.contains(number));
        for (at, number) in last.into_iter().enumerate() {
            if let Some(known) = ended.get(&number) {
                all.extend(known.iter().cloned());
                continue;
            }
            let Ok(Some(run)) = journal::numbered(&disk, number) else {
                // Only the newest can still change.
                if at > 0 {
                    ended.insert(number, vec![]);
                }
                continue;
            };
            let samples = of_run(number, &run.status);
            if run.status.ended.is_some() {
                ended.insert(number, samples.clone());
            }
            all.extend(samples);
        }
        all
    }
}

/// One of the last runs.
fn of_run(number: u32, status: &Status) -> Vec<Sample> {
    let purpose = if status.purpose == Purpose::Rollback { "rollback" } else { "apply" };
    let labels = || vec![("run", number.to_string()), ("purpose", purpose.to_string())];
    let help = "When a run began; the last twenty runs";
    let mut all = vec![Sample::new("runs_begin_timestamp_seconds", help, labels(), status.begun as f64)];
    if let Some((end, _)) = status.ended {
        let took = end.saturating_sub(status.begun) as f64;
        all.push(Sample::new("runs_duration_seconds", "How long a run took that has ended", labels(), took));
    }
    for (name, which) in STATES {
        let count = status.steps.iter().filter(|s| which(s)).count();
        let labels = [labels(), vec![("state", name.into())]].concat();
        all.push(Sample::new("runs_steps", "Steps of a run, by state", labels, count as f64));
    }
    all
}

/// What the journal tells of the latest run. A journal that cannot be read has no values; the nodes' own are
/// not affected.
fn of_latest(folder: &std::path::Path) -> Vec<Sample> {
    let sample = Sample::new;
    let at_work = journal::at_work(folder).is_some();
    let mut all = vec![sample("controller_at_work", "1: a run is going on now", vec![], f64::from(at_work))];
    let latest = journal::latest(&Folder(folder.into()));
    all.push(sample(
        "runs_readable",
        "1: the records of runs could be read",
        vec![],
        f64::from(latest.is_ok()),
    ));
    let Ok(Some(run)) = latest else { return all };
    let status = &run.status;
    all.push(sample("run_number", "Number of the latest run", vec![], f64::from(run.number)));
    all.push(sample("run_begin_timestamp_seconds", "When the latest run began", vec![], status.begun as f64));
    let unfinished = "1: the latest run is not finished, whether somebody is at work or not";
    all.push(sample("run_unfinished", unfinished, vec![], f64::from(status.ended.is_none())));
    if let Some((end, _)) = status.ended {
        let seconds = end.saturating_sub(status.begun) as f64;
        all.push(sample("run_duration_seconds", "How long the latest run took", vec![], seconds));
    }
    for (name, which) in STATES {
        let count = status.steps.iter().filter(|s| which(s)).count();
        all.push(sample(
            "run_steps",
            "Steps of the latest run, by state",
            vec![("state", name.into())],
            count as f64,
        ));
    }
    let mut by_state: BTreeMap<&str, usize> = NodeState::WORDS.iter().map(|word| (*word, 0)).collect();
    for (node, state) in nodes(&run, at_work) {
        *by_state.entry(state.word()).or_default() += 1;
        if let NodeState::Held { held, .. } = state {
            let hold = serde_json::to_value(held.hold)
                .ok()
                .and_then(|v| v.as_str().map(String::from))
                .unwrap_or_default();
            // As the other series name it: the guest of a VM is `vm-01` with its role.
            let (name, role) = node.strip_suffix(" (guest)").map_or((node.as_str(), ""), |vm| (vm, "guest"));
            let labels = vec![("node", name.into()), ("role", role.into()), ("hold", hold)];
            all.push(sample("node_held", "1: the node is held, and why", labels, 1.0));
        }
    }
    for (word, count) in by_state {
        let help = "Nodes of the latest run, by what became of them";
        all.push(sample("run_nodes", help, vec![("state", word.into())], count as f64));
    }
    all
}
