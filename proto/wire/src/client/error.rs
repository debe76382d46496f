//! Why a node could not be talked to, found in whatever the layers below say, in words that help.

use crate::client::dial::NoSuchName;
use crate::client::target::Target;
use crate::refusal::Refusal;
use crate::strangers::BadCertificate;
use crate::v1::refused::Reason;
use rustls::{AlertDescription, CertificateError};
use std::io::ErrorKind;
use std::time::Duration;
use tonic::{Code, Status};
use vsgpu_core::text::sentence;

/// What is wrong, with whom, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// With whom: `esx-01 at 10.0.0.1:7443`.
    pub who: String,
    /// What is wrong, in a sentence that does not name them: what several nodes share is said once.
    pub why: String,
    /// What to do.
    pub hint: String,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.who.is_empty() { f.write_str(&self.why) } else { write!(f, "{}: {}", self.who, self.why) }
    }
}

impl Trouble {
    /// With a node as a whole.
    pub fn with(who: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { who: who.into(), why: why.into(), hint: hint.into() }
    }
}

/// Why a node could not be talked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nobody answers, or not in time. Trying again may help.
    #[error("{0}")]
    Unreachable(Trouble),
    /// Somebody answers, but identity or certificate is wrong.
    #[error("{0}")]
    Refused(Trouble),
    /// The agent does not know what it was asked: it is older or newer than the controller.
    #[error("{0}")]
    Unknown(String),
    /// Another controller has the node now. Trying again may help.
    #[error("{0}")]
    Held(String),
    /// Another controller took the node over: this one must not go on with it.
    #[error("{0}")]
    Overtaken(String),
    /// The agent does not know our claim: it has restarted. Claim again, then ask again.
    #[error("{0}")]
    LeaseLost(String),
    /// The agent failed to do it.
    #[error("{0}")]
    Failed(String),
}

impl CallError {
    /// A node that is away, where nothing more is known.
    pub fn away(who: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unreachable(Trouble::with(who, why, ""))
    }
}

/// What is found in a chain of errors.
enum Found {
    /// No such name in DNS, and what the resolver said.
    Name(NoSuchName),
    Certificate(BadCertificate),
    /// Whoever shows the certificate has not its key.
    NoKey,
    /// What the other side says of ours.
    Alert(AlertDescription),
    /// It is no TLS, or none of ours.
    NotTls,
    Io(ErrorKind),
}

/// The most telling one of a chain, and its innermost text.
fn found(error: &(dyn std::error::Error + 'static)) -> (Option<Found>, String, bool) {
    let (mut best, mut text, mut cut) = (None, String::new(), false);
    let mut next = Some(error);
    while let Some(cause) = next {
        text = cause.to_string();
        // What rustls and h2 say of a peer that vanished helps nobody.
        let vanished = [
            "close_notify",
            "connection reset",
            "Connection reset",
            "broken pipe",
            "Broken pipe",
            "stream closed",
            "connection closed",
        ];
        cut |= vanished.iter().any(|words| text.contains(words));
        if let Some(name) = cause.downcast_ref::<NoSuchName>() {
            best = Some(Found::Name(name.clone()));
        } else if let Some(bad) = cause.downcast_ref::<BadCertificate>() {
            best = Some(Found::Certificate(bad.clone()));
        } else if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            best = of_tls(tls).or(best);
        } else if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            best = best.or(Some(Found::Io(io.kind())));
        }
        // An I/O error hides the error it carries from `source`.
        let inner = cause
            .downcast_ref::<std::io::Error>()
            .and_then(|io| io.get_ref())
            .map(|e| e as &(dyn std::error::Error + 'static));
        next = inner.or_else(|| cause.source());
    }
    (best, text, cut)
}

fn of_tls(error: &rustls::Error) -> Option<Found> {
    match error {
        rustls::Error::InvalidCertificate(_) => Some(Found::NoKey),
        rustls::Error::AlertReceived(alert) => Some(Found::Alert(*alert)),
        rustls::Error::InvalidMessage(_)
        | rustls::Error::PeerIncompatible(_)
        | rustls::Error::InappropriateMessage { .. }
        | rustls::Error::InappropriateHandshakeMessage { .. } => Some(Found::NotTls),
        _ => None,
    }
}

/// What to do where nobody listens.
fn start(target: &Target) -> String {
    let start = match target.role {
        "host" => format!(
            "on the ESXi host: `/etc/init.d/vsgpu-host-agent restart`; where it is served over ssh, on that machine: `systemctl restart vsgpu-host-agent@{}`; by vCenter: `systemctl restart 'vsgpu-host-agent-vcenter@*'`",
            target.node
        ),
        _ => "in the VM: `systemctl restart vsgpu-guest-agent`".into(),
    };
    format!("start the agent, {start}; check the port in the fleet file (agents listen on 7443)")
}

/// Another service than ours.
const NOT_OURS: &str = "check address and port in the fleet file: agents speak on 7443, 9743 is only for metrics; a proxy may stand in between";

/// Finds the cause in a chain of errors and says it in words that help.
pub(crate) fn classify(target: &Target, error: &(dyn std::error::Error + 'static)) -> CallError {
    let Target { node, role, address } = target;
    let who = format!("{node} at {address}");
    let refused = |why: String, hint: String| CallError::Refused(Trouble::with(&who, why, hint));
    let away = |why: String, hint: String| CallError::Unreachable(Trouble::with(&who, why, hint));
    let (found, text, cut) = found(error);
    match found {
        Some(Found::Name(NoSuchName { name, said })) => away(
            format!("the name cannot be resolved ({said})"),
            format!("check the address in the fleet file, then DNS: `getent hosts {name}`"),
        ),
        Some(Found::Certificate(bad)) => {
            let (why, hint) = of_certificate(&bad, node, role);
            refused(why, hint)
        }
        Some(Found::Alert(alert)) => {
            let (why, hint) = of_alert(alert);
            refused(why, hint.into())
        }
        Some(Found::NoKey) => refused(
            "what answers there shows a certificate whose key it does not have".into(),
            format!("somebody may pretend to be {node}: look who has that address"),
        ),
        // A proxy in front of a node that boots says the same: trying again may help.
        Some(Found::NotTls) => {
            away("what answers there is no agent: it does not speak its TLS".into(), NOT_OURS.into())
        }
        _ if cut => away("the connection was cut".into(), String::new()),
        Some(Found::Io(ErrorKind::ConnectionRefused)) => {
            away("nobody listens there (connection refused)".into(), start(target))
        }
        Some(Found::Io(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable)) => away(
            "there is no way to that address (no route to host)".into(),
            "check the address in the fleet file, the network, and whether the machine is up".into(),
        ),
        Some(Found::Io(ErrorKind::TimedOut)) => no_answer(target, None),
        _ => away(text, String::new()),
    }
}

/// Nobody said anything.
pub(crate) fn no_answer(target: &Target, within: Option<Duration>) -> CallError {
    let (host, port) = target.address.rsplit_once(':').unwrap_or((&target.address, "7443"));
    // The time that was left of a deadline is a hair less than it.
    let time = within.map(|within| format!(" within {} s", within.as_secs_f32().ceil())).unwrap_or_default();
    CallError::Unreachable(Trouble::with(
        format!("{} at {}", target.node, target.address),
        format!("no answer{time}"),
        format!("is the machine up? A firewall that drops packets looks the same: `nc -vz {host} {port}`"),
    ))
}

fn of_certificate(bad: &BadCertificate, node: &str, role: &str) -> (String, String) {
    let renew =
        format!("`vsgpu cert renew {node} --role {role}` makes a new one and says how it gets to the node");
    let clock = |what: &str| format!("{what}; if that clock is wrong: `timedatectl set-ntp true`");
    let BadCertificate { why, shown, now } = bad;
    let now = crate::life::date(*now);
    match why {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            format!("another node answers there: its certificate is for {}, not for {role} `{node}`", shown.names()),
            format!("the address of {node} in the fleet file is probably that of the other node; if it is right, the wrong certificate was copied there"),
        ),
        // Every vsgpu CA has the same name, so a stranger's certificate may also fail by its signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature if shown.is_ours() => (
            format!("its certificate was issued by another CA than the one in use ({})", shown.said()),
            "use the CA folder that issued it (`--pki DIR`); only if that CA is lost, make another and issue all certificates anew".into(),
        ),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            (format!("what answers there is no agent: its certificate is {}", shown.said()), NOT_OURS.into())
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            format!("its certificate ended on {}; this machine's clock says {now}", shown.ends()),
            clock(&renew),
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            format!("its certificate begins on {}; this machine's clock says {now}", shown.begins()),
            "set this machine's clock: `timedatectl set-ntp true`; a new certificate would not help".into(),
        ),
        other => (format!("its certificate is not valid: {other}"), renew),
    }
}

fn of_alert(alert: AlertDescription) -> (String, &'static str) {
    match alert {
        AlertDescription::CertificateExpired => (
            "it refuses our certificate as one that has ended or not begun".into(),
            "compare the clocks of both machines; where our certificate has ended: `vsgpu cert renew controller`",
        ),
        AlertDescription::UnknownCA | AlertDescription::DecryptError | AlertDescription::BadCertificate => (
            "it refuses our certificate: it trusts another CA".into(),
            "use the CA folder that issued the node's certificate (`--pki DIR`)",
        ),
        AlertDescription::NoApplicationProtocol
        | AlertDescription::ProtocolVersion
        | AlertDescription::HandshakeFailure => {
            ("what answers there is no agent: it speaks another protocol".into(), NOT_OURS)
        }
        other => (
            format!("it refuses our certificate ({other:?})"),
            "use the CA folder that issued the node's certificate (`--pki DIR`), and check both clocks",
        ),
    }
}

/// The answer of a call, or why there is none in time.
pub(crate) async fn answered<T>(
    target: &Target,
    within: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(within, call).await {
        Err(_) => {
            let why = format!("it did not answer within {} s", within.as_secs_f32());
            Err(CallError::away(&target.node, why))
        }
        Ok(Err(status)) => Err(failed(target, &status)),
        Ok(Ok(response)) => Ok(response.into_inner()),
    }
}

/// What a status says: a refusal that a program must recognise by its code, or a sentence.
pub(crate) fn failed(target: &Target, status: &Status) -> CallError {
    let node = &target.node;
    let message = sentence(status.message());
    let said = || format!("{node}: {message}");
    match Refusal::reason(status) {
        Reason::Held => return CallError::Held(said()),
        Reason::Overtaken => return CallError::Overtaken(said()),
        Reason::LeaseLost | Reason::Unclaimed => return CallError::LeaseLost(said()),
        Reason::UnknownOperation => return CallError::Unknown(said()),
        Reason::Unspecified => {}
    }
    match status.code() {
        Code::PermissionDenied => CallError::Refused(Trouble::with(
            node,
            format!("it refuses: {message}"),
            "use the operator's folder (`--pki DIR`, the one with controller.pem)",
        )),
        Code::Unimplemented => CallError::Unknown(said()),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => {
            classify(target, status)
        }
        _ => CallError::Failed(said()),
    }
}
