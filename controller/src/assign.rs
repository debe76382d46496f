//! Pure: which GPU each VM gets. `passthrough: [A100]` of sixteen VMs becomes one address each, before anything is planned:
//! a plan leaves nothing to decide, and two VMs are never dealt the same GPU. A VM keeps what it has; what cannot be dealt is
//! left as it was wished, and the VM's own check says why.

use crate::fleet::{Fleet, NodeId, NodeKind};
use crate::inventory::Inventory;
use serde::Deserialize as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use vsgpu_core::gpu_choice::GpuChoice;
use vsgpu_host_agent::host::{GpuUsers, HostPassthrough, PassthroughSpec, PciGpu, PciGpus};
use vsgpu_host_agent::vm::{MmioSpec, VmGpu, settle_choices};

const PASSTHROUGH: &str = "passthrough";
const MMIO: &str = "mmio";

/// The fleet with every GPU named by its address, as far as the hosts' facts allow.
pub fn settled(fleet: &Fleet, inventory: &Inventory) -> Fleet {
    let mut settled = fleet.clone();
    let wishes = |vm: &crate::fleet::Vm| vm.wishes.iter().any(|w| w.name == PASSTHROUGH);
    if !settled.vms.iter().any(wishes) {
        return settled;
    }
    let mut hosts: BTreeMap<String, Option<Host>> = BTreeMap::new();
    let at: Vec<usize> = (0..settled.vms.len()).filter(|at| wishes(&settled.vms[*at])).collect();
    // What another VM names by its address is not dealt.
    let addresses = |vm: &crate::fleet::Vm| -> Vec<String> {
        let gpus = vm.wishes.iter().filter(|w| w.name == PASSTHROUGH).filter_map(|w| w.spec.as_array()).flatten();
        gpus.filter_map(Value::as_str).filter(|at| at.contains(':')).map(String::from).collect()
    };
    let mut named: BTreeMap<String, Vec<(String, Vec<String>)>> = BTreeMap::new();
    for (vm, list) in settled.vms.iter().map(|vm| (vm, addresses(vm))).filter(|(_, list)| !list.is_empty()) {
        named.entry(vm.host.clone()).or_default().push((vm.name.clone(), list));
    }
    let by_name: BTreeMap<&str, &crate::fleet::Host> = fleet.hosts.iter().map(|h| (h.name.as_str(), h)).collect();
    for vm in at {
        let vm = &mut settled.vms[vm];
        let host = hosts.entry(vm.host.clone()).or_insert_with(|| Host::seen(by_name.get(vm.host.as_str())?, inventory));
        let Some(host) = host else { continue };
        let Some(wish) = vm.wishes.iter().find(|w| w.name == PASSTHROUGH) else { continue };
        let Ok(gpus) = Vec::<VmGpu>::deserialize(&*wish.spec) else { continue };
        let of_host = named.get(&vm.host).into_iter().flatten();
        let others = of_host.filter(|(name, _)| *name != vm.name).flat_map(|(_, list)| list.clone()).collect();
        let Some(dealt) = host.deal(&vm.vm_name, &gpus, others) else { continue };
        for wish in &mut vm.wishes {
            let auto = wish.name == MMIO && matches!(MmioSpec::deserialize(&*wish.spec), Ok(MmioSpec::Auto(list)) if list == gpus);
            if wish.name == PASSTHROUGH {
                wish.spec = dealt.clone().into();
            } else if auto {
                wish.spec = json!({ "auto": dealt }).into();
            }
        }
    }
    settled
}

fn fact<T: serde::de::DeserializeOwned>(inventory: &Inventory, host: &str, name: &str) -> Option<T> {
    let seen = inventory.seen(&NodeId::new(NodeKind::Host, host))?;
    T::deserialize(seen.fact(name)?).ok()
}

/// GPUs of a host with the owners they will have when its own `passthrough` is as wished.
pub fn gpus_as_wished(host: &crate::fleet::Host, inventory: &Inventory) -> Option<Vec<PciGpu>> {
    let wish = host.wishes.iter().find(|w| w.name == PASSTHROUGH);
    let wish = wish.and_then(|w| PassthroughSpec::deserialize(&*w.spec).ok());
    if let Some((wish, seen)) = wish.zip(fact::<HostPassthrough>(inventory, &host.name, PASSTHROUGH)) {
        return Some(seen.states(&wish).ok()?.into_iter().map(|(gpu, given)| gpu.after_change(given)).collect());
    }
    Some(fact::<PciGpus>(inventory, &host.name, "pci-gpus")?.gpus().into_iter().cloned().collect())
}

/// GPUs of a host and who has them.
struct Host {
    gpus: Vec<PciGpu>,
    users: GpuUsers,
    dealt: Vec<String>,
}

impl Host {
    fn seen(host: &crate::fleet::Host, inventory: &Inventory) -> Option<Self> {
        let users: GpuUsers = fact(inventory, &host.name, "gpu-users")?;
        Some(Self { gpus: gpus_as_wished(host, inventory)?, users, dealt: vec![] })
    }

    fn deal(&mut self, vm: &str, wishes: &[VmGpu], named: Vec<String>) -> Option<Value> {
        let of = |own: bool| -> Vec<String> {
            self.users.vms.iter().filter(|user| (user.vm == vm) == own).flat_map(|user| user.fixed.clone()).collect()
        };
        // What was dealt to another VM is not free, even if this one still has it.
        let own: Vec<String> = of(true).into_iter().filter(|at| !self.dealt.contains(at) && !named.contains(at)).collect();
        let taken = [of(false), self.dealt.clone(), named].concat();
        let fixed = |w: &VmGpu| if let VmGpu::Fixed(choice) = w { Some(choice.clone()) } else { None };
        let choices: Vec<GpuChoice> = wishes.iter().filter_map(fixed).collect();
        let picked: Vec<String> =
            settle_choices(&choices, &self.gpus, &own, &taken).ok()?.into_iter().map(|at| self.gpus[at].address.clone()).collect();
        self.dealt.extend(picked.iter().cloned());
        let dynamic = wishes.iter().filter(|w| matches!(w, VmGpu::Dynamic { .. })).map(|w| json!(w));
        Some(picked.iter().map(|at| json!(at)).chain(dynamic).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Deadlines, Host, Vm, Wish};
    use crate::inventory::Seen;

    fn vm(name: &str, spec: Value) -> Vm {
        let wish = |name: &'static str, spec: Value| Wish { name, spec: spec.into() };
        Vm {
            name: name.into(),
            vm_name: name.into(),
            host: "esx".into(),
            power: None,
            shutdown_secs: 1,
            hard_stop: false,
            expects: vec![],
            taken_away: Default::default(),
            wishes: vec![wish(PASSTHROUGH, spec.clone()), wish(MMIO, json!({ "auto": spec }))],
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
        inventory.nodes.insert(NodeId::new(NodeKind::Host, "esx"), Ok(Seen { boot_id: "1".into(), facts, ..Seen::default() }));
        let one = || json!([{ "model": "A100", "count": 1 }]);
        let fleet = Fleet {
            file: "f.yaml".into(),
            places: BTreeMap::new(),
            pki: "pki".into(),
            catalogue: None,
            deadlines: Deadlines::default(),
            rollout: Default::default(),
            hosts: vec![Host { name: "esx".into(), address: "esx:1".into(), cluster: None, wishes: vec![] }],
            vms: vec![vm("a", one()), vm("b", one()), vm("c", one()), vm("d", one())],
        };
        let settled = settled(&fleet, &inventory);
        let specs: Vec<Value> = settled.vms.iter().map(|vm| (*vm.wishes[0].spec).clone()).collect();
        assert_eq!(specs, [json!(["0000:0d:00.0"]), json!(["0000:3b:00.0"]), json!(["0000:af:00.0"]), one()]);
        assert_eq!(*settled.vms[0].wishes[1].spec, json!({ "auto": ["0000:0d:00.0"] }));
        assert_eq!(*settled.vms[3].wishes[1].spec, json!({ "auto": one() }), "none is left for the fourth");
    }
}
