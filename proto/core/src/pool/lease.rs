//! Who asks, what for, and what became of it.

use super::{Filter, Millis, SlotId};
use serde::{Deserialize, Serialize};

/// Who asks: a node, by its certificate, and one of its local users, as the node says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// Name in the node's certificate.
    pub node: String,
    /// The user's number on that node.
    pub uid: u32,
    /// The user's name on that node.
    pub user: String,
}

/// Number of an ask, rising: an older one is smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AskId(pub u64);

/// Number of a lease, rising.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(pub u64);

/// What somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Who.
    pub who: Identity,
    /// How many GPUs, all of this server.
    pub gpus: u32,
    /// Memory of each, MiB, at least.
    pub memory_mib: Option<u64>,
    /// What else each must be.
    pub filters: Vec<Filter>,
    /// When it came.
    pub at: Millis,
    /// When it is of no use any more; absent: it waits for ever.
    pub wait_until: Option<Millis>,
}

/// A lease.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Its number.
    pub id: LeaseId,
    /// What was asked for.
    pub ask: Ask,
    /// Name of its team. A policy without that team ends no lease; if it comes back, the lease counts again.
    pub team: String,
    /// Its slots.
    pub slots: Vec<SlotId>,
    /// When it was granted.
    pub granted: Millis,
    /// When its time is up.
    pub until: Option<Millis>,
    /// When its client was last heard.
    pub heard: Millis,
    /// Since when nothing goes on.
    pub idle_since: Option<Millis>,
    pub(super) warned_idle: bool,
    /// How many of the warnings that its time is nearly up are said: 0, 1 or 2.
    pub(super) warned: u8,
    /// Slots of it whose engine is proven gone, behind its end.
    pub(super) gone: Vec<SlotId>,
    /// Why it has ended, and when: its engine is being ended.
    pub ended: Option<(Ended, Millis)>,
}

/// Why a lease ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// The program is done.
    Released,
    /// Nothing is heard of the client any more.
    ClientGone,
    /// It did nothing for too long.
    IdleTooLong,
    /// Its longest time is over.
    TimeUp,
    /// A person ended it.
    Evicted {
        /// Who.
        by: String,
        /// Why, in that person's words.
        why: String,
    },
    /// Its engine could not be started, or crashed too often.
    EngineDied,
    /// The gateway stopped.
    Gateway,
}

impl Ended {
    /// One word, for metrics and records.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::ClientGone => "client-gone",
            Self::IdleTooLong => "idle-too-long",
            Self::TimeUp => "time-up",
            Self::Evicted { .. } => "evicted",
            Self::EngineDied => "engine-died",
            Self::Gateway => "gateway",
        }
    }
}

/// Why an ask is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No team names the node.
    #[error("this node is in no team of the GPU server")]
    NoTeam,
    /// No GPU is asked for.
    #[error("0 GPUs are asked for")]
    Nothing,
    /// More than the team may have in one lease, whatever is free.
    #[error("team {team} may have {most} at once")]
    OverQuota {
        /// The team.
        team: String,
        /// GPUs of one lease.
        most: u32,
    },
    /// The server has fewer of that kind than are asked for, free or not.
    #[error("the server has {there_are} of that kind")]
    NoSuchGpu {
        /// Fitting ones.
        there_are: u32,
    },
    /// Too many wait.
    #[error("too many wait already")]
    QueueFull,
    /// It waited as long as it wanted to.
    #[error("nothing became free in time")]
    NotInTime,
    /// The server takes no new leases.
    #[error("the server is being drained: it takes no new leases")]
    Drained,
}

impl Refused {
    /// One word, for metrics and records.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoTeam => "no-team",
            Self::Nothing => "nothing-asked",
            Self::OverQuota { .. } => "over-quota",
            Self::NoSuchGpu { .. } => "no-such-gpu",
            Self::QueueFull => "queue-full",
            Self::NotInTime => "not-in-time",
            Self::Drained => "drained",
        }
    }
}
