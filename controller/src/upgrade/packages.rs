//! The operator's folder of packages: which file is the vGPU manager or the driver of which release. What a
//! file is comes from its content, as everywhere.

use crate::error::{Error, Kind};
use crate::files;
use crate::fleet::package::look;
use std::path::Path;
use vsgpu_core::Artifact;
use vsgpu_core::Requirement;
use vsgpu_core::artifact::Kind as Of;
use vsgpu_core::knowledge::releases::{self, Release};
use vsgpu_core::units::DriverVersion;
use vsgpu_host_agent::host::VgpuManager;

/// Files of a folder that are looked at. What holds more is no folder of packages.
const MOST_FILES: usize = 2_000;
/// Endings of packages.
const ENDINGS: [&str; 5] = [".zip", ".vib", ".run", ".deb", ".rpm"];

/// What a package is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    Manager,
    Daemon,
    Guest,
}

/// One package.
#[derive(Clone, Debug)]
pub struct Found {
    /// As the fleet file will name it.
    pub path: String,
    pub kind: Of,
    version: DriverVersion,
    /// Release of ESXi that a host package is built for, as its name says it: 800.
    built_for: Option<u32>,
    is: For,
}

#[derive(Debug, Default)]
pub struct Packages {
    found: Vec<Found>,
    /// Files that are no packages, and why.
    pub strange: Vec<String>,
}

/// `580.178.05-1OEM.800.1.0.20613240`: 800.
fn built_for(text: &str) -> Option<u32> {
    let rest = text.split("OEM.").nth(1)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A release of ESXi as packages say it: 8.0.3 is 800.
fn esxi_number(version: &str) -> Option<u32> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    let (major, minor) = (parts.next()??, parts.next()??);
    Some(major * 100 + minor * 10)
}

/// The files of a host are built for its ESXi: 8.0 takes 800 and 801.
fn suits(built_for: Option<u32>, esxi: Option<u32>) -> bool {
    built_for.zip(esxi).is_none_or(|(built, runs)| built / 10 == runs / 10)
}

impl Packages {
    /// Reads a folder. `base`: the folder of the fleet file, to which its paths are relative.
    ///
    /// # Errors
    /// It cannot be read, or has too many files.
    pub fn read(folder: &Path, base: &Path) -> Result<Self, Error> {
        let hint = "name the folder with NVIDIA's packages, as they were downloaded and unpacked";
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|e| Error::new(Kind::Usage, format!("{}: {e}", path.display())))
        };
        let here = absolute(folder)?;
        let relative =
            absolute(base).ok().and_then(|base| here.strip_prefix(base).map(Path::to_path_buf).ok());
        let names = files::names_in(folder, MOST_FILES).map_err(|e| e.hint(hint))?;
        let package = |name: &String| ENDINGS.iter().any(|ending| name.to_lowercase().ends_with(ending));
        let mut all = Self::default();
        for name in names.into_iter().filter(package) {
            match look(&here.join(&name)) {
                Ok(artifact) => {
                    let path = relative.as_ref().unwrap_or(&here).join(&name).display().to_string();
                    all.found.extend(known(&artifact, &name, path));
                }
                Err(error) => all.strange.push(error.message),
            }
        }
        Ok(all)
    }

    /// Releases of which a vGPU manager and a driver are there.
    pub fn releases(&self) -> Vec<&'static Release> {
        let has =
            |is: For, version: &DriverVersion| self.found.iter().any(|f| f.is == is && f.version == *version);
        let both = |r: &&'static Release| {
            has(For::Manager, &r.host) && r.guest.as_ref().is_some_and(|guest| has(For::Guest, guest))
        };
        releases::all().iter().filter(both).collect()
    }

    /// The package of a host in the place of another one.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn for_host(
        &self,
        requirement: &str,
        release: &Release,
        like: &Artifact,
        esxi: Option<&str>,
    ) -> Result<&Found, String> {
        let (is, what) = match requirement {
            VgpuManager::NAME => (For::Manager, "vGPU manager"),
            _ => (For::Daemon, "GPU management daemon"),
        };
        let esxi = esxi.and_then(esxi_number).or_else(|| built_for(like.version().unwrap_or_default()));
        let esxi = esxi.or_else(|| built_for(like.file_name()));
        let fits = |f: &&Found| f.is == is && f.version == release.host && suits(f.built_for, esxi);
        let all: Vec<&Found> = self.found.iter().filter(fits).collect();
        let same = all.iter().find(|f| Some(f.kind) == like.kind);
        same.or(all.first()).copied().ok_or_else(|| {
            let on = esxi.map_or(String::new(), |n| format!(" for ESXi {}.{}", n / 100, n / 10 % 10));
            format!("{what} {} of vGPU {}{on}", release.host, release.name)
        })
    }

    /// The driver of a guest in the place of another one: of the same kind, a `.deb` for a `.deb`.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn for_guest(&self, release: &Release, like: &Artifact) -> Result<&Found, String> {
        let ending = |name: &str| name.rsplit('.').next().unwrap_or_default().to_lowercase();
        let wanted = ending(like.file_name());
        let fits = |f: &&Found| {
            f.is == For::Guest && Some(&f.version) == release.guest.as_ref() && ending(&f.path) == wanted
        };
        self.found.iter().find(fits).ok_or_else(|| {
            let version = release.guest.as_ref().map_or("?".into(), ToString::to_string);
            format!("Linux driver {version} (-grid, .{wanted}) of vGPU {}", release.name)
        })
    }
}

fn known(artifact: &Artifact, name: &str, path: String) -> Option<Found> {
    let kind = artifact.kind?;
    let stated = artifact.version()?;
    let version = DriverVersion::leading(stated)?;
    let lower = name.to_lowercase();
    let is = match kind {
        Of::Vib | Of::OfflineBundle | Of::Component => {
            let held = artifact.holds.iter().any(|held| held.name.to_lowercase().contains("mgmt"));
            if held || lower.contains("mgmt") { For::Daemon } else { For::Manager }
        }
        Of::Run | Of::Deb | Of::Rpm if lower.contains("grid") => For::Guest,
        _ => return None,
    };
    let built_for = built_for(stated).or_else(|| built_for(name)).filter(|_| is != For::Guest);
    Some(Found { path, kind, version, built_for, is })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_suits_the_esxi_that_it_is_built_for() {
        assert_eq!(built_for("580.178.05-1OEM.800.1.0.20613240"), Some(800));
        assert_eq!(built_for("NVD-VGPU-900_580.65.05-1OEM.900.0.24755229.zip"), Some(900));
        assert_eq!(
            (esxi_number("8.0.3"), esxi_number("6.7.0"), esxi_number("x")),
            (Some(800), Some(670), None)
        );
        assert!(suits(Some(800), Some(800)) && suits(Some(802), Some(800)) && suits(None, Some(900)));
        assert!(!suits(Some(900), Some(800)) && !suits(Some(700), Some(670)));
    }
}
