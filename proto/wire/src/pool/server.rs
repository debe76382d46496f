//! A gateway's side: one port, mutual TLS, two protocols by ALPN. What comes in is handed on as [`Call`]s;
//! roles are checked here, before anything is read.

use crate::accept::{self, Came, Lobby};
use crate::client::Stream;
use crate::pool::v1::pool_server::{Pool, PoolServer};
use crate::pool::v1::{self, FromClient, FromGateway};
use crate::pool::{MAX_MESSAGE, MAX_STATUS, TICKET};
use crate::refusal::Refusal;
use crate::{pki, tls};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// For a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// For the ticket behind it.
const TICKET_WITHIN: Duration = Duration::from_secs(2);
/// Connections that speak gRPC; a client needs one for each GPU lease.
const MAX_CALLERS: usize = 1_024;
/// Of one guest.
const OF_ONE: usize = 64;
/// Connections of operators and monitors; guests have no share in them.
const MAX_OPERATORS: usize = 64;
/// For the first bytes of gRPC behind a handshake: who says nothing there is never asked whether it is alive.
const PREFACE: Duration = Duration::from_secs(5);
/// Connections to engines: 64 of each of 64 slots.
const MAX_TUNNELS: usize = 4_096;
/// Calls at once over one connection.
const MAX_STREAMS: u32 = 16;
/// Messages that wait for their reader.
const QUEUE: usize = 32;

/// Who calls, by certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Name of the node; `controller` for the operator.
    pub node: String,
    /// What it may do.
    pub role: Role,
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything but to ask for GPUs.
    Operator,
    /// See the status.
    Monitor,
    /// Ask for GPUs.
    Guest,
}

/// What somebody wants of the gateway. An answer that is dropped is answered as "the gateway stops".
pub enum Call {
    /// A GPU lease, as long as `from` is open. The first message is the ask.
    Lease {
        /// Who.
        caller: Caller,
        /// What it says.
        from: mpsc::Receiver<FromClient>,
        /// What it is told.
        to: mpsc::Sender<FromGateway>,
    },
    /// What there is.
    List {
        /// Who.
        caller: Caller,
        /// The answer.
        answer: oneshot::Sender<v1::ListReply>,
    },
    /// All that is known, as JSON.
    Status {
        /// The answer.
        answer: oneshot::Sender<String>,
    },
    /// No new leases, or new ones again.
    Drain {
        /// Which.
        drained: bool,
        /// The answer: leases that run.
        answer: oneshot::Sender<u32>,
    },
    /// Ends a lease.
    Evict {
        /// Its number.
        lease: u64,
        /// Why, in the operator's words.
        why: String,
        /// The answer: a sentence where there is no such lease.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// A connection to an engine, which waits for its [`crate::pool::Opened`].
    Tunnel {
        /// Of whose node.
        caller: Caller,
        /// What it shows.
        ticket: [u8; TICKET],
        /// The connection.
        stream: Box<dyn Stream>,
        /// Its place among the allowed ones, until it ends.
        place: OwnedSemaphorePermit,
    },
}

/// Listens. `Ok` once connections are taken; a task of the current runtime serves them.
///
/// # Errors
/// A sentence: certificates, the address.
pub fn listen(address: SocketAddr, folder: &Path) -> Result<mpsc::Receiver<Call>, String> {
    let certificate = Certificate::load(folder)?;
    let came = accept::listen(address)?;
    let (calls, called) = mpsc::channel(QUEUE);
    let (rpc, spoken) = mpsc::channel(QUEUE);
    tokio::spawn(handshakes(came, certificate, rpc, calls.clone()));
    tokio::spawn(async move {
        let service = PoolServer::new(Service(calls))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_STATUS);
        let served = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .max_concurrent_streams(Some(MAX_STREAMS))
            .add_service(service)
            .serve_with_incoming(ReceiverStream::new(spoken))
            .await;
        if let Err(why) = served {
            tracing::error!(%why, "no calls are answered any more");
        }
    });
    Ok(called)
}

/// The gateway's own certificate. One that is renewed is used from the next connection on: a restart would end
/// all GPU leases.
struct Certificate {
    folder: PathBuf,
    /// When the file was last written.
    of: Option<SystemTime>,
    acceptor: tokio_rustls::TlsAcceptor,
}

impl Certificate {
    fn load(folder: &Path) -> Result<Self, String> {
        // Before it is read: a change in between is seen the next time.
        let of = Self::written(folder);
        let identity = pki::load(folder, "node").map_err(|e| e.to_string())?;
        let (name, role) = pki::own_name(&identity).ok_or("the certificate names no vsgpu node")?;
        if role != "guest" {
            return Err(format!("the certificate is for a {role} (`{name}`), not for a guest"));
        }
        let config = Arc::new(tls::server(identity, tls::Spoken::Pool).map_err(|e| e.to_string())?);
        Ok(Self { folder: folder.into(), of, acceptor: config.into() })
    }

    fn written(folder: &Path) -> Option<SystemTime> {
        let newest =
            ["node.pem", "node.key", "ca.pem"].map(|file| folder.join(file).metadata().ok()?.modified().ok());
        newest.into_iter().flatten().max()
    }

    fn acceptor(&mut self) -> tokio_rustls::TlsAcceptor {
        let written = Self::written(&self.folder);
        if written != self.of {
            self.of = written;
            match Self::load(&self.folder) {
                Ok(new) => {
                    tracing::info!("the renewed certificate is used");
                    *self = new;
                }
                // Half of a renewal, say: the one that is loaded stays.
                Err(why) => tracing::warn!(why, "the changed certificate cannot be used"),
            }
        }
        self.acceptor.clone()
    }
}

/// TLS handshakes beside each other, each with a deadline.
async fn handshakes(
    mut came: Came,
    mut certificate: Certificate,
    rpc: mpsc::Sender<std::io::Result<Peer>>,
    calls: mpsc::Sender<Call>,
) {
    let [callers, operators, tunnels] =
        [MAX_CALLERS, MAX_OPERATORS, MAX_TUNNELS].map(|most| Arc::new(Semaphore::new(most)));
    let of_nodes = OfNodes::default();
    let lobby = Lobby::new();
    lobby.report();
    while let Some((socket, peer)) = came.recv().await {
        let mut seat = lobby.enter(peer).await;
        let (acceptor, rpc, calls) = (certificate.acceptor(), rpc.clone(), calls.clone());
        let (callers, operators, tunnels) = (callers.clone(), operators.clone(), tunnels.clone());
        let of_nodes = of_nodes.clone();
        tokio::spawn(async move {
            let mut stream = match seat.handshake(&acceptor, socket, HANDSHAKE).await {
                Ok(stream) => stream,
                Err(why) => return seat.turned_away(&why),
            };
            let session = stream.get_ref().1;
            let Some(caller) = session.peer_certificates().and_then(caller) else {
                return seat.turned_away("its certificate names neither a guest nor an operator");
            };
            let is_tunnel = session.alpn_protocol() == Some(tls::TUNNEL);
            let places = match (is_tunnel, caller.role) {
                (true, _) => tunnels,
                (false, Role::Guest) => callers,
                (false, _) => operators,
            };
            let Ok(place) = places.try_acquire_owned() else {
                return seat.turned_away("all places are taken");
            };
            if !is_tunnel {
                let Some(own) = of_nodes.one(&caller) else {
                    return seat.turned_away("this guest has as many connections as it may have");
                };
                let mut first = vec![0; 24];
                let read = seat.until(tokio::time::timeout(PREFACE, stream.read_exact(&mut first))).await;
                if !matches!(read, Some(Ok(Ok(_)))) {
                    return seat.turned_away("it says nothing behind its handshake");
                }
                drop(seat);
                let stream = Box::new(stream);
                let _ = rpc.send(Ok(Peer { first: first.into(), stream, caller, place, own })).await;
                return;
            }
            let mut ticket = [0; TICKET];
            let read = seat.until(tokio::time::timeout(TICKET_WITHIN, stream.read_exact(&mut ticket))).await;
            if !matches!(read, Some(Ok(Ok(_)))) {
                return seat.turned_away("it shows no ticket within 2 s");
            }
            drop(seat);
            let _ = calls.send(Call::Tunnel { caller, ticket, stream: Box::new(stream), place }).await;
        });
    }
}

/// Who a certificate is for. Its chain was checked in the handshake.
fn caller(chain: &[rustls::pki_types::CertificateDer<'_>]) -> Option<Caller> {
    if tls::may_change(Some(chain)) {
        return Some(Caller { node: "controller".into(), role: Role::Operator });
    }
    let (node, role) = pki::named(chain)?;
    let role = match role.as_str() {
        "guest" => Role::Guest,
        "monitor" => Role::Monitor,
        _ => return None,
    };
    Some(Caller { node, role })
}

struct Service(mpsc::Sender<Call>);

impl Service {
    /// Who calls, where it is one of these. A connection without a name has no rights.
    fn allow<T>(request: &Request<T>, roles: &[Role], what: &str) -> Result<Caller, Refusal> {
        let caller = request.extensions().get::<Caller>().filter(|caller| roles.contains(&caller.role));
        caller.cloned().ok_or_else(|| Refusal::not_permitted(format!("this certificate may not {what}")))
    }

    async fn ask<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> Call) -> Result<T, Refusal> {
        let stops = || Refusal::away("the gateway stops");
        let (answer, answered) = oneshot::channel();
        self.0.send(call(answer)).await.map_err(|_| stops())?;
        answered.await.map_err(|_| stops())
    }
}

#[tonic::async_trait]
impl Pool for Service {
    type LeaseStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<FromGateway, Status>> + Send>>;

    async fn lease(
        &self,
        request: Request<Streaming<FromClient>>,
    ) -> Result<Response<Self::LeaseStream>, Status> {
        let caller = Self::allow(&request, &[Role::Guest], "ask for a GPU")?;
        let mut said = request.into_inner();
        let (heard, from) = mpsc::channel(QUEUE);
        let (to, tell) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            while let Ok(Some(message)) = said.message().await {
                if heard.send(message).await.is_err() {
                    return;
                }
            }
        });
        self.0
            .send(Call::Lease { caller, from, to })
            .await
            .map_err(|_| Refusal::away("the gateway stops"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(tell).map(Ok))))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListReply>, Status> {
        let caller = Self::allow(&request, &[Role::Guest, Role::Operator, Role::Monitor], "see the GPUs")?;
        Ok(Response::new(self.ask(|answer| Call::List { caller, answer }).await?))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        Self::allow(&request, &[Role::Operator, Role::Monitor], "see who has which GPU")?;
        let json = self.ask(|answer| Call::Status { answer }).await?;
        Ok(Response::new(v1::StatusReply { json }))
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainReply>, Status> {
        Self::allow(&request, &[Role::Operator], "drain a GPU server")?;
        let drained = request.into_inner().drained;
        let leases = self.ask(|answer| Call::Drain { drained, answer }).await?;
        Ok(Response::new(v1::DrainReply { leases }))
    }

    async fn evict(&self, request: Request<v1::EvictRequest>) -> Result<Response<v1::EvictReply>, Status> {
        Self::allow(&request, &[Role::Operator], "end a GPU lease")?;
        let v1::EvictRequest { lease, why } = request.into_inner();
        let done = self.ask(|answer| Call::Evict { lease, why, answer }).await?;
        done.map(|()| Response::new(v1::EvictReply {})).map_err(|why| Refusal::not_found(why).into())
    }
}

/// Connections of each guest.
#[derive(Clone, Default)]
struct OfNodes(Arc<Mutex<HashMap<String, usize>>>);

/// One of them; given back when it is dropped.
struct Own(OfNodes, String);

impl OfNodes {
    /// `None` where a guest has as many as it may have.
    fn one(&self, caller: &Caller) -> Option<Own> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.entry(caller.node.clone()).or_default();
        if caller.role == Role::Guest && *own >= OF_ONE {
            return None;
        }
        *own += 1;
        Some(Own(self.clone(), caller.node.clone()))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut all = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(&self.1) {
            *own -= 1;
            if *own == 0 {
                all.remove(&self.1);
            }
        }
    }
}

/// A connection on which gRPC is spoken; holds its place among the allowed ones until it ends.
struct Peer {
    /// What was read of it already.
    first: bytes::Bytes,
    stream: Box<dyn Stream>,
    caller: Caller,
    #[expect(dead_code, reason = "held, not read")]
    place: OwnedSemaphorePermit,
    #[expect(dead_code, reason = "held, not read")]
    own: Own,
}

impl tonic::transport::server::Connected for Peer {
    type ConnectInfo = Caller;
    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if !self.first.is_empty() {
            let most = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first.split_to(most));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Peer {
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
