//! Every failpoint, switched on: the suites must find the fault. A suite that misses one is not done.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

use vsgpu_core::failpoint::{Fault, is_on, set};
use vsgpu_deterministic::network_gpu::Trial;
use vsgpu_deterministic::scenario::{Scenario, run};
use vsgpu_deterministic::{network_gpu, pool, store};

/// Seeds tried before a fault counts as missed.
const SEEDS: u64 = 120;

/// What finds a fault.
enum Suite {
    /// Runs of controllers and agents.
    Runs(Scenario),
    /// The store of a run's records.
    Store,
    /// Lives of a GPU server's pool.
    Pool,
    /// Programs for GPUs over the network, in real time.
    NetworkGpu(Trial),
}

/// Which suite is to find it.
fn suite(fault: Fault) -> Suite {
    Suite::Runs(match fault {
        Fault::NoFsync | Fault::ResultBeforeIntent | Fault::BudgetOffByOne | Fault::RebootWithoutBootId => {
            Scenario::Crashes
        }
        Fault::NoFence => Scenario::Overtaken,
        Fault::LeaseIgnored => Scenario::Together,
        Fault::UnknownIsDone => Scenario::Network,
        Fault::AskedTwiceRunsTwice | Fault::NothingGivenBack | Fault::BreakerIgnored => Scenario::Failing,
        Fault::DriftIgnored => Scenario::Drift,
        Fault::TakenByAnotherIsOurs => Scenario::Another,
        Fault::TornTailKept | Fault::ChecksumIgnored | Fault::WriteErrorIgnored => return Suite::Store,
        Fault::SlotFreedEarly | Fault::QuotaOfNode | Fault::NewestFirst | Fault::BypassWithoutEnd => {
            return Suite::Pool;
        }
        Fault::TicketOfAnybody => return Suite::NetworkGpu(Trial::Ticket),
        Fault::IdleByBytes => return Suite::NetworkGpu(Trial::Idle),
        Fault::AnybodysPort => return Suite::NetworkGpu(Trial::Port),
    })
}

fn found(fault: Fault) -> Option<String> {
    set(Some(fault));
    assert!(is_on(fault), "the tests are built without failpoints");
    let result = match suite(fault) {
        Suite::Store => store::all().err(),
        Suite::Pool => (0..SEEDS).find_map(|seed| pool::live(seed, 2_000).err()),
        Suite::NetworkGpu(trial) => network_gpu::live(trial).err(),
        Suite::Runs(scenario) => {
            (0..SEEDS).find_map(|seed| run(scenario, seed).err().map(|why| format!("seed {seed}: {why}")))
        }
    };
    set(None);
    result
}

fn every_fault_is_found() {
    let mut missed = vec![];
    for fault in Fault::ALL.into_iter().filter(|fault| *fault != Fault::AnybodysPort) {
        match found(fault) {
            Some(why) => println!("{fault:?}: found: {}", why.lines().next().unwrap_or_default()),
            None => missed.push(fault),
        }
    }
    assert!(missed.is_empty(), "nobody found {missed:?}");
}

/// Its suite comes as another local user.
fn the_fault_of_anybodys_port_is_found() {
    network_gpu::live(Trial::Port).unwrap();
    assert!(found(Fault::AnybodysPort).is_some(), "nobody found {:?}", Fault::AnybodysPort);
}

fn without_a_fault_nothing_is_found_in_the_programs_for_network_gpus() {
    for trial in [Trial::Ticket, Trial::Idle] {
        network_gpu::live(trial).unwrap();
    }
}

fn main() -> std::process::ExitCode {
    vsgpu_tests::harness::main(&[("", TESTS)])
}

const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    every_fault_is_found,
    the_fault_of_anybodys_port_is_found[Root],
    without_a_fault_nothing_is_found_in_the_programs_for_network_gpus,
];
