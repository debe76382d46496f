//! What a gateway says of itself: to operators and monitors over the wire, to its own machine's agent over a
//! local socket. One document for all of them.

use super::config::EngineBuild;
use super::{Millis, Pool, SlotId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Version of the document.
pub const STATUS_VERSION: u32 = 1;
/// Upper bounds of the counted waits, seconds; the last count is of those that took longer.
pub const WAITS: [u64; 8] = [1, 5, 15, 60, 300, 900, 3600, 14_400];

/// All that a gateway knows. Times are spans: clocks of two machines differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PoolStatus {
    /// Version of this document.
    pub version: u32,
    /// The engine.
    pub engine: EngineBuild,
    /// Fingerprint of the configuration that holds (`vsgpu_wire::pool::fingerprint`).
    pub config: String,
    /// The same of what holds since the gateway's start (`ServerConfig::of_start`).
    pub config_of_start: String,
    /// No new leases are given.
    pub drained: bool,
    /// Why no new leases are given, though nobody drained it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<String>,
    /// Names of the teams.
    pub teams: Vec<TeamStatus>,
    /// What there is.
    pub slots: Vec<SlotStatus>,
    /// Who has what.
    pub leases: Vec<LeaseStatus>,
    /// Who waits, oldest first.
    pub queue: Vec<AskStatus>,
    /// Sums since the gateway began.
    pub totals: Totals,
}

/// A team.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TeamStatus {
    /// Its name.
    pub name: String,
    /// GPUs that it has now.
    pub holds: u32,
    /// GPUs that it may have.
    pub may: u32,
}

/// What a slot is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SlotUse {
    /// Nothing.
    Free,
    /// It belongs to a lease.
    Held,
    /// Its lease is over, its engine is being ended.
    Ending,
    /// Its proof runs, before it is given to anybody.
    Testing,
    /// It is given to nobody.
    OutOfService,
}

impl SlotUse {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Free, Self::Held, Self::Ending, Self::Testing, Self::OutOfService];

    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Held => "held",
            Self::Ending => "ending",
            Self::Testing => "testing",
            Self::OutOfService => "out-of-service",
        }
    }
}

/// A slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SlotStatus {
    /// Its number.
    pub slot: u32,
    /// Product name of its GPU.
    pub name: String,
    /// UUID of its GPU or MIG device.
    pub uuid: String,
    /// Its memory, MiB.
    pub memory_mib: u64,
    /// What it is doing.
    pub state: SlotUse,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<u64>,
    /// Why it is out of service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Out of service, and tried again by the gateway itself: nobody has to do anything yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tried_again: bool,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LeaseStatus {
    /// Its number.
    pub lease: u64,
    /// The node that has it.
    pub node: String,
    /// The user, as that node says.
    pub user: String,
    /// Its team.
    pub team: String,
    /// Its slots.
    pub slots: Vec<u32>,
    /// Seconds since it was granted.
    pub for_secs: u64,
    /// Seconds until its time is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_secs: Option<u64>,
    /// Seconds for which it has done nothing; looked at only where idle leases end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_secs: Option<u64>,
    /// Connections of its programs.
    pub connections: u32,
    /// Why it is over, one word: its engine is being ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// Round trip to its client, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_micros: Option<u64>,
}

/// An ask in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AskStatus {
    /// The node that asks.
    pub node: String,
    /// The user, as that node says.
    pub user: String,
    /// Its team.
    pub team: String,
    /// GPUs that it asks for.
    pub gpus: u32,
    /// Seconds since it asked.
    pub for_secs: u64,
}

/// Sums since the gateway began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Totals {
    /// Leases granted.
    pub granted: u64,
    /// Asks refused, by why.
    pub refused: BTreeMap<String, u64>,
    /// Leases ended, by why.
    pub ended: BTreeMap<String, u64>,
    /// Seconds that GPUs were held, by team and node.
    pub gpu_seconds: BTreeMap<String, BTreeMap<String, f64>>,
    /// Bytes from programs to engines.
    pub bytes_in: u64,
    /// Bytes from engines to programs.
    pub bytes_out: u64,
    /// Engines that crashed.
    pub engine_crashes: u64,
    /// Connections to engines that were not opened, by why.
    pub tunnel_errors: BTreeMap<String, u64>,
    /// How many asks waited at most as long as each of [`WAITS`] before they were granted, and how many
    /// longer.
    pub waits: [u64; WAITS.len() + 1],
    /// Sum of these waits, seconds.
    pub waited: f64,
}

impl Totals {
    /// An ask was granted after so long.
    pub fn waited(&mut self, wait: Millis) {
        let at = WAITS.iter().position(|most| wait <= most * 1000).unwrap_or(WAITS.len());
        self.waits[at] += 1;
        self.waited += wait as f64 / 1000.0;
        self.granted += 1;
    }
}

/// What the gateway knows beside its pool, of itself; each as in [`PoolStatus`].
#[derive(Clone, Debug)]
pub struct OfGateway {
    /// The engine.
    pub engine: EngineBuild,
    /// Fingerprint of the configuration.
    pub config: String,
    /// And of what holds since its start.
    pub config_of_start: String,
    /// Why it gives no leases.
    pub blocked: Option<String>,
    /// Slots that it looks at until they can be offered.
    pub tried: BTreeSet<SlotId>,
    /// Sums.
    pub totals: Totals,
}

/// What the gateway knows beside its pool, of one lease.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside {
    /// Connections of its programs.
    pub connections: u32,
    /// Round trip to its client, microseconds.
    pub rtt_micros: Option<u64>,
}

impl PoolStatus {
    /// Reads a document.
    ///
    /// # Errors
    /// What is wrong with it, for people: another version, most of all.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        super::config::read(bytes, STATUS_VERSION)
    }
}

impl Pool {
    /// What a slot is doing.
    pub fn slot_use(&self, id: SlotId) -> SlotUse {
        let Some(slot) = self.slots().get(id.0 as usize) else { return SlotUse::OutOfService };
        let lease = slot.lease.and_then(|lease| self.lease(lease));
        match lease {
            _ if slot.out_of_service.is_some() => SlotUse::OutOfService,
            Some(lease) if lease.ended.is_some() => SlotUse::Ending,
            _ if slot.lease.is_some() => SlotUse::Held,
            _ if slot.testing => SlotUse::Testing,
            _ => SlotUse::Free,
        }
    }

    /// The document, at this time.
    pub fn status(
        &self,
        now: Millis,
        gateway: OfGateway,
        beside: impl Fn(super::LeaseId) -> Beside,
    ) -> PoolStatus {
        let OfGateway { engine, config, config_of_start, blocked, tried, totals } = gateway;
        let secs = |since: Millis| now.saturating_sub(since) / 1000;
        let teams = self.policy().teams.iter().map(|team| TeamStatus {
            name: team.name.clone(),
            holds: self.held_by(&team.name),
            may: team.gpus,
        });
        let slots = self.slots().iter().enumerate().map(|(at, s)| SlotStatus {
            slot: at as u32,
            name: s.slot.name.clone(),
            uuid: s.slot.uuid.clone(),
            memory_mib: s.slot.memory_mib,
            state: self.slot_use(SlotId(at as u32)),
            lease: s.lease.map(|lease| lease.0),
            why: s.out_of_service.clone(),
            tried_again: s.out_of_service.is_some() && tried.contains(&SlotId(at as u32)),
        });
        let leases = self.leases().map(|lease| {
            let Beside { connections, rtt_micros } = beside(lease.id);
            LeaseStatus {
                lease: lease.id.0,
                node: lease.ask.who.node.clone(),
                user: lease.ask.who.user.clone(),
                team: lease.team.clone(),
                slots: lease.slots.iter().map(|slot| slot.0).collect(),
                for_secs: secs(lease.granted),
                left_secs: lease.until.map(|until| until.saturating_sub(now) / 1000),
                idle_secs: lease.idle_since.map(secs),
                connections,
                ended: lease.ended.as_ref().map(|(why, _)| why.word().into()),
                rtt_micros,
            }
        });
        let queue = self.asks().map(|(_, ask)| AskStatus {
            node: ask.who.node.clone(),
            user: ask.who.user.clone(),
            team: self
                .policy()
                .team_of(&ask.who.node)
                .map(|at| self.policy().teams[at].name.clone())
                .unwrap_or_default(),
            gpus: ask.gpus,
            for_secs: secs(ask.at),
        });
        PoolStatus {
            version: STATUS_VERSION,
            engine,
            config,
            config_of_start,
            drained: self.drained(),
            blocked,
            teams: teams.collect(),
            slots: slots.collect(),
            leases: leases.collect(),
            queue: queue.collect(),
            totals,
        }
    }
}
