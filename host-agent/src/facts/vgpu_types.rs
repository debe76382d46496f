//! vGPU types that the host offers: supported by each GPU in its present mode, and still creatable beside
//! what runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::readers::nvidia_smi::{self, TypesOfGpu};
use vsgpu_core::words::{counted, first};
use vsgpu_core::{Command, ExitKind, Fact, Observation, Probe, Subject, Unreadable};

/// Types by GPU.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VgpuTypes {
    /// Supported.
    pub supported: Vec<TypesOfGpu>,
    /// Still creatable.
    pub creatable: Vec<TypesOfGpu>,
}

fn ask(what: &str) -> Command {
    Command::new("nvidia-smi", ["vgpu", what, "-v"])
}

impl Fact for VgpuTypes {
    const NAME: &'static str = "vgpu-types";
    const ABOUT: &'static str = "vGPU types that each GPU supports, and those that can still be created";
    fn probes(_: &Subject, _: &Observation) -> Vec<Probe> {
        vec![Probe::Run(ask("-s")), Probe::Run(ask("-c"))]
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let types = |what: &str| {
            let output = seen.output(&ask(what))?;
            if let ExitKind::ByApi(why) = &output.ended {
                return Err(Unreadable::of(&ask(what), output, why));
            }
            nvidia_smi::read_types(&output.both()).map_err(|why| Unreadable::of(&ask(what), output, why))
        };
        // A GPU that is full lists nothing, and what a release prints then is not known: no list is an empty
        // list.
        Ok(Self { supported: types("-s")?, creatable: types("-c").unwrap_or_default() })
    }
    fn sentence(&self) -> Option<String> {
        let one = |gpu: &TypesOfGpu| {
            let free =
                self.creatable.iter().find(|other| other.bus_id == gpu.bus_id).map_or(0, |g| g.names.len());
            format!("{} offers {}, room for {free} of them", gpu.bus_id, counted(gpu.names.len(), "type"))
        };
        Some(first(self.supported.iter().map(one), 8, "no GPU offers vGPU types"))
    }
}
