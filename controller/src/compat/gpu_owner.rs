//! Who owns a GPU: it is passed through or serves vGPUs, and a whole GPU belongs to one VM that runs.

use crate::compat::combination::{Finding, Room, Tenant};
use vsgpu_core::knowledge::{Basis, vgpu_types};

pub(super) fn check(room: &Room) -> Vec<Finding> {
    let basis =
        || Basis::document("vSphere: passthrough and vGPU exclude each other per GPU (NVIDIA AI Enterprise guide 8.2; KB 313479)", true);
    let mut found = vec![];
    for tenant in &room.tenants {
        for at in &tenant.fixed {
            let Some(gpu) = room.gpus.iter().find(|g| g.gpu.address == *at) else { continue };
            if tenant.node.is_some() && !gpu.given {
                let (why, nearest) = if room.passthrough_wished {
                    ("`passthrough` of the host takes it back", format!("name {at} in `passthrough` of {}", room.host))
                } else {
                    ("the host does not give it away", format!("wish for `passthrough: [\"{at}\"]` of {}", room.host))
                };
                found.push(room.finding(
                    &[tenant],
                    format!("{} wants {at} ({}) whole, but {why}", tenant.vm, gpu.gpu.shown()),
                    basis(),
                    Some(nearest),
                ));
            }
        }
    }
    for gpu in &room.gpus {
        let of_gpu: Vec<&Tenant> = room.tenants.iter().filter(|t| t.fixed.contains(&gpu.gpu.address)).collect();
        let running: Vec<&Tenant> = of_gpu.iter().copied().filter(|t| t.runs).collect();
        let names = |list: &[&Tenant]| list.iter().map(|t| t.vm.as_str()).collect::<Vec<_>>().join(" and ");
        if running.len() > 1 {
            let what = format!("{} cannot run with the same GPU {} ({})", names(&running), gpu.gpu.address, gpu.gpu.shown());
            found.push(room.finding(&running, what, basis(), Some("give each its own: `passthrough: [A100]` picks a free one".into())));
        } else if of_gpu.len() > 1 && of_gpu.iter().any(|t| t.node.is_some()) {
            let what = format!("{} share the GPU {}: only one of them can run", names(&of_gpu), gpu.gpu.address);
            found.push(room.finding(&of_gpu, what, basis(), None).doubtful());
        }
    }
    found.extend(dynamic(room));
    for tenant in room.tenants.iter().filter(|t| t.node.is_some() && t.runs) {
        for profile in &tenant.profiles {
            let Some(vgpu) = vgpu_types::find(profile) else { continue };
            let of_kind: Vec<_> = room.gpus.iter().filter(|g| g.gpu.serves(vgpu) == Some(true)).collect();
            if !of_kind.is_empty() && of_kind.iter().all(|g| g.given) {
                let what =
                    format!("{} wants the vGPU {profile}, but every {} of the host is given away whole", tenant.vm, of_kind[0].gpu.shown());
                let nearest = Some(format!("take one out of `passthrough` of {}", room.host));
                found.push(room.finding(&[tenant], what, basis(), nearest));
            }
        }
    }
    found
}

/// GPUs that are placed at power-on: enough of them, and none that another VM names by its address.
fn dynamic(room: &Room) -> Vec<Finding> {
    let mut found = vec![];
    let running = || room.tenants.iter().filter(|t| t.runs);
    let kinds: std::collections::BTreeSet<&String> = running().flat_map(|t| &t.dynamic).collect();
    for ids in kinds {
        let one_of = |device: &str| ids.split(',').any(|one| one.split_once(':').is_some_and(|(_, d)| d == device));
        let is_kind = |g: &&crate::compat::combination::RoomGpu| g.given && g.gpu.device_id.as_deref().is_some_and(one_of);
        let of_kind: Vec<_> = room.gpus.iter().filter(is_kind).collect();
        let wants: Vec<&Tenant> = running().filter(|t| t.dynamic.contains(ids)).collect();
        let named: Vec<&Tenant> = running().filter(|t| of_kind.iter().any(|g| t.fixed.contains(&g.gpu.address))).collect();
        let count = |t: &&Tenant| t.dynamic.iter().filter(|d| *d == ids).count();
        let needed = wants.iter().map(count).sum::<usize>()
            + of_kind.iter().filter(|g| named.iter().any(|t| t.fixed.contains(&g.gpu.address))).count();
        let names = |list: &[&Tenant]| list.iter().map(|t| t.vm.as_str()).collect::<Vec<_>>().join(", ");
        let source = |sure| Basis::document("vSphere documentation, Dynamic DirectPath I/O: a free device is chosen at power-on", sure);
        if needed > of_kind.len() {
            let what = format!("{} want a {ids} at power-on: {needed} are needed, the host gives {} away", names(&wants), of_kind.len());
            found.push(room.finding(&wants, what, source(true), Some("give more GPUs away, or let a VM be off".into())));
        } else if !named.is_empty() {
            let what = format!(
                "{} take any free {ids} at power-on, which may be the one that {} names by its address",
                names(&wants),
                names(&named)
            );
            found.push(room.finding(&wants, what, source(false), Some("name GPUs by address for all VMs of a host, or for none".into())));
        }
    }
    found
}
