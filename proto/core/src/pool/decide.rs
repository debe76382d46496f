//! What is to be done now. Looks only; whoever asks carries it out ([`Pool::carry_out`]) and asks again after each event.

use crate::failpoint;

use super::{
    AskId, CRASHES, CRASHES_WITHIN, Ended, LeaseId, Millis, Pool, Refused, SlotId, SlotState, Waiting,
};

/// Younger asks that may pass one that has not what it needs yet. Then free slots are kept for it.
pub const BYPASS: u32 = 8;
/// A client that is not heard for so long is gone.
pub const CLIENT_GONE: Millis = 20_000;
/// An engine that is not gone so long after its lease ended takes its slots out of service.
pub const ENGINE_GONE: Millis = 25_000;
/// When it is said that a lease's time is nearly up: so long before its end, the longer one first.
const WARNED: [Millis; 2] = [5 * 60_000, 60_000];

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Give these slots to this ask.
    Grant {
        /// Who.
        ask: AskId,
        /// What.
        slots: Vec<SlotId>,
        /// Older asks that could have had one of these slots.
        passed: Vec<AskId>,
    },
    /// Tell this one that it gets nothing.
    Refuse {
        /// Who.
        ask: AskId,
        /// Why.
        why: Refused,
    },
    /// Tell the user of a lease what is about to happen.
    Warn {
        /// Whose.
        lease: LeaseId,
        /// What.
        warning: Warning,
    },
    /// End a lease: end its engine, then say [`Pool::engine_gone`].
    End {
        /// Which.
        lease: LeaseId,
        /// Why.
        why: Ended,
    },
    /// Do not give this slot to anybody.
    OutOfService {
        /// Which.
        slot: SlotId,
        /// Why, for people.
        why: String,
    },
}

/// What is about to happen to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// It does nothing, and ends in so long, milliseconds.
    Idle {
        /// Left.
        left: Millis,
    },
    /// Its time is up in so long, milliseconds.
    TimeIsUp {
        /// Left.
        left: Millis,
    },
}

impl Pool {
    /// What is to be done now, in this order. Empty where nothing is: asked again after all was carried out, it has nothing
    /// more to say for the same `now`.
    pub fn decide(&self, now: Millis) -> Vec<Decision> {
        let mut all = vec![];
        self.slots_in_trouble(now, &mut all);
        self.lease_ends(now, &mut all);
        self.grants(now, &mut all);
        all
    }

    /// When it is to be asked again, although nothing happened until then.
    pub fn next_look(&self, now: Millis) -> Option<Millis> {
        let asks = self.waiting.values().filter_map(|w| w.ask.wait_until);
        let leases = self.leases.values().flat_map(|lease| {
            let gone = lease.heard + CLIENT_GONE;
            let idle = lease.idle_since.zip(self.policy.idle_release).map(|(since, most)| {
                if lease.warned_idle {
                    since.saturating_add(most)
                } else {
                    since.saturating_add(most / 5 * 4)
                }
            });
            let warning = WARNED.get(usize::from(lease.warned)).copied().unwrap_or(0);
            let time = lease.until.map(|until| until.saturating_sub(warning));
            match lease.ended {
                Some((_, at)) => [Some(at + ENGINE_GONE).filter(|at| *at > now), None, None],
                None => [Some(gone), idle, time],
            }
        });
        asks.chain(leases.flatten()).map(|at| at.max(now)).min()
    }

    fn slots_in_trouble(&self, now: Millis, all: &mut Vec<Decision>) {
        for (at, slot) in self.slots.iter().enumerate().filter(|(_, s)| s.out_of_service.is_none()) {
            let of_late = slot.crashes.iter().filter(|at| now.saturating_sub(**at) <= CRASHES_WITHIN).count();
            let stuck = slot.lease.and_then(|id| self.leases.get(&id)?.ended.as_ref());
            let why = if of_late >= CRASHES {
                format!("its engine crashed {of_late} times within {} minutes", CRASHES_WITHIN / 60_000)
            } else if stuck.is_some_and(|(_, at)| now.saturating_sub(*at) >= ENGINE_GONE) {
                format!("its engine is not gone {} s after its lease ended", ENGINE_GONE / 1000)
            } else {
                continue;
            };
            all.push(Decision::OutOfService { slot: SlotId(at as u32), why });
        }
    }

    fn lease_ends(&self, now: Millis, all: &mut Vec<Decision>) {
        for lease in self.leases.values().filter(|lease| lease.ended.is_none()) {
            let crashed = |slot: &SlotId| {
                let crashes = &self.slots[slot.0 as usize].crashes;
                crashes.iter().filter(|at| now.saturating_sub(**at) <= CRASHES_WITHIN).count() >= CRASHES
            };
            let idle = lease.idle_since.zip(self.policy.idle_release);
            let idle = idle.map(|(since, most)| (now.saturating_sub(since), most));
            let left = lease.until.map(|until| until.saturating_sub(now));
            let why = if now.saturating_sub(lease.heard) >= CLIENT_GONE {
                Ended::ClientGone
            } else if left == Some(0) {
                Ended::TimeUp
            } else if idle.is_some_and(|(is, most)| is >= most) {
                Ended::IdleTooLong
            } else if lease.slots.iter().any(crashed) {
                Ended::EngineDied
            } else {
                if let Some((is, most)) = idle
                    && !lease.warned_idle
                    && is >= most / 5 * 4
                {
                    let warning = Warning::Idle { left: most - is };
                    all.push(Decision::Warn { lease: lease.id, warning });
                }
                // Late by so much that both are due, both are said.
                let due = WARNED.iter().skip(usize::from(lease.warned));
                for _ in due.filter(|before| left.is_some_and(|left| left <= **before)) {
                    let warning = Warning::TimeIsUp { left: left.unwrap_or_default() };
                    all.push(Decision::Warn { lease: lease.id, warning });
                }
                continue;
            };
            all.push(Decision::End { lease: lease.id, why });
        }
    }

    fn grants(&self, now: Millis, all: &mut Vec<Decision>) {
        let mut queue = Queue { all: vec![], of_team: vec![vec![]; self.policy.teams.len()] };
        for (id, waiting) in &self.waiting {
            match self.useless(waiting, now) {
                Some(why) => all.push(Decision::Refuse { ask: *id, why }),
                None => {
                    queue.of_team[waiting.team].push(queue.all.len());
                    queue.all.push(Candidate { id: *id, waiting, passed: waiting.passed, granted: false });
                }
            }
        }
        failpoint!(NewestFirst, queue.of_team.iter_mut().for_each(|asks| asks.reverse()));
        let is_free = |(_, slot): &(usize, &SlotState)| slot.is_free();
        let mut free = self.slots.iter().enumerate().filter(is_free).fold(0u64, |all, (at, _)| all | 1 << at);
        let mut held = vec![0u32; self.policy.teams.len()];
        for lease in self.leases.values() {
            if let Some(held) = held.get_mut(lease.team) {
                *held += lease.slots.len() as u32;
            }
        }
        while let Some((at, slots)) = self.next_grant(&queue, free, &held) {
            let Candidate { id, waiting, .. } = queue.all[at];
            queue.all[at].granted = true;
            let given = slots.iter().fold(0u64, |all, slot| all | 1 << slot.0);
            let mut passed = vec![];
            for other in &mut queue.all[..at] {
                if !other.granted && other.waiting.fits & given != 0 && self.within_quota(other, &held) {
                    other.passed += 1;
                    passed.push(other.id);
                }
            }
            free &= !given;
            held[waiting.team] += waiting.ask.gpus;
            all.push(Decision::Grant { ask: id, slots, passed });
        }
    }

    /// Who is next, and what it gets. Everything is weighed anew after each grant.
    fn next_grant(&self, queue: &Queue<'_>, mut free: u64, held: &[u32]) -> Option<(usize, Vec<SlotId>)> {
        if free == 0 {
            return None;
        }
        // Its own team's quota keeps nobody else waiting, and is no reason to keep slots for it.
        let may = |c: &Candidate<'_>| !c.granted && self.within_quota(c, held);
        for (at, c) in queue.all.iter().enumerate().filter(|(_, c)| kept(c.passed) && may(c)) {
            let usable = free & c.waiting.fits;
            if usable.count_ones() >= c.waiting.ask.gpus {
                return Some((at, self.best(usable, c.waiting.ask.gpus)));
            }
            free &= !usable;
        }
        let first = |asks: &Vec<usize>| asks.iter().copied().find(|at| !queue.all[*at].granted);
        let share = |team: usize| (u64::from(held[team]) << 32) / u64::from(self.policy.teams[team].weight);
        let teams = queue.of_team.iter().enumerate();
        let mut teams: Vec<(u64, usize, usize)> =
            teams.filter_map(|(team, asks)| Some((share(team), first(asks)?, team))).collect();
        teams.sort_unstable();
        let mut asks = teams.iter().flat_map(|(_, _, team)| &queue.of_team[*team]).copied();
        asks.find_map(|at| {
            let c = &queue.all[at];
            let usable = free & c.waiting.fits;
            let gets = usable.count_ones() >= c.waiting.ask.gpus && !kept(c.passed) && may(c);
            gets.then(|| (at, self.best(usable, c.waiting.ask.gpus)))
        })
    }

    fn within_quota(&self, c: &Candidate<'_>, held: &[u32]) -> bool {
        let held = failpoint!(QuotaOfNode, self.held_by_node(&c.waiting.ask.who.node), held[c.waiting.team]);
        held + c.waiting.ask.gpus <= self.policy.teams[c.waiting.team].gpus
    }

    /// What a quota is not about: kept for the failpoint that counts it so.
    fn held_by_node(&self, node: &str) -> u32 {
        self.leases.values().filter(|l| l.ask.who.node == node).map(|l| l.slots.len() as u32).sum()
    }

    /// Why waiting is of no use to an ask any more.
    fn useless(&self, waiting: &Waiting, now: Millis) -> Option<Refused> {
        let Some(team) = self.policy.teams.get(waiting.team) else { return Some(Refused::NoTeam) };
        let most = team.per_lease.unwrap_or(team.gpus).min(team.gpus);
        if self.drained {
            Some(Refused::Drained)
        } else if waiting.ask.wait_until.is_some_and(|until| until <= now) {
            Some(Refused::NotInTime)
        } else if waiting.ask.gpus > most {
            Some(Refused::OverQuota { team: team.name.clone(), most })
        } else {
            None
        }
    }

    /// So many of these slots: those with the least memory, so that larger ones are left for who needs them.
    fn best(&self, usable: u64, count: u32) -> Vec<SlotId> {
        let mut slots: Vec<SlotId> =
            (0..self.slots.len() as u32).filter(|at| usable >> at & 1 == 1).map(SlotId).collect();
        slots.sort_by_key(|slot| (self.slots[slot.0 as usize].slot.memory_mib, *slot));
        slots.truncate(count as usize);
        slots.sort();
        slots
    }
}

/// Warnings that a lease of this length does not need: it is told so with its grant.
pub(super) fn warnings_over(longest: Option<Millis>) -> u8 {
    WARNED.iter().filter(|before| longest.is_some_and(|longest| longest <= **before)).count() as u8
}

/// Whether slots are kept for an ask that so many passed.
fn kept(passed: u32) -> bool {
    failpoint!(BypassWithoutEnd, false, passed >= BYPASS)
}

/// Who waits, while grants are worked out.
struct Queue<'a> {
    /// Oldest first.
    all: Vec<Candidate<'a>>,
    /// The same by team, as indices.
    of_team: Vec<Vec<usize>>,
}

#[derive(Clone, Copy)]
struct Candidate<'a> {
    id: AskId,
    waiting: &'a Waiting,
    passed: u32,
    granted: bool,
}
