//! Whether an archive is one of NVIDIA's CUDA samples: it has the source of deviceQuery and of vectorAdd. Only names
//! are read; what it takes to build them is `vsgpu-cuda-samples`.

use std::io::{Read, Seek};
use vsgpu_core::artifact::PackageContent;
use vsgpu_core::cuda_samples::{PACKAGE, SAMPLES, folder_of, needed, release};

/// Members that are looked at; NVIDIA's archives have some 2,000.
const MOST_MEMBERS: usize = 50_000;
/// What a compressed archive may unpack to before it is given up, bytes.
const MOST_BYTES: u64 = 1 << 30;

/// What a zip file holds, if these are the samples.
pub(crate) fn in_zip(file: impl Read + Seek) -> Option<Vec<PackageContent>> {
    let zip = zip::ZipArchive::new(file).ok().filter(|zip| zip.len() <= MOST_MEMBERS)?;
    let mut seen = Seen::default();
    zip.file_names().for_each(|name| seen.one(name));
    seen.whole()
}

/// The same of a tar file, unpacked as it is read. Names that do not fit into a header are passed over: none of the
/// samples has one, and the reader would take them whole, however long they are.
pub(crate) fn in_tar(file: &mut dyn Read) -> Option<Vec<PackageContent>> {
    let mut archive = tar::Archive::new(file.take(MOST_BYTES));
    let mut seen = Seen::default();
    for member in archive.entries().ok()?.raw(true).take(MOST_MEMBERS) {
        let Ok(member) = member else { break };
        seen.one(&String::from_utf8_lossy(&member.path_bytes()));
        if seen.whole().is_some() {
            break;
        }
    }
    seen.whole()
}

#[derive(Default)]
struct Seen {
    /// For each sample, whether its folder is there.
    found: [bool; SAMPLES.len()],
    release: Option<String>,
}

impl Seen {
    fn one(&mut self, name: &str) {
        self.release = self.release.take().or_else(|| release(name).map(String::from));
        let Some(path) = needed(name) else { return };
        for (found, sample) in self.found.iter_mut().zip(SAMPLES) {
            *found |= folder_of([path.as_str()], sample).is_some();
        }
    }

    fn whole(&self) -> Option<Vec<PackageContent>> {
        let version = self.release.clone().unwrap_or_else(|| "unknown".into());
        let held = PackageContent { name: PACKAGE.into(), version, acceptance: None };
        self.found.iter().all(|found| *found).then(|| vec![held])
    }
}
