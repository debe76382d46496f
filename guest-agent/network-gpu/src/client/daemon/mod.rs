//! The client's daemon. It holds the machine's key, so programs need not; each lease lives as long as the
//! connection of who asked for it.

mod lease;
mod look;
mod state;
mod way;

use crate::client::choose::unusable;
use crate::client::group;
use crate::client::local::{Event, Kind, LeaseSeen, MAX_REQUEST, Refused, Request};
use crate::lines;
use look::look;
use state::{Daemon, LOCAL, Lease, Setting, locked, refused, say};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use vsgpu_core::pool::config::{CLIENT_CONFIG, ClientConfig, MAX_CONFIG};
use vsgpu_wire::client::Connector;

pub use state::Options;

/// Users' connections at once, of one user and of all.
const MOST_USERS: (u32, u32) = (64, 256);
/// Users that are looked up at once; a directory service may be slow.
const LOOKUPS: usize = 32;

/// Serves until killed. `ready` is called when it listens.
///
/// # Errors
/// A sentence: the socket. What is wrong with the configuration is said to who asks.
pub async fn serve(options: Options, ready: impl FnOnce()) -> Result<(), String> {
    // Everybody may connect: who may ask is decided by who it is.
    let listener =
        lines::listen(&options.socket, 0o666).map_err(|e| format!("{}: {e}", options.socket.display()))?;
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
}
