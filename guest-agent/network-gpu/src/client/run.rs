//! What users call: asks the daemon, and for `run` starts the program with its way to the GPUs.

use crate::client::local::{
    Event, Granted, Kind, LeaseSeen, MAX_REQUEST, Refused, Request, ServerSeen, Want,
};
use crate::client::screens;
use crate::lines;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use vsgpu_core::ExitKind;
use vsgpu_machine::foreground::Foreground;

/// Exit statuses before a program was started, in sysexits' words: unavailable, temporary failure, no
/// permission. Behind that it is the program's own.
const UNAVAILABLE: u8 = 69;
const IN_TIME: u8 = 75;
const NOT_ALLOWED: u8 = 77;

/// Why a lease is over whose daemon is gone.
const NO_DAEMON: &str = "the daemon of this machine ended";
/// Until a lease that is given back is heard to be over.
const GIVEN_BACK: Duration = Duration::from_secs(8);

/// What became of it: a status, and what to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliError {
    /// Exit status.
    pub status: u8,
    /// For people.
    pub text: String,
    /// What to do; empty where there is nothing to be said.
    pub hint: String,
}

impl From<String> for CliError {
    fn from(text: String) -> Self {
        Self { status: 1, text, hint: String::new() }
    }
}

impl From<Refused> for CliError {
    fn from(Refused { kind, text, hint }: Refused) -> Self {
        let status = match kind {
            Kind::Unreachable => UNAVAILABLE,
            Kind::NotInTime => IN_TIME,
            Kind::NotAllowed => NOT_ALLOWED,
        };
        Self { status, text, hint }
    }
}

fn no_daemon(socket: &Path, why: impl std::fmt::Display) -> CliError {
    CliError {
        status: UNAVAILABLE,
        text: format!("the daemon of this machine does not answer on {}: {why}", socket.display()),
        hint: "`systemctl status vsgpu-gpu` says why; `vsgpu apply` sets it up".into(),
    }
}

async fn asked(socket: &Path, request: &Request) -> Result<BufReader<UnixStream>, CliError> {
    let stream = UnixStream::connect(socket).await.map_err(|why| no_daemon(socket, why))?;
    let mut stream = BufReader::new(stream);
    match lines::send(&mut stream, request).await {
        // It refuses some without a question: what it said lies there, behind a connection that it has closed.
        Err(why) if why.kind() != std::io::ErrorKind::BrokenPipe => Err(no_daemon(socket, why)),
        _ => Ok(stream),
    }
}

async fn next(socket: &Path, stream: &mut BufReader<UnixStream>) -> Result<Event, CliError> {
    match lines::next(stream, lines::MAX_LINE).await {
        Ok(Some(Event::Refused(refused))) => Err(refused.into()),
        Ok(Some(event)) => Ok(event),
        Ok(None) => Err(no_daemon(socket, "it closed the connection")),
        Err(why) => Err(no_daemon(socket, why)),
    }
}

fn not_understood(socket: &Path) -> CliError {
    no_daemon(socket, "it is of another version")
}

/// The GPUs of all servers, as text or JSON.
///
/// # Errors
/// Where the daemon is not there.
pub async fn list(socket: &Path, json: bool) -> Result<String, CliError> {
    let mut stream = asked(socket, &Request::List).await?;
    let servers: Vec<ServerSeen> = match next(socket, &mut stream).await? {
        Event::Servers(servers) => servers,
        _ => return Err(not_understood(socket)),
    };
    Ok(if json { screens::json("servers", &servers) } else { screens::servers(&servers) })
}

/// The GPU leases of this machine, as text or JSON.
///
/// # Errors
/// Where the daemon is not there.
pub async fn status(socket: &Path, json: bool) -> Result<String, CliError> {
    let mut stream = asked(socket, &Request::Status).await?;
    let leases: Vec<LeaseSeen> = match next(socket, &mut stream).await? {
        Event::Leases(leases) => leases,
        _ => return Err(not_understood(socket)),
    };
    Ok(if json { screens::json("leases", &leases) } else { screens::leases(&leases) })
}

/// Waits for a lease, runs a program with it, gives it back. `tell` hears each line for the user, as it comes.
/// Gives the program's exit status.
///
/// # Errors
/// Where nothing is granted, or the program is not there.
pub async fn run(
    socket: &Path,
    want: Want,
    command: Vec<String>,
    mut tell: impl FnMut(&str),
) -> Result<u8, CliError> {
    let request = Request::Run(want);
    if serde_json::to_vec(&request).map_or(usize::MAX, |text| text.len()) >= MAX_REQUEST {
        let text = "what is asked for is too long".to_string();
        return Err(CliError { status: NOT_ALLOWED, text, hint: "fewer filters".into() });
    }
    let mut stream = asked(socket, &request).await?;
    let granted = loop {
        match next(socket, &mut stream).await? {
            Event::Waiting { server, place, gpus, team, team_holds, team_may } => {
                tell(&screens::waiting(&server, place, gpus, &team, team_holds, team_may));
            }
            Event::Granted(granted) => break granted,
            Event::Ended { text, .. } => {
                return Err(CliError { status: UNAVAILABLE, text, hint: String::new() });
            }
            _ => {}
        }
    };
    screens::granted(&granted).lines().for_each(&mut tell);
    let mut signals = Signals::caught().map_err(|why| no_daemon(socket, why))?;
    let Granted { env, without, .. } = granted;
    let program = Foreground::start(&command, &with_earlier(env), &without)
        .map_err(|(status, text)| CliError { status, text, hint: String::new() })?;
    let pid = program.pid();
    let (ended, mut end) = mpsc::channel(1);
    std::thread::spawn(move || ended.blocking_send(program.wait()));
    let mut lost = None;
    let ended = loop {
        tokio::select! {
            ended = end.recv() => break ended,
            signal = signals.next() => {
                // A terminal's own signals reach the program by themselves; those for us alone are handed on.
                if matches!(signal, Signal::SIGTERM | Signal::SIGHUP) {
                    let _ = kill(Pid::from_raw(pid), signal);
                }
            }
            event = lines::next(&mut stream, lines::MAX_LINE), if lost.is_none() => match event {
                Ok(Some(Event::Warning { idle, left_millis })) => tell(&screens::warning(idle, left_millis)),
                Ok(Some(Event::Ended { text, .. })) => {
                    tell(&format!("the GPU lease is over: {text}"));
                    lost = Some(text);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    let text = NO_DAEMON.to_string();
                    tell(&format!("the GPU lease is over: {text}"));
                    lost = Some(text);
                }
            },
        }
    };
    // The lease is given back, and heard to be: whether it had ended before is said behind the last word.
    let _ = stream.get_mut().shutdown().await;
    let mut over = async |lost: &mut Option<String>| {
        while lost.is_none() {
            let text = match lines::next(&mut stream, lines::MAX_LINE).await {
                Ok(Some(Event::Released)) => return None,
                Ok(Some(Event::Ended { text, .. })) => text,
                Ok(Some(_)) => continue,
                Ok(None) | Err(_) => NO_DAEMON.to_string(),
            };
            *lost = Some(text.clone());
            return Some(text);
        }
        None
    };
    if let Ok(Some(text)) = tokio::time::timeout(GIVEN_BACK, over(&mut lost)).await {
        tell(&format!("the GPU lease is over: {text}"));
    }
    let status = match ended {
        Some(ExitKind::Status(status)) => status as u8,
        Some(ExitKind::Signal(signal)) => 128u8.saturating_add(signal as u8),
        _ => UNAVAILABLE,
    };
    if let Some(why) = lost {
        tell(&format!("the GPU was gone while the program ran ({why}): check its results"));
    }
    Ok(status)
}

/// The signals that would end us: the program is to hear them, and we are to hear of its end. Caught, not
/// blocked: a program inherits what is blocked.
struct Signals([(Signal, tokio::signal::unix::Signal); 4]);

impl Signals {
    fn caught() -> std::io::Result<Self> {
        let caught = |of: Signal| signal(SignalKind::from_raw(of as i32)).map(|caught| (of, caught));
        Ok(Self([
            caught(Signal::SIGINT)?,
            caught(Signal::SIGQUIT)?,
            caught(Signal::SIGTERM)?,
            caught(Signal::SIGHUP)?,
        ]))
    }

    async fn next(&mut self) -> Signal {
        let [a, b, c, d] = &mut self.0;
        tokio::select! {
            _ = a.1.recv() => a.0,
            _ = b.1.recv() => b.0,
            _ = c.1.recv() => c.0,
            _ = d.1.recv() => d.0,
        }
    }
}

/// A path to libraries goes in front of the user's own.
#[expect(clippy::disallowed_methods, reason = "the user's own environment is the program's")]
fn with_earlier(env: Vec<(String, String)>) -> Vec<(String, String)> {
    let in_front = |(name, value): (String, String)| {
        let earlier = std::env::var(&name).ok().filter(|old| name == "LD_LIBRARY_PATH" && !old.is_empty());
        let value = earlier.map(|old| format!("{value}:{old}")).unwrap_or(value);
        (name, value)
    };
    env.into_iter().map(in_front).collect()
}
