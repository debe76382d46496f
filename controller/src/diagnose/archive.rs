//! Texts out of archives: our own bundle, ESXi's `vm-support`, `nvidia-bug-report.log.gz`, or a plain file. Nothing is
//! unpacked onto a disk; everything is bounded.

use crate::diagnose::bundle;
use crate::error::{Error, Kind};
use crate::files;
use flate2::read::GzDecoder;
use std::io::Read;
use std::path::Path;
use vsgpu_core::diagnosis::{Input, Source};

/// Bytes that are kept of one text: its end.
const ONE: usize = 32 << 20;
/// Bytes that are kept of all texts.
const ALL: usize = 512 << 20;
/// Bytes that are read of one file inside an archive, kept or not.
const READ: u64 = 1 << 30;
/// Files in an archive.
const FILES: usize = 200_000;
/// Bytes of the archive itself.
const ARCHIVE: u64 = 8 << 30;

/// A text of an archive.
#[derive(Clone, Debug)]
pub struct Text {
    /// Its path in the archive.
    pub name: String,
    pub text: String,
    pub sources: Vec<Source>,
}

impl Text {
    pub fn input(&self) -> Input<'_> {
        Input { name: self.name.clone(), text: &self.text, sources: self.sources.clone() }
    }
}

/// What a file is, by its path; `None` for one that is not looked at.
fn sources(path: &str) -> Option<Vec<Source>> {
    let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let is = |word: &str| name.contains(word);
    Some(match () {
        () if is("nvidia-bug-report") => vec![
            Source::GuestKernel,
            Source::GuestSmi,
            Source::Gridd,
            Source::Installer,
            Source::Cuda,
            Source::Vmkernel,
            Source::HostSmi,
        ],
        () if is("vmware") && is(".log") => vec![Source::VmwareLog],
        () if is("vmkernel") => vec![Source::Vmkernel],
        () if is("hostd") || is("vpxa") => vec![Source::Task, Source::HostAgent],
        () if is("nvidia-installer") || is("make.log") || is("dkms") => vec![Source::Installer],
        () if is("gridd") => vec![Source::Gridd],
        () if is("dmesg") || is("kern.log") || is("syslog") || is("messages") || is("journal") => {
            vec![Source::GuestKernel, Source::Gridd, Source::Installer]
        }
        () if is("nvidia-smi") || is("nvidia_smi") => match path.contains("commands/") {
            true => vec![Source::HostSmi],
            false => vec![],
        },
        () if is("esxcli") || is("localcli") => vec![Source::Esxcli],
        () if is("cuda") && (is(".txt") || is(".log")) => vec![Source::Cuda],
        () => return None,
    })
}

/// The end of what a reader gives, and whether more was before it.
fn end_of(mut reader: impl Read) -> std::io::Result<Vec<u8>> {
    let mut kept: Vec<u8> = vec![];
    let mut buffer = vec![0; 1 << 16];
    let mut read = 0_u64;
    loop {
        let n = reader.read(&mut buffer)?;
        read += n as u64;
        if n == 0 || read > READ {
            break;
        }
        kept.extend_from_slice(&buffer[..n]);
        if kept.len() > 2 * ONE {
            kept.drain(..kept.len() - ONE);
        }
    }
    if kept.len() > ONE {
        kept.drain(..kept.len() - ONE);
    }
    Ok(kept)
}

fn wrong(path: &Path, why: &std::io::Error) -> Error {
    Error::new(Kind::Usage, format!("{}: {why}", path.display()))
        .code("diagnose-file")
        .hint("name a log, a `vsgpu bundle`, a vm-support archive, or an nvidia-bug-report.log.gz")
}

/// What an archive holds.
#[derive(Debug, Default)]
pub struct Archive {
    /// Logs that are known.
    pub texts: Vec<Text>,
    /// Fleet file and facts, where it is a bundle of ours.
    pub bundle: Option<(String, String)>,
}

/// What is in a file, whatever it is.
///
/// # Errors
/// It cannot be read, or nothing in it is known.
pub fn read(path: &Path) -> Result<Archive, Error> {
    let file = files::open(path)?;
    let size = file.metadata().map_or(0, |m| m.len());
    if size > ARCHIVE {
        return Err(
            Error::new(Kind::Usage, format!("{}: larger than 8 GiB", path.display())).code("diagnose-file")
        );
    }
    let mut file = std::io::BufReader::new(file);
    let begin = std::io::BufRead::fill_buf(&mut file).map_err(|e| wrong(path, &e))?.to_vec();
    let is_gzip = begin.starts_with(&[0x1f, 0x8b]);
    let texts = match is_gzip {
        true => {
            let mut peek = vec![];
            let mut decoder = std::io::BufReader::new(GzDecoder::new(file));
            std::io::BufRead::fill_buf(&mut decoder)
                .map(|b| peek.extend_from_slice(b))
                .map_err(|e| wrong(path, &e))?;
            if is_tar(&peek) { of_tar(decoder) } else { plain(path, decoder) }
        }
        false if is_tar(&begin) => of_tar(file),
        false => plain(path, file),
    };
    let texts = texts.map_err(|e| wrong(path, &e))?;
    if texts.texts.is_empty() && texts.bundle.is_none() {
        return Err(Error::new(Kind::Usage, format!("{}: no log that is known is in it", path.display()))
            .code("diagnose-file")
            .hint("logs are known by their names: vmware.log, vmkernel.log, dmesg, nvidia-smi, nvidia-bug-report.log"));
    }
    Ok(texts)
}

fn is_tar(begin: &[u8]) -> bool {
    begin.get(257..262) == Some(b"ustar")
}

fn plain(path: &Path, reader: impl Read) -> std::io::Result<Archive> {
    let bytes = end_of(reader)?;
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    // A pasted text may have any name.
    let sources = sources(&name).unwrap_or_default();
    let text = Text { name, text: String::from_utf8_lossy(&bytes).into_owned(), sources };
    Ok(Archive { texts: vec![text], bundle: None })
}

fn of_tar(reader: impl Read) -> std::io::Result<Archive> {
    let mut archive = tar::Archive::new(reader);
    let mut all = vec![];
    let (mut fleet, mut facts) = (None, None);
    let mut kept = 0;
    for entry in archive.entries()?.take(FILES) {
        let entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path()?.to_string_lossy().into_owned();
        if let Some(own) = name.strip_prefix(bundle::FOLDER) {
            let kept = match own.trim_start_matches('/') {
                bundle::FLEET => &mut fleet,
                bundle::FACTS => &mut facts,
                _ => continue,
            };
            *kept = Some(whole(entry)?);
            continue;
        }
        let Some(sources) = sources(&name) else { continue };
        let bytes = match name.to_lowercase().ends_with(".gz") {
            true => match end_of(GzDecoder::new(entry)) {
                Ok(bytes) => bytes,
                // One log that is cut off hides no other.
                Err(_) => continue,
            },
            false => end_of(entry)?,
        };
        kept += bytes.len();
        if kept > ALL {
            break;
        }
        all.push(Text { name, text: String::from_utf8_lossy(&bytes).into_owned(), sources });
    }
    Ok(Archive { texts: all, bundle: fleet.zip(facts) })
}

/// A file of our own bundle, which is of no use in part.
fn whole(entry: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    entry.take(READ).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test that writes what it reads")]
    fn archives_and_plain_files_are_read() {
        let folder = std::env::temp_dir().join(format!("vsgpu-archive-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let log = b"2026-01-01T00:00:00Z In(05) vmx Invalid memory setting: memory reservation (sched.mem.min) should be equal to memsize(32768).\n";
        let mut builder = tar::Builder::new(vec![]);
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append_data(&mut header, name, bytes).unwrap();
        };
        add("esx-2026/vmfs/volumes/ds/vm-01/vmware.log", log);
        add("esx-2026/var/run/log/vmkernel.0.gz", &gzip(b"nothing\n"));
        add("esx-2026/etc/passwd", b"root\n");
        let archive = folder.join("esx.tgz");
        std::fs::write(&archive, gzip(&builder.into_inner().unwrap())).unwrap();
        let texts = read(&archive).unwrap().texts;
        assert_eq!(
            texts.iter().map(|t| t.sources.clone()).collect::<Vec<_>>(),
            [vec![Source::VmwareLog], vec![Source::Vmkernel]]
        );
        let inputs: Vec<_> = texts.iter().map(Text::input).collect();
        assert_eq!(vsgpu_core::diagnosis::diagnose(&inputs).findings[0].cause, "memory-not-reserved");
        let report = folder.join("nvidia-bug-report.log.gz");
        std::fs::write(&report, gzip(b"NVRM: BAR1 is 0M @ 0x0 (PCI:0000:14:00.0)\n")).unwrap();
        assert!(read(&report).unwrap().texts[0].sources.contains(&Source::GuestKernel));
        let cut = folder.join("cut.tgz");
        std::fs::write(&cut, &gzip(&[7; 4000])[..40]).unwrap();
        assert!(read(&cut).is_err());
        assert!(read(&folder.join("absent")).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
