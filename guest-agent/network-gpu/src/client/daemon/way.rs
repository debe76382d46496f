//! The way of a program's connections to one engine: a port on loopback for the lease's user alone.

use super::state::Lease;
use crate::client::owner::owner;
use crate::relay;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use vsgpu_core::{System, failpoint};
use vsgpu_wire::client::{CallError, Connector, Target};
use vsgpu_wire::pool::TICKET;
use vsgpu_wire::pool::client::tunnel;

/// For a connection to an engine: it may have to be started again.
const OPEN: Duration = Duration::from_secs(30);
/// Connections of one lease's port that are looked at, and are carried, at once; the gateway allows 64.
const MOST_CARRIED: usize = 64;

/// What such a way needs.
#[derive(Clone)]
pub(super) struct Way {
    pub system: Arc<dyn System>,
    pub connector: Connector,
    pub target: Target,
    pub ticket: [u8; TICKET],
    pub lease: Arc<Lease>,
}

impl Way {
    pub(super) async fn open(&self) -> Result<Box<dyn vsgpu_wire::client::Stream>, CallError> {
        tunnel(&self.connector, &self.target, &self.ticket, OPEN).await
    }

    /// Takes what comes, from the lease's user alone.
    pub(super) async fn serve(self, listener: TcpListener) {
        let Ok(SocketAddr::V4(to)) = listener.local_addr() else { return };
        let (mut open, places) = (JoinSet::new(), Arc::new(Semaphore::new(MOST_CARRIED)));
        loop {
            while open.try_join_next().is_some() {}
            let (stream, from) = match listener.accept().await {
                Ok((stream, SocketAddr::V4(from))) => (stream, from),
                Ok(_) => continue,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // Whoever floods the port keeps his own connections waiting, and closed.
            let Ok(place) = places.clone().try_acquire_owned() else { continue };
            let way = self.clone();
            open.spawn(async move {
                let _place = place;
                let (system, expected) = (way.system.clone(), way.lease.user.uid);
                let looked = tokio::task::spawn_blocking(move || owner(system.as_ref(), from, to)).await;
                let owner = looked.ok().flatten();
                if failpoint!(AnybodysPort, false, owner != Some(expected)) {
                    tracing::warn!(
                        ?owner,
                        expected,
                        "another user's program came to a GPU lease's port: closed"
                    );
                    return;
                }
                // Still the connection that was looked at: one that was reset has given its port away.
                if stream.peer_addr().is_err() || !matches!(stream.take_error(), Ok(None)) {
                    return;
                }
                way.carry(stream).await;
            });
        }
    }

    async fn carry(&self, program: TcpStream) {
        let _ = program.set_nodelay(true);
        let engine = match self.open().await {
            Ok(engine) => engine,
            Err(why) => {
                tracing::warn!(lease = self.lease.number, %why, "a program's connection is not opened");
                return;
            }
        };
        self.lease.connections.fetch_add(1, Ordering::Relaxed);
        relay::join(program, engine, &self.lease.out, &self.lease.back).await;
        self.lease.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
