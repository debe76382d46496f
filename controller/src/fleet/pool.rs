//! Where a client's GPU servers are: the fleet file names them, their address follows from their guest's.

use crate::fleet::model::Vm;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use vsgpu_core::pool::config::ServerAddress;
use vsgpu_core::{Requirement as _, WordOr};
use vsgpu_guest_agent::guest::{GpuServer, NetworkGpu};

/// Fills in the addresses of all clients. Clients that share a spec go on to share one.
pub(super) fn fill_in(vms: &mut [Vm]) {
    let servers: BTreeMap<String, String> =
        vms.iter().filter_map(|vm| Some((vm.name.clone(), gateway(vm)?))).collect();
    let mut done: HashMap<*const Value, (Arc<Value>, Arc<Value>)> = HashMap::new();
    for vm in vms.iter_mut() {
        let Some(guest) = &mut vm.guest else { continue };
        let Some(WordOr::Map(mut client)) = guest.spec::<NetworkGpu>() else { continue };
        let own = guest.specs.iter_mut().find(|spec| spec.requirement == NetworkGpu::NAME);
        let Some(spec) = own else { continue };
        let filled = done.entry(Arc::as_ptr(&spec.value)).or_insert_with(|| {
            let address = |node: &String| {
                servers
                    .get(node)
                    .map(|address| ServerAddress { node: node.clone(), address: address.clone() })
            };
            client.addresses = client.servers.iter().filter_map(address).collect();
            let value = serde_json::to_value(WordOr::<Value, _>::Map(&client)).unwrap_or_default();
            // The first one is kept, so that its place stays its own.
            (spec.value.clone(), value.into())
        });
        spec.value = filled.1.clone();
    }
}

/// Where the gateway of a VM is, if it is a GPU server.
pub fn gateway(vm: &Vm) -> Option<String> {
    let guest = vm.guest.as_ref()?;
    let WordOr::Map(server) = guest.spec::<GpuServer>()? else { return None };
    let (host, _) = guest.address.rsplit_once(':').unwrap_or((guest.address.as_str(), ""));
    Some(format!("{host}:{}", server.port))
}
