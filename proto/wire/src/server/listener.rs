//! The listeners of both agents: sockets, TLS, connections, the gRPC server around `service`.
//!
//! One thread runs the network (a current-thread runtime without tokio's `signal` and `process`), blocking
//! threads look at the machine; who gets in is `accept`'s matter. There is no signal handling on purpose:
//! every act is checked before and after, so being killed is the normal way to stop.

use crate::accept::{self, Came, Lobby};
use crate::server::agent::Agent;
use crate::server::authorization::{Authorization, Guard, READERS, READING, questions};
use crate::server::blocking::Blocking;
use crate::server::node::Node;
use crate::server::service::Service;
use crate::sizes::{CONNECTION_WINDOW, MAX_MESSAGE, STREAM_WINDOW};
use crate::v1::agent_server::AgentServer;
use crate::{pki, tls};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use vsgpu_core::System;

/// Connections at once; one controller needs one.
const MAX_CONNECTIONS: usize = 64;
/// Bytes of one request: a piece of a file is the largest.
const MAX_REQUEST: usize = crate::sizes::CHUNK + (64 << 10);
/// Calls at once over one connection: as many as a host has VMs at most, and more.
const MAX_STREAMS: u32 = 512;
/// Threads beside the network: more than what is let in at once can use (`work`).
const MAX_THREADS: usize = 160;
/// From one host's first look to the next one's.
const FIRST_LOOK: Duration = Duration::from_millis(100);
/// More of them for each host of many: as many VMs as usually start at once.
const THREADS_OF_EACH: usize = 8;
/// For a handshake, and for a place behind it.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Serves until killed.
///
/// # Errors
/// A sentence: certificates, addresses.
pub(crate) fn serve(
    agent: Agent,
    system: Arc<dyn System>,
    options: &crate::server::options::Serve,
) -> Result<(), String> {
    let identity = pki::load(&options.pki, "node").map_err(|e| e.to_string())?;
    let (name, certificate_end) = certified(&agent, &identity, system.now())?;
    let config = Arc::new(tls::server(identity, tls::Spoken::Rpc).map_err(|e| e.to_string())?);
    let allowed = crate::metrics::listener::ScrapeAuth::of(
        options.metrics,
        options.metrics_auth.as_deref(),
        &options.pki,
        "node",
    )?;
    // Notes of commands that have ended since are dropped now, before their process numbers are used again.
    let _ = system.orphan();
    let observe_every = Duration::from_secs(options.observe_every.into());
    let mut node = Node::new(agent, system, name, Blocking::Threads);
    (node.observe_every, node.certificate_end) = (observe_every, certificate_end);
    node.dcgm_names = options.metrics_names == crate::server::options::MetricsNames::Both;
    let node = Arc::new(node);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(MAX_THREADS)
        .build()
        .map_err(|e| e.to_string())?;
    runtime.block_on(async {
        crate::server::metrics::listen(node.clone(), options.metrics, allowed)?;
        let came = accept::listen(options.listen)?;
        if let Some(file) = &options.ready_file {
            write_ready(file, options.listen)?;
        }
        tell_systemd();
        // Beside the work: a host over ssh may be away for long.
        let looked = node.clone();
        std::thread::spawn(move || {
            if let Some(why) = (looked.agent.stranger)(looked.system.as_ref()) {
                tracing::warn!(node = %looked.name, "{why}");
            }
        });
        tracing::info!(node = %node.name, role = node.agent.role, listen = %options.listen, version = env!("CARGO_PKG_VERSION"), "serving");
        answer(node, handshakes(came, config, 1)).await
    })
}

/// A host that is served by a program elsewhere, with its own certificate.
pub struct Hosted {
    /// The way to it.
    pub system: Arc<dyn System>,
    /// Folder with ca.pem, node.pem and node.key.
    pub pki: PathBuf,
}

/// Serves many nodes of one CA on one address until killed. Each has its own certificate, lease and memory; which of them
/// a connection is for, the client says by the name that it expects. `beside` runs once the address is ours.
///
/// # Errors
/// A sentence: certificates, addresses.
pub fn serve_hosts(
    agent: Agent,
    hosted: Vec<Hosted>,
    address: SocketAddr,
    ready_file: Option<&Path>,
    beside: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let many = hosted.len();
    let (mut nodes, mut identities) = (HashMap::new(), vec![]);
    for Hosted { system, pki } in hosted {
        let loaded = pki::load(&pki, "node").map_err(|e| e.to_string());
        let loaded = loaded.and_then(|identity| {
            let certified = certified(&agent, &identity, system.now())?;
            // The folder says whose it is, and the certificate who answers: they must not differ.
            let folder = pki.file_name().map(|name| name.to_string_lossy().to_lowercase());
            match folder == Some(format!("{}.{}", certified.0, agent.role)) {
                true => Ok((certified, identity)),
                false => Err(format!("node.pem is the certificate of `{}`", certified.0)),
            }
        });
        // One that is wrong keeps no other host from its agent.
        let ((name, certificate_end), identity) = match loaded {
            Ok(loaded) => loaded,
            Err(why) => {
                tracing::warn!("{}: {why}: this host is not served", pki.display());
                continue;
            }
        };
        let mut node = Node::new(agent, system, name.clone(), Blocking::Threads);
        node.certificate_end = certificate_end;
        // Looks of many hosts take turns.
        node.observe_every = node.observe_every.max(Duration::from_secs(many as u64));
        identities.push((pki::node_name(&name, agent.role), identity));
        if nodes.insert(pki::node_name(&name, agent.role), Arc::new(node)).is_some() {
            return Err(format!("{}: `{name}` is the certificate of another host, too", pki.display()));
        }
    }
    if nodes.is_empty() {
        return Err("no host has a certificate that fits".into());
    }
    let config = Arc::new(tls::server_of_many(identities).map_err(|e| e.to_string())?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(MAX_THREADS + THREADS_OF_EACH * many.min(500))
        .build()
        .map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let came = accept::listen(address)?;
        beside()?;
        if let Some(file) = ready_file {
            write_ready(file, address)?;
        }
        tell_systemd();
        tracing::info!(hosts = nodes.len(), listen = %address, version = env!("CARGO_PKG_VERSION"), "serving");
        let mut doors = HashMap::new();
        for (at, (name, node)) in nodes.into_iter().enumerate() {
            // One behind the other, within the time between two looks.
            let first = (FIRST_LOOK * at as u32).min(node.observe_every);
            crate::server::metrics::watch(node.clone(), first);
            let (to_node, connections) = mpsc::channel(16);
            doors.insert(name, to_node);
            tokio::spawn(answer(node, connections));
        }
        let mut peers = handshakes(came, config, doors.len());
        while let Some(peer) = peers.recv().await {
            let Ok(peer) = peer else { continue };
            let name = peer.stream.get_ref().1.server_name().map(str::to_ascii_lowercase);
            // Whoever names no host of ours got no certificate.
            let Some(door) = name.and_then(|name| doors.get(&name)) else { continue };
            // Only this host's own connections wait for it.
            let _ = door.try_send(Ok(peer));
        }
        Ok(())
    })
}

/// The node's name, and when its certificate ends.
fn certified(agent: &Agent, identity: &pki::Identity, now: u64) -> Result<(String, Option<u64>), String> {
    let (name, role) = pki::own_name(identity)
        .ok_or("the certificate names no vsgpu node; issue one with `vsgpu cert issue`")?;
    if role != agent.role {
        return Err(format!("the certificate is for a {role} (`{name}`), this is the {} agent", agent.role));
    }
    let life = identity.life();
    if let Some(due) = life.and_then(|life| life.due(now)) {
        tracing::warn!(
            node = name,
            "this agent's certificate {due}: `vsgpu cert renew {name} --role {role}` where the CA is, then its new files here and a restart"
        );
    }
    Ok((name, life.map(|life| life.ends)))
}

/// Tells systemd that a program has started and waits for something elsewhere before it can listen: whoever starts it need
/// not wait with it, and its status says why. To be called again and again, at least every 30 seconds.
pub fn tell_systemd_of_waiting(why: &str) {
    use sd_notify::NotifyState::{Ready, Status, Watchdog};
    let why = vsgpu_core::text::piece(why, 200);
    let _ = sd_notify::notify(false, &[Ready, Watchdog, Status(&why)]);
}

/// Tells systemd that a program listens, and that its network thread still turns, where its unit asks for
/// that. On ESXi nobody asks. To be called on its runtime.
pub fn tell_systemd() {
    use sd_notify::NotifyState::{Ready, Status};
    let _ = sd_notify::notify(false, &[Ready, Status("serving")]);
    let mut micros = 0;
    if sd_notify::watchdog_enabled(false, &mut micros) {
        tokio::spawn(async move {
            let mut tick =
                tokio::time::interval(Duration::from_micros(micros / 3).max(Duration::from_millis(100)));
            loop {
                tick.tick().await;
                let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Watchdog]);
            }
        });
    }
}

/// Serves what comes in, until the stream of connections ends.
async fn answer<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    node: Arc<Node>,
    connections: mpsc::Receiver<std::io::Result<Peer<T>>>,
) -> Result<(), String> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<AgentServer<Service>>().await;
    let questions = questions();
    let service = AgentServer::new(Service(node))
        .max_decoding_message_size(MAX_REQUEST)
        .max_encoding_message_size(MAX_MESSAGE);
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(crate::sizes::CHUNK as u32)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .max_concurrent_streams(Some(MAX_STREAMS))
        .add_service(Guard::new(health_service, &questions))
        .add_service(Guard::new(service, &questions))
        .serve_with_incoming(ReceiverStream::new(connections))
        .await
        .map_err(|e| e.to_string())
}

/// An agent for simulated time and simulated networks: the same service on connections that somebody else
/// makes, without TLS. No program of ours calls it.
///
/// # Errors
/// A sentence, where the server fails.
pub async fn simulated<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    agent: Agent,
    system: Arc<dyn System>,
    name: &str,
    offload: Blocking,
    mut connections: mpsc::Receiver<T>,
) -> Result<(), String> {
    let node = Arc::new(Node::new(agent, system, name.into(), offload));
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    let (tx, rx) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Some(stream) = connections.recv().await {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            if tx
                .send(Ok(Peer { stream, rights: Authorization { may_change: true }, until: None, place }))
                .await
                .is_err()
            {
                return;
            }
        }
    });
    answer(node, rx).await
}

#[expect(
    clippy::disallowed_methods,
    reason = "tells whoever started the agent that it listens; not a file of the machine"
)]
fn write_ready(file: &Path, listen: SocketAddr) -> Result<(), String> {
    std::fs::write(file, listen.to_string()).map_err(|e| format!("{}: {e}", file.display()))
}

/// TLS handshakes beside each other, each with a deadline: who proves nothing takes no place of those who
/// have. `nodes`: how many are served behind it.
fn handshakes(
    mut came: Came,
    config: Arc<rustls::ServerConfig>,
    nodes: usize,
) -> mpsc::Receiver<std::io::Result<Peer<tokio_rustls::server::TlsStream<tokio::net::TcpStream>>>> {
    let (tx, rx) = mpsc::channel(16);
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    // A controller has a connection to each node.
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS.max(nodes * 4)));
    let readers = Arc::new(tokio::sync::Semaphore::new(READERS.max(nodes * 2)));
    let lobby = Lobby::new();
    lobby.report();
    tokio::spawn(async move {
        while let Some((socket, peer)) = came.recv().await {
            let mut seat = lobby.enter(peer).await;
            let (acceptor, tx) = (acceptor.clone(), tx.clone());
            let (places, readers, lobby) = (places.clone(), readers.clone(), lobby.clone());
            tokio::spawn(async move {
                let stream = match seat.handshake(&acceptor, socket, HANDSHAKE).await {
                    Ok(stream) => stream,
                    Err(why) => return seat.turned_away(&why),
                };
                drop(seat);
                let may_change = tls::may_change(stream.get_ref().1.peer_certificates());
                let (places, wait, until) = match may_change {
                    true => (places, HANDSHAKE, None),
                    false => (readers, Duration::ZERO, Some(tokio::time::Instant::now() + READING)),
                };
                match tokio::time::timeout(wait, places.acquire_owned()).await {
                    Ok(Ok(place)) => drop(
                        tx.send(Ok(Peer { stream, rights: Authorization { may_change }, until, place }))
                            .await,
                    ),
                    _ => lobby.turned_away(
                        peer,
                        if may_change {
                            "all places of operators are taken"
                        } else {
                            "all places of readers are taken"
                        },
                    ),
                }
            });
        }
    });
    rx
}

/// An authenticated connection; holds its place among the allowed ones until it ends.
struct Peer<T> {
    stream: T,
    rights: Authorization,
    /// Where it is served only for a while.
    until: Option<tokio::time::Instant>,
    #[expect(dead_code, reason = "held, not read")]
    place: tokio::sync::OwnedSemaphorePermit,
}

impl<T> tonic::transport::server::Connected for Peer<T> {
    type ConnectInfo = Authorization;
    fn connect_info(&self) -> Authorization {
        self.rights
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Peer<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        // The keepalive's own pings see to it that this is asked.
        if self.until.is_some_and(|until| tokio::time::Instant::now() >= until) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Peer<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
