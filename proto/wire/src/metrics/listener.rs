//! The listener that monitoring systems scrape, of the agents and of the controller: `/metrics`, `/livez`,
//! `/readyz`; of the controller, pages for a browser besides, behind the same gate. What it serves comes from memory: a
//! tool that hangs makes values old, never a scrape slow.

use crate::accept::{self, Lobby, Words};
use base64::Engine as _;
use http_body_util::Full;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

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
    /// What a browser asks for, by path and query as they came; `None` where nothing is for browsers.
    fn page(&self, _path: &str, _query: &str) -> Option<Page> {
        None
    }
}

/// A page for a browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// 200, or 404.
    pub status: u16,
    /// Its media type.
    pub kind: &'static str,
    /// All of it.
    pub body: String,
    /// Seconds after which the browser shall ask again.
    pub again: Option<u32>,
}

/// Longest path and query of a page.
const ASKED: usize = 2_000;
/// Pages that are made at once: the others wait for their turn.
const AT_ONCE: usize = 4;
/// What a page may load: its own style sheet. No script, no frame, no form elsewhere; nobody may frame it.
const MAY_LOAD: &str =
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

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
                "{address} would be open to everybody: add `--metrics-auth mtls`, or `--metrics-auth token:FILE`"
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

    /// By the token, as a bearer's or as a password: browsers ask a person for the latter.
    fn lets_in(&self, headers: &hyper::HeaderMap) -> bool {
        let Self::Token(token) = self else { return true };
        let said = headers.get("authorization").map(hyper::header::HeaderValue::as_bytes).unwrap_or_default();
        if let Some(given) = said.strip_prefix(b"Bearer ") {
            return same(given, token);
        }
        let login = said
            .strip_prefix(b"Basic ")
            .and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
        let password = login.as_deref().and_then(|login| login.splitn(2, |byte| *byte == b':').nth(1));
        password.is_some_and(|given| same(given, token))
    }

    /// Whether a page may be asked for by this name. Where nobody has to say who he is, a page of the web could have a
    /// name of its own lead to this address, and read what is here in the browser of whoever looks at it.
    fn knows_itself_as(&self, headers: &hyper::HeaderMap) -> bool {
        if !matches!(self, Self::Loopback) {
            return true;
        }
        let host = headers.get("host").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let address = name.trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok()
    }
}

/// In constant time: how much of a wrong token was right must not be seen.
fn same(given: &[u8], token: &[u8]) -> bool {
    given.len() == token.len() && given.iter().zip(token).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// Serves until the program is ended, for one that has no runtime of its own. `listening` is called when it does.
///
/// # Errors
/// A sentence: the address is in use.
pub fn serve(
    address: SocketAddr,
    auth: ScrapeAuth,
    pages: Arc<dyn Pages>,
    listening: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("no runtime: {e}"))?;
    runtime.block_on(async {
        listen(address, auth, pages)?;
        listening()?;
        std::future::pending::<Result<(), String>>().await
    })
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

type Answer = hyper::Response<Full<bytes::Bytes>>;

fn text(status: u16, text: String) -> Answer {
    let answer =
        hyper::Response::builder().status(status).header("content-type", "text/plain; version=0.0.4");
    let answer = if status == 401 { answer.header("www-authenticate", ASK) } else { answer };
    answer.body(Full::new(text.into())).unwrap_or_default()
}

/// What a browser asks a person for.
const ASK: &str = "Basic realm=\"vsgpu: any name, and the token as password\", charset=\"UTF-8\"";

fn html(page: Page) -> Answer {
    let mut answer = hyper::Response::builder()
        .status(page.status)
        .header("content-type", page.kind)
        .header("content-security-policy", MAY_LOAD)
        .header("x-content-type-options", "nosniff")
        .header("referrer-policy", "no-referrer")
        .header("cache-control", "no-store");
    if let Some(seconds) = page.again {
        answer = answer.header("refresh", seconds);
    }
    answer.body(Full::new(page.body.into())).unwrap_or_default()
}

async fn answer(pages: &Arc<dyn Pages>, auth: &ScrapeAuth, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let answer =
        hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| async move {
            Ok::<_, Infallible>(match request.uri().path() {
                // Whether it lives and is ready is no secret, and never depends on anybody else.
                "/livez" => text(200, "ok\n".into()),
                "/readyz" => match pages.ready() {
                    Ok(how) => text(200, format!("ok: {how}\n")),
                    Err(why) => text(503, format!("not ready: {why}\n")),
                },
                _ if !auth.lets_in(request.headers()) => text(401, "a bearer token is needed\n".into()),
                _ if !auth.knows_itself_as(request.headers()) => {
                    text(421, "without a gate this is only shown as localhost, or by an address\n".into())
                }
                "/metrics" => text(200, pages.metrics()),
                _ => browsed(pages, &request).await,
            })
        });
    let mut connection = hyper::server::conn::http1::Builder::new();
    let _ = connection.keep_alive(false).serve_connection(hyper_util::rt::TokioIo::new(stream), answer).await;
}

/// A page for a browser, made beside what serves. Whoever leaves early keeps the turn until the work is done: it cannot be
/// ended, and must not pile up.
async fn browsed<B>(pages: &Arc<dyn Pages>, request: &hyper::Request<B>) -> Answer {
    static TURNS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(AT_ONCE)));
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    let nothing = || text(404, "see /metrics, /livez, /readyz\n".into());
    if path.len() + query.len() > ASKED {
        return nothing();
    }
    if !matches!(*request.method(), hyper::Method::GET | hyper::Method::HEAD) {
        return text(405, "this is only read\n".into());
    }
    let (pages, path, query) = (pages.clone(), path.to_string(), query.to_string());
    let Ok(turn) = TURNS.clone().acquire_owned().await else { return nothing() };
    let made = tokio::task::spawn_blocking(move || {
        let page = pages.page(&path, &query);
        drop(turn);
        page
    });
    made.await.ok().flatten().map_or_else(nothing, html)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> hyper::HeaderMap {
        [(hyper::header::HeaderName::from_static(name), value.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn the_token_lets_in_as_a_bearers_and_as_a_password_and_nothing_else_does() {
        let auth = ScrapeAuth::Token(b"0123456789abcdef".to_vec());
        // `admin:0123456789abcdef`, `:0123456789abcdef`, `0123456789abcdef`, `admin:wrong`.
        for (said, lets_in) in [
            ("Bearer 0123456789abcdef", true),
            ("Basic YWRtaW46MDEyMzQ1Njc4OWFiY2RlZg==", true),
            ("Basic OjAxMjM0NTY3ODlhYmNkZWY=", true),
            ("Basic MDEyMzQ1Njc4OWFiY2RlZg==", false),
            ("Basic YWRtaW46d3Jvbmc=", false),
            ("Basic \u{7f}", false),
            ("Bearer 0123456789abcde", false),
            ("Bearer ", false),
            ("", false),
        ] {
            let Ok(value) = said.parse::<hyper::header::HeaderValue>() else { continue };
            let headers = [(hyper::header::AUTHORIZATION, value)].into_iter().collect();
            assert_eq!(auth.lets_in(&headers), lets_in, "{said}");
        }
        assert!(!auth.lets_in(&hyper::HeaderMap::new()));
    }

    #[test]
    fn without_a_gate_a_page_of_the_web_cannot_lend_it_a_name() {
        for (host, known) in [
            ("localhost:9744", true),
            ("LOCALHOST", true),
            ("127.0.0.1:9744", true),
            ("[::1]:9744", true),
            ("evil.example:9744", false),
            ("localhost.evil.example", false),
            ("", false),
        ] {
            assert_eq!(ScrapeAuth::Loopback.knows_itself_as(&headers("host", host)), known, "{host}");
        }
        assert!(ScrapeAuth::Token(vec![]).knows_itself_as(&headers("host", "vsgpu.example")));
    }
}
