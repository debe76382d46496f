//! Bugs planted on purpose: the suites must find every one. A suite that misses one is not done.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

use vsgpu_core::planted::{Bug, plant, planted};
use vsgpu_simulation::scenario::{Scenario, run};
use vsgpu_simulation::store;

/// Seeds tried before a bug counts as missed.
const SEEDS: u64 = 120;

/// Which suite is to find it.
fn suite(bug: Bug) -> Option<Scenario> {
    Some(match bug {
        Bug::NoFsync | Bug::ResultBeforeIntent | Bug::BudgetOffByOne | Bug::RebootWithoutBootId => Scenario::Crashes,
        Bug::NoFence => Scenario::Overtaken,
        Bug::LeaseIgnored => Scenario::Together,
        Bug::UnknownIsDone => Scenario::Network,
        Bug::AskedTwiceRunsTwice | Bug::NothingGivenBack | Bug::BreakerIgnored => Scenario::Failing,
        Bug::DriftIgnored => Scenario::Drift,
        Bug::TakenByAnotherIsOurs => Scenario::Another,
        Bug::TornTailKept | Bug::ChecksumIgnored | Bug::WriteErrorIgnored => return None,
    })
}

fn found(bug: Bug) -> Option<String> {
    plant(Some(bug));
    assert!(planted(bug), "the tests are built without planted bugs");
    let result = match suite(bug) {
        None => store::all().err(),
        Some(scenario) => (0..SEEDS).find_map(|seed| run(scenario, seed).err().map(|why| format!("seed {seed}: {why}"))),
    };
    plant(None);
    result
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = vec![];
    for bug in Bug::ALL {
        match found(bug) {
            Some(why) => println!("{bug:?}: found: {}", why.lines().next().unwrap_or_default()),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "nobody found {missed:?}");
}
