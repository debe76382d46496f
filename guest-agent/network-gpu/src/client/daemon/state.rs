//! What the daemon knows, and what its rooms say alike.

use crate::client::group::Caller;
use crate::client::local::{Event, GpuSeen, Kind, Refused};
use crate::lines;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use vsgpu_core::System;
use vsgpu_core::engine::Engine;
use vsgpu_core::pool::config::{ClientConfig, ServerAddress};
use vsgpu_wire::client::{CallError, Connector, Target};

/// For the connection to a gateway, and for its first answer.
pub(super) const CONNECT: Duration = Duration::from_secs(4);
/// For a user's first line, and until a line of ours is taken.
pub(super) const LOCAL: Duration = Duration::from_secs(5);
/// Characters of a text of a gateway.
pub(super) const MAX_TEXT: usize = 500;

/// How it is started.
pub struct Options {
    /// The machine: its configuration, and whose a connection is.
    pub system: Arc<dyn System>,
    /// Folder with `ca.pem`, `node.pem`, `node.key`.
    pub pki: PathBuf,
    /// Where users ask.
    pub socket: PathBuf,
}

pub(super) struct Daemon {
    pub(super) options: Options,
    pub(super) leases: Mutex<BTreeMap<u64, Arc<Lease>>>,
    pub(super) next: AtomicU64,
    pub(super) users: Mutex<BTreeMap<u32, u32>>,
    /// Looks at who somebody is.
    pub(super) lookups: Semaphore,
}

/// A lease of this machine.
pub(super) struct Lease {
    pub(super) server: String,
    pub(super) number: u64,
    pub(super) user: Caller,
    pub(super) gpus: Vec<GpuSeen>,
    pub(super) since: Instant,
    pub(super) until: Option<Instant>,
    pub(super) connections: AtomicU32,
    /// Bytes of programs, and to them.
    pub(super) out: AtomicU64,
    pub(super) back: AtomicU64,
    pub(super) rtt_micros: AtomicU64,
}

/// What is needed for one question.
pub(super) struct Setting {
    pub(super) config: ClientConfig,
    pub(super) engine: &'static Engine,
    pub(super) rpc: Connector,
    pub(super) engines: Connector,
}

pub(super) fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn refused(kind: Kind, text: impl Into<String>, hint: &str) -> Refused {
    Refused { kind, text: text.into(), hint: hint.into() }
}

impl From<CallError> for Refused {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(ref what) => refused(Kind::NotAllowed, what.to_string(), &what.hint),
            CallError::Unreachable(what) => refused(
                Kind::Unreachable,
                what.to_string(),
                "is the GPU server up, and that port open from here?",
            ),
            other => refused(Kind::Unreachable, other.to_string(), ""),
        }
    }
}

/// A user that takes nothing is not waited for.
pub(super) async fn say(to: &mut OwnedWriteHalf, event: &Event) {
    let _ = tokio::time::timeout(LOCAL, lines::send(to, event)).await;
}

pub(super) fn target(server: &ServerAddress) -> Target {
    Target { address: server.address.clone(), node: server.node.clone(), role: "guest" }
}
