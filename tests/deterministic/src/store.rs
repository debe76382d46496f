//! The journal of a run of 25 steps on a disk that fails, is cut and lies: at every write, at every byte.

use crate::disk::MemoryDisk;
use std::collections::BTreeMap;
use vsgpu::fleet::Deadlines;
use vsgpu::hold::Hold;
use vsgpu::journal::{self, EndReason, Journal, Purpose, Record, StepState, Stored};
use vsgpu::node::{NodeId, NodeKind};
use vsgpu::plan::{Plan, Rollout, Step, VERSION, Work};

const STEPS: usize = 25;

/// Every record of a run of 25 steps, in which one failed and was tried again.
pub fn records() -> Vec<Record> {
    let step = |id: usize| Step {
        id,
        node: NodeId::new(NodeKind::Host, "esx-01"),
        title: "assignment-policy".into(),
        change: "Performance -> Consolidation".into(),
        commands: [].into(),
        work: Work::Meet {
            requirement: "assignment-policy".into(),
            spec: std::sync::Arc::new("Consolidation".into()),
            expect: None,
        },
        after: if id > 1 { vec![id - 1] } else { vec![] },
        restores: None,
        restores_earlier: false,
        connect_secs: 10,
        deadline_secs: 60,
        host: "esx-01".into(),
        disrupts: false,
        moves: None,
        before: None,
    };
    let plan = Plan {
        version: VERSION,
        fleet_file: "/fleet.yaml".into(),
        fleet: "digest".into(),
        steps: (1..=STEPS).map(step).collect(),
        reaches: BTreeMap::new(),
        deadlines: Deadlines::default(),
        met: 0,
        rollout: Rollout::default(),
        network: None,
    };
    let mut all = vec![Record::Planned {
        at: 1,
        run: "run".into(),
        purpose: Purpose::Apply,
        plan: Box::new(plan),
        in_maintenance: Default::default(),
        stopped: Default::default(),
        unsettled: Default::default(),
        rebooted: BTreeMap::new(),
        held: BTreeMap::new(),
    }];
    for step in 1..=STEPS {
        all.push(Record::Started { at: 2, step, boot_id: "boot".into() });
        if step == 7 {
            all.push(Record::Failed { at: 3, step, error: "not today\n{}".into(), hold: Hold::Failed });
            all.push(Record::Started { at: 4, step, boot_id: "boot".into() });
        }
        all.push(Record::Done { at: 5, step, note: "Consolidation".into(), theirs: false });
    }
    all.push(Record::Ended { at: 6, how: EndReason::Finished });
    all
}

fn written(disk: &MemoryDisk, records: &[Record]) -> Result<(), String> {
    let mut journal = Journal::open(disk, 1, None).map_err(|e| e.to_string())?;
    records.iter().try_for_each(|r| journal.record(r)).map_err(|e| e.to_string())
}

/// The state that the first `n` records make.
fn after(n: usize) -> Option<Vec<StepState>> {
    let all = records();
    let mut status = journal::Status::first(all.first().filter(|_| n > 0)?.clone()).ok()?;
    all[1..n].iter().for_each(|r| status.next(r).unwrap());
    Some(status.steps)
}

fn read(disk: &MemoryDisk) -> Result<Option<Stored>, String> {
    journal::latest(disk).map_err(|e| e.message)
}

/// A run is read to the last record that was told to be written, whatever write failed; and it can be gone on
/// with.
///
/// # Errors
/// What broke.
pub fn every_write_fails() -> Result<usize, String> {
    let all = records();
    for fails in 0..all.len() {
        for tears in [false, true] {
            let disk = MemoryDisk::default();
            disk.fail(fails, 1, tears);
            let mut journal = Journal::open(&disk, 1, None).map_err(|e| e.to_string())?;
            let mut told = 0;
            for record in &all {
                match journal.record(record) {
                    Ok(()) => told += 1,
                    Err(error) if error.hints.is_empty() => {
                        return Err(format!("no way out is named: {error}"));
                    }
                    Err(_) => break,
                }
            }
            if told != fails {
                return Err(format!("write {fails} failed, and {told} were said to be written"));
            }
            // Nothing more is taken after that: it would stand behind a hole.
            if journal.record(&all[fails]).is_ok() {
                return Err("a journal that failed took another record".into());
            }
            let seen = read(&disk)?;
            if seen.as_ref().map(|s| s.status.steps.clone()) != after(fails) {
                return Err(format!(
                    "write {fails} failed (tears: {tears}): what was written before is not what is read"
                ));
            }
            let Some(stored) = seen else { continue };
            let mut journal = Journal::open(&disk, 1, Some(stored.good_bytes)).map_err(|e| e.to_string())?;
            all[fails..].iter().try_for_each(|r| journal.record(r)).map_err(|e| e.to_string())?;
            let whole = read(&disk)?.ok_or("nothing is read")?;
            if whole.damage.is_some() || Some(whole.status.steps) != after(all.len()) {
                return Err(format!(
                    "write {fails} failed (tears: {tears}): gone on with, it is not whole: {:?}",
                    whole.damage
                ));
            }
        }
    }
    Ok(2 * all.len())
}

/// Cut anywhere, a run is what was whole by then, and nothing is damage.
///
/// # Errors
/// What broke.
pub fn cut_anywhere() -> Result<usize, String> {
    let disk = MemoryDisk::default();
    written(&disk, &records())?;
    let bytes = disk.files()[&1].clone();
    let ends: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b'\n').map(|at| at + 1).collect();
    for cut in 0..bytes.len() {
        let whole = ends.iter().filter(|end| **end <= cut).count();
        // A hole where the file system had given the room but not yet the bytes.
        for holes in [0, 64] {
            disk.put(1, &[&bytes[..cut], &vec![0; holes]].concat());
            let seen = read(&disk).map_err(|e| format!("cut at {cut}: {e}"))?;
            if let Some(damage) = seen.as_ref().and_then(|s| s.damage.clone()) {
                return Err(format!("cut at {cut}: a torn end is called damage: {damage}"));
            }
            if seen.map(|s| s.status.steps) != after(whole) {
                return Err(format!("cut at {cut}: not the {whole} records that were whole"));
            }
        }
    }
    Ok(bytes.len())
}

/// One flipped bit anywhere in what was written and told is said, and never taken for something else.
///
/// # Errors
/// What broke.
pub fn flipped_anywhere() -> Result<usize, String> {
    let disk = MemoryDisk::default();
    written(&disk, &records())?;
    let bytes = disk.files()[&1].clone();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        disk.put(1, &flipped);
        match read(&disk) {
            Err(_) => {}
            Ok(Some(stored)) if stored.damage.is_some() => {}
            Ok(seen) => {
                return Err(format!(
                    "a flipped bit at {at} of {} was not seen ({:?})",
                    bytes.len(),
                    seen.map(|s| s.good_bytes)
                ));
            }
        }
    }
    Ok(bytes.len())
}

/// A bad run stops no other, and damage in the middle hides nothing behind it.
///
/// # Errors
/// What broke.
pub fn a_bad_run_stops_no_other() -> Result<usize, String> {
    let disk = MemoryDisk::default();
    written(&disk, &records())?;
    let good = disk.files()[&1].clone();
    disk.put(1, b"rubbish\nrubbish\n");
    disk.put(2, &good);
    let latest = read(&disk)?.ok_or("nothing is read")?;
    if latest.number != 2 || latest.damage.is_some() {
        return Err("an older, damaged run stands in the way".into());
    }
    let third = good.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(2).map(|(at, _)| at).unwrap();
    let mut damaged = good;
    damaged[third - 3] ^= 4;
    disk.put(2, &damaged);
    let latest = read(&disk)?.ok_or("nothing is read")?;
    let done = latest.status.steps.iter().filter(|s| matches!(s, StepState::Done { .. })).count();
    match latest.damage {
        Some(damage) if damage.contains("damaged at byte") && done >= STEPS - 1 => Ok(2),
        other => Err(format!("damage in the middle: {other:?}, {done} steps known")),
    }
}

/// What a power cut may take is only what nobody was told.
///
/// # Errors
/// What broke.
pub fn what_was_told_survives_a_power_cut() -> Result<usize, String> {
    let all = records();
    for told in 0..=all.len() {
        let disk = MemoryDisk::default();
        written(&disk, &all[..told])?;
        disk.power_cut(&mut crate::Rng::new(told as u64));
        if read(&disk)?.map(|s| s.status.steps) != after(told) {
            return Err(format!("{told} records were told to be written, and a power cut took some of them"));
        }
    }
    Ok(all.len())
}

/// All of it.
///
/// # Errors
/// What broke first.
pub fn all() -> Result<usize, String> {
    Ok(every_write_fails()?
        + cut_anywhere()?
        + flipped_anywhere()?
        + a_bad_run_stops_no_other()?
        + what_was_told_survives_a_power_cut()?)
}
