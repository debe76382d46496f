//! Pure: the GPUs of a host as they will be when its own `passthrough` is as wanted.

use crate::inventory::seen::Inventory;
use crate::node::{NodeId, NodeKind};
use vsgpu_host_agent::facts::{PciGpu, PciGpus};
use vsgpu_host_agent::host::{HostPassthrough, Passthrough};

/// GPUs of a host with the owners they will have when its own `passthrough` is as wished.
pub fn gpus_as_wished(host: &crate::fleet::Host, inventory: &Inventory) -> Option<Vec<PciGpu>> {
    let seen = inventory.seen(&NodeId::new(NodeKind::Host, &host.name))?;
    if let Some((wanted, seen)) = host.spec::<Passthrough>().zip(seen.fact::<HostPassthrough>().ok()) {
        return Some(
            seen.states(&wanted).ok()?.into_iter().map(|(gpu, given)| gpu.after_change(given)).collect(),
        );
    }
    Some(seen.fact::<PciGpus>().ok()?.gpus().into_iter().cloned().collect())
}
