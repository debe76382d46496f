//! A GPU of the glance as a bar to scale by its frame buffer: whose part is where, and what is free.

use crate::monitoring::top::summary::{Gpu, Vgpu};
use crate::picture::{Part, WHOLE};
use vsgpu_core::knowledge::placement::most_of_one_size;
use vsgpu_core::knowledge::vgpu_types::{self, SIMULATED};

/// `3.5 GiB`, `12 GiB`.
pub fn gib(bytes: f64) -> String {
    let gib = bytes / f64::from(1 << 30);
    if gib < 10.0 && gib.fract() > 0.05 { format!("{gib:.1} GiB") } else { format!("{gib:.0} GiB") }
}

/// The type in words.
fn named(vgpu: &Vgpu) -> String {
    let mark = if vgpu.profile.ends_with(SIMULATED) { SIMULATED } else { "" };
    vgpu_types::plain(&vgpu.profile) + mark
}

/// Its frame buffer as its types count it. What the driver reports is less: it keeps some for itself, and ECC takes some.
fn whole(gpu: &Gpu) -> Option<f64> {
    let nominal = |vgpu: &Vgpu| {
        let known = vgpu_types::find(&vgpu.profile).filter(|known| !known.mig)?;
        Some((most_of_one_size(known) * known.size_mib) as f64 * 1_048_576.0)
    };
    let types = gpu.vgpus.iter().filter_map(nominal);
    types.chain(gpu.memory_total_bytes).filter(|bytes| *bytes > 0.0).max_by(f64::total_cmp)
}

/// Who has it, and how much of it. Placement is not known here: vGPUs stand one after the other.
pub fn parts(gpu: &Gpu) -> Vec<Part> {
    if let [first, ..] = gpu.vms.as_slice() {
        let label = if gpu.vms.len() == 1 { first.clone() } else { format!("{first} and others") };
        let title = format!("whole GPU of {}", gpu.vms.join(", "));
        return vec![Part { label, kind: "whole".into(), title, start: 0, size: WHOLE }];
    }
    let Some(whole) = whole(gpu) else { return vec![] };
    let mut next = 0;
    let mut all = vec![];
    for vgpu in &gpu.vgpus {
        let size = vgpu.memory_total_bytes.map_or(0.0, |bytes| bytes / whole * WHOLE as f64) as usize;
        let size = size.min(WHOLE - next);
        let kind = vgpu_types::plain(&vgpu.profile);
        let label = vgpu_types::short(&kind).to_string();
        all.push(Part { label, kind, title: said(vgpu), start: next, size });
        next += size;
    }
    all
}

/// Whose a vGPU is, and the rest of it in words.
pub fn said(vgpu: &Vgpu) -> String {
    let license = match vgpu.licensed {
        Some(true) => ", licensed",
        Some(false) => ", UNLICENSED",
        None => "",
    };
    format!("{}: {}{license}", vgpu.vm, of_vgpu(vgpu))
}

/// A vGPU in words: its type, and how full it is.
pub fn of_vgpu(vgpu: &Vgpu) -> String {
    let used = match (vgpu.memory_used_bytes, vgpu.memory_total_bytes) {
        (Some(used), Some(of)) => format!(", {} of {} in use", gib(used), gib(of)),
        _ => String::new(),
    };
    format!("{}{used}", named(vgpu))
}

/// What is free on it, in words; nothing where that cannot be known. Of vGPUs of one type, but of MIG's: how many more of
/// it, as NVIDIA's tables say.
pub fn room(gpu: &Gpu) -> Option<String> {
    match (gpu.vms.as_slice(), gpu.one_of.as_slice(), gpu.passthrough) {
        ([], [], true) => return Some("no running VM has it".into()),
        ([], some, true) => {
            return Some(format!(
                "not known whether it is taken: vSphere picked GPUs for {}",
                some.join(", ")
            ));
        }
        (vms @ [_, ..], ..) => return Some(format!("whole GPU of {}", vms.join(", "))),
        _ => {}
    }
    let Some(first) = gpu.vgpus.first() else {
        return Some(format!("{} free", gib(gpu.memory_total_bytes?)));
    };
    let same = gpu.vgpus.iter().all(|vgpu| vgpu.profile == first.profile);
    if let Some(known) = vgpu_types::find(&first.profile).filter(|known| same && !known.mig) {
        let most = most_of_one_size(known) as usize;
        return Some(match most.saturating_sub(gpu.vgpus.len()) {
            0 => format!("full: {most} of {most} {}", named(first)),
            more => format!("room for {more} more {}", named(first)),
        });
    }
    let sizes: Vec<f64> = gpu.vgpus.iter().map(|vgpu| vgpu.memory_total_bytes).collect::<Option<_>>()?;
    let free = (whole(gpu)? - sizes.iter().sum::<f64>()).max(0.0);
    Some(format!("about {} free; `vsgpu fit --current` says what fits", gib(free)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: f64 = (1u64 << 30) as f64;

    fn vgpu(vm: &str, profile: &str, of: f64) -> Vgpu {
        Vgpu {
            vm: vm.into(),
            profile: profile.into(),
            utilization_ratio: None,
            memory_used_bytes: Some(GIB),
            memory_total_bytes: Some(of * GIB),
            licensed: Some(true),
            guest_driver: String::new(),
        }
    }

    #[test]
    fn vgpus_stand_to_scale_and_what_is_free_is_said() {
        let gpu = Gpu {
            memory_total_bytes: Some(40.0 * GIB),
            vgpus: vec![vgpu("a", "grid_a100-10c", 10.0), vgpu("b", "grid_a100-10c", 10.0)],
            ..Gpu::default()
        };
        let parts = parts(&gpu);
        assert_eq!(parts.iter().map(|p| (p.start, p.size)).collect::<Vec<_>>(), [(0, 250), (250, 250)]);
        assert_eq!(parts[0].label, "10c");
        assert!(parts[0].title.contains("1 GiB of 10 GiB in use, licensed"), "{}", parts[0].title);
        assert_eq!(room(&gpu).as_deref(), Some("room for 2 more a100-10c"));
    }

    /// What drivers really report is less than the types add up to.
    #[test]
    fn a_board_is_full_when_its_table_says_so() {
        let board = |mib: f64, profile: &str, of: f64, vgpus: usize| Gpu {
            memory_total_bytes: Some(mib * 1_048_576.0),
            vgpus: (0..vgpus).map(|n| vgpu(&format!("vm-{n}"), profile, of)).collect(),
            ..Gpu::default()
        };
        for (gpu, said) in [
            (board(46_068.0, "grid_a40-12q", 12.0, 3), "room for 1 more a40-12q"),
            (board(46_068.0, "grid_a40-12q", 12.0, 4), "full: 4 of 4 a40-12q"),
            (board(81_559.0, "grid_h100-40c", 40.0, 1), "room for 1 more h100-40c"),
            (board(15_360.0, "grid_t4-4q", 4.0, 3), "room for 1 more t4-4q"),
            (board(46_068.0, "grid_a40-1b", 1.0, 31), "room for 1 more a40-1b"),
        ] {
            assert_eq!(room(&gpu).as_deref(), Some(said));
            let parts = parts(&gpu);
            assert!(parts.windows(2).all(|two| two[0].size == two[1].size), "to scale: {parts:?}");
        }
        // MIG's places are no matter of memory alone: no number.
        let mig = room(&board(40_960.0, "grid_a100-1-5c", 4.75, 2)).unwrap();
        assert!(mig.starts_with("about ") && mig.contains("vsgpu fit"), "{mig}");
    }

    #[test]
    fn a_whole_gpu_is_one_part_and_an_unknown_size_is_no_guess() {
        let whole = Gpu { passthrough: true, vms: vec!["vm-a".into()], ..Gpu::default() };
        assert_eq!((parts(&whole)[0].size, room(&whole).as_deref()), (WHOLE, Some("whole GPU of vm-a")));
        let nobody = Gpu { passthrough: true, ..Gpu::default() };
        assert_eq!((parts(&nobody).len(), room(&nobody).as_deref()), (0, Some("no running VM has it")));
        let unknown = Gpu {
            vgpus: vec![Vgpu { memory_total_bytes: None, ..vgpu("a", "x-8q", 8.0) }],
            ..Gpu::default()
        };
        assert_eq!((parts(&unknown).len(), room(&unknown)), (0, None));
    }
}
