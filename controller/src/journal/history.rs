//! How long steps took in earlier runs: what an estimate of the remaining time rests on.

use crate::journal::record::Record;
use crate::journal::store::{Disk, commits};
use std::collections::BTreeMap;

/// Runs that are looked at, the latest first.
const RUNS: usize = 5;

/// Mean seconds of a step by its title (`vgpu-manager`, `reboot`, `send`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History(BTreeMap<String, f64>);

impl History {
    /// From the journals of a fleet. What cannot be read teaches nothing and hurts nobody.
    pub fn of(disk: &dyn Disk) -> Self {
        let texts = disk.numbers().into_iter().take(RUNS).filter_map(|number| disk.read(number).ok());
        Self::from_records(texts.map(|bytes| commits(&bytes).0.into_iter().flatten().collect()))
    }

    fn from_records(runs: impl Iterator<Item = Vec<Record>>) -> Self {
        let mut sums: BTreeMap<String, (f64, u32)> = BTreeMap::new();
        for records in runs {
            let Some(Record::Planned { plan, .. }) = records.first() else { continue };
            let mut begun = BTreeMap::new();
            for record in &records {
                match record {
                    Record::Started { at, step, .. } => drop(begun.insert(*step, *at)),
                    Record::Done { at, step, .. } => {
                        let from = begun.remove(step).and_then(|begun| at.checked_sub(begun));
                        if let (Some(took), Some(planned)) =
                            (from, step.checked_sub(1).and_then(|at| plan.steps.get(at)))
                        {
                            let sum = sums.entry(planned.title.clone()).or_default();
                            // Records have whole seconds: a step that shows none took half of one.
                            *sum = (sum.0 + (took as f64).max(0.5), sum.1 + 1);
                        }
                    }
                    _ => {}
                }
            }
        }
        Self(sums.into_iter().map(|(title, (sum, count))| (title, sum / f64::from(count))).collect())
    }

    /// Seconds of a step with this title, where one was seen.
    pub fn seconds(&self, title: &str) -> Option<f64> {
        self.0.get(title).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_takes_as_long_as_it_took() {
        let history = History([("reboot".to_string(), 300.0)].into());
        assert_eq!((history.seconds("reboot"), history.seconds("mig")), (Some(300.0), None));
        assert_eq!(
            History::from_records(
                [vec![Record::Started { at: 1, step: 1, boot_id: String::new() }]].into_iter()
            ),
            History::default()
        );
    }
}
