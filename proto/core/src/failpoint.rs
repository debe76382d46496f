//! Failpoints: faults that tests switch on, to prove that the suites would find them. A suite that misses one
//! is not done.
//!
//! Without the feature `failpoints` (only the tests' crate turns it on) every failpoint is constantly off and
//! costs nothing. With it a fault is switched on from Rust code alone: no option, file or variable of a
//! shipped program reaches it.

/// A fault that was, or could have been, made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A record is not flushed before the act.
    NoFsync = 1,
    /// The agent takes changes of an overtaken controller.
    NoFence,
    /// The agent gives the node away while another's lease is live.
    LeaseIgnored,
    /// The result of a step is recorded when it begins.
    ResultBeforeIntent,
    /// One host too many is unavailable.
    BudgetOffByOne,
    /// A reboot counts as done when the agent answers, whatever the boot and what it brought.
    RebootWithoutBootId,
    /// An operation asked twice runs twice.
    AskedTwiceRunsTwice,
    /// A lost connection counts as success.
    UnknownIsDone,
    /// A run goes on behind a torn record.
    TornTailKept,
    /// Checksums are not looked at.
    ChecksumIgnored,
    /// What was changed temporarily is not restored after a failure.
    NothingGivenBack,
    /// What this run made so is not looked at again before the next change.
    DriftIgnored,
    /// The rollout goes on whatever fails.
    BreakerIgnored,
    /// A record that could not be written is taken for written.
    WriteErrorIgnored,
    /// A host that somebody else put into maintenance mode is brought out of it.
    TakenByAnotherIsOurs,
    /// A slot of a GPU server is given on before the engine that was on it is gone.
    SlotFreedEarly,
    /// A quota counts what a node holds, not what its team holds.
    QuotaOfNode,
    /// The newest ask comes first.
    NewestFirst,
    /// An ask is passed by younger ones without end.
    BypassWithoutEnd,
    /// A GPU lease's ticket opens its engine for every node.
    TicketOfAnybody,
    /// A GPU lease whose connections are silent is idle, whatever its GPU does.
    IdleByBytes,
    /// Every local user may use a GPU lease's port.
    AnybodysPort,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::NoFsync,
        Self::NoFence,
        Self::LeaseIgnored,
        Self::ResultBeforeIntent,
        Self::BudgetOffByOne,
        Self::RebootWithoutBootId,
        Self::AskedTwiceRunsTwice,
        Self::UnknownIsDone,
        Self::TornTailKept,
        Self::ChecksumIgnored,
        Self::NothingGivenBack,
        Self::DriftIgnored,
        Self::BreakerIgnored,
        Self::WriteErrorIgnored,
        Self::TakenByAnotherIsOurs,
        Self::SlotFreedEarly,
        Self::QuotaOfNode,
        Self::NewestFirst,
        Self::BypassWithoutEnd,
        Self::TicketOfAnybody,
        Self::IdleByBytes,
        Self::AnybodysPort,
    ];
}

#[cfg(feature = "failpoints")]
mod switch {
    use super::Fault;
    use std::cell::Cell;

    // Of one thread: suites on other threads stay sound.
    thread_local!(static ON: Cell<u8> = const { Cell::new(0) });

    /// Whether this fault is on.
    pub fn is_on(fault: Fault) -> bool {
        ON.get() == fault as u8
    }

    thread_local!(static DUPLICATES: Cell<(u64, u64)> = const { Cell::new((0, 0)) });

    /// Whether a request is to reach the agent twice, as networks and impatient people have it.
    pub fn duplicated() -> bool {
        let (mut state, one_in) = DUPLICATES.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        DUPLICATES.set((state, one_in));
        one_in > 0 && state % one_in == 0
    }

    /// One in so many requests of this thread is doubled from now on; none with 0.
    pub fn duplicate(seed: u64, one_in: u64) {
        DUPLICATES.set((seed | 1, one_in));
    }

    /// Switches a fault on for the rest of this thread, or all of them off.
    pub fn set(fault: Option<Fault>) {
        ON.set(fault.map_or(0, |f| f as u8));
    }
}

#[cfg(not(feature = "failpoints"))]
mod switch {
    use super::Fault;

    /// Never.
    #[inline(always)]
    pub const fn is_on(_: Fault) -> bool {
        false
    }

    /// Never.
    #[inline(always)]
    pub const fn duplicated() -> bool {
        false
    }
}

pub use switch::*;

/// A failpoint. With the fault on the second expression is evaluated: it takes the place of the third one,
/// where there is one.
#[macro_export]
macro_rules! failpoint {
    ($fault:ident, $faulty:expr, $sound:expr) => {
        if $crate::failpoint::is_on($crate::failpoint::Fault::$fault) { $faulty } else { $sound }
    };
    ($fault:ident, $faulty:expr) => {
        if $crate::failpoint::is_on($crate::failpoint::Fault::$fault) {
            $faulty;
        }
    };
}
