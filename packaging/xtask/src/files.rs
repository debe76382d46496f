//! What a package puts on a machine: files with their modes, read from the tree or just built.

use std::path::Path;

/// One file of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// From the root, without a leading slash.
    pub path: String,
    /// Permissions; the sticky bit marks what ESXi keeps over a reboot (facts: esxi A4).
    pub mode: u32,
    pub bytes: Vec<u8>,
    /// The operator's own: an upgrade keeps it.
    pub config: bool,
}

impl Entry {
    /// A file of the package's own.
    pub fn new(path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), mode, bytes: bytes.into(), config: false }
    }

    /// A file that belongs to the operator once it is there.
    pub fn config(path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        Self { config: true, ..Self::new(path, mode, bytes) }
    }
}

/// Reads a file, naming it where that fails.
///
/// # Errors
/// A sentence.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Writes a file, making its folder.
///
/// # Errors
/// A sentence.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let said = |e: std::io::Error| format!("{}: {e}", path.display());
    path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(said)?;
    std::fs::write(path, bytes).map_err(said)
}

/// A gzip'd tar of files, every byte of which follows from them: one time for all, no names of whoever made it.
/// Paths get this in front.
///
/// # Errors
/// A sentence.
pub fn tar_gz(entries: &[Entry], prefix: &str, seconds: u64) -> Result<Vec<u8>, String> {
    gzip(&tar(entries, prefix, seconds)?)
}

/// The tar of files; folders are entries of their own, as Debian's tools want them and as VIBs that run on
/// ESXi have them. `seconds`: since 1970, of every file.
///
/// # Errors
/// A sentence.
pub fn tar(entries: &[Entry], prefix: &str, seconds: u64) -> Result<Vec<u8>, String> {
    let mut tar = tar::Builder::new(vec![]);
    let mut header = |path: &str, mode: u32, size: u64, kind: tar::EntryType, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(seconds);
        header.set_uid(0);
        header.set_gid(0);
        header.set_path(path).map_err(|e| format!("{path}: {e}"))?;
        header.set_cksum();
        tar.append(&header, bytes).map_err(|e| e.to_string())
    };
    let mut folders = std::collections::BTreeSet::new();
    for entry in entries {
        for (at, _) in entry.path.match_indices('/') {
            if folders.insert(entry.path[..at].to_string()) {
                header(&format!("{prefix}{}/", &entry.path[..at]), 0o755, 0, tar::EntryType::Directory, &[])?;
            }
        }
        let path = format!("{prefix}{}", entry.path);
        header(&path, entry.mode, entry.bytes.len() as u64, tar::EntryType::Regular, &entry.bytes)?;
    }
    tar.into_inner().map_err(|e| e.to_string())
}

/// Compresses; the same bytes give the same bytes.
///
/// # Errors
/// A sentence.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>, String> {
    use std::io::Write as _;
    let mut gz = flate2::GzBuilder::new().mtime(0).write(vec![], flate2::Compression::best());
    gz.write_all(bytes).and_then(|()| gz.finish()).map_err(|e| e.to_string())
}

/// An ar archive: member names padded with spaces, no times, no owners, mode 0 (facts: esxi B1).
///
/// # Errors
/// A sentence.
pub fn ar(members: &[(&str, &[u8])], mode: u32) -> Result<Vec<u8>, String> {
    let mut archive = ar::Builder::new(vec![]);
    for (name, bytes) in members {
        let mut header = ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64);
        header.set_mode(mode);
        archive.append(&header, *bytes).map_err(|e| format!("{name}: {e}"))?;
    }
    archive.into_inner().map_err(|e| e.to_string())
}
