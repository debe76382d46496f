//! NVIDIA GPUs on the PCI bus of the guest.

use crate::facts::host_view::{HostView, host_view};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::knowledge::vgpu_types;
use vsgpu_core::{Fact, Observation, Probe, Subject, Unreadable};

/// NVIDIA devices on the guest's PCI bus, driver or not.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PciGpus {
    /// Address, device id and subsystem id, as sysfs prints them. The last names the vGPU type.
    pub devices: Vec<PciGpu>,
}

/// One of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PciGpu {
    /// PCI address.
    pub address: String,
    /// Four hexadecimal digits.
    pub device_id: String,
    /// Four hexadecimal digits.
    pub subsystem_id: Option<String>,
    /// Size of BAR1 in MiB; 0 where it was given no room.
    #[serde(default)]
    pub bar1_mib: Option<u64>,
    /// The vGPU manager behind a vGPU, by its PCI capability; absent for a whole GPU and for managers before
    /// 12.0.
    #[serde(default)]
    pub host: Option<HostView>,
    /// The vGPU type, by the device and subsystem ids.
    #[serde(default)]
    pub vgpu_type: Option<String>,
}

/// BAR1 from sysfs' `resource`: one line per 32-bit BAR with first and last address and flags; all zero where
/// it is not mapped. BAR0 is 64-bit from Hopper on and takes two lines; on older GPUs the third line is the
/// upper half of BAR1 and always zero.
fn bar1_mib(resource: &str) -> Option<u64> {
    let size = |line: &str| {
        let mut words = line.split_whitespace();
        let mut address = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        let (first, last) = (address()?, address()?);
        Some(if last > first { (last - first + 1) >> 20 } else { 0 })
    };
    let lines: Vec<&str> = resource.lines().collect();
    let second = size(lines.get(1)?)?;
    Some(second.max(lines.get(2).and_then(|l| size(l)).unwrap_or(0)))
}

const BUS: &str = "/sys/bus/pci/devices";

impl PciGpus {
    /// Round one lists the bus, round two reads the vendors, round three the ids of NVIDIA's devices.
    pub(crate) fn ask(seen: &Observation) -> Vec<Probe> {
        let mut probes = vec![Probe::List(BUS.into())];
        for address in seen.names(BUS).unwrap_or_default().into_iter().take(256) {
            probes.push(Probe::Read(format!("{BUS}/{address}/vendor")));
            if is_nvidia(address, seen) {
                probes.push(Probe::Hex(format!("{BUS}/{address}/config")));
                probes.extend(
                    ["device", "class", "subsystem_device", "resource"]
                        .map(|file| Probe::Read(format!("{BUS}/{address}/{file}"))),
                );
            }
        }
        probes
    }

    /// GPUs on the bus; `None` where there is no bus to look at.
    pub(crate) fn seen(seen: &Observation) -> Result<Option<Vec<PciGpu>>, Unreadable> {
        if seen.text(&Probe::List(BUS.into()))?.is_none() {
            return Ok(None);
        }
        let id = |address: &str, file: &str| {
            seen.file(&format!("{BUS}/{address}/{file}"))
                .ok()
                .flatten()
                .map(|t| t.trim().trim_start_matches("0x").to_lowercase())
        };
        let gpu = |address: &str| {
            // Display controllers only (03xx): the audio function of a board is no GPU.
            let display = id(address, "class").is_none_or(|class| class.starts_with("03"));
            let device_id = id(address, "device").filter(|_| display)?;
            let resource = seen.file(&format!("{BUS}/{address}/resource")).ok().flatten();
            let (subsystem_id, bar1_mib) = (id(address, "subsystem_device"), resource.and_then(bar1_mib));
            let config = seen.text(&Probe::Hex(format!("{BUS}/{address}/config"))).ok().flatten();
            let vgpu_type = subsystem_id
                .as_deref()
                .and_then(|sub| vgpu_types::by_pci(&device_id, sub))
                .map(|t| t.name.to_string());
            Some(PciGpu {
                address: address.into(),
                device_id,
                subsystem_id,
                bar1_mib,
                host: config.and_then(host_view),
                vgpu_type,
            })
        };
        Ok(Some(seen.names(BUS)?.into_iter().filter(|a| is_nvidia(a, seen)).filter_map(gpu).collect()))
    }
}

fn is_nvidia(address: &str, seen: &Observation) -> bool {
    let vendor = Probe::Read(format!("{BUS}/{address}/vendor"));
    seen.has(&vendor) && seen.text(&vendor).is_ok_and(|v| v.is_some_and(|v| v.trim() == "0x10de"))
}

impl Fact for PciGpus {
    const NAME: &'static str = "pci-gpus";
    const ABOUT: &'static str = "NVIDIA GPUs on the PCI bus of the guest";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        Self::ask(seen)
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let devices = Self::seen(seen)?.ok_or_else(|| Unreadable::new(format!("{BUS}: no such folder")))?;
        Ok(Self { devices })
    }
    fn sentence(&self) -> Option<String> {
        let one = |gpu: &PciGpu| gpu.address.clone();
        Some(vsgpu_core::words::first(self.devices.iter().map(one), 8, "no NVIDIA GPU on the PCI bus"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar1_is_the_second_line() {
        let lines = "0x00000000fc000000 0x00000000fcffffff 0x0000000000040200\n0x000003b800000000 0x000003bfffffffff 0x000000000014220c\n";
        assert_eq!(bar1_mib(lines), Some(32_768));
        assert_eq!(
            bar1_mib("0x0 0x0 0x0\n0x0000000000000000 0x0000000000000000 0x0000000000000000\n"),
            Some(0)
        );
        let hopper = "0x000003c042000000 0x000003c042ffffff 0x000000000014220c\n0x0000000000000000 0x0000000000000000 0x0000000000000000\n0x000003a000000000 0x000003bfffffffff 0x000000000014220c\n";
        assert_eq!(bar1_mib(hopper), Some(131_072), "BAR0 is 64-bit: BAR1 is the third line");
        assert_eq!((bar1_mib(""), bar1_mib("x\ny z\n")), (None, None));
    }
}
