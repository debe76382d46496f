//! A lease of this machine, from the question to its end: it lives as long as the connection of who asked for it.

use super::look::look;
use super::state::{CONNECT, Daemon, LOCAL, Lease, MAX_TEXT, Setting, locked, refused, say, target};
use super::way::Way;
use crate::client::choose::choose;
use crate::client::group::Caller;
use crate::client::local::{Event, GpuSeen, Granted, Kind, Refused, Want};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::Instant;
use vsgpu_core::pool::config::ServerAddress;
use vsgpu_core::text::piece;
use vsgpu_wire::client::CallError;
use vsgpu_wire::pool::TICKET;
use vsgpu_wire::pool::client::{Gateway, LeaseCall};
use vsgpu_wire::pool::v1::{self, from_client, from_gateway, refusal};

/// Between two signs of life.
const ALIVE: Duration = Duration::from_secs(5);
/// A gateway that is not heard for so long is gone; it thinks the same of us.
const GONE: Duration = Duration::from_secs(20);
/// The word for a lease that its client gave back.
const RELEASED: &str = "released";
/// What a gateway may be late with an answer that it promised.
const LATE: Duration = Duration::from_secs(30);

impl Daemon {
    /// Asks one server after the other, and keeps the lease until one of both sides ends it.
    pub(super) async fn lease(
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
                    Some(Ok(Err(CallError::Refused(what)))) => {
                        return Err(refused(Kind::NotInTime, what.to_string(), &what.hint));
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

/// Of what a lease is.
struct Asked<'a> {
    setting: &'a Setting,
    server: &'a ServerAddress,
    caller: &'a Caller,
    rtt_micros: Option<u64>,
}

/// A lease in the list of them, until it is dropped.
struct Listed<'a>(&'a Daemon, u64);

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        locked(&self.0.leases).remove(&self.1);
    }
}

fn lost(server: &str, what: &str) -> Event {
    Event::Ended { why: "gateway".into(), text: format!("{server} {what}") }
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

/// Comes back when a user's connection is closed.
async fn ends(mut from: BufReader<OwnedReadHalf>) {
    let mut rest = [0; 256];
    while matches!(from.read(&mut rest).await, Ok(1..)) {}
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
