//! NVIDIA devices on the PCI bus, whoever owns them.

use crate::esxcli;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::gpu_selector::Candidate;
use vsgpu_core::units::Bdf;
use vsgpu_core::words::counted;
use vsgpu_core::{Command, Fact, Observation, Probe, Subject, Unreadable};

/// NVIDIA devices on the PCI bus, whoever owns them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PciGpus {
    /// One per device.
    pub devices: Vec<PciGpu>,
    /// Addresses of SR-IOV virtual functions: a host whose driver runs lists 16 of them for an A100. They serve
    /// vGPUs, and are no GPUs that could be given to anybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub virtual_functions: Vec<String>,
}

/// One device of `esxcli hardware pci list`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PciGpu {
    /// PCI address.
    pub address: String,
    /// `10de`.
    pub vendor_id: String,
    /// Four hexadecimal digits.
    pub device_id: Option<String>,
    /// Marketing name.
    pub device_name: Option<String>,
    /// Owner after the next reboot.
    pub configured_owner: Option<String>,
    /// Owner now.
    pub current_owner: Option<String>,
    /// VMkernel module that drives it.
    pub module: Option<String>,
    /// Whether it can be passed through.
    pub passthru_capable: Option<bool>,
    /// Subsystem id: it tells boards with one chip apart.
    #[serde(default)]
    pub subsystem_id: Option<String>,
    /// `0x0302`: display controllers begin with 03, the sound function of a board does not.
    #[serde(default)]
    pub class: Option<String>,
    /// NUMA node.
    #[serde(default)]
    pub numa_node: Option<u32>,
    /// A device that goes with it, in esxcli's words, where it is not the device itself.
    #[serde(default)]
    pub dependent_device: Option<String>,
    /// How it is reset between VMs.
    #[serde(default)]
    pub reset_method: Option<String>,
    /// An SR-IOV virtual function of another device.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub virtual_function: bool,
}

impl PciGpu {
    pub fn candidate(&self) -> Candidate<'_> {
        Candidate {
            address: &self.address,
            device_id: self.device_id.as_deref(),
            subsystem_id: self.subsystem_id.as_deref(),
            name: self.device_name.as_deref(),
        }
    }

    /// A display controller, as far as the class says, and no virtual function of one.
    pub fn is_gpu(&self) -> bool {
        !self.virtual_function && self.is_display()
    }

    fn is_display(&self) -> bool {
        self.class.as_deref().is_none_or(|class| class.trim_start_matches("0x").starts_with("03"))
    }

    /// Given away to VMs, now or after the next reboot.
    pub fn is_given(&self) -> bool {
        is_passthru(self.configured_owner.as_deref().or(self.current_owner.as_deref()))
    }

    /// The same device, after it is given away or taken back.
    pub fn after_change(&self, given: bool) -> Self {
        let owner = Some(if given { PASSED_THROUGH } else { "VMkernel" }.to_string());
        Self { configured_owner: owner.clone(), current_owner: owner, ..self.clone() }
    }

    /// Given away to VMs, now.
    pub fn is_passed_through(&self) -> bool {
        is_passthru(self.current_owner.as_deref())
    }
}

/// esxcli's word for the owner of a device that belongs to VMs.
const PASSED_THROUGH: &str = "VM Passthru";

pub(crate) fn is_passthru(owner: Option<&str>) -> bool {
    owner.is_some_and(|o| o.eq_ignore_ascii_case(PASSED_THROUGH))
}

/// `PCI 0:4:0:0`: segment, bus, device, function; decimal, as VMkernel counts in its own words (facts: esxi
/// C2; uncertain).
fn dependent(words: &str) -> Option<Bdf> {
    let numbers: Vec<&str> = words.trim().strip_prefix("PCI ")?.split(':').collect();
    match numbers[..] {
        [segment, bus, device, function] => Bdf::from_vmx_id(&format!("{segment}:{bus}:{device}.{function}")),
        _ => None,
    }
}

/// Reads all devices of `esxcli hardware pci list`.
pub fn pci_devices(records: &[vsgpu_core::readers::esxcli::Record]) -> Result<Vec<PciGpu>, String> {
    // `0x10de`; a number without that prefix is decimal.
    let hex = |id: Option<&str>| {
        id.map(|id| match (id.strip_prefix("0x"), id.parse::<u32>()) {
            (Some(hex), _) => hex.to_lowercase(),
            (None, Ok(number)) => format!("{number:04x}"),
            (None, Err(_)) => id.to_lowercase(),
        })
    };
    let device = |r: &vsgpu_core::readers::esxcli::Record| {
        let address = r
            .get("Address")
            .unwrap_or(&r.title)
            .parse::<Bdf>()
            .map_err(|e| format!("hardware pci list: {e}"))?;
        Ok(PciGpu {
            address: address.to_string(),
            vendor_id: hex(r.get("Vendor ID")).ok_or("hardware pci list: a device has no `Vendor ID`")?,
            device_id: hex(r.get("Device ID")),
            device_name: r.get("Device Name").map(String::from),
            configured_owner: r.get("Configured Owner").map(String::from),
            current_owner: r.get("Current Owner").map(String::from),
            module: r.get("Module Name").filter(|m| *m != "None").map(String::from),
            passthru_capable: r.flag("Passthru Capable"),
            subsystem_id: hex(r.get("SubDevice ID")),
            class: hex(r.get("Device Class")).map(|class| format!("0x{class}")),
            numa_node: r.get("NUMA Node").and_then(|n| n.parse().ok()),
            dependent_device: r
                .get("Dependent Device")
                .filter(|d| dependent(d) != Some(address))
                .map(String::from),
            reset_method: r.get("Reset Method").map(String::from),
            virtual_function: is_called_virtual(r),
        })
    };
    let mut devices = records.iter().map(device).collect::<Result<Vec<PciGpu>, String>>()?;
    mark_virtual_functions(&mut devices);
    Ok(devices)
}

/// VMkernel calls them `PF_0.59.0_VF_3`: segment, bus and function of the device whose they are.
fn is_called_virtual(record: &vsgpu_core::readers::esxcli::Record) -> bool {
    let of_kernel = |name: &str| name.starts_with("PF_") && name.contains("_VF_");
    record.get("VMkernel Name").is_some_and(of_kernel)
        || record.get("Device Name").is_some_and(|name| name.to_lowercase().contains("virtual function"))
}

/// Those without such a name: a board has one GPU in a slot, as function 0, so a display function beside it is
/// none; and where a slot's functions are used up, the next slots of the same bus hold more of the same device.
fn mark_virtual_functions(devices: &mut [PciGpu]) {
    let of_nvidia: Vec<(usize, Bdf)> = devices
        .iter()
        .enumerate()
        .filter(|(_, d)| d.vendor_id == "10de" && d.is_display())
        .filter_map(|(at, d)| Some((at, d.address.parse().ok()?)))
        .collect();
    let mut gpus: BTreeMap<Bdf, Option<String>> = BTreeMap::new();
    for (at, address) in
        of_nvidia.iter().filter(|(at, a)| a.function() == 0 && !devices[*at].virtual_function)
    {
        gpus.insert(*address, devices[*at].device_id.clone());
    }
    let mut with_more: BTreeMap<Bdf, Option<String>> = BTreeMap::new();
    for (at, address) in &of_nvidia {
        let first = address.first_function();
        if let Some(id) = gpus.get(&first).filter(|_| *address != first) {
            devices[*at].virtual_function = true;
            with_more.insert(address.first_of_bus(), id.clone());
        }
    }
    for (at, address) in &of_nvidia {
        let first = address.first_of_bus();
        if !gpus.contains_key(&first) || address.first_function() == first {
            continue;
        }
        if with_more.get(&first).is_some_and(|id| *id == devices[*at].device_id) {
            devices[*at].virtual_function = true;
        }
    }
}

/// VMkernel's own view of a device: the place where a NUMA node is to be seen (`pciConfigHeader` of vsish,
/// 6.7 and later).
fn numa_of(address: &str) -> Option<Command> {
    let id = address.parse::<Bdf>().ok()?.vmx_id();
    let numbers: Vec<u32> = id.split([':', '.']).map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let [segment, bus, slot, function] = numbers[..] else { return None };
    let node = format!("/hardware/pci/seg/{segment}/bus/{bus}/slot/{slot}/func/{function}/pciConfigHeader");
    Some(Command::new("vsish", ["-e", "get", &node]))
}

/// `   Numa node:1`; 4294967295 means none.
fn numa(text: &str) -> Option<u32> {
    let value = text.lines().find_map(|l| l.trim().strip_prefix("Numa node:"))?;
    value.trim().parse().ok().filter(|n| *n < 1024)
}

const PCI_LIST: [&str; 3] = ["hardware", "pci", "list"];

impl PciGpus {
    /// Probes of the bus, for requirements that decide by it.
    pub(crate) fn ask(seen: &Observation) -> Vec<Probe> {
        let mut probes = esxcli::probes(&PCI_LIST, seen);
        let listed = esxcli::parsed(&PCI_LIST, seen, pci_devices).unwrap_or_default();
        let gpus = listed.iter().filter(|d| d.vendor_id == "10de" && d.is_gpu() && d.numa_node.is_none());
        probes.extend(gpus.filter_map(|d| numa_of(&d.address)).map(Probe::Run));
        probes
    }

    /// Every GPU of the host is given away whole: the host's driver holds none.
    pub(crate) fn all_given(seen: &Observation) -> bool {
        Self::parse(&Subject::node(), seen)
            .is_ok_and(|bus| !bus.gpus().is_empty() && bus.gpus().iter().all(|g| g.is_passed_through()))
    }

    pub fn gpus(&self) -> Vec<&PciGpu> {
        self.devices.iter().filter(|d| d.is_gpu()).collect()
    }
}

impl Fact for PciGpus {
    const NAME: &'static str = "pci-gpus";
    const ABOUT: &'static str = "NVIDIA devices on the PCI bus and who owns them";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        Self::ask(seen)
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let mut devices = esxcli::parsed(&PCI_LIST, seen, pci_devices)?;
        devices.retain(|d| d.vendor_id == "10de");
        for device in devices.iter_mut().filter(|d| d.numa_node.is_none() && !d.virtual_function) {
            device.numa_node = numa_of(&device.address).and_then(|ask| numa(seen.stdout_if_ok(&ask)?));
        }
        let (virtual_functions, devices): (Vec<_>, Vec<_>) =
            devices.into_iter().partition(|d| d.virtual_function);
        Ok(Self { devices, virtual_functions: virtual_functions.into_iter().map(|d| d.address).collect() })
    }
    fn sentence(&self) -> Option<String> {
        let one = |gpu: &PciGpu| {
            format!("{} {}", gpu.address, gpu.device_name.as_deref().unwrap_or("without a name"))
        };
        let listed =
            vsgpu_core::words::first(self.devices.iter().map(one), 8, "no NVIDIA GPU on the PCI bus");
        let count = self.virtual_functions.len();
        let more = (count > 0).then(|| format!(", and {}", counted(count, "virtual function")));
        Some(format!("{listed}{}", more.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A display controller of NVIDIA as esxcli lists it, with VMkernel's name for it.
    fn listed(address: &str, kernel: &str, id: &str) -> String {
        format!(
            "{address}\n   Address: {address}\n   VMkernel Name: {kernel}\n   Device Name: GA100\n   Vendor ID: 0x10de\n   Device ID: {id}\n   Device Class: 0x0302\n\n"
        )
    }

    fn gpus(text: &str) -> Vec<String> {
        let records = vsgpu_core::readers::esxcli::read(text).unwrap_or_else(|e| panic!("{e}"));
        let devices = pci_devices(&records).unwrap_or_else(|e| panic!("{e}"));
        devices.into_iter().filter(PciGpu::is_gpu).map(|d| d.address).collect()
    }

    #[test]
    fn virtual_functions_are_no_gpus() {
        // By VMkernel's name, also on a bus of their own.
        let named = [
            listed("0000:3b:00.0", "", "0x20f1"),
            listed("0000:3b:00.4", "PF_0.59.0_VF_0", "0x20f1"),
            listed("0000:3c:00.0", "PF_0.59.0_VF_1", "0x20f1"),
        ];
        assert_eq!(gpus(&named.concat()), ["0000:3b:00.0"]);
        // By their place: functions 4 and up of the slot, then the next slots.
        let placed = ["0000:3b:00.0", "0000:3b:00.4", "0000:3b:00.5", "0000:3b:01.0", "0000:3b:02.3"];
        assert_eq!(gpus(&placed.map(|at| listed(at, "", "0x20f1")).concat()), ["0000:3b:00.0"]);
        // Two GPUs in two slots of one bus, as a VM sees them, are two GPUs.
        let nested = ["0000:03:00.0", "0000:03:01.0"].map(|at| listed(at, "", "0x20f1"));
        assert_eq!(gpus(&nested.concat()).len(), 2);
    }
}
