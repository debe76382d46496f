//! What is said between the daemon and what users call, a JSON document a line.

use serde::{Deserialize, Serialize};

/// Where the daemon listens.
pub const SOCKET: &str = "/run/vsgpu-gpu/gpu.sock";
/// Bytes of what a user asks.
pub(super) const MAX_REQUEST: usize = 64 << 10;

/// What a user wants; the first line. A lease lasts as long as its connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Request {
    /// A GPU lease.
    Run(Want),
    /// The GPUs of all servers.
    List,
    /// The GPU leases of this machine.
    Status,
}

/// A lease that is wanted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Want {
    /// How many.
    pub gpus: u32,
    /// Memory of each, MiB, at least; 0: any.
    #[serde(default)]
    pub memory_mib: u64,
    /// `device.name=A100`.
    #[serde(default)]
    pub filters: Vec<String>,
    /// How long it may wait; absent: as long as it takes.
    #[serde(default)]
    pub wait_millis: Option<u64>,
    /// Only this server.
    #[serde(default)]
    pub server: Option<String>,
}

/// What the daemon says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Event {
    /// In the queue.
    Waiting { server: String, place: u32, gpus: u32, team: String, team_holds: u32, team_may: u32 },
    /// It has them; the way to the engines was tried.
    Granted(Granted),
    /// What is about to happen.
    Warning { idle: bool, left_millis: u64 },
    /// The lease is over.
    Ended { why: String, text: String },
    /// The lease was given back, as its user wanted it: the last event.
    Released,
    /// Nothing is granted.
    Refused(Refused),
    /// The servers, in the order in which they are asked.
    Servers(Vec<ServerSeen>),
    /// The leases of this machine.
    Leases(Vec<LeaseSeen>),
}

/// A lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Granted {
    pub server: String,
    pub lease: u64,
    pub gpus: Vec<GpuSeen>,
    pub for_millis: Option<u64>,
    pub idle_millis: Option<u64>,
    /// Round trip of one question, microseconds.
    pub rtt_micros: Option<u64>,
    /// What the program's environment must have, and must not have.
    pub env: Vec<(String, String)>,
    pub without: Vec<String>,
}

/// Why nothing is granted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Refused {
    pub kind: Kind,
    pub text: String,
    /// What to do.
    pub hint: String,
}

/// Of what kind a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// No server is reached.
    Unreachable,
    /// Not granted in time.
    NotInTime,
    /// Not allowed.
    NotAllowed,
}

/// A GPU of a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct GpuSeen {
    pub name: String,
    pub memory_mib: u64,
    pub uuid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// A server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ServerSeen {
    pub server: String,
    pub address: String,
    /// Why it cannot be used now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    pub team: String,
    pub team_holds: u32,
    pub team_may: u32,
    pub waiting: u32,
    pub drained: bool,
    /// Why it gives out no new leases though nobody drained it; empty where it does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub blocked: String,
    pub engine: String,
    pub build: String,
    pub cuda: String,
    /// Round trip of one question, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_micros: Option<u64>,
    pub gpus: Vec<GpuSeen>,
}

/// A lease of this machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct LeaseSeen {
    pub server: String,
    pub lease: u64,
    pub user: String,
    pub gpus: Vec<GpuSeen>,
    pub for_secs: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_secs: Option<u64>,
    pub connections: u32,
    pub bytes_out: u64,
    pub bytes_in: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_micros: Option<u64>,
}
