//! The operator's own files. Every error names the path; every read is bounded.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place where the controller opens files of its own machine"
)]

use crate::error::{Error, Kind};
use nix::fcntl::OFlag;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

fn failed(path: &Path, error: &std::io::Error) -> Error {
    let why =
        if error.kind() == std::io::ErrorKind::NotFound { "no such file".into() } else { error.to_string() };
    let failed = Error::new(Kind::Usage, format!("{}: {why}", path.display())).code("file");
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => failed.hint(crate::rights::hint(path)),
        _ => failed,
    }
}

/// Opens a file for reading. Without waiting: a FIFO has nobody at its other end, and a device may do
/// something when it is opened.
pub fn open(path: &Path) -> Result<File, Error> {
    let calm = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let kind = |meta: std::fs::Metadata| match meta.file_type() {
        t if t.is_file() => Ok(()),
        t if t.is_dir() => Err("it is a folder, not a file"),
        t if t.is_fifo() => Err("it is a FIFO, not a file"),
        t if t.is_socket() => Err("it is a socket, not a file"),
        _ => Err("it is a device, not a file"),
    };
    let wrong = |why: &str| Error::new(Kind::Usage, format!("{}: {why}", path.display())).code("file");
    std::fs::metadata(path).map_err(|e| failed(path, &e)).and_then(|meta| kind(meta).map_err(wrong))?;
    let file =
        std::fs::OpenOptions::new().read(true).custom_flags(calm).open(path).map_err(|e| failed(path, &e))?;
    file.metadata().map_err(|e| failed(path, &e)).and_then(|meta| kind(meta).map_err(wrong))?;
    Ok(file)
}

/// Names in a folder, sorted; of hidden ones none.
pub fn names_in(folder: &Path, most: usize) -> Result<Vec<String>, Error> {
    let mut names = vec![];
    for entry in std::fs::read_dir(folder).map_err(|e| failed(folder, &e))? {
        let name = entry.map_err(|e| failed(folder, &e))?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
        if names.len() > most {
            return Err(
                Error::new(Kind::Usage, format!("{}: more than {most} files", folder.display())).code("file")
            );
        }
    }
    names.sort();
    Ok(names)
}

/// Reads a text file of at most `max` bytes.
pub fn read_text(path: &Path, max: u64) -> Result<String, Error> {
    let not_text =
        |_| failed(path, &std::io::Error::new(std::io::ErrorKind::InvalidData, "is not UTF-8 text"));
    String::from_utf8(read_bytes(path, max)?).map_err(not_text)
}

/// Reads a file of at most `max` bytes.
pub fn read_bytes(path: &Path, max: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![];
    open(path)?.take(max + 1).read_to_end(&mut bytes).map_err(|e| failed(path, &e))?;
    if bytes.len() as u64 > max {
        return Err(Error::new(Kind::Usage, format!("{}: larger than {} MiB", path.display(), max >> 20))
            .code("file"));
    }
    Ok(bytes)
}

/// Writes a file whole or not at all.
pub fn write_text(path: &Path, text: &str) -> Result<(), Error> {
    write_bytes(path, text.as_bytes())
}

/// The same with bytes.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut temporary = path.as_os_str().to_os_string();
    temporary.push(".new");
    let temporary = Path::new(&temporary);
    let written = (|| {
        // Somebody's link under this name is not followed.
        match std::fs::remove_file(temporary) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(temporary, path)
    })();
    written.map_err(|e| failed(path, &e))
}

/// Makes a folder and those above it.
pub fn make_folder(folder: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(folder).map_err(|e| failed(folder, &e))
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| failed(folder, &e))
}

/// Opens (and makes) a file for appending.
pub fn append(path: &Path) -> Result<File, Error> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| failed(folder, &e))?;
    }
    let flags = OFlag::O_NOFOLLOW.bits();
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
        .map_err(|e| failed(path, &e))
}

/// A random name of its own, made once and kept in a file.
pub fn own_id(path: &Path) -> Result<String, Error> {
    if let Ok(id) = read_text(path, 64)
        && id.trim().len() == 12
    {
        return Ok(id.trim().into());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| failed(folder, &e))?;
    }
    let id = random_name()?;
    write_text(path, &format!("{id}\n"))?;
    Ok(id)
}

/// A random 48-bit id in hex.
pub fn random_name() -> Result<String, Error> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; 6];
    File::open(source).and_then(|mut f| f.read_exact(&mut bytes)).map_err(|e| failed(source, &e))?;
    Ok(vsgpu_core::text::hex(&bytes))
}
