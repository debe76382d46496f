//! Taking a package aside, on the machine itself: it gets a name in a folder that is nobody else's, is opened
//! there once, and is hashed and inspected over that one open file.
//!
//! On Linux it stays the same file under a second name (a hard link): whoever exchanges the first name
//! exchanges nothing. A file that others may write into, and one on a datastore (which hosts share), is
//! copied while it has room: on ESXi onto the ramdisk, where that is twice as large. Where neither goes the
//! package is used where it lies, and between its reading and its installation remains a moment that only the
//! tool's own check covers.
#![expect(clippy::disallowed_methods, reason = "a part of the shell")]

use crate::io_error::io_error;
use crate::package;
use crate::root::Root;
use sha2::Digest as _;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use vsgpu_core::{IoError, Staged, text};

/// On the file system of a guest's artifacts.
const BESIDE: &str = "/var/lib/vsgpu/staged";
/// For what lies on a datastore: on ESXi a ramdisk.
const AWAY: &str = "/tmp/vsgpu-staged";
const DATASTORES: &str = "/vmfs/volumes/";

/// Takes it aside and reads it.
///
/// # Errors
/// Where it is not there, is no file, or cannot be read.
/// `busy`: whether something that an earlier agent started still runs, and may use what lies there.
pub(crate) fn stage(
    root: &Root,
    busy: &dyn Fn() -> bool,
    path: &str,
    wanted: &str,
) -> Result<Staged, IoError> {
    let name = path.rsplit('/').next().unwrap_or_default().to_string();
    let source = root.path(path)?;
    let mut file = open(&source).map_err(|e| io_error(path, &e))?;
    let mut instead = path.to_string();
    let base = if path.starts_with(DATASTORES) { AWAY } else { BESIDE };
    if let Some(folder) = own_folder(root, busy, base) {
        let aside = root.path(&format!("{folder}/{name}"))?;
        let taken = match may_be_written_by_others(&file) || path.starts_with(DATASTORES) {
            false => std::fs::hard_link(&source, &aside)
                .and_then(|()| open(&aside))
                .or_else(|_| copy(&mut file, &aside, 0)),
            // A ramdisk is everybody's memory.
            true => copy(&mut file, &aside, if base == AWAY { 2 } else { 1 }),
        };
        match taken {
            Ok(own) => (file, instead) = (own, format!("{folder}/{name}")),
            Err(why) => {
                tracing::info!(path, %why, "used where it lies: it could not be taken aside");
                remove(&aside);
            }
        }
    }
    let read = read(&mut file, &name, wanted);
    let (sha256, size, found) = read.map_err(|e| {
        unstage(root, path, &instead);
        io_error(path, &e)
    })?;
    Ok(Staged { sha256, size, found, instead })
}

/// Removes what `stage` made.
pub(crate) fn unstage(root: &Root, path: &str, instead: &str) {
    if let (true, Ok(aside)) = (path != instead, root.path(instead)) {
        remove(&aside);
    }
}

fn remove(aside: &Path) {
    let _ = std::fs::remove_file(aside);
    if let Some(folder) = aside.parent() {
        let _ = std::fs::remove_dir(folder);
    }
}

/// A regular file, not through a link, and without waiting for what lies under its name.
fn open(path: &Path) -> std::io::Result<File> {
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("it is no regular file")) }
}

/// Whether somebody beside us and root may write into it.
fn may_be_written_by_others(file: &File) -> bool {
    let us = nix::unistd::geteuid().as_raw();
    file.metadata().map_or(true, |m| (m.uid() != us && m.uid() != 0) || m.mode() & 0o022 != 0)
}

/// A new folder that only we can enter; `None` where there is no place for one.
fn own_folder(root: &Root, busy: &dyn Fn() -> bool, base: &str) -> Option<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let real = root.path(base).ok()?;
    let parent = real.parent()?;
    if base != AWAY {
        std::fs::create_dir_all(parent).ok()?;
    }
    let make = |folder: &Path| std::fs::DirBuilder::new().mode(0o700).create(folder);
    let _ = make(&real);
    let found = std::fs::symlink_metadata(&real).ok()?;
    // In a folder that everybody may write to, somebody may have been first.
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o077 != 0 {
        tracing::warn!(folder = base, "is not this agent's own: packages are used where they lie");
        return None;
    }
    clear(root, busy, base);
    let name = format!("{base}/{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
    make(&root.path(&name).ok()?).ok()?;
    Some(name)
}

/// What a killed agent left, unless something that it started may still use it.
fn clear(root: &Root, busy: &dyn Fn() -> bool, base: &str) {
    if busy() {
        return;
    }
    let own = format!("{}-", std::process::id());
    let there = root.path(base).and_then(|folder| std::fs::read_dir(folder).map_err(|e| io_error(base, &e)));
    let names =
        there.into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    for name in names.filter(|name| !name.starts_with(&own)).collect::<Vec<_>>() {
        let Ok(folder) = root.path(&format!("{base}/{name}")) else { continue };
        let files: Vec<PathBuf> =
            std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
        files.iter().for_each(|file| drop(std::fs::remove_file(file)));
        let _ = std::fs::remove_dir(folder);
    }
}

/// A copy, where there is so many times its room; 0: where there is any.
fn copy(from: &mut File, to: &Path, room: u64) -> std::io::Result<File> {
    let meta = from.metadata()?;
    let folder = to.parent().unwrap_or(to);
    if room > 0 {
        let stat = nix::sys::statvfs::statvfs(folder)?;
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        if free < meta.len().saturating_mul(room) {
            return Err(std::io::Error::new(
                std::io::ErrorKind::StorageFull,
                "there is too little room for a copy",
            ));
        }
    }
    let mut own = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    from.rewind()?;
    std::io::copy(from, &mut own)?;
    own.set_permissions(std::fs::Permissions::from_mode(meta.mode() & 0o700))?;
    open(to)
}

type Read =
    (String, u64, Result<(vsgpu_core::artifact::Kind, Vec<vsgpu_core::artifact::PackageContent>), String>);

fn read(file: &mut File, name: &str, wanted: &str) -> std::io::Result<Read> {
    file.rewind()?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut size = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => {
                hasher.update(&buffer[..n]);
                size += n as u64;
            }
        }
    }
    file.rewind()?;
    let sha256 = text::hex(&hasher.finalize());
    // What somebody put there is not unpacked.
    let found = if sha256.eq_ignore_ascii_case(wanted) {
        package::inspect(file, name, size)
    } else {
        Err("it is another file".into())
    };
    Ok((sha256, size, found))
}
