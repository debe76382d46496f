//! Who is silent, and which leases do nothing.

use super::state::{Actor, Client, Doing, Event, now};
use vsgpu_core::failpoint;
use vsgpu_core::pool::CLIENT_GONE;
use vsgpu_core::readers::gpu_work::GpuWork;

impl Actor {
    /// Looks for who is silent.
    pub(super) fn tick(&mut self) {
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
    pub(super) fn looked(&mut self, work: Result<Vec<GpuWork>, String>) {
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
            let busy = failpoint!(IdleByBytes, false, self.engines.any_busy(&work, &lease.slots));
            self.pool.activity(*id, busy, at);
        }
    }
}
