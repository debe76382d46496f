//! Makes the inputs of the checks: from the fleet file, and from facts where there are any.

use crate::compat::combination::{
    Combination, Gpu, GpuClaim, GuestDriver, HostGpu, HostGpus, LicenseWay, Module, Stated,
};
use crate::fleet::{Fleet, Host, Spec, Vm};
use crate::inventory::gpus::gpus_as_wished;
use crate::inventory::{Inventory, elsewhere};
use crate::node::{NodeId, NodeKind};
use std::collections::BTreeSet;
use vsgpu_core::gpu_selector::{Candidate, GpuChoice, PerGpu};
use vsgpu_core::knowledge::products::Product;
use vsgpu_core::knowledge::vgpu_types;
use vsgpu_core::units::{DriverVersion, OnOff};
use vsgpu_core::{Artifact, Fact, Requirement as _, Scope, WordOr};
use vsgpu_guest_agent::facts::{Clock, PciGpus};
use vsgpu_guest_agent::guest::{
    CudaProof, CudaToolkit, Driver, DriverFact, DriverSpec, KernelModule, License, ToolkitSpec,
};
use vsgpu_host_agent::facts::{
    EsxVersion, GpuUser, GpuUsers, Gpus, PciGpu, PciGpus as PciGpusOfHost, VgpuTypes, VirtualMachine,
    VirtualMachines, VmConfig, VmDevices,
};
use vsgpu_host_agent::host::ecc::{self, Ecc};
use vsgpu_host_agent::host::graphics_type::{self, GraphicsType};
use vsgpu_host_agent::host::vgpu_mode::{self, VgpuMode};
use vsgpu_host_agent::host::{HostGraphics, Mig, Passthrough, VgpuManager};
use vsgpu_host_agent::vm::{MemoryReserved, Mmio, MmioSpec, PowerState, Vgpu, VgpuWish, VmPassthrough};
use vsgpu_host_agent::vm_gpu::VmGpu;

fn fact<F: Fact>(inventory: Option<&Inventory>, node: &NodeId) -> Option<F> {
    inventory?.fact(node).ok()
}

fn gpu(seen: &PciGpu) -> Gpu {
    Gpu {
        address: seen.address.clone(),
        device_id: seen.device_id.clone(),
        subsystem_id: seen.subsystem_id.clone(),
        name: seen.device_name.clone(),
    }
}

/// Version of the driver that a package brings.
fn packaged(package: &Artifact) -> Option<DriverVersion> {
    DriverVersion::leading(package.version()?)
}

/// The vGPU manager that runs on a host.
fn running_manager(node: &NodeId, inventory: Option<&Inventory>) -> Option<DriverVersion> {
    DriverVersion::leading(&fact::<Gpus>(inventory, node)?.0.driver_version?)
}

/// The vGPU manager that a host will have: the one that is wanted, else what runs.
fn manager(host: &Host, inventory: Option<&Inventory>) -> Option<Stated<DriverVersion>> {
    let version = match host.spec::<VgpuManager>() {
        Some(WordOr::Word(_)) => return None,
        Some(WordOr::Map(spec)) => packaged(&spec.package),
        None => running_manager(&NodeId::new(NodeKind::Host, &host.name), inventory),
    };
    version.map(|v| Stated::new(v, &host.name))
}

/// Whether the manager of a host is to be changed, as far as that is known: without facts it is.
fn manager_changes(
    host: &Host,
    wanted: Option<&Stated<DriverVersion>>,
    inventory: Option<&Inventory>,
) -> bool {
    let node = NodeId::new(NodeKind::Host, &host.name);
    let runs = running_manager(&node, inventory);
    host.specs.has::<VgpuManager>() && runs.as_ref() != wanted.map(|w| &w.value)
}

/// One combination for each VM that has anything to do with a GPU, and one for each host by itself.
pub fn combinations(fleet: &Fleet, inventory: Option<&Inventory>) -> Vec<Combination> {
    let by_host = fleet.vms_by_host();
    let moved = inventory.map(|seen| elsewhere(fleet, seen)).unwrap_or_default();
    let mut all = vec![];
    for host in &fleet.hosts {
        let node = NodeId::new(NodeKind::Host, &host.name);
        let manager = manager(host, inventory);
        let version = fact::<EsxVersion>(inventory, &node);
        let esxi_build = version.as_ref().map(|v| v.build.rsplit('-').next().unwrap_or_default().to_string());
        let esxi = version.map(|v| Stated::new(v.version, &host.name));
        let wanted_manager = host.spec::<VgpuManager>();
        let shared = matches!(host.spec::<GraphicsType>(), Some(PerGpu::One(graphics_type::Type::Shared)));
        let serves_no_vgpu = match wanted_manager {
            Some(WordOr::Word(_)) => Some("without a vGPU manager"),
            _ => shared.then_some("with `graphics-type: Shared`"),
        };
        let stated = |so: bool| so.then(|| Stated::new((), &host.name));
        let of_host = Combination {
            about: host.name.clone(),
            nodes: vec![node.clone()],
            esxi,
            esxi_build,
            nvswitches: fact(inventory, &node).and_then(switches),
            manager: manager.clone(),
            manager_wished: matches!(wanted_manager, Some(WordOr::Map(_))),
            ecc_on: stated(host.spec::<Ecc>().is_some_and(|spec| spec.values().contains(&ecc::Wish::On))),
            mixed: stated(
                host.spec::<VgpuMode>()
                    .is_some_and(|spec| spec.values().contains(&vgpu_mode::Mode::MixedSize)),
            ),
            serves_no_vgpu,
            stays_shared: fact(inventory, &node)
                .filter(|_| !host.specs.has::<GraphicsType>())
                .and_then(|graphics| shared_only(&host.name, &graphics)),
            catalogue: fleet.catalogue.clone(),
            ..Combination::default()
        };
        all.push(of_host.clone());
        let gpus = inventory.and_then(|inventory| gpus_as_wished(host, inventory));
        let serves: Option<Vec<Gpu>> =
            gpus.as_ref().map(|gpus| gpus.iter().filter(|g| !g.is_given()).map(gpu).collect());
        let types: Option<VgpuTypes> = fact(inventory, &node);
        let changes = manager_changes(host, manager.as_ref(), inventory);
        // The list of another driver says nothing about the one to come, and modes change it.
        let steady = !changes && !host.specs.has::<Mig>() && !host.specs.has::<Passthrough>();
        let listed = types.filter(|_| steady);
        let supported = listed.map(|t| t.supported.into_iter().flat_map(|gpu| gpu.names).collect());
        let users: Option<GpuUsers> = fact(inventory, &node);
        // One that is on another host is not judged by this one.
        let vms = by_host.get(host.name.as_str()).into_iter().flatten();
        for vm in vms.filter(|vm| !moved.contains_key(&vm.name)) {
            let mut combination =
                Combination { host_gpus: serves.clone(), supported: supported.clone(), ..of_host.clone() };
            of_vm(
                &mut combination,
                fleet,
                vm,
                inventory,
                OfHost { host, gpus: gpus.as_deref(), users: users.as_ref() },
            );
            if !combination.vgpu() && !combination.passthrough && combination.guest.is_none() {
                continue;
            }
            combination.changing_host = (changes && combination.vgpu()).then(|| node.clone());
            all.push(combination);
        }
    }
    all
}

/// A host whose default is Shared, without a GPU that is, or will be, SharedPassthru.
fn shared_only(host: &str, graphics: &HostGraphics) -> Option<String> {
    let served = |word: &str| word == "SharedPassthru";
    let any = graphics.devices.iter().any(|d| served(&d.graphics_type))
        || graphics.configured.values().any(|w| served(w));
    (graphics.default_type == "Shared" && !any).then(|| format!("the graphics type of {host} is Shared"))
}

/// NVSwitches (bridges of the class "other") among NVIDIA's devices of a host; `None` where no device was seen.
fn switches(bus: PciGpusOfHost) -> Option<Vec<String>> {
    let is_switch = |device: &&PciGpu| {
        device.class.as_deref().is_some_and(|class| class.trim_start_matches("0x").starts_with("0680"))
    };
    let all = bus.devices.iter().filter(is_switch).map(|device| device.address.clone()).collect();
    (!bus.devices.is_empty()).then_some(all)
}

/// What is known of a host, read once for all its VMs.
struct OfHost<'a> {
    host: &'a Host,
    gpus: Option<&'a [PciGpu]>,
    users: Option<&'a GpuUsers>,
}

fn of_vm(
    c: &mut Combination,
    fleet: &Fleet,
    vm: &Vm,
    inventory: Option<&Inventory>,
    OfHost { host, gpus, users }: OfHost<'_>,
) {
    let (node, guest_node) = (NodeId::new(NodeKind::Vm, &vm.name), NodeId::new(NodeKind::Guest, &vm.name));
    c.about = format!("{} on {}", vm.name, host.name);
    c.nodes = vec![node.clone()];
    // What is wished for the host is judged with the host.
    c.esxi = None;
    c.mixed = None;
    let devices = || fact::<VmDevices>(inventory, &node).map(|devices| devices.config);
    let config: Option<VmConfig> = fact(inventory, &node).or_else(devices);
    let vgpus = vm.spec::<Vgpu>();
    c.profiles =
        vgpus.iter().flatten().map(|vgpu| Stated::new(vgpu.profile.name().to_string(), &vm.name)).collect();
    // A vGPU that the fleet file does not speak of is there all the same.
    if let Some(users) = users.filter(|_| vgpus.is_none()) {
        let own =
            users.vms.iter().filter(|user| user.vm == vm.vm_name).flat_map(|user| user.vgpus.iter().cloned());
        c.profiles.extend(own.map(|profile| Stated::new(profile, &vm.name)));
    }
    let whole: Vec<VmGpu> = vm.spec::<VmPassthrough>().unwrap_or_default();
    c.passthrough = !whole.is_empty();
    let meant = |g: &&PciGpu| {
        whole.iter().any(|w| matches!(w, VmGpu::Fixed(choice) if choice.may_mean(&g.candidate())))
    };
    c.whole = gpus
        .into_iter()
        .flatten()
        .filter(meant)
        .take(whole.iter().map(|w| w.count() as usize).sum())
        .map(gpu)
        .collect();
    // Without facts a model's name is all there is, and enough where it names one row of the table.
    if c.whole.is_empty() {
        for choice in whole.iter().filter_map(|w| if let VmGpu::Fixed(c) = w { Some(c) } else { None }) {
            if let vsgpu_core::gpu_selector::GpuChoice::Model { model, count } = choice
                && let [only] = vsgpu_core::knowledge::gpus::named(model)[..]
            {
                c.whole.extend(std::iter::repeat_n(Gpu::of_model(only), count.unwrap_or(1) as usize));
            }
        }
    }
    if let Some(guest) = &vm.guest {
        c.nodes.push(guest_node.clone());
        let by = guest_node.to_string();
        let driver = guest.spec::<Driver>();
        c.guest = match &driver {
            Some(DriverSpec::Word(_)) => None,
            Some(DriverSpec::Map(spec)) => packaged(&spec.package).map(|version| {
                let file = spec.package.file_name();
                let named =
                    ["NVIDIA-Linux-x86_64-", "nvidia-linux-grid-"].iter().any(|n| file.starts_with(n));
                let grid = named.then(|| file.contains("-grid"));
                Stated::new(GuestDriver { version, grid }, by.clone())
            }),
            None => fact::<DriverFact>(inventory, &guest_node)
                .and_then(|f| DriverVersion::leading(&f.version?))
                .map(|version| Stated::new(GuestDriver { version, grid: None }, by.clone())),
        };
        c.module = match driver {
            Some(DriverSpec::Map(spec)) => match spec.kernel_module {
                KernelModule::Open => Some(Stated::new(Module::Open, by.clone())),
                KernelModule::Proprietary => Some(Stated::new(Module::Proprietary, by.clone())),
                KernelModule::Auto => None,
            },
            _ => None,
        };
        let license = guest.spec::<License>();
        c.license = license.as_ref().map(|spec| {
            let way = if spec.token.is_none() { LicenseWay::Legacy } else { LicenseWay::Nls };
            Stated::new(way, by.clone())
        });
        c.feature_type = license.as_ref().map(|spec| Stated::new(spec.feature_type, by.clone()));
        c.product = license.and_then(|spec| Product::named(&spec.product?));
        let toolkits: Vec<ToolkitSpec> = guest.spec::<CudaToolkit>().unwrap_or_default();
        // The newest one needs the newest driver.
        let number = |v: &String| v.split('.').filter_map(|n| n.parse::<u32>().ok()).collect::<Vec<_>>();
        c.cuda = toolkits
            .iter()
            .filter_map(ToolkitSpec::version)
            .max_by_key(number)
            .map(|v| Stated::new(v, by.clone()));
        seen_by_guest(c, inventory, &guest_node);
        c.proof = guest.specs.has::<CudaProof>();
    }
    // A vGPU that runs was served, whatever the host says of itself; one that the fleet file does not speak of
    // is nothing that a plan brings.
    let runs = c.seen_by_guest.iter().any(|g| {
        let by_type = |s: &str| vgpu_types::by_pci(&g.device_id, s).is_some();
        g.host.is_some() || g.subsystem_id.as_deref().is_some_and(by_type)
    });
    if vgpus.is_none() || runs {
        c.stays_shared = None;
    }
    c.memory_unreserved = vm.taken_away.contains(MemoryReserved::NAME);
    c.firmware = config.as_ref().map(|config| Stated::new(config.firmware.clone(), &vm.name));
    c.nested = config
        .as_ref()
        .is_some_and(|config| config.keys.get("vhv.enable").is_some_and(|v| v.eq_ignore_ascii_case("true")));
    c.snapshots = config.as_ref().map_or(0, |config| config.snapshots);
    c.mmio = match vm.spec::<Mmio>() {
        Some(MmioSpec::Gib(gib)) => Some(Stated::new(u64::from(gib), &vm.name)),
        _ => None,
    };
    c.expects = vm.expects.clone();
    c.catalogue = fleet.catalogue.clone();
}

/// What the guest says itself: its clock, and of its host what nobody else said.
fn seen_by_guest(c: &mut Combination, inventory: Option<&Inventory>, guest: &NodeId) {
    let by = guest.to_string();
    let at = inventory.map_or(0, |i| i.at);
    let clock = fact::<Clock>(inventory, guest).filter(|_| at > 0);
    c.clock_offset = clock.map(|clock| {
        Stated::new(i64::try_from(clock.now).unwrap_or(i64::MAX).saturating_sub_unsigned(at), by.clone())
    });
    c.seen_by_guest = fact::<PciGpus>(inventory, guest).map(|p| p.devices).unwrap_or_default();
    let view = c
        .seen_by_guest
        .iter()
        .find_map(|g| g.host.as_ref()?.manager.as_deref()?.parse::<DriverVersion>().ok());
    if c.manager.is_none() {
        c.manager = view.map(|version| Stated::new(version, format!("{by} sees")));
    }
    // A VM whose GPUs the fleet file does not speak of has them all the same.
    if c.profiles.is_empty() && !c.passthrough {
        let types = c
            .seen_by_guest
            .iter()
            .filter_map(|g| vgpu_types::by_pci(&g.device_id, g.subsystem_id.as_deref()?));
        c.profiles = types.map(|t| Stated::new(t.profile.to_string(), by.clone())).collect();
    }
}

/// The GPUs of each host whose GPUs are known, with everybody who wants a part of them.
pub fn gpus_of_hosts(
    fleet: &Fleet,
    inventory: Option<&Inventory>,
    stopped: &BTreeSet<String>,
) -> Vec<HostGpus> {
    let by_host = fleet.vms_by_host();
    let Some(seen) = inventory else {
        return fleet.hosts.iter().map(|host| stated(host, &by_host[host.name.as_str()])).collect();
    };
    let moved = elsewhere(fleet, seen);
    let host_gpus = |host: &Host| {
        let node = NodeId::new(NodeKind::Host, &host.name);
        let gpus = gpus_as_wished(host, seen)?;
        let report = fact::<Gpus>(inventory, &node).map(|gpus| gpus.0);
        let users: GpuUsers = fact(inventory, &node)?;
        let listed = fact::<VirtualMachines>(inventory, &node).map(|l| l.vms).unwrap_or_default();
        let mig = host.spec::<Mig>();
        let mode = host.spec::<VgpuMode>();
        let one = |seen: &PciGpu| {
            let active = report.as_ref().and_then(|r| r.gpus.iter().find(|g| g.bus_id == seen.address));
            let candidate: Candidate<'_> = seen.candidate();
            let wished = mig.as_ref().and_then(|m| m.of(&candidate)).map(OnOff::on);
            let mixed = mode.as_ref().and_then(|m| m.of(&candidate)).map(|m| m == vgpu_mode::Mode::MixedSize);
            HostGpu {
                gpu: gpu(seen),
                given: seen.is_given(),
                mig: wished.or(active.and_then(|g| g.mig_current)),
                mixed: mixed.unwrap_or_else(|| active.and_then(|g| g.heterogeneous).unwrap_or(false)),
            }
        };
        let mut vms = by_host.get(host.name.as_str()).cloned().unwrap_or_default();
        vms.retain(|vm| !moved.contains_key(&vm.name));
        let mut claims: Vec<GpuClaim> = vms.iter().map(|vm| claim(vm, &users, &listed, stopped)).collect();
        let stranger = |user: &&GpuUser| vms.iter().all(|vm| vm.vm_name != user.vm);
        claims.extend(users.vms.iter().filter(stranger).map(|user| GpuClaim {
            vm: user.vm.clone(),
            node: None,
            runs: user.running,
            running_now: user.running,
            profiles: user.vgpus.clone(),
            fixed: user.fixed.clone(),
            dynamic: user.dynamic.clone(),
        }));
        claims.retain(|t| !(t.profiles.is_empty() && t.fixed.is_empty() && t.dynamic.is_empty()));
        Some(HostGpus {
            host: host.name.clone(),
            esxi: fact::<EsxVersion>(inventory, &node).map(|v| v.version),
            gpus: gpus.iter().map(one).collect(),
            claims,
            passthrough_wished: host.specs.has::<Passthrough>(),
            named: named(host),
            seen: true,
            node,
        })
    };
    fleet.hosts.iter().filter_map(host_gpus).collect()
}

/// GPUs that keys of a host name.
fn named(host: &Host) -> Vec<(&'static str, String)> {
    let of_spec = |spec: &Spec| {
        let entry = crate::catalogue::catalogue().find(Scope::Host, spec.requirement);
        let names = entry.map(|entry| (entry.gpus_named)(&spec.value)).unwrap_or_default();
        names.into_iter().map(|name| (spec.requirement, name)).collect::<Vec<_>>()
    };
    host.specs.iter().flat_map(of_spec).collect()
}

/// What the fleet file alone says of a host's GPUs: the addresses that it names.
fn stated(host: &Host, vms: &[&Vm]) -> HostGpus {
    let none = GpuUsers { vms: vec![] };
    let claims: Vec<GpuClaim> = vms.iter().map(|vm| claim(vm, &none, &[], &BTreeSet::new())).collect();
    let wanted = host.spec::<Passthrough>();
    let mut addresses: Vec<&String> = claims.iter().flat_map(|t| &t.fixed).collect();
    addresses.sort();
    addresses.dedup();
    // A model, `all` or no wish at all leaves open whether an address is given away.
    let given = |at: &String| {
        wanted
            .as_ref()
            .is_none_or(|w| w.gpus.iter().any(|c| !matches!(c, GpuChoice::At(a) if a.to_string() != **at)))
    };
    let gpu = |at: &&String| HostGpu {
        gpu: Gpu { address: (*at).clone(), device_id: None, subsystem_id: None, name: None },
        given: given(at),
        mig: None,
        mixed: false,
    };
    HostGpus {
        host: host.name.clone(),
        esxi: None,
        gpus: addresses.iter().map(gpu).collect(),
        claims,
        passthrough_wished: wanted.is_some(),
        named: named(host),
        seen: false,
        node: NodeId::new(NodeKind::Host, &host.name),
    }
}

fn claim(vm: &Vm, users: &GpuUsers, listed: &[VirtualMachine], stopped: &BTreeSet<String>) -> GpuClaim {
    let has = users.vms.iter().find(|user| user.vm == vm.vm_name);
    // What the fleet file does not speak of stays as it is.
    let profiles = match vm.spec::<Vgpu>() {
        Some(list) => list.iter().map(|vgpu: &VgpuWish| vgpu.profile.name().to_string()).collect(),
        None => has.map(|user| user.vgpus.clone()).unwrap_or_default(),
    };
    let (fixed, dynamic) = match vm.spec::<VmPassthrough>() {
        Some(list) => {
            let at = |gpu: &VmGpu| {
                if let VmGpu::Fixed(GpuChoice::At(at)) = gpu { Some(at.to_string()) } else { None }
            };
            let ids =
                |gpu: &VmGpu| if let VmGpu::Dynamic { dynamic } = gpu { Some(dynamic.clone()) } else { None };
            (list.iter().filter_map(at).collect(), list.iter().filter_map(ids).collect())
        }
        None => has.map(|user| (user.fixed.clone(), user.dynamic.clone())).unwrap_or_default(),
    };
    // A VM that runs runs again with its new GPU; the users of GPUs list none that has had no GPU yet.
    let runs_now =
        stopped.contains(&vm.name) || listed.iter().any(|seen| seen.name == vm.vm_name && seen.running);
    let runs = vm.power.map_or(vm.wants_guest() || runs_now, |p| p == PowerState::On);
    GpuClaim {
        vm: vm.name.clone(),
        node: Some(NodeId::new(NodeKind::Vm, &vm.name)),
        runs,
        running_now: runs_now || has.is_some_and(|user| user.running),
        profiles,
        fixed,
        dynamic,
    }
}
