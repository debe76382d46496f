//! Connections of programs to engines: which ticket opens which slot, and what is counted of them.

use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vsgpu_core::failpoint;
use vsgpu_core::pool::{LeaseId, SlotId};
use vsgpu_wire::pool::TICKET;

/// Connections of one lease at once.
pub(super) const MOST_CONNECTIONS: u32 = 64;

/// What is counted of the connections of one lease.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// From its programs.
    pub bytes_in: AtomicU64,
    /// To its programs.
    pub bytes_out: AtomicU64,
    /// Connections that are open.
    pub open: AtomicU32,
}

impl Counters {
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.bytes_in.load(Ordering::Relaxed), self.bytes_out.load(Ordering::Relaxed))
    }
}

/// One connection among those of its lease.
pub(super) struct Counted(Arc<Counters>);

impl Counted {
    /// `None` where there are as many as there may be.
    pub(super) fn of(counters: &Arc<Counters>) -> Option<Self> {
        let more = |open| (open < MOST_CONNECTIONS).then_some(open + 1);
        counters.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(counters.clone()))
    }
}

impl std::ops::Deref for Counted {
    type Target = Counters;
    fn deref(&self) -> &Counters {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a ticket opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opens {
    pub lease: LeaseId,
    pub slot: SlotId,
    /// Only for this node.
    pub node: String,
}

/// The tickets that are good. Kept by their hash: what is compared says nothing about a ticket that somebody
/// guesses at.
#[derive(Debug, Default)]
pub(super) struct Tickets(HashMap<[u8; 32], Opens>);

impl Tickets {
    fn key(ticket: &[u8; TICKET]) -> [u8; 32] {
        Sha256::digest(ticket).into()
    }

    pub(super) fn add(&mut self, ticket: &[u8; TICKET], opens: Opens) {
        self.0.insert(Self::key(ticket), opens);
    }

    /// What it opens for this node.
    pub(super) fn find(&self, ticket: &[u8; TICKET], node: &str) -> Option<&Opens> {
        self.0
            .get(&Self::key(ticket))
            .filter(|opens| failpoint!(TicketOfAnybody, true, opens.node.eq_ignore_ascii_case(node)))
    }

    /// Nothing of this lease is opened any more.
    pub(super) fn void(&mut self, lease: LeaseId) {
        self.0.retain(|_, opens| opens.lease != lease);
    }
}
