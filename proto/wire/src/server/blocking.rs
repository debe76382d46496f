//! Where an agent looks and acts: on threads beside the network, because `System` is synchronous. Under
//! simulated time there are no threads: the work runs in place, and the time it would take passes before and
//! after it.

use crate::refusal::Refusal;
use std::sync::Arc;
use std::time::Duration;

/// How blocking work is run.
#[derive(Clone, Default)]
pub enum Blocking {
    /// On tokio's blocking threads.
    #[default]
    Threads,
    /// In place, with the times that pass before and after it; for simulated time.
    InPlace(Arc<dyn Fn() -> (Duration, Duration) + Send + Sync>),
}

impl Blocking {
    /// Runs the work.
    ///
    /// # Errors
    /// Where the work panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        match self {
            Self::Threads => {
                tokio::task::spawn_blocking(work).await.map_err(|e| Refusal::internal(e.to_string()))
            }
            Self::InPlace(times) => {
                let (before, after) = times();
                tokio::time::sleep(before).await;
                let result = work();
                tokio::time::sleep(after).await;
                Ok(result)
            }
        }
    }
}
