//! Random lives of a GPU server's pool, and the laws that hold in every step of them: a slot has one lease, and is given on
//! only when the engine that was on it is gone; no team holds more than its quota when something is given to it; no ask is
//! passed by more than eight younger ones that took what it could have had; within a team the oldest comes first; who waits and could be served is served.

use crate::Rng;
use std::collections::BTreeMap;
use vsgpu_core::pool::{
    Ask, AskId, BYPASS, Decision, Ended, Filter, Identity, LeaseId, Millis, Policy, Pool, Slot, SlotId,
    SlotKind, Team,
};

/// What was seen of a life.
#[derive(Debug, Default)]
pub struct Life {
    pub steps: u64,
    pub asks: u64,
    pub grants: u64,
    pub ends: BTreeMap<&'static str, u64>,
}

struct World {
    pool: Pool,
    now: Millis,
    /// Engines at work: of which lease, on each slot. Kept apart from what the pool believes.
    engines: BTreeMap<SlotId, LeaseId>,
    /// Younger grants that passed an ask.
    passed: BTreeMap<AskId, u32>,
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
    let teams = ["ml", "ci", "guest"].map(&mut team).into();
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
    let mut world =
        World { pool, now: 0, engines: BTreeMap::new(), passed: BTreeMap::new(), life: Life::default() };
    for step in 0..steps {
        world.life.steps = step;
        world.event(&mut rng);
        world.decisions().map_err(|why| format!("seed {seed}, step {step}: {why}"))?;
    }
    Ok(world.life)
}

fn free(pool: &Pool) -> Vec<SlotId> {
    let states = pool.slots().iter().enumerate();
    states.filter(|(_, s)| s.is_free()).map(|(at, _)| SlotId(at as u32)).collect()
}

impl World {
    fn event(&mut self, rng: &mut Rng) {
        let leases: Vec<LeaseId> = self.pool.leases().map(|l| l.id).collect();
        let lease = (!leases.is_empty()).then(|| leases[rng.below(leases.len() as u64) as usize]);
        self.now += rng.below(4_000);
        // Clients are silent for longer, now and then.
        if rng.below(40) > 0 {
            leases.iter().for_each(|l| self.pool.heard(*l, self.now));
        } else {
            self.now += 20_000;
        }
        match (rng.below(16), lease) {
            (0..=5, _) => {
                let node = NODES[rng.below(NODES.len() as u64) as usize];
                let ask = Ask {
                    who: Identity { node: node.into(), uid: 1000, user: "ada".into() },
                    gpus: 1 + rng.below(3) as u32,
                    memory_mib: (rng.below(4) == 0).then_some(60_000),
                    filters: if rng.below(6) == 0 { vec![Filter::Name("a100".into())] } else { vec![] },
                    at: self.now,
                    wait_until: (rng.below(8) == 0).then(|| self.now + rng.below(60_000)),
                };
                if self.pool.asks().count() < 40 && self.pool.ask(ask).is_ok() {
                    self.life.asks += 1;
                }
            }
            (6..=7, Some(lease)) => self.pool.end(lease, Ended::Released, self.now),
            (8..=10, Some(lease)) => self.pool.activity(lease, rng.below(6) == 0, self.now),
            (11, Some(lease)) => {
                self.engines.retain(|_, of| *of != lease);
                self.pool.engine_crashed(lease, self.now);
            }
            (12, _) if rng.below(30) == 0 => {
                let drained = !self.pool.drained();
                self.pool.set_drained(drained);
            }
            (13, _) => {
                let slot = SlotId(rng.below(self.pool.slots().len() as u64) as u32);
                self.pool.in_service(slot);
            }
            // Engines of ended leases go, sooner or later.
            _ => {
                for lease in leases {
                    let ended = self.pool.lease(lease).is_some_and(|l| l.ended.is_some());
                    if ended && rng.below(2) == 0 {
                        self.engines.retain(|_, of| *of != lease);
                        if let Some(over) = self.pool.engine_gone(lease) {
                            let word = over.ended.map_or("?", |(why, _)| why.word());
                            *self.life.ends.entry(word).or_default() += 1;
                        }
                    }
                }
            }
        }
    }

    fn decisions(&mut self) -> Result<(), String> {
        for decision in self.pool.decide(self.now) {
            if let Decision::Grant { ask, slots, .. } = &decision {
                self.granted(*ask, slots)?;
            }
            let lease = self.pool.carry_out(&decision, self.now);
            if let (Decision::Grant { ask, slots, .. }, Some(lease)) = (&decision, lease) {
                self.passed.remove(ask);
                self.life.grants += 1;
                for slot in slots {
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
        // Who fits into what is free, within the quota, and has nobody before it that slots are kept for, would have it.
        let free = free(&self.pool);
        let kept = self.passed.values().any(|passed| *passed >= BYPASS);
        let waits = self.pool.asks().find(|(_, ask)| {
            !kept
                && !self.pool.drained()
                && self.within_quota(ask)
                && self.fitting(ask, &free) >= ask.gpus as usize
        });
        match waits {
            Some((id, _)) => Err(format!("{id:?} waits, and could be served from {free:?}")),
            None => Ok(()),
        }
    }

    fn fits(&self, ask: &Ask, slot: SlotId) -> bool {
        let slot = &self.pool.slots()[slot.0 as usize].slot;
        slot.memory_mib >= ask.memory_mib.unwrap_or(0)
            && ask
                .filters
                .iter()
                .all(|f| matches!(f, Filter::Name(name) if slot.name.to_lowercase().contains(name)))
    }

    fn fitting(&self, ask: &Ask, slots: &[SlotId]) -> usize {
        slots.iter().filter(|slot| self.fits(ask, **slot)).count()
    }

    fn team(&self, ask: &Ask) -> Team {
        let name = ask.who.node.split('-').next().unwrap();
        self.pool.policy().teams.iter().find(|t| t.name == name).unwrap().clone()
    }

    /// By the engines' leases and the asks they were granted to, not by what the pool counts.
    fn within_quota(&self, ask: &Ask) -> bool {
        let team = self.team(ask);
        let of_team = self.pool.leases().filter(|l| self.team(&l.ask).name == team.name);
        of_team.map(|l| l.slots.len() as u32).sum::<u32>() + ask.gpus <= team.gpus
    }

    fn granted(&mut self, id: AskId, slots: &[SlotId]) -> Result<(), String> {
        let Some((_, ask)) = self.pool.asks().find(|(other, _)| *other == id) else {
            return Err(format!("{id:?} is granted and does not wait"));
        };
        let ask = ask.clone();
        if slots.len() != ask.gpus as usize || self.fitting(&ask, slots) != slots.len() {
            return Err(format!("{ask:?} is granted {slots:?}"));
        }
        if !self.within_quota(&ask) {
            return Err(format!("{ask:?} is granted beyond the quota of its team"));
        }
        // Within a team the oldest that can be served is served first.
        let (free, kept) = (free(&self.pool), self.passed.values().any(|passed| *passed >= BYPASS));
        let first = self.pool.asks().find(|(other, older)| {
            *other < id
                && !kept
                && self.team(older).name == self.team(&ask).name
                && self.within_quota(older)
                && self.fitting(older, &free) >= older.gpus as usize
        });
        if let Some((other, _)) = first {
            return Err(format!("{id:?} is served before {other:?} of its team, which is older"));
        }
        let mut late = None;
        let passed: Vec<AskId> = self
            .pool
            .asks()
            .filter(|(other, older)| {
                *other < id && self.within_quota(older) && slots.iter().any(|slot| self.fits(older, *slot))
            })
            .map(|(other, _)| other)
            .collect();
        for other in passed {
            let count = self.passed.entry(other).or_default();
            *count += 1;
            if *count > BYPASS {
                late = Some(other);
            }
        }
        let waits: Vec<AskId> = self.pool.asks().map(|(id, _)| id).collect();
        self.passed.retain(|id, _| waits.contains(id));
        match late {
            Some(other) => Err(format!("{other:?} was passed by more than {BYPASS} younger ones")),
            None => Ok(()),
        }
    }
}
