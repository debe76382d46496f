//! One HTTP/1.1 connection to one server, made again when it has ended. Synchronous for its callers: it brings the
//! runtime it needs.

use crate::fault::Fault;
use crate::sending::Sending;
use crate::trust::{Seen, Trust, client, shown};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode, header};
use rustls::pki_types::ServerName;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

/// Bytes of one answer: pages are smaller by far.
const MOST_BYTES: usize = 64 << 20;
/// In rustls's words: the certificate is not the pinned one.
const REFUSED: &str = "ApplicationVerificationFailure";
/// A connection that nobody used for so long is made anew.
const IDLE: Duration = Duration::from_secs(15);
/// Seconds until a connection stands.
const CONNECT: Duration = Duration::from_secs(15);

#[expect(clippy::disallowed_methods, reason = "how long a connection was idle")]
fn now() -> Instant {
    Instant::now()
}

/// The server, and the connection to it.
pub(crate) struct Https {
    /// There until it is dropped.
    runtime: Option<Runtime>,
    /// `vc.example.com`, and the port.
    host: String,
    port: u16,
    tls: Arc<rustls::ClientConfig>,
    pinned: Option<[u8; 32]>,
    seen: Seen,
    open: Option<SendRequest<Sending>>,
    /// When it was used last: what the server closed meanwhile is not seen before it is used again.
    used: Instant,
}

/// What came back.
pub(crate) struct Answer {
    pub status: StatusCode,
    /// `vmware_soap_session=..` as the server wrote it, to be sent back as it came.
    pub cookie: Option<String>,
    pub body: Vec<u8>,
}

impl Answer {
    /// As text.
    pub fn text(&self) -> Result<&str, Fault> {
        std::str::from_utf8(&self.body).map_err(|_| Fault::unheard("its answer is no text"))
    }
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
        let pinned = match trust {
            Some(Trust::Certificate(pin)) => Some(*pin),
            _ => None,
        };
        Ok(Self {
            runtime: Some(runtime),
            host,
            port,
            tls: Arc::new(tls),
            pinned,
            seen,
            open: None,
            used: now(),
        })
    }

    /// Ends the connection; the next call makes another one.
    pub fn close(&mut self) {
        self.open = None;
    }

    /// Where it is.
    pub fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Asks, on the open connection or on a new one; one that had ended meanwhile is replaced once, before anything
    /// was sent.
    pub fn ask(
        &mut self,
        method: &Method,
        path: &str,
        headers: &[(header::HeaderName, String)],
        body: Sending,
        within: Duration,
    ) -> Result<Answer, Fault> {
        let (status, cookie, body) =
            self.exchange(method, path, headers, body, within, Vec::new(), |all, piece| {
                all.extend_from_slice(piece);
                all.len() <= MOST_BYTES
            })?;
        Ok(Answer { status, cookie, body })
    }

    /// The same for an answer of any size, which is not kept: `take` gets it piece by piece, and says whether it goes on.
    #[expect(clippy::too_many_arguments, reason = "a request and what becomes of its answer")]
    pub fn exchange<T>(
        &mut self,
        method: &Method,
        path: &str,
        headers: &[(header::HeaderName, String)],
        body: Sending,
        within: Duration,
        mut kept: T,
        take: impl Fn(&mut T, &[u8]) -> bool,
    ) -> Result<(StatusCode, Option<String>, T), Fault> {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let host = if self.port == 443 { host } else { format!("{host}:{}", self.port) };
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request =
            request.body(body).map_err(|e| Fault::unheard(format!("the request cannot be written: {e}")))?;
        if now() - std::mem::replace(&mut self.used, now()) > IDLE {
            self.open = None;
        }
        let Some(runtime) = &self.runtime else { return Err(Fault::unheard("no runtime")) };
        let open = &mut self.open;
        let connect = Connect { host: &self.host, port: self.port, tls: &self.tls };
        let asked = async {
            let still_open = match open.take() {
                Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
                None => None,
            };
            let mut sender = match still_open {
                Some(sender) => sender,
                None => connect.run().await?,
            };
            let response = sender.send_request(request).await.map_err(|e| told(&e))?;
            let status = response.status();
            let cookie = response.headers().get_all(header::SET_COOKIE).iter().find_map(|value| {
                let pair = value.to_str().ok()?.split(';').next()?.trim();
                pair.starts_with("vmware_soap_session=").then(|| pair.to_string())
            });
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|e| format!("its answer is cut off: {}", told(&e)))?;
                if frame.data_ref().is_some_and(|piece| !take(&mut kept, piece)) {
                    return Err(format!("its answer is larger than {} MiB", MOST_BYTES >> 20));
                }
            }
            *open = Some(sender);
            Ok::<_, String>((status, cookie, kept))
        };
        let asked = async {
            tokio::time::timeout(within, asked)
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {} s", within.as_secs())))
        };
        runtime.block_on(asked).map_err(|why| Fault::unheard(self.explained(&why)))
    }

    /// What a person can do about it. Before the certificate is believed nothing was sent.
    fn explained(&self, why: &str) -> String {
        let at = format!("{}:{}", self.host, self.port);
        let by_the_ca = self.seen.get().is_none() && why.contains("certificate");
        if why.contains("InvalidContentType") {
            return format!(
                "{at} does not speak TLS: is this a port for http? vCenter and ESXi listen on 443"
            );
        }
        if why.contains("BadSignature") && self.seen.get().is_some() {
            return format!("{at}: {why}: its key may be shorter than 2048 bits, which nobody should trust");
        }
        if by_the_ca {
            let own = if why.contains("CaUsedAsEndEntity") {
                "it shows a certificate that signed itself, which no CA file can vouch for: use `trust = sha256:..`"
            } else {
                "its certificate is not one of the CA file's for this name"
            };
            return format!("{at}: {own} ({why})");
        }
        if !why.contains(REFUSED) {
            return format!("{at}: {why}");
        }
        let seen = self.seen.get().map(|seen| shown(&seen)).unwrap_or_default();
        let compare = "Compare it at the server's own console:\n  openssl s_client -connect localhost:443 </dev/null 2>/dev/null | \\\n    openssl x509 -noout -fingerprint -sha256";
        match self.pinned {
            None => format!(
                "{at} is not trusted yet; nothing was sent.\n{compare}\nIf it is the same, this line belongs into the file:\n  trust = {seen}"
            ),
            Some(pinned) => format!(
                "{at} shows another certificate than the one that is trusted; nothing was sent.\n  trusted  {}\n  shown    {seen}\nIf it was renewed: {}\nand then replace the line `trust`. Else somebody else answers.",
                shown(&pinned),
                compare.replacen("Compare", "compare", 1)
            ),
        }
    }
}

/// A name that nobody resolves is looked for on a thread of its own: nobody waits for that.
impl Drop for Https {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Connect<'a> {
    host: &'a str,
    port: u16,
    tls: &'a Arc<rustls::ClientConfig>,
}

impl Connect<'_> {
    async fn run(&self) -> Result<SendRequest<Sending>, String> {
        let late = |what: &str| format!("{what} within {} s", CONNECT.as_secs());
        let tcp = tokio::time::timeout(CONNECT, TcpStream::connect((self.host, self.port)))
            .await
            .map_err(|_| late("no connection"))?
            .map_err(|e| plainly(&e))?;
        let _ = tcp.set_nodelay(true);
        let name = ServerName::try_from(self.host.to_string()).map_err(|e| e.to_string())?;
        let tls = tokio::time::timeout(CONNECT, TlsConnector::from(self.tls.clone()).connect(name, tcp))
            .await
            .map_err(|_| late("it is connected, but there is no TLS"))?
            .map_err(|e| match e.kind() {
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => {
                    "it closed the connection during TLS: is a proxy or firewall between?".to_string()
                }
                _ => e.to_string(),
            })?;
        let (sender, connection) =
            handshake(hyper_util::rt::TokioIo::new(tls)).await.map_err(|e| told(&e))?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// Without the system's number.
fn plainly(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "nobody listens there (connection refused)".into(),
        _ => error.to_string().split(" (os error").next().unwrap_or_default().to_string(),
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
