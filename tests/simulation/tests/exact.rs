//! Laws over a whole plan: cut at each record and at each pair of records, at each command and each pair of both, fail each.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

use std::sync::atomic::{AtomicUsize, Ordering};
use vsgpu_simulation::exact::{Cuts, clean, run};

fn all(cases: Vec<Cuts>) {
    let (next, workers) = (AtomicUsize::new(0), std::thread::available_parallelism().map_or(2, usize::from));
    let broken: Vec<String> = std::thread::scope(|scope| {
        let work =
            || std::iter::from_fn(|| cases.get(next.fetch_add(1, Ordering::SeqCst))).filter_map(|c| run(c).err()).collect::<Vec<_>>();
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        running.into_iter().flat_map(|w| w.join().unwrap()).collect()
    });
    println!("{} cases", cases.len());
    assert!(broken.is_empty(), "{} of {} broke\n{}", broken.len(), cases.len(), broken[..broken.len().min(3)].join("\n"));
}

#[test]
fn cut_at_each_record_and_each_pair() {
    let (records, _) = clean().unwrap();
    let one = (1..=records).map(|n| Cuts { records: vec![n], ..Cuts::default() });
    let two = (1..=records).flat_map(|n| (n..=records).map(move |m| Cuts { records: vec![n, m], ..Cuts::default() }));
    all(one.chain(two).collect());
}

#[test]
fn the_agent_is_killed_behind_each_command_and_the_controller_cut_at_each_record() {
    let (records, commands) = clean().unwrap();
    let one = (1..=commands.len()).map(|n| Cuts { commands: vec![n], ..Cuts::default() });
    let two =
        (1..=commands.len()).flat_map(|n| (1..=records).map(move |m| Cuts { commands: vec![n], records: vec![m], ..Cuts::default() }));
    all(one.chain(two).collect());
}

#[test]
fn each_command_fails_once() {
    let (_, commands) = clean().unwrap();
    all(commands.into_iter().map(|call| Cuts { fails: Some(call), ..Cuts::default() }).collect());
}
