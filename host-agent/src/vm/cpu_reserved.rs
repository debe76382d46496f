//! All CPU time of the VM's vCPUs reserved: GPU VMs that must answer quickly are not to wait for a core.
//! vSphere's own setting for such VMs (latency sensitivity) asks for it together with all memory, and so does
//! this.

use crate::facts::host_summary::HostSummary;
use crate::facts::vm_config::{VmConfig, find};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::readers::vim_cmd;
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::words::counted;
use vsgpu_core::{Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

/// CPU reservation of a VM.
pub struct CpuReserved;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CpuShare {
    /// All MHz of its vCPUs.
    All,
}

/// Cores of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostCpus {
    /// Speed of one, as hostd says it.
    pub mhz: u32,
    /// How many there are.
    pub cores: u32,
}

impl HostCpus {
    fn seen(seen: &Observation) -> Option<Self> {
        let summary = vim_cmd::dump(seen.stdout_if_ok(&HostSummary::ask())?).ok()?;
        let number = |key: &str| summary["hardware"][key].as_u64().and_then(|n| u32::try_from(n).ok());
        Some(Self { mhz: number("cpuMhz")?, cores: number("numCpuCores")? })
    }
}

/// A VM's configuration beside the speed of its host's cores.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VmCpus {
    /// The VM.
    #[serde(flatten)]
    pub config: VmConfig,
    /// The host's cores; absent where hostd does not tell.
    pub host: Option<HostCpus>,
}

const MIN: &str = "sched.cpu.min";
const UNITS: &str = "sched.cpu.units";

impl VmCpus {
    fn key(&self, key: &str) -> Option<&str> {
        self.config.keys.get(key).map(String::as_str)
    }

    /// `.vmx` without the key: one.
    fn vcpus(&self) -> u64 {
        self.key("numvcpus").and_then(|n| n.parse().ok()).unwrap_or(1)
    }

    fn memory_is_reserved(&self) -> bool {
        self.key("sched.mem.min").and_then(|n| n.parse::<u64>().ok()) >= Some(self.config.memory_mib)
    }
}

impl Fact for VmCpus {
    const NAME: &'static str = "vm-cpus";
    const ABOUT: &'static str = "CPU and memory reservation of the VM, and the speed of its host's cores";
    fn probes(on: &Subject, seen: &Observation) -> Vec<Probe> {
        [VmConfig::probes(on, seen), HostSummary::probes(on, seen)].concat()
    }
    fn parse(on: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        find(on, seen)?;
        Ok(Self { config: VmConfig::parse(on, seen)?, host: HostCpus::seen(seen) })
    }
    fn sentence(&self) -> Option<String> {
        let host = self.host.map(|h| format!(" of the host's {} cores of {} MHz", h.cores, h.mhz));
        let least = self.key(MIN).filter(|mhz| *mhz != "0").map(|mhz| format!(", {mhz} MHz reserved"));
        Some(format!(
            "{}{}{}",
            counted(self.vcpus() as usize, "vCPU"),
            host.unwrap_or_default(),
            least.unwrap_or_default()
        ))
    }
}

impl Requirement for CpuReserved {
    const NAME: &'static str = "cpu-reserved";
    const ABOUT: &'static str =
        "CPU reservation of the VM: all MHz of its vCPUs, for a VM that must answer quickly";
    const AFTER: &'static [&'static str] = &["clone-of", "memory-reserved"];
    const NEEDS: Needs = Needs::VmsOff;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#""all""#;
    const VMX_KEYS: &'static [&'static str] = &["sched.cpu.", "sched.mem.min", "numvcpus"];
    type Spec = CpuShare;
    type Fact = VmCpus;

    fn check(_: &CpuShare, fact: &VmCpus) -> Verdict {
        let Some(host) = fact.host else {
            let hint = "`vim-cmd hostsvc/hostsummary` on the host shows `cpuMhz` where hostd works";
            return Verdict::blocked("the host does not tell the speed of its cores", hint);
        };
        let vcpus = fact.vcpus();
        let all = vcpus * u64::from(host.mhz);
        let wants = format!("all {all} MHz ({vcpus} vCPUs of {} MHz)", host.mhz);
        let there = u64::from(host.cores) * u64::from(host.mhz);
        if all > there {
            let why = format!(
                "the VM's {vcpus} vCPUs have {all} MHz, the host has {there} MHz in {} cores",
                host.cores
            );
            return Verdict::blocked(why, "give the VM fewer vCPUs, or take this key out");
        }
        if !fact.memory_is_reserved() {
            // Not `Waits`: within one VM that is for what its host brings. Where `memory-reserved` is changed
            // before, this is judged again.
            return Verdict::blocked(
                "its memory is not reserved",
                "add `memory-reserved: all` to the VM, or take this key out",
            );
        }
        let mhz = fact.key(UNITS).is_none_or(|units| units.eq_ignore_ascii_case("mhz"));
        let is = match fact.key(MIN) {
            None | Some("0") => "nothing".to_string(),
            Some(min) => format!("{min} {}", fact.key(UNITS).unwrap_or("MHz")),
        };
        if mhz && fact.key(MIN).and_then(|n| n.parse::<u64>().ok()) == Some(all) {
            return Verdict::met(wants);
        }
        let mut set = vec![(MIN.to_string(), Some(all.to_string()))];
        if !mhz {
            set.push((UNITS.into(), Some("mhz".into())));
        }
        Verdict::unmet(is, wants, fact.config.edit(set))
    }

    fn as_spec(fact: &VmCpus) -> Option<CpuShare> {
        Self::check(&CpuShare::All, fact).is_met().then_some(CpuShare::All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::vm_config::tests::with_keys;
    use vsgpu_core::Effect;

    /// A VM of 8 GiB on a host with 8 cores of 2,000 MHz.
    fn fact(keys: &[(&str, &str)]) -> VmCpus {
        let keys = keys.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        VmCpus { config: with_keys(keys), host: Some(HostCpus { mhz: 2_000, cores: 8 }) }
    }

    fn sets(fact: &VmCpus) -> Vec<(String, Option<String>)> {
        match CpuReserved::check(&CpuShare::All, fact) {
            Verdict::Unmet { effects, .. } => match &effects[1] {
                Effect::ReconfigureVm { set, .. } => set.clone(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_mhz_of_the_vcpus_are_reserved() {
        let vm = fact(&[("numvcpus", "4"), ("sched.mem.min", "8192"), ("sched.cpu.min", "0")]);
        assert_eq!(sets(&vm), [(MIN.to_string(), Some("8000".to_string()))]);
        let one = fact(&[("sched.mem.min", "8192")]);
        assert_eq!(sets(&one)[0].1.as_deref(), Some("2000"), "no `numvcpus` is one");
        let shares =
            fact(&[("sched.mem.min", "8192"), ("sched.cpu.min", "2000"), ("sched.cpu.units", "percent")]);
        assert_eq!(sets(&shares).len(), 2, "2,000 of another unit is another reservation");
        let met = fact(&[
            ("numvcpus", "4"),
            ("sched.mem.min", "8192"),
            ("sched.cpu.min", "8000"),
            ("sched.cpu.units", "mhz"),
        ]);
        assert_eq!(
            CpuReserved::check(&CpuShare::All, &met),
            Verdict::met("all 8000 MHz (4 vCPUs of 2000 MHz)")
        );
        assert_eq!(CpuReserved::as_spec(&met), Some(CpuShare::All));
    }

    #[test]
    fn what_cannot_be_reserved_is_said_before_anything_is_touched() {
        let more_than_there_is = fact(&[("numvcpus", "12"), ("sched.mem.min", "8192")]);
        let unknown = VmCpus { host: None, ..fact(&[("sched.mem.min", "8192")]) };
        let without_memory = fact(&[("numvcpus", "4")]);
        let all = [
            (more_than_there_is, "the host has 16000 MHz"),
            (unknown, "speed of its cores"),
            (without_memory, "its memory is not reserved"),
        ];
        for (fact, word) in all {
            let Verdict::Blocked { why, .. } = CpuReserved::check(&CpuShare::All, &fact) else {
                panic!("{fact:?}")
            };
            assert!(why.contains(word), "{why}");
        }
    }
}
