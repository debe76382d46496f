//! A client and one of the GPU servers that it names, as they are to be. Everything that is not known may be
//! absent: then nothing is said about it.

use crate::compat::combination::{Finding, Stated};
use crate::fleet::{Fleet, Vm};
use crate::inventory::Inventory;
use crate::node::{NodeId, NodeKind};
use std::collections::BTreeMap;
use vsgpu_core::engine::manifest::Side;
use vsgpu_core::knowledge::Basis;
use vsgpu_core::pool::config::EngineBuild;
use vsgpu_core::units::DriverVersion;
use vsgpu_core::{Requirement as _, Verdict, WordOr};
use vsgpu_guest_agent::guest::{
    ClientSpec, CudaToolkit, Driver, DriverFact, DriverSpec, GpuServer, GpuServerFact, NetworkGpu,
    NetworkGpuFact, ServerSpec, ToolkitSpec,
};
use vsgpu_host_agent::vm::{Vgpu, VmPassthrough};

#[derive(Clone, Debug)]
pub struct PoolLink {
    pub client: String,
    pub server: String,
    /// The client's guest.
    pub node: NodeId,
    /// The server is a VM of the fleet file.
    pub known: bool,
    /// What the server is to be.
    pub serves: Option<ServerSpec>,
    /// Nothing is wished of the server: it stays what it is.
    pub stays: bool,
    /// Why the server cannot be made so now, as it was seen.
    pub blocked: Option<String>,
    /// The engine's build on both sides, as far as their files were looked at.
    pub builds: (Option<EngineBuild>, Option<EngineBuild>),
    /// Driver of the server.
    pub driver: Option<Stated<DriverVersion>>,
    /// Newest CUDA toolkit of the client.
    pub toolkit: Option<String>,
    /// The client has GPUs of its own.
    pub own_gpus: bool,
    /// Round trip that the client measured, microseconds.
    pub rtt_micros: Option<u64>,
}

impl PoolLink {
    /// A finding about both.
    pub fn finding(&self, what: impl Into<String>, basis: Basis, nearest: Option<String>) -> Finding {
        let certain = basis.confirmed;
        Finding { constraint: "", nodes: vec![self.node.clone()], what: what.into(), basis, nearest, certain }
    }
}

fn driver(vm: &Vm, inventory: Option<&Inventory>) -> Option<Stated<DriverVersion>> {
    let node = NodeId::new(NodeKind::Guest, &vm.name);
    let version = match vm.guest.as_ref()?.spec::<Driver>() {
        Some(DriverSpec::Map(spec)) => DriverVersion::leading(spec.package.version()?)?,
        Some(DriverSpec::Word(_)) => return None,
        None => DriverVersion::leading(&inventory?.fact::<DriverFact>(&node).ok()?.version?)?,
    };
    Some(Stated::new(version, node.to_string()))
}

fn toolkit(client: &Vm) -> Option<String> {
    let toolkits: Vec<ToolkitSpec> = client.guest.as_ref()?.spec::<CudaToolkit>()?;
    let number = |v: &String| v.split('.').filter_map(|n| n.parse::<u32>().ok()).collect::<Vec<_>>();
    toolkits.iter().filter_map(ToolkitSpec::version).max_by_key(number)
}

/// Why a server is left as it is.
fn blocked(server: &str, serves: &ServerSpec, inventory: Option<&Inventory>) -> Option<String> {
    let fact = inventory?.fact::<GpuServerFact>(&NodeId::new(NodeKind::Guest, server)).ok()?;
    // It serves that build already: GPUs of it that are ill change nothing of its clients.
    let build = serves.engine.build(Side::Server).ok().flatten();
    if build.is_some() && fact.status.as_ref().map(|status| &status.engine) == build.as_ref() {
        return None;
    }
    match GpuServer::check(&WordOr::Map(serves.clone()), &fact) {
        Verdict::Blocked { why, .. } => Some(why),
        _ => None,
    }
}

/// All of a fleet.
pub fn links(fleet: &Fleet, inventory: Option<&Inventory>) -> Vec<PoolLink> {
    let client_of = |vm: &Vm| match vm.guest.as_ref()?.spec::<NetworkGpu>()? {
        WordOr::Map(spec) => Some(spec),
        WordOr::Word(_) => None,
    };
    let clients: Vec<(&Vm, ClientSpec)> =
        fleet.vms.iter().filter_map(|vm| Some((vm, client_of(vm)?))).collect();
    if clients.is_empty() {
        return vec![];
    }
    let by_name: BTreeMap<&str, &Vm> = fleet.vms.iter().map(|vm| (vm.name.as_str(), vm)).collect();
    let mut servers: BTreeMap<&str, (Option<ServerSpec>, Option<Stated<DriverVersion>>)> = BTreeMap::new();
    let mut links = vec![];
    for (vm, spec) in clients {
        let node = NodeId::new(NodeKind::Guest, &vm.name);
        let seen = inventory.and_then(|inventory| inventory.fact::<NetworkGpuFact>(&node).ok());
        let (toolkit, own) = (toolkit(vm), spec.engine.build());
        let own_gpus = vm.specs.has::<Vgpu>() || vm.specs.has::<VmPassthrough>();
        for server in &spec.servers {
            let there = by_name.get_key_value(server.as_str());
            let of = there.map(|(name, server)| {
                let serves = server.guest.as_ref().and_then(|guest| guest.spec::<GpuServer>());
                servers.entry(name).or_insert_with(|| {
                    let serves = match serves {
                        Some(WordOr::Map(serves)) => Some(serves),
                        _ => None,
                    };
                    (serves, driver(server, inventory))
                })
            });
            let (serves, driver) = of.map(|of| of.clone()).unwrap_or_default();
            let blocked = serves.as_ref().and_then(|serves| blocked(server, serves, inventory));
            let there_build = serves.as_ref().and_then(|s| s.engine.build(Side::Server).ok().flatten());
            let rtt_micros = seen
                .as_ref()
                .and_then(|fact| fact.servers.iter().find(|seen| seen.server == *server)?.rtt_micros);
            links.push(PoolLink {
                client: vm.name.clone(),
                server: server.clone(),
                node: node.clone(),
                known: there.is_some(),
                stays: fleet.stay.contains(server),
                serves,
                blocked,
                builds: (own.clone(), there_build),
                driver,
                toolkit: toolkit.clone(),
                own_gpus,
                rtt_micros,
            });
        }
    }
    links
}
