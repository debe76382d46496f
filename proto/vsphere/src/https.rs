//! One HTTP/1.1 connection to one server, made again when it has ended. Synchronous for its callers: it brings the
//! runtime it needs.

use crate::fault::Fault;
use crate::trust::{Seen, Trust, client, shown};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode, header};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

/// Bytes of one answer: pages are smaller by far.
const MOST_BYTES: usize = 64 << 20;
/// In rustls's words: the certificate is not the pinned one.
const REFUSED: &str = "ApplicationVerificationFailure";
/// Seconds until a connection stands.
const CONNECT: Duration = Duration::from_secs(15);

/// The server, and the connection to it.
pub(crate) struct Https {
    runtime: Runtime,
    /// `vc.example.com`, and the port.
    host: String,
    port: u16,
    tls: Arc<rustls::ClientConfig>,
    trusted: bool,
    seen: Seen,
    open: Option<SendRequest<Full<Bytes>>>,
}

/// What came back.
pub(crate) struct Answer {
    pub status: StatusCode,
    /// `vmware_soap_session=..` as the server wrote it, to be sent back as it came.
    pub cookie: Option<String>,
    pub body: String,
}

impl Https {
    /// `address`: a name, or with a port behind a colon; `[..]` around an IPv6 address.
    pub fn new(address: &str, trust: Option<&Trust>) -> Result<Self, String> {
        let (host, port) = split(address)?;
        let (tls, seen) = client(trust)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| format!("no runtime: {e}"))?;
        Ok(Self { runtime, host, port, tls: Arc::new(tls), trusted: trust.is_some(), seen, open: None })
    }

    /// Where it is, as it was named.
    pub fn name(&self) -> &str {
        &self.host
    }

    /// Asks, on the open connection or on a new one; one that had ended meanwhile is replaced once, before anything
    /// was sent.
    pub fn ask(
        &mut self,
        method: &Method,
        path: &str,
        headers: &[(header::HeaderName, String)],
        body: String,
        within: Duration,
    ) -> Result<Answer, Fault> {
        let host = match self.port {
            443 => self.host.clone(),
            port => format!("{}:{port}", self.host),
        };
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| Fault::unheard(format!("the request cannot be written: {e}")))?;
        let (runtime, open) = (&self.runtime, &mut self.open);
        let connect = Connect { host: &self.host, port: self.port, tls: &self.tls };
        let asked = async {
            let still_open = match open.take() {
                Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
                None => None,
            };
            let mut sender = match still_open {
                Some(sender) => sender,
                None => tokio::time::timeout(CONNECT, connect.run())
                    .await
                    .map_err(|_| format!("no connection within {} s", CONNECT.as_secs()))??,
            };
            let response = sender.send_request(request).await.map_err(|e| told(&e))?;
            let status = response.status();
            let cookie = response.headers().get_all(header::SET_COOKIE).iter().find_map(|value| {
                let pair = value.to_str().ok()?.split(';').next()?.trim();
                pair.starts_with("vmware_soap_session=").then(|| pair.to_string())
            });
            let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
            let body =
                body.map_err(|e| format!("its answer is cut off, or larger than 64 MiB: {e}"))?.to_bytes();
            let body = String::from_utf8(body.to_vec()).map_err(|_| "its answer is no text".to_string())?;
            *open = Some(sender);
            Ok::<_, String>(Answer { status, cookie, body })
        };
        let asked = async {
            tokio::time::timeout(within, asked)
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {} s", within.as_secs())))
        };
        runtime.block_on(asked).map_err(|why| Fault::unheard(self.explained(&why)))
    }

    /// A refused certificate in words that help.
    fn explained(&self, why: &str) -> String {
        let at = format!("{}:{}", self.host, self.port);
        // The certificate was refused by us; whatever else fails in a handshake keeps its words.
        if why.contains("BadSignature") && self.seen.get().is_some() {
            return format!("{at}: {why}: its key may be shorter than 2048 bits, which nobody should trust");
        }
        let by_the_ca = self.seen.get().is_none() && why.contains("certificate");
        if !by_the_ca && !why.contains(REFUSED) {
            return format!("{at}: {why}");
        }
        match (self.seen.get(), self.trusted) {
            (Some(seen), false) => format!(
                "{at} shows the certificate {}: compare it at the server, then write it down as `trust`",
                shown(&seen)
            ),
            (Some(seen), true) => format!(
                "{at} shows the certificate {}, which is not the one that is trusted: it was renewed, or somebody else answers",
                shown(&seen)
            ),
            (None, _) => format!(
                "{at}: its certificate is not one of the CA file's for this name ({why}); a self-signed one is trusted by `trust = sha256:..`"
            ),
        }
    }
}

struct Connect<'a> {
    host: &'a str,
    port: u16,
    tls: &'a Arc<rustls::ClientConfig>,
}

impl Connect<'_> {
    async fn run(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let tcp = TcpStream::connect((self.host, self.port)).await.map_err(|e| e.to_string())?;
        let _ = tcp.set_nodelay(true);
        let name = ServerName::try_from(self.host.to_string()).map_err(|e| e.to_string())?;
        let tls = TlsConnector::from(self.tls.clone()).connect(name, tcp).await.map_err(|e| e.to_string())?;
        let (sender, connection) =
            handshake(hyper_util::rt::TokioIo::new(tls)).await.map_err(|e| told(&e))?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// hyper's errors say the cause one level down.
fn told(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// `vc.example.com`, `vc.example.com:8443`, `[fe80::1]:443`.
fn split(address: &str) -> Result<(String, u16), String> {
    let wrong = || format!("`{address}` is no address such as vc.example.com or vc.example.com:443");
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(wrong)?)),
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if host.is_empty() || !host.chars().all(plain) || host.len() > 253 {
        return Err(wrong());
    }
    let port = port.map_or(Ok(443), |port| port.parse().map_err(|_| wrong()))?;
    Ok((host.to_string(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_name_and_perhaps_a_port() {
        assert_eq!(split("vc.example.com"), Ok(("vc.example.com".into(), 443)));
        assert_eq!(split("10.0.0.1:8443"), Ok(("10.0.0.1".into(), 8443)));
        assert_eq!(split("[fe80::1]:444"), Ok(("fe80::1".into(), 444)));
        for wrong in ["", "https://vc", "vc:x", "vc/sdk", "[fe80::1", "a b"] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }
}
