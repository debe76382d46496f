//! How a controller reaches an agent: TCP and mutual TLS, or, for simulated networks, whatever makes a stream.

use crate::client::Target;
use crate::{pki, tls};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream that is being made.
pub type Dialing = Pin<Box<dyn Future<Output = std::io::Result<Box<dyn Stream>>> + Send>>;

/// Makes connections.
#[derive(Clone)]
pub struct Operator(Arc<dyn Fn(&Target) -> Dialing + Send + Sync>);

impl Operator {
    /// The operator's certificates (`ca.pem`, `controller.pem`, `controller.key`), loaded once for the whole fleet: TCP, and on
    /// it TLS in which both sides prove who they are.
    ///
    /// # Errors
    /// Where a file is missing or wrong.
    pub fn load(folder: &Path) -> Result<Self, pki::PkiError> {
        Self::with(folder, "controller")
    }

    /// The same for who only reads metrics: also with a certificate of the role `monitor` (`ca.pem`, `node.pem`, `node.key`).
    ///
    /// # Errors
    /// As `load`.
    pub fn reading(folder: &Path) -> Result<Self, pki::PkiError> {
        Self::with(folder, pki::own_file(folder))
    }

    fn with(folder: &Path, file: &str) -> Result<Self, pki::PkiError> {
        let identity = pki::load(folder, file)?;
        let config = tls::client(identity)
            .map_err(|e| pki::PkiError::Content { path: folder.join(file).with_extension("pem"), why: e.to_string() })?;
        let config = Arc::new(config);
        Ok(Self::by(move |target| {
            let (config, address) = (config.clone(), target.address.clone());
            let name = rustls::pki_types::ServerName::try_from(pki::node_name(&target.node, target.role));
            Box::pin(async move {
                let name = name.map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidInput, "no name for a certificate"))?;
                let socket = tokio::net::TcpStream::connect(&address).await?;
                socket.set_nodelay(true)?;
                let stream = tokio_rustls::TlsConnector::from(config).connect(name, socket).await?;
                Ok(Box::new(stream) as Box<dyn Stream>)
            })
        }))
    }

    /// Connections made in another way, without TLS; for simulated networks.
    pub fn by(dial: impl Fn(&Target) -> Dialing + Send + Sync + 'static) -> Self {
        Self(Arc::new(dial))
    }

    pub(crate) fn dial(&self, target: &Target) -> Dialing {
        (self.0)(target)
    }
}
