//! GPUs that keys of a host name: they are there, and those of keys of the host's driver are not given away. Found here, before
//! an outage, because the driver that holds the GPUs may only be there after it.

use crate::compat::combination::{Finding, Room};
use vsgpu_core::Requirement as _;
use vsgpu_core::gpu_selector::{Candidate, GpuChoice};
use vsgpu_core::knowledge::{Basis, gpus};
use vsgpu_host_agent::host::Passthrough;

pub(super) fn check(room: &Room) -> Vec<Finding> {
    room.named.iter().filter_map(|(key, name)| one(room, key, name)).collect()
}

fn one(room: &Room, key: &str, name: &str) -> Option<Finding> {
    let of_host = |what: String, basis: Basis, nearest: Option<String>| {
        let mut finding = room.finding(&[], what, basis, nearest);
        finding.nodes.push(room.node.clone());
        finding
    };
    let choice: GpuChoice = serde_json::from_value(serde_json::json!(name)).ok()?;
    let means = |g: &&crate::compat::combination::RoomGpu| {
        let gpu = &g.gpu;
        choice.may_mean(&Candidate {
            address: &gpu.address,
            device_id: gpu.device_id.as_deref(),
            subsystem_id: gpu.subsystem_id.as_deref(),
            name: gpu.name.as_deref(),
        })
    };
    if !room.seen {
        // Offline only a model's name can be looked up.
        let GpuChoice::Model { model, .. } = &choice else { return None };
        if !gpus::named(model).is_empty() {
            return None;
        }
        let near = vsgpu_core::suggest::nearest(model, gpus::all().iter().map(|m| m.token)).map(|n| format!("did you mean `{n}`?"));
        let basis = Basis { table: "gpus.tsv", row: "none".into(), confirmed: false, source: "no row has this name".into() };
        return Some(of_host(format!("`{key}` names `{name}`, and no GPU of the table is called that"), basis, near));
    }
    let basis = || Basis::document("the host's own PCI bus", true);
    let there: Vec<_> = room.gpus.iter().filter(means).collect();
    let all: Vec<String> = room.gpus.iter().map(|g| format!("{} {}", g.gpu.address, g.gpu.shown())).collect();
    if there.is_empty() {
        let has = if all.is_empty() { "no NVIDIA GPU".to_string() } else { all.join(", ") };
        return Some(of_host(format!("`{key}` names `{name}`, which this host does not have; it has {has}"), basis(), None));
    }
    (key != Passthrough::NAME && there.iter().all(|g| g.given)).then(|| {
        let nearest = Some(format!("take it out of `{key}`, or out of `passthrough` of {}", room.host));
        of_host(
            format!("`{key}` names `{name}`, which is given away by `passthrough`: the host's driver does not hold it"),
            basis(),
            nearest,
        )
    })
}
