//! Leases of a GPU server: who gets which GPU, for how long, and in which order. Pure: no clock, no I/O, no
//! randomness. A gateway (`guest-agent/network-gpu`) keeps one [`Pool`], tells it what happens, asks
//! [`Pool::decide`] what to do, and does it.
//!
//! The rules. A slot belongs to one lease, until its engine is *known* to be gone. A team never holds more
//! than its quota. The team that has least for its weight comes first, within it the oldest ask that can be
//! served. The oldest ask of a team lets at most [`BYPASS`] younger ones pass that take what it needs: slots,
//! or its team's quota. Then these are kept for it. Nothing is taken from a running program, except when its
//! time is up, when it was idle too long, when its client is gone, or when a person evicts it.

pub mod config;
mod decide;
mod lease;
mod slot;
pub mod status;
mod team;
#[cfg(test)]
mod tests;

pub use decide::{BYPASS, CLIENT_GONE, Decision, ENGINE_GONE, Warning};
pub use lease::{Ask, AskId, Ended, Identity, Lease, LeaseId, Refused};
pub use slot::{Filter, MAX_SLOTS, Slot, SlotId, SlotKind, SlotState};
pub use status::{PoolStatus, SlotUse};
pub use team::{MOST_TEAMS, Policy, Team};

use crate::failpoint;
use std::collections::{BTreeMap, BTreeSet};

/// Milliseconds of a clock that never jumps and goes on while the machine sleeps (`CLOCK_BOOTTIME`).
pub type Millis = u64;

/// Asks that may wait at once; each team has its even part of these places.
pub const MAX_ASKS: usize = 1_024;
/// An engine that crashes so often...
pub const CRASHES: usize = 3;
/// ... within so long takes its slot out of service.
pub const CRASHES_WITHIN: Millis = 5 * 60 * 1000;

/// All that a gateway knows of its slots, its leases and who waits.
#[derive(Clone, Debug)]
pub struct Pool {
    policy: Policy,
    slots: Vec<SlotState>,
    waiting: BTreeMap<AskId, Waiting>,
    leases: BTreeMap<LeaseId, Lease>,
    drained: bool,
    next_ask: u64,
    next_lease: u64,
}

/// An ask in the queue.
#[derive(Clone, Debug)]
struct Waiting {
    ask: Ask,
    /// Index of its team; none where no team names the node any more.
    team: Option<usize>,
    /// Slots that it may have, a bit each.
    fits: u64,
    /// Younger asks that took what it could have had.
    passed: u32,
}

impl Pool {
    /// With these slots, all of them free.
    ///
    /// # Errors
    /// More slots than [`MAX_SLOTS`], a slot that is named twice, or a policy that is wrong in itself.
    pub fn new(policy: Policy, slots: Vec<Slot>) -> Result<Self, String> {
        policy.check()?;
        if slots.len() > MAX_SLOTS {
            return Err(format!("{} slots: at most {MAX_SLOTS} are served by one gateway", slots.len()));
        }
        let uuids: BTreeSet<String> = slots.iter().map(|slot| slot.uuid.to_lowercase()).collect();
        if uuids.len() < slots.len() {
            return Err("two slots have one UUID: it would be given twice".into());
        }
        Ok(Self {
            policy,
            slots: slots.into_iter().map(SlotState::free).collect(),
            waiting: BTreeMap::new(),
            leases: BTreeMap::new(),
            drained: false,
            next_ask: 1,
            next_lease: 1,
        })
    }

    /// Another policy from now on. Running leases stay, also where the new quota is below what a team holds,
    /// or where their team is gone; asks of who is in no team any more are refused by the next
    /// [`Pool::decide`]. Where idle leases end sooner, they are warned first.
    ///
    /// # Errors
    /// A policy that is wrong in itself: the old one stays.
    pub fn set_policy(&mut self, policy: Policy, now: Millis) -> Result<(), String> {
        policy.check()?;
        let idle_changed = policy.idle_release != self.policy.idle_release;
        self.policy = policy;
        for waiting in self.waiting.values_mut() {
            waiting.team = self.policy.team_of(&waiting.ask.who.node);
        }
        for lease in self.leases.values_mut().filter(|_| idle_changed) {
            lease.warned_idle = false;
            if let (Some(since), Some(most)) = (lease.idle_since, self.policy.idle_release) {
                lease.idle_since = Some(since.max(now.saturating_sub(decide::idle_warned_after(most))));
            }
        }
        Ok(())
    }

    /// No new leases until it is taken back; running ones end by themselves.
    pub fn set_drained(&mut self, drained: bool) {
        self.drained = drained;
    }

    /// Whether no new leases are given.
    pub fn drained(&self) -> bool {
        self.drained
    }

    /// The policy that holds.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// All slots, in order of their ids.
    pub fn slots(&self) -> &[SlotState] {
        &self.slots
    }

    /// Leases that are not over: their slots are not free yet.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// A lease that is not over.
    pub fn lease(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// Who waits, oldest first.
    pub fn asks(&self) -> impl Iterator<Item = (AskId, &Ask)> {
        self.waiting.iter().map(|(id, waiting)| (*id, &waiting.ask))
    }

    /// Slots that a team holds; those of a lease that has ended count until its engine is gone.
    pub fn held_by(&self, team: &str) -> u32 {
        let of_team = self.leases.values().filter(|lease| lease.team == team);
        of_team.map(|lease| lease.slots.len() as u32).sum()
    }

    /// Puts an ask into the queue.
    ///
    /// # Errors
    /// What no waiting can bring: who is in no team, more GPUs than the team or the server has, a full queue.
    pub fn ask(&mut self, ask: Ask) -> Result<AskId, Refused> {
        let team = self.policy.team_of(&ask.who.node).ok_or(Refused::NoTeam)?;
        if self.drained {
            return Err(Refused::Drained);
        }
        let of = &self.policy.teams[team];
        if ask.gpus == 0 {
            return Err(Refused::Nothing);
        }
        let most = of.per_lease.unwrap_or(of.gpus).min(of.gpus);
        if ask.gpus > most {
            return Err(Refused::OverQuota { team: of.name.clone(), most });
        }
        let fits = slot::fitting(&self.slots, &ask);
        if fits.count_ones() < ask.gpus {
            return Err(Refused::NoSuchGpu { there_are: fits.count_ones() });
        }
        // One team's asks do not keep another's out.
        let waiting = self.waiting.values().filter(|waiting| waiting.team == Some(team)).count();
        if waiting >= (MAX_ASKS / self.policy.teams.len()).max(1) || self.waiting.len() >= MAX_ASKS {
            return Err(Refused::QueueFull);
        }
        let id = AskId(self.next_ask);
        self.next_ask += 1;
        self.waiting.insert(id, Waiting { ask, team: Some(team), fits, passed: 0 });
        Ok(id)
    }

    /// Takes an ask out of the queue: its client went away.
    pub fn withdraw(&mut self, id: AskId) -> Option<Ask> {
        self.waiting.remove(&id).map(|waiting| waiting.ask)
    }

    /// Its client is there.
    pub fn heard(&mut self, id: LeaseId, now: Millis) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.heard = now;
        }
    }

    /// Whether something is going on in a lease: bytes on a connection, or work on a GPU of it.
    pub fn activity(&mut self, id: LeaseId, busy: bool, now: Millis) {
        if let Some(lease) = self.leases.get_mut(&id) {
            match (busy, lease.idle_since) {
                (true, _) => (lease.idle_since, lease.warned_idle) = (None, false),
                (false, None) => lease.idle_since = Some(now),
                (false, Some(_)) => {}
            }
        }
    }

    /// Ends a lease from outside of [`Pool::decide`]: released, evicted, or its client's connection closed.
    /// Its slots stay its own until [`Pool::engine_gone`]. Nothing where it has ended already: the first
    /// reason stays.
    pub fn end(&mut self, id: LeaseId, why: Ended, now: Millis) {
        if let Some(lease) = self.leases.get_mut(&id)
            && lease.ended.is_none()
        {
            lease.ended = Some((why, now));
            failpoint!(SlotFreedEarly, {
                let slots = lease.slots.clone();
                slots.iter().for_each(|slot| self.slots[slot.0 as usize].lease = None)
            });
        }
    }

    /// The engine of one slot of a lease that has ended is proven gone. Says whether that was the last one:
    /// [`Pool::engine_gone`] is next then.
    pub fn slot_gone(&mut self, id: LeaseId, slot: SlotId) -> bool {
        let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.ended.is_some()) else {
            return false;
        };
        if lease.slots.contains(&slot) && !lease.gone.contains(&slot) {
            lease.gone.push(slot);
        }
        lease.gone.len() == lease.slots.len()
    }

    /// The engines of a lease are proven gone: no process of it is left, none is on its GPUs. Its slots are
    /// free again, and the lease is over. Nothing where the lease has not ended.
    pub fn engine_gone(&mut self, id: LeaseId) -> Option<Lease> {
        self.leases.get(&id).filter(|lease| lease.ended.is_some())?;
        let lease = self.leases.remove(&id)?;
        for slot in &lease.slots {
            self.slots[slot.0 as usize].lease = None;
        }
        Some(lease)
    }

    /// The engine of a lease crashed, on this slot of it. Its lease lives: the program may start anew.
    /// Nothing where the lease has ended: an engine that is being ended may go as it likes.
    pub fn engine_crashed(&mut self, id: LeaseId, slot: SlotId, now: Millis) {
        let is_its = |l: &&Lease| l.ended.is_none() && l.slots.contains(&slot);
        if self.leases.get(&id).filter(is_its).is_some() {
            self.slots[slot.0 as usize].crashed(id, now);
        }
    }

    /// A proof runs on a slot that is nobody's: it is not given before [`Pool::in_service`], and who asks for it
    /// waits.
    pub fn test(&mut self, id: SlotId) {
        if let Some(slot) = self.slots.get_mut(id.0 as usize) {
            slot.testing = true;
        }
    }

    /// A slot is not given on: its engine cannot be ended, its GPU is ill, or its proof failed.
    pub fn out_of_service(&mut self, id: SlotId, why: &str) {
        if let Some(slot) = self.slots.get_mut(id.0 as usize) {
            (slot.out_of_service, slot.testing) = (Some(why.into()), false);
        }
    }

    /// A proof has passed on it: it is offered again.
    pub fn in_service(&mut self, id: SlotId) {
        if let Some(slot) = self.slots.get_mut(id.0 as usize) {
            (slot.out_of_service, slot.testing, slot.crashes) = (None, false, vec![]);
        }
    }

    /// Carries a decision out. To be called once for each, in order, before anything else changes the pool.
    /// Gives the lease that a grant made; none where it does not hold any more.
    pub fn carry_out(&mut self, decision: &Decision, now: Millis) -> Option<LeaseId> {
        match decision {
            Decision::Grant { ask, slots, passed } => {
                let team = self.waiting.get(ask).and_then(|waiting| self.policy.teams.get(waiting.team?))?;
                let (name, longest) = (team.name.clone(), team.longest);
                if !slots.iter().all(|slot| self.slots.get(slot.0 as usize).is_some_and(SlotState::is_free)) {
                    return None;
                }
                let waiting = self.waiting.remove(ask)?;
                for id in passed {
                    if let Some(other) = self.waiting.get_mut(id) {
                        other.passed += 1;
                    }
                }
                let id = LeaseId(self.next_lease);
                self.next_lease += 1;
                for slot in slots {
                    self.slots[slot.0 as usize].lease = Some(id);
                }
                self.leases.insert(
                    id,
                    Lease {
                        id,
                        ask: waiting.ask,
                        team: name,
                        slots: slots.clone(),
                        granted: now,
                        until: longest.map(|longest| now.saturating_add(longest)),
                        heard: now,
                        idle_since: None,
                        warned_idle: false,
                        warned: decide::warnings_over(longest),
                        gone: vec![],
                        ended: None,
                    },
                );
                return Some(id);
            }
            Decision::Refuse { ask, .. } => drop(self.waiting.remove(ask)),
            Decision::Warn { lease, warning } => {
                if let Some(lease) = self.leases.get_mut(lease) {
                    match warning {
                        Warning::Idle { .. } => lease.warned_idle = true,
                        Warning::TimeIsUp { left } => lease.warned = decide::warnings_over(Some(*left)),
                    }
                }
            }
            Decision::End { lease, why } => self.end(*lease, why.clone(), now),
            Decision::OutOfService { slot, why } => self.out_of_service(*slot, why),
        }
        None
    }
}
