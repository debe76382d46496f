//! How much an agent does at once. One controller asks a host's VMs one after the other; several of them, or
//! a broken one, must not cost a hypervisor its threads and its memory. What is too much waits, and what
//! waits too long in too many is refused.

use crate::refusal::Refusal;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Looks at the machine at once, each with as many threads as a round has probes.
const LOOKS: usize = 4;
/// Looks that wait.
const LOOKS_WAITING: usize = 256;
/// Changes at once: VMs of one host are started beside each other.
const CHANGES: usize = 32;
/// Changes that are not done.
pub(crate) const CHANGES_WAITING: usize = 512;
/// Files that are received at once.
const TRANSFERS: usize = 8;

/// Places for each kind of work.
pub(crate) struct Work {
    looks: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    changes: Arc<Semaphore>,
    transfers: Arc<Semaphore>,
}

impl Default for Work {
    fn default() -> Self {
        let places = |n| Arc::new(Semaphore::new(n));
        Self {
            looks: places(LOOKS),
            waiting: Arc::default(),
            changes: places(CHANGES),
            transfers: places(TRANSFERS),
        }
    }
}

/// Counts who waits, also where it goes away.
struct Waits(Arc<AtomicUsize>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn place(of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refusal> {
    of.clone().acquire_owned().await.map_err(|e| Refusal::internal(e.to_string()))
}

impl Work {
    /// A place to look at the machine.
    pub(crate) async fn look(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let waits = Waits(self.waiting.clone());
        if self.waiting.fetch_add(1, Ordering::SeqCst) >= LOOKS_WAITING {
            return Err(Refusal::exhausted(format!("{LOOKS_WAITING} others wait to look at this machine")));
        }
        let place = place(&self.looks).await;
        drop(waits);
        place
    }

    /// A place to change something.
    pub(crate) async fn change(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        place(&self.changes).await
    }

    /// A place to receive a file.
    pub(crate) async fn transfer(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        place(&self.transfers).await
    }
}
