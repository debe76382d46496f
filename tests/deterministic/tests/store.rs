//! The journal's store: fail, cut and flip at every write of a run of 25 steps; group commit.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use vsgpu::error::Error;
use vsgpu::journal::{Disk, Journal, Log, Record, Status, Store as _};
use vsgpu_deterministic::store;

#[test]
fn fail_cut_and_flip_at_every_write() {
    println!("{} cases", store::all().unwrap_or_else(|why| panic!("{why}")));
}

/// A disk whose flush takes a while; it counts them.
#[derive(Clone, Default)]
struct Slow(Arc<AtomicUsize>);

impl Log for Slow {
    fn append(&mut self, _: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
    fn sync(&mut self) -> std::io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(std::time::Duration::from_millis(20));
        Ok(())
    }
}

impl Disk for Slow {
    fn numbers(&self) -> Vec<u32> {
        vec![]
    }
    fn read(&self, _: u32) -> Result<Vec<u8>, Error> {
        Ok(vec![])
    }
    fn open(&self, _: u32, _: Option<u64>) -> Result<Box<dyn Log>, Error> {
        Ok(Box::new(self.clone()))
    }
    fn name(&self, number: u32) -> String {
        format!("run {number}")
    }
}

#[test]
fn many_nodes_share_a_flush() {
    let slow = Slow::default();
    let mut journal = Journal::open(&slow, 1, None).unwrap().threaded();
    let records = store::records();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let writing: Vec<_> = (0..100).map(|n| journal.append(&records[1 + n % 20])).collect();
    for one in writing {
        runtime.block_on(one).unwrap();
    }
    let flushes = slow.0.load(Ordering::SeqCst);
    assert!(flushes <= 5, "{flushes} flushes for 100 records of nodes beside each other");
}

/// Whatever the agents were told about the trace is in the document that is made of it: after a failure,
/// after a kill (each step is begun twice here), and where the run was given up in the middle.
#[test]
fn what_agents_are_told_is_in_the_trace() {
    let twice = |record: Record| {
        if matches!(record, Record::Started { .. }) { vec![record.clone(), record] } else { vec![record] }
    };
    let all: Vec<Record> = store::records().into_iter().flat_map(twice).collect();
    let mut status = Status::first(all[0].clone()).unwrap();
    let mut told = std::collections::BTreeSet::new();
    for n in 1..all.len() {
        if let Record::Started { step, .. } = &all[n] {
            let parent = vsgpu::journal::trace::parent("run", *step, status.failures(*step));
            assert_eq!(parent.trace, vsgpu::journal::trace::id("run"));
            told.insert(parent.span);
        }
        status.next(&all[n]).unwrap();
        let document = vsgpu::journal::trace::document(&all[..=n]).unwrap();
        let spans = document["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
        let seen = spans[1..].iter().map(|s| s["spanId"].as_str().unwrap().to_string()).collect();
        assert_eq!(told, seen, "after {n} records");
        assert_eq!(spans.len(), told.len() + 1, "after {n} records");
    }
    assert_eq!(told.len(), 26, "25 steps, one of which was tried twice");
}
