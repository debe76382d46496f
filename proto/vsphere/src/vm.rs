//! What the API says of VMs: what their `.vmx` files would say, and whether they run. Never all of a VM's settings: some
//! hold passwords (`guestinfo`).

use crate::fault::Fault;
use crate::inventory::name;
use crate::properties::Object;
use crate::session::Session;
use crate::soap::Ref;
use vsgpu_core::readers::xml::Element;
use vsgpu_core::text::piece;

/// VMs of one call: one may have a thousand elements.
const AT_ONCE: usize = 100;
/// Characters of one setting.
const MOST: usize = 1_000;
/// Disks of a VM: more than it can have.
const MOST_DISKS: usize = 300;

/// Leaves, because whole objects are large and some servers send parts of them that nobody can read.
const PATHS: [&str; 17] = [
    "name",
    "runtime.powerState",
    "runtime.connectionState",
    "config.changeVersion",
    "config.files.vmPathName",
    "config.version",
    "config.guestId",
    "config.firmware",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.hardware.device",
    "config.extraConfig",
    "config.memoryReservationLockedToMax",
    "config.memoryAllocation",
    "config.cpuAllocation",
    "config.nestedHVEnabled",
    "snapshot",
];

/// One VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// Its object.
    pub of: Ref,
    /// Its name.
    pub name: String,
    /// `[datastore1] a/a.vmx`; none where its configuration cannot be read.
    pub file: Option<String>,
    /// `poweredOn`, `poweredOff`, `suspended`.
    pub power: String,
    /// `connected`, `inaccessible`, `invalid`, `orphaned`, `disconnected`.
    pub connection: String,
    /// Which state of its configuration this is: sent back with a change, so that nobody else's is undone.
    pub change_version: Option<String>,
    /// `vmx-19`.
    pub version: Option<String>,
    /// `ubuntu64Guest`.
    pub guest: Option<String>,
    /// `bios` or `efi`.
    pub firmware: Option<String>,
    /// vCPUs.
    pub cpus: Option<u32>,
    /// MiB.
    pub memory_mib: Option<u64>,
    /// All memory is reserved, whatever its size becomes.
    pub memory_locked: Option<bool>,
    /// Memory that is reserved, MiB.
    pub memory_reserved: Option<i64>,
    /// CPU that is reserved, MHz.
    pub cpu_reserved: Option<i64>,
    /// Virtualization is offered to the guest.
    pub nested: Option<bool>,
    /// PCI devices that it was given.
    pub devices: Vec<Device>,
    /// Settings of those that were asked for, as they are spelled.
    pub extra: Vec<(String, String)>,
    /// Snapshots that it has.
    pub snapshots: usize,
    /// Files of its disks: `[datastore1] a/a.vmdk`.
    pub disks: Vec<String>,
    /// Network cards whose MAC address somebody chose.
    pub fixed_macs: usize,
}

/// A PCI device of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its key: 13000 and the number of its slot.
    pub key: i32,
    /// What is behind it.
    pub backing: Backing,
}

/// What is behind a PCI device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A vGPU of this profile.
    Vgpu(String),
    /// One device of the host; ids as the server writes them, the vendor's as a signed number.
    Fixed {
        /// `0000:3b:00.0`
        id: String,
        /// `0x20f1` or without `0x`.
        device: String,
        /// Of the host.
        system: String,
        /// 4318 is NVIDIA.
        vendor: i32,
    },
    /// Any device of these: vendor and device.
    Dynamic(Vec<(i32, i32)>),
    /// Anything else.
    Other,
}

/// Reads VMs. `wanted` says which settings beside the typed ones are kept, by their names in lower case.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn vms(session: &mut Session, all: &[Ref], wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Vm>, Fault> {
    let mut found = Vec::with_capacity(all.len());
    // Part by part: of a page, only what is wanted stays in memory.
    for part in all.chunks(AT_ONCE) {
        let objects = match session.of_some(part, &PATHS, AT_ONCE) {
            // One that was removed meanwhile refuses the whole question.
            Err(fault) if fault.kind == "ManagedObjectNotFound" => {
                let mut there = vec![];
                for one in part {
                    match session.of_some(std::slice::from_ref(one), &PATHS, 1) {
                        Ok(objects) => there.extend(objects),
                        Err(fault) if fault.kind == "ManagedObjectNotFound" => {}
                        Err(fault) => return Err(fault),
                    }
                }
                there
            }
            other => other?,
        };
        found.extend(objects.iter().map(|object| read(object, wanted)));
    }
    Ok(found)
}

fn read(vm: &Object, wanted: &dyn Fn(&str) -> bool) -> Vm {
    let word = |path: &str| vm.text(path).map(|text| piece(text, 300)).filter(|text| !text.is_empty());
    let number = |path: &str| vm.text(path).and_then(|text| text.trim().parse::<i64>().ok());
    let flag = |path: &str| vm.text(path).map(|text| text == "true");
    let reserved = |path: &str| vm.values.get(path)?.child("reservation")?.text.parse().ok();
    let children =
        |path: &str| vm.values.get(path).map(|value| value.children.as_slice()).unwrap_or_default();
    let setting = |option: &Element| {
        let key = option.child("key")?.text.clone();
        let value = option.child("value").map(|value| value.text.clone()).unwrap_or_default();
        (wanted(&key.to_lowercase()) && value.chars().count() <= MOST).then(|| (piece(&key, 200), value))
    };
    Vm {
        of: vm.of.clone(),
        name: vm.text("name").map(name).unwrap_or_default(),
        file: word("config.files.vmPathName"),
        power: word("runtime.powerState").unwrap_or_default(),
        connection: word("runtime.connectionState").unwrap_or_default(),
        change_version: vm.text("config.changeVersion").map(String::from),
        version: word("config.version"),
        guest: word("config.guestId"),
        firmware: word("config.firmware"),
        cpus: number("config.hardware.numCPU").and_then(|n| u32::try_from(n).ok()),
        memory_mib: number("config.hardware.memoryMB").and_then(|n| u64::try_from(n).ok()),
        memory_locked: flag("config.memoryReservationLockedToMax"),
        memory_reserved: reserved("config.memoryAllocation"),
        cpu_reserved: reserved("config.cpuAllocation"),
        nested: flag("config.nestedHVEnabled"),
        devices: children("config.hardware.device").iter().filter_map(device).collect(),
        extra: children("config.extraConfig").iter().filter_map(setting).collect(),
        snapshots: vm.values.get("snapshot").map_or(0, snapshots),
        disks: children("config.hardware.device").iter().filter_map(disk).take(MOST_DISKS).collect(),
        fixed_macs: children("config.hardware.device").iter().filter(|device| has_fixed_mac(device)).count(),
    }
}

fn disk(device: &Element) -> Option<String> {
    let backing = device.child("backing").filter(|_| kind(device) == "VirtualDisk")?;
    backing.child("fileName").map(|file| piece(&file.text, 300))
}

/// `generated` by the host and `assigned` by vCenter are new ones for a copy.
fn has_fixed_mac(device: &Element) -> bool {
    device.child("addressType").is_some_and(|kind| kind.text.eq_ignore_ascii_case("manual"))
}

/// Each is one element of a tree of them.
fn snapshots(tree: &Element) -> usize {
    let is = |element: &&Element| ["rootSnapshotList", "childSnapshotList"].contains(&element.name.as_str());
    tree.descendants().filter(is).count()
}

/// The type that the schema leaves open, without its prefix.
fn kind(element: &Element) -> &str {
    element.attribute("type").map_or("", |kind| kind.rsplit(':').next().unwrap_or(kind))
}

fn device(device: &Element) -> Option<Device> {
    if kind(device) != "VirtualPCIPassthrough" {
        return None;
    }
    let key = device.child("key")?.text.parse().ok()?;
    let backing = device.child("backing");
    let text =
        |name: &str| backing.and_then(|of| of.child(name)).map(|of| piece(&of.text, 200)).unwrap_or_default();
    let number = |of: &Element, name: &str| of.child(name).and_then(|of| of.text.parse::<i32>().ok());
    let backing = match backing.map(kind).unwrap_or_default() {
        "VirtualPCIPassthroughVmiopBackingInfo" => Backing::Vgpu(text("vgpu")),
        "VirtualPCIPassthroughDeviceBackingInfo" => Backing::Fixed {
            id: text("id"),
            device: text("deviceId"),
            system: text("systemId"),
            vendor: backing.and_then(|of| number(of, "vendorId")).unwrap_or_default(),
        },
        "VirtualPCIPassthroughDynamicBackingInfo" => {
            let allowed = backing.into_iter().flat_map(|of| of.all("allowedDevice"));
            let ids = |of: &Element| Some((number(of, "vendorId")?, number(of, "deviceId")?));
            Backing::Dynamic(allowed.filter_map(ids).collect())
        }
        _ => Backing::Other,
    };
    Some(Device { key, backing })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsgpu_core::readers::xml::parse;

    #[test]
    fn what_is_kept_of_a_vm_is_what_is_asked_for() {
        let xml = r#"<o xmlns:i="x"><config.extraConfig><OptionValue><key>pciPassthru.use64bitMMIO</key><value>TRUE</value></OptionValue><OptionValue><key>guestinfo.userdata</key><value>secret</value></OptionValue></config.extraConfig><config.hardware.device><VirtualDevice i:type="VirtualDisk"><key>2000</key></VirtualDevice><VirtualDevice i:type="VirtualPCIPassthrough"><key>13001</key><backing i:type="VirtualPCIPassthroughDynamicBackingInfo"><deviceName></deviceName><allowedDevice><vendorId>4318</vendorId><deviceId>8433</deviceId></allowedDevice></backing></VirtualDevice></config.hardware.device><snapshot><rootSnapshotList><childSnapshotList/></rootSnapshotList></snapshot></o>"#;
        let values = parse(xml).unwrap().children.into_iter().map(|e| (e.name.clone(), e)).collect();
        let of = Ref { kind: "VirtualMachine".into(), id: "vm-7".into() };
        let vm = read(&Object { of, values, missing: [].into() }, &|key| key.starts_with("pcipassthru"));
        assert_eq!(vm.extra, [("pciPassthru.use64bitMMIO".to_string(), "TRUE".to_string())]);
        assert_eq!(vm.devices, [Device { key: 13001, backing: Backing::Dynamic(vec![(4318, 8433)]) }]);
        assert_eq!((vm.snapshots, vm.memory_mib), (2, None));
    }
}
