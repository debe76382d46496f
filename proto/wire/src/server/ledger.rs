//! What runs took from the node and have not given back: maintenance mode, VMs that were shut down. Kept by
//! the agent itself, by which run and for whom, so that a controller that is lost, or its records, leaves
//! nobody guessing: every other controller of the same CA sees it, and can give it back.
//!
//! It is noted before it is taken, durably, and dropped when it was given back: through us, or, where a look
//! shows that it is no longer so, by somebody's hand. A taking whose end is not known is kept for as long as
//! it may still come true.

use crate::acquired::{Look, Taken};
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vsgpu_core::System;

/// More than a host has VMs.
const MAX: usize = 2_000;
/// Seconds after which a taking that was never seen is not expected any more: the longest that maintenance
/// mode is waited for.
const MAY_COME: u64 = 2 * 3600;
/// The same for a taking that was called off: a guest may still be shutting down.
const MAY_BE_LATE: u64 = 15 * 60;
const VERSION: u32 = 1;

#[derive(Default, Serialize, Deserialize)]
struct Kept {
    version: u32,
    taken: Vec<Taken>,
}

/// All of it.
pub(crate) struct Ledger {
    taken: Mutex<Vec<Taken>>,
    file: String,
}

impl Ledger {
    /// As it was before the agent restarted.
    pub(crate) fn load(system: &dyn System, folder: &str) -> Self {
        let file = format!("{folder}/taken.json");
        let kept: Option<Kept> =
            system.read(&file, 4 << 20).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let taken = kept.filter(|kept| kept.version == VERSION).map(|kept| kept.taken).unwrap_or_default();
        Self { taken: Mutex::new(taken), file }
    }

    fn taken(&self) -> MutexGuard<'_, Vec<Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn all(&self) -> Vec<Taken> {
        self.taken().clone()
    }

    /// Changes it, and keeps that.
    fn change(&self, system: &dyn System, change: impl FnOnce(&mut Vec<Taken>)) -> Result<(), String> {
        let mut taken = self.taken();
        let mut next = taken.clone();
        change(&mut next);
        if *taken == next {
            return Ok(());
        }
        let text =
            serde_json::to_vec(&Kept { version: VERSION, taken: next.clone() }).map_err(|e| e.to_string())?;
        system.write(&self.file, &text, 0o600).map_err(|e| e.to_string())?;
        *taken = next;
        Ok(())
    }

    /// Notes what is about to be taken.
    ///
    /// # Errors
    /// Where it cannot be kept: then it must not be taken.
    pub(crate) fn note(&self, system: &dyn System, new: Taken) -> Result<(), String> {
        if self.taken().len() >= MAX {
            return Err(format!("{MAX} things of this node are on record already"));
        }
        self.change(system, |taken| {
            // Taken again by a run of the same name it is the same taking; by another one it is that one's
            // now.
            taken.retain(|old| (&old.what, &old.vm) != (&new.what, &new.vm));
            taken.push(new);
        })
    }

    /// It was given back; `already`: it was found so.
    pub(crate) fn given_back(&self, system: &dyn System, what: &str, vm: &str, already: bool) {
        let now = system.now();
        if let Err(why) = self.change(system, |taken| give_back(taken, (what, vm), already, now)) {
            tracing::warn!(why, "what was restored is still on record; the next look drops it");
        }
    }

    /// What a look says of it.
    pub(crate) fn looked(&self, system: &dyn System, looks: &[Look]) {
        let now = system.now();
        if let Err(why) = self.change(system, |taken| look_at(taken, looks, now)) {
            tracing::warn!(why, "the record of maintenance mode and VM power cannot be written");
        }
    }
}

/// One that was never seen taken may still come true where it was found given back, for a while.
fn give_back(taken: &mut Vec<Taken>, of: (&str, &str), already: bool, now: u64) {
    let late = |t: &Taken| already && !t.seen && now.saturating_sub(t.since) <= MAY_BE_LATE;
    taken.retain(|t| (t.what.as_str(), t.vm.as_str()) != of || late(t));
}

fn look_at(taken: &mut Vec<Taken>, looks: &[Look], now: u64) {
    taken.retain_mut(|t| match looks.iter().find(|(what, vm, _)| *what == t.what && *vm == t.vm) {
        Some((.., true)) => {
            (t.seen, t.gone) = (true, 0);
            true
        }
        Some((.., false)) => !t.seen && now.saturating_sub(t.since) <= MAY_COME,
        // Not listed any more: moved to another host, or deleted. Nobody can give it back here; but a list
        // that is read while a host boots may be short.
        None if looks.iter().any(|(what, ..)| *what == t.what) => {
            if t.gone == 0 {
                t.gone = now;
            }
            now.saturating_sub(t.gone) <= MAY_COME
        }
        None => true,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    fn of(vm: &str, ago: u64, seen: bool) -> Vec<Taken> {
        vec![Taken {
            what: "power".into(),
            vm: vm.into(),
            run: "r".into(),
            holder: "h".into(),
            since: NOW - ago,
            seen,
            gone: 0,
        }]
    }

    #[test]
    fn what_is_not_so_any_more_is_dropped_and_what_may_still_come_is_not() {
        let after = |mut taken: Vec<Taken>, off: bool, now: u64| {
            look_at(&mut taken, &[("power", String::new(), false), ("power", "web".into(), off)], now);
            taken
        };
        assert!(after(of("web", 5, false), true, NOW)[0].seen);
        assert_eq!(after(of("web", 5, true), false, NOW), [], "somebody started it");
        assert_eq!(after(of("web", 5, false), false, NOW).len(), 1, "it may still be shutting down");
        assert_eq!(after(of("web", MAY_COME + 1, false), false, NOW), []);
    }

    #[test]
    fn a_vm_that_is_not_listed_any_more_is_nobodys_after_a_while() {
        let mut taken = of("web", 90_000, true);
        let listed = [("power", String::new(), false)];
        look_at(&mut taken, &[], NOW);
        assert_eq!(taken[0].gone, 0, "the list could not be read");
        look_at(&mut taken, &listed, NOW);
        look_at(&mut taken, &listed, NOW + MAY_COME);
        assert_eq!(taken.len(), 1, "a list that is read while the host boots may be short");
        look_at(&mut taken, &listed, NOW + MAY_COME + 1);
        assert_eq!(taken, []);
    }

    #[test]
    fn what_was_found_given_back_may_still_come_true() {
        let after = |mut taken: Vec<Taken>, already: bool| {
            give_back(&mut taken, ("power", "web"), already, NOW);
            taken.len()
        };
        assert_eq!((after(of("web", 40, false), true), after(of("web", 40, false), false)), (1, 0));
        assert_eq!(
            (after(of("web", 40, true), true), after(of("web", MAY_BE_LATE + 1, false), true)),
            (0, 0)
        );
        assert_eq!(after(of("other", 40, true), false), 1);
    }
}
