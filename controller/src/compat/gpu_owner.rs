//! Who owns a GPU: it is passed through or serves vGPUs, and a whole GPU belongs to one VM that runs.

use crate::compat::combination::{Finding, GpuClaim, HostGpus};
use vsgpu_core::Requirement as _;
use vsgpu_core::knowledge::{Basis, gpus, vgpu_types};
use vsgpu_host_agent::host::Passthrough;

pub(super) fn check(host_gpus: &HostGpus) -> Vec<Finding> {
    let basis = || {
        Basis::document(
            "vSphere: passthrough and vGPU exclude each other per GPU (NVIDIA AI Enterprise guide 8.2; KB 313479)",
            true,
        )
    };
    let one_vm = || Basis::document("vSphere: a DirectPath I/O device belongs to one VM that runs", true);
    let mut found = vec![];
    for claim in &host_gpus.claims {
        for at in &claim.fixed {
            let Some(gpu) = host_gpus.gpus.iter().find(|g| g.gpu.address == *at) else { continue };
            if claim.node.is_some() && !gpu.given {
                let (why, nearest) = if host_gpus.passthrough_wished {
                    (
                        "`passthrough` of the host takes it back",
                        format!("name {at} in `passthrough` of {}", host_gpus.host),
                    )
                } else {
                    (
                        "it is no passthrough device of the host",
                        format!("set `passthrough: [\"{at}\"]` of {}", host_gpus.host),
                    )
                };
                found.push(host_gpus.finding(
                    &[claim],
                    format!("{} wants {at} ({}) whole, but {why}", claim.vm, gpu.gpu.shown()),
                    basis(),
                    Some(nearest),
                ));
            }
        }
    }
    for gpu in &host_gpus.gpus {
        let of_gpu: Vec<&GpuClaim> =
            host_gpus.claims.iter().filter(|t| t.fixed.contains(&gpu.gpu.address)).collect();
        let running: Vec<&GpuClaim> = of_gpu.iter().copied().filter(|t| t.runs).collect();
        let names = |list: &[&GpuClaim]| list.iter().map(|t| t.vm.as_str()).collect::<Vec<_>>().join(" and ");
        if running.len() > 1 {
            let what = format!(
                "{} cannot run with the same GPU {} ({})",
                names(&running),
                gpu.gpu.address,
                gpu.gpu.shown()
            );
            found.push(host_gpus.finding(
                &running,
                what,
                one_vm(),
                Some("give each its own: `passthrough: [A100]` picks a free one".into()),
            ));
        } else if of_gpu.len() > 1 && of_gpu.iter().any(|t| t.node.is_some()) {
            let what =
                format!("{} share the GPU {}: only one of them can run", names(&of_gpu), gpu.gpu.address);
            found.push(host_gpus.finding(&of_gpu, what, one_vm(), None).doubtful());
        }
    }
    found.extend(dynamic(host_gpus));
    for claim in host_gpus.claims.iter().filter(|t| t.node.is_some() && t.runs) {
        for profile in &claim.profiles {
            let Some(vgpu) = vgpu_types::find(profile) else { continue };
            let of_kind: Vec<_> =
                host_gpus.gpus.iter().filter(|g| g.gpu.serves(vgpu) == Some(true)).collect();
            if !of_kind.is_empty() && of_kind.iter().all(|g| g.given) {
                let what = format!(
                    "{} wants the vGPU {profile}, but every {} of the host is a passthrough device",
                    claim.vm,
                    of_kind[0].gpu.shown()
                );
                let nearest = Some(format!("take one out of `passthrough` of {}", host_gpus.host));
                found.push(host_gpus.finding(&[claim], what, basis(), nearest));
            }
        }
    }
    found
}

/// GPUs that are placed at power-on: enough of them, and none that another VM names by its address.
/// Placed at power-on, and not seen yet: what the host gives away by its models' names is all that can be compared.
fn dynamic_by_names(host_gpus: &HostGpus) -> Vec<Finding> {
    let given: Vec<&str> = host_gpus
        .named
        .iter()
        .filter(|(key, _)| *key == Passthrough::NAME)
        .map(|(_, name)| name.as_str())
        .collect();
    let models: Vec<_> = given.iter().flat_map(|name| gpus::named(name)).collect();
    // An address, `all` or a name that is not known may be anything.
    if given.is_empty() || given.iter().any(|name| gpus::named(name).is_empty()) {
        return vec![];
    }
    let mut found = vec![];
    for claim in &host_gpus.claims {
        let gives = |ids: &&String| {
            ids.split(',')
                .any(|one| models.iter().any(|m| one.split_once(':').is_some_and(|(_, d)| d == m.device_id)))
        };
        let Some(ids) = claim.dynamic.iter().find(|ids| !gives(ids)) else { continue };
        let known = ids.split_once(':').and_then(|(_, device)| gpus::by_pci(device, None));
        let wanted = known.map_or(String::new(), |model| format!(" ({})", model.name));
        let has: Vec<String> = models.iter().map(|m| format!("{} (10de:{})", m.name, m.device_id)).collect();
        let what =
            format!("{} wants any {ids}{wanted}, and the host passes through {}", claim.vm, has.join(", "));
        let nearest =
            Some(format!("correct `dynamic`, or add that GPU to `passthrough` of {}", host_gpus.host));
        found.push(host_gpus.finding(
            &[claim],
            what,
            Basis::document("the fleet file itself", true),
            nearest,
        ));
    }
    found
}

fn dynamic(host_gpus: &HostGpus) -> Vec<Finding> {
    if !host_gpus.seen {
        return dynamic_by_names(host_gpus);
    }
    let mut found = vec![];
    let running = || host_gpus.claims.iter().filter(|t| t.runs);
    let kinds: std::collections::BTreeSet<&String> = running().flat_map(|t| &t.dynamic).collect();
    for ids in kinds {
        let one_of =
            |device: &str| ids.split(',').any(|one| one.split_once(':').is_some_and(|(_, d)| d == device));
        let is_kind = |g: &&crate::compat::combination::HostGpu| {
            g.given && g.gpu.device_id.as_deref().is_some_and(one_of)
        };
        let of_kind: Vec<_> = host_gpus.gpus.iter().filter(is_kind).collect();
        let wants: Vec<&GpuClaim> = running().filter(|t| t.dynamic.contains(ids)).collect();
        let named: Vec<&GpuClaim> =
            running().filter(|t| of_kind.iter().any(|g| t.fixed.contains(&g.gpu.address))).collect();
        let count = |t: &&GpuClaim| t.dynamic.iter().filter(|d| *d == ids).count();
        let needed = wants.iter().map(count).sum::<usize>()
            + of_kind.iter().filter(|g| named.iter().any(|t| t.fixed.contains(&g.gpu.address))).count();
        let names = |list: &[&GpuClaim]| list.iter().map(|t| t.vm.as_str()).collect::<Vec<_>>().join(", ");
        let source = |sure| {
            Basis::document(
                "vSphere documentation, Dynamic DirectPath I/O: a free device is chosen at power-on",
                sure,
            )
        };
        if needed > of_kind.len() {
            let what = format!(
                "{} {} a {ids} at power-on: {needed} are needed, the host has {} for passthrough",
                names(&wants),
                if wants.len() == 1 { "wants" } else { "want" },
                of_kind.len()
            );
            found.push(host_gpus.finding(
                &wants,
                what,
                source(true),
                Some("add GPUs to `passthrough` of the host, or let a VM be off".into()),
            ));
        } else if !named.is_empty() {
            let what = format!(
                "{} {} any free {ids} at power-on, which may be one that {} {} by its address",
                names(&wants),
                if wants.len() == 1 { "takes" } else { "take" },
                names(&named),
                if named.len() == 1 { "names" } else { "name" }
            );
            found.push(host_gpus.finding(
                &wants,
                what,
                source(false),
                Some("name GPUs by address for all VMs of a host, or for none".into()),
            ));
        }
    }
    found
}
