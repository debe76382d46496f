//! Takes the few files that building both samples needs out of the operator's archive or folder. Everything else of
//! it (some hundred samples, pictures, libraries) is left where it is. Sizes and numbers are bounded, and nothing but
//! plain files is taken: an archive cannot write beside the work folder.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write as _};
use std::path::Path;
use std::time::Instant;
use vsgpu_core::cuda_samples::needed;

/// Members of an archive, or files below a folder, that are looked at.
const MOST_MEMBERS: usize = 50_000;
/// Files that are taken: some sixty are.
const MOST_FILES: usize = 2_000;
/// All files together, bytes: some megabytes are.
const MOST_BYTES: u64 = 64 << 20;
/// What a compressed archive may unpack to while it is read, bytes.
const MOST_UNPACKED: u64 = 4 << 30;
/// How deep folders of the samples are.
const DEEPEST: usize = 12;

/// Copies what is needed below `to`; the paths of what was copied.
///
/// # Errors
/// A sentence.
pub fn take(source: &Path, to: &Path, until: Instant) -> Result<BTreeSet<String>, String> {
    let mut taken = Taken { to, files: BTreeSet::new(), bytes: 0, until };
    let name = source.display();
    if source.is_dir() {
        let mut looked = 0;
        folder(source, "", 0, &mut looked, &mut taken)?;
        return Ok(taken.files);
    }
    let file = File::open(source).map_err(|e| format!("{name}: {e}"))?;
    let mut magic = [0; 4];
    let read = (&file).read(&mut magic).map_err(|e| format!("{name}: {e}"))?;
    let file = File::open(source).map_err(|e| format!("{name}: {e}"))?;
    match &magic[..read] {
        [b'P', b'K', 3, 4] => from_zip(file, &mut taken),
        [0x1f, 0x8b, ..] => from_tar(flate2::read::GzDecoder::new(file).take(MOST_UNPACKED), &mut taken),
        _ => from_tar(file, &mut taken),
    }
    .map_err(|why| format!("{name}: {why}"))?;
    Ok(taken.files)
}

struct Taken<'a> {
    to: &'a Path,
    files: BTreeSet<String>,
    bytes: u64,
    until: Instant,
}

impl Taken<'_> {
    /// Said before each member that is looked at.
    fn in_time(&self) -> Result<(), String> {
        match Instant::now() < self.until {
            true => Ok(()),
            false => Err("no time is left for unpacking it".into()),
        }
    }

    /// `path` is as [`needed`] said it: below the work folder, whatever it is.
    fn put(&mut self, path: String, content: &mut dyn Read) -> Result<(), String> {
        if self.files.len() >= MOST_FILES {
            return Err(format!("more than {MOST_FILES} files of the two samples: these are not NVIDIA's"));
        }
        let at = self.to.join(&path);
        let io = |e: std::io::Error| format!("{}: {e}", at.display());
        std::fs::create_dir_all(at.parent().unwrap_or(self.to)).map_err(io)?;
        let left = MOST_BYTES - self.bytes;
        let mut bytes = vec![];
        content.take(left + 1).read_to_end(&mut bytes).map_err(|e| format!("{path}: it is cut off: {e}"))?;
        if bytes.len() as u64 > left {
            return Err("the two samples are larger than NVIDIA's ever were".into());
        }
        self.bytes += bytes.len() as u64;
        File::create(&at).and_then(|mut file| file.write_all(&bytes)).map_err(io)?;
        self.files.insert(path);
        Ok(())
    }
}

const TOO_MANY: &str = "it has more members than NVIDIA's samples ever had";

fn from_zip(file: File, taken: &mut Taken<'_>) -> Result<(), String> {
    let mut zip =
        zip::ZipArchive::new(file).map_err(|e| format!("the zip file is broken or cut off: {e}"))?;
    if zip.len() > MOST_MEMBERS {
        return Err(TOO_MANY.into());
    }
    for at in 0..zip.len() {
        taken.in_time()?;
        let mut member = zip.by_index(at).map_err(|e| format!("the zip file is broken: {e}"))?;
        let Some(path) = needed(member.name()).filter(|_| member.is_file()) else { continue };
        taken.put(path, &mut member)?;
    }
    Ok(())
}

/// Names that do not fit into a header are passed over: none of the samples has one, and the reader would take them
/// whole, however long they are.
fn from_tar(file: impl Read, taken: &mut Taken<'_>) -> Result<(), String> {
    // What the reader says quotes the file, which may be any of the machine's.
    let broken = |_| "it is no archive of the samples (.zip, .tar, .tar.gz), or it is cut off".to_string();
    let mut archive = tar::Archive::new(file);
    for (n, member) in archive.entries().map_err(broken)?.raw(true).enumerate() {
        if n >= MOST_MEMBERS {
            return Err(TOO_MANY.into());
        }
        taken.in_time()?;
        let mut member = member.map_err(broken)?;
        let path = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        let Some(path) = needed(&path).filter(|_| member.header().entry_type().is_file()) else { continue };
        taken.put(path, &mut member)?;
    }
    Ok(())
}

/// Links are not followed: what they mean may be anywhere.
fn folder(
    at: &Path,
    below: &str,
    depth: usize,
    looked: &mut usize,
    taken: &mut Taken<'_>,
) -> Result<(), String> {
    let io = |e: std::io::Error| format!("{}: {e}", at.display());
    for entry in std::fs::read_dir(at).map_err(io)? {
        let entry = entry.map_err(io)?;
        *looked += 1;
        taken.in_time()?;
        if *looked > MOST_MEMBERS {
            return Err(format!("{}: {TOO_MANY}", at.display()));
        }
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        let kind = entry.file_type().map_err(io)?;
        if kind.is_dir() && depth < DEEPEST {
            folder(&entry.path(), &path, depth + 1, looked, taken)?;
        } else if kind.is_file() {
            let Some(path) = needed(&path) else { continue };
            taken.put(path, &mut File::open(entry.path()).map_err(io)?)?;
        }
    }
    Ok(())
}
