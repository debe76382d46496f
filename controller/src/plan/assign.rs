//! Pure: which GPU each VM gets. `passthrough: [A100]` of sixteen VMs becomes one address each, before
//! anything is planned: a plan leaves nothing to decide, and two VMs are never dealt the same GPU. A VM keeps
//! what it has; what cannot be dealt is left as it was wished, and the VM's own check says why. What only rows of
//! the operator know becomes addresses and numbers here, too: agents do not have those rows.

use crate::fleet::Fleet;
use crate::inventory::Inventory;
use crate::inventory::gpus::gpus_as_wished;
use crate::node::{NodeId, NodeKind};
use crate::plan::spelling::as_the_hosts_spell;
use std::collections::BTreeMap;
use vsgpu_core::gpu_selector::GpuChoice;
use vsgpu_core::knowledge::{gpus, own_rows};
use vsgpu_host_agent::facts::{GpuUsers, PciGpu, VmDevices};
use vsgpu_host_agent::host::{HostPassthrough, Passthrough};
use vsgpu_host_agent::vm::{Mmio, MmioSpec, Vgpu, VmPassthrough, large_vgpus, window_gib};
use vsgpu_host_agent::vm_gpu::{VmGpu, settle_choices};

/// The fleet with every GPU named by its address and every profile as its host spells it, as far as the hosts'
/// facts allow.
pub fn settled(fleet: &Fleet, inventory: &Inventory) -> Fleet {
    let mut assigned = fleet.clone();
    as_the_hosts_spell(&mut assigned, inventory);
    windows_of_vgpus(&mut assigned, inventory);
    if with_own_gpus() {
        name_given_gpus(&mut assigned, inventory);
    }
    let wanted = |vm: &crate::fleet::Vm| vm.specs.has::<VmPassthrough>();
    if !assigned.vms.iter().any(wanted) {
        return assigned;
    }
    let mut hosts: BTreeMap<String, Option<Host>> = BTreeMap::new();
    let at: Vec<usize> = (0..assigned.vms.len()).filter(|at| wanted(&assigned.vms[*at])).collect();
    // What another VM names by its address is not dealt.
    let addresses = |vm: &crate::fleet::Vm| -> Vec<String> {
        let at =
            |gpu: VmGpu| if let VmGpu::Fixed(GpuChoice::At(at)) = gpu { Some(at.to_string()) } else { None };
        vm.spec::<VmPassthrough>().into_iter().flatten().filter_map(at).collect()
    };
    let mut named: BTreeMap<String, Vec<(String, Vec<String>)>> = BTreeMap::new();
    for (vm, list) in assigned.vms.iter().map(|vm| (vm, addresses(vm))).filter(|(_, list)| !list.is_empty()) {
        named.entry(vm.host.clone()).or_default().push((vm.name.clone(), list));
    }
    let by_name: BTreeMap<&str, &crate::fleet::Host> =
        fleet.hosts.iter().map(|h| (h.name.as_str(), h)).collect();
    for vm in at {
        let vm = &mut assigned.vms[vm];
        let host = hosts
            .entry(vm.host.clone())
            .or_insert_with(|| Host::seen(by_name.get(vm.host.as_str())?, inventory));
        let Some(host) = host else { continue };
        let Some(gpus) = vm.spec::<VmPassthrough>() else { continue };
        let of_host = named.get(&vm.host).into_iter().flatten();
        let others =
            of_host.filter(|(name, _)| *name != vm.name).flat_map(|(_, list)| list.clone()).collect();
        let Some(dealt) = host.deal(&vm.vm_name, &gpus, others) else { continue };
        if vm.spec::<Mmio>() == Some(MmioSpec::Auto(gpus)) {
            let window = host
                .window_by_own_rows(&dealt, window_of(inventory, &vm.name))
                .unwrap_or(MmioSpec::Auto(dealt.clone()));
            vm.specs.set::<Mmio>(&window);
        }
        vm.specs.set::<VmPassthrough>(&dealt);
    }
    assigned
}

/// `mmio: auto` of a VM that is to have large vGPUs becomes a number: its agent sees those that the VM has, not those
/// that are wished. A larger window that it has is left.
fn windows_of_vgpus(fleet: &mut Fleet, inventory: &Inventory) {
    for vm in &mut fleet.vms {
        // With whole GPUs beside them the agent computes: it knows the sizes of both once they are there.
        if vm.specs.has::<VmPassthrough>() {
            continue;
        }
        let Some(wishes) = vm.spec::<Vgpu>().filter(|_| vm.spec::<Mmio>() == Some(MmioSpec::Auto(vec![])))
        else {
            continue;
        };
        let large = large_vgpus(wishes.iter().map(|wish| wish.profile.name()));
        let Some(needed) = window_gib(&large).and_then(|gib| u32::try_from(gib).ok()) else { continue };
        let enough = window_of(inventory, &vm.name).is_some_and(|has| has >= u64::from(needed));
        if !enough && needed <= LARGEST_WINDOW {
            vm.specs.set::<Mmio>(&MmioSpec::Gib(needed));
        }
    }
}

/// The largest that can be said, GiB.
const LARGEST_WINDOW: u32 = 16_384;

/// A window of this size, or the one that the VM has, where that is larger.
fn window(needed: u64, has: Option<u64>) -> Option<MmioSpec> {
    let window = has.filter(|has| has.is_power_of_two() && *has >= needed).unwrap_or(needed);
    u32::try_from(window).ok().map(MmioSpec::Gib)
}

/// The MMIO window that a VM has, in GiB: a size counts where the window is on.
fn window_of(inventory: &Inventory, vm: &str) -> Option<u64> {
    let devices: VmDevices = inventory.fact(&NodeId::new(NodeKind::Vm, vm)).ok()?;
    let keys = &devices.config.keys;
    let is_on = keys.get("pcipassthru.use64bitmmio").is_some_and(|is| is.eq_ignore_ascii_case("true"));
    keys.get("pcipassthru.64bitmmiosizegb").filter(|_| is_on)?.parse().ok()
}

/// Whether the operator has rows for GPUs.
fn with_own_gpus() -> bool {
    own_rows::installed().is_some_and(|(_, layers)| layers.contains_key("gpus.tsv"))
}

/// A model that only a row of the operator knows means nothing to the host's agent: it is told addresses.
fn name_given_gpus(fleet: &mut Fleet, inventory: &Inventory) {
    for host in &mut fleet.hosts {
        let Some(mut spec) = host.spec::<Passthrough>() else { continue };
        let node = NodeId::new(NodeKind::Host, &host.name);
        let Ok(fact) = inventory.fact::<HostPassthrough>(&node) else { continue };
        let Ok(states) = fact.states(&spec) else { continue };
        let given = states.into_iter().filter(|(_, wanted)| *wanted);
        let at: Option<Vec<GpuChoice>> =
            given.map(|(gpu, _)| gpu.address.parse().ok().map(GpuChoice::At)).collect();
        if let Some(at) = at.filter(|at| !at.is_empty()) {
            spec.gpus = at;
            host.specs.set::<Passthrough>(&spec);
        }
    }
}

/// GPUs of a host and who has them.
struct Host {
    gpus: Vec<PciGpu>,
    users: GpuUsers,
    dealt: Vec<String>,
}

impl Host {
    fn seen(host: &crate::fleet::Host, inventory: &Inventory) -> Option<Self> {
        let users: GpuUsers = inventory.fact(&NodeId::new(NodeKind::Host, &host.name)).ok()?;
        Some(Self { gpus: gpus_as_wished(host, inventory)?, users, dealt: vec![] })
    }

    /// The window of GPUs of which only a row of the operator says how large their BAR1 is: the host's agent does not
    /// have that row, so it is told the number. A larger window that the VM has is left.
    fn window_by_own_rows(&self, dealt: &[VmGpu], has: Option<u64>) -> Option<MmioSpec> {
        let model = |gpu: &VmGpu| match gpu {
            VmGpu::Fixed(GpuChoice::At(at)) => {
                let at = at.to_string();
                self.gpus.iter().find(|gpu| gpu.address == at)?.candidate().model()
            }
            VmGpu::Dynamic { dynamic } => gpus::by_pci(dynamic.split(':').nth(1)?, None),
            VmGpu::Fixed(_) => None,
        };
        let models: Vec<&gpus::Model> = dealt.iter().map(model).collect::<Option<_>>()?;
        if !models.iter().any(|model| model.basis.is_own()) {
            return None;
        }
        let bars: Vec<u64> = models.iter().map(|model| model.bar1_mib).collect::<Option<_>>()?;
        window(window_gib(&bars)?, has)
    }

    fn deal(&mut self, vm: &str, wanted: &[VmGpu], named: Vec<String>) -> Option<Vec<VmGpu>> {
        let of = |own: bool| -> Vec<String> {
            self.users
                .vms
                .iter()
                .filter(|user| (user.vm == vm) == own)
                .flat_map(|user| user.fixed.clone())
                .collect()
        };
        // What was dealt to another VM is not free, even if this one still has it.
        let own: Vec<String> =
            of(true).into_iter().filter(|at| !self.dealt.contains(at) && !named.contains(at)).collect();
        let taken = [of(false), self.dealt.clone(), named].concat();
        let fixed = |w: &VmGpu| if let VmGpu::Fixed(choice) = w { Some(choice.clone()) } else { None };
        let choices: Vec<GpuChoice> = wanted.iter().filter_map(fixed).collect();
        let picked: Vec<String> = settle_choices(&choices, &self.gpus, &own, &taken)
            .ok()?
            .into_iter()
            .map(|at| self.gpus[at].address.clone())
            .collect();
        self.dealt.extend(picked.iter().cloned());
        let dynamic = wanted.iter().filter(|gpu| matches!(gpu, VmGpu::Dynamic { .. })).cloned();
        Some(
            picked
                .iter()
                .filter_map(|at| at.parse().ok())
                .map(|at| VmGpu::Fixed(GpuChoice::At(at)))
                .chain(dynamic)
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Deadlines, Host, Spec, Specs, Vm};
    use crate::inventory::Seen;
    use serde_json::{Value, json};
    use vsgpu_core::Requirement as _;

    fn vm(name: &str, spec: Value) -> Vm {
        let wanted = |requirement: &'static str, value: Value| Spec { requirement, value: value.into() };
        Vm {
            name: name.into(),
            vm_name: name.into(),
            host: "esx".into(),
            any: vec![],
            power: None,
            shutdown_secs: 1,
            hard_stop: false,
            expects: vec![],
            taken_away: Default::default(),
            specs: [wanted(VmPassthrough::NAME, spec.clone()), wanted(Mmio::NAME, json!({ "auto": spec }))]
                .into_iter()
                .collect(),
            guest: None,
        }
    }

    #[test]
    fn every_vm_gets_its_own_and_keeps_what_it_has() {
        let gpu = |address: &str| json!({ "address": address, "vendor_id": "10de", "device_id": "20f1" });
        let user = |vm: &str, at: &str| json!({ "vm": vm, "running": true, "fixed": [at], "dynamic": [], "vgpus": [] });
        let devices = ["0000:0d:00.0", "0000:3b:00.0", "0000:5e:00.0", "0000:af:00.0"].map(gpu);
        let facts = [
            ("pci-gpus", json!({ "devices": devices })),
            ("gpu-users", json!({ "vms": [user("b", "0000:3b:00.0"), user("stranger", "0000:5e:00.0")] })),
        ];
        let facts = facts.into_iter().map(|(name, fact)| (name.into(), Ok(fact.into()))).collect();
        let mut inventory = Inventory::default();
        inventory.nodes.insert(
            NodeId::new(NodeKind::Host, "esx"),
            Ok(Seen { boot_id: "1".into(), facts, ..Seen::default() }),
        );
        let one = || json!([{ "model": "A100", "count": 1 }]);
        let fleet = Fleet {
            file: "f.yaml".into(),
            places: BTreeMap::new(),
            pki: "pki".into(),
            catalogue: None,
            deadlines: Deadlines::default(),
            rollout: Default::default(),
            hosts: vec![Host {
                name: "esx".into(),
                address: "esx:1".into(),
                cluster: None,
                maintenance: Default::default(),
                specs: Specs::default(),
            }],
            vms: vec![vm("a", one()), vm("b", one()), vm("c", one()), vm("d", one())],
            stay: Default::default(),
        };
        let assigned = settled(&fleet, &inventory);
        let specs: Vec<Value> = assigned.vms.iter().map(|vm| (*vm.specs[0].value).clone()).collect();
        assert_eq!(specs, [json!(["0000:0d:00.0"]), json!(["0000:3b:00.0"]), json!(["0000:af:00.0"]), one()]);
        assert_eq!(*assigned.vms[0].specs[1].value, json!({ "auto": ["0000:0d:00.0"] }));
        assert_eq!(*assigned.vms[3].specs[1].value, json!({ "auto": one() }), "none is left for the fourth");
    }
}
