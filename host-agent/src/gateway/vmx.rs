//! The settings of a VM as the keys of its `.vmx`: what the requirements of VMs read. Pure.

use crate::pci_slots::{Slot, slots};
use std::collections::BTreeMap;
use vsgpu_core::readers::vmx;
use vsgpu_core::units::Bdf;
use vsgpu_vsphere::change::ConfigSpec;
use vsgpu_vsphere::vm::{Backing, Device, Vm};

/// Key of the first slot's device; the others follow (facts: vsphere-api 5).
const FIRST_SLOT: i32 = 13_000;
/// More than a VM can have.
const SLOTS: u32 = 1_000;

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

/// Devices by the numbers of their slots. A server that counts keys otherwise has them in the order of those.
fn numbered(vm: &Vm) -> BTreeMap<u32, &Device> {
    let slot = |device: &Device| {
        let number = u32::try_from(device.key.checked_sub(FIRST_SLOT)?).ok()?;
        (number < SLOTS).then_some(number)
    };
    let mut all: BTreeMap<u32, &Device> =
        vm.devices.iter().filter_map(|device| Some((slot(device)?, device))).collect();
    let mut others: Vec<&Device> = vm.devices.iter().filter(|device| slot(device).is_none()).collect();
    others.sort_by_key(|device| device.key);
    for device in others {
        let free = (0..SLOTS).find(|number| !all.contains_key(number));
        all.extend(free.map(|number| (number, device)));
    }
    all
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
    // For whoever would copy the VM: that it has disks, and cards whose address a copy would share.
    for (at, disk) in vm.disks.iter().enumerate() {
        let file = disk.strip_prefix('[').and_then(|rest| rest.split_once("] "));
        let file = file.map_or(disk.clone(), |(datastore, file)| format!("/vmfs/volumes/{datastore}/{file}"));
        set(format!("scsi0:{at}.fileName"), file);
    }
    for at in 0..vm.fixed_macs {
        set(format!("ethernet{at}.addressType"), "static".into());
    }
    for (slot, device) in numbered(vm) {
        let mut of_slot = |key: &str, value: String| set(format!("pciPassthru{slot}.{key}"), value);
        of_slot("present", "TRUE".into());
        match &device.backing {
            Backing::Vgpu(profile) => {
                of_slot("virtualDev", "vmiop".into());
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

/// The change that sets these keys, for the state in which the VM was read; none where nothing is to change.
///
/// # Errors
/// A device that the API has not.
pub(super) fn spec(vm: &Vm, set: &[(String, Option<String>)]) -> Result<Option<ConfigSpec>, String> {
    let plain = |all: BTreeMap<String, (String, String)>| -> BTreeMap<String, String> {
        all.into_iter().map(|(key, (_, value))| (key, value)).collect()
    };
    let before = plain(keys(vm));
    let mut after = before.clone();
    for (key, value) in set {
        match value {
            Some(value) => after.insert(key.to_lowercase(), value.clone()),
            None => after.remove(&key.to_lowercase()),
        };
    }
    if after == before {
        return Ok(None);
    }
    let mut spec = ConfigSpec { change_version: vm.change_version.clone(), ..ConfigSpec::default() };
    let (old, new) = (slots(&before), slots(&after));
    let devices = numbered(vm);
    for (n, slot) in &old {
        if let Some(device) = devices.get(n).filter(|_| new.get(n) != Some(slot)) {
            spec.removed.push(device.key);
        }
    }
    for (n, slot) in new.iter().filter(|(n, slot)| old.get(n) != Some(slot)) {
        let device = backing(slot, &after, *n);
        spec.added.push(
            device.ok_or_else(|| format!("slot {n} of the VM would have a device that the API has not"))?,
        );
    }
    let changed = |key: &str| before.get(key) != after.get(key);
    let number = |key: &str| after.get(key).map_or(Some(0), |value| value.parse::<i64>().ok());
    if changed("sched.cpu.min") {
        spec.cpu_reserved = number("sched.cpu.min");
    }
    let pinned = |all: &BTreeMap<String, String>| {
        all.get("sched.mem.pin").is_some_and(|on| on.eq_ignore_ascii_case("true"))
    };
    if pinned(&before) != pinned(&after) {
        spec.memory_locked = Some(pinned(&after));
    }
    // What is locked to its maximum needs no number.
    if changed("sched.mem.min") && !pinned(&after) {
        spec.memory_reserved = number("sched.mem.min");
    }
    for (key, value) in set {
        if changed(&key.to_lowercase()) && !is_typed(&key.to_lowercase()) {
            spec.extra.push((key.clone(), value.clone().unwrap_or_default()));
        }
    }
    Ok(Some(spec))
}

/// Keys that are settings of a type of their own, or a device's.
fn is_typed(key: &str) -> bool {
    const TYPED: [&str; 6] = [
        "sched.cpu.min",
        "sched.cpu.units",
        "sched.mem.min",
        "sched.mem.minsize",
        "sched.mem.pin",
        "memsize",
    ];
    const OF_DEVICE: [&str; 8] =
        ["present", "virtualdev", "vgpu", "id", "deviceid", "vendorid", "systemid", "alloweddevices"];
    let of_device = key
        .strip_prefix("pcipassthru")
        .and_then(|rest| rest.split_once('.'))
        .is_some_and(|(number, of)| number.parse::<u32>().is_ok() && OF_DEVICE.contains(&of));
    TYPED.contains(&key) || of_device
}

/// A slot as a device; ids as the file has them, since the slot keeps them in another form.
fn backing(slot: &Slot, keys: &BTreeMap<String, String>, n: u32) -> Option<Backing> {
    let hex = |text: &str| i32::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    match slot {
        Slot::Vgpu(profile) => Some(Backing::Vgpu(profile.clone())),
        Slot::Fixed { at: Some(at), vendor, device, .. } => Some(Backing::Fixed {
            id: at.to_string(),
            device: device.clone(),
            system: keys.get(&format!("pcipassthru{n}.systemid")).cloned().unwrap_or_default(),
            vendor: hex(vendor)?,
        }),
        Slot::Dynamic(allowed) => {
            let ids = |both: &String| {
                let (vendor, device) = both.split_once(':')?;
                Some((hex(vendor)?, hex(device)?))
            };
            Some(Backing::Dynamic(allowed.iter().filter_map(ids).collect()))
        }
        Slot::Fixed { at: None, .. } | Slot::Other => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use vsgpu_vsphere::Ref;

    pub(in crate::gateway) fn vm() -> Vm {
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
            disks: vec!["[ds 1] a/a.vmdk".into()],
            fixed_macs: 0,
        }
    }

    /// What a server makes of a change.
    fn changed(vm: &Vm, spec: &ConfigSpec) -> Vm {
        let mut vm = vm.clone();
        vm.devices.retain(|device| !spec.removed.contains(&device.key));
        for backing in &spec.added {
            let key = (FIRST_SLOT..).find(|key| vm.devices.iter().all(|device| device.key != *key)).unwrap();
            vm.devices.push(Device { key, backing: backing.clone() });
        }
        vm.cpu_reserved = spec.cpu_reserved.or(vm.cpu_reserved);
        vm.memory_reserved = spec.memory_reserved.or(vm.memory_reserved);
        vm.memory_locked = spec.memory_locked.or(vm.memory_locked);
        for (key, value) in &spec.extra {
            vm.extra.retain(|(known, _)| !known.eq_ignore_ascii_case(key));
            if !value.is_empty() {
                vm.extra.push((key.clone(), value.clone()));
            }
        }
        vm
    }

    /// Changes of all kinds, one after the other and many of them: the keys are then those that were asked for.
    #[test]
    fn a_change_sets_the_keys_that_a_file_would_have() {
        use crate::pci_slots::{emptied, filled, free};
        let mut now = vm();
        let mut seed = 7_u32;
        let mut next = |most: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) % most
        };
        for _ in 0..500 {
            let before = vmx::read(&text(&now));
            let slot = free(&before).next().unwrap();
            let set = match next(8) {
                0 => filled(slot, &[("present", "TRUE"), ("virtualDev", "vmiop"), ("vgpu", "grid_a100-8c")]),
                1 => filled(
                    slot,
                    &[
                        ("present", "TRUE"),
                        ("id", "00000:175:00.0"),
                        ("deviceId", "0x20f1"),
                        ("vendorId", "0x10de"),
                        ("systemId", "a-b"),
                    ],
                ),
                2 => filled(slot, &[("present", "TRUE"), ("allowedDevices", "0x10de:0x20f1,0x10de:0x20b5")]),
                3 | 4 => match slots(&before).keys().nth(next(4) as usize) {
                    Some(n) => emptied(&before, *n),
                    None => vec![],
                },
                5 => vec![("sched.mem.pin".into(), (next(2) == 0).then(|| "TRUE".into()))],
                6 => vec![
                    ("sched.cpu.min".into(), Some((1 + next(9_000)).to_string())),
                    ("sched.cpu.units".into(), Some("mhz".into())),
                ],
                _ => vec![
                    ("pciPassthru.64bitMMIOSizeGB".into(), Some((1 << next(9)).to_string())),
                    ("pciPassthru.use64bitMMIO".into(), (next(2) == 0).then(|| "TRUE".into())),
                ],
            };
            let wanted = vmx::read(&vmx::edit(&text(&now), &set));
            if let Some(spec) = spec(&now, &set).unwrap() {
                now = changed(&now, &spec);
            }
            let is = vmx::read(&text(&now));
            // What is locked to its maximum has that as its number, and keeps it until somebody says another.
            let without = |keys: &BTreeMap<String, String>| -> BTreeMap<String, String> {
                let of_memory = |key: &str| key == "sched.mem.min" || key == "sched.mem.minsize";
                keys.iter().filter(|(key, _)| !of_memory(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
            };
            assert_eq!(without(&is), without(&wanted), "{set:?}");
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
