//! What is to be done now. Looks only; whoever asks carries it out ([`Pool::carry_out`]) and asks again after
//! each event.

use crate::failpoint;

use super::{
    AskId, CRASHES, CRASHES_WITHIN, Ended, Lease, LeaseId, Millis, Pool, Refused, SlotId, SlotState, Waiting,
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
    /// What is to be done now, in this order. Empty where nothing is: asked again after all was carried out,
    /// it has nothing more to say for the same `now`.
    pub fn decide(&self, now: Millis) -> Vec<Decision> {
        let mut all = vec![];
        let out = self.slots_in_trouble(now, &mut all);
        self.lease_ends(now, &mut all);
        self.grants(now, out, &mut all);
        all
    }

    /// When it is to be asked again, although nothing happened until then.
    pub fn next_look(&self, now: Millis) -> Option<Millis> {
        let asks = self.waiting.values().filter_map(|w| w.ask.wait_until);
        let leases = self.leases.values().flat_map(|lease| {
            let may_stick = |slot: &SlotId| {
                self.slots[slot.0 as usize].out_of_service.is_none() && !lease.gone.contains(slot)
            };
            if let Some((_, at)) = lease.ended {
                let stuck = lease.slots.iter().any(may_stick).then(|| at.saturating_add(ENGINE_GONE));
                return [stuck, None, None];
            }
            let idle = lease.idle_since.zip(self.policy.idle_release).map(|(since, most)| {
                since.saturating_add(if lease.warned_idle { most } else { idle_warned_after(most) })
            });
            let warning = WARNED.get(usize::from(lease.warned)).copied().unwrap_or(0);
            let time = lease.until.map(|until| until.saturating_sub(warning));
            [Some(lease.heard.saturating_add(CLIENT_GONE)), idle, time]
        });
        asks.chain(leases.flatten()).map(|at| at.max(now)).min()
    }

    /// Gives the slots that are taken out of service, a bit each.
    fn slots_in_trouble(&self, now: Millis, all: &mut Vec<Decision>) -> u64 {
        let mut out = 0;
        for (at, slot) in self.slots.iter().enumerate().filter(|(_, s)| s.out_of_service.is_none()) {
            let of_late = slot.crashed_of_late(now, None);
            let is_left = |lease: &&Lease| !lease.gone.contains(&SlotId(at as u32));
            let stuck = slot.lease.and_then(|id| self.leases.get(&id).filter(is_left)?.ended.as_ref());
            let why = if of_late >= CRASHES {
                format!("its engine crashed {of_late} times within {} minutes", CRASHES_WITHIN / 60_000)
            } else if stuck.is_some_and(|(_, at)| now.saturating_sub(*at) >= ENGINE_GONE) {
                format!("its engine is not gone {} s after its lease ended", ENGINE_GONE / 1000)
            } else {
                continue;
            };
            out |= 1 << at;
            all.push(Decision::OutOfService { slot: SlotId(at as u32), why });
        }
        out
    }

    fn lease_ends(&self, now: Millis, all: &mut Vec<Decision>) {
        for lease in self.leases.values().filter(|lease| lease.ended.is_none()) {
            // Its own crashes, not those of who had the slot before.
            let crashed =
                |slot: &SlotId| self.slots[slot.0 as usize].crashed_of_late(now, Some(lease.id)) >= CRASHES;
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
                    && is >= idle_warned_after(most)
                {
                    let warning = Warning::Idle { left: most - is };
                    all.push(Decision::Warn { lease: lease.id, warning });
                }
                // Late by so much that both are due, one is said.
                if let Some(left) = left
                    && warnings_over(Some(left)) > lease.warned
                {
                    all.push(Decision::Warn { lease: lease.id, warning: Warning::TimeIsUp { left } });
                }
                continue;
            };
            all.push(Decision::End { lease: lease.id, why });
        }
    }

    fn grants(&self, now: Millis, out: u64, all: &mut Vec<Decision>) {
        let mut queue = Queue {
            all: vec![],
            of_team: vec![vec![]; self.policy.teams.len()],
            held: self.policy.teams.iter().map(|team| self.held_by(&team.name)).collect(),
            free: self.mask(SlotState::is_free) & !out,
            in_service: self.mask(|slot| slot.out_of_service.is_none()) & !out,
        };
        for (id, waiting) in &self.waiting {
            let (team, why) = match (waiting.team, self.useless(waiting)) {
                (Some(team), None) => (team, None),
                (_, why) => (0, Some(why.unwrap_or(Refused::NoTeam))),
            };
            if let Some(why) = why {
                all.push(Decision::Refuse { ask: *id, why });
                continue;
            }
            queue.of_team[team].push(queue.all.len());
            let due = waiting.ask.wait_until.is_some_and(|until| until <= now);
            let passed = if due { 0 } else { waiting.passed };
            queue.all.push(Candidate { id: *id, waiting, team, passed, due, granted: false });
        }
        failpoint!(NewestFirst, queue.of_team.iter_mut().for_each(|asks| asks.reverse()));
        while let Some((at, usable)) = self.next_grant(&queue) {
            let Candidate { id, waiting, team, .. } = queue.all[at];
            let slots = self.best(usable & waiting.fits, waiting.ask.gpus);
            let given = slots.iter().fold(0u64, |all, slot| all | 1 << slot.0);
            queue.all[at].granted = true;
            let heads: Vec<usize> = (0..queue.of_team.len()).filter_map(|team| queue.head(team)).collect();
            let mut passed = vec![];
            for head in heads.into_iter().filter(|head| *head < at) {
                if self.is_passed(&queue, head, team, given) {
                    queue.all[head].passed += 1;
                    passed.push(queue.all[head].id);
                }
            }
            queue.free &= !given;
            queue.held[team] += waiting.ask.gpus;
            all.push(Decision::Grant { ask: id, slots, passed });
        }
        let late = queue.all.iter().filter(|c| c.due && !c.granted);
        all.extend(late.map(|c| Decision::Refuse { ask: c.id, why: Refused::NotInTime }));
    }

    /// Slots of which something is so, a bit each.
    fn mask(&self, so: impl Fn(&SlotState) -> bool) -> u64 {
        self.slots.iter().enumerate().filter(|(_, slot)| so(slot)).fold(0, |all, (at, _)| all | 1 << at)
    }

    /// Whether a grant of these slots to a younger ask of this team takes what the oldest ask of a team
    /// needs: its team's quota, or slots that it waits for. Who could be served and only comes later in the
    /// order is not passed.
    fn is_passed(&self, queue: &Queue<'_>, head: usize, team: usize, given: u64) -> bool {
        let c = &queue.all[head];
        if c.due || !c.can_ever(queue.in_service) {
            return false;
        }
        let lacks_slots = (queue.free & c.waiting.fits).count_ones() < c.waiting.ask.gpus;
        c.team == team || lacks_slots && c.waiting.fits & given != 0 && self.within_quota(queue, c, 0)
    }

    /// Who is next, and of which slots: those that are kept for others are not among them. Everything is
    /// weighed anew after each grant.
    fn next_grant(&self, queue: &Queue<'_>) -> Option<(usize, u64)> {
        let mut free = queue.free;
        let enough =
            |c: &Candidate<'_>, free: u64| (free & c.waiting.fits).count_ones() >= c.waiting.ask.gpus;
        let heads = (0..queue.of_team.len()).filter_map(|team| queue.head(team));
        let mut kept: Vec<usize> = heads.filter(|at| queue.all[*at].is_kept(queue.in_service)).collect();
        kept.sort_unstable();
        for at in &kept {
            let c = &queue.all[*at];
            // Slots are kept only for who may have them: its own team's quota is no reason to keep others
            // waiting.
            if self.within_quota(queue, c, 0) {
                if enough(c, free) {
                    return Some((*at, free));
                }
                free &= !c.waiting.fits;
            }
        }
        let first = |team: usize| {
            let reserved = kept.iter().map(|at| &queue.all[*at]).find(|c| c.team == team);
            let reserved = reserved.map_or(0, |c| c.waiting.ask.gpus);
            queue.of_team[team].iter().copied().find(|at| {
                let c = &queue.all[*at];
                !c.granted && !kept.contains(at) && enough(c, free) && self.within_quota(queue, c, reserved)
            })
        };
        let share =
            |team: usize| (u64::from(queue.held[team]) << 32) / u64::from(self.policy.teams[team].weight);
        let teams = (0..queue.of_team.len()).filter_map(|team| Some((share(team), first(team)?)));
        teams.min().map(|(_, at)| (at, free))
    }

    /// Whether its team may have that many more, and so many besides.
    fn within_quota(&self, queue: &Queue<'_>, c: &Candidate<'_>, besides: u32) -> bool {
        let held = failpoint!(QuotaOfNode, self.held_by_node(&c.waiting.ask.who.node), queue.held[c.team]);
        held + c.waiting.ask.gpus + besides <= self.policy.teams[c.team].gpus
    }

    /// What a quota is not about: kept for the failpoint that counts it so.
    fn held_by_node(&self, node: &str) -> u32 {
        self.leases.values().filter(|l| l.ask.who.node == node).map(|l| l.slots.len() as u32).sum()
    }

    /// Why waiting is of no use to an ask any more, whatever becomes free.
    fn useless(&self, waiting: &Waiting) -> Option<Refused> {
        let Some(team) = waiting.team.and_then(|at| self.policy.teams.get(at)) else {
            return Some(Refused::NoTeam);
        };
        let most = team.per_lease.unwrap_or(team.gpus).min(team.gpus);
        if self.drained {
            Some(Refused::Drained)
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

/// How many of the warnings are due when so much is left. A lease that is no longer than that is told so with
/// its grant.
pub(super) fn warnings_over(left: Option<Millis>) -> u8 {
    WARNED.iter().filter(|before| left.is_some_and(|left| left <= **before)).count() as u8
}

/// A lease that may be idle for so long is warned after this.
pub(super) fn idle_warned_after(most: Millis) -> Millis {
    most / 5 * 4
}

/// Who waits and what there is, while grants are worked out.
struct Queue<'a> {
    /// Oldest first.
    all: Vec<Candidate<'a>>,
    /// The same by team, as indices.
    of_team: Vec<Vec<usize>>,
    /// GPUs that each team holds.
    held: Vec<u32>,
    /// Slots that can be given, a bit each.
    free: u64,
    /// Slots that are or will be free.
    in_service: u64,
}

impl Queue<'_> {
    /// The oldest ask of a team that is not served yet.
    fn head(&self, team: usize) -> Option<usize> {
        self.of_team[team].iter().copied().find(|at| !self.all[*at].granted && !self.all[*at].due)
    }
}

#[derive(Clone, Copy)]
struct Candidate<'a> {
    id: AskId,
    waiting: &'a Waiting,
    team: usize,
    passed: u32,
    /// It waits no longer than now: it gets what is free, and nothing is kept for it.
    due: bool,
    granted: bool,
}

impl Candidate<'_> {
    /// Whether what it needs is in service at all, free or not.
    fn can_ever(&self, in_service: u64) -> bool {
        (in_service & self.waiting.fits).count_ones() >= self.waiting.ask.gpus
    }

    /// Whether what it needs is kept for it.
    fn is_kept(&self, in_service: u64) -> bool {
        failpoint!(BypassWithoutEnd, false, self.passed >= BYPASS) && self.can_ever(in_service)
    }
}
