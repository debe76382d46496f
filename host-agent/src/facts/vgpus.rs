//! vGPUs in use, by GPU.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::readers::nvidia_smi::{self, VgpuHost};
use vsgpu_core::{Command, ExitKind, Fact, Observation, Probe, Subject, Unreadable};

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
    fn probes(_: &Subject, _: &Observation) -> Vec<Probe> {
        vec![Probe::Run(Self::ask())]
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let output = seen.output(&Self::ask())?;
        if let ExitKind::ByApi(why) = &output.ended {
            return Err(Unreadable::of(&Self::ask(), output, why));
        }
        let gpus = nvidia_smi::read_vgpus(&output.both())
            .map_err(|why| Unreadable::of(&Self::ask(), output, why))?;
        Ok(Self { gpus })
    }
    fn sentence(&self) -> Option<String> {
        let one = |vgpu: &vsgpu_core::readers::nvidia_smi::Vgpu| {
            vgpu.vm_name.clone().unwrap_or_else(|| "a VM without a name".into())
        };
        let all = self.gpus.iter().flat_map(|gpu| &gpu.vgpus);
        Some(vsgpu_core::words::first(all.map(one), 8, "no vGPU is active"))
    }
}
