//! vCenter's other API, `/api`: JSON on the same connection. It has a session of its own, begun with the first call and
//! ended with the connection; images of hosts are only there.

use crate::fault::Fault;
use crate::https::Answer;
use crate::sending::Sending;
use crate::session::{LOOK, Session};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::{Method, StatusCode, header};
use serde_json::Value;
use std::sync::PoisonError;
use std::time::{Duration, Instant};
use vsgpu_core::text::piece;

const SESSION: header::HeaderName = header::HeaderName::from_static("vmware-api-session-id");
/// Characters of one message.
const MOST: usize = 400;
/// Messages of one failure.
const MESSAGES: usize = 5;

impl Session {
    /// Asks; an answer without a body is null. A session that has ended is begun again once: what was refused for it did
    /// nothing.
    ///
    /// # Errors
    /// What the server said, with its `error_type` as the kind; or why it is not heard.
    pub(crate) fn rest(&mut self, method: &Method, path: &str, body: Option<&Value>) -> Result<Value, Fault> {
        for last in [false, true] {
            let token = self.rest_session()?;
            let mut headers = vec![(SESSION, token.clone())];
            headers.extend(body.map(|_| (header::CONTENT_TYPE, "application/json".to_string())));
            let sent = body.map_or_else(Sending::nothing, |body| body.to_string().into());
            let given = self.https.ask(method, path, &headers, sent, LOOK)?;
            if given.status != StatusCode::UNAUTHORIZED {
                return read(path, &given);
            }
            if last {
                break;
            }
            let mut known = self.shared.rest.lock().unwrap_or_else(PoisonError::into_inner);
            // Somebody else may have begun a new one meanwhile.
            if matches!(&*known, Some(Ok(other)) if *other == token) {
                *known = None;
            }
        }
        Err(Fault::said(format!("{path}: the server ends its session at once")))
    }

    /// The session of this API, which is begun where there is none. One login at a time.
    fn rest_session(&mut self) -> Result<String, Fault> {
        let shared = self.shared.clone();
        let mut known = shared.rest.lock().unwrap_or_else(PoisonError::into_inner);
        match known.as_ref() {
            Some(Ok(token)) => return Ok(token.clone()),
            // Not sent again soon: each try counts towards the account's lock.
            Some(Err((at, refused))) if now() - *at < REFUSED_FOR => return Err(refused.clone()),
            Some(Err(_)) | None => {}
        }
        let password = (shared.account.password)().map_err(Fault::unheard)?;
        let secret = STANDARD.encode(format!("{}:{password}", shared.account.user));
        let headers = [(header::AUTHORIZATION, format!("Basic {secret}"))];
        let given = self.https.ask(&Method::POST, "/api/session", &headers, Sending::nothing(), LOOK)?;
        if given.status == StatusCode::UNAUTHORIZED {
            let refused = Fault::said(
                "vCenter refuses this account at /api/session, though /sdk let it in: is it locked, or was its password changed just now? Lifecycle Manager is not asked again for 15 minutes",
            );
            *known = Some(Err((now(), refused.clone())));
            return Err(refused);
        }
        let read = read("/api/session", &given).map_err(|fault| match fault.kind.as_str() {
            UNKNOWN_PATH => {
                Fault::said("this vCenter is older than 7.0 U2: vsgpu cannot read or change its images; use the vSphere Client")
            }
            _ => fault,
        })?;
        let token = read.as_str().filter(|token| !token.is_empty() && token.len() < 4096);
        let token = token.ok_or_else(|| Fault::unheard("/api/session: no session was given"))?.to_string();
        *known = Some(Ok(token.clone()));
        Ok(token)
    }

    /// Ends it, where it was begun.
    pub(crate) fn log_out_of_rest(&mut self) {
        let token = self.shared.rest.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Ok(token)) = token {
            let headers = [(SESSION, token)];
            let within = Duration::from_secs(5);
            let _ = self.https.ask(&Method::DELETE, "/api/session", &headers, Sending::nothing(), within);
        }
    }
}

fn read(path: &str, given: &Answer) -> Result<Value, Fault> {
    let body = given.text()?;
    let parsed: Result<Value, _> = match body.trim() {
        "" => Ok(Value::Null),
        text => serde_json::from_str(text),
    };
    if given.status.is_success() {
        return parsed.map_err(|why| {
            Fault::unheard(format!(
                "{path}: the answer is no JSON ({why}): is a proxy between, or does vCenter still start?"
            ))
        });
    }
    let said = parsed.map(|body| messages(&body)).unwrap_or_default();
    let kind = match given.status {
        // Only the API itself knows that there is no such thing: a proxy, or a server that starts, says 404 as well.
        StatusCode::NOT_FOUND if said.0 != NOT_FOUND => UNKNOWN_PATH.to_string(),
        StatusCode::FORBIDDEN => NO_PERMISSION.to_string(),
        status => match said.0.as_str() {
            // A proxy, or a server that starts.
            "" => return Err(Fault::unheard(format!("{path}: HTTP status {}", status.as_u16()))),
            kind => kind.to_string(),
        },
    };
    Err(Fault { kind, said: said.1, privilege: None })
}

/// There is no such thing.
pub(crate) const NOT_FOUND: &str = "NOT_FOUND";
/// This release does not know the question, or nobody answers there.
pub(crate) const UNKNOWN_PATH: &str = "HTTP status 404";
/// How long a refused login is not tried again.
const REFUSED_FOR: Duration = Duration::from_secs(900);

#[expect(clippy::disallowed_methods, reason = "how old a refusal is")]
fn now() -> Instant {
    Instant::now()
}
/// As the other API says it.
pub(crate) const NO_PERMISSION: &str = "NoPermission";

/// Type and words of a failure: of an answer, or of a task.
pub(crate) fn messages(of: &Value) -> (String, Vec<String>) {
    let kind = of["error_type"].as_str().map(|kind| piece(kind, 80)).unwrap_or_default();
    let all = of["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    (kind, all.iter().take(MESSAGES).filter_map(words).collect())
}

/// A message in words. The one without its values stands beside the one that has them.
pub(crate) fn words(message: &Value) -> Option<String> {
    let said = ["localized", "default_message"].iter().filter_map(|form| message[form].as_str());
    said.map(|text| piece(text, MOST)).find(|text| !text.is_empty())
}
