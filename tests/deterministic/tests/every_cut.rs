//! Laws over whole plans: cut at each record and at each pair of records, at each command and each pair of
//! both, fail each. Of the fleets with guests the short form takes every so-many-th case; `VSGPU_EVERY=1
//! cargo test --release -p vsgpu-deterministic
//! --test exact -- --nocapture` takes them all.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use vsgpu_deterministic::every_cut::{Cuts, Subject};
use vsgpu_deterministic::lab_fleets::Example;

fn all(what: &str, subject: &Subject<'_>, cases: &[Cuts]) {
    let (next, workers) = (AtomicUsize::new(0), std::thread::available_parallelism().map_or(2, usize::from));
    let begun = std::time::Instant::now();
    let broken: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            let cases = std::iter::from_fn(|| cases.get(next.fetch_add(1, Ordering::SeqCst)));
            cases.filter_map(|c| subject.run(c).err()).collect::<Vec<_>>()
        };
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        running.into_iter().flat_map(|w| w.join().unwrap()).collect()
    });
    println!("{what}: {} cases in {:.1?}", cases.len(), begun.elapsed());
    assert!(
        broken.is_empty(),
        "{} of {} broke\n{}",
        broken.len(),
        cases.len(),
        broken[..broken.len().min(3)].join("\n")
    );
}

/// Each record, each pair of records.
fn records(subject: &Subject<'_>) -> Vec<Cuts> {
    let one = (1..=subject.records).map(|n| Cuts { records: vec![n], ..Cuts::default() });
    let two = (1..=subject.records)
        .flat_map(|n| (n..=subject.records).map(move |m| Cuts { records: vec![n, m], ..Cuts::default() }));
    one.chain(two).collect()
}

/// Each command, each command with each record.
fn commands(subject: &Subject<'_>) -> Vec<Cuts> {
    let (commands, records) = (subject.commands.len(), subject.records);
    let one = (1..=commands).map(|n| Cuts { commands: vec![n], ..Cuts::default() });
    let two = (1..=commands).flat_map(|n| {
        (1..=records).map(move |m| Cuts { commands: vec![n], records: vec![m], ..Cuts::default() })
    });
    one.chain(two).collect()
}

/// Each command that was called fails.
fn failures(subject: &Subject<'_>) -> Vec<Cuts> {
    let calls: BTreeSet<_> = subject.commands.iter().cloned().collect();
    calls.into_iter().map(|call| Cuts { fails: Some(call), ..Cuts::default() }).collect()
}

fn every(cases: Vec<Cuts>, of: usize) -> Vec<Cuts> {
    let of = std::env::var("VSGPU_EVERY").ok().and_then(|n| n.parse().ok()).unwrap_or(of);
    cases.into_iter().step_by(of).collect()
}

#[test]
fn one_host_cut_everywhere() {
    let subject = Subject::one_host().unwrap();
    all("one host, records", &subject, &records(&subject));
    all("one host, commands", &subject, &commands(&subject));
    all("one host, failures", &subject, &failures(&subject));
}

#[test]
fn a_guest_with_a_vgpu_cut_everywhere() {
    let example = Example::small();
    let subject = Subject::of(&example).unwrap();
    all("vGPU and guest, records", &subject, &every(records(&subject), 97));
    all("vGPU and guest, commands", &subject, &every(commands(&subject), 251));
    all("vGPU and guest, failures", &subject, &every(failures(&subject), 2));
}

#[test]
fn the_demo_and_the_large_example_cut_here_and_there() {
    for (name, example, part) in [("demo", Example::demo(), 45), ("large.yaml", Example::large(), 90)] {
        let subject = Subject::of(&example).unwrap();
        all(&format!("{name}, records"), &subject, &every(records(&subject), 97 * part));
        all(&format!("{name}, commands"), &subject, &every(commands(&subject), 197 * part));
        all(&format!("{name}, failures"), &subject, &every(failures(&subject), part / 3));
    }
}
