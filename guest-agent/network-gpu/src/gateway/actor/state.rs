//! What the gateway's loop knows, and what comes back to it.

use crate::gateway::audit::{Happened, Line, Writer};
use crate::gateway::engines::Engines;
use crate::gateway::local::Answer;
use crate::gateway::tunnels::{Counters, Tickets};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use vsgpu_core::pool::config::ServerConfig;
use vsgpu_core::pool::status::Totals;
use vsgpu_core::pool::{AskId, LeaseId, Millis, Policy, Pool, SlotId};
use vsgpu_core::readers::gpu_work::GpuWork;
use vsgpu_wire::pool::fingerprint;
use vsgpu_wire::pool::server::Caller;
use vsgpu_wire::pool::v1::{self, FromClient, FromGateway, from_gateway};

/// Between two tries to end an engine, and later ones.
pub(super) const STOP_AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];
/// Messages of clients that wait for the loop.
pub(super) const SAID: usize = 256;
/// Characters of a user's name, and of a reason in a person's words.
pub(super) const MAX_WORDS: usize = 200;

/// What comes back from what was begun beside the loop.
pub(super) enum Event {
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

pub(super) enum NotStarted {
    Audit(String),
    Engine(SlotId, String),
}

/// A client's call.
pub(super) struct Client {
    pub(super) caller: Caller,
    pub(super) to: mpsc::Sender<FromGateway>,
    pub(super) heard: Millis,
    pub(super) rtt_micros: Option<u64>,
    pub(super) doing: Doing,
    /// Ends what listens to it.
    pub(super) _over: oneshot::Sender<()>,
}

pub(super) enum Doing {
    /// Nothing was said yet.
    Came,
    Waits {
        ask: AskId,
        told: Option<v1::Waiting>,
    },
    Has(LeaseId),
}

/// What the gateway keeps of a lease beside the pool.
pub(super) struct Held {
    pub(super) call: u64,
    pub(super) counters: Arc<Counters>,
    /// Bytes at the last look.
    pub(super) seen: (u64, u64),
    pub(super) connections: Vec<AbortHandle>,
    /// Its engines are being started: nothing can be stopped before that is done.
    pub(super) starting: bool,
}

/// Asks of one node of late.
pub(super) struct Rate {
    pub(super) left: f64,
    pub(super) at: Millis,
}

/// The gateway.
pub(crate) struct Actor {
    pub(super) pool: Pool,
    pub(super) config: ServerConfig,
    pub(super) engines: Arc<Engines>,
    pub(super) audit: Writer,
    pub(super) policy: String,
    pub(super) clients: BTreeMap<u64, Client>,
    pub(super) next_call: u64,
    pub(super) held: BTreeMap<LeaseId, Held>,
    pub(super) tickets: Tickets,
    pub(super) rates: BTreeMap<String, Rate>,
    pub(super) totals: Totals,
    /// Why nothing can be granted: the audit file.
    pub(super) blocked: Option<String>,
    pub(super) looking: bool,
    /// Slots that are looked at before they are offered again.
    pub(super) mending: BTreeSet<SlotId>,
    /// When new leases are given again, where they are kept back for a while only.
    pub(super) drain_lapses: Option<Millis>,
    /// When a refusal of each node was last written down.
    pub(super) refusals: BTreeMap<String, Millis>,
    /// When each slot last crashed.
    pub(super) crashed: BTreeMap<SlotId, Millis>,
    pub(super) tell: mpsc::UnboundedSender<Event>,
    pub(super) told: mpsc::UnboundedReceiver<Event>,
    /// What clients say; bounded, unlike what we tell ourselves.
    pub(super) say: mpsc::Sender<Event>,
    pub(super) said: mpsc::Receiver<Event>,
}

pub(super) fn hash(policy: &Policy) -> String {
    fingerprint(policy).chars().take(16).collect()
}

/// Milliseconds since the machine was started; sleep counts.
pub(super) fn now() -> Millis {
    let since = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from);
    since.map_or(0, |since| since.as_millis() as Millis)
}

impl Actor {
    pub(super) fn line(&self, event: Happened) -> Line {
        Line::of(event, &self.policy)
    }

    pub(super) fn send(&self, call: u64, said: from_gateway::Said) {
        if let Some(client) = self.clients.get(&call) {
            // Who does not read is found by its silence.
            let _ = client.to.try_send(FromGateway { said: Some(said) });
        }
    }
}
