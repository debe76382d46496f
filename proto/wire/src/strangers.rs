//! A certificate that is not believed, kept with all that it shows of who is there: so that it can be told in words.

use crate::life::{Life, date};
use crate::pki::CA_NAME;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use std::sync::{Arc, Mutex, PoisonError};
use vsgpu_core::text::piece;

/// A certificate that is not believed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{why}")]
pub(crate) struct BadCertificate {
    pub(crate) why: CertificateError,
    pub(crate) shown: Shown,
    /// What this machine's clock said, seconds since 1970.
    pub(crate) now: u64,
}

/// What a certificate says of itself. Nobody vouches for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    subject: String,
    issuer: String,
    names: Vec<String>,
    fingerprint: String,
    life: Option<Life>,
}

impl Shown {
    fn of(leaf: &[u8]) -> Self {
        use sha2::Digest as _;
        let digest = sha2::Sha256::digest(leaf);
        let fingerprint =
            digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
        let Ok((_, read)) = x509_parser::parse_x509_certificate(leaf) else {
            return Self { fingerprint, ..Self::default() };
        };
        let names = read.subject_alternative_name().ok().flatten();
        let names =
            names.into_iter().flat_map(|all| &all.value.general_names).filter_map(|name| match name {
                x509_parser::extensions::GeneralName::DNSName(name) => Some(piece(name, 100)),
                _ => None,
            });
        Self {
            subject: piece(&read.subject().to_string(), 100),
            issuer: piece(&read.issuer().to_string(), 100),
            names: names.take(3).collect(),
            fingerprint,
            life: crate::pki::life_of(leaf),
        }
    }

    /// Whether a CA of vsgpu issued it, as it says itself.
    pub(crate) fn is_ours(&self) -> bool {
        self.issuer == format!("CN={CA_NAME}")
    }

    /// `for CN=.., issued by CN=.., SHA-256 ab:cd:..`.
    pub(crate) fn said(&self) -> String {
        let Self { subject, issuer, fingerprint, .. } = self;
        format!("for {subject}, issued by {issuer}, SHA-256 {fingerprint}..")
    }

    /// `esx-02.host.vsgpu`.
    pub(crate) fn names(&self) -> String {
        if self.names.is_empty() { self.subject.clone() } else { self.names.join(", ") }
    }

    pub(crate) fn begins(&self) -> String {
        self.life.map_or_else(|| "?".into(), |life| date(life.begins))
    }

    pub(crate) fn ends(&self) -> String {
        self.life.map_or_else(|| "?".into(), |life| date(life.ends))
    }
}

/// Judges as rustls does, and answers the peer as rustls does; what is not believed is kept for people.
#[derive(Debug)]
pub(crate) struct Telling {
    judge: Arc<WebPkiServerVerifier>,
    refused: Mutex<Option<BadCertificate>>,
}

impl Telling {
    /// For one connection.
    pub(crate) fn of(judge: Arc<WebPkiServerVerifier>) -> Self {
        Self { judge, refused: Mutex::default() }
    }

    /// What was refused, if anything was.
    pub(crate) fn refused(&self) -> Option<BadCertificate> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ServerCertVerifier for Telling {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge.verify_server_cert(leaf, between, name, ocsp, now).inspect_err(|error| {
            if let Error::InvalidCertificate(why) = error {
                let bad = BadCertificate { why: why.clone(), shown: Shown::of(leaf), now: now.as_secs() };
                *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(bad);
            }
        })
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.verify_tls12_signature(message, cert, dss)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.verify_tls13_signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}
