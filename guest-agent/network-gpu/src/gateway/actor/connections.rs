//! Connections of programs to their engines.

use super::state::{Actor, Event};
use crate::gateway::tunnels::{Counted, Opens};
use crate::relay::{self, First};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::OwnedSemaphorePermit;
use vsgpu_wire::client::Stream;
use vsgpu_wire::pool::server::Caller;
use vsgpu_wire::pool::{Opened, TICKET};

impl Actor {
    /// Opens a connection to the engine that a ticket is for, beside the loop.
    pub(super) fn tunnel(
        &mut self,
        caller: &Caller,
        ticket: &[u8; TICKET],
        mut stream: Box<dyn Stream>,
        place: OwnedSemaphorePermit,
    ) {
        let opens = self.tickets.find(ticket, &caller.node).cloned();
        let held = opens.as_ref().and_then(|opens| self.held.get_mut(&opens.lease));
        let Some((Opens { lease, slot, .. }, held)) = opens.zip(held) else {
            tracing::warn!(node = caller.node, "a connection without a good ticket");
            self.not_opened("ticket");
            return close(stream, Opened::NoTicket);
        };
        let Some(counted) = Counted::of(&held.counters) else {
            self.not_opened("too-many");
            return close(stream, Opened::TooMany);
        };
        let (engines, tell) = (self.engines.clone(), self.tell.clone());
        let task = tokio::spawn(async move {
            let _place = place;
            let reached = tokio::task::spawn_blocking(move || engines.reach(slot)).await;
            let engine = match reached.map_err(|e| e.to_string()).flatten() {
                Ok((engine, anew)) => {
                    if anew {
                        let _ = tell.send(Event::Crashed(lease, slot));
                    }
                    tokio::net::TcpStream::from_std(engine).map_err(|e| e.to_string())
                }
                Err(why) => Err(why),
            };
            let engine = match engine {
                Ok(engine) => engine,
                Err(why) => {
                    tracing::warn!(lease = lease.0, slot = slot.0, why, "its engine is not reached");
                    let _ = tell.send(Event::Crashed(lease, slot));
                    let _ = tell.send(Event::NotOpened("engine"));
                    return close(stream, Opened::NoEngine);
                }
            };
            if stream.write_all(&[Opened::Open as u8]).await.is_ok() && stream.flush().await.is_ok() {
                let first = relay::join(stream, engine, &counted.bytes_in, &counted.bytes_out).await;
                // A program ends its connections itself: an engine that does so first has crashed.
                if first == First::B {
                    let _ = tell.send(Event::Crashed(lease, slot));
                }
            }
        });
        held.connections.retain(|connection| !connection.is_finished());
        held.connections.push(task.abort_handle());
    }

    pub(super) fn not_opened(&mut self, why: &str) {
        *self.totals.tunnel_errors.entry(why.into()).or_default() += 1;
    }
}

/// Says why a connection is not opened, and closes it.
fn close(mut stream: Box<dyn Stream>, why: Opened) {
    tokio::spawn(async move {
        let _ = tokio::time::timeout(Duration::from_secs(2), async {
            stream.write_all(&[why as u8]).await?;
            stream.shutdown().await
        })
        .await;
    });
}
