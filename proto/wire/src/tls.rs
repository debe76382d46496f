//! TLS 1.3 only, both sides authenticated, one CA. Agents let in the operator and whoever scrapes; what the
//! latter may do is little (`may_change`), and no node may come to another. A GPU server's gateway lets in
//! guests as well: what each may ask is decided behind it, by its role.

use crate::pki::{CONTROLLER, Identity};
use rustls::client::WebPkiServerVerifier;
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
    /// gRPC, and connections to engines.
    Pool,
}

/// ALPN of gRPC.
pub(crate) const RPC: &[u8] = b"h2";
/// ALPN of a connection to an engine.
pub(crate) const TUNNEL: &[u8] = b"vsgpu-gpu/1";

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
        .with_client_cert_verifier(Arc::new(Only { chain_checked, guests: spoken == Spoken::Pool }))
        .with_single_cert(identity.chain, identity.key)?;
    config.alpn_protocols = match spoken {
        Spoken::Rpc => vec![RPC.to_vec()],
        Spoken::Metrics => vec![b"http/1.1".to_vec()],
        Spoken::Pool => vec![RPC.to_vec(), TUNNEL.to_vec()],
    };
    Ok(config)
}

/// Server side of many agents on one address: the name that the client expects says which it gets. Whoever expects none of
/// them gets no certificate. All are of one CA.
pub(crate) fn server_of_many(identities: Vec<(String, Identity)>) -> Result<rustls::ServerConfig, Error> {
    let mut by_name = rustls::server::ResolvesServerCertUsingSni::new();
    let mut roots = None;
    for (name, identity) in identities {
        let of_first: &rustls::RootCertStore = roots.get_or_insert_with(|| identity.roots.clone());
        if of_first.roots != identity.roots.roots {
            return Err(Error::General(format!("{name}: its ca.pem is another CA than the others'")));
        }
        let key = rustls::crypto::ring::sign::any_supported_type(&identity.key)?;
        by_name.add(&name, rustls::sign::CertifiedKey::new(identity.chain, key))?;
    }
    let roots = roots.ok_or_else(|| Error::General("there is no host to serve".into()))?;
    let chain_checked =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|e| Error::General(e.to_string()))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Only { chain_checked, guests: false }))
        .with_cert_resolver(Arc::new(by_name));
    config.alpn_protocols = vec![RPC.to_vec()];
    Ok(config)
}

/// Client side of the controller, or of a guest that asks a gateway; which protocol is spoken. With it, who judges the
/// other side's certificate.
pub(crate) fn client(
    identity: Identity,
    spoken: &[u8],
) -> Result<(rustls::ClientConfig, Arc<WebPkiServerVerifier>), Error> {
    let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(identity.roots), provider()).build();
    let judge = judge.map_err(|e| Error::General(e.to_string()))?;
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_webpki_verifier(judge.clone())
        .with_client_auth_cert(identity.chain, identity.key)?;
    config.alpn_protocols = vec![spoken.to_vec()];
    Ok((config, judge))
}

/// The chain is checked by rustls; on top of it the certificate must be the operator's or one of who scrapes
/// (`vsgpu cert issue NAME --role monitor`), not another node's.
#[derive(Debug)]
struct Only {
    chain_checked: Arc<dyn ClientCertVerifier>,
    /// Guests are let in as well.
    guests: bool,
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
        let reader = certificate
            .valid_dns_names()
            .any(|name| name.ends_with(".monitor.vsgpu") || self.guests && name.ends_with(".guest.vsgpu"));
        if !reader && !is_operator(&certificate)? {
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
