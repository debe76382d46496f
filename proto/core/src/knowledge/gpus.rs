//! NVIDIA's data-center GPUs: PCI ids, memory, BAR1, what they can do, and the driver branches that know
//! them.

use crate::knowledge::Basis;
use crate::knowledge::table::rows;
use crate::units::branch_of;
use std::sync::LazyLock;

const TABLE: &str = "gpus.tsv";

/// Whether the open kernel module drives a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenModule {
    /// Only the proprietary one does.
    No,
    /// Both do.
    Optional,
    /// Only the open one does.
    Required,
}

/// One model.
#[derive(Clone, Debug)]
pub struct Model {
    /// Four hexadecimal digits, lower case.
    pub device_id: String,
    /// Subsystem id, where it tells boards of one chip apart.
    pub subsystem_id: Option<String>,
    /// Board name without the maker's.
    pub name: &'static str,
    /// Architecture.
    pub architecture: &'static str,
    /// Memory of one GPU, in GiB.
    pub memory_gib: u64,
    /// GPUs on the board.
    pub per_board: u64,
    /// Size of BAR1 in MiB, where known.
    pub bar1_mib: Option<u64>,
    /// Has ECC.
    pub ecc: bool,
    /// Can be divided by MIG.
    pub mig: bool,
    /// First vGPU release, as far as known (`15.0`, `11.x`).
    pub vgpu_first: Option<&'static str>,
    /// Last vGPU release.
    pub vgpu_last: Option<&'static str>,
    /// First driver branch.
    pub first_branch: Option<u32>,
    /// Last driver branch.
    pub last_branch: Option<u32>,
    /// Kernel module.
    pub open_module: OpenModule,
    /// The part of vGPU type names that stands for it: `A100` in `GRID A100-10C`.
    pub token: &'static str,
    /// Where this comes from. Confirmed are the ids; what is not, the status says in words.
    pub basis: Basis,
    /// Status in words: what is confirmed and what is not.
    pub status: &'static str,
}

static ALL: LazyLock<Vec<Model>> = LazyLock::new(|| {
    let model = |r: crate::knowledge::table::Row| Model {
        device_id: r.get("pci_device_id").to_lowercase(),
        subsystem_id: r.some("pci_subsystem_id").map(str::to_lowercase),
        name: r.get("name"),
        architecture: r.get("arch"),
        memory_gib: r.number("mem_gb_per_gpu").unwrap_or(0),
        per_board: r.number("gpus_per_board").unwrap_or(1),
        bar1_mib: r.number("bar1_mb"),
        ecc: r.get("ecc").starts_with("yes"),
        mig: r.get("mig") == "yes",
        vgpu_first: r.some("vgpu_first_release"),
        vgpu_last: r.some("vgpu_last_release"),
        first_branch: branch_of(r.get("min_driver_branch")),
        last_branch: branch_of(r.get("last_driver_branch")),
        open_module: match r.get("open_kernel_module") {
            "required" => OpenModule::Required,
            "optional" => OpenModule::Optional,
            _ => OpenModule::No,
        },
        token: r.get("vgpu_token"),
        basis: r.basis(TABLE, r.get("name")),
        status: r.get("status"),
    };
    rows(include_str!("../../data/gpus.tsv")).map(model).collect()
});

/// Every model of the table.
pub fn all() -> &'static [Model] {
    &ALL
}

/// The model of a device. Where several boards carry one chip, the subsystem id decides; without it, the
/// first row does.
pub fn by_pci(device_id: &str, subsystem_id: Option<&str>) -> Option<&'static Model> {
    let plain = |id: &str| id.trim().trim_start_matches("0x").to_lowercase();
    let (chip, board) = (plain(device_id), subsystem_id.map(plain));
    let of_chip = || ALL.iter().filter(|m| m.device_id == chip);
    let of_board =
        board.and_then(|board| of_chip().find(|m| m.subsystem_id.as_deref() == Some(board.as_str())));
    of_board.or_else(|| of_chip().next())
}

/// The model that vGPU types name by this token.
pub fn by_token(token: &str) -> Option<&'static Model> {
    ALL.iter().find(|m| m.token.eq_ignore_ascii_case(token))
}

/// Models that people mean by a name such as `A100`, `A100 80GB` or `Tesla T4`.
pub fn named(wish: &str) -> Vec<&'static Model> {
    ALL.iter().filter(|m| is_named(wish, &[m.name, m.token])).collect()
}

/// Whether every word of a wish is a word of one of these names. Whole words: `A10` is no `A100`, `L40` no
/// `L40S`.
pub fn is_named(wish: &str, names: &[&str]) -> bool {
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|w| !w.is_empty())
            .map(str::to_lowercase)
            .collect()
    };
    let said: Vec<String> = names.iter().flat_map(|n| words(n)).collect();
    let wanted: Vec<String> = words(wish).into_iter().filter(|w| w != "nvidia").collect();
    !wanted.is_empty() && wanted.iter().all(|w| said.contains(w))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_whole() {
        assert_eq!(ALL.len(), 45);
        for model in all() {
            assert!(model.device_id.len() == 4 && model.memory_gib > 0 && model.per_board > 0, "{model:?}");
            assert!(model.first_branch.is_some() && !model.basis.source.is_empty(), "{model:?}");
        }
        assert_eq!(by_pci("0x20F1", None).map(|m| (m.token, m.bar1_mib)), Some(("A100", Some(65_536))));
        assert_eq!(by_pci("25b6", Some("157e")).map(|m| m.name), Some("A2"), "one chip, two boards");
    }

    #[test]
    fn names_are_compared_by_whole_words() {
        assert!(
            is_named("A100", &["GA100 [A100 PCIe 40GB]"])
                && is_named("nvidia a100-pcie-40gb", &["GA100 [A100 PCIe 40GB]"])
        );
        assert!(
            !is_named("A10", &["GA100 [A100 PCIe 40GB]"])
                && !is_named("L40", &["L40S"])
                && !is_named("", &["L40S"])
        );
        assert_eq!(named("A100").len(), 4);
    }
}
