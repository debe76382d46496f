//! The client's daemon. It holds the machine's key, so programs need not; each lease lives as long as the
//! connection of who asked for it.

use crate::client::choose::{choose, unusable};
use crate::client::group::{self, Caller};
use crate::client::local::{
    Event, GpuSeen, Granted, Kind, LeaseSeen, MAX_REQUEST, Refused, Request, ServerSeen, Want,
};
use crate::client::owner::owner;
use crate::{lines, relay};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use vsgpu_core::engine::Engine;
use vsgpu_core::pool::config::{CLIENT_CONFIG, ClientConfig, MAX_CONFIG, ServerAddress};
use vsgpu_core::text::piece;
use vsgpu_core::{System, failpoint};
use vsgpu_wire::client::{CallError, Connector, Target};
use vsgpu_wire::pool::TICKET;
use vsgpu_wire::pool::client::{Gateway, LeaseCall, tunnel};
use vsgpu_wire::pool::v1::{self, from_client, from_gateway, gpu, refusal};

/// For the connection to a gateway, and for its first answer.
const CONNECT: Duration = Duration::from_secs(4);
/// Round trips that are measured.
const ROUND_TRIPS: u32 = 3;
/// For a user's first line, and until a line of ours is taken.
const LOCAL: Duration = Duration::from_secs(5);
/// Between two signs of life.
const ALIVE: Duration = Duration::from_secs(5);
/// A gateway that is not heard for so long is gone; it thinks the same of us.
const GONE: Duration = Duration::from_secs(20);
/// For a connection to an engine: it may have to be started again.
const OPEN: Duration = Duration::from_secs(30);
/// Users' connections at once, of one user and of all.
const MOST_USERS: (u32, u32) = (64, 256);
/// The word for a lease that its client gave back.
const RELEASED: &str = "released";
/// Users that are looked up at once; a directory service may be slow.
const LOOKUPS: usize = 32;
/// Connections of one lease's port that are looked at, and are carried, at once; the gateway allows 64.
const MOST_CARRIED: usize = 64;
/// What a gateway may be late with an answer that it promised.
const LATE: Duration = Duration::from_secs(30);
/// Characters of a text of a gateway.
const MAX_TEXT: usize = 500;

/// How it is started.
pub struct Options {
    /// The machine: its configuration, and whose a connection is.
    pub system: Arc<dyn System>,
    /// Folder with `ca.pem`, `node.pem`, `node.key`.
    pub pki: PathBuf,
    /// Where users ask.
    pub socket: PathBuf,
}

struct Daemon {
    options: Options,
    leases: Mutex<BTreeMap<u64, Arc<Lease>>>,
    next: AtomicU64,
    users: Mutex<BTreeMap<u32, u32>>,
    /// Looks at who somebody is.
    lookups: Semaphore,
}

/// A lease of this machine.
struct Lease {
    server: String,
    number: u64,
    user: Caller,
    gpus: Vec<GpuSeen>,
    since: Instant,
    until: Option<Instant>,
    connections: AtomicU32,
    /// Bytes of programs, and to them.
    out: AtomicU64,
    back: AtomicU64,
    rtt_micros: AtomicU64,
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves until killed. `ready` is called when it listens.
///
/// # Errors
/// A sentence: the socket. What is wrong with the configuration is said to who asks.
pub async fn serve(options: Options, ready: impl FnOnce()) -> Result<(), String> {
    let listener = listen(&options.socket).map_err(|e| format!("{}: {e}", options.socket.display()))?;
    let daemon = Arc::new(Daemon {
        options,
        leases: Mutex::default(),
        next: AtomicU64::new(1),
        users: Mutex::default(),
        lookups: Semaphore::new(LOOKUPS),
    });
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "serving");
    ready();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(daemon.clone().serve_user(stream))),
            Err(why) => {
                tracing::warn!(%why, "a user's connection could not be taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Everybody may connect: who may ask is decided by who it is.
fn listen(path: &Path) -> std::io::Result<UnixListener> {
    #[expect(clippy::disallowed_methods, reason = "the daemon's own socket")]
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let for_all = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666);
    std::fs::set_permissions(path, for_all)?;
    Ok(listener)
}

fn refused(kind: Kind, text: impl Into<String>, hint: &str) -> Refused {
    Refused { kind, text: text.into(), hint: hint.into() }
}

impl From<CallError> for Refused {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused { why, hint } => refused(Kind::NotAllowed, why, &hint),
            CallError::Unreachable(why) => {
                refused(Kind::Unreachable, why, "is the GPU server up, and that port open from here?")
            }
            other => refused(Kind::Unreachable, other.to_string(), ""),
        }
    }
}

/// One of a user's places; left when it is dropped.
struct Seat<'a>(&'a Daemon, u32);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut users = locked(&self.0.users);
        if let Some(count) = users.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.1);
            }
        }
    }
}

/// What is needed for one question.
struct Setting {
    config: ClientConfig,
    engine: &'static Engine,
    rpc: Connector,
    engines: Connector,
}

impl Daemon {
    async fn serve_user(self: Arc<Self>, stream: UnixStream) {
        let Ok(who) = stream.peer_cred() else { return };
        let (from, mut to) = stream.into_split();
        let answered = self.answer(who.uid(), who.gid(), from, &mut to).await;
        if let Err(refused) = answered {
            say(&mut to, &Event::Refused(refused)).await;
        }
    }

    fn seat(&self, uid: u32) -> Result<Seat<'_>, Refused> {
        let mut users = locked(&self.users);
        let all: u32 = users.values().sum();
        let own = users.entry(uid).or_default();
        if all >= MOST_USERS.1 || *own >= MOST_USERS.0 {
            return Err(refused(Kind::NotInTime, "too many ask at once on this machine", "try again later"));
        }
        *own += 1;
        Ok(Seat(self, uid))
    }

    /// Read anew for each question: another configuration ends no lease.
    fn setting(&self) -> Result<Setting, Refused> {
        let broken = |why: String| {
            refused(Kind::Unreachable, why, "`vsgpu apply` sets this machine up as a client of GPU servers")
        };
        let bytes = self.options.system.read(CLIENT_CONFIG, MAX_CONFIG).map_err(|e| broken(e.to_string()))?;
        let (config, engine) =
            ClientConfig::read(&bytes).map_err(|why| broken(format!("{CLIENT_CONFIG}: {why}")))?;
        let pki = &self.options.pki;
        let rpc = Connector::of_guest(pki).map_err(|e| broken(e.to_string()))?;
        let engines = Connector::to_engines(pki).map_err(|e| broken(e.to_string()))?;
        Ok(Setting { config, engine, rpc, engines })
    }

    async fn answer(
        self: &Arc<Self>,
        uid: u32,
        gid: u32,
        from: OwnedReadHalf,
        to: &mut OwnedWriteHalf,
    ) -> Result<(), Refused> {
        // Who may not ask takes no place of those who may. Only the groups are needed for that.
        let groups = self.setting().map(|setting| setting.config.groups).unwrap_or_default();
        let caller = {
            let busy = || refused(Kind::NotInTime, "too many ask at once on this machine", "try again later");
            let _turn = self.lookups.try_acquire().map_err(|_| busy())?;
            tokio::task::spawn_blocking(move || group::caller(uid, gid, &groups)).await
        };
        let caller = caller.map_err(|e| e.to_string()).flatten();
        let caller =
            caller.map_err(|why| refused(Kind::NotAllowed, why, "ask whoever set this machine up"))?;
        let _seat = self.seat(uid)?;
        let mut from = BufReader::new(from);
        let request = match tokio::time::timeout(LOCAL, lines::next(&mut from, MAX_REQUEST)).await {
            Ok(Ok(Some(request))) => request,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(why)) => return Err(refused(Kind::NotAllowed, format!("not understood: {why}"), "")),
            Err(_) => return Err(refused(Kind::NotAllowed, "nothing was asked within 5 s", "")),
        };
        let want = match request {
            Request::Status => {
                say(to, &Event::Leases(self.leases())).await;
                return Ok(());
            }
            Request::List => {
                let setting = self.setting()?;
                let mut seen = look(&setting, None).await?;
                for server in seen.iter_mut().filter(|server| server.problem.is_none()) {
                    server.problem = unusable(server, &setting.config.engine.build);
                }
                say(to, &Event::Servers(seen)).await;
                return Ok(());
            }
            Request::Run(want) => want,
        };
        let setting = self.setting()?;
        self.lease(&setting, &want, caller, from, to).await
    }

    fn leases(&self) -> Vec<LeaseSeen> {
        let now = Instant::now();
        let seen = |lease: &Arc<Lease>| LeaseSeen {
            server: lease.server.clone(),
            lease: lease.number,
            user: lease.user.name.clone(),
            gpus: lease.gpus.clone(),
            for_secs: now.saturating_duration_since(lease.since).as_secs(),
            left_secs: lease.until.map(|until| until.saturating_duration_since(now).as_secs()),
            connections: lease.connections.load(Ordering::Relaxed),
            bytes_out: lease.out.load(Ordering::Relaxed),
            bytes_in: lease.back.load(Ordering::Relaxed),
            rtt_micros: Some(lease.rtt_micros.load(Ordering::Relaxed)).filter(|rtt| *rtt > 0),
        };
        locked(&self.leases).values().map(seen).collect()
    }

    /// Asks one server after the other, and keeps the lease until one of both sides ends it.
    async fn lease(
        self: &Arc<Self>,
        setting: &Setting,
        want: &Want,
        caller: Caller,
        from: BufReader<OwnedReadHalf>,
        to: &mut OwnedWriteHalf,
    ) -> Result<(), Refused> {
        // What a user says behind the request is its end.
        let mut gone = tokio::spawn(ends(from));
        let seen = look(setting, want.server.as_deref()).await?;
        let order = choose(&seen, want, &setting.config.engine.build)?;
        // What a user waits for is one time, however many servers are asked.
        let until = want.wait_millis.map(|wait| Instant::now() + Duration::from_millis(wait));
        let mut last = None;
        for name in order {
            let Some(server) = setting.config.servers.iter().find(|server| server.node == name) else {
                continue;
            };
            let asked = tokio::select! {
                asked = ask(setting, server, want, until, &caller, to) => asked,
                _ = &mut gone => return Ok(()),
            };
            match asked {
                Ok((call, granted)) => {
                    let rtt_micros = seen.iter().find(|seen| seen.server == name).and_then(|s| s.rtt_micros);
                    let asked = Asked { setting, server, caller: &caller, rtt_micros };
                    return self.keep(asked, call, granted, want.gpus as usize, gone, to).await;
                }
                // Another one may do; what this one said stands if none does.
                Err(refused) if refused.kind != Kind::NotAllowed => last = Some(refused),
                Err(refused) => return Err(refused),
            }
        }
        Err(last.unwrap_or_else(|| refused(Kind::Unreachable, "no server is named", "")))
    }

    async fn keep(
        self: &Arc<Self>,
        asked: Asked<'_>,
        mut call: LeaseCall,
        granted: v1::Granted,
        wanted: usize,
        mut gone: tokio::task::JoinHandle<()>,
        to: &mut OwnedWriteHalf,
    ) -> Result<(), Refused> {
        let Asked { setting, server, caller, rtt_micros } = asked;
        if granted.slots.len() != wanted {
            let why = format!("{} gives {} GPUs, {wanted} were asked for", server.node, granted.slots.len());
            return Err(refused(Kind::Unreachable, why, "use one version of vsgpu on both sides"));
        }
        let gpus: Vec<GpuSeen> = granted
            .slots
            .iter()
            .map(|slot| GpuSeen {
                name: piece(&slot.name, MAX_TEXT),
                memory_mib: slot.memory_mib,
                uuid: piece(&slot.uuid, MAX_TEXT),
                state: None,
            })
            .collect();
        let since = Instant::now();
        let lease = Arc::new(Lease {
            server: server.node.clone(),
            number: granted.lease,
            user: caller.clone(),
            gpus: gpus.clone(),
            since,
            until: granted.for_millis.map(|left| since + Duration::from_millis(left)),
            connections: AtomicU32::new(0),
            out: AtomicU64::new(0),
            back: AtomicU64::new(0),
            rtt_micros: AtomicU64::new(0),
        });
        // Dropped with this call: nothing of a lease outlives it.
        let (mut ways, mut first) = (JoinSet::new(), JoinSet::<Result<(), CallError>>::new());
        let mut addresses = vec![];
        for slot in &granted.slots {
            let Ok(ticket) = <[u8; TICKET]>::try_from(slot.ticket.as_ref()) else {
                return Err(refused(Kind::Unreachable, format!("{}: a ticket is broken", server.node), ""));
            };
            let way = Way {
                system: self.options.system.clone(),
                connector: setting.engines.clone(),
                target: target(server),
                ticket,
                lease: lease.clone(),
            };
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
            let listener = listener.map_err(|e| refused(Kind::Unreachable, format!("127.0.0.1: {e}"), ""))?;
            let address = listener.local_addr().map_err(|e| refused(Kind::Unreachable, e.to_string(), ""))?;
            addresses.push(address.to_string());
            first.spawn({
                let way = way.clone();
                async move { way.open().await.map(drop) }
            });
            ways.spawn(way.serve(listener));
        }
        let mut alive = Alive::new();
        // The engine's shim would be silent for a minute and a half where there is no way.
        loop {
            tokio::select! {
                opened = first.join_next() => match opened {
                    None => break,
                    Some(Err(why)) => return Err(refused(Kind::Unreachable, why.to_string(), "")),
                    // Its ticket was good a moment ago: the lease has ended meanwhile.
                    Some(Ok(Err(CallError::Refused { why, hint }))) => {
                        return Err(refused(Kind::NotInTime, why, &hint));
                    }
                    Some(Ok(opened)) => opened?,
                },
                _ = &mut gone => return Ok(()),
                said = call.next() => match said? {
                    Some(from_gateway::Said::Alive(heard)) => drop(alive.heard(heard.number)),
                    Some(from_gateway::Said::Ended(ended)) => return Err(too_soon(server, &ended)),
                    Some(_) => {}
                    None => return Err(closed(server)),
                },
                beat = alive.beat(0) => call.say(from_client::Said::Alive(beat.ok_or_else(|| silent(server))?)),
            }
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        locked(&self.leases).insert(number, lease.clone());
        let _listed = Listed(self, number);
        let fill = |text: &str| {
            text.replace("{libraries}", &setting.config.libraries).replace("{address}", &addresses.join(","))
        };
        let event = Event::Granted(Granted {
            server: server.node.clone(),
            lease: granted.lease,
            gpus,
            for_millis: granted.for_millis,
            idle_millis: granted.idle_millis,
            rtt_micros,
            env: setting
                .engine
                .client_env
                .iter()
                .map(|(name, value)| ((*name).into(), fill(value)))
                .collect(),
            without: setting.engine.client_without.iter().map(|name| (*name).into()).collect(),
        });
        say(to, &event).await;
        loop {
            tokio::select! {
                _ = &mut gone => {
                    call.say(from_client::Said::Release(v1::Release {}));
                    drop(ways);
                    // Until it is heard: a user whose lease had ended before is told so.
                    let rest = async {
                        loop {
                            match call.next().await {
                                Ok(Some(from_gateway::Said::Ended(ended))) => return Some(ended),
                                Ok(Some(_)) => {}
                                Ok(None) | Err(_) => return None,
                            }
                        }
                    };
                    let event = match tokio::time::timeout(LOCAL, rest).await {
                        Ok(Some(v1::Ended { why, .. })) if why == RELEASED => Event::Released,
                        Ok(Some(v1::Ended { why, text })) => {
                            Event::Ended { why: piece(&why, MAX_TEXT), text: piece(&text, MAX_TEXT) }
                        }
                        Ok(None) => lost(&server.node, "closed the connection"),
                        // A gateway that is away hears of it from its own clock.
                        Err(_) => Event::Released,
                    };
                    say(to, &event).await;
                    return Ok(());
                }
                said = call.next() => match said {
                    Ok(Some(from_gateway::Said::Warning(v1::Warning { idle, left_millis }))) => {
                        say(to, &Event::Warning { idle, left_millis }).await;
                    }
                    Ok(Some(from_gateway::Said::Ended(v1::Ended { why, text }))) => {
                        let text = piece(&text, MAX_TEXT);
                        say(to, &Event::Ended { why: piece(&why, MAX_TEXT), text }).await;
                        return Ok(());
                    }
                    Ok(Some(from_gateway::Said::Alive(heard))) => {
                        if let Some(rtt) = alive.heard(heard.number) {
                            lease.rtt_micros.store(rtt.as_micros() as u64, Ordering::Relaxed);
                        }
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => {
                        say(to, &lost(&server.node, "closed the connection")).await;
                        return Ok(());
                    }
                },
                beat = alive.beat(lease.rtt_micros.load(Ordering::Relaxed)) => match beat {
                    Some(beat) => call.say(from_client::Said::Alive(beat)),
                    None => {
                        say(to, &lost(&server.node, "was not heard for 20 s")).await;
                        return Ok(());
                    }
                },
            }
        }
    }
}

fn lost(server: &str, what: &str) -> Event {
    Event::Ended { why: "gateway".into(), text: format!("{server} {what}") }
}

/// A lease in the list of them, until it is dropped.
struct Listed<'a>(&'a Daemon, u64);

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        locked(&self.0.leases).remove(&self.1);
    }
}

/// Of what a lease is.
struct Asked<'a> {
    setting: &'a Setting,
    server: &'a ServerAddress,
    caller: &'a Caller,
    rtt_micros: Option<u64>,
}

/// Comes back when a user's connection is closed.
async fn ends(mut from: BufReader<OwnedReadHalf>) {
    let mut rest = [0; 256];
    while matches!(from.read(&mut rest).await, Ok(1..)) {}
}

/// A user that takes nothing is not waited for.
async fn say(to: &mut OwnedWriteHalf, event: &Event) {
    let _ = tokio::time::timeout(LOCAL, lines::send(to, event)).await;
}

fn target(server: &ServerAddress) -> Target {
    Target { address: server.address.clone(), node: server.node.clone(), role: "guest" }
}

/// Asks all servers, or one, what they have; beside each other, each with its own deadline.
async fn look(setting: &Setting, only: Option<&str>) -> Result<Vec<ServerSeen>, Refused> {
    let named: Vec<&ServerAddress> =
        setting.config.servers.iter().filter(|server| only.is_none_or(|name| name == server.node)).collect();
    if named.is_empty() {
        let all: Vec<&str> = setting.config.servers.iter().map(|server| server.node.as_str()).collect();
        let why = format!("{} is no server of this machine", only.unwrap_or("that"));
        return Err(refused(Kind::NotAllowed, why, &format!("there are: {}", all.join(", "))));
    }
    let mut looks = JoinSet::new();
    for (at, server) in named.iter().enumerate() {
        let (rpc, target) = (setting.rpc.clone(), target(server));
        looks.spawn(async move { (at, look_at(&rpc, &target).await) });
    }
    let mut seen: BTreeMap<usize, ServerSeen> = BTreeMap::new();
    while let Some(looked) = looks.join_next().await {
        if let Ok((at, looked)) = looked {
            seen.insert(at, looked);
        }
    }
    Ok(seen.into_values().collect())
}

async fn look_at(rpc: &Connector, target: &Target) -> ServerSeen {
    let looked = async {
        let gateway = Gateway::open(rpc, target, CONNECT).await?;
        let mut list = gateway.list(CONNECT).await?;
        // The first answer had the handshake in it; of the others the quickest tells most of the way.
        let mut best = CONNECT;
        for _ in 0..ROUND_TRIPS {
            let since = Instant::now();
            list = gateway.list(CONNECT).await?;
            best = best.min(since.elapsed());
        }
        Ok::<_, CallError>((list, best))
    };
    let looked = tokio::time::timeout(CONNECT, looked)
        .await
        .unwrap_or_else(|_| Err(CallError::Unreachable(format!("no answer within {} s", CONNECT.as_secs()))));
    let (list, rtt, problem) = match looked {
        Ok((list, rtt)) => (list, Some(rtt.as_micros() as u64), None),
        Err(CallError::Refused { why, hint }) => {
            (v1::ListReply::default(), None, Some(piece(&format!("{why}: {hint}"), MAX_TEXT)))
        }
        Err(why) => (v1::ListReply::default(), None, Some(piece(&why.to_string(), MAX_TEXT))),
    };
    let text = |text: &str| piece(text, MAX_TEXT);
    let gpus = list.gpus.iter().take(vsgpu_core::pool::MAX_SLOTS).map(|gpu| GpuSeen {
        name: text(&gpu.name),
        memory_mib: gpu.memory_mib,
        uuid: text(&gpu.uuid),
        state: Some(
            match gpu.state() {
                gpu::State::Free => "free",
                gpu::State::Held => "held",
                gpu::State::OutOfService | gpu::State::Unspecified => "out-of-service",
            }
            .into(),
        ),
    });
    ServerSeen {
        server: target.node.clone(),
        address: target.address.clone(),
        problem,
        team: text(&list.team),
        team_holds: list.team_holds,
        team_may: list.team_may,
        waiting: list.waiting,
        drained: list.drained,
        blocked: text(&list.blocked),
        engine: text(&list.engine),
        build: text(&list.build),
        cuda: text(&list.cuda),
        rtt_micros: rtt,
        gpus: gpus.collect(),
    }
}

/// A lease has ended before its program could run.
fn too_soon(server: &ServerAddress, ended: &v1::Ended) -> Refused {
    refused(Kind::NotInTime, format!("{}: {}", server.node, piece(&ended.text, MAX_TEXT)), "")
}

fn closed(server: &ServerAddress) -> Refused {
    refused(Kind::Unreachable, format!("{} closed the connection", server.node), "")
}

fn silent(server: &ServerAddress) -> Refused {
    refused(Kind::Unreachable, format!("{} was not heard for 20 s", server.node), "")
}

/// Asks one server and waits until it grants or refuses.
async fn ask(
    setting: &Setting,
    server: &ServerAddress,
    want: &Want,
    until: Option<Instant>,
    caller: &Caller,
    to: &mut OwnedWriteHalf,
) -> Result<(LeaseCall, v1::Granted), Refused> {
    let gateway = Gateway::open(&setting.rpc, &target(server), CONNECT).await?;
    let ask = v1::Ask {
        uid: caller.uid,
        user: caller.name.clone(),
        gpus: want.gpus,
        memory_mib: want.memory_mib,
        filters: want.filters.clone(),
        wait_millis: until.map(|until| until.saturating_duration_since(Instant::now()).as_millis() as u64),
        build: setting.config.engine.build.clone(),
    };
    let mut call = gateway.lease(ask, CONNECT).await?;
    let mut alive = Alive::new();
    // The gateway keeps the time; one that does not is not waited for.
    let most = until.map(|until| until.max(Instant::now()) + LATE);
    loop {
        let late = async {
            match most {
                Some(most) => tokio::time::sleep_until(most).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = late => {
                let why = format!("{} does not say within the time whether it grants", server.node);
                return Err(refused(Kind::NotInTime, why, ""));
            }
            said = call.next() => match said? {
                Some(from_gateway::Said::Granted(granted)) => return Ok((call, granted)),
                Some(from_gateway::Said::Waiting(waiting)) => {
                    let v1::Waiting { place, gpus, team, team_holds, team_may } = waiting;
                    let (server, team) = (server.node.clone(), piece(&team, MAX_TEXT));
                    say(to, &Event::Waiting { server, place, gpus, team, team_holds, team_may }).await;
                }
                Some(from_gateway::Said::Refused(why)) => {
                    let kind = match why.why() {
                        refusal::Why::NotInTime | refusal::Why::NotNow => Kind::NotInTime,
                        refusal::Why::NotAllowed | refusal::Why::Unspecified => Kind::NotAllowed,
                    };
                    return Err(refused(kind, format!("{}: {}", server.node, piece(&why.text, MAX_TEXT)), ""));
                }
                Some(from_gateway::Said::Alive(heard)) => drop(alive.heard(heard.number)),
                // Granted, and ended before its engines ran.
                Some(from_gateway::Said::Ended(ended)) => return Err(too_soon(server, &ended)),
                Some(_) => {}
                None => return Err(closed(server)),
            },
            beat = alive.beat(0) => call.say(from_client::Said::Alive(beat.ok_or_else(|| silent(server))?)),
        }
    }
}

/// Signs of life: one every five seconds, each of which is answered.
struct Alive {
    tick: tokio::time::Interval,
    number: u64,
    sent: Instant,
    heard: Instant,
}

impl Alive {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            tick: tokio::time::interval_at(now + Duration::from_millis(200), ALIVE),
            number: 0,
            sent: now,
            heard: now,
        }
    }

    /// The next one; `None` where the other side is gone.
    async fn beat(&mut self, rtt_micros: u64) -> Option<v1::Alive> {
        self.tick.tick().await;
        let now = Instant::now();
        if now.saturating_duration_since(self.heard) >= GONE {
            return None;
        }
        (self.number, self.sent) = (self.number + 1, now);
        Some(v1::Alive { number: self.number, rtt_micros })
    }

    /// One was answered: the time that it took, where it was the last one.
    fn heard(&mut self, number: u64) -> Option<Duration> {
        self.heard = Instant::now();
        (number == self.number).then(|| self.sent.elapsed())
    }
}

/// The way of a program's connections to one engine.
#[derive(Clone)]
struct Way {
    system: Arc<dyn System>,
    connector: Connector,
    target: Target,
    ticket: [u8; TICKET],
    lease: Arc<Lease>,
}

impl Way {
    async fn open(&self) -> Result<Box<dyn vsgpu_wire::client::Stream>, CallError> {
        tunnel(&self.connector, &self.target, &self.ticket, OPEN).await
    }

    /// Takes what comes, from the lease's user alone.
    async fn serve(self, listener: TcpListener) {
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
