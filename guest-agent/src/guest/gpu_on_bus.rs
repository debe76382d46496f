//! The GPUs that the VM was given are on the guest's PCI bus, and their BAR1 is mapped. Only looked at: what
//! is wrong here is wrong in the VM's or the host's settings, and no driver would come up (facts: failures
//! F2).

use crate::facts::pci_gpus::{PciGpu, PciGpus};
use crate::guest::driver::spec::wanted;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

const EFI: &str = "/sys/firmware/efi";

/// GPUs on the bus.
pub struct GpuOnBus;

/// How many there have to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
pub struct GpuOnBusSpec {
    /// GPUs and vGPUs together.
    #[serde(default = "one")]
    pub at_least: u32,
}

fn one() -> u32 {
    1
}

/// The bus, and how the guest was booted.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GpuOnBusFact {
    /// NVIDIA's display controllers.
    pub gpus: Vec<PciGpu>,
    /// Booted by EFI.
    pub efi: bool,
}

impl Fact for GpuOnBusFact {
    const NAME: &'static str = "gpu-on-bus";
    const ABOUT: &'static str =
        "GPUs on the guest's PCI bus with the size of BAR1, and whether EFI booted it";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = PciGpus::ask(seen);
        probes.push(Probe::List(EFI.into()));
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let gpus = PciGpus::seen(seen)?.unwrap_or_default();
        Ok(Self { gpus, efi: seen.text(&Probe::List(EFI.into())).is_ok_and(|names| names.is_some()) })
    }
}

fn size(mib: u64) -> String {
    if mib >= 1024 { format!("{} GiB", mib / 1024) } else { format!("{mib} MiB") }
}

impl Requirement for GpuOnBus {
    const NAME: &'static str = "gpu-on-bus";
    const ABOUT: &'static str = "The VM's GPUs are on the guest's PCI bus and their BAR1 is mapped";
    const AFTER: &'static [&'static str] = &[];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] =
        &[Implied { by: "driver", spec: |driver| wanted(driver).map(|_| serde_json::json!({})) }];
    const EXAMPLE: &'static str = r#"{"at-least": 2}"#;
    type Spec = GpuOnBusSpec;
    type Fact = GpuOnBusFact;

    fn expect_gpus(spec: &mut GpuOnBusSpec, count: u32) {
        if spec.at_least == one() {
            spec.at_least = count;
        }
    }

    fn check(spec: &GpuOnBusSpec, fact: &GpuOnBusFact) -> Verdict {
        if (fact.gpus.len() as u64) < u64::from(spec.at_least) {
            return Verdict::blocked(
                format!(
                    "{} NVIDIA GPU(s) on the PCI bus of this VM, {} expected",
                    fact.gpus.len(),
                    spec.at_least
                ),
                "look at `vgpu` or `passthrough` of the VM: `vsgpu facts` shows what its .vmx holds; a VM that was on needs a power cycle",
            );
        }
        if let Some(gpu) = fact.gpus.iter().find(|g| g.bar1_mib == Some(0)) {
            let why = format!("BAR1 of {} is empty: the guest's firmware found no room for it", gpu.address);
            let hint = if fact.efi {
                "the 64-bit MMIO window of the VM is too small: wish for a larger `mmio`, and look at above-4G decoding in the host's BIOS"
            } else {
                "the guest was booted by BIOS; a large BAR needs EFI, and an installed guest is not converted: install it anew in a VM with EFI"
            };
            return Verdict::blocked(why, hint);
        }
        let gpu = |g: &PciGpu| {
            let kind = g.vgpu_type.as_deref().map(|t| format!(" ({t})")).unwrap_or_default();
            let host = g
                .host
                .as_ref()
                .and_then(|h| h.manager.as_deref())
                .map(|m| format!(", host {m}"))
                .unwrap_or_default();
            let bar1 = g.bar1_mib.map(|m| format!(", BAR1 {}", size(m))).unwrap_or_default();
            format!("{} 10de:{}{kind}{bar1}{host}", g.address, g.device_id)
        };
        let boot = if fact.efi { "EFI" } else { "BIOS" };
        Verdict::met(format!("{}; {boot}", fact.gpus.iter().map(gpu).collect::<Vec<_>>().join(" + ")))
    }

    fn as_spec(fact: &GpuOnBusFact) -> Option<GpuOnBusSpec> {
        let at_least = u32::try_from(fact.gpus.len()).ok().filter(|n| *n > 0)?;
        let spec = GpuOnBusSpec { at_least };
        Self::check(&spec, fact).is_met().then_some(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bars: &[Option<u64>], efi: bool, at_least: u32) -> Verdict {
        let gpu = |bar1_mib: &Option<u64>| PciGpu {
            address: "0000:13:00.0".into(),
            device_id: "20f1".into(),
            bar1_mib: *bar1_mib,
            ..PciGpu::default()
        };
        GpuOnBus::check(
            &GpuOnBusSpec { at_least },
            &GpuOnBusFact { gpus: bars.iter().map(gpu).collect(), efi },
        )
    }

    #[test]
    fn an_empty_bar_is_told_apart_by_the_firmware() {
        assert!(check(&[Some(65_536)], true, 1).is_met() && check(&[None], true, 1).is_met());
        assert!(matches!(check(&[Some(0)], true, 1), Verdict::Blocked { hint, .. } if hint.contains("mmio")));
        assert!(matches!(check(&[Some(0)], false, 1), Verdict::Blocked { hint, .. } if hint.contains("EFI")));
        assert!(
            matches!(check(&[Some(256)], true, 2), Verdict::Blocked { why, .. } if why.contains("2 expected"))
        );
    }
}
