//! How a caller reaches an agent or a gateway: TCP and mutual TLS, or, for simulated networks, whatever makes a
//! stream.

use crate::client::target::Target;
use crate::life::Life;
use crate::strangers::Telling;
use crate::{pki, tls};
use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream that is being made.
pub type Dialing = Pin<Box<dyn Future<Output = std::io::Result<Box<dyn Stream>>> + Send>>;

/// Makes connections.
#[derive(Clone)]
pub struct Connector {
    dial: Arc<dyn Fn(&Target) -> Dialing + Send + Sync>,
    /// Of the certificates that were shown, by node and role.
    lives: Lives,
}

type Lives = Arc<Mutex<BTreeMap<(String, &'static str), Life>>>;

impl Connector {
    /// The operator's certificates (`ca.pem`, `controller.pem`, `controller.key`), loaded once for the whole
    /// fleet: TCP, and on it TLS in which both sides prove who they are.
    ///
    /// # Errors
    /// Where a file is missing or wrong.
    pub fn load(folder: &Path) -> Result<Self, pki::PkiError> {
        Self::with(folder, "controller", tls::RPC)
    }

    /// The same for who only reads metrics: also with a certificate of the role `monitor` (`ca.pem`,
    /// `node.pem`, `node.key`).
    ///
    /// # Errors
    /// As `load`.
    pub fn reading(folder: &Path) -> Result<Self, pki::PkiError> {
        Self::with(folder, pki::own_file(folder), tls::RPC)
    }

    /// A guest's own certificate (`ca.pem`, `node.pem`, `node.key`), for what it asks a GPU server's gateway.
    ///
    /// # Errors
    /// As `load`.
    pub fn of_guest(folder: &Path) -> Result<Self, pki::PkiError> {
        Self::with(folder, "node", tls::RPC)
    }

    /// The same for connections to engines.
    ///
    /// # Errors
    /// As `load`.
    pub fn to_engines(folder: &Path) -> Result<Self, pki::PkiError> {
        Self::with(folder, "node", tls::TUNNEL)
    }

    fn with(folder: &Path, file: &str, spoken: &[u8]) -> Result<Self, pki::PkiError> {
        let identity = pki::load(folder, file)?;
        let (config, judge) = tls::client(identity, spoken).map_err(|e| pki::PkiError::Content {
            path: folder.join(file).with_extension("pem"),
            why: e.to_string(),
        })?;
        let lives = Lives::default();
        let shown = lives.clone();
        let dial = Arc::new(move |target: &Target| {
            let (address, shown) = (target.address.clone(), shown.clone());
            // Not less strict than rustls by itself: the same judge, that keeps what it refused on this connection.
            let (mut config, telling) = (config.clone(), Arc::new(Telling::of(judge.clone())));
            config.dangerous().set_certificate_verifier(telling.clone());
            let of = (target.node.clone(), target.role);
            let name = rustls::pki_types::ServerName::try_from(pki::node_name(&target.node, target.role));
            Box::pin(async move {
                let name = name.map_err(|_| {
                    std::io::Error::new(std::io::ErrorKind::InvalidInput, "no name for a certificate")
                })?;
                let socket = crate::client::dial::connect(&address).await?;
                socket.set_nodelay(true)?;
                let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await;
                let stream = stream.map_err(|why| match telling.refused() {
                    Some(bad) => std::io::Error::new(why.kind(), bad),
                    None => why,
                })?;
                let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                if let Some(life) = certificate.and_then(|leaf| pki::life_of(leaf)) {
                    shown.lock().unwrap_or_else(PoisonError::into_inner).insert(of, life);
                }
                Ok(Box::new(stream) as Box<dyn Stream>)
            }) as Dialing
        });
        Ok(Self { dial, lives })
    }

    /// How long the certificate lives that a node showed when it was last connected to.
    pub fn life(&self, node: &str, role: &'static str) -> Option<Life> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner).get(&(node.to_string(), role)).copied()
    }

    /// Connections made in another way, without TLS; for simulated networks.
    pub fn by(dial: impl Fn(&Target) -> Dialing + Send + Sync + 'static) -> Self {
        Self { dial: Arc::new(dial), lives: Lives::default() }
    }

    /// A connection as it is, before anything is said on it.
    pub fn dial(&self, target: &Target) -> Dialing {
        (self.dial)(target)
    }
}
