//! Random lives of a GPU server's pool, and the laws that hold in every step of them. They are judged by what
//! is counted here, not by what the pool counts.
//!
//! A slot has one lease, and is given on only when the engine that was on it is gone, and not while
//! its proof runs. No team is given more
//! than its quota. The oldest ask of a team lets at most eight younger ones pass that take what it needs.
//! Within a team the oldest that can be served comes first, between teams the one that has least for its
//! weight. Who waits and could be served is served. Nobody is ended without a reason, and not before its
//! time. Nothing is to be done between two looks.

use crate::Rng;
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::pool::{
    Ask, AskId, BYPASS, CLIENT_GONE, CRASHES, CRASHES_WITHIN, Decision, Ended, Filter, Identity, LeaseId,
    Millis, Policy, Pool, Slot, SlotId, SlotKind, Team, Warning,
};

/// What was seen of a life.
#[derive(Debug, Default)]
pub struct Life {
    pub asks: u64,
    pub grants: u64,
    pub warnings: u64,
    pub ends: BTreeMap<&'static str, u64>,
    pub refused: BTreeMap<&'static str, u64>,
}

/// What is known here of a lease.
struct Known {
    granted: Millis,
    heard: Millis,
    longest: Option<Millis>,
    idle_since: Option<Millis>,
    crashes: Vec<(SlotId, Millis)>,
}

struct World {
    pool: Pool,
    now: Millis,
    /// Engines at work: of which lease, on each slot.
    engines: BTreeMap<SlotId, LeaseId>,
    leases: BTreeMap<LeaseId, Known>,
    /// Younger grants that passed an ask.
    passed: BTreeMap<AskId, u32>,
    /// Slots whose proof runs.
    testing: BTreeSet<SlotId>,
    life: Life,
}

const NODES: [&str; 6] = ["ml-1", "ml-2", "ml-3", "ci-1", "ci-2", "guest-1"];

fn policy(rng: &mut Rng) -> Policy {
    let mut team = |name: &str| Team {
        name: name.into(),
        members: vec![format!("{name}-*")],
        gpus: 1 + rng.below(6) as u32,
        per_lease: if rng.below(3) == 0 { Some(1 + rng.below(2) as u32) } else { None },
        longest: if rng.below(2) == 0 { Some(30_000 + rng.below(600_000)) } else { None },
        weight: 1 + rng.below(4) as u32,
    };
    let mut teams: Vec<Team> = ["ml", "ci", "guest"].map(&mut team).into();
    if rng.below(4) == 0 {
        teams.remove(rng.below(3) as usize);
    }
    Policy { teams, idle_release: if rng.below(2) == 0 { Some(20_000) } else { None } }
}

fn slots(rng: &mut Rng) -> Vec<Slot> {
    let one = |n: u64| {
        let (name, memory_mib) = [("NVIDIA A100", 40_960), ("NVIDIA H100", 81_920)][(n % 2) as usize];
        Slot { uuid: format!("GPU-{n}"), kind: SlotKind::Whole, memory_mib, name: name.into() }
    };
    (0..1 + rng.below(8)).map(one).collect()
}

/// Lives so many steps.
///
/// # Errors
/// The law that was broken, and in which step.
pub fn live(seed: u64, steps: u64) -> Result<Life, String> {
    let mut rng = Rng::new(seed);
    let policy = policy(&mut rng);
    let pool = Pool::new(policy, slots(&mut rng))?;
    let mut world = World {
        pool,
        now: 0,
        engines: BTreeMap::new(),
        leases: BTreeMap::new(),
        passed: BTreeMap::new(),
        testing: BTreeSet::new(),
        life: Life::default(),
    };
    for step in 0..steps {
        let at = |why| format!("seed {seed}, step {step}: {why}");
        world.time_passes(&mut rng).map_err(at)?;
        for _ in 0..1 + rng.below(3) {
            world.event(&mut rng).map_err(at)?;
        }
        world.decisions().map_err(at)?;
    }
    Ok(world.life)
}

fn free(pool: &Pool) -> Vec<SlotId> {
    let states = pool.slots().iter().enumerate();
    states.filter(|(_, s)| s.is_free()).map(|(at, _)| SlotId(at as u32)).collect()
}

impl World {
    /// Until the next event: what the pool said of the time in between must be true.
    fn time_passes(&mut self, rng: &mut Rng) -> Result<(), String> {
        let then = self.now + rng.below(4_000) + if rng.below(40) == 0 { 20_000 } else { 0 };
        let look = self.pool.next_look(self.now).unwrap_or(u64::MAX);
        let quiet = self.now + rng.below(then - self.now + 1);
        if quiet < look {
            let all = self.pool.decide(quiet);
            if !all.is_empty() {
                return Err(format!("at {quiet}, before the look at {look}, there is {all:?}"));
            }
        }
        self.now = then;
        Ok(())
    }

    fn event(&mut self, rng: &mut Rng) -> Result<(), String> {
        let leases: Vec<LeaseId> = self.pool.leases().map(|l| l.id).collect();
        let lease = (!leases.is_empty()).then(|| leases[rng.below(leases.len() as u64) as usize]);
        let slot = SlotId(rng.below(self.pool.slots().len() as u64) as u32);
        // Clients are silent for longer, now and then.
        if rng.below(60) > 0 {
            for id in &leases {
                self.pool.heard(*id, self.now);
                self.leases.get_mut(id).unwrap().heard = self.now;
            }
        }
        match (rng.below(20), lease) {
            (0..=6, _) => self.asks(rng),
            (7..=8, Some(lease)) => self.pool.end(lease, Ended::Released, self.now),
            (9..=11, Some(lease)) => {
                let busy = rng.below(6) == 0;
                self.pool.activity(lease, busy, self.now);
                let known = self.leases.get_mut(&lease).unwrap();
                known.idle_since = if busy { None } else { known.idle_since.or(Some(self.now)) };
            }
            (12, Some(lease)) => {
                let of = self.pool.lease(lease).unwrap();
                let (slot, ended) = (of.slots[0], of.ended.is_some());
                self.pool.engine_crashed(lease, slot, self.now);
                if !ended {
                    self.leases.get_mut(&lease).unwrap().crashes.push((slot, self.now));
                }
            }
            (13, _) if rng.below(30) == 0 => {
                let drained = !self.pool.drained();
                self.pool.set_drained(drained);
            }
            (14, _) if rng.below(20) == 0 => {
                let policy = policy(rng);
                // Who may be idle for less time is warned first: the last fifth of it is always left.
                if policy.idle_release != self.pool.policy().idle_release {
                    self.leases.values_mut().for_each(|l| l.idle_since = l.idle_since.map(|_| self.now));
                }
                self.pool.set_policy(policy, self.now)?;
            }
            (15, _) if rng.below(10) == 0 => {
                self.pool.out_of_service(slot, "a person said so");
                self.testing.remove(&slot);
            }
            (16, _) => {
                self.pool.in_service(slot);
                self.testing.remove(&slot);
            }
            (18, _) if rng.below(4) == 0 && self.pool.slots()[slot.0 as usize].is_free() => {
                self.pool.test(slot);
                self.testing.insert(slot);
            }
            (17, _) => {
                let asks: Vec<AskId> = self.pool.asks().map(|(id, _)| id).collect();
                if !asks.is_empty() {
                    self.pool.withdraw(asks[rng.below(asks.len() as u64) as usize]);
                }
            }
            // Engines of ended leases go, sooner or later.
            _ => {
                for lease in leases {
                    let ended = self.pool.lease(lease).is_some_and(|l| l.ended.is_some());
                    if ended && rng.below(2) == 0 {
                        self.engines.retain(|_, of| *of != lease);
                        self.leases.remove(&lease);
                        let over = self.pool.engine_gone(lease).ok_or("an ended lease is not over")?;
                        let word = over.ended.map_or("?", |(why, _)| why.word());
                        *self.life.ends.entry(word).or_default() += 1;
                    }
                }
            }
        }
        Ok(())
    }

    fn asks(&mut self, rng: &mut Rng) {
        let node = NODES[rng.below(NODES.len() as u64) as usize];
        let ask = Ask {
            who: Identity { node: node.into(), uid: 1000, user: "ada".into() },
            gpus: 1 + rng.below(3) as u32,
            memory_mib: (rng.below(4) == 0).then_some(60_000),
            filters: if rng.below(6) == 0 { vec![Filter::Name("A100".into())] } else { vec![] },
            at: self.now,
            wait_until: (rng.below(8) == 0).then(|| self.now + rng.below(30_000)),
        };
        if self.pool.asks().count() < 40 {
            match self.pool.ask(ask) {
                Ok(_) => self.life.asks += 1,
                Err(why) => *self.life.refused.entry(why.word()).or_default() += 1,
            }
        }
    }

    fn decisions(&mut self) -> Result<(), String> {
        let all = self.pool.decide(self.now);
        let out: Vec<SlotId> = all
            .iter()
            .filter_map(|d| if let Decision::OutOfService { slot, .. } = d { Some(*slot) } else { None })
            .collect();
        for decision in &all {
            match decision {
                Decision::Grant { ask, slots, .. } => self.granted(*ask, slots, &out)?,
                Decision::End { lease, why } => self.ended(*lease, why)?,
                Decision::Warn { lease, warning } => self.warned(*lease, *warning)?,
                Decision::Refuse { why, .. } => *self.life.refused.entry(why.word()).or_default() += 1,
                Decision::OutOfService { slot, .. } => drop(self.testing.remove(slot)),
            }
            let lease = self.pool.carry_out(decision, self.now);
            if let Decision::Grant { slots, .. } = decision {
                let lease = lease.ok_or("a grant is not carried out")?;
                let of = self.pool.lease(lease).unwrap();
                let longest = of.until.map(|until| until - self.now);
                let known =
                    Known { granted: self.now, heard: self.now, longest, idle_since: None, crashes: vec![] };
                self.leases.insert(lease, known);
                self.life.grants += 1;
                for slot in slots {
                    if self.testing.contains(slot) {
                        return Err(format!("slot {} is given while its proof runs", slot.0));
                    }
                    if let Some(other) = self.engines.insert(*slot, lease) {
                        return Err(format!(
                            "slot {} is given to {lease:?} while the engine of {other:?} runs",
                            slot.0
                        ));
                    }
                }
            }
        }
        let again = self.pool.decide(self.now);
        if !again.is_empty() {
            return Err(format!("asked again it wants more: {again:?}"));
        }
        let waits: Vec<AskId> = self.pool.asks().map(|(id, _)| id).collect();
        self.passed.retain(|id, _| waits.contains(id));
        match self.servable().first() {
            Some((id, _)) => Err(format!("{id:?} waits, and could be served from {:?}", free(&self.pool))),
            None => Ok(()),
        }
    }

    /// Who could be served now, with its team, oldest first: nothing is kept from it for somebody else.
    fn servable(&self) -> Vec<(AskId, Team)> {
        if self.pool.drained() {
            return vec![];
        }
        let kept = self.kept();
        let mut free = free(&self.pool);
        for (_, ask) in kept.iter().filter(|(_, ask)| self.within_quota(ask, 0)) {
            if self.fitting(ask, &free) < ask.gpus as usize {
                free.retain(|slot| !self.fits(ask, *slot));
            }
        }
        let may = |(id, ask): &(AskId, &Ask)| {
            let own =
                kept.iter().find(|(_, k)| self.team(k).map(|t| t.name) == self.team(ask).map(|t| t.name));
            let besides = own.filter(|(other, _)| other != id).map_or(0, |(_, k)| k.gpus);
            let due = ask.wait_until.is_some_and(|until| until <= self.now);
            !due && self.within_quota(ask, besides) && self.fitting(ask, &free) >= ask.gpus as usize
        };
        self.pool.asks().filter(may).filter_map(|(id, ask)| Some((id, self.team(ask)?))).collect()
    }

    /// The oldest asks of their teams that enough have passed.
    fn kept(&self) -> Vec<(AskId, &Ask)> {
        let in_service: Vec<SlotId> = self.in_service();
        let asks = self.heads().into_iter();
        asks.filter(|(id, ask)| {
            self.passed.get(id).is_some_and(|n| *n >= BYPASS)
                && self.fitting(ask, &in_service) >= ask.gpus as usize
        })
        .collect()
    }

    /// The oldest ask of each team that waits longer than now.
    fn heads(&self) -> Vec<(AskId, &Ask)> {
        let mut heads: BTreeMap<String, (AskId, &Ask)> = BTreeMap::new();
        for (id, ask) in self.pool.asks() {
            let due = ask.wait_until.is_some_and(|until| until <= self.now);
            if let Some(team) = self.team(ask).filter(|_| !due) {
                heads.entry(team.name).or_insert((id, ask));
            }
        }
        let mut heads: Vec<_> = heads.into_values().collect();
        heads.sort_by_key(|(id, _)| *id);
        heads
    }

    fn in_service(&self) -> Vec<SlotId> {
        let slots = self.pool.slots().iter().enumerate();
        slots.filter(|(_, s)| s.out_of_service.is_none()).map(|(at, _)| SlotId(at as u32)).collect()
    }

    fn fits(&self, ask: &Ask, slot: SlotId) -> bool {
        let slot = &self.pool.slots()[slot.0 as usize].slot;
        slot.memory_mib >= ask.memory_mib.unwrap_or(0)
            && ask.filters.iter().all(|f| matches!(f, Filter::Name(name) if slot.name.contains(name)))
    }

    fn fitting(&self, ask: &Ask, slots: &[SlotId]) -> usize {
        slots.iter().filter(|slot| self.fits(ask, **slot)).count()
    }

    fn team(&self, ask: &Ask) -> Option<Team> {
        let name = ask.who.node.split('-').next().unwrap();
        self.pool.policy().teams.iter().find(|t| t.name == name).cloned()
    }

    /// By the leases and the asks they were granted to, not by what the pool counts.
    fn held(&self, team: &str) -> u32 {
        let of_team = self.pool.leases().filter(|l| l.ask.who.node.starts_with(&format!("{team}-")));
        of_team.map(|l| l.slots.len() as u32).sum()
    }

    fn within_quota(&self, ask: &Ask, besides: u32) -> bool {
        self.team(ask).is_some_and(|team| {
            let most = team.per_lease.unwrap_or(team.gpus);
            ask.gpus <= most && self.held(&team.name) + ask.gpus + besides <= team.gpus
        })
    }

    fn granted(&mut self, id: AskId, slots: &[SlotId], out: &[SlotId]) -> Result<(), String> {
        let Some((_, ask)) = self.pool.asks().find(|(other, _)| *other == id) else {
            return Err(format!("{id:?} is granted and does not wait"));
        };
        let ask = ask.clone();
        if slots.len() != ask.gpus as usize || self.fitting(&ask, slots) != slots.len() {
            return Err(format!("{ask:?} is granted {slots:?}"));
        }
        if self.pool.drained() || slots.iter().any(|slot| out.contains(slot)) {
            return Err(format!("{id:?} is granted {slots:?}: drained {}, out {out:?}", self.pool.drained()));
        }
        if !self.within_quota(&ask, 0) {
            return Err(format!("{ask:?} is granted beyond the quota of its team"));
        }
        let team = self.team(&ask).unwrap();
        let kept: Vec<AskId> = self.kept().iter().map(|(id, _)| *id).collect();
        if !kept.contains(&id) {
            let share = |t: &Team| f64::from(self.held(&t.name)) / f64::from(t.weight);
            for (other, of) in self.servable() {
                if of.name == team.name && other < id {
                    return Err(format!("{id:?} is served before {other:?} of its team, which is older"));
                }
                if of.name != team.name && share(&of) + 1e-9 < share(&team) {
                    return Err(format!("{id:?} of {} is served before {other:?} of {}", team.name, of.name));
                }
            }
        }
        let (free, in_service) = (free(&self.pool), self.in_service());
        let passed: Vec<AskId> = self
            .heads()
            .into_iter()
            .filter(|(other, older)| {
                let own = self.team(older).is_some_and(|t| t.name == team.name);
                let lacks = self.fitting(older, &free) < older.gpus as usize;
                let takes = slots.iter().any(|slot| self.fits(older, *slot));
                *other < id
                    && self.fitting(older, &in_service) >= older.gpus as usize
                    && (own || lacks && takes && self.within_quota(older, 0))
            })
            .map(|(other, _)| other)
            .collect();
        for other in passed {
            let count = self.passed.entry(other).or_default();
            *count += 1;
            // One that leaves room for it takes nothing from it.
            let older = self.pool.asks().find(|(id, _)| *id == other).unwrap().1.clone();
            let own = self.team(&older).is_some_and(|t| t.name == team.name);
            if self.passed[&other] > BYPASS && !(own && self.within_quota(&older, ask.gpus)) {
                return Err(format!("{other:?} was passed by more than {BYPASS} younger ones"));
            }
        }
        Ok(())
    }

    fn ended(&self, id: LeaseId, why: &Ended) -> Result<(), String> {
        let known = &self.leases[&id];
        let since = |at: Millis| self.now - at;
        let idle = self.pool.policy().idle_release;
        let right = match why {
            Ended::ClientGone => since(known.heard) >= CLIENT_GONE,
            Ended::TimeUp => known.longest.is_some_and(|longest| since(known.granted) >= longest),
            Ended::IdleTooLong => known.idle_since.zip(idle).is_some_and(|(at, most)| since(at) >= most / 5),
            Ended::EngineDied => {
                let late = known.crashes.iter().filter(|(_, at)| since(*at) <= CRASHES_WITHIN);
                late.count() >= CRASHES
            }
            _ => false,
        };
        if right { Ok(()) } else { Err(format!("{id:?} is ended for {why:?}, at {}", self.now)) }
    }

    fn warned(&mut self, id: LeaseId, warning: Warning) -> Result<(), String> {
        let known = &self.leases[&id];
        self.life.warnings += 1;
        let right = match warning {
            Warning::Idle { left } => known.idle_since.is_some() && left > 0,
            Warning::TimeIsUp { left } => {
                known.longest.is_some_and(|longest| known.granted + longest - self.now == left)
                    && left <= 5 * 60_000
            }
        };
        if right { Ok(()) } else { Err(format!("{id:?} is warned of {warning:?}, at {}", self.now)) }
    }
}
