//! Why a node could not be talked to, found in whatever the layers below say, in words that help.

use crate::client::target::Target;
use crate::refusal::Refusal;
use crate::v1::refused::Reason;
use std::time::Duration;
use tonic::{Code, Status};
use vsgpu_core::text::sentence;

/// Why a node could not be talked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nobody answers, or not in time. Trying again may help.
    #[error("{0}")]
    Unreachable(String),
    /// Somebody answers, but identity or certificate is wrong.
    #[error("{why}")]
    Refused {
        /// What is wrong.
        why: String,
        /// What to do.
        hint: String,
    },
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

/// Finds the cause in a chain of errors and says it in words that help.
pub(crate) fn classify(target: &Target, error: &(dyn std::error::Error + 'static)) -> CallError {
    let (mut text, mut words) = (String::new(), vec![]);
    let mut next = Some(error);
    while let Some(cause) = next {
        text = cause.to_string();
        words.push(text.clone());
        // An I/O error hides the TLS error it carries from `source`.
        let inner = cause
            .downcast_ref::<std::io::Error>()
            .and_then(|io| io.get_ref())
            .map(|e| e as &(dyn std::error::Error + 'static));
        next = inner.or_else(|| cause.source());
    }
    let all = words.join(": ");
    let Target { node, role, address } = target;
    let refused = |why: String, hint: &str| CallError::Refused { why, hint: hint.into() };
    let renew =
        format!("`vsgpu cert renew {node} --role {role}` makes a new one and says how it gets to the node");
    if all.contains("NotValidForName") || all.contains("not valid for name") {
        refused(
            format!("the agent at {address} shows a certificate of another node, not of {role} `{node}`"),
            "check the address in the fleet file, and which certificate was copied to the node",
        )
    } else if all.contains("UnknownIssuer") || all.contains("BadSignature") {
        // Every vsgpu CA has the same name, so a stranger's certificate fails by its signature.
        let hint = "use the CA folder that issued it (`--pki DIR`); only if that CA is lost, make another and issue all certificates anew";
        refused(format!("the certificate of {node} at {address} was issued by another CA"), hint)
    } else if all.contains("Expired") && all.contains("invalid peer certificate")
        || all.contains("certificate expired") && all.contains("invalid peer")
    {
        refused(format!("the certificate of {node} at {address} has expired"), &renew)
    } else if all.contains("received fatal alert") {
        let alert = all.rsplit("received fatal alert: ").next().unwrap_or_default().to_string();
        refused(
            format!("{node} at {address} refuses our certificate ({alert})"),
            "use the CA folder that issued the node's certificate (`--pki`), and check both clocks",
        )
    } else if all.contains("invalid peer certificate") {
        refused(format!("the certificate of {node} at {address} is not valid: {text}"), &renew)
    } else {
        // What rustls and h2 say of a peer that vanished helps nobody.
        let vanished = [
            "close_notify",
            "connection reset",
            "Connection reset",
            "broken pipe",
            "Broken pipe",
            "stream closed",
            "connection closed",
        ]
        .iter()
        .any(|w| all.contains(w));
        CallError::Unreachable(format!(
            "{node} at {address}: {}",
            if vanished { "the connection was cut" } else { &text }
        ))
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
            let why = format!("{} did not answer within {} s", target.node, within.as_secs_f32());
            Err(CallError::Unreachable(why))
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
        Code::PermissionDenied => CallError::Refused {
            why: format!("{node} refuses: {}", message),
            hint: "use the operator's folder (`--pki DIR`, the one with controller.pem)".into(),
        },
        Code::Unimplemented => CallError::Unknown(said()),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => {
            classify(target, status)
        }
        _ => CallError::Failed(said()),
    }
}
