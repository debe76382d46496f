//! Firmware, MMIO window and the GPUs' BARs: a BAR1 above 256 MiB needs EFI and a window that holds all of
//! them.

use crate::compat::combination::{Combination, Finding};
use vsgpu_core::knowledge::Basis;
use vsgpu_host_agent::vm::{LARGE_VGPU_MIB, window_gib};

/// Boards whose BAR1 is confirmed by a second source than the table's (NVIDIA AI Enterprise 6.x table; a
/// vmware.log of a P40).
const SIZE_CONFIRMED: [&str; 7] = ["A30", "A100", "A100X", "A100D", "H100", "H200", "P40"];

/// A vGPU with a large frame buffer in a VM with BIOS firmware or with a window that is too small.
///
/// Deliberately absent: a VM of which no window is said. Most such VMs start, so it would be a warning in every plan;
/// `diagnose` names it where one does not.
fn of_vgpus(c: &Combination) -> Vec<Finding> {
    let large: Vec<_> = c.types().into_iter().filter(|(_, vgpu)| vgpu.size_mib > LARGE_VGPU_MIB).collect();
    let Some((profile, _)) = large.first() else { return vec![] };
    let basis = || {
        Basis::document(
            "public guides: vGPUs above 16 GB want EFI and pciPassthru.use64bitMMIO (stephenwagner.com 2022-09)",
            false,
        )
    };
    let mut found = vec![];
    if let Some(firmware) = c.firmware.as_ref().filter(|firmware| firmware.value != "efi") {
        let what = format!(
            "{} has {} firmware, and {} has more than 16 GB: it may not power on",
            firmware.by, firmware.value, profile.value
        );
        found.push(c.finding(what, basis(), Some("install the guest in a VM with EFI firmware".into())));
    }
    let sizes: Vec<u64> = large.iter().map(|(_, vgpu)| vgpu.size_mib).collect();
    let Some(needed) = window_gib(&sizes) else { return found };
    if let Some(mmio) = c.mmio.as_ref().filter(|mmio| mmio.value < needed) {
        let what = format!(
            "{}: an MMIO window of {} GB, and {} has more than 16 GB: it may not power on",
            mmio.by, mmio.value, profile.value
        );
        found.push(c.finding(what, basis(), Some(format!("say `mmio: {needed}` at the VM"))));
    }
    found
}

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    let mut found = of_vgpus(c);
    found.extend(of_whole_gpus(c));
    found
}

fn of_whole_gpus(c: &Combination) -> Vec<Finding> {
    let large: Vec<(String, u64)> = c
        .whole
        .iter()
        .filter_map(|g| Some((g.shown(), g.model()?.bar1_mib?)))
        .filter(|(_, bar)| *bar > 256)
        .collect();
    let sure = c
        .whole
        .iter()
        .filter_map(|g| g.model())
        .all(|m| m.status.contains("BAR1 confirmed") || SIZE_CONFIRMED.contains(&m.token));
    // Boards with two sizes: which of them this one has, nobody here knows.
    let one_size = c.whole.iter().filter_map(|g| g.model()).all(|m| !m.status.contains("in display mode"));
    let Some((name, bar)) = large.first() else { return vec![] };
    let mut found = vec![];
    if let Some(firmware) = c.firmware.as_ref().filter(|f| f.value != "efi") {
        let basis = Basis::document(
            "VMware: how to enable GPUs with large BARs in DirectPath I/O (KB 2142307)",
            true,
        );
        let what = format!(
            "{} has {} firmware, and {name} has a BAR1 of {} GiB, which needs EFI",
            firmware.by,
            firmware.value,
            bar / 1024
        );
        let nearest =
            "install the guest anew in a VM with EFI firmware; an installed BIOS guest is never converted";
        let finding = c.finding(what, basis, Some(nearest.into()));
        found.push(if one_size { finding } else { finding.doubtful() });
    }
    let bars: Vec<u64> = large.iter().map(|(_, bar)| *bar).collect();
    if let Some((mmio, needed)) =
        c.mmio.as_ref().zip(window_gib(&bars)).filter(|(mmio, needed)| mmio.value < *needed)
    {
        let sum: u64 = bars.iter().sum::<u64>() / 1024;
        let basis = Basis::document(
            "VMware: sum of the GPUs' BAR1, then the next power of two (frankdenneman.nl 2023-05-30, Dell KB 000199172)",
            true,
        );
        let what = format!(
            "{}: an MMIO window of {} GB does not hold the BAR1s of its GPUs ({sum} GiB)",
            mmio.by, mmio.value
        );
        let finding = c.finding(
            what,
            basis,
            Some(format!("leave `mmio` out ({needed} GB is computed), or say {needed} or more")),
        );
        // A window that is at least as large as the sum may do on some release.
        found.push(if mmio.value > sum || !sure { finding.doubtful() } else { finding });
    }
    found
}
