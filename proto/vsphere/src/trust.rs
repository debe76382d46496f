//! Whom the client believes to be the vCenter: one certificate, by its SHA-256, or whoever a CA file vouches for under
//! the address's name. There is no third way.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::Digest as _;
use std::sync::{Arc, Mutex};

/// What is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The certificate with this SHA-256, whatever its names and its issuer are.
    Certificate([u8; 32]),
    /// PEM text of the CA certificates; the certificate must be for the address's name.
    Authority(Vec<u8>),
}

impl Trust {
    /// `sha256:4c3d..`, with or without colons between the bytes; as openssl prints it, too.
    ///
    /// # Errors
    /// A sentence.
    pub fn fingerprint(text: &str) -> Result<Self, String> {
        let wrong = || {
            "`sha256:` and 64 hexadecimal digits are expected, colons between them may be there".to_string()
        };
        let lower = text.to_lowercase();
        let digits = lower.strip_prefix("sha256 fingerprint=").or_else(|| lower.strip_prefix("sha256:"));
        let digits = digits.unwrap_or(&lower).replace(':', "");
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self::Certificate(bytes))
    }
}

/// A certificate's SHA-256 as it is written down.
pub(crate) fn shown(sha256: &[u8]) -> String {
    format!("sha256:{}", sha256.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// The client side, and where the certificate that was shown is left: it is what a person compares on first contact.
pub(crate) fn client(trust: Option<&Trust>) -> Result<(ClientConfig, Seen), String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let seen = Seen::default();
    let config = match trust {
        Some(Trust::Authority(pem)) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|e| format!("the CA file cannot be read: {e}"))?;
                roots.add(certificate).map_err(|e| format!("the CA file: {e}"))?;
            }
            if roots.is_empty() {
                return Err("the CA file has no certificate in it".into());
            }
            builder.with_root_certificates(roots)
        }
        pinned => {
            let pin = match pinned {
                Some(Trust::Certificate(pin)) => Some(*pin),
                _ => None,
            };
            let only = Only { pin, provider, seen: seen.clone() };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(only))
        }
    };
    Ok((config.with_no_client_auth(), seen))
}

/// SHA-256 of the certificate that a server showed last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(Arc<Mutex<Option<[u8; 32]>>>);

impl Seen {
    pub fn get(&self) -> Option<[u8; 32]> {
        self.0.lock().ok().and_then(|seen| *seen)
    }
}

/// Believes one certificate and no other; without a pin, none: then the handshake ends when it was seen.
#[derive(Debug)]
struct Only {
    pin: Option<[u8; 32]>,
    provider: Arc<CryptoProvider>,
    seen: Seen,
}

impl ServerCertVerifier for Only {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown: [u8; 32] = sha2::Sha256::digest(end_entity).into();
        if let Ok(mut seen) = self.seen.0.lock() {
            *seen = Some(shown);
        }
        match self.pin {
            Some(pin) if pin == shown => Ok(ServerCertVerified::assertion()),
            _ => Err(Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure)),
        }
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_sixty_four_digits() {
        let digits = "ab".repeat(32);
        assert_eq!(Trust::fingerprint(&format!("sha256:{digits}")), Ok(Trust::Certificate([0xab; 32])));
        let spaced = vec!["AB"; 32].join(":");
        assert_eq!(Trust::fingerprint(&format!("sha256:{spaced}")), Ok(Trust::Certificate([0xab; 32])));
        let of_openssl = format!("SHA256 Fingerprint={spaced}");
        assert_eq!(Trust::fingerprint(&of_openssl), Ok(Trust::Certificate([0xab; 32])));
        for wrong in ["", "sha256:", "sha1:abcd", "sha256:zz"] {
            assert!(Trust::fingerprint(wrong).is_err(), "{wrong}");
        }
        assert_eq!(shown(&[0xab; 32]), format!("sha256:{digits}"));
        assert!(client(Some(&Trust::Authority(b"nothing".to_vec()))).is_err());
    }
}
