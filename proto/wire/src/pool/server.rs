//! A gateway's side: one port, mutual TLS, two protocols by ALPN. What comes in is handed on as [`Call`]s;
//! roles are checked here, before anything is read.

use crate::accept::{self, Came, Lobby, Words};
use crate::client::Stream;
use crate::pool::v1::pool_server::{Pool, PoolServer};
use crate::pool::v1::{self, FromClient, FromGateway};
use crate::pool::{MAX_MESSAGE, MAX_STATUS, TICKET};
use crate::refusal::Refusal;
use crate::{pki, tls};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
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
    let identity = pki::load(folder, "node").map_err(|e| e.to_string())?;
    let (name, role) = pki::own_name(&identity).ok_or("the certificate names no vsgpu node")?;
    if role != "guest" {
        return Err(format!("the certificate is for a {role} (`{name}`), not for a guest"));
    }
    let config = Arc::new(tls::server(identity, tls::Spoken::Pool).map_err(|e| e.to_string())?);
    let came = accept::listen(address)?;
    let (calls, called) = mpsc::channel(QUEUE);
    let (rpc, spoken) = mpsc::channel(QUEUE);
    tokio::spawn(handshakes(came, config, rpc, calls.clone()));
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

/// TLS handshakes beside each other, each with a deadline.
async fn handshakes(
    mut came: Came,
    config: Arc<rustls::ServerConfig>,
    rpc: mpsc::Sender<std::io::Result<Peer>>,
    calls: mpsc::Sender<Call>,
) {
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let (callers, tunnels) = (Arc::new(Semaphore::new(MAX_CALLERS)), Arc::new(Semaphore::new(MAX_TUNNELS)));
    let lobby = Lobby::new();
    lobby.report();
    while let Some((socket, peer)) = came.recv().await {
        let mut seat = lobby.enter(peer).await;
        let (acceptor, rpc, calls) = (acceptor.clone(), rpc.clone(), calls.clone());
        let (callers, tunnels) = (callers.clone(), tunnels.clone());
        tokio::spawn(async move {
            if let Err(why) = seat.first_words(&socket, Words::Tls).await {
                return seat.turned_away(&why);
            }
            let shaken = seat.until(tokio::time::timeout(HANDSHAKE, acceptor.accept(socket))).await;
            let mut stream = match shaken {
                Some(Ok(Ok(stream))) => stream,
                Some(Ok(Err(why))) => return seat.turned_away(&why.to_string()),
                Some(Err(_)) => return seat.turned_away("no TLS handshake within 5 s"),
                None => return seat.turned_away("its handshake took longest while others came"),
            };
            let session = stream.get_ref().1;
            let Some(caller) = session.peer_certificates().and_then(caller) else {
                return seat.turned_away("its certificate names neither a guest nor an operator");
            };
            let is_tunnel = session.alpn_protocol() == Some(tls::TUNNEL);
            let Ok(place) = if is_tunnel { &tunnels } else { &callers }.clone().try_acquire_owned() else {
                return seat.turned_away("all places are taken");
            };
            if !is_tunnel {
                drop(seat);
                let _ = rpc.send(Ok(Peer { stream: Box::new(stream), caller, place })).await;
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

/// A connection on which gRPC is spoken; holds its place among the allowed ones until it ends.
struct Peer {
    stream: Box<dyn Stream>,
    caller: Caller,
    #[expect(dead_code, reason = "held, not read")]
    place: OwnedSemaphorePermit,
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
