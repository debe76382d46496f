//! The listener that monitoring systems scrape, of the agents and of the controller: `/metrics`, `/livez`,
//! `/readyz`. What it serves comes from memory: a tool that hangs makes values old, never a scrape slow.

use crate::accept::{self, Lobby, Words};
use http_body_util::Full;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// For one scrape, from the connection to its end: a client that never asks must not stay for ever.
const WITHIN: Duration = Duration::from_secs(5);

/// What is served.
pub trait Pages: Send + Sync + 'static {
    /// Prometheus's text.
    fn metrics(&self) -> String;
    /// Whether it has something to say, and why not.
    ///
    /// # Errors
    /// What is missing, in words.
    fn ready(&self) -> Result<String, String>;
}

/// Who may scrape.
pub enum ScrapeAuth {
    /// Whoever is on this machine.
    Loopback,
    /// Who knows the token.
    Token(Vec<u8>),
    /// Who has a certificate of this CA for monitoring.
    Tls(tokio_rustls::TlsAcceptor),
}

impl ScrapeAuth {
    /// As the options say: address, `mtls` or `token:FILE`, and where the certificate `NAME.pem` lies.
    ///
    /// # Errors
    /// A sentence: an open listener beyond loopback, a token that is too short.
    pub fn of(address: SocketAddr, auth: Option<&str>, pki: &Path, name: &str) -> Result<Self, String> {
        match auth {
            None if address.ip().is_loopback() => Ok(Self::Loopback),
            None => Err(format!(
                "metrics on {address} would be open to everybody: add `--metrics-auth mtls`, or `--metrics-auth token:FILE`"
            )),
            Some("mtls") => {
                let identity = crate::pki::load(pki, name).map_err(|e| e.to_string())?;
                let config =
                    crate::tls::server(identity, crate::tls::Spoken::Metrics).map_err(|e| e.to_string())?;
                Ok(Self::Tls(tokio_rustls::TlsAcceptor::from(Arc::new(config))))
            }
            Some(other) => {
                let file = other
                    .strip_prefix("token:")
                    .ok_or(format!("--metrics-auth `{other}` is neither `mtls` nor `token:FILE`"))?;
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the agent's own secret, read once before it serves"
                )]
                let token = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
                match token.trim() {
                    token if token.len() >= 16 => Ok(Self::Token(token.as_bytes().to_vec())),
                    _ => Err(format!("{file}: a token has at least 16 characters")),
                }
            }
        }
    }

    /// Compared in constant time: how much of a wrong token was right must not be seen.
    fn lets_in(&self, headers: &hyper::HeaderMap) -> bool {
        let Self::Token(token) = self else { return true };
        let given = headers
            .get("authorization")
            .and_then(|v| v.as_bytes().strip_prefix(b"Bearer "))
            .unwrap_or_default();
        given.len() == token.len()
            && given.iter().zip(token).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

/// Serves in the background.
///
/// # Errors
/// A sentence: the address is in use.
pub fn listen(address: SocketAddr, auth: ScrapeAuth, pages: Arc<dyn Pages>) -> Result<(), String> {
    let mut came = accept::listen(address)?;
    let auth = Arc::new(auth);
    let lobby = Lobby::new();
    lobby.report();
    tokio::spawn(async move {
        while let Some((socket, peer)) = came.recv().await {
            let mut seat = lobby.enter(peer).await;
            let (pages, auth) = (pages.clone(), auth.clone());
            tokio::spawn(async move {
                let words = if matches!(*auth, ScrapeAuth::Tls(_)) { Words::Tls } else { Words::Any };
                if let Err(why) = seat.first_words(&socket, words).await {
                    return seat.turned_away(&why);
                }
                let answered = async {
                    match &*auth {
                        ScrapeAuth::Tls(acceptor) => {
                            if let Ok(stream) = acceptor.accept(socket).await {
                                answer(&pages, &auth, stream).await;
                            }
                        }
                        _ => answer(&pages, &auth, socket).await,
                    }
                };
                let _ = seat.until(tokio::time::timeout(WITHIN, answered)).await;
            });
        }
    });
    Ok(())
}

async fn answer(pages: &Arc<dyn Pages>, auth: &ScrapeAuth, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let answer = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (status, page) = match request.uri().path() {
            // Whether it lives and is ready is no secret, and never depends on anybody else.
            "/livez" => (200, "ok\n".to_string()),
            "/readyz" => match pages.ready() {
                Ok(how) => (200, format!("ok: {how}\n")),
                Err(why) => (503, format!("not ready: {why}\n")),
            },
            _ if !auth.lets_in(request.headers()) => (401, "a bearer token is needed\n".into()),
            "/metrics" => (200, pages.metrics()),
            _ => (404, "see /metrics, /livez, /readyz\n".into()),
        };
        let body = Full::new(bytes::Bytes::from(page));
        let response = hyper::Response::builder()
            .status(status)
            .header("content-type", "text/plain; version=0.0.4")
            .body(body);
        async move { Ok::<_, Infallible>(response.unwrap_or_default()) }
    });
    let mut connection = hyper::server::conn::http1::Builder::new();
    let _ = connection.keep_alive(false).serve_connection(hyper_util::rt::TokioIo::new(stream), answer).await;
}
