//! Whole GPUs of simulated VMs: which a `.vmx` names, who uses them, and why a power-on refuses them. The
//! texts are those of real logs; what no log says is marked as simulated.

use super::state::{Esxi, Gpu, Machine, Vm};
use std::collections::BTreeMap;
use vsgpu_host_agent::pci_slots::{Slot, slots};
use vsgpu_host_agent::vm::window_gib;

type Keys = BTreeMap<String, String>;

fn keys_of(machine: &Machine, vm: &Vm) -> Keys {
    vsgpu_core::readers::vmx::read(
        machine.text(&format!("/vmfs/volumes/{}/{}", vm.datastore, vm.file)).unwrap_or_default().as_bytes(),
    )
}

/// GPUs that a `.vmx` gets, as far as the host has given them away.
pub fn of_vm(host: &Esxi, keys: &Keys) -> Vec<Gpu> {
    let mut found: Vec<Gpu> = vec![];
    for slot in slots(keys).into_values() {
        let next = host.gpus.iter().find(|g| {
            let free = g.given && found.iter().all(|f| f.bdf != g.bdf);
            free && match &slot {
                Slot::Fixed { at, .. } => at.map(|a| a.to_string()).as_deref() == Some(g.bdf.as_str()),
                Slot::Dynamic(allowed) => {
                    allowed.iter().any(|ids| ids.ends_with(g.device_id.trim_start_matches("0x")))
                }
                Slot::Vgpu(_) | Slot::Other => false,
            }
        });
        found.extend(next.cloned());
    }
    found
}

/// The running VM that holds a device.
pub fn in_use(machine: &mut Machine, bdf: &str, but: Option<u32>) -> Option<String> {
    let host = machine.esxi().clone();
    let holds = |vm: &&Vm| {
        vm.on && Some(vm.vmid) != but && of_vm(&host, &keys_of(machine, vm)).iter().any(|g| g.bdf == bdf)
    };
    host.vms.iter().find(holds).map(|vm| vm.name.clone())
}

/// Why a VM with these keys does not start: what hostd says, and what vmware.log says.
pub fn refuses(machine: &mut Machine, vm: &Vm, keys: &Keys) -> Option<(String, Vec<String>)> {
    const DEVICE: &str = "Module 'DevicePowerOn' power on failed.";
    let host = machine.esxi().clone();
    let all = slots(keys);
    let whole: Vec<&Slot> =
        all.values().filter(|s| matches!(s, Slot::Fixed { .. } | Slot::Dynamic(_))).collect();
    if whole.is_empty() {
        return None;
    }
    if keys.get("vhv.enable").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
        return Some((
            "Virtualization is not supported on a virtual machine with a PCI passthrough device.".into(),
            vec![],
        ));
    }
    for slot in whole {
        let Slot::Fixed { at, device, system, .. } = slot else { continue };
        let Some(at) = at else {
            let text = "Failed to generate predicates for pciPassthru0---invalid VM configuration";
            return Some((text.into(), vec!["AH No device hints found".into(), text.into()]));
        };
        let numbers: Vec<String> =
            at.vmx_id().split([':', '.']).map(|n| n.parse::<u32>().unwrap().to_string()).collect();
        let short = format!("{}:{}.{}", numbers[1], numbers[2], numbers[3]);
        let Some(gpu) = host.gpus.iter().find(|g| g.bdf == at.to_string()) else {
            return Some((format!("Device {short} is not a passthrough device."), vec![DEVICE.into()]));
        };
        if *system != host.uuid || *device != gpu.device_id.trim_start_matches("0x") {
            let text = format!(
                "The systemId does not match the current system or the deviceId, and the vendorId does not match the device currently at {short}."
            );
            return Some((text.clone(), vec![text]));
        }
        if !gpu.given {
            return Some((format!("Device {short} is not a passthrough device."), vec![DEVICE.into()]));
        }
        if let Some(other) = in_use(machine, &gpu.bdf, Some(vm.vmid)) {
            return Some((format!("Device {short} is in use by {other}. (simulated)"), vec![DEVICE.into()]));
        }
    }
    let gpus = of_vm(&host, keys);
    if gpus.len() < all.values().filter(|s| s.is_nvidia_gpu()).count() {
        return Some(("No device is left for Dynamic DirectPath. (simulated)".into(), vec![DEVICE.into()]));
    }
    let bars: Vec<u64> = gpus.iter().map(|g| g.bar1_mib).collect();
    let efi = keys.get("firmware").is_some_and(|f| f == "efi");
    let window = keys.get("pcipassthru.64bitmmiosizegb").and_then(|n| n.parse::<u64>().ok());
    let window =
        window.filter(|_| keys.get("pcipassthru.use64bitmmio").is_some_and(|v| v == "TRUE")).unwrap_or(3);
    if efi && window_gib(&bars).is_some_and(|needed| window < needed) {
        let pages = bars.iter().filter(|b| **b > 256).sum::<u64>() * 256 + 12_290;
        let limit = if window == 3 { 917_504 } else { window * 262_144 };
        let line =
            format!("PCIPassthru: total number of pages needed ({pages}) exceeds limit ({limit}), failing");
        return Some((DEVICE.into(), vec![line, DEVICE.into()]));
    }
    None
}
