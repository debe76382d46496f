//! Who may change the node: one controller at a time, fenced by an epoch that only grows.
//!
//! A lock alone is not enough: a controller that was paused past its lease wakes up and believes that it
//! still holds it. So every change carries the epoch it was given, and one that is lower than the highest
//! ever given is refused. The epoch is on disk before it is given out: in the agent's state folder, which on
//! ESXi is kept over a reboot by the sticky bit of its files. Where that failed nobody holds the node after a
//! reboot, and whoever wants to change it must claim it anew, above the highest epoch that it was ever given
//! itself.

use crate::refusal::Refusal;
use serde::{Deserialize, Serialize};
use std::sync::Mutex;
use std::time::Duration;
use vsgpu_core::System;
use vsgpu_core::failpoint;
use vsgpu_core::text::sentence;

/// Longest lease; a controller renews every third of its own.
const MAX_SECS: u32 = 600;

/// Far more claims than a node sees, and far from where counting ends.
const MAX_EPOCH: u64 = 1 << 48;

/// What is kept on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    version: u32,
    epoch: u64,
    holder: String,
    lease_secs: u32,
}

struct State {
    kept: Kept,
    /// By the agent's own clock, which only grows.
    until: Duration,
}

/// The node's lease.
pub(crate) struct Lease {
    state: Mutex<State>,
    file: String,
}

impl Lease {
    /// As it was before the agent restarted: a lease that was live then is given its whole time again.
    pub(crate) fn load(system: &dyn System, folder: &str) -> Self {
        let file = format!("{folder}/lease.json");
        let kept: Option<Kept> = system.read(&file, 4096).ok().and_then(|b| serde_json::from_slice(&b).ok());
        // A number beyond all that are given out is damage.
        let kept = kept.filter(|kept| kept.epoch <= MAX_EPOCH).unwrap_or_default();
        let until = system.elapsed() + Duration::from_secs(kept.lease_secs.into());
        Self { state: Mutex::new(State { kept, until }), file }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes, renews or ends it. `busy`: what still runs for the present holder.
    ///
    /// # Errors
    /// Overtaken where a newer claim exists, held where another has it now.
    pub(crate) fn claim(
        &self,
        system: &dyn System,
        holder: &str,
        seen: u64,
        secs: u32,
        busy: Option<&str>,
    ) -> Result<u64, Refusal> {
        if holder.is_empty() || holder.len() > 400 || sentence(holder) != holder {
            return Err(Refusal::invalid("claim: the holder is no name"));
        }
        // A number that can only grow must never reach its end: nobody could take the node after that.
        if seen > MAX_EPOCH {
            return Err(Refusal::invalid(format!("claim: {seen} was never given to anybody")));
        }
        let mut state = self.state();
        let now = system.elapsed();
        let ours = state.kept.holder == holder;
        if secs == 0 {
            if ours && seen == state.kept.epoch {
                state.until = now;
            }
            return Ok(state.kept.epoch);
        }
        let secs = secs.min(MAX_SECS);
        let lease = Duration::from_secs(secs.into());
        if ours && seen == state.kept.epoch && seen != 0 {
            state.until = now + lease;
            return Ok(seen);
        }
        if failpoint!(NoFence, false, seen != 0 && seen < state.kept.epoch) {
            return Err(overtaken(&state.kept, seen));
        }
        let live = failpoint!(LeaseIgnored, false, now < state.until);
        if !ours && !state.kept.holder.is_empty() && (live || busy.is_some()) {
            let until = match busy {
                Some(busy) => format!("it is still at work here: {busy}"),
                None => format!(
                    "its lease ends in {} s, or when it has finished",
                    (state.until - now).as_secs() + 1
                ),
            };
            return Err(Refusal::held(format!("the node is in the hands of {}; {until}", state.kept.holder)));
        }
        let kept = Kept {
            version: 1,
            epoch: state.kept.epoch.max(seen) + 1,
            holder: holder.into(),
            lease_secs: secs,
        };
        let text = serde_json::to_vec(&kept).map_err(|e| Refusal::internal(e.to_string()))?;
        // Durable before it is given out: an agent that restarts must not give the same epoch twice.
        system
            .write(&self.file, &text, 0o600)
            .map_err(|e| Refusal::internal(format!("the claim cannot be kept: {e}")))?;
        *state = State { kept, until: now + lease };
        Ok(state.kept.epoch)
    }

    /// Who claimed the node last, and for how many seconds that still holds.
    pub(crate) fn holder(&self, system: &dyn System) -> (String, u32) {
        let state = self.state();
        let left = state.until.saturating_sub(system.elapsed()).as_millis().div_ceil(1000);
        (state.kept.holder.clone(), u32::try_from(left).unwrap_or(u32::MAX))
    }

    /// Whether a change may be made; it keeps the lease alive.
    ///
    /// # Errors
    /// Unclaimed without a claim, overtaken where a newer one exists.
    pub(crate) fn check(&self, system: &dyn System, fence: Option<&crate::v1::Fence>) -> Result<(), Refusal> {
        let mut state = self.state();
        let fence = fence.ok_or_else(|| {
            Refusal::unclaimed("nobody has claimed the node: the controller is too old for this agent")
        })?;
        failpoint!(NoFence, return Ok(()));
        if fence.epoch < state.kept.epoch {
            return Err(overtaken(&state.kept, fence.epoch));
        }
        if fence.epoch != state.kept.epoch || fence.holder != state.kept.holder || fence.epoch == 0 {
            return Err(Refusal::lease_lost(
                "the node does not know this claim (it has restarted); claim it again",
            ));
        }
        let lease = Duration::from_secs(state.kept.lease_secs.into());
        state.until = state.until.max(system.elapsed() + lease);
        Ok(())
    }
}

fn overtaken(kept: &Kept, epoch: u64) -> Refusal {
    Refusal::overtaken(format!(
        "the node was taken over by {} (claim {}, ours was {epoch})",
        kept.holder, kept.epoch
    ))
}
