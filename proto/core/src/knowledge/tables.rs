//! The tables: tab-separated text with a heading, part of the program, each with its date, and what tells its
//! rows apart. The tests read every row.

/// One table of `proto/core/data`.
#[derive(Debug)]
pub struct Table {
    /// Name of the file, `gpus.tsv`.
    pub file: &'static str,
    /// What it says.
    pub about: &'static str,
    /// Year and month of its last change.
    pub date: &'static str,
    /// Where its publisher says it.
    pub published: &'static str,
    /// Columns that tell its rows apart.
    pub key: &'static [&'static str],
    text: &'static str,
}

macro_rules! table {
    ($file:literal, $key:expr, $about:literal, $published:literal) => {
        Table {
            file: $file,
            about: $about,
            date: crate::knowledge::TABLES_OF,
            published: $published,
            key: &$key,
            text: include_str!(concat!("../../data/", $file)),
        }
    };
}

/// All tables.
pub static TABLES: [Table; 11] = [
    table!(
        "gpus.tsv",
        ["name"],
        "PCI ids, memory, BAR1, vGPU releases",
        "docs.nvidia.com/vgpu: supported GPUs; the README of NVIDIA/open-gpu-kernel-modules: PCI ids"
    ),
    table!(
        "vgpu_types.tsv",
        ["gpu_token", "type_name"],
        "vGPU profiles",
        "docs.nvidia.com/vgpu: user guide, virtual GPU types; `nvidia-smi vgpu -s -v` on a host"
    ),
    table!(
        "vgpu_releases.tsv",
        ["vgpu_release"],
        "vGPU releases",
        "docs.nvidia.com/vgpu: the list of releases, release notes for VMware vSphere"
    ),
    table!(
        "vgpu_packages_vsphere.tsv",
        ["vgpu_release", "vsphere"],
        "vGPU packages",
        "NVIDIA Licensing Portal: software downloads"
    ),
    table!(
        "vgpu_compat_rules.tsv",
        ["host_major", "guest_major"],
        "driver pairs",
        "docs.nvidia.com/vgpu: release notes, compatibility"
    ),
    table!(
        "vgpu_protocol_versions.tsv",
        ["driver_branch"],
        "vGPU protocols",
        "NVIDIA/open-gpu-kernel-modules: vgpu_version.h"
    ),
    table!(
        "cuda_driver.tsv",
        ["toolkit"],
        "CUDA and drivers",
        "docs.nvidia.com/cuda: release notes, CUDA driver versions"
    ),
    table!(
        "mig_placements.tsv",
        ["gpu_token", "profile"],
        "MIG profiles",
        "docs.nvidia.com/datacenter/tesla/mig-user-guide; `nvidia-smi mig -lgipp`"
    ),
    table!("gpu_peaks.tsv", ["name"], "memory bandwidths", "datasheets of the GPUs"),
    table!(
        "performance.tsv",
        ["workload", "way", "users", "what", "source"],
        "measured speed of each way",
        "MLCommons results; papers named in the rows"
    ),
    table!("xid_codes.tsv", ["xid"], "Xid errors", "docs.nvidia.com/deploy/xid-errors"),
];

/// The table of that file.
pub(super) fn of_file(file: &str) -> Option<&'static Table> {
    TABLES.iter().find(|table| table.file == file)
}

impl Table {
    /// Its name: the file's, without its ending.
    pub fn name(&self) -> &'static str {
        self.file.trim_end_matches(".tsv")
    }

    /// Names of the columns.
    pub fn columns(&self) -> Vec<&'static str> {
        self.text.lines().next().unwrap_or_default().split('\t').collect()
    }

    /// The rows that the program brings.
    pub fn built_in(&self) -> impl Iterator<Item = Vec<&'static str>> {
        self.text.lines().skip(1).filter(|line| !line.is_empty()).map(|line| line.split('\t').collect())
    }

    /// Cells of the key, by their places.
    pub(super) fn key_of(&self, cells: &[&str]) -> Vec<String> {
        let columns = self.columns();
        let cell = |name: &&str| {
            let at = columns.iter().position(|column| column == name);
            at.and_then(|at| cells.get(at)).map(|cell| cell.trim().to_lowercase()).unwrap_or_default()
        };
        self.key.iter().map(cell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_source_and_its_table_a_date() {
        for table in &TABLES {
            let columns = table.columns();
            let source = columns.iter().position(|c| *c == "source");
            let source = source.unwrap_or_else(|| panic!("{} has no source", table.file));
            let (year, month) = table.date.split_once('-').unwrap_or_default();
            assert!(
                year.parse::<u32>().is_ok_and(|y| y >= 2026) && month.parse::<u32>().is_ok_and(|m| m <= 12),
                "{}: {}",
                table.file,
                table.date
            );
            assert!(table.key.iter().all(|key| columns.contains(key)), "{}: {:?}", table.file, table.key);
            let mut seen = std::collections::HashSet::new();
            for cells in table.built_in() {
                let key = table.key_of(&cells);
                assert!(cells.len() <= columns.len(), "{}: {key:?} has too many cells", table.file);
                assert!(cells.get(source).is_some_and(|s| !s.is_empty()), "{}: {key:?}", table.file);
                assert!(seen.insert(key.clone()), "{}: {key:?} is there twice", table.file);
            }
            assert!(!seen.is_empty());
        }
    }
}
