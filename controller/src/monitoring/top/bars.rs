//! A GPU of the glance as a bar to scale by its frame buffer: whose part is where, and what is free.

use crate::monitoring::top::summary::{Gpu, Vgpu};
use crate::picture::{Part, WHOLE};
use vsgpu_core::knowledge::vgpu_types;

/// `3.5 GiB`, `12 GiB`.
pub fn gib(bytes: f64) -> String {
    let gib = bytes / f64::from(1 << 30);
    if gib < 10.0 && gib.fract() > 0.05 { format!("{gib:.1} GiB") } else { format!("{gib:.0} GiB") }
}

/// The type without the word that simulated machines put behind it: what is said of a vGPU says that again.
fn kind(vgpu: &Vgpu) -> String {
    vgpu_types::plain(vgpu.profile.trim_end_matches(SIMULATED))
}

const SIMULATED: &str = " (simulated)";

/// The type in words.
fn named(vgpu: &Vgpu) -> String {
    kind(vgpu) + if vgpu.profile.ends_with(SIMULATED) { SIMULATED } else { "" }
}

/// Who has it, and how much of it. Placement is not known here: vGPUs stand one after the other.
pub fn parts(gpu: &Gpu) -> Vec<Part> {
    if let [first, ..] = gpu.vms.as_slice() {
        let label = if gpu.vms.len() == 1 { first.clone() } else { format!("{first} and others") };
        let title = format!("whole GPU of {}", gpu.vms.join(", "));
        return vec![Part { label, kind: "whole".into(), title, start: 0, size: WHOLE }];
    }
    let Some(whole) = gpu.memory_total_bytes.filter(|bytes| *bytes > 0.0) else { return vec![] };
    let mut next = 0;
    let mut all = vec![];
    for vgpu in &gpu.vgpus {
        let size = vgpu.memory_total_bytes.map_or(0.0, |bytes| bytes / whole * WHOLE as f64) as usize;
        let size = size.min(WHOLE - next);
        let kind = kind(vgpu);
        let label = vgpu_types::short(&kind).to_string();
        all.push(Part { label, kind, title: said(vgpu), start: next, size });
        next += size;
    }
    all
}

/// Whose a vGPU is, and the rest of it in words.
pub fn said(vgpu: &Vgpu) -> String {
    format!("{}: {}", vgpu.vm, of_vgpu(vgpu))
}

/// A vGPU in words: its type, licensed or not, how full.
pub fn of_vgpu(vgpu: &Vgpu) -> String {
    let license = match vgpu.licensed {
        Some(true) => ", licensed",
        Some(false) => ", UNLICENSED",
        None => "",
    };
    let used = match (vgpu.memory_used_bytes, vgpu.memory_total_bytes) {
        (Some(used), Some(of)) => format!(", {} of {} in use", gib(used), gib(of)),
        _ => String::new(),
    };
    format!("{}{license}{used}", named(vgpu))
}

/// What is free on it, in words; nothing where that cannot be known. Of vGPUs of one type: how many more of it.
pub fn room(gpu: &Gpu) -> Option<String> {
    match (gpu.vms.as_slice(), gpu.one_of.as_slice(), gpu.passthrough) {
        ([], [], true) => return Some("free: no VM has it".into()),
        ([], some, true) => return Some(format!("one of {} has it", some.join(", "))),
        (vms @ [_, ..], ..) => return Some(format!("whole GPU of {}", vms.join(", "))),
        _ => {}
    }
    let whole = gpu.memory_total_bytes?;
    let sizes: Vec<f64> = gpu.vgpus.iter().map(|vgpu| vgpu.memory_total_bytes).collect::<Option<_>>()?;
    let free = (whole - sizes.iter().sum::<f64>()).max(0.0);
    let Some(first) = gpu.vgpus.first() else { return Some(format!("{} free", gib(whole))) };
    let kind = named(first);
    let same = gpu.vgpus.iter().all(|vgpu| vgpu.profile == first.profile);
    Some(match sizes.first().filter(|size| same && **size > 0.0) {
        Some(size) if free / size >= 1.0 => {
            format!("{} free, room for {:.0} more {kind}", gib(free), (free / size).floor())
        }
        Some(_) => format!("full of {kind}"),
        None => format!("{} free", gib(free)),
    })
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
        assert!(parts[0].title.contains("licensed, 1 GiB of 10 GiB in use"), "{}", parts[0].title);
        assert!(room(&gpu).unwrap().starts_with("20 GiB free, room for 2 more "), "{:?}", room(&gpu));
    }

    #[test]
    fn a_whole_gpu_is_one_part_and_an_unknown_size_is_no_guess() {
        let whole = Gpu { passthrough: true, vms: vec!["vm-a".into()], ..Gpu::default() };
        assert_eq!((parts(&whole)[0].size, room(&whole).as_deref()), (WHOLE, Some("whole GPU of vm-a")));
        let nobody = Gpu { passthrough: true, ..Gpu::default() };
        assert_eq!((parts(&nobody).len(), room(&nobody).as_deref()), (0, Some("free: no VM has it")));
        let unknown = Gpu {
            vgpus: vec![Vgpu { memory_total_bytes: None, ..vgpu("a", "x-8q", 8.0) }],
            ..Gpu::default()
        };
        assert_eq!((parts(&unknown).len(), room(&unknown)), (0, None));
    }
}
