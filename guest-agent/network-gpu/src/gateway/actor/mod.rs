//! The gateway's loop: it alone knows the pool. Everything that happens comes in as an event; after each one
//! the pool is asked what is to be done, and that is done. What takes time (systemd, the driver, the audit's
//! disk) is done beside it and comes back as an event.

mod clients;
mod connections;
mod idle;
mod leases;
mod operators;
mod state;

use crate::gateway::audit::{Audit, Happened, Line, Writer};
use crate::gateway::engines::Engines;
use crate::gateway::local::{Answer, Asked};
use crate::gateway::tunnels::Tickets;
use operators::tried;
use state::{Client, Doing, Event, MAX_WORDS, SAID, hash, now};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use vsgpu_core::pool::config::ServerConfig;
use vsgpu_core::pool::status::Totals;
use vsgpu_core::pool::{AskId, Decision, Ended, LeaseId, Millis, Pool, SlotId, Warning};
use vsgpu_core::text::piece;
use vsgpu_wire::pool::server::Call;
use vsgpu_wire::pool::v1::refusal::Why;
use vsgpu_wire::pool::v1::{self, from_gateway};

pub(super) use state::Actor;

/// Between two looks at what is silent.
const TICK: Duration = Duration::from_secs(2);
/// Two crashes of one slot so soon after each other are one: each of its connections tells of it.
const ONE_CRASH: Millis = 2_000;

impl Actor {
    /// `stopped`: what became of the engines of an earlier gateway, and who else is on their GPUs.
    pub(super) fn new(
        config: ServerConfig,
        engines: Arc<Engines>,
        audit: Audit,
        stopped: Vec<(SlotId, Result<Option<String>, String>)>,
    ) -> Result<Self, String> {
        let mut pool = Pool::new(config.policy.clone(), config.slots.clone())?;
        let (tell, told) = mpsc::unbounded_channel();
        let (say, said) = mpsc::channel(SAID);
        let mut mending = BTreeSet::new();
        for (slot, stopped) in stopped {
            let out = match &stopped {
                Ok(stranger) => stranger.clone(),
                Err(why) => Some(format!("{why}; it is tried again by itself, every 10 s")),
            };
            if let Some(why) = out {
                tracing::error!(slot = slot.0, why, "a slot is out of service");
                pool.out_of_service(slot, &why);
            }
            // Nobody gets one that was not tried. The driver may only be late: then it is tried when that is over.
            if !matches!(stopped, Ok(Some(_))) {
                mending.insert(slot);
                pool.test(slot);
                tried(slot, stopped.is_ok(), engines.clone(), tell.clone());
            }
        }
        let policy = hash(&config.policy);
        let say_so = {
            let tell = tell.clone();
            move |written: Result<(), String>| {
                let _ = tell.send(written.map_or_else(Event::NotWritten, |()| Event::Writable));
            }
        };
        let audit = Writer::of(audit, say_so);
        audit.write(Line::of(Happened::Began, &policy));
        Ok(Self {
            policy,
            pool,
            config,
            engines,
            audit,
            clients: BTreeMap::new(),
            next_call: 1,
            held: BTreeMap::new(),
            tickets: Tickets::default(),
            rates: BTreeMap::new(),
            totals: Totals::default(),
            blocked: None,
            looking: false,
            mending,
            drain_lapses: None,
            refusals: BTreeMap::new(),
            crashed: BTreeMap::new(),
            tell,
            told,
            say,
            said,
        })
    }

    pub(super) async fn run(&mut self, mut calls: mpsc::Receiver<Call>, mut local: mpsc::Receiver<Asked>) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            let at = now();
            let look = self.pool.next_look(at).map_or(TICK, |look| Duration::from_millis((look - at).max(1)));
            tokio::select! {
                call = calls.recv() => match call {
                    Some(call) => self.call(call),
                    None => return,
                },
                event = self.told.recv() => match event {
                    Some(event) => self.event(event),
                    None => return,
                },
                Some(event) = self.said.recv() => self.event(event),
                Some((request, answer)) = local.recv() => self.local(&request, answer),
                _ = tick.tick() => self.tick(),
                () = tokio::time::sleep(look) => {}
            }
            self.settle();
        }
    }

    fn call(&mut self, call: Call) {
        match call {
            Call::Lease { caller, from, to } => self.lease_call(caller, from, to),
            Call::List { caller, answer } => drop(answer.send(self.list(&caller))),
            Call::Status { answer } => {
                let text = serde_json::to_string(&self.status()).unwrap_or_default();
                let _ = answer.send(text);
            }
            Call::Drain { drained, answer } => {
                self.drain(drained, None);
                let _ = answer.send(self.pool.leases().count() as u32);
            }
            Call::Evict { lease, why, answer } => {
                let id = LeaseId(lease);
                let found = self.pool.lease(id).filter(|lease| lease.ended.is_none());
                let done = found.map(drop).ok_or_else(|| format!("there is no GPU lease {lease}"));
                if done.is_ok() {
                    let why = Ended::Evicted { by: "the operator".into(), why: piece(&why, MAX_WORDS) };
                    self.end(id, why);
                }
                let _ = answer.send(done);
            }
            Call::Tunnel { caller, ticket, stream, place } => self.tunnel(&caller, &ticket, stream, place),
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Said(call, message) => self.said(call, message.said),
            Event::Closed(call) => self.closed(call),
            Event::Started(lease, result) => self.started(lease, result),
            Event::Gone(lease, slot, stranger) => {
                if let Some(why) = stranger {
                    tracing::error!(slot = slot.0, why, "a slot is out of service");
                    self.pool.out_of_service(slot, &why);
                }
                if self.pool.slot_gone(lease, slot) {
                    self.gone(lease);
                }
            }
            Event::Mended(slot, answer) => {
                tracing::info!(slot = slot.0, "its proof passed: a slot is offered");
                self.mending.remove(&slot);
                self.pool.in_service(slot);
                drop(answer.map(|answer| answer.send(Answer::Done)));
            }
            Event::OutOfService(slot, why) => {
                tracing::error!(slot = slot.0, why, "a slot is out of service");
                self.mending.remove(&slot);
                self.pool.out_of_service(slot, &why);
            }
            Event::Crashed(lease, slot) => {
                let at = now();
                let again = self.crashed.get(&slot).is_some_and(|last| at.saturating_sub(*last) < ONE_CRASH);
                if !again && self.pool.lease(lease).is_some_and(|lease| lease.ended.is_none()) {
                    self.crashed.insert(slot, at);
                    self.totals.engine_crashes += 1;
                    tracing::warn!(lease = lease.0, slot = slot.0, "an engine ended under its program");
                    self.pool.engine_crashed(lease, slot, at);
                }
            }
            Event::NotOpened(why) => self.not_opened(why),
            Event::Looked(work) => self.looked(work),
            Event::Writable => self.blocked = None,
            Event::NotWritten(why) => self.audit_failed(why),
        }
    }

    /// Nothing is granted until it can be written again; who waits is told so rather than kept.
    fn audit_failed(&mut self, why: String) {
        if self.blocked.is_none() {
            tracing::error!(why, "no GPU leases are given");
        }
        let waits = |client: &Client| match client.doing {
            Doing::Waits { ask, .. } => Some(ask),
            _ => None,
        };
        let waiting: Vec<(u64, AskId)> =
            self.clients.iter().filter_map(|(call, client)| Some((*call, waits(client)?))).collect();
        for (call, ask) in waiting {
            if let Some(ask) = self.pool.withdraw(ask) {
                self.refuse(call, &ask.who, Why::NotNow, "blocked", why.clone());
            }
        }
        self.blocked = Some(why);
    }

    /// Asks the pool, and does what it says, until it says nothing more.
    fn settle(&mut self) {
        // A decision can bring about another one; none brings about itself.
        for _ in 0..64 {
            let at = now();
            let mut decisions = self.pool.decide(at);
            if self.blocked.is_some() {
                decisions.retain(|decision| !matches!(decision, Decision::Grant { .. }));
            }
            if decisions.is_empty() {
                break;
            }
            for decision in &decisions {
                self.carry_out(decision, at);
            }
        }
        self.tell_who_waits();
    }

    fn carry_out(&mut self, decision: &Decision, at: Millis) {
        match decision {
            Decision::Grant { ask, .. } => {
                let asked = self.pool.asks().find(|(id, _)| id == ask).map(|(_, ask)| ask.at);
                let call = self.call_of(*ask);
                if let Some(lease) = self.pool.carry_out(decision, at) {
                    self.totals.waited(at.saturating_sub(asked.unwrap_or(at)));
                    self.grant(lease, call);
                }
            }
            Decision::Refuse { ask, why } => {
                let who = self.pool.asks().find(|(id, _)| id == ask).map(|(_, ask)| ask.who.clone());
                self.pool.carry_out(decision, at);
                if let Some((call, who)) = self.call_of(*ask).zip(who) {
                    self.refuse_by(call, &who, why);
                }
            }
            Decision::Warn { lease, warning } => {
                self.pool.carry_out(decision, at);
                let (idle, left_millis) = match warning {
                    Warning::Idle { left } => (true, *left),
                    Warning::TimeIsUp { left } => (false, *left),
                };
                if let Some(held) = self.held.get(lease) {
                    self.send(held.call, from_gateway::Said::Warning(v1::Warning { idle, left_millis }));
                }
            }
            Decision::End { lease, why } => self.end(*lease, why.clone()),
            Decision::OutOfService { slot, why } => {
                tracing::error!(slot = slot.0, why, "a slot is out of service");
                self.pool.carry_out(decision, at);
            }
        }
    }
}
