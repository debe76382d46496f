//! Where vGPUs may lie on a GPU: places of MIG instances, placement ids in mixed-size mode, most of one size.
//!
//! Sources: MIG: `mig_placements.tsv` (`nvidia-smi mig -lgipp` of real boards). Mixed-size mode: the tables of NVIDIA's AI
//! Enterprise user guide 5.0, appendix B, for boards of 94, 80, 64, 48, 40, 32, 24, 20 and 16 GB; one rule gives every
//! row of them ([`mixed_starts`]).

use crate::knowledge::Basis;
use crate::knowledge::gpus::{self, Model};
use crate::knowledge::table::rows;
use crate::knowledge::vgpu_types::{self, VgpuType};
use std::sync::LazyLock;

const TABLE: &str = "mig_placements.tsv";
/// vGPUs on one GPU, whatever their size (facts: nvidia 4).
const MOST: u64 = 32;
const MIB_PER_GB: u64 = 1024;

/// A kind of GPU instance that a MIG GPU can be divided into.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The GPU's part of vGPU type names.
    pub token: &'static str,
    /// `1g.10gb`, `1g.10gb+me`.
    pub profile: &'static str,
    /// Compute slices.
    pub slices: u64,
    /// Units of the GPU's memory that it takes.
    pub units: usize,
    /// Where it may begin, in units.
    pub starts: Vec<usize>,
    /// Most of them on one GPU.
    pub max: u64,
    /// Where this comes from.
    pub basis: Basis,
}

static INSTANCES: LazyLock<Vec<Instance>> = LazyLock::new(|| {
    let of_row = |r: crate::knowledge::table::Row| Instance {
        token: r.get("gpu_token"),
        profile: r.get("profile"),
        slices: r.number("compute_slices").unwrap_or(0),
        units: r.number("memory_slices").unwrap_or(0) as usize,
        starts: r.get("starts").split(',').filter_map(|start| start.parse().ok()).collect(),
        max: r.number("max").unwrap_or(0),
        basis: r.basis(TABLE, format!("{} {}", r.get("gpu_token"), r.get("profile"))),
    };
    rows("mig_placements.tsv").map(of_row).collect()
});

/// Every kind of instance of a GPU.
pub fn instances(token: &str) -> impl Iterator<Item = &'static Instance> {
    INSTANCES.iter().filter(move |i| i.token.eq_ignore_ascii_case(token))
}

/// Units of memory of a GPU that is divided by MIG: the end of the furthest instance.
pub fn units(token: &str) -> usize {
    instances(token).flat_map(|i| i.starts.iter().map(|start| start + i.units)).max().unwrap_or(0)
}

/// Gigabytes in `1g.10gb+me`.
fn gigabytes(profile: &str) -> Option<u64> {
    profile.split_once('.')?.1.split_once("gb")?.0.parse().ok()
}

/// The instance that a MIG-backed type lies in, and how many of that type share one.
pub fn instance_of(vgpu: &VgpuType) -> Option<(&'static Instance, u64)> {
    let slices = vgpu.mig_slices?;
    let name = vgpu.name.to_uppercase();
    let kind = match () {
        () if name.ends_with("ME") => "+me",
        () if name.ends_with("GFX") => "+gfx",
        () => "",
    };
    let of_kind = |i: &&Instance| {
        i.slices == slices && i.profile.rsplit_once("gb").is_some_and(|(_, behind)| behind == kind)
    };
    // The smallest that is large enough: a type may be a part of an instance.
    let memory = |i: &Instance| gigabytes(i.profile).unwrap_or(0) * MIB_PER_GB;
    let fitting = instances(vgpu.token).filter(of_kind).filter(|i| memory(i) >= vgpu.size_mib);
    let instance = fitting.min_by_key(|i| memory(i))?;
    Some((instance, (memory(instance) / vgpu.size_mib.max(1)).max(1)))
}

/// The largest time-sliced type of a GPU, in GB: what places in mixed-size mode are counted in.
pub fn region_gb(token: &str) -> u64 {
    let sizes = vgpu_types::of_token(token).filter(|t| !t.mig).map(|t| t.size_mib);
    let listed = sizes.max().unwrap_or(0) / MIB_PER_GB;
    if listed > 0 { listed } else { gpus::by_token(token).map_or(0, |m| m.memory_gib) }
}

/// Places of a vGPU of so many GB in mixed-size mode, on a GPU of so many: halves of halves, the left one at its
/// beginning, the right one against its end. Boards of Blackwell with 96 GB have them side by side (one source).
pub fn mixed_starts(token: &str, region: u64, size: u64) -> Vec<usize> {
    if size == 0 || size > region {
        return vec![];
    }
    if token.to_lowercase().contains("blackwell") {
        return (0..region / size).map(|n| (n * size) as usize).collect();
    }
    let most = 1 << (region / size).ilog2();
    if most == 1 {
        return vec![0];
    }
    let pair = |n: u64| {
        let (from, to) = (2 * n * region / most, 2 * (n + 1) * region / most);
        [from as usize, (to - size) as usize]
    };
    (0..most / 2).flat_map(pair).collect()
}

/// NVIDIA has a table of places in mixed-size mode for boards of this memory; for others the rule is taken to hold, or
/// comes from one source.
pub fn places_are_published(token: &str) -> bool {
    matches!(region_gb(token), 94 | 80 | 64 | 48 | 40 | 32 | 24 | 20 | 16)
}

/// Whether a GPU takes vGPUs of several sizes at once on ESXi, and where that comes from.
pub fn takes_mixed(model: &Model) -> bool {
    matches!(model.architecture, "Ampere" | "Ada" | "Hopper" | "Blackwell" | "Blackwell Ultra")
        && !model.name.contains("A5000")
        // One type only: nothing to mix.
        && vgpu_types::of_token(model.token).filter(|t| !t.mig).map(|t| t.size_mib).min()
            != vgpu_types::of_token(model.token).filter(|t| !t.mig).map(|t| t.size_mib).max()
}

/// Most vGPUs of a type on one GPU where all have one size: as published, never more than its memory holds.
pub fn most_of_one_size(vgpu: &VgpuType) -> u64 {
    let memory =
        gpus::by_token(vgpu.token).map_or_else(|| region_gb(vgpu.token), |m| m.memory_gib) * MIB_PER_GB;
    let by_memory = (memory / vgpu.size_mib.max(1)).clamp(1, MOST);
    vgpu.max.map_or(by_memory, |published| published.min(by_memory))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of NVIDIA's own tables.
    #[test]
    fn places_in_mixed_size_mode_are_those_of_the_guide() {
        let starts = |region, size| mixed_starts("A100D", region, size);
        assert_eq!(starts(80, 16), [0, 24, 40, 64]);
        assert_eq!(starts(80, 8), [0, 12, 20, 32, 40, 52, 60, 72]);
        assert_eq!(starts(80, 4), [0, 6, 10, 16, 20, 26, 30, 36, 40, 46, 50, 56, 60, 66, 70, 76]);
        assert_eq!(starts(94, 15), [0, 32, 47, 79]);
        assert_eq!(starts(94, 11), [0, 12, 23, 36, 47, 59, 70, 83]);
        assert_eq!(starts(48, 16), [0, 32]);
        assert_eq!(starts(48, 8), [0, 16, 24, 40]);
        assert_eq!((starts(80, 80), starts(80, 81)), (vec![0], vec![]));
        assert_eq!(mixed_starts("RTX Pro 6000 Blackwell DC", 96, 32), [0, 32, 64]);
    }

    #[test]
    fn where_the_table_of_types_knows_a_maximum_for_mixed_sizes_the_rule_says_the_same() {
        let mut seen = 0;
        for vgpu in vgpu_types::all().iter().filter(|t| !t.mig) {
            let region = region_gb(vgpu.token);
            // NVIDIA prints other numbers for boards of 141 GB and for the H20 with 96 GB, and no table of places.
            if matches!(region, 141 | 140 | 96) {
                continue;
            }
            if let Some(max) = vgpu.max_mixed {
                seen += 1;
                let places = mixed_starts(vgpu.token, region, vgpu.size_mib / MIB_PER_GB).len() as u64;
                assert_eq!(places, max, "{} on {region} GB", vgpu.name);
            }
        }
        assert!(seen > 30, "{seen}");
    }

    #[test]
    fn types_lie_in_the_instances_of_their_gpu() {
        let of = |name: &str| {
            let (instance, share) = instance_of(vgpu_types::find(name).unwrap()).unwrap();
            (instance.profile, instance.units, share)
        };
        assert_eq!(of("h100-1-10c"), ("1g.10gb", 1, 1));
        assert_eq!(of("h100-1-20c"), ("1g.20gb", 2, 1));
        assert_eq!(of("h100-1-10cme"), ("1g.10gb+me", 1, 1));
        assert_eq!(of("a30-2-12c"), ("2g.12gb", 2, 1));
        assert_eq!(of("rtx_pro_6000_blackwell_dc-1-8c"), ("1g.24gb", 3, 3));
        assert_eq!(
            (units("H100"), units("A30"), units("RTX Pro 6000 Blackwell DC"), units("L40S")),
            (8, 4, 12, 0)
        );
        // Every MIG-backed type has one, and the most that NVIDIA prints are those that the places give.
        let mut odd = vec![];
        for vgpu in vgpu_types::all().iter().filter(|t| t.mig) {
            let Some((instance, share)) = instance_of(vgpu) else {
                odd.push(vgpu.name);
                continue;
            };
            if vgpu.max.is_some_and(|max| max != instance.max * share) {
                odd.push(vgpu.name);
            }
        }
        // These three and their twins seem to be of another board.
        odd.retain(|name| !["-2-8", "-1-16", "-2-32"].iter().any(|part| name.contains(part)));
        assert!(odd.is_empty(), "{odd:?}");
    }
}
