//! vGPU types: names, sizes, how many fit on a GPU, what they can do. For planning and for refusing nonsense;
//! the host's own list of supported types always wins.

use crate::knowledge::Basis;
use crate::knowledge::table::rows;
use std::collections::HashMap;
use std::sync::LazyLock;

const TABLE: &str = "vgpu_types.tsv";

/// One type.
#[derive(Clone, Debug)]
pub struct VgpuType {
    /// The GPU's part of the name.
    pub token: &'static str,
    /// `GRID A100-10C`.
    pub name: &'static str,
    /// As vSphere spells it.
    pub profile: &'static str,
    /// `A`, `B`, `C` or `Q`.
    pub series: &'static str,
    /// Backed by a MIG GPU instance.
    pub mig: bool,
    /// Slices of that instance.
    pub mig_slices: Option<u64>,
    /// Frame buffer, in MiB.
    pub size_mib: u64,
    /// Most of them on one GPU, where published.
    pub max: Option<u64>,
    /// The same where sizes are mixed.
    pub max_mixed: Option<u64>,
    /// Device and subsystem id in the guest.
    pub pci: Option<(String, String)>,
    /// License editions.
    pub editions: &'static str,
    /// Runs CUDA.
    pub cuda: bool,
    /// Supports ECC.
    pub ecc: Option<bool>,
    /// Where this comes from.
    pub basis: Basis,
}

static ALL: LazyLock<Vec<VgpuType>> = LazyLock::new(|| {
    let flag = |text: &str| match text {
        "1" => Some(true),
        "0" => Some(false),
        _ => None,
    };
    let of_row = |r: crate::knowledge::table::Row| VgpuType {
        token: r.get("gpu_token"),
        name: r.get("type_name"),
        profile: r.get("vsphere_profile_guess"),
        series: r.get("series"),
        mig: r.get("kind") == "mig-backed",
        mig_slices: r.number("mig_slices"),
        size_mib: r.number("profile_mb").unwrap_or(0),
        max: r.number("max_per_gpu"),
        max_mixed: r.number("max_per_gpu_mixed_size"),
        pci: r
            .some("pci_device_id")
            .zip(r.some("pci_subsystem_id"))
            .map(|(d, s)| (d.to_lowercase(), s.to_lowercase())),
        editions: r.get("license_editions"),
        cuda: flag(r.get("cuda")).unwrap_or(matches!(r.get("series"), "C" | "Q")),
        ecc: flag(r.get("ecc_capable")),
        basis: r.basis(TABLE, r.get("type_name")),
    };
    rows("vgpu_types.tsv").map(of_row).collect()
});

/// Every type.
pub fn all() -> &'static [VgpuType] {
    &ALL
}

/// What simulated machines put behind names, so that nobody takes them for real ones.
pub const SIMULATED: &str = " (simulated)";

/// Name and profile say the same in two spellings, and the family in front was changed from GRID to NVIDIA at
/// some time: what is left is `a100-10c`.
pub fn plain(name: &str) -> String {
    let name = of_vsphere(name);
    name.strip_prefix("grid_").or_else(|| name.strip_prefix("nvidia_")).unwrap_or(&name).to_string()
}

/// A type's name as vSphere takes it for a profile: `grid_a100-10c` for `GRID A100-10C` (facts: nvidia 4).
pub fn of_vsphere(name: &str) -> String {
    name.trim().trim_end_matches(SIMULATED).trim().to_lowercase().replace(' ', "_")
}

/// What tells a profile from others of its board: `8c`, of MIG `3-40c`.
pub fn short(profile: &str) -> &str {
    let is_size = |c: char| c.is_ascii_digit() || c == '-';
    let behind = profile.rsplit_once('-').map_or(profile, |(_, size)| size);
    let before = profile.len() - behind.len();
    let slices = profile[..before].trim_end_matches('-').rsplit_once('-').map_or("", |(_, s)| s);
    match !slices.is_empty() && slices.chars().all(is_size) {
        true => &profile[before - slices.len() - 1..],
        false => behind,
    }
}

/// Place of each in the table, by its plain name.
static BY_NAME: LazyLock<HashMap<String, usize>> = LazyLock::new(|| {
    // The first row of a name counts.
    ALL.iter().enumerate().rev().map(|(at, t)| (plain(t.profile), at)).collect()
});

/// The type that a profile or a type name means.
pub fn find(name: &str) -> Option<&'static VgpuType> {
    BY_NAME.get(&plain(name)).map(|at| &ALL[*at])
}

/// The type of a vGPU by what its guest sees on the PCI bus.
pub fn by_pci(device_id: &str, subsystem_id: &str) -> Option<&'static VgpuType> {
    ALL.iter().find(|t| t.pci.as_ref().is_some_and(|(d, s)| d == device_id && s == subsystem_id))
}

/// Types of the GPU with this token.
pub fn of_token(token: &str) -> impl Iterator<Item = &'static VgpuType> {
    ALL.iter().filter(move |t| t.token.eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_whole() {
        assert_eq!(ALL.len(), 1261);
        for t in all() {
            assert!(!t.token.is_empty() && t.max != Some(0) && !t.profile.is_empty(), "{t:?}");
        }
        let p100 = find("grid_p100-8q").expect("P100-8Q");
        assert_eq!((p100.size_mib, p100.max, p100.series), (8192, Some(2), "Q"));
        assert_eq!(find("NVIDIA A100-10C").map(|t| t.name), find("grid_a100-10c").map(|t| t.name));
        assert!(find("grid_a100-9c").is_none());
    }
}
