//! A GPU lease from its grant to its end: engines are started, a ticket is given, engines are ended until they are
//! gone.

use super::state::{Actor, Doing, Event, Held, NotStarted, STOP_AGAIN, now};
use crate::gateway::audit::{Happened, Line};
use crate::gateway::tunnels::Opens;
use std::sync::Arc;
use tokio::task::{AbortHandle, JoinSet};
use vsgpu_core::pool::{ENGINE_GONE, Ended, LeaseId, SlotId};
use vsgpu_wire::pool::new_ticket;
use vsgpu_wire::pool::v1::refusal::Why;
use vsgpu_wire::pool::v1::{self, from_gateway};

impl Actor {
    /// Starts the engines of a lease that the pool has given; its client hears of it when they run.
    pub(super) fn grant(&mut self, id: LeaseId, call: Option<u64>) {
        let Some(lease) = self.pool.lease(id) else { return };
        let call = call.unwrap_or(0);
        let line = Line {
            lease: Some(id.0),
            who: Some(lease.ask.who.clone()),
            team: Some(lease.team.clone()),
            gpus: self.uuids(&lease.slots),
            ..self.line(Happened::Granted)
        };
        let slots = lease.slots.clone();
        self.engines.may_run(&slots, true);
        if let Some(client) = self.clients.get_mut(&call) {
            client.doing = Doing::Has(id);
        }
        let held = Held { call, counters: Arc::default(), seen: (0, 0), connections: vec![], starting: true };
        self.held.insert(id, held);
        let written = self.audit.confirmed(line);
        let (engines, tell) = (self.engines.clone(), self.tell.clone());
        tokio::spawn(async move {
            let started = match written.await.map_err(|e| e.to_string()).flatten() {
                Err(why) => Err(NotStarted::Audit(why)),
                Ok(()) => {
                    let start = move || {
                        slots.iter().try_for_each(|slot| {
                            engines.start(*slot).map_err(|why| NotStarted::Engine(*slot, why))
                        })
                    };
                    let started = tokio::task::spawn_blocking(start).await;
                    started.unwrap_or_else(|e| Err(NotStarted::Audit(e.to_string())))
                }
            };
            let _ = tell.send(Event::Started(id, started));
        });
    }

    fn uuids(&self, slots: &[SlotId]) -> Vec<String> {
        let of = |slot: &SlotId| self.pool.slots().get(slot.0 as usize).map(|s| s.slot.uuid.clone());
        slots.iter().filter_map(of).collect()
    }

    pub(super) fn started(&mut self, id: LeaseId, result: Result<(), NotStarted>) {
        let Some(held) = self.held.get_mut(&id) else { return };
        held.starting = false;
        let call = held.call;
        let Some(lease) = self.pool.lease(id) else { return };
        if lease.ended.is_some() {
            // Its client went away while they were started.
            return self.stop(id);
        }
        let failed = match result {
            Ok(()) => None,
            Err(NotStarted::Audit(why)) => {
                self.audit_failed(why.clone());
                Some((Ended::Gateway, why))
            }
            Err(NotStarted::Engine(slot, why)) => {
                tracing::error!(slot = slot.0, why, "an engine does not start: its slot is out of service");
                self.pool.out_of_service(slot, &why);
                Some((Ended::EngineDied, format!("the engine does not start: {why}")))
            }
        };
        if let Some((ended, why)) = failed {
            let refused = v1::Refusal { why: Why::NotNow.into(), text: why };
            self.send(call, from_gateway::Said::Refused(refused));
            self.clients.remove(&call);
            return self.end(id, ended);
        }
        let granted = self.tickets_for(id);
        match granted {
            Some(granted) => self.send(call, from_gateway::Said::Granted(granted)),
            None => self.end(id, Ended::Gateway),
        }
    }

    fn tickets_for(&mut self, id: LeaseId) -> Option<v1::Granted> {
        let lease = self.pool.lease(id)?;
        let node = lease.ask.who.node.clone();
        let mut slots = vec![];
        for slot in &lease.slots {
            let ticket = new_ticket().ok()?;
            let of = &self.pool.slots().get(slot.0 as usize)?.slot;
            slots.push(v1::Slot {
                ticket: ticket.to_vec().into(),
                name: of.name.clone(),
                memory_mib: of.memory_mib,
                uuid: of.uuid.clone(),
            });
            self.tickets.add(&ticket, Opens { lease: id, slot: *slot, node: node.clone() });
        }
        Some(v1::Granted {
            lease: id.0,
            slots,
            for_millis: lease.until.map(|until| until.saturating_sub(now())),
            idle_millis: self.pool.policy().idle_release,
            engine: self.config.engine.name.clone(),
            build: self.config.engine.build.clone(),
            team: lease.team.clone(),
        })
    }

    /// Ends a lease: no connection is opened any more, its client is told, its engines are ended.
    pub(super) fn end(&mut self, id: LeaseId, why: Ended) {
        let Some(lease) = self.pool.lease(id) else { return };
        if lease.ended.is_some() {
            return;
        }
        let word = why.word();
        let text = self.ended_text(&why);
        *self.totals.ended.entry(word.into()).or_default() += 1;
        tracing::info!(lease = id.0, why = word, "a GPU lease is over");
        self.engines.may_run(&lease.slots, false);
        self.pool.end(id, why.clone(), now());
        self.tickets.void(id);
        let Some(held) = self.held.get(&id) else { return };
        let call = held.call;
        // Where nobody is there any more there is nothing to let finish.
        if !matches!(why, Ended::TimeUp | Ended::IdleTooLong) {
            held.connections.iter().for_each(AbortHandle::abort);
        }
        let starting = held.starting;
        self.send(call, from_gateway::Said::Ended(v1::Ended { why: word.into(), text }));
        self.clients.remove(&call);
        if !starting {
            self.stop(id);
        }
    }

    fn ended_text(&self, why: &Ended) -> String {
        match why {
            Ended::Released => "released".into(),
            Ended::ClientGone => "nothing was heard of the client any more".into(),
            Ended::IdleTooLong => {
                let most = self.pool.policy().idle_release.unwrap_or_default() / 1000;
                format!("its GPU was idle for {most} s (`idle-release`)")
            }
            Ended::TimeUp => "its time is up: `longest` of its team".into(),
            Ended::Evicted { by, why } if why.is_empty() => format!("{by} ended it"),
            Ended::Evicted { by, why } => format!("{by} ended it: {why}"),
            Ended::EngineDied => "its engine ended by itself too often".into(),
            Ended::Gateway => "the GPU server's gateway stopped it".into(),
        }
    }

    /// Ends the engines of a lease, again and again until they are gone.
    fn stop(&mut self, id: LeaseId) {
        let Some(lease) = self.pool.lease(id) else { return };
        let slots = lease.slots.clone();
        let connections: Vec<AbortHandle> =
            self.held.get_mut(&id).map(|held| std::mem::take(&mut held.connections)).unwrap_or_default();
        let (engines, tell) = (self.engines.clone(), self.tell.clone());
        tokio::spawn(async move {
            let (began, mut left) = (now(), slots);
            loop {
                // All of them beside each other, whatever one of them does.
                let mut stops = JoinSet::new();
                for slot in &left {
                    let (engines, slot) = (engines.clone(), *slot);
                    stops.spawn_blocking(move || (slot, engines.stop(slot)));
                }
                while let Some(stopped) = stops.join_next().await {
                    match stopped {
                        Ok((slot, Ok(stranger))) => {
                            left.retain(|other| *other != slot);
                            let _ = tell.send(Event::Gone(id, slot, stranger));
                        }
                        Ok((slot, Err(why))) => {
                            tracing::warn!(lease = id.0, slot = slot.0, why, "its engine is not gone yet");
                        }
                        Err(why) => tracing::error!(lease = id.0, %why, "an engine was not ended"),
                    }
                }
                connections.iter().for_each(AbortHandle::abort);
                if left.is_empty() {
                    return;
                }
                let late = now().saturating_sub(began) > ENGINE_GONE;
                tokio::time::sleep(STOP_AGAIN[usize::from(late)]).await;
            }
        });
    }

    pub(super) fn gone(&mut self, id: LeaseId) {
        let Some(held) = self.held.remove(&id) else { return };
        let at = now();
        let Some(lease) = self.pool.engine_gone(id) else { return };
        let seconds = at.saturating_sub(lease.granted) as f64 / 1000.0 * lease.slots.len() as f64;
        let of_team = self.totals.gpu_seconds.entry(lease.team.clone()).or_default();
        *of_team.entry(lease.ask.who.node.clone()).or_default() += seconds;
        let bytes = held.counters.bytes();
        self.totals.bytes_in += bytes.0;
        self.totals.bytes_out += bytes.1;
        let why = lease.ended.as_ref().map(|(why, _)| match why {
            Ended::Evicted { why, .. } if !why.is_empty() => format!("evicted: {why}"),
            why => why.word().to_string(),
        });
        self.audit.write(Line {
            lease: Some(id.0),
            who: Some(lease.ask.who.clone()),
            team: Some(lease.team.clone()),
            gpus: self.uuids(&lease.slots),
            why,
            bytes: Some(bytes),
            gpu_seconds: Some(seconds),
            ..self.line(Happened::Ended)
        });
    }
}
