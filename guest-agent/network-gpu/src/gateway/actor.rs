//! The gateway's loop: it alone knows the pool. Everything that happens comes in as an event; after each one
//! the pool is asked what is to be done, and that is done. What takes time (systemd, the driver, the audit's
//! disk) is done beside it and comes back as an event.

use crate::gateway::audit::{Audit, Happened, Line, Writer};
use crate::gateway::configuration::configuration;
use crate::gateway::engines::Engines;
use crate::gateway::local::{Answer, Asked, Request};
use crate::gateway::tunnels::{Counted, Counters, Opens, Tickets};
use crate::relay::{self, First};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use vsgpu_core::failpoint;
use vsgpu_core::pool::config::ServerConfig;
use vsgpu_core::pool::status::{Beside, Totals};
use vsgpu_core::pool::{
    Ask, AskId, CLIENT_GONE, Decision, ENGINE_GONE, Ended, Filter, Identity, LeaseId, Millis, Policy, Pool,
    PoolStatus, Refused, SlotId, SlotState, SlotUse, Warning,
};
use vsgpu_core::readers::gpu_work::GpuWork;
use vsgpu_core::text::piece;
use vsgpu_wire::client::Stream;
use vsgpu_wire::pool::server::{Call, Caller};
use vsgpu_wire::pool::v1::refusal::Why;
use vsgpu_wire::pool::v1::{self, FromClient, FromGateway, from_client, from_gateway};
use vsgpu_wire::pool::{Opened, TICKET, fingerprint, new_ticket};

/// Between two looks at what is silent.
const TICK: Duration = Duration::from_secs(2);
/// For the first message of a call.
const FIRST: Duration = Duration::from_secs(5);
/// Between two tries to end an engine, and later ones.
const STOP_AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];
/// Between two messages of a client: who says more waits in its own connection.
const PACE: Duration = Duration::from_millis(50);
/// Messages of clients that wait for the loop.
const SAID: usize = 256;
/// Two crashes of one slot so soon after each other are one: each of its connections tells of it.
const ONE_CRASH: Millis = 2_000;
/// A node's refusals are written down so often at most: what a client says must not push grants out of the audit.
const REFUSAL_WRITTEN: Millis = 60_000;
/// Asks of one node in a minute: 30 at once, one every two seconds behind that.
const ASKS: (f64, f64) = (30.0, 0.5);
/// Characters of a user's name, and of a reason in a person's words.
const MAX_WORDS: usize = 200;

/// What comes back from what was begun beside the loop.
enum Event {
    /// A call's client says something.
    Said(u64, FromClient),
    /// A call is over.
    Closed(u64),
    /// The engines of a lease run, or one does not.
    Started(LeaseId, Result<(), NotStarted>),
    /// The engine of a slot of a lease is gone; who else is on its GPU.
    Gone(LeaseId, SlotId, Option<String>),
    /// A slot may be offered again; who waits for that.
    Mended(SlotId, Option<oneshot::Sender<Answer>>),
    /// A slot is not given on.
    OutOfService(SlotId, String),
    /// An engine of a lease had ended by itself, or its end of a connection did.
    Crashed(LeaseId, SlotId),
    /// A connection was not opened.
    NotOpened(&'static str),
    /// What goes on on the GPUs.
    Looked(Result<Vec<GpuWork>, String>),
    /// The audit file cannot be written.
    NotWritten(String),
    /// It can again.
    Writable,
}

enum NotStarted {
    Audit(String),
    Engine(SlotId, String),
}

/// A client's call.
struct Client {
    caller: Caller,
    to: mpsc::Sender<FromGateway>,
    heard: Millis,
    rtt_micros: Option<u64>,
    doing: Doing,
    /// Ends what listens to it.
    _over: oneshot::Sender<()>,
}

enum Doing {
    /// Nothing was said yet.
    Came,
    Waits {
        ask: AskId,
        told: Option<v1::Waiting>,
    },
    Has(LeaseId),
}

/// What the gateway keeps of a lease beside the pool.
struct Held {
    call: u64,
    counters: Arc<Counters>,
    /// Bytes at the last look.
    seen: (u64, u64),
    connections: Vec<AbortHandle>,
    /// Its engines are being started: nothing can be stopped before that is done.
    starting: bool,
}

/// Asks of one node of late.
struct Rate {
    left: f64,
    at: Millis,
}

/// The gateway.
pub(super) struct Actor {
    pool: Pool,
    config: ServerConfig,
    engines: Arc<Engines>,
    audit: Writer,
    policy: String,
    clients: BTreeMap<u64, Client>,
    next_call: u64,
    held: BTreeMap<LeaseId, Held>,
    tickets: Tickets,
    rates: BTreeMap<String, Rate>,
    totals: Totals,
    /// Why nothing can be granted: the audit file.
    blocked: Option<String>,
    looking: bool,
    /// Slots that are looked at before they are offered again.
    mending: BTreeSet<SlotId>,
    /// When new leases are given again, where they are kept back for a while only.
    drain_lapses: Option<Millis>,
    /// When a refusal of each node was last written down.
    refusals: BTreeMap<String, Millis>,
    /// When each slot last crashed.
    crashed: BTreeMap<SlotId, Millis>,
    tell: mpsc::UnboundedSender<Event>,
    told: mpsc::UnboundedReceiver<Event>,
    /// What clients say; bounded, unlike what we tell ourselves.
    say: mpsc::Sender<Event>,
    said: mpsc::Receiver<Event>,
}

fn hash(policy: &Policy) -> String {
    fingerprint(policy).chars().take(16).collect()
}

/// Milliseconds since the machine was started; sleep counts.
fn now() -> Millis {
    let since = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from);
    since.map_or(0, |since| since.as_millis() as Millis)
}

impl Actor {
    /// `stuck`: engines of an earlier gateway that could not be ended, and why.
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
            let (Ok(Some(why)) | Err(why)) = &stopped else { continue };
            tracing::error!(slot = slot.0, why, "a slot is out of service");
            pool.out_of_service(slot, why);
            if stopped.is_err() {
                // The driver may only be late: it is offered as soon as that is over.
                mending.insert(slot);
                mended(slot, engines.clone(), tell.clone());
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

    fn line(&self, event: Happened) -> Line {
        Line::of(event, &self.policy)
    }

    fn send(&self, call: u64, said: from_gateway::Said) {
        if let Some(client) = self.clients.get(&call) {
            // Who does not read is found by its silence.
            let _ = client.to.try_send(FromGateway { said: Some(said) });
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

    /// Keeps new leases back, or gives them again; for a while only, where that is said. What somebody keeps
    /// back without an end stays so.
    fn drain(&mut self, drained: bool, for_secs: Option<u64>) {
        let for_good = self.pool.drained() && self.drain_lapses.is_none();
        if drained && for_secs.is_some() && for_good {
            return;
        }
        tracing::info!(drained, for_secs, "whether new GPU leases are kept back");
        self.drain_lapses = for_secs.filter(|_| drained).map(|secs| now().saturating_add(secs * 1000));
        self.pool.set_drained(drained);
    }

    fn lease_call(
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
                tracing::info!(slot = slot.0, "a slot is offered again");
                self.mending.remove(&slot);
                self.pool.in_service(slot);
                drop(answer.map(|answer| answer.send(Answer::Done)));
            }
            Event::OutOfService(slot, why) => {
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

    fn not_opened(&mut self, why: &str) {
        *self.totals.tunnel_errors.entry(why.into()).or_default() += 1;
    }

    fn said(&mut self, call: u64, said: Option<from_client::Said>) {
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

    fn refuse_by(&mut self, call: u64, who: &Identity, why: &Refused) {
        let kind = match why {
            Refused::NoTeam | Refused::Nothing | Refused::OverQuota { .. } => Why::NotAllowed,
            Refused::NotInTime => Why::NotInTime,
            Refused::NoSuchGpu { .. } | Refused::Drained | Refused::QueueFull => Why::NotNow,
        };
        self.refuse(call, who, kind, why.word(), why.to_string());
    }

    fn refuse(&mut self, call: u64, who: &Identity, why: Why, word: &str, text: String) {
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

    fn closed(&mut self, call: u64) {
        let Some(client) = self.clients.remove(&call) else { return };
        match client.doing {
            Doing::Came => {}
            Doing::Waits { ask, .. } => drop(self.pool.withdraw(ask)),
            Doing::Has(lease) => self.end(lease, Ended::ClientGone),
        }
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

    fn call_of(&self, ask: AskId) -> Option<u64> {
        let waits = |client: &Client| matches!(client.doing, Doing::Waits { ask: own, .. } if own == ask);
        self.clients.iter().find(|(_, client)| waits(client)).map(|(call, _)| *call)
    }

    /// Starts the engines of a lease that the pool has given; its client hears of it when they run.
    fn grant(&mut self, id: LeaseId, call: Option<u64>) {
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

    fn started(&mut self, id: LeaseId, result: Result<(), NotStarted>) {
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
    fn end(&mut self, id: LeaseId, why: Ended) {
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

    fn gone(&mut self, id: LeaseId) {
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

    /// Opens a connection to the engine that a ticket is for, beside the loop.
    fn tunnel(
        &mut self,
        caller: &Caller,
        ticket: &[u8; TICKET],
        mut stream: Box<dyn Stream>,
        place: OwnedSemaphorePermit,
    ) {
        let opens = self.tickets.find(ticket, &caller.node).cloned();
        let held = opens.as_ref().and_then(|opens| self.held.get_mut(&opens.lease));
        let Some((Opens { lease, slot, .. }, held)) = opens.zip(held) else {
            tracing::warn!(node = caller.node, "a connection without a good ticket");
            self.not_opened("ticket");
            return close(stream, Opened::NoTicket);
        };
        let Some(counted) = Counted::of(&held.counters) else {
            self.not_opened("too-many");
            return close(stream, Opened::TooMany);
        };
        let (engines, tell) = (self.engines.clone(), self.tell.clone());
        let task = tokio::spawn(async move {
            let _place = place;
            let reached = tokio::task::spawn_blocking(move || engines.reach(slot)).await;
            let engine = match reached.map_err(|e| e.to_string()).flatten() {
                Ok((engine, anew)) => {
                    if anew {
                        let _ = tell.send(Event::Crashed(lease, slot));
                    }
                    tokio::net::TcpStream::from_std(engine).map_err(|e| e.to_string())
                }
                Err(why) => Err(why),
            };
            let engine = match engine {
                Ok(engine) => engine,
                Err(why) => {
                    tracing::warn!(lease = lease.0, slot = slot.0, why, "its engine is not reached");
                    let _ = tell.send(Event::Crashed(lease, slot));
                    let _ = tell.send(Event::NotOpened("engine"));
                    return close(stream, Opened::NoEngine);
                }
            };
            if stream.write_all(&[Opened::Open as u8]).await.is_ok() && stream.flush().await.is_ok() {
                let first = relay::join(stream, engine, &counted.bytes_in, &counted.bytes_out).await;
                // A program ends its connections itself: an engine that does so first has crashed.
                if first == First::B {
                    let _ = tell.send(Event::Crashed(lease, slot));
                }
            }
        });
        held.connections.retain(|connection| !connection.is_finished());
        held.connections.push(task.abort_handle());
    }

    /// Looks for who is silent.
    fn tick(&mut self) {
        let at = now();
        let silent = |client: &&Client| {
            !matches!(client.doing, Doing::Has(_)) && at.saturating_sub(client.heard) >= CLIENT_GONE
        };
        let gone: Vec<u64> = self.clients.iter().filter(|(_, c)| silent(c)).map(|(call, _)| *call).collect();
        gone.into_iter().for_each(|call| self.closed(call));
        if self.drain_lapses.is_some_and(|lapses| lapses <= at) {
            self.drain(false, None);
        }
        if self.pool.policy().idle_release.is_none() {
            return;
        }
        let mut silent = false;
        for (id, held) in &mut self.held {
            let bytes = held.counters.bytes();
            if bytes != held.seen {
                held.seen = bytes;
                self.pool.activity(*id, true, at);
            } else {
                silent |= !held.starting;
            }
        }
        if silent && !self.looking {
            self.looking = true;
            let (engines, tell) = (self.engines.clone(), self.tell.clone());
            tokio::task::spawn_blocking(move || tell.send(Event::Looked(engines.work())));
        }
    }

    /// A lease is idle when no byte passes and its GPUs do nothing. Where it is not known what they do, it is
    /// not.
    fn looked(&mut self, work: Result<Vec<GpuWork>, String>) {
        self.looking = false;
        let at = now();
        let work = work.unwrap_or_else(|why| {
            tracing::warn!(why, "whether the GPUs do anything is not known: nothing counts as idle");
            vec![]
        });
        for (id, held) in &self.held {
            let Some(lease) = self.pool.lease(*id) else { continue };
            if held.starting || held.counters.bytes() != held.seen {
                continue;
            }
            let busy = failpoint!(IdleByBytes, false, !self.engines.busy(&work, &lease.slots).is_empty());
            self.pool.activity(*id, busy, at);
        }
    }

    fn tell_who_waits(&mut self) {
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

    fn list(&self, caller: &Caller) -> v1::ListReply {
        let team = self.pool.policy().team_of(&caller.node).map(|at| &self.pool.policy().teams[at]);
        let gpus = self.pool.slots().iter().enumerate().map(|(at, s)| v1::Gpu {
            name: s.slot.name.clone(),
            memory_mib: s.slot.memory_mib,
            uuid: s.slot.uuid.clone(),
            state: match self.pool.slot_use(SlotId(at as u32)) {
                SlotUse::Free => v1::gpu::State::Free,
                SlotUse::Held | SlotUse::Ending => v1::gpu::State::Held,
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

    fn status(&self) -> PoolStatus {
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
        let status = self.pool.status(now(), self.config.engine.clone(), totals, beside);
        PoolStatus {
            config: fingerprint(&self.config),
            config_of_start: fingerprint(&self.config.of_start()),
            blocked: self.blocked.clone(),
            ..status
        }
    }

    fn local(&mut self, request: &Request, answer: oneshot::Sender<Answer>) {
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
                // Nothing may be ended there: it may be given at any moment.
                Some(state) if state.out_of_service.is_none() => Answer::Done,
                Some(SlotState { lease: Some(lease), .. }) => {
                    Answer::Failed(format!("GPU {slot} still belongs to GPU lease {}", lease.0))
                }
                Some(_) if !self.mending.insert(SlotId(*slot)) => Answer::Failed(format!(
                    "what is left on GPU {slot} is being ended: it is offered by itself when that is done"
                )),
                Some(_) => return self.offer_again(SlotId(*slot), answer),
            },
        };
        let _ = answer.send(said);
    }

    /// Offers a slot again, where nothing is left on it.
    fn offer_again(&self, slot: SlotId, answer: oneshot::Sender<Answer>) {
        let (engines, tell) = (self.engines.clone(), self.tell.clone());
        tokio::task::spawn_blocking(move || match engines.stop(slot) {
            Ok(None) => drop(tell.send(Event::Mended(slot, Some(answer)))),
            Ok(Some(why)) | Err(why) => {
                let said = Answer::Failed(format!("GPU {} is not offered: {why}", slot.0));
                let _ = answer.send(said);
                let _ = tell.send(Event::OutOfService(slot, why));
            }
        });
    }

    /// Another policy holds from now on. Other slots or another engine need a new gateway.
    fn reload(&mut self) -> Result<(), String> {
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

/// Tries to end an engine of an earlier gateway until that is proven.
fn mended(slot: SlotId, engines: Arc<Engines>, tell: mpsc::UnboundedSender<Event>) {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(STOP_AGAIN[1]).await;
            let engines = engines.clone();
            let event = match tokio::task::spawn_blocking(move || engines.stop(slot)).await {
                Ok(Ok(None)) => Event::Mended(slot, None),
                Ok(Ok(Some(why))) => Event::OutOfService(slot, why),
                _ => continue,
            };
            let _ = tell.send(event);
            return;
        }
    });
}

/// Says why a connection is not opened, and closes it.
fn close(mut stream: Box<dyn Stream>, why: Opened) {
    tokio::spawn(async move {
        let _ = tokio::time::timeout(Duration::from_secs(2), async {
            stream.write_all(&[why as u8]).await?;
            stream.shutdown().await
        })
        .await;
    });
}
