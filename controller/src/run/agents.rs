//! Connections of a run: one per agent, claimed before anything is changed, the claim renewed while the run
//! goes on and released at its end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use vsgpu_wire::client::{CallError, Connection, Connector, Fence, Target};

/// How long nobody else may take a node of which nothing was heard.
pub const LEASE_SECS: u32 = 60;
/// Between two tries to reach an agent: short at first, then longer.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// All agents of a run.
pub(super) struct Agents {
    connector: Connector,
    holder: String,
    once: Duration,
    known: Mutex<BTreeMap<(String, String), Arc<Agent>>>,
    renewing: Mutex<JoinSet<()>>,
}

struct Agent {
    epoch: AtomicU64,
    connection: Mutex<Option<Connection>>,
    /// When it was last claimed.
    claimed: Mutex<Instant>,
    /// One claim at a time: two first ones would fence each other off.
    claiming: tokio::sync::Mutex<()>,
}

impl Agent {
    fn connection(&self) -> std::sync::MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claimed(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node that is ours.
#[derive(Clone)]
pub(super) struct Claimed {
    pub(super) connection: Connection,
    pub(super) fence: Fence,
}

impl Agents {
    pub(super) fn new(connector: Connector, holder: String, once: Duration) -> Self {
        Self { connector, holder, once, known: Mutex::default(), renewing: Mutex::default() }
    }

    fn agent(&self, target: &Target) -> Arc<Agent> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (target.node.clone(), target.role.to_string());
        known
            .entry(key)
            .or_insert_with(|| {
                let (connection, claimed) = (Mutex::default(), Mutex::new(Instant::now()));
                Arc::new(Agent {
                    epoch: AtomicU64::new(0),
                    connection,
                    claimed,
                    claiming: tokio::sync::Mutex::default(),
                })
            })
            .clone()
    }

    /// A connection of its own, for a transfer: it must not stand in the way of the others.
    pub(super) async fn own(&self, target: &Target) -> Result<Connection, CallError> {
        Connection::open(&self.connector, target, self.once).await
    }

    /// Reaches and claims a node, trying again until the patience ends: it may be booting, or in another
    /// controller's hands. `anew`: by a new connection, so that the node proves once more who it is.
    pub(super) async fn reach(
        &self,
        target: &Target,
        patience: Duration,
        anew: bool,
    ) -> Result<Claimed, CallError> {
        let agent = self.agent(target);
        if anew {
            *agent.connection() = None;
        }
        let end = Instant::now() + patience;
        let mut pause = RETRY[0];
        loop {
            match self.once(&agent, target).await {
                Err(CallError::Unreachable(_) | CallError::Held(_)) if Instant::now() < end => {
                    *agent.connection() = None;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY[1]);
                }
                ended => return ended,
            }
        }
    }

    async fn once(&self, agent: &Arc<Agent>, target: &Target) -> Result<Claimed, CallError> {
        let _turn = agent.claiming.lock().await;
        let known = agent.connection().clone();
        let connection = match known {
            Some(connection) => connection,
            None => Connection::open(&self.connector, target, self.once).await?,
        };
        let seen = Fence { holder: self.holder.clone(), epoch: agent.epoch.load(Ordering::SeqCst) };
        let epoch = connection.claim(&seen, LEASE_SECS, self.once).await?;
        agent.epoch.fetch_max(epoch, Ordering::SeqCst);
        *agent.claimed() = Instant::now();
        if seen.epoch == 0 {
            self.renew(agent.clone());
        }
        *agent.connection() = Some(connection.clone());
        Ok(Claimed { connection, fence: Fence { epoch, ..seen } })
    }

    /// Every third of a lease in which no step has claimed it: a step must not wait for this. A node that
    /// does not answer is met again by its next step.
    fn renew(&self, agent: Arc<Agent>) {
        let (holder, once) = (self.holder.clone(), self.once);
        let mut renewing = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        renewing.spawn(async move {
            let third = Duration::from_secs(u64::from(LEASE_SECS) / 3);
            let mut wait = third;
            loop {
                tokio::time::sleep(wait).await;
                let since = agent.claimed().elapsed();
                wait = third.saturating_sub(since);
                if !wait.is_zero() {
                    continue;
                }
                wait = third;
                let _turn = agent.claiming.lock().await;
                let connection = agent.connection().clone();
                let fence = Fence { holder: holder.clone(), epoch: agent.epoch.load(Ordering::SeqCst) };
                let Some(connection) = connection else { continue };
                match connection.claim(&fence, LEASE_SECS, once).await {
                    // Another number: the node has forgotten ours in a reboot.
                    Ok(epoch) => {
                        agent.epoch.fetch_max(epoch, Ordering::SeqCst);
                        *agent.claimed() = Instant::now();
                    }
                    Err(CallError::Overtaken(_)) => return,
                    Err(_) => {}
                }
            }
        });
    }

    /// Gives all nodes back, so that the next controller need not wait for the leases to end.
    pub(super) async fn release(&self) {
        self.renewing.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        let known: Vec<Arc<Agent>> =
            self.known.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let mut work = JoinSet::new();
        for agent in known {
            let fence = Fence { holder: self.holder.clone(), epoch: agent.epoch.load(Ordering::SeqCst) };
            let Some(connection) = agent.connection().take() else { continue };
            work.spawn(async move { drop(connection.claim(&fence, 0, Duration::from_secs(2)).await) });
        }
        while work.join_next().await.is_some() {}
    }
}
