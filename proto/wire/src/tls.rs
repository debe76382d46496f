//! TLS 1.3 only, both sides authenticated, one CA. Agents let in the operator and whoever scrapes; what the
//! latter may do is little (`may_change`), and no node may come to another.

use crate::pki::{CONTROLLER, Identity};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use std::sync::Arc;

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// gRPC.
    Rpc,
    /// Metrics over HTTP.
    Metrics,
}

/// Whether the peer's certificate is the operator's. Its chain was checked in the handshake.
pub(crate) fn may_change(chain: Option<&[CertificateDer<'_>]>) -> bool {
    let leaf = chain.and_then(|chain| webpki::EndEntityCert::try_from(chain.first()?).ok());
    leaf.is_some_and(|leaf| is_operator(&leaf).unwrap_or(false))
}

fn is_operator(leaf: &webpki::EndEntityCert<'_>) -> Result<bool, Error> {
    let name = ServerName::try_from(CONTROLLER).map_err(|e| Error::General(e.to_string()))?;
    Ok(leaf.verify_is_valid_for_subject_name(&name).is_ok())
}

/// Server side of an agent.
pub(crate) fn server(identity: Identity, spoken: Spoken) -> Result<rustls::ServerConfig, Error> {
    let chain_checked =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(identity.roots), provider())
            .build()
            .map_err(|e| Error::General(e.to_string()))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Only { chain_checked }))
        .with_single_cert(identity.chain, identity.key)?;
    let protocol: &[u8] = if spoken == Spoken::Rpc { b"h2" } else { b"http/1.1" };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

/// Client side of the controller.
pub(crate) fn client(identity: Identity) -> Result<rustls::ClientConfig, Error> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(identity.roots)
        .with_client_auth_cert(identity.chain, identity.key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The chain is checked by rustls; on top of it the certificate must be the operator's or one of who scrapes
/// (`vsgpu cert issue NAME --role monitor`), not another node's.
#[derive(Debug)]
struct Only {
    chain_checked: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for Only {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain_checked.root_hint_subjects()
    }
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain_checked.verify_client_cert(leaf, between, now)?;
        let certificate = webpki::EndEntityCert::try_from(leaf).map_err(|e| Error::General(e.to_string()))?;
        let monitor = certificate.valid_dns_names().any(|name| name.ends_with(".monitor.vsgpu"));
        if !monitor && !is_operator(&certificate)? {
            return Err(Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure));
        }
        Ok(verified)
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain_checked.verify_tls12_signature(message, cert, dss)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain_checked.verify_tls13_signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain_checked.supported_verify_schemes()
    }
}
