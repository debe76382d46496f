//! Who gets in: connections are taken as fast as they come, and wait in a lobby of bounded size until they
//! have said who they are.
//!
//! Nobody is turned away at the door because the lobby is full: whoever has been silent there for longest
//! leaves, first of the same address, then of all. So a thousand silent connections keep nobody out, wherever
//! they come from: who speaks at once is never the one that leaves. Connections are taken with plain
//! accept(2) in a thread of their own, because accept4 is one of the calls that VMkernel may lack.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Connections that have not proved who they are.
const LOBBY: usize = 512;
/// Those of one address: many operators may work behind one.
const OF_ONE: usize = 384;
/// After so many that had to leave, newcomers wait for a moment. Whoever is cut off comes again at once, at
/// the end of the queue: so the queue moves at our pace, some thousands a second, and who speaks has a tenth
/// of a second at least to do so.
const PACE: (u64, Duration) = (4, Duration::from_millis(1));
/// For the first words.
const FIRST: Duration = Duration::from_secs(3);
/// Between two looks whether the first words are all there.
const LOOK: Duration = Duration::from_millis(20);
/// Between two lines of the log about who was turned away.
const QUIET: Duration = Duration::from_secs(60);
/// Connections that the kernel keeps until they are taken.
const BACKLOG: i32 = 4096;

/// Connections in the order in which they came.
pub(crate) type Came = mpsc::Receiver<(TcpStream, IpAddr)>;

/// Listens; a thread takes connections, as long as somebody looks at them: the others wait in the kernel's
/// queue.
///
/// # Errors
/// A sentence: the address is in use.
pub(crate) fn listen(address: SocketAddr) -> Result<Came, String> {
    let failed = |e: std::io::Error| format!("cannot listen on {address}: {e}");
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    // Asked again only for a longer queue than the standard library's.
    rustix::net::listen(&listener, BACKLOG).map_err(|e| failed(e.into()))?;
    let (tx, rx) = mpsc::channel(16);
    let runtime = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        loop {
            match rustix::net::acceptfrom(&listener) {
                Ok((fd, from)) => {
                    let _guard = runtime.enter();
                    let _ = nix::fcntl::fcntl(
                        fd.as_fd(),
                        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
                    );
                    let _ = nix::fcntl::fcntl(
                        fd.as_fd(),
                        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
                    );
                    let peer = from
                        .and_then(|from| SocketAddr::try_from(from).ok())
                        .map_or(Ipv4Addr::UNSPECIFIED.into(), |from| from.ip());
                    let Ok(stream) = TcpStream::from_std(fd.into()) else { continue };
                    let _ = stream.set_nodelay(true);
                    if tx.blocking_send((stream, peer)).is_err() {
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

/// What the first words are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Words {
    /// A whole TLS record.
    Tls,
    /// Anything.
    Any,
}

/// Where connections wait.
pub(crate) struct Lobby {
    waiting: Mutex<Waiting>,
    refused: Refused,
}

#[derive(Default)]
struct Waiting {
    /// In the order in which they came.
    seats: BTreeMap<u64, Taken>,
    next: u64,
    /// How many had to leave.
    left: u64,
}

struct Taken {
    peer: IpAddr,
    spoke: Arc<AtomicBool>,
    leave: oneshot::Sender<()>,
}

/// A connection's place in the lobby; left when it is dropped.
pub(crate) struct Seat {
    lobby: Arc<Lobby>,
    number: u64,
    peer: IpAddr,
    spoke: Arc<AtomicBool>,
    asked_to_leave: oneshot::Receiver<()>,
}

impl Lobby {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::default(), refused: Refused::default() })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection in. Where there is no room another one leaves, and the next has to wait for a
    /// moment.
    pub(crate) async fn enter(self: &Arc<Self>, peer: IpAddr) -> Seat {
        let (seat, crowded) = self.sit(peer);
        if crowded {
            tokio::time::sleep(PACE.1).await;
        }
        seat
    }

    /// A seat, and whether the queue is to be slowed down.
    fn sit(self: &Arc<Self>, peer: IpAddr) -> (Seat, bool) {
        let mut waiting = self.waiting();
        let of_peer = waiting.seats.values().filter(|taken| taken.peer == peer).count();
        let full_for_one = of_peer >= OF_ONE;
        let full = full_for_one || waiting.seats.len() >= LOBBY;
        if full {
            let oldest = |silent: bool| {
                let fits = |taken: &&Taken| {
                    (!full_for_one || taken.peer == peer) && (!silent || !taken.spoke.load(Ordering::SeqCst))
                };
                waiting.seats.iter().find(|(_, taken)| fits(taken)).map(|(number, _)| *number)
            };
            if let Some(leaving) =
                oldest(true).or_else(|| oldest(false)).and_then(|number| waiting.seats.remove(&number))
            {
                let _ = leaving.leave.send(());
                waiting.left += 1;
            }
        }
        let crowded = full && waiting.left.is_multiple_of(PACE.0);
        let (leave, asked_to_leave) = oneshot::channel();
        let (number, spoke) = (waiting.next, Arc::new(AtomicBool::new(false)));
        waiting.next += 1;
        waiting.seats.insert(number, Taken { peer, spoke: spoke.clone(), leave });
        (Seat { lobby: self.clone(), number, peer, spoke, asked_to_leave }, crowded)
    }

    /// Somebody was turned away: said at once, and then once a minute for all of them.
    pub(crate) fn turned_away(&self, peer: IpAddr, why: &str) {
        self.refused.one(peer, why);
    }

    /// How many wait.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.waiting().seats.len()
    }
}

impl Seat {
    /// Waits for the first words, which stay where they are. `Err`: why it is not waited for any longer.
    pub(crate) async fn first_words(&mut self, stream: &TcpStream, words: Words) -> Result<(), String> {
        let heard = async {
            // The head of a TLS record: its kind, two bytes of version, its length.
            let mut head = [0; 5 + (16 << 10)];
            loop {
                let have = stream.peek(&mut head).await.map_err(|e| e.to_string())?;
                let enough = match (words, have) {
                    (_, 0) => return Err("the connection was closed before a word".to_string()),
                    (Words::Any, _) => true,
                    (Words::Tls, _) if head[0] != 22 => return Err("what it says is no TLS".into()),
                    (Words::Tls, have) => {
                        have >= 5
                            && have >= 5 + usize::from(u16::from_be_bytes([head[3], head[4]])).min(16 << 10)
                    }
                };
                if enough {
                    return Ok(());
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let silent = || format!("no word within {} s", FIRST.as_secs());
        let heard = tokio::select! {
            heard = tokio::time::timeout(FIRST, heard) => heard.unwrap_or_else(|_| Err(silent())),
            _ = &mut self.asked_to_leave => Err("silent for longest while others came".into()),
        };
        self.spoke.store(heard.is_ok(), Ordering::SeqCst);
        heard
    }

    /// A TLS handshake, behind its first words. `Err`: why it came to nothing.
    pub(crate) async fn handshake(
        &mut self,
        acceptor: &TlsAcceptor,
        socket: TcpStream,
        within: Duration,
    ) -> Result<TlsStream<TcpStream>, String> {
        self.first_words(&socket, Words::Tls).await?;
        match self.until(tokio::time::timeout(within, acceptor.accept(socket))).await {
            Some(Ok(Ok(stream))) => Ok(stream),
            Some(Ok(Err(why))) => Err(why.to_string()),
            Some(Err(_)) => Err(format!("no TLS handshake within {} s", within.as_secs())),
            None => Err("its handshake took longest while others came".into()),
        }
    }

    /// What is done while it waits, unless it has to leave.
    pub(crate) async fn until<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            _ = &mut self.asked_to_leave => None,
        }
    }

    pub(crate) fn turned_away(&self, why: &str) {
        self.lobby.turned_away(self.peer, why);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lobby.waiting().seats.remove(&self.number);
    }
}

/// What the log says of who was turned away.
#[derive(Default)]
struct Refused(Mutex<Tally>);

#[derive(Default)]
struct Tally {
    count: u64,
    last: String,
    /// A line was written less than a minute ago; another follows by itself.
    quiet: bool,
}

impl Refused {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn one(&self, peer: IpAddr, why: &str) {
        let mut tally = self.tally();
        if !tally.quiet {
            tally.quiet = true;
            tracing::warn!(%peer, why, "refused a connection; more of them are counted and said once a minute");
            return;
        }
        tally.count += 1;
        tally.last = format!("{peer}: {why}");
    }

    /// Once a minute; whether there was anything to say.
    fn said(&self) {
        let mut tally = self.tally();
        if tally.count > 0 {
            tracing::warn!(count = tally.count, last = tally.last, "refused connections in the last minute");
        }
        *tally = Tally { quiet: tally.count > 0, ..Tally::default() };
    }
}

impl Lobby {
    /// Says once a minute who was turned away.
    pub(crate) fn report(self: &Arc<Self>) {
        let lobby = self.clone();
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(QUIET);
            loop {
                tick.tick().await;
                lobby.refused.said();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, n).into()
    }

    #[test]
    fn the_longest_silent_leaves_and_never_who_spoke() {
        let lobby = Lobby::new();
        let spoke = lobby.sit(address(1)).0;
        spoke.spoke.store(true, Ordering::SeqCst);
        let mut silent: Vec<Seat> = (0..OF_ONE - 1).map(|_| lobby.sit(address(1)).0).collect();
        let other = lobby.sit(address(2)).0;
        let mut newest = lobby.sit(address(1)).0;
        let left = |seat: &mut Seat| seat.asked_to_leave.try_recv().is_ok();
        assert!(left(&mut silent[0]) && !silent.iter_mut().skip(1).any(left) && !left(&mut newest));
        drop(silent);
        let full: Vec<Seat> = (0..2u8)
            .flat_map(|n| (0..OF_ONE).map(move |_| address(10 + n)))
            .map(|peer| lobby.sit(peer).0)
            .collect();
        assert!(lobby.len() <= LOBBY, "{}", lobby.len());
        let mut seats = [spoke, other];
        assert!(!left(&mut seats[0]) && left(&mut seats[1]), "the oldest silent one of all");
        drop((full, seats, newest));
        assert_eq!(lobby.len(), 0);
    }
}
