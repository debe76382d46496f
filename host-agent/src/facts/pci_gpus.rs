//! NVIDIA devices on the PCI bus, whoever owns them.

use crate::esxcli;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::gpu_selector::Candidate;
use vsgpu_core::units::Bdf;
use vsgpu_core::{Command, Fact, Observation, Probe, Subject, Unreadable};

/// NVIDIA devices on the PCI bus, whoever owns them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PciGpus {
    /// One per device.
    pub devices: Vec<PciGpu>,
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

    /// A display controller, as far as the class says.
    pub fn is_gpu(&self) -> bool {
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
        })
    };
    records.iter().map(device).collect()
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
        for device in devices.iter_mut().filter(|d| d.numa_node.is_none()) {
            device.numa_node = numa_of(&device.address).and_then(|ask| numa(seen.stdout_if_ok(&ask)?));
        }
        Ok(Self { devices })
    }
    fn sentence(&self) -> Option<String> {
        let one = |gpu: &PciGpu| {
            format!("{} {}", gpu.address, gpu.device_name.as_deref().unwrap_or("without a name"))
        };
        Some(vsgpu_core::words::first(self.devices.iter().map(one), 8, "no NVIDIA GPU on the PCI bus"))
    }
}
