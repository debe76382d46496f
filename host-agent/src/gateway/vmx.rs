//! The settings of a VM as the keys of its `.vmx`: what the requirements of VMs read. Pure.

use std::collections::BTreeMap;
use vsgpu_core::readers::vmx;
use vsgpu_core::units::Bdf;
use vsgpu_vsphere::vm::{Backing, Vm};

/// Key of the first slot's device; the others follow (facts: vsphere-api 5).
const FIRST_SLOT: i32 = 13_000;

/// Datastore and path on it, of `[datastore1] a/a.vmx`.
pub(super) fn place(vm: &Vm) -> Option<(&str, &str)> {
    vm.file.as_deref()?.strip_prefix('[')?.split_once("] ")
}

/// Path of a VM's `.vmx` on its host.
pub(super) fn path(vm: &Vm) -> Option<String> {
    place(vm).map(|(datastore, file)| format!("/vmfs/volumes/{datastore}/{file}"))
}

/// The keys as a file has them.
pub(super) fn text(vm: &Vm) -> Vec<u8> {
    let set: Vec<(String, Option<String>)> =
        keys(vm).into_values().map(|(key, value)| (key, Some(value))).collect();
    vmx::edit(b"", &set)
}

/// By their names in lower case, because a file has each once; what the API says as a type of its own counts more than a
/// setting of the same name.
fn keys(vm: &Vm) -> BTreeMap<String, (String, String)> {
    let mut all = BTreeMap::new();
    let mut set = |key: String, value: String| all.insert(key.to_lowercase(), (key, value));
    for (key, value) in &vm.extra {
        set(key.clone(), value.clone());
    }
    let number = |n: i64| n.to_string();
    let typed = [
        ("memSize", vm.memory_mib.map(|n| n.to_string())),
        ("numvcpus", vm.cpus.map(|n| n.to_string())),
        ("firmware", vm.firmware.clone()),
        ("virtualHW.version", vm.version.as_deref().map(|v| v.trim_start_matches("vmx-").to_string())),
        ("vhv.enable", vm.nested.filter(|on| *on).map(|_| "TRUE".into())),
        ("sched.cpu.min", vm.cpu_reserved.filter(|n| *n > 0).map(number)),
        ("sched.cpu.units", vm.cpu_reserved.filter(|n| *n > 0).map(|_| "mhz".into())),
    ];
    for (key, value) in typed {
        if let Some(value) = value {
            set(key.into(), value);
        }
    }
    // Locked to its maximum is all of it, whatever number stands beside it.
    let memory = match (vm.memory_locked, vm.memory_mib) {
        (Some(true), Some(all)) => Some(all.to_string()),
        _ => vm.memory_reserved.filter(|n| *n > 0).map(number),
    };
    if let Some(reserved) = memory {
        set("sched.mem.min".into(), reserved.clone());
        set("sched.mem.minSize".into(), reserved);
    }
    if vm.memory_locked == Some(true) {
        set("sched.mem.pin".into(), "TRUE".into());
    }
    for device in &vm.devices {
        let Ok(slot) = u32::try_from(device.key - FIRST_SLOT) else { continue };
        let mut of_slot = |key: &str, value: String| set(format!("pciPassthru{slot}.{key}"), value);
        of_slot("present", "TRUE".into());
        match &device.backing {
            Backing::Vgpu(profile) => {
                of_slot("vgpu", profile.clone());
            }
            Backing::Fixed { id, device, system, vendor } => {
                // Decimal in the file, hexadecimal by the API.
                let id = id.parse::<Bdf>().map_or(id.clone(), |at| at.vmx_id());
                of_slot("id", id);
                of_slot("deviceId", format!("0x{}", device.trim_start_matches("0x").to_lowercase()));
                of_slot("vendorId", format!("0x{:x}", vendor & 0xffff));
                of_slot("systemId", system.clone());
            }
            Backing::Dynamic(allowed) => {
                let ids: Vec<String> = allowed
                    .iter()
                    .map(|(vendor, device)| format!("0x{:04x}:0x{:04x}", vendor & 0xffff, device & 0xffff))
                    .collect();
                of_slot("allowedDevices", ids.join(","));
            }
            Backing::Other => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci_slots::{Slot, slots};
    use vsgpu_vsphere::Ref;
    use vsgpu_vsphere::vm::Device;

    pub(super) fn vm() -> Vm {
        let of = |backing, key| Device { key, backing };
        Vm {
            of: Ref { kind: "VirtualMachine".into(), id: "vm-7".into() },
            name: "a".into(),
            file: Some("[ds 1] a/a.vmx".into()),
            power: "poweredOff".into(),
            connection: "connected".into(),
            change_version: None,
            version: Some("vmx-21".into()),
            guest: None,
            firmware: Some("efi".into()),
            cpus: Some(4),
            memory_mib: Some(8192),
            memory_locked: Some(true),
            memory_reserved: Some(1024),
            cpu_reserved: Some(0),
            nested: Some(false),
            devices: vec![
                of(Backing::Vgpu("grid_a100-40c".into()), 13_000),
                of(
                    Backing::Fixed {
                        id: "0000:3b:00.0".into(),
                        device: "0x20F1".into(),
                        system: "a-b".into(),
                        vendor: 4318,
                    },
                    13_001,
                ),
                of(Backing::Dynamic(vec![(4318, 0x20f1)]), 13_002),
            ],
            extra: vec![
                ("pciPassthru.use64bitMMIO".into(), "TRUE".into()),
                ("sched.mem.min".into(), "9".into()),
            ],
            snapshots: 0,
        }
    }

    #[test]
    fn requirements_read_it_as_they_read_a_file() {
        let vm = vm();
        assert_eq!(path(&vm).as_deref(), Some("/vmfs/volumes/ds 1/a/a.vmx"));
        let text = text(&vm);
        assert!(vmx::twice(&text).is_none(), "{}", String::from_utf8_lossy(&text));
        let keys = vmx::read(&text);
        let all = slots(&keys);
        assert_eq!(all[&0], Slot::Vgpu("grid_a100-40c".into()));
        assert_eq!(
            all[&1],
            Slot::Fixed {
                at: Some("0000:3b:00.0".parse().unwrap()),
                vendor: "10de".into(),
                device: "20f1".into(),
                system: "a-b".into()
            }
        );
        assert_eq!(all[&2], Slot::Dynamic(vec!["10de:20f1".into()]));
        let of = |key: &str| keys.get(key).map(String::as_str);
        assert_eq!((of("sched.mem.min"), of("sched.mem.pin")), (Some("8192"), Some("TRUE")));
        assert_eq!(
            (of("memsize"), of("virtualhw.version"), of("sched.cpu.min")),
            (Some("8192"), Some("21"), None)
        );
        assert_eq!(of("pcipassthru.use64bitmmio"), Some("TRUE"));
    }
}
