//! GPUs that keys of a host name: they are there, and those of keys of the host's driver are no passthrough
//! devices. Found here, before an outage, because the driver that holds the GPUs may only be there after it.

use crate::compat::combination::{Finding, HostGpus};
use vsgpu_core::Requirement as _;
use vsgpu_core::gpu_selector::{Candidate, GpuChoice};
use vsgpu_core::knowledge::{Basis, TABLES_OF, gpus};
use vsgpu_host_agent::host::Passthrough;

/// Its name, as findings show it.
pub(super) const NAME: &str = "gpu-names";

pub(super) fn check(host_gpus: &HostGpus) -> Vec<Finding> {
    host_gpus.named.iter().filter_map(|(key, name)| one(host_gpus, key, name)).collect()
}

/// A GPU that no table of ours has.
pub(crate) fn not_in_table(name: &str) -> Finding {
    Finding {
        constraint: NAME,
        nodes: vec![],
        what: format!("`{name}`, which is not in our table of GPUs ({TABLES_OF})"),
        basis: Basis {
            table: "gpus.tsv",
            row: "none".into(),
            confirmed: false,
            source: "no row has this name".into(),
        },
        nearest: Some(match gpus::nearest(name) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "a row of your own makes it known: `tables:` in the fleet file, or `--tables DIR`".into(),
        }),
        certain: false,
    }
}

fn one(host_gpus: &HostGpus, key: &str, name: &str) -> Option<Finding> {
    let of_host = |what: String, basis: Basis, nearest: Option<String>| {
        let mut finding = host_gpus.finding(&[], what, basis, nearest);
        finding.nodes.push(host_gpus.node.clone());
        finding
    };
    let choice: GpuChoice = serde_json::from_value(serde_json::json!(name)).ok()?;
    let means = |g: &&crate::compat::combination::HostGpu| {
        let gpu = &g.gpu;
        choice.may_mean(&Candidate {
            address: &gpu.address,
            device_id: gpu.device_id.as_deref(),
            subsystem_id: gpu.subsystem_id.as_deref(),
            name: gpu.name.as_deref(),
        })
    };
    if !host_gpus.seen {
        // Offline only a model's name can be looked up.
        let GpuChoice::Model { model, .. } = &choice else { return None };
        if !gpus::named(model).is_empty() {
            return None;
        }
        let mut finding = not_in_table(model);
        finding.nodes.push(host_gpus.node.clone());
        finding.what = format!("{}: `{key}` names {}", host_gpus.host, finding.what);
        return Some(finding);
    }
    let basis = || Basis::document("the host's own PCI bus", true);
    let there: Vec<_> = host_gpus.gpus.iter().filter(means).collect();
    let all: Vec<String> =
        host_gpus.gpus.iter().map(|g| format!("{} {}", g.gpu.address, g.gpu.shown())).collect();
    if there.is_empty() {
        let has = if all.is_empty() { "no NVIDIA GPU".to_string() } else { all.join(", ") };
        return Some(of_host(
            format!("`{key}` names `{name}`, which this host does not have; it has {has}"),
            basis(),
            None,
        ));
    }
    (key != Passthrough::NAME && there.iter().all(|g| g.given)).then(|| {
        let nearest = Some(format!("take it out of `{key}`, or out of `passthrough` of {}", host_gpus.host));
        of_host(
            format!(
                "`{key}` names `{name}`, which is a passthrough device: the host's driver does not see it"
            ),
            basis(),
            nearest,
        )
    })
}
