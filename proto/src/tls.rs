//! TLS 1.3 only, both sides authenticated, one CA. Agents accept only the operator's certificate.

use crate::pki::{CONTROLLER, Identity};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use std::sync::Arc;

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Server side of an agent.
pub(crate) fn server(identity: Identity) -> Result<rustls::ServerConfig, Error> {
    let chain_checked = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(identity.roots), provider())
        .build()
        .map_err(|e| Error::General(e.to_string()))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(OnlyTheController(chain_checked)))
        .with_single_cert(identity.chain, identity.key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
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

/// The chain is checked by rustls; on top of it the certificate must be the operator's, not another node's.
#[derive(Debug)]
struct OnlyTheController(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for OnlyTheController {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(leaf, between, now)?;
        let name = ServerName::try_from(CONTROLLER).map_err(|e| Error::General(e.to_string()))?;
        let certificate = webpki::EndEntityCert::try_from(leaf).map_err(|e| Error::General(e.to_string()))?;
        certificate
            .verify_is_valid_for_subject_name(&name)
            .map_err(|_| Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure))?;
        Ok(verified)
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
