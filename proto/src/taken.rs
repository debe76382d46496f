//! What runs took from the node and have not given back: maintenance mode, VMs that were shut down. Kept by the agent itself, by which
//! run and for whom, so that a controller that is lost, or its records, leaves nobody guessing: every other controller of the same CA
//! sees it, and can give it back.
//!
//! It is noted before it is taken, durably, and dropped when it was given back: through us, or, where a look shows that it is no
//! longer so, by somebody's hand. A taking whose end is not known is kept for as long as it may still come true.

use serde::{Deserialize, Serialize};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vsgpu_core::System;

/// More than a host has VMs.
const MAX: usize = 2_000;
/// Seconds after which a taking that was never seen is not expected any more: the longest that maintenance mode is waited for.
const MAY_COME: u64 = 2 * 3600;
const VERSION: u32 = 1;

/// One thing that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Name of the requirement with which it was taken.
    pub what: String,
    /// Display name of the VM; empty for the node itself.
    #[serde(default)]
    pub vm: String,
    /// Name of the run.
    pub run: String,
    /// Who ran it.
    pub holder: String,
    /// When, seconds since 1970 by the node's clock.
    pub since: u64,
    /// It was seen so.
    #[serde(default)]
    pub seen: bool,
}

#[derive(Default, Serialize, Deserialize)]
struct Kept {
    version: u32,
    taken: Vec<Taken>,
}

/// What a look says of one thing: its requirement, the VM, and whether it is taken now.
pub type Look = (&'static str, String, bool);

/// All of it.
pub(crate) struct Ledger {
    taken: Mutex<Vec<Taken>>,
    file: String,
}

impl Ledger {
    /// As it was before the agent restarted.
    pub(crate) fn load(system: &dyn System, folder: &str) -> Self {
        let file = format!("{folder}/taken.json");
        let kept: Option<Kept> = system.read(&file, 4 << 20).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
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
        let text = serde_json::to_vec(&Kept { version: VERSION, taken: next.clone() }).map_err(|e| e.to_string())?;
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
            return Err(format!("{MAX} things of this node are taken already"));
        }
        self.change(system, |taken| {
            // Taken again by a run of the same name it is the same taking; by another one it is that one's now.
            taken.retain(|old| (&old.what, &old.vm) != (&new.what, &new.vm));
            taken.push(new);
        })
    }

    /// It was given back.
    pub(crate) fn given_back(&self, system: &dyn System, what: &str, vm: &str) {
        if let Err(why) = self.change(system, |taken| taken.retain(|t| t.what != what || t.vm != vm)) {
            tracing::warn!(why, "what was given back is still noted as taken; the next look drops it");
        }
    }

    /// What a look says of it.
    pub(crate) fn looked(&self, system: &dyn System, looks: &[Look]) {
        let now = system.now();
        let kept = self.change(system, |taken| {
            taken.retain_mut(|t| match looks.iter().find(|(what, vm, _)| *what == t.what && *vm == t.vm) {
                Some((.., true)) => {
                    t.seen = true;
                    true
                }
                // A clock that goes back must not keep it for ever, nor drop it at once.
                Some((.., false)) => !t.seen && now.saturating_sub(t.since) <= MAY_COME,
                None => true,
            });
        });
        if let Err(why) = kept {
            tracing::warn!(why, "what is taken cannot be kept");
        }
    }
}
