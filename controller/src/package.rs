//! What an operator's file is, by its content: VIB, offline bundle, component, installer, token; and the package names and
//! versions it states itself. Nothing here unpacks payloads.

use crate::error::{Error, Kind as ErrorKind};
use crate::files;
use sha2::Digest as _;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use vsgpu_core::artifact::{Artifact, Held, Kind};
use vsgpu_core::units::DriverVersion;

/// Descriptors are some kilobytes; this bounds a hostile zip.
const MAX_DESCRIPTOR: u64 = 16 << 20;

/// Reads, hashes and inspects a file; `base` is the folder of the fleet file.
///
/// # Errors
/// Where it is missing, empty, has another hash than stated, or is no such package.
pub fn resolve(base: &Path, artifact: &Artifact) -> Result<Artifact, Error> {
    let path = base.join(&artifact.artifact);
    let mut file = files::open(&path)?;
    let failed = |e: std::io::Error| Error::new(ErrorKind::Usage, format!("{}: {e}", path.display())).code("file");
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            n => {
                hasher.update(&buffer[..n]);
                size += n as u64;
            }
        }
    }
    if size == 0 {
        return Err(Error::new(ErrorKind::Usage, format!("{}: the file is empty", path.display())).code("package"));
    }
    let sha256 = vsgpu_proto::posix::hex(&hasher.finalize());
    if let Some(stated) = artifact.sha256.as_ref().filter(|stated| **stated != sha256) {
        return Err(Error::new(ErrorKind::Usage, format!("{}: SHA-256 is {sha256}, the fleet file states {stated}", path.display()))
            .code("package")
            .hint("download the file again, or correct `sha256:`"));
    }
    let (kind, holds) = inspect(&mut file, artifact.file_name()).map_err(|why| {
        Error::new(ErrorKind::Usage, format!("{}: {why}", path.display())).code("package").hint("use the file as NVIDIA ships it")
    })?;
    Ok(Artifact { artifact: artifact.artifact.clone(), sha256: Some(sha256), size: Some(size), kind: Some(kind), holds })
}

fn inspect(file: &mut File, name: &str) -> Result<(Kind, Vec<Held>), String> {
    let io = |e: std::io::Error| e.to_string();
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let mut magic = vec![];
    file.take(8).read_to_end(&mut magic).map_err(io)?;
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let (lower, by_name) = (name.to_lowercase(), from_name(name));
    if let Some(other) = ["aarch64", "arm64", "sbsa", "ppc64le"].iter().find(|a| lower.contains(*a)) {
        return Err(format!("this package is for {other}; vSphere's guests are x86_64"));
    }
    let kind = match magic.as_slice() {
        m if m.starts_with(b"!<arch>\n") && lower.ends_with(".deb") => Kind::Deb,
        m if m.starts_with(b"\xed\xab\xee\xdb") => Kind::Rpm,
        m if m.starts_with(b"!<arch>\n") => {
            let descriptor = vib_descriptor(file)?;
            return Ok((Kind::Vib, vec![held(&descriptor)?]));
        }
        m if m.starts_with(b"PK\x03\x04") => {
            let (kind, holds) = bundle(file)?;
            return Ok((kind, if holds.is_empty() { by_name } else { holds }));
        }
        m if m.starts_with(b"#!") && lower.ends_with(".run") => {
            whole(file)?;
            Kind::Run
        }
        _ if lower.ends_with(".vib") => return Err("this is not a VIB (an ar archive that begins with `!<arch>`)".into()),
        _ if lower.ends_with(".zip") => return Err("this is not a zip file".into()),
        _ if lower.ends_with(".deb") || lower.ends_with(".rpm") => {
            return Err("this is no package: its first bytes are not those of its kind".into());
        }
        _ if lower.ends_with(".run") => return Err("this is not a self-extracting installer (it does not begin with `#!`)".into()),
        _ => Kind::Other,
    };
    Ok((kind, by_name))
}

/// A self-extracting installer states how many lines its script has and how many bytes follow (makeself: `skip=`, `filesizes=`).
/// One that states neither is not judged; one that is shorter than it says is cut off.
fn whole(file: &mut File) -> Result<(), String> {
    let io = |e: std::io::Error| e.to_string();
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let mut head = vec![];
    file.take(256 << 10).read_to_end(&mut head).map_err(io)?;
    let text = String::from_utf8_lossy(&head);
    let number = |key: &str| {
        let line = text.lines().take(800).find_map(|l| l.strip_prefix(key))?;
        line.trim_matches('"').split_whitespace().map(|n| n.parse::<u64>().ok()).sum::<Option<u64>>()
    };
    let lines = number("skip=").or_else(|| number("SKIP="));
    let (Some(skip), Some(payload)) = (lines, number("filesizes=")) else { return Ok(()) };
    // `skip` is the line at which the payload begins, in makeself's own counting the number of script lines or one more.
    let script: usize =
        head.split_inclusive(|b| *b == b'\n').take(usize::try_from(skip.saturating_sub(1)).unwrap_or(usize::MAX)).map(<[u8]>::len).sum();
    let (needed, is) = (script as u64 + payload, file.metadata().map_err(io)?.len());
    if is < needed { Err(format!("the file is cut off: it has {is} bytes and says of itself that it needs {needed}")) } else { Ok(()) }
}

/// NVIDIA's own file names state the version: `NVD-VGPU-800_535.183.04-1OEM...zip`, `NVIDIA-Linux-x86_64-535.183.01-grid.run`,
/// `cuda_12.2.2_535.104.05_linux.run`.
pub(crate) fn from_name(name: &str) -> Vec<Held> {
    let one = |name: &str, version: &str| vec![Held { name: name.into(), version: version.into(), acceptance: None }];
    if let Some(rest) = name.strip_prefix("cuda_") {
        return rest.split('_').next().map(|v| one("cuda-toolkit", v)).unwrap_or_default();
    }
    if name.ends_with(".deb") || name.ends_with(".rpm") {
        // `nvidia-linux-grid-535_535.183.01_amd64.deb`, `nvidia-linux-grid-535-535.183.01-1.x86_64.rpm`
        let version = name.split(['_', '-']).rev().find(|part| part.parse::<DriverVersion>().is_ok());
        let package = name.split('_').next().unwrap_or(name);
        return version.map(|v| one(package, v)).unwrap_or_default();
    }
    if name.ends_with(".run") {
        let version = name.trim_end_matches(".run").split('-').find(|part| part.parse::<DriverVersion>().is_ok());
        return version.map(|v| one("NVIDIA-Linux-x86_64", v)).unwrap_or_default();
    }
    // A VIB's full version is `535.183.04-1OEM.800.1.0.20613240`; only the driver version is sure from a name.
    let version = name.split(['_', '-']).find(|part| part.parse::<DriverVersion>().is_ok());
    version.map(|v| one("", v)).unwrap_or_default()
}

/// First member of the archive: `descriptor.xml` (facts: esxi B1).
fn vib_descriptor(file: &mut File) -> Result<String, String> {
    let mut header = [0; 68];
    file.read_exact(&mut header).map_err(|_| "the VIB is cut off")?;
    let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&header[range]).trim().trim_end_matches('/').to_string();
    let size: u64 = text(56..66).parse().map_err(|_| "the VIB's first header is broken")?;
    if text(8..24) != "descriptor.xml" || size > MAX_DESCRIPTOR {
        return Err("the VIB does not begin with descriptor.xml".into());
    }
    let mut xml = String::new();
    file.take(size).read_to_string(&mut xml).map_err(|e| format!("descriptor.xml: {e}"))?;
    if xml.len() as u64 == size { Ok(xml) } else { Err("the VIB is cut off".into()) }
}

fn held(descriptor: &str) -> Result<Held, String> {
    let vib = vsgpu_core::xml::parse(descriptor)?;
    let text = |tag: &str| vib.child(tag).map(|c| c.text.clone());
    let stated = text("name").zip(text("version")).ok_or("the VIB's descriptor.xml states no name and version")?;
    Ok(Held { name: stated.0, version: stated.1, acceptance: text("acceptance-level") })
}

/// An offline bundle holds `index.xml` and metadata zips with one descriptor per VIB; a component is said in a bulletin.
fn bundle(file: &mut File) -> Result<(Kind, Vec<Held>), String> {
    let mut zip = zip::ZipArchive::new(file).map_err(|e| format!("the zip file is broken or cut off: {e}"))?;
    if zip.index_for_name("index.xml").is_none() {
        // NVIDIA's download is a zip around the packages; nested folders hold the real ones.
        let inner: Vec<String> = zip.file_names().filter(|n| n.ends_with(".zip") || n.ends_with(".vib")).map(String::from).collect();
        return Err(if inner.is_empty() {
            "this zip file is no offline bundle (it has no index.xml)".into()
        } else {
            format!("this is NVIDIA's download, not the package itself; unpack it and use one of: {}", inner.join(", "))
        });
    }
    let names: Vec<String> = zip.file_names().filter(|n| n.ends_with(".zip") && n.contains("metadata")).map(String::from).collect();
    let (mut holds, mut component) = (vec![], false);
    for name in names {
        let mut inner = vec![];
        let metadata = zip.by_name(&name).map_err(|e| format!("{name}: {e}"))?;
        metadata.take(MAX_DESCRIPTOR).read_to_end(&mut inner).map_err(|e| format!("{name}: {e}"))?;
        let mut inner = zip::ZipArchive::new(std::io::Cursor::new(inner)).map_err(|e| format!("{name}: {e}"))?;
        for at in 0..inner.len().min(256) {
            let mut text = String::new();
            let entry = inner.by_index(at).map_err(|e| format!("{name}: {e}"))?;
            let path = entry.name().to_string();
            if !path.ends_with(".xml") || entry.take(MAX_DESCRIPTOR).read_to_string(&mut text).is_err() {
                continue;
            }
            if path.starts_with("vibs/") {
                holds.push(held(&text).map_err(|why| format!("{name}: {path}: {why}"))?);
            } else if path.starts_with("bulletins/") {
                component |= text.contains("componentNameSpec");
            }
        }
    }
    Ok((if component { Kind::Component } else { Kind::OfflineBundle }, holds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nvidias_file_names_state_versions() {
        for (name, version) in [
            ("NVIDIA-Linux-x86_64-535.183.01-grid.run", "535.183.01"),
            ("cuda_12.2.2_535.104.05_linux.run", "12.2.2"),
            ("NVD-VGPU-800_535.183.04-1OEM.800.1.0.20613240_23867204.zip", "535.183.04"),
            ("NVIDIA-vGPU-VMware_ESXi_6.0_Host_Driver_367.123-1OEM.600.0.0.2494585.vib", "367.123"),
        ] {
            assert_eq!(from_name(name)[0].version, version, "{name}");
        }
        assert!(from_name("client_configuration_token_10-02-2024-12-00-00.tok").is_empty());
    }
}
