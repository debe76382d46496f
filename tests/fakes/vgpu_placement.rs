//! Simulated placement of vGPUs: which running VM's vGPU is on which GPU, and whether one more finds a place
//! (mode, MIG, ECC, equal sizes, memory). The first GPU that takes it gets it.

use super::state::{Esxi, Machine};
use vsgpu_core::knowledge::vgpu_types;
use vsgpu_core::readers::vmx;

const NO_ROOM: &str = "The amount of graphics resource available in the parent resource pool is insufficient for the operation.";

/// One vGPU on a GPU.
pub struct Placed {
    /// Display name of its VM.
    pub vm: String,
    /// As the `.vmx` names it.
    pub profile: String,
    /// Frame buffer, MiB.
    pub size_mib: u64,
}

/// The vGPUs of one host.
pub struct Placement {
    host: Esxi,
    /// In the order of the host's GPUs.
    pub on: Vec<Vec<Placed>>,
}

impl Placement {
    /// Of the VMs that run, but for one.
    pub fn running(machine: &mut Machine, but: Option<u32>) -> Self {
        let host = machine.esxi().clone();
        let mut placement = Self { on: host.gpus.iter().map(|_| vec![]).collect(), host };
        for vm in placement.host.vms.clone().iter().filter(|v| v.on && Some(v.vmid) != but) {
            let text =
                machine.text(&format!("/vmfs/volumes/{}/{}", vm.datastore, vm.file)).unwrap_or_default();
            for profile in super::vim_cmd::profiles(&vmx::read(text.as_bytes())) {
                // It runs, so a place was found when it was powered on; what has lost its place since is on
                // no GPU.
                let _ = placement.place(&vm.name, &profile);
            }
        }
        placement
    }

    /// Places one vGPU more; else what the plug-in says.
    pub fn place(&mut self, vm: &str, profile: &str) -> Result<(), String> {
        let branch = self
            .host
            .loaded
            .as_ref()
            .and_then(|driver| driver.split('.').next()?.parse::<u32>().ok())
            .ok_or(NO_ROOM)?;
        // Only the host's own spelling is one of its types.
        let known = vgpu_types::find(profile)
            .filter(|known| vgpu_types::of_vsphere(known.name).eq_ignore_ascii_case(profile))
            .ok_or(NO_ROOM)?;
        let size = known.size_mib;
        let fits = |at: &usize| {
            let (gpu, there) = (&self.host.gpus[*at], &self.on[*at]);
            gpu.token.eq_ignore_ascii_case(known.token)
                && !gpu.given
                && gpu.mig == known.mig
                && gpu.graphics_type == "SharedPassthru"
                && (gpu.mixed || there.iter().all(|p| p.size_mib == size))
                && there.iter().map(|p| p.size_mib).sum::<u64>() + size <= gpu.memory_mib
        };
        let at = (0..self.host.gpus.len()).find(fits).ok_or(NO_ROOM)?;
        if branch < 430 && self.host.gpus[at].ecc == Some(true) {
            return Err(format!(
                "Could not initialize plugin 'libnvidia-vgx.so' for vGPU \\\"{profile}\\\"."
            ));
        }
        self.on[at].push(Placed { vm: vm.into(), profile: profile.into(), size_mib: size });
        Ok(())
    }
}
