//! What a package is, by its content: VIB, offline bundle, component, installer, engine of network GPUs,
//! token; and the names and versions it states itself. The controller reads an operator's file with it,
//! the agent the file that it is about to install. Nothing here unpacks payloads.

use crate::bitfusion_tokens;
use crate::cuda_samples;
use std::io::{Read, Seek, SeekFrom};
use vsgpu_core::artifact::{Kind, PackageContent};
use vsgpu_core::engine::manifest;
use vsgpu_core::units::DriverVersion;

/// Descriptors are some kilobytes; this bounds a hostile zip.
const MAX_DESCRIPTOR: u64 = 16 << 20;
/// All descriptors of one zip file, in bytes.
const MAX_DESCRIPTORS: usize = 64 << 20;
/// Members of one zip file.
const MAX_MEMBERS: usize = 10_000;

/// A file that can be read from any place.
pub trait File: Read + Seek {}
impl<T: Read + Seek> File for T {}

/// What a file is. `name`: its last part, by which kinds are told apart that begin alike. `size`: in bytes.
///
/// # Errors
/// In words, where it is none of what its name says, is cut off or is for another machine.
pub fn inspect(file: &mut dyn File, name: &str, size: u64) -> Result<(Kind, Vec<PackageContent>), String> {
    let io = |e: std::io::Error| e.to_string();
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let mut magic = vec![];
    Read::take(&mut *file, 8).read_to_end(&mut magic).map_err(io)?;
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let (lower, by_name) = (name.to_lowercase(), from_name(name));
    if let Some(other) = ["aarch64", "arm64", "sbsa", "ppc64le"].iter().find(|a| lower.contains(*a)) {
        return Err(format!("this package is for {other}; vSphere's guests are x86_64"));
    }
    let kind = match magic.as_slice() {
        m if m.starts_with(b"!<arch>\n") && lower.ends_with(".deb") => Kind::Deb,
        m if m.starts_with(b"\xed\xab\xee\xdb") => Kind::Rpm,
        m if m.starts_with(b"!<arch>\n") => {
            let (descriptor, signed) = vib_descriptor(file)?;
            let held = held(&descriptor)?;
            // esxcli refuses it too, but only in the maintenance window.
            if let Some(level) = held.acceptance.as_deref().filter(|level| !signed && *level != "community") {
                return Err(format!("the VIB states the acceptance level `{level}`, but it is not signed"));
            }
            return Ok((Kind::Vib, vec![held]));
        }
        m if m.starts_with(b"PK\x03\x04") => {
            if let Some(holds) = cuda_samples::in_zip(&mut *file) {
                return Ok((Kind::CudaSamples, holds));
            }
            let (kind, holds) = bundle(file)?;
            return Ok((kind, if holds.is_empty() { by_name } else { holds }));
        }
        m if m.starts_with(b"#!") && lower.ends_with(".run") => {
            whole(file, size)?;
            Kind::Run
        }
        m if m.starts_with(b"\x1f\x8b") && (lower.ends_with(".gz") || lower.ends_with(".tgz")) => {
            match cuda_samples::in_tar(&mut flate2::read::GzDecoder::new(file)) {
                Some(holds) => return Ok((Kind::CudaSamples, holds)),
                None => Kind::Other,
            }
        }
        _ if lower.ends_with(".tar") => {
            if let Some(holds) = engine_bundle(file)? {
                return Ok((Kind::Engine, holds));
            }
            if let Some(holds) = bitfusion_tokens::read(file)? {
                return Ok((Kind::BitfusionTokens, holds));
            }
            file.seek(SeekFrom::Start(0)).map_err(io)?;
            if let Some(holds) = cuda_samples::in_tar(file) {
                return Ok((Kind::CudaSamples, holds));
            }
            Kind::Other
        }
        _ if lower.ends_with(".vib") => {
            return Err("this is not a VIB (an ar archive that begins with `!<arch>`)".into());
        }
        _ if lower.ends_with(".zip") => return Err("this is not a zip file".into()),
        _ if lower.ends_with(".deb") || lower.ends_with(".rpm") => {
            return Err("this is no package: its first bytes are not those of its kind".into());
        }
        _ if lower.ends_with(".run") => {
            return Err("this is not a self-extracting installer (it does not begin with `#!`)".into());
        }
        _ => Kind::Other,
    };
    Ok((kind, by_name))
}

/// A tar whose first file is an engine's manifest (`packaging/engine/build-lupine` makes it); `None` for any
/// other.
fn engine_bundle(file: &mut dyn File) -> Result<Option<Vec<PackageContent>>, String> {
    let broken = |e: std::io::Error| format!("the tar file is broken or cut off: {e}");
    file.seek(SeekFrom::Start(0)).map_err(|e| e.to_string())?;
    let mut archive = tar::Archive::new(file);
    let Some(first) = archive.entries().map_err(broken)?.next() else { return Ok(None) };
    let Ok(first) = first else { return Err("this is not a tar file".into()) };
    if first.path_bytes().as_ref() != manifest::NAME.as_bytes() {
        return Ok(None);
    }
    let mut text = vec![];
    first.take(MAX_DESCRIPTOR).read_to_end(&mut text).map_err(broken)?;
    let (manifest, _) = manifest::read(&text)?;
    let one =
        |name: String, version: &str| PackageContent { name, version: version.into(), acceptance: None };
    Ok(Some(vec![
        one(format!("{}-{}", manifest.engine, manifest.side), &manifest.build),
        one("cuda".into(), &manifest.cuda),
    ]))
}

/// A self-extracting installer states how many lines its script has and how many bytes follow (makeself:
/// `skip=`, `filesizes=`). One that states neither is not judged; one that is shorter than it says is cut
/// off.
fn whole(file: &mut dyn File, size: u64) -> Result<(), String> {
    let io = |e: std::io::Error| e.to_string();
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let mut head = vec![];
    Read::take(&mut *file, 256 << 10).read_to_end(&mut head).map_err(io)?;
    let text = String::from_utf8_lossy(&head);
    let number = |key: &str| {
        let line = text.lines().take(800).find_map(|l| l.strip_prefix(key))?;
        line.trim_matches('"').split_whitespace().map(|n| n.parse::<u64>().ok()).sum::<Option<u64>>()
    };
    let lines = number("skip=").or_else(|| number("SKIP="));
    let (Some(skip), Some(payload)) = (lines, number("filesizes=")) else { return Ok(()) };
    // `skip` is the line at which the payload begins, in makeself's own counting the number of script lines
    // or one more.
    let script: usize = head
        .split_inclusive(|b| *b == b'\n')
        .take(usize::try_from(skip.saturating_sub(1)).unwrap_or(usize::MAX))
        .map(<[u8]>::len)
        .sum();
    let needed = (script as u64).saturating_add(payload);
    if size < needed {
        Err(format!("the file is cut off: it has {size} bytes and says of itself that it needs {needed}"))
    } else {
        Ok(())
    }
}

/// NVIDIA's own file names state the version: `NVD-VGPU-800_535.183.04-1OEM...zip`,
/// `NVIDIA-Linux-x86_64-535.183.01-grid.run`, `cuda_12.2.2_535.104.05_linux.run`.
pub fn from_name(name: &str) -> Vec<PackageContent> {
    let one = |name: &str, version: &str| {
        vec![PackageContent { name: name.into(), version: version.into(), acceptance: None }]
    };
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
        let version =
            name.trim_end_matches(".run").split('-').find(|part| part.parse::<DriverVersion>().is_ok());
        return version.map(|v| one("NVIDIA-Linux-x86_64", v)).unwrap_or_default();
    }
    // A VIB's full version is `535.183.04-1OEM.800.1.0.20613240`; only the driver version is sure from a
    // name.
    let version = name.split(['_', '-']).find(|part| part.parse::<DriverVersion>().is_ok());
    version.map(|v| one("", v)).unwrap_or_default()
}

/// First member of the archive: `descriptor.xml`; and whether the second, `sig.pkcs7`, holds a signature
/// (facts: esxi B1).
fn vib_descriptor(file: &mut dyn File) -> Result<(String, bool), String> {
    let cut_off = "the VIB is cut off";
    let mut header = [0; 68];
    file.read_exact(&mut header).map_err(|_| cut_off)?;
    let (name, size) = member(&header[8..])?;
    if name != "descriptor.xml" || size > MAX_DESCRIPTOR {
        return Err("the VIB does not begin with descriptor.xml".into());
    }
    let mut xml = String::new();
    Read::take(&mut *file, size).read_to_string(&mut xml).map_err(|e| format!("descriptor.xml: {e}"))?;
    if xml.len() as u64 != size {
        return Err(cut_off.into());
    }
    // Members begin at even places.
    let mut next = vec![];
    Read::take(&mut *file, 60 + size % 2).read_to_end(&mut next).map_err(|e| e.to_string())?;
    let signature =
        next.get(usize::from(size % 2 == 1)..).filter(|header| header.len() == 60).ok_or(cut_off)?;
    let (name, size) = member(signature)?;
    Ok((xml, name == "sig.pkcs7" && size > 0))
}

/// Name and size of a member, from its header of an ar archive.
fn member(header: &[u8]) -> Result<(String, u64), String> {
    let text = |range: std::ops::Range<usize>| {
        String::from_utf8_lossy(&header[range]).trim().trim_end_matches('/').to_string()
    };
    Ok((text(0..16), text(48..58).parse().map_err(|_| "a header of the VIB is broken")?))
}

fn held(descriptor: &str) -> Result<PackageContent, String> {
    let vib = vsgpu_core::readers::xml::parse(descriptor)?;
    let text = |tag: &str| vib.child(tag).map(|c| c.text.clone());
    let stated =
        text("name").zip(text("version")).ok_or("the VIB's descriptor.xml states no name and version")?;
    Ok(PackageContent { name: stated.0, version: stated.1, acceptance: text("acceptance-level") })
}

const TOO_MUCH: &str = "the descriptors of this zip file are larger than those of any package";

/// The component that an offline bundle holds, its name and version as Lifecycle Manager knows it.
///
/// # Errors
/// In words, where there is none, or more than one.
pub fn component(file: &mut dyn File) -> Result<(String, String), String> {
    file.seek(SeekFrom::Start(0)).map_err(|e| e.to_string())?;
    let (_, _, mut components) = contents(file)?;
    components.sort();
    components.dedup();
    match components.len() {
        1 => Ok(components.remove(0)),
        0 => Err("it holds no component (a bulletin with name and version of one)".into()),
        n => Err(format!("it holds {n} components: one is expected")),
    }
}

/// Name and version of the component that a bulletin says.
fn component_of(bulletin: &str) -> Option<(String, String)> {
    let bulletin = vsgpu_core::readers::xml::parse(bulletin).ok()?;
    let said = |element: &str, attribute: &str| {
        bulletin.descendants().find(|e| e.name == element)?.attribute(attribute).map(String::from)
    };
    Some((said("componentNameSpec", "name")?, said("componentVersionSpec", "version")?))
}

fn bundle(file: &mut dyn File) -> Result<(Kind, Vec<PackageContent>), String> {
    contents(file).map(|(kind, holds, _)| (kind, holds))
}

type Contents = (Kind, Vec<PackageContent>, Vec<(String, String)>);

/// An offline bundle holds `index.xml` and metadata zips with one descriptor per VIB; a component is said in
/// a bulletin.
fn contents(file: &mut dyn File) -> Result<Contents, String> {
    let mut zip =
        zip::ZipArchive::new(file).map_err(|e| format!("the zip file is broken or cut off: {e}"))?;
    if zip.len() > MAX_MEMBERS {
        return Err(format!("the zip file has {} members; packages have some hundreds at most", zip.len()));
    }
    if zip.index_for_name("index.xml").is_none() {
        // NVIDIA's download is a zip around the packages; nested folders hold the real ones.
        let inner: Vec<String> = zip
            .file_names()
            .filter(|n| n.ends_with(".zip") || n.ends_with(".vib"))
            .take(12)
            .map(String::from)
            .collect();
        return Err(if inner.is_empty() {
            "this zip file is no offline bundle (it has no index.xml)".into()
        } else {
            format!(
                "this is NVIDIA's download, not the package itself; unpack it and use one of: {}",
                inner.join(", ")
            )
        });
    }
    let names: Vec<String> = zip
        .file_names()
        .filter(|n| n.ends_with(".zip") && n.contains("metadata"))
        .map(String::from)
        .collect();
    let (mut holds, mut component, mut left) = (vec![], false, MAX_DESCRIPTORS);
    let mut components = vec![];
    for name in names {
        let mut inner = vec![];
        let metadata = zip.by_name(&name).map_err(|e| format!("{name}: {e}"))?;
        metadata.take(MAX_DESCRIPTOR).read_to_end(&mut inner).map_err(|e| format!("{name}: {e}"))?;
        left = left.checked_sub(inner.len()).ok_or(TOO_MUCH)?;
        let mut inner =
            zip::ZipArchive::new(std::io::Cursor::new(inner)).map_err(|e| format!("{name}: {e}"))?;
        for at in 0..inner.len().min(256) {
            let mut text = vec![];
            let entry = inner.by_index(at).map_err(|e| format!("{name}: {e}"))?;
            let path = entry.name().to_string();
            if !path.ends_with(".xml") {
                continue;
            }
            let read = entry.take(MAX_DESCRIPTOR).read_to_end(&mut text);
            left = left.checked_sub(text.len()).ok_or(TOO_MUCH)?;
            let Some(text) = read.ok().and_then(|_| String::from_utf8(text).ok()) else { continue };
            if path.starts_with("vibs/") {
                holds.push(held(&text).map_err(|why| format!("{name}: {path}: {why}"))?);
            } else if path.starts_with("bulletins/") {
                component |= text.contains("componentNameSpec");
                components.extend(component_of(&text));
            }
        }
    }
    Ok((if component { Kind::Component } else { Kind::OfflineBundle }, holds, components))
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
