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
    rows("gpus.tsv").map(model).collect()
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

/// Names as `nvidia-smi -L` prints them that say less than the table's own, with the token of the board (names of the
/// devices in NVIDIA/open-gpu-kernel-modules, README.md).
const DRIVER_NAMES: [(&str, &str); 7] = [
    ("NVIDIA H100 80GB HBM3", "H100XM"),
    ("NVIDIA H200", "H200X"),
    ("NVIDIA H800", "H800XM"),
    ("NVIDIA H20", "H20"),
    ("NVIDIA H20-3e", "H20X"),
    ("NVIDIA GH200 120GB", "GH200"),
    ("NVIDIA GH200 480GB", "GH200"),
];
/// Words of the driver's names that tell no board from another.
const NO_NAME: [&str; 6] = ["nvidia", "generation", "hbm2", "hbm2e", "hbm3", "hbm3e"];

/// The board that the driver calls so, where its name alone would mean several.
pub fn by_driver_name(name: &str) -> Option<&'static Model> {
    let known = DRIVER_NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name.trim()));
    known.and_then(|(_, token)| by_token(token))
}

/// Models that people mean by a name such as `A100`, `A100 80GB` or `Tesla T4`, or by what `nvidia-smi -L` prints.
pub fn named(wish: &str) -> Vec<&'static Model> {
    if let Some(model) = by_driver_name(wish) {
        return vec![model];
    }
    ALL.iter().filter(|m| is_named(wish, &[m.name, m.token])).collect()
}

/// The name that was meant by one of no GPU: other signs between its letters, or two of them in another
/// order. One letter or digit more or less is mostly another model: `H20` is no `H200`, `GB200` no `GH200`.
pub fn nearest(wish: &str) -> Option<&'static str> {
    let plain = |text: &str| -> Vec<char> {
        text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
    };
    let sorted = |mut letters: Vec<char>| {
        letters.sort_unstable();
        letters
    };
    let own = plain(wish);
    let near = |name: &&str| {
        let theirs = plain(name);
        let moved = theirs.iter().zip(&own).filter(|(a, b)| a != b).count();
        moved <= 2 && sorted(theirs) == sorted(own.clone())
    };
    ALL.iter().flat_map(|m| [m.token, m.name]).find(near)
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
    let wanted: Vec<String> = words(wish).into_iter().filter(|w| !NO_NAME.contains(&w.as_str())).collect();
    !wanted.is_empty() && wanted.iter().all(|w| said.contains(w))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_no_other_number() {
        for (wish, near) in [
            ("RTXA600O", None),
            ("GB200", None),
            ("RTX 4090", None),
            ("L4OS", None),
            ("A10M", None),
            ("L4S0", Some("L40S")),
            ("RTX6000Ada", Some("RTX6000-Ada")),
            ("RXTA6000", Some("RTXA6000")),
        ] {
            assert_eq!(nearest(wish), near, "{wish}");
        }
    }

    #[test]
    fn names_as_the_driver_prints_them_are_one_board() {
        for (name, token) in [
            ("NVIDIA H100 80GB HBM3", "H100XM"),
            ("NVIDIA H100 PCIe", "H100"),
            ("NVIDIA H100 NVL", "H100L"),
            ("NVIDIA H200", "H200X"),
            ("NVIDIA H200 NVL", "H200"),
            ("NVIDIA RTX 6000 Ada Generation", "RTX6000-Ada"),
            ("NVIDIA RTX 5000 Ada Generation", "RTX5000-Ada"),
            ("NVIDIA A100-SXM4-80GB", "A100DX"),
            ("NVIDIA A100-PCIE-40GB", "A100"),
            ("NVIDIA A100 80GB PCIe", "A100D"),
            ("Tesla V100-SXM2-16GB", "V100X"),
            ("Tesla T4", "T4"),
            ("NVIDIA L40S", "L40S"),
            ("NVIDIA B200", "B200X"),
            ("NVIDIA RTX A6000", "RTXA6000"),
            ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX Pro 6000 Blackwell DC"),
        ] {
            assert_eq!(named(name).iter().map(|m| m.token).collect::<Vec<_>>(), [token], "{name}");
        }
    }

    #[test]
    fn the_table_is_read_whole() {
        assert_eq!(ALL.len(), 59);
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
