//! The gRPC server of both agents, around a catalogue and a `System`.
//!
//! One thread runs the network (a current-thread runtime without tokio's `signal` and `process`), blocking threads look
//! at the machine. Connections are taken with plain accept(2) in a thread of their own, because accept4 is one of the
//! calls that VMkernel may lack. There is no signal handling on purpose: every act is checked before and after, so being
//! killed is the normal way to stop.

use crate::agent::Agent;
use crate::metrics::{Metrics, Snapshot};
use crate::posix::Posix;
use crate::v1::{self, agent_server};
use crate::{CONNECTION_WINDOW, MAX_MESSAGE, STREAM_WINDOW, pki, receive, tls};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use vsgpu_core::catalogue::Entry;
use vsgpu_core::execute::{self, Expectation, Outcome};
use vsgpu_core::{Catalogue, Ended, Scope, Subject, System};

/// Wishes last spoken of, for the metrics: (VM or empty, requirement) -> spec.
pub(crate) type Wishes = BTreeMap<String, serde_json::Value>;
const WISHES: &str = "/var/lib/vsgpu/wishes.json";
/// On a ramdisk: gone after the reboot.
const REBOOT_ASKED: &str = "/var/run/vsgpu/reboot-asked";
/// Connections at once; one controller needs one.
const MAX_CONNECTIONS: usize = 64;

/// Everything the handlers share.
pub(crate) struct Node {
    pub agent: Agent,
    pub catalogue: Catalogue,
    pub system: Arc<dyn System>,
    pub posix: Posix,
    pub name: String,
    pub metrics: Metrics,
    pub snapshot: Mutex<Snapshot>,
    pub wishes: Mutex<Wishes>,
    /// One act at a time per subject: asked twice, the second waits and then finds it done.
    acting: Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

impl Node {
    pub(crate) fn new(agent: Agent, posix: Posix, system: Arc<dyn System>, name: String) -> Self {
        let wishes = system.read(WISHES, 1 << 20).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
        Self {
            catalogue: (agent.catalogue)(),
            metrics: Metrics::new(agent.role),
            snapshot: Mutex::default(),
            wishes: Mutex::new(wishes),
            acting: Mutex::default(),
            agent,
            posix,
            system,
            name,
        }
    }

    pub(crate) fn acting(&self, on: &Subject) -> Arc<Mutex<()>> {
        let mut all = self.acting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.entry(on.vm.clone().unwrap_or_default()).or_default().clone()
    }

    /// Scope of a subject on this agent.
    pub(crate) fn scope(&self, on: &Subject) -> Scope {
        match (self.agent.role, &on.vm) {
            (_, Some(_)) => Scope::Vm,
            ("host", None) => Scope::Host,
            _ => Scope::Guest,
        }
    }

    fn find(&self, on: &Subject, name: &str) -> Result<Entry, Status> {
        self.catalogue.find(self.scope(on), name).copied().ok_or_else(|| {
            let advice = format!(
                "{} agent {} does not know the requirement `{name}`: upgrade the agent",
                self.agent.role,
                env!("CARGO_PKG_VERSION")
            );
            Status::unimplemented(advice)
        })
    }

    fn remember(&self, on: &Subject, wishes: Vec<v1::Wish>) {
        let Ok(mut known) = self.wishes.lock() else { return };
        let before = known.clone();
        let vm = on.vm.as_deref().unwrap_or_default();
        for wish in wishes {
            if let (Some(_), Ok(spec)) = (self.catalogue.find(self.scope(on), &wish.requirement), serde_json::from_str(&wish.spec_json)) {
                known.insert(format!("{vm}/{}", wish.requirement), spec);
            }
        }
        if *known != before {
            let text = serde_json::to_vec(&*known).unwrap_or_default();
            if let Err(why) = self.system.write(WISHES, &text, 0o600) {
                tracing::warn!(%why, "wishes are not kept over a restart of the agent");
            }
        }
    }
}

/// Serves until killed.
///
/// # Errors
/// A sentence: certificates, addresses.
pub(crate) fn serve(agent: Agent, posix: Posix, options: &crate::agent::Serve) -> Result<(), String> {
    let identity = pki::load(&options.pki, "node").map_err(|e| e.to_string())?;
    let (name, role) = pki::own_name(&identity).ok_or("the certificate names no vsgpu node; issue one with `vsgpu cert issue`")?;
    if role != agent.role {
        return Err(format!("the certificate is for a {role} (`{name}`), this is the {} agent", agent.role));
    }
    let config = Arc::new(tls::server(identity).map_err(|e| e.to_string())?);
    let system = (agent.system)(posix.clone());
    // Notes of commands that have ended since are dropped now, before their process numbers are used again.
    let _ = posix.orphan();
    let node = Arc::new(Node::new(agent, posix, system, name));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        crate::metrics::listen(node.clone(), options.metrics, Duration::from_secs(options.observe_every.into()))?;
        let sockets = accept(options.listen)?;
        if let Some(file) = &options.ready_file {
            write_ready(file, options.listen)?;
        }
        tracing::info!(node = %node.name, role = node.agent.role, listen = %options.listen, version = env!("CARGO_PKG_VERSION"), "serving");
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<agent_server::AgentServer<Service>>().await;
        let service =
            agent_server::AgentServer::new(Service(node)).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
        tonic::transport::Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(crate::CHUNK as u32)
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .add_service(health_service)
            .add_service(service)
            .serve_with_incoming(ReceiverStream::new(handshakes(sockets, config)))
            .await
            .map_err(|e| e.to_string())
    })
}

#[expect(clippy::disallowed_methods, reason = "tells whoever started the agent that it listens; not a file of the machine")]
fn write_ready(file: &Path, listen: SocketAddr) -> Result<(), String> {
    std::fs::write(file, listen.to_string()).map_err(|e| format!("{}: {e}", file.display()))
}

/// Listens; a thread takes connections with accept(2).
pub(crate) fn accept(listen: SocketAddr) -> Result<mpsc::Receiver<tokio::net::TcpStream>, String> {
    let listener = std::net::TcpListener::bind(listen).map_err(|e| format!("cannot listen on {listen}: {e}"))?;
    let (tx, rx) = mpsc::channel(16);
    let runtime = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        loop {
            match rustix::net::accept(&listener) {
                Ok(fd) => {
                    let _guard = runtime.enter();
                    let _ = nix::fcntl::fcntl(fd.as_fd(), nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK));
                    let _ = nix::fcntl::fcntl(fd.as_fd(), nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC));
                    let Ok(stream) = tokio::net::TcpStream::from_std(fd.into()) else { continue };
                    let _ = stream.set_nodelay(true);
                    if tx.blocking_send(stream).is_err() {
                        return;
                    }
                }
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(why) => {
                    tracing::warn!(%why, "a connection could not be taken");
                    // Out of descriptors or memory: give the others a moment to end instead of spinning.
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    });
    Ok(rx)
}

/// TLS handshakes beside each other, each with a deadline: a silent client holds nobody up.
fn handshakes(
    mut sockets: mpsc::Receiver<tokio::net::TcpStream>,
    config: Arc<rustls::ServerConfig>,
) -> mpsc::Receiver<std::io::Result<Peer>> {
    let (tx, rx) = mpsc::channel(16);
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    tokio::spawn(async move {
        while let Some(socket) = sockets.recv().await {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let (acceptor, tx) = (acceptor.clone(), tx.clone());
            tokio::spawn(async move {
                match tokio::time::timeout(Duration::from_secs(10), acceptor.accept(socket)).await {
                    Ok(Ok(stream)) => drop(tx.send(Ok(Peer(stream, place))).await),
                    Ok(Err(why)) => tracing::warn!(%why, "refused a connection"),
                    Err(_) => tracing::warn!("refused a connection: no TLS handshake within 10 s"),
                }
            });
        }
    });
    rx
}

/// An authenticated connection; holds its place among the allowed ones until it ends.
struct Peer(
    tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    #[expect(dead_code, reason = "held, not read")] tokio::sync::OwnedSemaphorePermit,
);

impl tonic::transport::server::Connected for Peer {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl tokio::io::AsyncRead for Peer {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut tokio::io::ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

pub(crate) struct Service(Arc<Node>);

fn subject(wire: Option<v1::Subject>) -> Subject {
    Subject { vm: wire.map(|s| s.vm).filter(|vm| !vm.is_empty()) }
}

fn parsed<T: serde::de::DeserializeOwned>(what: &str, json: &str) -> Result<T, Status> {
    serde_json::from_str(json).map_err(|e| Status::invalid_argument(format!("{what}: {e}")))
}

/// Runs blocking work beside the network thread and measures it.
async fn blocking<T: Send + 'static>(
    node: &Arc<Node>,
    rpc: &'static str,
    work: impl FnOnce(&Node) -> Result<T, Status> + Send + 'static,
) -> Result<Response<T>, Status> {
    let shared = node.clone();
    let start = node.system.elapsed();
    let result = tokio::task::spawn_blocking(move || work(&shared)).await.map_err(|e| Status::internal(e.to_string())).and_then(|r| r);
    node.metrics.rpc(rpc, result.is_ok(), node.system.elapsed() - start);
    result.map(Response::new)
}

/// An agent that was killed may have left an installer running: wait for it, within the longest deadline a command has.
fn wait_for_orphans(node: &Node, say: &mut dyn FnMut(String)) {
    let start = node.system.elapsed();
    let mut said = false;
    while let Some(command) = node.posix.orphan().filter(|_| node.system.elapsed() - start < Duration::from_secs(3660)) {
        if !std::mem::replace(&mut said, true) {
            say(format!("waiting for `{command}`, which an earlier agent started"));
        }
        node.system.sleep(Duration::from_millis(500));
    }
}

type Events = ReceiverStream<Result<v1::Event, Status>>;

/// Runs an act in the background; what it says is streamed. It goes on when nobody listens any more.
fn acting(
    node: &Arc<Node>,
    rpc: &'static str,
    on: Subject,
    act: impl FnOnce(&Node, &mut dyn FnMut(String)) -> Outcome + Send + 'static,
) -> Response<Events> {
    let (tx, rx) = mpsc::channel(64);
    let node = node.clone();
    tokio::task::spawn_blocking(move || {
        let event = |event| Ok(v1::Event { event: Some(event) });
        let turn = node.acting(&on);
        let _turn = turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let start = node.system.elapsed();
        let mut say = |said: String| {
            tracing::info!(vm = on.vm, "{said}");
            let _ = tx.blocking_send(event(v1::event::Event::Said(said)));
        };
        wait_for_orphans(&node, &mut say);
        let outcome = act(&node, &mut say);
        tracing::info!(vm = on.vm, ?outcome, "ended");
        node.metrics.rpc(rpc, !matches!(outcome, Outcome::Failed { .. }), node.system.elapsed() - start);
        let json = serde_json::to_string(&outcome).unwrap_or_default();
        let _ = tx.blocking_send(event(v1::event::Event::OutcomeJson(json)));
    });
    Response::new(ReceiverStream::new(rx))
}

#[tonic::async_trait]
impl agent_server::Agent for Service {
    type ApplyStream = Events;
    type ActivateStream = Events;

    async fn describe(&self, _: Request<v1::DescribeRequest>) -> Result<Response<v1::DescribeReply>, Status> {
        blocking(&self.0, "Describe", |node| {
            let known = |e: &Entry| v1::Known {
                name: e.name.into(),
                scope: serde_json::to_value(e.scope).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default(),
                schema_json: (e.schema)().to_string(),
            };
            Ok(v1::DescribeReply {
                agent_version: env!("CARGO_PKG_VERSION").into(),
                role: node.agent.role.into(),
                node: node.name.clone(),
                boot_id: node.system.boot_id().map_err(|e| Status::internal(e.to_string()))?,
                requirements: node.catalogue.entries.iter().map(known).collect(),
                restarts: (node.agent.restarts)().into_iter().map(|(name, _)| name.into()).collect(),
            })
        })
        .await
    }

    async fn observe(&self, request: Request<v1::ObserveRequest>) -> Result<Response<v1::ObserveReply>, Status> {
        let request = request.into_inner();
        blocking(&self.0, "Observe", move |node| {
            let on = subject(request.subject);
            let mut facts = node.catalogue.facts(node.scope(&on));
            if !request.facts.is_empty() {
                if let Some(unknown) = request.facts.iter().find(|name| facts.iter().all(|f| f.name != name.as_str())) {
                    return Err(Status::unimplemented(format!(
                        "{} agent {} does not know the fact `{unknown}`: upgrade the agent",
                        node.agent.role,
                        env!("CARGO_PKG_VERSION")
                    )));
                }
                facts.retain(|f| request.facts.iter().any(|name| name == f.name));
            }
            node.remember(&on, request.wishes);
            let seen = execute::observe(node.system.as_ref(), &on, &facts);
            let boot_id = node.system.boot_id().map_err(|e| Status::internal(e.to_string()))?;
            Ok(v1::ObserveReply { boot_id, facts_json: serde_json::to_string(&seen).map_err(|e| Status::internal(e.to_string()))? })
        })
        .await
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<Events>, Status> {
        let request = request.into_inner();
        let on = subject(request.subject);
        let entry = self.0.find(&on, &request.requirement)?;
        let wish: serde_json::Value = parsed("spec", &request.spec_json)?;
        let spec = (entry.read_spec)(&wish).map_err(|e| Status::invalid_argument(format!("{}: {}", entry.name, e.message)))?;
        let expected: Option<Expectation> = match request.expectation_json.as_str() {
            "" => None,
            json => Some(parsed("expectation", json)?),
        };
        let node = self.0.clone();
        Ok(acting(&node, "Apply", on.clone(), move |node, say| {
            execute::apply(node.system.as_ref(), &entry, &on, &spec, expected.as_ref(), say)
        }))
    }

    async fn activate(&self, request: Request<v1::ActivateRequest>) -> Result<Response<Events>, Status> {
        let request = request.into_inner();
        let what = request.what.ok_or_else(|| Status::invalid_argument("activate what?"))?;
        let effects = match &what {
            v1::activate_request::What::Reboot(_) => vec![(self.0.agent.reboot)()],
            v1::activate_request::What::Restart(name) => {
                let known = (self.0.agent.restarts)().into_iter().find(|(known, _)| known == name);
                known
                    .map(|(_, effects)| effects)
                    .ok_or_else(|| Status::unimplemented(format!("the agent knows no restart `{name}`: upgrade the agent")))?
            }
        };
        let reboot = matches!(what, v1::activate_request::What::Reboot(_));
        Ok(acting(&self.0, "Activate", Subject::node(), move |node, say| {
            match node.system.boot_id() {
                Ok(now) if reboot && now != request.planned_boot_id => return Outcome::AlreadyMet { is: "rebooted since".into() },
                Err(why) => return Outcome::failed(why.to_string()),
                Ok(_) => {}
            }
            if reboot && let Some(asked) = asked_before(node, &request.planned_boot_id) {
                return Outcome::Applied { is: asked, active: false };
            }
            for (at, effect) in effects.iter().enumerate() {
                // A daemon needs a moment between its stop and its start (facts: "wait 1 s").
                if at > 0 {
                    node.system.sleep(Duration::from_secs(1));
                }
                say(effect.to_string());
                match activate(node.system.as_ref(), effect) {
                    Err(why) if reboot => {
                        // A refused reboot is not on its way.
                        let _ = node.system.remove(REBOOT_ASKED);
                        return Outcome::failed(why.to_string());
                    }
                    // Stopping what does not run fails, and must not keep the rest from starting: the proof decides.
                    Err(why) => say(format!("went on after: {why}")),
                    Ok(()) => {}
                }
            }
            Outcome::Applied { is: "started".into(), active: false }
        }))
    }

    async fn stat_artifact(&self, request: Request<v1::ArtifactId>) -> Result<Response<v1::ArtifactState>, Status> {
        let id = request.into_inner();
        blocking(&self.0, "StatArtifact", move |node| receive::state(&node.posix, &id)).await
    }

    async fn put_artifact(&self, request: Request<Streaming<v1::ArtifactPart>>) -> Result<Response<v1::ArtifactState>, Status> {
        let start = self.0.system.elapsed();
        let result = receive::put(self.0.posix.clone(), request.into_inner()).await;
        self.0.metrics.rpc("PutArtifact", result.is_ok(), self.0.system.elapsed() - start);
        result.map(Response::new)
    }
}

/// A reboot that was asked for in this boot, minutes ago, is on its way: asking again could reboot the node twice.
fn asked_before(node: &Node, boot_id: &str) -> Option<String> {
    let now = node.system.now();
    let noted = node.system.read(REBOOT_ASKED, 256).ok().and_then(|b| String::from_utf8(b).ok());
    if let Some((asked_in, at)) = noted.as_deref().and_then(|n| n.trim().rsplit_once(' ')) {
        let age = at.parse::<u64>().ok().and_then(|at| now.checked_sub(at));
        if asked_in == boot_id && age.is_some_and(|age| age < 300) {
            return Some("the reboot is on its way".into());
        }
    }
    if let Err(why) = node.system.write(REBOOT_ASKED, format!("{boot_id} {now}\n").as_bytes(), 0o600) {
        tracing::warn!(%why, "the reboot is not noted");
    }
    None
}

/// A restart of something that this release does not have (Xorg on newer ESXi) is nothing to do.
fn activate(system: &dyn System, effect: &vsgpu_core::Effect) -> Result<(), String> {
    if let vsgpu_core::Effect::Run { command, .. } = effect {
        let output = system.run(command);
        return match output.ended {
            Ended::Missing | Ended::Status(0) => Ok(()),
            ended => Err(format!("`{command}`: {ended}: {}", vsgpu_core::evidence::head(&format!("{}\n{}", output.stdout, output.stderr)))),
        };
    }
    execute::act(system, effect).map_err(|broken| broken.to_string())
}
