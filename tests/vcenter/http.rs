//! HTTP/1.1 over TLS, one thread for each connection.

use super::images::Request;
use super::world::World;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::Digest as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A certificate for localhost, and the CA that signed it.
pub struct Certificate {
    pub chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    /// The CA, as a file has it.
    pub ca_pem: String,
}

impl Certificate {
    pub fn new() -> Self {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(vec![]).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let own = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        let own = own.signed_by(&key, &issuer).unwrap();
        Self { chain: vec![own.der().clone()], key: key.serialize_der(), ca_pem: ca_certificate.pem() }
    }

    /// As one writes it down.
    pub fn fingerprint(&self) -> String {
        let sum = sha2::Sha256::digest(&self.chain[0]);
        format!("sha256:{}", sum.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

impl Default for Certificate {
    fn default() -> Self {
        Self::new()
    }
}

/// A running one. Its world can be changed and looked at meanwhile.
pub struct Served {
    pub port: u16,
    pub world: Arc<Mutex<World>>,
}

/// Serves until the test's process ends.
pub fn serve(world: World, certificate: &Certificate) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let world = Arc::new(Mutex::new(world));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certificate.key.clone()));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificate.chain.clone(), key)
        .unwrap();
    let (config, of_threads) = (Arc::new(config), world.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (config, world) = (config.clone(), of_threads.clone());
            std::thread::spawn(move || connection(stream, config, &world));
        }
    });
    Served { port, world }
}

/// What is sent back.
pub(super) struct Reply {
    pub status: u16,
    pub headers: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn xml(status: u16, body: String) -> Self {
        Self { status, headers: String::new(), body: body.into_bytes() }
    }
}

fn connection(stream: TcpStream, config: Arc<rustls::ServerConfig>, world: &Mutex<World>) {
    let Ok(tls) = rustls::ServerConnection::new(config) else { return };
    let mut stream = BufReader::new(rustls::StreamOwned::new(tls, stream));
    loop {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            match stream.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if line == "\r\n" => break,
                Ok(_) => head += &line,
            }
        }
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_string())
            })
        };
        let length = header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let path = head.split(' ').nth(1).unwrap_or_default().to_string();
        let (cookie, range) = (header("cookie"), header("range"));
        let reply = match (path.starts_with("/folder/"), head.starts_with("PUT ")) {
            _ if path.starts_with("/api/") => {
                let body = String::from_utf8_lossy(&body).into_owned();
                let request = Request {
                    method: head.split(' ').next().unwrap_or_default(),
                    path: &path,
                    session: header("vmware-api-session-id"),
                    authorization: header("authorization"),
                    body: &body,
                };
                world.lock().unwrap().rest(&request)
            }
            (true, true) => world.lock().unwrap().put_file(&path, cookie.as_deref(), &body),
            (true, false) => world.lock().unwrap().file(&path, cookie.as_deref(), range.as_deref()),
            (false, _) => {
                let body = String::from_utf8_lossy(&body).into_owned();
                world.lock().unwrap().answer(&path, cookie.as_deref(), &body)
            }
        };
        // The connection is cut.
        if reply.status == 0 {
            return;
        }
        let text = format!(
            "HTTP/1.1 {} Simulated\r\nContent-Type: text/xml; charset=utf-8\r\n{}Content-Length: {}\r\n\r\n",
            reply.status,
            reply.headers,
            reply.body.len()
        );
        let stream = stream.get_mut();
        if stream.write_all(text.as_bytes()).and_then(|()| stream.write_all(&reply.body)).is_err()
            || stream.flush().is_err()
        {
            return;
        }
    }
}
