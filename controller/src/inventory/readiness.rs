//! Pure: what a host's facts say of each of its GPUs, in one place, and what in the BIOS cannot be right as
//! far as evidence shows. Nothing here decides anything: it is for people, before they ask for something that
//! cannot work.

use crate::inventory::seen::Seen;
use schemars::JsonSchema;
use serde::Serialize;
use vsgpu_core::Fact as _;
use vsgpu_core::readers::nvidia_smi::{SmiReport, VgpuHost};
use vsgpu_host_agent::facts::{GpuUsers, Gpus, PciGpu, PciGpus, Vcenter, VgpuTypes, Vgpus};
use vsgpu_host_agent::host::{HostGraphics, HostPassthrough};

/// One GPU of a host. Sizes in MiB; what no fact says is absent.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct GpuReadiness {
    /// PCI address.
    pub address: String,
    /// Model.
    pub model: String,
    /// BAR1: as the driver sees it, else of the table.
    pub bar1_mib: Option<u64>,
    /// NUMA node.
    pub numa_node: Option<u32>,
    /// Who has it now, in esxcli's words.
    pub owner: Option<String>,
    /// Can be given away.
    pub passthrough_capable: Option<bool>,
    /// Is to be given away, after the next reboot at the latest.
    pub passthrough_configured: Option<bool>,
    /// Is given away.
    pub passthrough_active: bool,
    /// Graphics type that is configured.
    pub graphics_configured: Option<String>,
    /// Graphics type that is active.
    pub graphics_active: Option<String>,
    /// ECC now and after the next reboot.
    pub ecc: (Option<bool>, Option<bool>),
    /// MIG now and after the next reboot.
    pub mig: (Option<bool>, Option<bool>),
    /// vGPU types that it supports in its present mode.
    pub vgpu_types: Option<Vec<String>>,
    /// vGPU types of which one more can be created.
    pub creatable: Option<Vec<String>>,
    /// VMs that have it: whole, or with a vGPU on it. A vGPU that does not run is on any GPU of its kind:
    /// `vm-01?`.
    pub vms: Vec<String>,
}

/// Something in the BIOS, as far as evidence shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Bios {
    /// What it is about.
    pub setting: &'static str,
    /// `on`, `suspect` or `unknown`.
    pub state: &'static str,
    /// What says so.
    pub evidence: String,
}

/// A host's GPUs and BIOS.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Readiness {
    /// GPUs.
    pub gpus: Vec<GpuReadiness>,
    /// BIOS.
    pub bios: Vec<Bios>,
    /// Its cluster in vCenter, in words, where this host is reached by vCenter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcenter: Option<String>,
}

/// Of one host; `None` where its PCI bus was not seen.
pub fn of_host(seen: &Seen) -> Option<Readiness> {
    let bus: PciGpus = seen.fact().ok()?;
    let passthrough: Option<HostPassthrough> = seen.fact().ok();
    let graphics: Option<HostGraphics> = seen.fact().ok();
    let report: Option<SmiReport> = seen.fact::<Gpus>().ok().map(|gpus| gpus.0);
    let types: Option<VgpuTypes> = seen.fact().ok();
    let users: Option<GpuUsers> = seen.fact().ok();
    // What runs, the driver places exactly; of what is only configured the kind of GPU is known, and marked
    // as a guess.
    let placed: Vec<VgpuHost> = seen.fact::<Vgpus>().map(|f| f.gpus).unwrap_or_default();
    let runs = |vm: &str, gpu: &VgpuHost| gpu.vgpus.iter().any(|v| v.vm_name.as_deref() == Some(vm));
    let gpu = |pci: &PciGpu| {
        let smi = report.as_ref().and_then(|r| r.gpus.iter().find(|g| g.bus_id == pci.address));
        let device = graphics.as_ref().and_then(|g| g.devices.iter().find(|d| d.bdf == pci.address));
        let own_type = graphics.as_ref().and_then(|g| g.configured.get(&pci.address));
        let listed = |list: &[vsgpu_core::readers::nvidia_smi::TypesOfGpu]| {
            list.iter().find(|t| t.bus_id == pci.address).map(|t| t.names.clone())
        };
        let model = pci.candidate().model();
        let of_kind = |profile: &String| {
            vsgpu_core::knowledge::vgpu_types::find(profile)
                .is_some_and(|t| model.is_some_and(|m| m.token.eq_ignore_ascii_case(t.token)))
        };
        let has = |user: &vsgpu_host_agent::facts::GpuUser| {
            let here = placed.iter().any(|gpu| gpu.bus_id == pci.address && runs(&user.vm, gpu));
            if user.fixed.contains(&pci.address) || here {
                return Some(user.vm.clone());
            }
            let elsewhere = placed.iter().any(|gpu| runs(&user.vm, gpu));
            let may = !elsewhere && !pci.is_passed_through() && user.vgpus.iter().any(of_kind);
            may.then(|| format!("{}?", user.vm))
        };
        GpuReadiness {
            address: pci.address.clone(),
            model: pci.candidate().shown(),
            bar1_mib: smi.and_then(|g| g.bar1_total_mib).or_else(|| model.and_then(|m| m.bar1_mib)),
            numa_node: pci.numa_node,
            owner: pci.current_owner.clone(),
            passthrough_capable: pci.passthru_capable,
            passthrough_configured: passthrough.as_ref().map(|p| p.configured(pci)),
            passthrough_active: pci.is_passed_through(),
            graphics_configured: own_type
                .cloned()
                .or_else(|| graphics.as_ref().map(|g| g.default_type.clone())),
            graphics_active: device.map(|d| d.graphics_type.clone()),
            ecc: (smi.and_then(|g| g.ecc_current), smi.and_then(|g| g.ecc_pending)),
            mig: (smi.and_then(|g| g.mig_current), smi.and_then(|g| g.mig_pending)),
            vgpu_types: types.as_ref().and_then(|t| listed(&t.supported)),
            creatable: types.as_ref().and_then(|t| listed(&t.creatable)),
            vms: users.iter().flat_map(|u| u.vms.iter()).filter_map(has).collect(),
        }
    };
    let gpus: Vec<GpuReadiness> = bus.gpus().into_iter().map(gpu).collect();
    let bios = bios(&bus, &gpus, report.as_ref());
    let vcenter = seen.fact::<Vcenter>().ok().and_then(|fact| fact.sentence());
    Some(Readiness { gpus, bios, vcenter })
}

fn bios(bus: &PciGpus, gpus: &[GpuReadiness], report: Option<&SmiReport>) -> Vec<Bios> {
    let mut all = vec![];
    let mut say = |setting, state, evidence: String| all.push(Bios { setting, state, evidence });
    let iommu = "VT-d / AMD-Vi";
    match bus.devices.iter().find(|d| d.passthru_capable == Some(true)) {
        Some(device) => say(iommu, "on", format!("{} is passthrough capable", device.address)),
        None if bus.devices.iter().any(|d| d.passthru_capable == Some(false)) => {
            say(iommu, "suspect", "no NVIDIA device of the host is passthrough capable".into());
        }
        None => say(iommu, "unknown", "esxcli does not say whether a device is passthrough capable".into()),
    }
    // The driver's own measure of BAR1 against the board's.
    let above = "above-4G decoding";
    let measured = |at: &str| {
        let bar = report?.gpus.iter().find(|g| g.bus_id == at)?.bar1_total_mib?;
        let board = bus.devices.iter().find(|d| d.address == at)?.candidate().model()?.bar1_mib?;
        (board > 256).then_some((at.to_string(), bar, board))
    };
    let bars: Vec<_> = gpus.iter().filter_map(|gpu| measured(&gpu.address)).collect();
    match (bars.iter().find(|(_, bar, board)| bar < board), bars.first()) {
        (Some((at, bar, board)), _) => say(
            above,
            "suspect",
            format!(
                "BAR1 of {at} is {bar} MiB, the board has {board}: decoding is off, or the card is in display mode"
            ),
        ),
        (None, Some((at, bar, _))) => say(above, "on", format!("BAR1 of {at} is {bar} MiB")),
        (None, None) => say(above, "unknown", "no host driver has measured a large BAR here".into()),
    }
    let sriov = "SR-IOV";
    let ampere = |gpu: &&GpuReadiness| {
        let model = bus.devices.iter().find(|d| d.address == gpu.address).and_then(|d| d.candidate().model());
        !gpu.passthrough_active
            && model.is_some_and(|m| !matches!(m.architecture, "Maxwell" | "Pascal" | "Volta" | "Turing"))
    };
    for gpu in gpus.iter().filter(ampere) {
        let ready = gpu.graphics_active.as_deref() == Some("SharedPassthru");
        match &gpu.vgpu_types {
            Some(types) if !types.is_empty() => {
                say(sriov, "on", format!("{} offers {} vGPU types", gpu.address, types.len()))
            }
            Some(_) if ready => {
                say(sriov, "suspect", format!("{} is SharedPassthru and offers no vGPU type", gpu.address))
            }
            _ => say(sriov, "unknown", format!("the vGPU types of {} cannot be seen yet", gpu.address)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn seen(facts: &[(&str, Value)]) -> Seen {
        Seen {
            boot_id: "1".into(),
            facts: facts.iter().map(|(name, fact)| ((*name).into(), Ok(fact.clone().into()))).collect(),
            ..Seen::default()
        }
    }

    fn device(capable: bool) -> Value {
        json!({ "devices": [{ "address": "0000:3b:00.0", "vendor_id": "10de", "device_id": "20f1", "current_owner": "VMkernel", "passthru_capable": capable, "numa_node": 1 }] })
    }

    fn state(readiness: &Readiness, setting: &str) -> &'static str {
        readiness.bios.iter().find(|b| b.setting == setting).map_or("absent", |b| b.state)
    }

    #[test]
    fn only_evidence_speaks_of_the_bios() {
        let bare = of_host(&seen(&[("pci-gpus", device(true))])).unwrap_or_else(|| panic!("bus"));
        assert_eq!(
            (state(&bare, "VT-d / AMD-Vi"), state(&bare, "above-4G decoding"), state(&bare, "SR-IOV")),
            ("on", "unknown", "unknown")
        );
        assert_eq!((bare.gpus[0].numa_node, bare.gpus[0].bar1_mib), (Some(1), Some(65_536)));
        let smi = |bar: u64| json!({ "gpus": [{ "bus_id": "0000:3b:00.0", "bar1_total_mib": bar }] });
        let small = of_host(&seen(&[("pci-gpus", device(false)), ("gpus", smi(256))]))
            .unwrap_or_else(|| panic!("bus"));
        assert_eq!(
            (state(&small, "VT-d / AMD-Vi"), state(&small, "above-4G decoding")),
            ("suspect", "suspect")
        );
        let types = |names: Value| json!({ "supported": [{ "bus_id": "0000:3b:00.0", "names": names }], "creatable": [] });
        let graphics = json!({ "default_type": "SharedPassthru", "assignment_policy": "Performance", "devices": [{ "bdf": "0000:3b:00.0", "graphics_type": "SharedPassthru" }] });
        let none = of_host(&seen(&[
            ("pci-gpus", device(true)),
            ("gpus", smi(65_536)),
            ("vgpu-types", types(json!([]))),
            ("host-graphics", graphics),
        ]));
        let none = none.unwrap_or_else(|| panic!("bus"));
        assert_eq!((state(&none, "above-4G decoding"), state(&none, "SR-IOV")), ("on", "suspect"));
        assert!(of_host(&seen(&[])).is_none());
    }
}
