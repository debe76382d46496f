//! One private CA and the certificates of the nodes, made without openssl.
//!
//! A node's identity is the DNS name in its certificate: `<node>.host.vsgpu`, `<node>.guest.vsgpu`, and
//! `controller.vsgpu` for the operator. The controller checks the first two, the agents accept only the last:
//! one host's key opens no other host.

use crate::life::Life;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// DNS name of the operator's certificate.
pub const CONTROLLER: &str = "controller.vsgpu";

/// The name that every CA of vsgpu has.
pub(crate) const CA_NAME: &str = "vsgpu CA";

/// DNS name of a node's certificate.
pub fn node_name(node: &str, role: &str) -> String {
    format!("{}.{role}.vsgpu", node.to_ascii_lowercase())
}

/// What can go wrong with certificates on disk.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file that cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A CA is there already; a second one would lock every node out.
    #[error("{0}: there is a CA already; it was left as it is")]
    Exists(PathBuf),
    /// Not a certificate or key.
    #[error("{path}: {why}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

fn read(path: &Path) -> Result<String, PkiError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "certificates are the operator's files; the error names the path"
    )]
    std::fs::read_to_string(path).map_err(|source| PkiError::File { path: path.into(), source })
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let failed = |source| PkiError::File { path: path.into(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "keys are created with their final mode, never readable in between"
    )]
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

fn params(name: &str, days: u32, now: std::time::SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    // A day of tolerance backwards: hosts whose clock is behind are common before NTP works.
    params.not_before = time::OffsetDateTime::from(now) - time::Duration::days(1);
    params.not_after = time::OffsetDateTime::from(now) + time::Duration::days(days.into());
    params
}

/// Makes `ca.pem`, `ca.key` and the operator's own certificate in `folder`.
///
/// # Errors
/// Where a CA is there already, or a file cannot be written.
pub fn init(folder: &Path, now: std::time::SystemTime) -> Result<(), PkiError> {
    if folder.join("ca.pem").exists() || folder.join("ca.key").exists() {
        return Err(PkiError::Exists(folder.join("ca.pem")));
    }
    let wrong = |e: rcgen::Error| PkiError::Content { path: folder.into(), why: e.to_string() };
    let mut ca = params(CA_NAME, 3650, now);
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(wrong)?;
    let certificate = ca.self_signed(&key).map_err(wrong)?;
    write(&folder.join("ca.key"), &key.serialize_pem(), 0o600)?;
    write(&folder.join("ca.pem"), &certificate.pem(), 0o644)?;
    issue(folder, folder, CONTROLLER, "controller", 3650, now)
}

/// Issues `<file>.pem` and `<file>.key` for a DNS name into `into`.
///
/// # Errors
/// Where the CA is missing or a file exists already.
pub fn issue(
    ca_folder: &Path,
    into: &Path,
    dns: &str,
    file: &str,
    days: u32,
    now: std::time::SystemTime,
) -> Result<(), PkiError> {
    let ca_key = read(&ca_folder.join("ca.key"))?;
    let of_ca = |e: rcgen::Error| PkiError::Content { path: ca_folder.join("ca.key"), why: e.to_string() };
    let mut ca = params("vsgpu CA", 3650, now);
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // The issuer is known by name and key; both are the same for every certificate of this CA.
    let issuer = Issuer::new(ca, KeyPair::from_pem(&ca_key).map_err(of_ca)?);
    let key = KeyPair::generate().map_err(of_ca)?;
    let mut leaf = params(dns, days, now);
    leaf.subject_alt_names = vec![rcgen::SanType::DnsName(dns.try_into().map_err(of_ca)?)];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    leaf.use_authority_key_identifier_extension = true;
    let certificate = leaf.signed_by(&key, &issuer).map_err(of_ca)?;
    write(&into.join(format!("{file}.key")), &key.serialize_pem(), 0o600)?;
    write(&into.join(format!("{file}.pem")), &certificate.pem(), 0o644)
}

/// Where a node's certificates are, in the CA's folder.
pub fn node_folder(folder: &Path, node: &str, role: &str) -> PathBuf {
    folder.join(format!("{node}.{role}"))
}

/// Issues a node's folder (`ca.pem`, `node.pem`, `node.key`), ready to be copied to it, and says where it is.
///
/// # Errors
/// As `issue`.
pub fn issue_node(
    folder: &Path,
    node: &str,
    role: &str,
    days: u32,
    now: std::time::SystemTime,
) -> Result<PathBuf, PkiError> {
    let ca = read(&folder.join("ca.pem"))?;
    let into = node_folder(folder, node, role);
    issue(folder, &into, &node_name(node, role), "node", days, now)?;
    write(&into.join("ca.pem"), &ca, 0o644)?;
    Ok(into)
}

/// Where the certificate lies that a renewal replaced, beside the new one. It is good until its own end.
fn replaced(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".old");
    name.into()
}

/// Puts a new file or folder in the place of one that is there, which is kept beside it.
#[expect(clippy::disallowed_methods, reason = "the CA's folder is the operator's own")]
fn exchange(new: &Path, place: &Path) -> Result<(), PkiError> {
    let (old, failed) = (replaced(place), |source| PkiError::File { path: place.into(), source });
    let gone = if old.is_dir() { std::fs::remove_dir_all(&old) } else { std::fs::remove_file(&old) };
    match gone {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => return Err(failed(why)),
        _ => {}
    }
    std::fs::rename(place, &old).map_err(failed)?;
    std::fs::rename(new, place).map_err(|source| {
        let _ = std::fs::rename(&old, place);
        failed(source)
    })
}

/// Issues a node's folder anew, with a new key; the one before stays beside it as `NODE.ROLE.old`. Says where
/// the new one is.
///
/// # Errors
/// As `issue_node`; then the old one is where it was.
pub fn renew_node(
    folder: &Path,
    node: &str,
    role: &str,
    days: u32,
    now: std::time::SystemTime,
) -> Result<PathBuf, PkiError> {
    let place = node_folder(folder, node, role);
    let new = folder.join(format!(".{node}.{role}.new"));
    let _ = std::fs::remove_dir_all(&new);
    let made = (|| {
        let ca = read(&folder.join("ca.pem"))?;
        issue(folder, &new, &node_name(node, role), "node", days, now)?;
        write(&new.join("ca.pem"), &ca, 0o644)?;
        exchange(&new, &place)
    })();
    if made.is_err() {
        let _ = std::fs::remove_dir_all(&new);
    }
    made.map(|()| place)
}

/// Issues the operator's own certificate anew.
///
/// # Errors
/// As `issue`; then the old one is where it was.
pub fn renew_operator(folder: &Path, days: u32, now: std::time::SystemTime) -> Result<(), PkiError> {
    let new = folder.join(".controller.new");
    let _ = std::fs::remove_dir_all(&new);
    let made = issue(folder, &new, CONTROLLER, "controller", days, now)
        .and_then(|()| exchange(&new.join("controller.key"), &folder.join("controller.key")))
        .and_then(|()| {
            exchange(&new.join("controller.pem"), &folder.join("controller.pem")).inspect_err(|_| {
                let key = folder.join("controller.key");
                let _ = std::fs::rename(replaced(&key), key);
            })
        });
    let _ = std::fs::remove_dir_all(&new);
    made
}

/// CA, certificate chain and key as rustls wants them.
pub(crate) struct Identity {
    pub roots: rustls::RootCertStore,
    pub chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    pub key: rustls::pki_types::PrivateKeyDer<'static>,
}

impl Identity {
    /// How long its certificate lives.
    pub fn life(&self) -> Option<Life> {
        life_of(self.chain.first()?)
    }
}

/// How long a certificate lives.
pub(crate) fn life_of(certificate: &[u8]) -> Option<Life> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let (from, to) =
        (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    Some(Life { begins: u64::try_from(from.max(0)).ok()?, ends: u64::try_from(to.max(0)).ok()? })
}

/// How long the certificate in a file lives.
///
/// # Errors
/// Where it cannot be read.
pub fn life(path: &Path) -> Result<Life, PkiError> {
    use rustls::pki_types::pem::PemObject as _;
    let text = read(path)?;
    let first =
        rustls::pki_types::CertificateDer::from_pem_slice(text.as_bytes()).ok().and_then(|der| life_of(&der));
    first.ok_or_else(|| PkiError::Content { path: path.into(), why: "holds no certificate".into() })
}

/// Loads `ca.pem` and `<file>.pem`/`.key` from a folder.
pub(crate) fn load(folder: &Path, file: &str) -> Result<Identity, PkiError> {
    use rustls::pki_types::pem::PemObject as _;
    let certificates = |path: PathBuf| -> Result<Vec<rustls::pki_types::CertificateDer<'static>>, PkiError> {
        let text = read(&path)?;
        let parsed: Result<Vec<_>, _> =
            rustls::pki_types::CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        match parsed {
            Ok(list) if !list.is_empty() => Ok(list),
            Ok(_) => Err(PkiError::Content { path, why: "holds no certificate".into() }),
            Err(e) => Err(PkiError::Content { path, why: e.to_string() }),
        }
    };
    let mut roots = rustls::RootCertStore::empty();
    for root in certificates(folder.join("ca.pem"))? {
        roots.add(root).map_err(|e| PkiError::Content { path: folder.join("ca.pem"), why: e.to_string() })?;
    }
    let path = folder.join(format!("{file}.key"));
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(read(&path)?.as_bytes())
        .map_err(|e| PkiError::Content { path, why: format!("holds no private key ({e})") })?;
    Ok(Identity { roots, chain: certificates(folder.join(format!("{file}.pem")))?, key })
}

/// The name of the files of a folder's own certificate: `controller` in the operator's folder, `node` in any
/// other.
pub fn own_file(folder: &Path) -> &'static str {
    if folder.join("node.pem").exists() && !folder.join("controller.pem").exists() {
        "node"
    } else {
        "controller"
    }
}

/// How long a folder's own certificate lives; `None` where that cannot be read.
pub fn own_life(folder: &Path) -> Option<Life> {
    load(folder, own_file(folder)).ok()?.life()
}

/// The node's name and role, as its own certificate states them.
pub(crate) fn own_name(identity: &Identity) -> Option<(String, String)> {
    named(&identity.chain)
}

/// The node's name and role in a certificate that was signed by our CA: its DNS name stands in it as plain
/// ASCII with a `.vsgpu` ending.
pub(crate) fn named(chain: &[rustls::pki_types::CertificateDer<'_>]) -> Option<(String, String)> {
    let certificate = webpki::EndEntityCert::try_from(chain.first()?).ok()?;
    certificate.valid_dns_names().find_map(|name| {
        let (node, role) = name.strip_suffix(".vsgpu")?.rsplit_once('.')?;
        Some((node.to_string(), role.to_string()))
    })
}
