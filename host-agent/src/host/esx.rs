//! Facts that belong to no requirement: the release of ESXi, its GPUs as the driver and as the PCI bus see them, and the
//! vGPUs in use.

use super::ask;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::nvidia_smi::{self, SmiReport, VgpuHost};
use vsgpu_core::units::Bdf;
use vsgpu_core::{Command, Evidence, Fact, Probe, Subject, Unreadable, vim_cmd};

/// `esxcli system version get`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EsxVersion {
    /// `VMware ESXi`.
    pub product: String,
    /// `8.0.3`.
    pub version: String,
    /// `Releasebuild-24677879`.
    pub build: String,
    /// Update number.
    pub update: Option<String>,
    /// Patch number.
    pub patch: Option<String>,
}

impl EsxVersion {
    const ASK: [&str; 3] = ["system", "version", "get"];

    /// First number of the version.
    pub fn major(version: &str) -> Option<u32> {
        version.split('.').next()?.parse().ok()
    }

    /// Probes of the version, for requirements that decide by it.
    pub(crate) fn ask(seen: &Evidence) -> Vec<Probe> {
        ask::probes(&Self::ASK, seen)
    }
}

impl Fact for EsxVersion {
    const NAME: &'static str = "esx-version";
    const ABOUT: &'static str = "Release of ESXi";
    fn probes(_: &Subject, seen: &Evidence) -> Vec<Probe> {
        Self::ask(seen)
    }
    fn parse(_: &Subject, seen: &Evidence) -> Result<Self, Unreadable> {
        ask::single(&Self::ASK, seen, |record| {
            let need = |name| record.need(name).map(String::from);
            let text = |name| record.get(name).map(String::from);
            Ok(Self {
                product: need("Product")?,
                version: need("Version")?,
                build: need("Build")?,
                update: text("Update"),
                patch: text("Patch"),
            })
        })
    }
}

/// What hostd says of the host as a whole.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HostSummary {
    /// Whether something waits for a reboot.
    pub reboot_required: Option<bool>,
    /// In maintenance mode.
    pub in_maintenance_mode: Option<bool>,
    /// When the host booted, as hostd prints it.
    pub boot_time: Option<String>,
}

impl HostSummary {
    fn ask() -> Command {
        Command::new("vim-cmd", ["hostsvc/hostsummary"])
    }
}

impl Fact for HostSummary {
    const NAME: &'static str = "host-summary";
    const ABOUT: &'static str = "Reboot pending and maintenance mode, as hostd sees them";
    fn probes(_: &Subject, _: &Evidence) -> Vec<Probe> {
        vec![Probe::Run(Self::ask())]
    }
    fn parse(_: &Subject, seen: &Evidence) -> Result<Self, Unreadable> {
        let output = seen.output(&Self::ask())?;
        let summary = vim_cmd::dump(seen.stdout(&Self::ask())?).map_err(|why| Unreadable::of(&Self::ask(), output, why))?;
        let boot_time = summary["runtime"]["bootTime"].as_str().map(String::from);
        Ok(Self {
            reboot_required: summary["rebootRequired"].as_bool(),
            in_maintenance_mode: summary["runtime"]["inMaintenanceMode"].as_bool(),
            boot_time,
        })
    }
}

/// The driver's report.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Gpus(pub SmiReport);

impl Fact for Gpus {
    const NAME: &'static str = "gpus";
    const ABOUT: &'static str = "GPUs that the NVIDIA vGPU manager holds, with their modes";
    fn probes(_: &Subject, _: &Evidence) -> Vec<Probe> {
        vec![Probe::Run(nvidia_smi::query())]
    }
    fn parse(_: &Subject, seen: &Evidence) -> Result<Self, Unreadable> {
        nvidia_smi::report(seen).map(Self)
    }
}

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
}

/// Reads all devices of `esxcli hardware pci list`.
pub fn pci_devices(records: &[vsgpu_core::esxcli::Record]) -> Result<Vec<PciGpu>, String> {
    let hex = |id: Option<&str>| id.map(|id| id.trim_start_matches("0x").to_lowercase());
    let device = |r: &vsgpu_core::esxcli::Record| {
        let address = r.get("Address").unwrap_or(&r.title);
        Ok(PciGpu {
            address: address.parse::<Bdf>().map_err(|e| format!("hardware pci list: {e}"))?.to_string(),
            vendor_id: hex(r.get("Vendor ID")).ok_or("hardware pci list: a device has no `Vendor ID`")?,
            device_id: hex(r.get("Device ID")),
            device_name: r.get("Device Name").map(String::from),
            configured_owner: r.get("Configured Owner").map(String::from),
            current_owner: r.get("Current Owner").map(String::from),
            module: r.get("Module Name").filter(|m| *m != "None").map(String::from),
            passthru_capable: r.flag("Passthru Capable"),
        })
    };
    records.iter().map(device).collect()
}

impl PciGpus {
    const ASK: [&str; 3] = ["hardware", "pci", "list"];
}

impl Fact for PciGpus {
    const NAME: &'static str = "pci-gpus";
    const ABOUT: &'static str = "NVIDIA devices on the PCI bus and who owns them";
    fn probes(_: &Subject, seen: &Evidence) -> Vec<Probe> {
        ask::probes(&Self::ASK, seen)
    }
    fn parse(_: &Subject, seen: &Evidence) -> Result<Self, Unreadable> {
        let devices = ask::parsed(&Self::ASK, seen, pci_devices)?;
        Ok(Self { devices: devices.into_iter().filter(|d| d.vendor_id == "10de").collect() })
    }
}

/// vGPUs in use, by GPU.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Vgpus {
    /// One per GPU.
    pub gpus: Vec<VgpuHost>,
}

impl Vgpus {
    fn ask() -> Command {
        Command::new("nvidia-smi", ["vgpu", "-q"])
    }
}

impl Fact for Vgpus {
    const NAME: &'static str = "vgpus";
    const ABOUT: &'static str = "vGPUs in use, with the VM, the guest's driver and its license state";
    fn probes(_: &Subject, _: &Evidence) -> Vec<Probe> {
        vec![Probe::Run(Self::ask())]
    }
    fn parse(_: &Subject, seen: &Evidence) -> Result<Self, Unreadable> {
        let output = seen.output(&Self::ask())?;
        let gpus = nvidia_smi::read_vgpus(&output.both()).map_err(|why| Unreadable::of(&Self::ask(), output, why))?;
        Ok(Self { gpus })
    }
}
