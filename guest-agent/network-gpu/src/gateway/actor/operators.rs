//! What operators and the machine's own agent may ask: status, drain, another policy, a GPU back in service.

use super::state::{Actor, Event, STOP_AGAIN, hash, now};
use crate::gateway::configuration::configuration;
use crate::gateway::engines::{Engines, NotProved};
use crate::gateway::local::{Answer, Request};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, oneshot};
use vsgpu_core::pool::status::{Beside, OfGateway};
use vsgpu_core::pool::{LeaseId, PoolStatus, SlotId, SlotState};
use vsgpu_wire::pool::fingerprint;

impl Actor {
    /// Keeps new leases back, or gives them again; for a while only, where that is said. What somebody keeps
    /// back without an end stays so.
    pub(super) fn drain(&mut self, drained: bool, for_secs: Option<u64>) {
        let for_good = self.pool.drained() && self.drain_lapses.is_none();
        if drained && for_secs.is_some() && for_good {
            return;
        }
        tracing::info!(drained, for_secs, "whether new GPU leases are kept back");
        self.drain_lapses = for_secs.filter(|_| drained).map(|secs| now().saturating_add(secs * 1000));
        self.pool.set_drained(drained);
    }

    pub(super) fn status(&self) -> PoolStatus {
        let beside = |id: LeaseId| {
            let held = self.held.get(&id);
            Beside {
                connections: held.map_or(0, |held| held.counters.open.load(Ordering::Relaxed)),
                rtt_micros: held.and_then(|held| self.clients.get(&held.call)?.rtt_micros),
            }
        };
        let mut totals = self.totals.clone();
        for held in self.held.values() {
            let (from, to) = held.counters.bytes();
            totals.bytes_in += from;
            totals.bytes_out += to;
        }
        let gateway = OfGateway {
            engine: self.config.engine.clone(),
            config: fingerprint(&self.config),
            config_of_start: fingerprint(&self.config.of_start()),
            blocked: self.blocked.clone(),
            tried: self.mending.clone(),
            totals,
        };
        self.pool.status(now(), gateway, beside)
    }

    pub(super) fn local(&mut self, request: &Request, answer: oneshot::Sender<Answer>) {
        let said = match request {
            Request::Status => Answer::Status(Box::new(self.status())),
            Request::Reload => match self.reload() {
                Ok(()) => Answer::Done,
                Err(why) => Answer::Failed(why),
            },
            Request::Drain { drained, for_secs } => {
                self.drain(*drained, *for_secs);
                Answer::Done
            }
            Request::InService { slot } => match self.pool.slots().get(*slot as usize) {
                None => Answer::Failed(format!("there is no GPU {slot}")),
                Some(state) if state.testing && state.out_of_service.is_none() => being_tried(*slot),
                // Nothing may be ended there: it may be given at any moment.
                Some(state) if state.out_of_service.is_none() => Answer::Done,
                Some(SlotState { lease: Some(lease), .. }) => {
                    Answer::Failed(format!("GPU {slot} still belongs to GPU lease {}", lease.0))
                }
                Some(_) if !self.mending.insert(SlotId(*slot)) => being_tried(*slot),
                Some(_) => return self.offer_again(SlotId(*slot), answer),
            },
        };
        let _ = answer.send(said);
    }

    /// Offers a slot again, where nothing is left on it and its proof passes.
    fn offer_again(&self, slot: SlotId, answer: oneshot::Sender<Answer>) {
        let (engines, tell) = (self.engines.clone(), self.tell.clone());
        tokio::task::spawn_blocking(move || {
            let cleared = engines.stop(slot).and_then(|stranger| stranger.map_or(Ok(()), Err));
            let proved = cleared.map_err(NotProved::Failed).and_then(|()| engines.prove(slot));
            match proved {
                Ok(()) => drop(tell.send(Event::Mended(slot, Some(answer)))),
                Err(NotProved::Failed(why) | NotProved::NotGone(why)) => {
                    let said = Answer::Failed(format!("GPU {} is not offered: {why}", slot.0));
                    let _ = answer.send(said);
                    let _ = tell.send(Event::OutOfService(slot, why));
                }
            }
        });
    }

    /// Another policy holds from now on. Other slots or another engine need a new gateway.
    pub(super) fn reload(&mut self) -> Result<(), String> {
        let (config, _) = configuration(self.engines.system.as_ref())?;
        if config.of_start() != self.config.of_start() {
            return Err("its port, its engine or its GPUs changed: restart vsgpu-pool.service".into());
        }
        self.pool.set_policy(config.policy.clone(), now())?;
        self.policy = hash(&config.policy);
        self.config = config;
        tracing::info!(policy = self.policy, "another policy holds");
        Ok(())
    }
}

fn being_tried(slot: u32) -> Answer {
    Answer::Failed(format!("GPU {slot} is being tried already: `vsgpu-pool status` shows what comes of it"))
}

/// Tries a slot before it is offered: its proof, once nothing is left on it. What an earlier gateway left there is
/// tried to be ended until that is proven, where it is not `ended` yet.
pub(super) fn tried(slot: SlotId, ended: bool, engines: Arc<Engines>, tell: mpsc::UnboundedSender<Event>) {
    tokio::spawn(async move {
        let mut ended = ended;
        let event = loop {
            if !ended {
                tokio::time::sleep(STOP_AGAIN[1]).await;
            }
            let engines = engines.clone();
            let work = move || match if ended { Ok(None) } else { engines.stop(slot) } {
                Ok(None) => Some(engines.prove(slot)),
                Ok(Some(stranger)) => Some(Err(NotProved::Failed(stranger))),
                Err(_) => None,
            };
            match tokio::task::spawn_blocking(work).await {
                Ok(Some(Ok(()))) => break Event::Mended(slot, None),
                Ok(Some(Err(NotProved::Failed(why)))) => break Event::OutOfService(slot, why),
                // It is well, and only slow to end: once more.
                Ok(Some(Err(NotProved::NotGone(_))) | None) | Err(_) => ended = false,
            }
        };
        let _ = tell.send(event);
    });
}
