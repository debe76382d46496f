//! What runs changed on the node temporarily and have not restored: maintenance mode, VMs that were shut
//! down. Kept by the agent itself, by which run and for whom, so that a controller that is lost, or its
//! records, leaves nobody guessing: every other controller of the same CA sees it, and can restore it.
//!
//! It is noted before it is changed, durably, and dropped when it was restored: through us, or, where a look
//! shows that it is no longer so, by somebody's hand. A change whose end is not known is kept for as long as
//! it may still come true.

use crate::acquired::{Look, TemporaryChange};
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vsgpu_core::System;

/// More than a host has VMs.
const MAX: usize = 2_000;
/// Seconds after which a change that was never seen is not expected any more: the longest that maintenance
/// mode is waited for.
const MAY_COME: u64 = 2 * 3600;
/// The same for a change that was called off: a guest may still be shutting down.
const MAY_BE_LATE: u64 = 15 * 60;
const VERSION: u32 = 1;

#[derive(Default, Serialize, Deserialize)]
struct Kept {
    version: u32,
    #[serde(rename = "taken")]
    temporary: Vec<TemporaryChange>,
}

/// All of it.
pub(crate) struct Ledger {
    temporary: Mutex<Vec<TemporaryChange>>,
    file: String,
}

impl Ledger {
    /// As it was before the agent restarted.
    pub(crate) fn load(system: &dyn System, folder: &str) -> Self {
        let file = format!("{folder}/taken.json");
        let kept: Option<Kept> =
            system.read(&file, 4 << 20).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let temporary =
            kept.filter(|kept| kept.version == VERSION).map(|kept| kept.temporary).unwrap_or_default();
        Self { temporary: Mutex::new(temporary), file }
    }

    fn temporary(&self) -> MutexGuard<'_, Vec<TemporaryChange>> {
        self.temporary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn all(&self) -> Vec<TemporaryChange> {
        self.temporary().clone()
    }

    /// Changes it, and keeps that.
    fn change(
        &self,
        system: &dyn System,
        change: impl FnOnce(&mut Vec<TemporaryChange>),
    ) -> Result<(), String> {
        let mut temporary = self.temporary();
        let mut next = temporary.clone();
        change(&mut next);
        if *temporary == next {
            return Ok(());
        }
        let text = serde_json::to_vec(&Kept { version: VERSION, temporary: next.clone() })
            .map_err(|e| e.to_string())?;
        system.write(&self.file, &text, 0o600).map_err(|e| e.to_string())?;
        *temporary = next;
        Ok(())
    }

    /// Notes what is about to be changed.
    ///
    /// # Errors
    /// Where it cannot be kept: then it must not be changed.
    pub(crate) fn note(&self, system: &dyn System, new: TemporaryChange) -> Result<(), String> {
        if self.temporary().len() >= MAX {
            return Err(format!("{MAX} things of this node are on record already"));
        }
        self.change(system, |temporary| {
            // Changed again by a run of the same name it is the same change; by another one it is that one's
            // now.
            temporary.retain(|old| (&old.what, &old.vm) != (&new.what, &new.vm));
            temporary.push(new);
        })
    }

    /// It was restored; `already`: it was found so.
    pub(crate) fn restored(&self, system: &dyn System, what: &str, vm: &str, already: bool) {
        let now = system.now();
        if let Err(why) = self.change(system, |temporary| restore(temporary, (what, vm), already, now)) {
            tracing::warn!(why, "what was restored is still on record; the next look drops it");
        }
    }

    /// What a look says of it.
    pub(crate) fn looked(&self, system: &dyn System, looks: &[Look]) {
        let now = system.now();
        if let Err(why) = self.change(system, |temporary| look_at(temporary, looks, now)) {
            tracing::warn!(why, "the record of maintenance mode and VM power cannot be written");
        }
    }
}

/// One that was never seen changed may still come true where it was found restored, for a while.
fn restore(temporary: &mut Vec<TemporaryChange>, of: (&str, &str), already: bool, now: u64) {
    let late = |t: &TemporaryChange| already && !t.seen && now.saturating_sub(t.since) <= MAY_BE_LATE;
    temporary.retain(|t| (t.what.as_str(), t.vm.as_str()) != of || late(t));
}

fn look_at(temporary: &mut Vec<TemporaryChange>, looks: &[Look], now: u64) {
    temporary.retain_mut(|t| match looks.iter().find(|(what, vm, _)| *what == t.what && *vm == t.vm) {
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

    fn of(vm: &str, ago: u64, seen: bool) -> Vec<TemporaryChange> {
        vec![TemporaryChange {
            what: "power".into(),
            vm: vm.into(),
            run: "r".into(),
            holder: "h".into(),
            since: NOW - ago,
            seen,
            gone: 0,
        }]
    }

    /// What an agent of an earlier version kept is known to the next one, and the other way round.
    #[test]
    fn the_file_keeps_its_form() {
        let old = r#"{"version":1,"taken":[{"what":"power","vm":"web","run":"r","holder":"h","since":1,"seen":true}]}"#;
        let kept: Kept = serde_json::from_str(old).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(kept.temporary.len(), 1);
        assert_eq!(serde_json::to_string(&kept).unwrap_or_default(), old);
    }

    #[test]
    fn what_is_not_so_any_more_is_dropped_and_what_may_still_come_is_not() {
        let after = |mut temporary: Vec<TemporaryChange>, off: bool, now: u64| {
            look_at(&mut temporary, &[("power", String::new(), false), ("power", "web".into(), off)], now);
            temporary
        };
        assert!(after(of("web", 5, false), true, NOW)[0].seen);
        assert_eq!(after(of("web", 5, true), false, NOW), [], "somebody started it");
        assert_eq!(after(of("web", 5, false), false, NOW).len(), 1, "it may still be shutting down");
        assert_eq!(after(of("web", MAY_COME + 1, false), false, NOW), []);
    }

    #[test]
    fn a_vm_that_is_not_listed_any_more_is_nobodys_after_a_while() {
        let mut temporary = of("web", 90_000, true);
        let listed = [("power", String::new(), false)];
        look_at(&mut temporary, &[], NOW);
        assert_eq!(temporary[0].gone, 0, "the list could not be read");
        look_at(&mut temporary, &listed, NOW);
        look_at(&mut temporary, &listed, NOW + MAY_COME);
        assert_eq!(temporary.len(), 1, "a list that is read while the host boots may be short");
        look_at(&mut temporary, &listed, NOW + MAY_COME + 1);
        assert_eq!(temporary, []);
    }

    #[test]
    fn what_was_found_given_back_may_still_come_true() {
        let after = |mut temporary: Vec<TemporaryChange>, already: bool| {
            restore(&mut temporary, ("power", "web"), already, NOW);
            temporary.len()
        };
        assert_eq!((after(of("web", 40, false), true), after(of("web", 40, false), false)), (1, 0));
        assert_eq!(
            (after(of("web", 40, true), true), after(of("web", MAY_BE_LATE + 1, false), true)),
            (0, 0)
        );
        assert_eq!(after(of("other", 40, true), false), 1);
    }
}
