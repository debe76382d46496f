//! What clients ask and hear: their messages, the queue, refusals, the list of GPUs.

use super::state::{Actor, Client, Doing, Event, MAX_WORDS, Rate, now};
use crate::gateway::audit::{Happened, Line};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use vsgpu_core::pool::{Ask, AskId, Ended, Filter, Identity, Millis, Refused, SlotId, SlotUse};
use vsgpu_core::text::piece;
use vsgpu_wire::pool::server::Caller;
use vsgpu_wire::pool::v1::refusal::Why;
use vsgpu_wire::pool::v1::{self, FromClient, FromGateway, from_client, from_gateway};

/// For the first message of a call.
const FIRST: Duration = Duration::from_secs(5);
/// Between two messages of a client: who says more waits in its own connection.
const PACE: Duration = Duration::from_millis(50);
/// A node's refusals are written down so often at most: what a client says must not push grants out of the audit.
const REFUSAL_WRITTEN: Millis = 60_000;
/// Asks of one node in a minute: 30 at once, one every two seconds behind that.
const ASKS: (f64, f64) = (30.0, 0.5);

impl Actor {
    pub(super) fn lease_call(
        &mut self,
        caller: Caller,
        mut from: mpsc::Receiver<FromClient>,
        to: mpsc::Sender<FromGateway>,
    ) {
        let call = self.next_call;
        self.next_call += 1;
        let say = self.say.clone();
        // Dropped with the client: the call is over then, whoever ended it.
        let (over, mut ended) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let mut next = tokio::time::timeout(FIRST, from.recv()).await.ok().flatten();
            while let Some(message) = next {
                if say.send(Event::Said(call, message)).await.is_err() {
                    return;
                }
                tokio::time::sleep(PACE).await;
                next = tokio::select! {
                    said = from.recv() => said,
                    _ = &mut ended => return,
                };
            }
            let _ = say.send(Event::Closed(call)).await;
        });
        let client = Client { caller, to, heard: now(), rtt_micros: None, doing: Doing::Came, _over: over };
        self.clients.insert(call, client);
    }

    pub(super) fn said(&mut self, call: u64, said: Option<from_client::Said>) {
        let at = now();
        let Some(client) = self.clients.get_mut(&call) else { return };
        client.heard = at;
        let lease = match client.doing {
            Doing::Has(lease) => Some(lease),
            _ => None,
        };
        match said {
            Some(from_client::Said::Ask(ask)) if matches!(client.doing, Doing::Came) => self.ask(call, &ask),
            Some(from_client::Said::Alive(alive)) => {
                client.rtt_micros = Some(alive.rtt_micros).filter(|rtt| *rtt > 0);
                let echo = v1::Alive { number: alive.number, rtt_micros: 0 };
                if let Some(lease) = lease {
                    self.pool.heard(lease, at);
                }
                self.send(call, from_gateway::Said::Alive(echo));
            }
            Some(from_client::Said::Release(_)) => match lease {
                Some(lease) => self.end(lease, Ended::Released),
                None => self.closed(call),
            },
            // A message of another version, or out of its turn: it is alive.
            _ => {}
        }
    }

    fn ask(&mut self, call: u64, asked: &v1::Ask) {
        let at = now();
        let Some(client) = self.clients.get(&call) else { return };
        let node = client.caller.node.clone();
        let who = Identity { node: node.clone(), uid: asked.uid, user: piece(&asked.user, MAX_WORDS) };
        if !self.within_rate(&node, at) {
            let why = format!("{node} asks too often; wait a minute");
            return self.refuse(call, &who, Why::NotNow, "too-often", why);
        }
        if let Some(why) = self.blocked.clone() {
            return self.refuse(call, &who, Why::NotNow, "blocked", why);
        }
        let build = &self.config.engine.build;
        if !asked.build.eq_ignore_ascii_case(build) {
            let why = format!(
                "the engine's build differs: {} here, {} there; give both sides bundles of one build (`vsgpu apply`)",
                piece(&asked.build, 64),
                build
            );
            return self.refuse(call, &who, Why::NotAllowed, "other-build", why);
        }
        let filters: Result<Vec<Filter>, String> =
            asked.filters.iter().take(16).map(|text| piece(text, MAX_WORDS).parse()).collect();
        let filters = match filters {
            Ok(filters) => filters,
            Err(why) => return self.refuse(call, &who, Why::NotAllowed, "filter", why),
        };
        let ask = Ask {
            who: who.clone(),
            gpus: asked.gpus,
            memory_mib: Some(asked.memory_mib).filter(|least| *least > 0),
            filters,
            at,
            wait_until: asked.wait_millis.map(|wait| at.saturating_add(wait)),
        };
        match self.pool.ask(ask) {
            Ok(ask) => {
                if let Some(client) = self.clients.get_mut(&call) {
                    client.doing = Doing::Waits { ask, told: None };
                }
            }
            Err(why) => self.refuse_by(call, &who, &why),
        }
    }

    fn within_rate(&mut self, node: &str, at: Millis) -> bool {
        // Nodes that have not asked for long have all of it again.
        if self.rates.len() > 4_096 {
            self.rates.retain(|_, rate| at.saturating_sub(rate.at) < 60_000);
        }
        let rate = self.rates.entry(node.into()).or_insert(Rate { left: ASKS.0, at });
        rate.left = (rate.left + at.saturating_sub(rate.at) as f64 / 1000.0 * ASKS.1).min(ASKS.0);
        rate.at = at;
        let may = rate.left >= 1.0;
        rate.left -= f64::from(may);
        may
    }

    pub(super) fn refuse_by(&mut self, call: u64, who: &Identity, why: &Refused) {
        let kind = match why {
            Refused::NoTeam | Refused::Nothing | Refused::OverQuota { .. } => Why::NotAllowed,
            Refused::NotInTime => Why::NotInTime,
            Refused::NoSuchGpu { .. } | Refused::Drained | Refused::QueueFull => Why::NotNow,
        };
        self.refuse(call, who, kind, why.word(), why.to_string());
    }

    pub(super) fn refuse(&mut self, call: u64, who: &Identity, why: Why, word: &str, text: String) {
        *self.totals.refused.entry(word.into()).or_default() += 1;
        // Who is not let in at all is of interest; who came too late is not.
        let at = now();
        let late = |last: &Millis| at.saturating_sub(*last) >= REFUSAL_WRITTEN;
        if why == Why::NotAllowed && self.refusals.get(&who.node).is_none_or(late) {
            if self.refusals.len() > 4_096 {
                self.refusals.clear();
            }
            self.refusals.insert(who.node.clone(), at);
            let refused =
                Line { who: Some(who.clone()), why: Some(text.clone()), ..self.line(Happened::Refused) };
            self.audit.write(refused);
        }
        self.send(call, from_gateway::Said::Refused(v1::Refusal { why: why.into(), text }));
        self.clients.remove(&call);
    }

    pub(super) fn closed(&mut self, call: u64) {
        let Some(client) = self.clients.remove(&call) else { return };
        match client.doing {
            Doing::Came => {}
            Doing::Waits { ask, .. } => drop(self.pool.withdraw(ask)),
            Doing::Has(lease) => self.end(lease, Ended::ClientGone),
        }
    }

    pub(super) fn call_of(&self, ask: AskId) -> Option<u64> {
        let waits = |client: &Client| matches!(client.doing, Doing::Waits { ask: own, .. } if own == ask);
        self.clients.iter().find(|(_, client)| waits(client)).map(|(call, _)| *call)
    }

    pub(super) fn tell_who_waits(&mut self) {
        let mut places: BTreeMap<AskId, v1::Waiting> = BTreeMap::new();
        if self.clients.values().all(|client| !matches!(client.doing, Doing::Waits { .. })) {
            return;
        }
        for (at, (id, ask)) in self.pool.asks().enumerate() {
            let Some(team) = self.pool.policy().team_of(&ask.who.node) else { continue };
            let team = &self.pool.policy().teams[team];
            let waiting = v1::Waiting {
                place: at as u32 + 1,
                gpus: ask.gpus,
                team: team.name.clone(),
                team_holds: self.pool.held_by(&team.name),
                team_may: team.gpus,
            };
            places.insert(id, waiting);
        }
        for client in self.clients.values_mut() {
            let Doing::Waits { ask, told } = &mut client.doing else { continue };
            let Some(waiting) = places.remove(ask).filter(|waiting| told.as_ref() != Some(waiting)) else {
                continue;
            };
            let said = FromGateway { said: Some(from_gateway::Said::Waiting(waiting.clone())) };
            if client.to.try_send(said).is_ok() {
                *told = Some(waiting);
            }
        }
    }

    pub(super) fn list(&self, caller: &Caller) -> v1::ListReply {
        let team = self.pool.policy().team_of(&caller.node).map(|at| &self.pool.policy().teams[at]);
        let gpus = self.pool.slots().iter().enumerate().map(|(at, s)| v1::Gpu {
            name: s.slot.name.clone(),
            memory_mib: s.slot.memory_mib,
            uuid: s.slot.uuid.clone(),
            state: match self.pool.slot_use(SlotId(at as u32)) {
                SlotUse::Free => v1::gpu::State::Free,
                SlotUse::Held | SlotUse::Ending | SlotUse::Testing => v1::gpu::State::Held,
                SlotUse::OutOfService => v1::gpu::State::OutOfService,
            }
            .into(),
        });
        v1::ListReply {
            engine: self.config.engine.name.clone(),
            build: self.config.engine.build.clone(),
            cuda: self.config.engine.cuda.clone(),
            drained: self.pool.drained(),
            blocked: self.blocked.clone().unwrap_or_default(),
            team: team.map(|team| team.name.clone()).unwrap_or_default(),
            team_holds: team.map(|team| self.pool.held_by(&team.name)).unwrap_or_default(),
            team_may: team.map(|team| team.gpus).unwrap_or_default(),
            waiting: self.pool.asks().count() as u32,
            gpus: gpus.collect(),
        }
    }
}
