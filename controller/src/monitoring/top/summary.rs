//! The fleet at a glance: what all agents' metrics say. Pure: one page of text in (as the exporter serves
//! it), the glance out; `lines` makes text of it that fits eighty columns.

use crate::fleet::{Fleet, Vm};
use crate::monitoring::top::page::{Labels, Page};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::pool::SlotUse;

/// The whole fleet. What an agent does not say is absent: nothing is guessed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FleetSummary {
    /// The fleet file's name.
    pub fleet: String,
    /// Whether the records of runs could be read.
    pub runs_readable: bool,
    pub run: Option<Run>,
    pub hosts: Vec<Node>,
    pub guests: Vec<Node>,
    /// VMs that are held, each with why, in a word.
    pub held_vms: Vec<(String, String)>,
    /// Seconds since the latest round over all agents ended; absent until the first one has.
    pub round_age_secs: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    pub number: u64,
    /// `running`, `unfinished` or `ended`.
    pub state: &'static str,
    pub steps: u64,
    /// Steps that are done.
    pub done: u64,
    pub failed: u64,
    /// Nodes that are held.
    pub held: usize,
}

/// A host or a guest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Node {
    pub name: String,
    /// Whether its agent answered when it was last asked.
    pub reachable: bool,
    /// What its agent sent was no page of an agent.
    pub refused: bool,
    /// Its agent's last looks at the machine did not end: what is shown is old.
    pub stale: bool,
    /// Why it is held, each in a word.
    pub held: Vec<String>,
    /// Of a host: whether it is in maintenance mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<bool>,
    /// Of a host: whether a GPU changes its owner with the next reboot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reboot_pending: Option<bool>,
    /// Of a guest: whether its driver is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_loaded: Option<bool>,
    /// Of a guest: whether it has its license.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licensed: Option<bool>,
    /// Of a guest: its CUDA proof: `right`, `of-another-boot` or `wrong`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<&'static str>,
    /// Of a guest: `warning` or `critical`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<&'static str>,
    /// Of a guest: the host that it runs on, as the hosts say; else the fleet file's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Of a guest that runs on another host than the fleet file says: that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_host: Option<String>,
    /// How old what is shown of it is, in seconds: since its agent looked at the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_secs: Option<u64>,
    /// Requirements that are not met: `vgpu of vm-01`.
    pub unmet: Vec<String>,
    /// Requirements that are met, and all that are wished; absent where nothing is known of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wishes: Option<Wishes>,
    /// Of a GPU server: what its gateway says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_server: Option<GpuServer>,
    /// Of a client of GPU servers: how many of them it can use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_servers: Option<Usable>,
    /// Its GPUs. Of a guest: those that its host does not show.
    pub gpus: Vec<Gpu>,
}

/// A GPU server.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GpuServer {
    /// Whether its gateway answers; nothing else is known where it does not.
    pub up: bool,
    pub gpus: usize,
    pub free: usize,
    pub out_of_service: usize,
    /// Who waits for a GPU.
    pub waiting: usize,
    /// For how long the first of them has.
    pub oldest_secs: u64,
    pub drained: bool,
    /// It cannot give any, and nobody wished that.
    pub blocked: bool,
}

/// GPU servers of a client.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Usable {
    pub usable: usize,
    pub of: usize,
}

/// What is wished of a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Wishes {
    /// Requirements that are met.
    pub met: usize,
    pub of: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Gpu {
    /// Its address on the bus.
    pub gpu: String,
    /// Its model; a host does not know that of one it gives away.
    pub name: Option<String>,
    /// Whether the host gives it to a VM as it is (DirectPath I/O): what it does then is only seen in the
    /// guest.
    pub passthrough: bool,
    /// VMs that have it whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vms: Vec<String>,
    /// VMs of which one has it: vSphere picked it at power-on (Dynamic DirectPath).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub one_of: Vec<String>,
    /// Share of time in which it worked, 0 to 1.
    pub utilization_ratio: Option<f64>,
    /// Memory in use, in bytes.
    pub memory_used_bytes: Option<f64>,
    /// All of its memory, in bytes.
    pub memory_total_bytes: Option<f64>,
    pub temperature_celsius: Option<f64>,
    pub power_watts: Option<f64>,
    /// Uncorrected memory errors, or a row that could not be remapped.
    pub memory_errors: bool,
    /// Slower than it could be: heat or power.
    pub throttled: bool,
    pub vgpus: Vec<Vgpu>,
}

/// A vGPU, as its host sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Vgpu {
    pub vm: String,
    pub profile: String,
    /// Share of time in which it worked, 0 to 1.
    pub utilization_ratio: Option<f64>,
    /// Frame buffer in use, in bytes.
    pub memory_used_bytes: Option<f64>,
    /// Frame buffer that it has, in bytes.
    pub memory_total_bytes: Option<f64>,
    /// Whether the guest has its license, as it tells its host.
    pub licensed: Option<bool>,
    /// Version of the guest's driver.
    pub guest_driver: String,
}

fn label(labels: &Labels, name: &str) -> String {
    labels.get(name).cloned().unwrap_or_default()
}

/// Of each guest of the fleet file: the hosts that it may run on, and the VM's display name there.
pub type Seats = BTreeMap<String, (Vec<String>, String)>;

/// The seats of a fleet.
pub fn seats(fleet: &Fleet) -> Seats {
    let seat = |vm: &Vm| {
        let hosts = if vm.any.is_empty() { vec![vm.host.clone()] } else { vm.any.clone() };
        (vm.name.clone(), (hosts, vm.vm_name.clone()))
    };
    fleet.vms.iter().map(seat).collect()
}

/// Hosts that say of a VM, by its display name, that it runs there with a GPU.
type Hosts = BTreeMap<String, BTreeSet<String>>;

/// GPUs of a machine, and VMs of a GPU, that are looked at: a page may name thousands of either.
const MOST: usize = 256;

/// Reads a page. `fleet`: the fleet file's name.
pub fn glance(fleet: &str, seats: &Seats, page: &str) -> FleetSummary {
    let page = Page::read(page);
    let users = page.of("host_vgpu_info").chain(page.of("host_whole_gpu_info"));
    let mut on: Hosts = Hosts::new();
    // Only a host tells where VMs are.
    for (labels, _) in users.filter(|(labels, _)| label(labels, "role") == "host") {
        on.entry(label(labels, "vm")).or_default().insert(label(labels, "node"));
    }
    let nodes = |role: &str| -> Vec<Node> {
        let of_role = page.of("node_reachable").filter(|(l, _)| label(l, "role") == role);
        let mut names: Vec<String> = of_role.map(|(l, _)| label(l, "node")).collect();
        names.sort();
        names.iter().map(|name| node(&page, seats, &on, name, role)).collect()
    };
    let runs_readable = page.value("runs_readable", &[]) != Some(0.0);
    let (hosts, guests) = (nodes("host"), nodes("guest"));
    // A hold without a role is a host's or a VM's.
    let known: BTreeSet<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    let of_vms = page
        .of("node_held")
        .filter(|(l, _)| label(l, "role") != "guest" && !known.contains(label(l, "node").as_str()));
    let held_vms = of_vms.map(|(l, _)| (label(l, "node"), label(l, "hold"))).collect();
    FleetSummary {
        held_vms,
        round_age_secs: page.value("exporter_round_age_seconds", &[]).map(|age| age as u64),
        fleet: fleet.into(),
        runs_readable,
        run: run(&page),
        hosts,
        guests,
    }
}

fn run(page: &Page) -> Option<Run> {
    let number = page.value("run_number", &[])? as u64;
    let steps = |state: &str| page.value("run_steps", &[("state", state)]).unwrap_or(0.0) as u64;
    let state = match (page.value("controller_at_work", &[]), page.value("run_unfinished", &[])) {
        (Some(1.0), Some(1.0)) => "running",
        (_, Some(1.0)) => "unfinished",
        _ => "ended",
    };
    let steps_of_all = ["waiting", "started", "done", "failed"].map(steps).iter().sum();
    Some(Run {
        number,
        state,
        steps: steps_of_all,
        done: steps("done"),
        failed: steps("failed"),
        held: page.of("node_held").count(),
    })
}

fn node(page: &Page, seats: &Seats, on: &Hosts, name: &str, role: &str) -> Node {
    let of = [("node", name), ("role", role)];
    let flag = |series: &str| page.value(series, &of).map(|v| v == 1.0);
    // A host's hold has no role.
    let holds =
        page.of_node("node_held", name).filter(|(l, _)| (role == "guest") == (label(l, "role") == "guest"));
    let unmet =
        page.of_node("requirement_met", name).filter(|(l, value)| label(l, "role") == role && *value != 1.0);
    let unmet = unmet.map(|(l, _)| match label(l, "vm") {
        vm if vm.is_empty() => label(l, "requirement"),
        vm => format!("{} of {vm}", label(l, "requirement")),
    });
    let (host, file_host) = match role {
        "guest" => place(on, seats, name),
        _ => (None, None),
    };
    Node {
        name: name.into(),
        host,
        file_host,
        age_secs: page.value("node_page_age_seconds", &of).map(|age| {
            let look = page.value("last_observation_age_seconds", &of).unwrap_or_default();
            (age + look) as u64
        }),
        unmet: unmet.collect(),
        reachable: page.value("node_reachable", &of) != Some(0.0),
        refused: page.value("node_page_refused", &of) == Some(1.0),
        stale: page.value("observation_stale", &of) == Some(1.0),
        held: holds.map(|(l, _)| label(l, "hold")).collect(),
        maintenance: flag("host_maintenance_mode"),
        reboot_pending: flag("host_reboot_pending"),
        driver_loaded: flag("guest_driver_loaded"),
        // Of each GPU: one without is a guest without.
        licensed: page.all("license_licensed", &of).map(|all| all.iter().all(|v| *v == 1.0)),
        proof: match (flag("guest_cuda_proof_passed"), flag("guest_cuda_proof_current")) {
            (Some(true), Some(true)) => Some("right"),
            (Some(true), _) => Some("of-another-boot"),
            (Some(false), _) => Some("wrong"),
            (None, _) => None,
        },
        health: match page.value("guest_health", &of) {
            Some(3.0) => Some("critical"),
            Some(2.0) => Some("warning"),
            _ => None,
        },
        wishes: page
            .all("requirement_met", &of)
            .map(|all| Wishes { met: all.iter().filter(|v| **v == 1.0).count(), of: all.len() }),
        gpu_server: gpu_server(page, &of),
        gpu_servers: page
            .all("network_gpu_server_usable", &of)
            .map(|all| Usable { usable: all.iter().filter(|v| **v == 1.0).count(), of: all.len() }),
        gpus: gpus(page, seats, name, role),
    }
}

/// Where a guest runs: the host that has its vGPU or whole GPU, and the fleet file's where that is another one.
fn place(on: &Hosts, seats: &Seats, guest: &str) -> (Option<String>, Option<String>) {
    let Some((hosts, vm)) = seats.get(guest) else { return (None, None) };
    match on.get(vm).and_then(|hosts| hosts.iter().next().filter(|_| hosts.len() == 1)) {
        Some(only) if !hosts.contains(only) => (Some(only.clone()), Some(hosts.join(" or "))),
        Some(only) => (Some(only.clone()), None),
        // Two VMs of one name are on two hosts: then nothing is known.
        _ => (hosts.first().filter(|_| hosts.len() == 1).cloned(), None),
    }
}

fn gpu_server(page: &Page, of: &[(&str, &str)]) -> Option<GpuServer> {
    let flag = |series: &str| page.value(series, of) == Some(1.0);
    let sum = |series: &str| page.all(series, of).unwrap_or_default().iter().sum::<f64>() as usize;
    let slots = |state: &str| {
        let of: Vec<_> = of.iter().copied().chain([("state", state)]).collect();
        page.value("pool_slots", &of).unwrap_or(0.0) as usize
    };
    Some(GpuServer {
        up: page.value("pool_up", of)? == 1.0,
        gpus: sum("pool_slots"),
        free: slots(SlotUse::Free.word()),
        out_of_service: slots(SlotUse::OutOfService.word()),
        waiting: sum("pool_queue"),
        oldest_secs: page.value("pool_queue_oldest_seconds", of).unwrap_or(0.0) as u64,
        drained: flag("pool_drained"),
        blocked: flag("pool_blocked"),
    })
}

fn gpus(page: &Page, seats: &Seats, node: &str, role: &str) -> Vec<Gpu> {
    let own = |l: &Labels| label(l, "role") == role;
    // The host says more of a vGPU, and says it beside the others of its GPU.
    let shown = |(hosts, vm): &(Vec<String>, String)| {
        hosts.iter().any(|host| page.of_node("host_vgpu_info", host).any(|(l, _)| label(l, "vm") == *vm))
    };
    if role == "guest" && seats.get(node).is_some_and(shown) {
        return vec![];
    }
    let mut all: Vec<Gpu> = page
        .of_node("gpu_info", node)
        .filter(|(l, _)| own(l))
        .take(MOST)
        .map(|(l, _)| gpu(page, node, role, l))
        .collect();
    if role == "host" {
        given_whole(page, node, &mut all);
    }
    all.sort_by(|a, b| a.gpu.cmp(&b.gpu));
    all
}

/// GPUs that a host gives away as they are, with the running VMs that have them.
fn given_whole(page: &Page, node: &str, all: &mut Vec<Gpu>) {
    let (mut by_gpu, mut picked) = (BTreeMap::<String, Vec<String>>::new(), vec![]);
    for (labels, _) in page.of_node("host_whole_gpu_info", node).take(MOST) {
        match label(labels, "gpu") {
            // A device, not an address: `10de:1eb8`.
            device if !device.contains('.') => picked.push(label(labels, "vm")),
            address => by_gpu.entry(address).or_default().push(label(labels, "vm")),
        }
    }
    picked.sort();
    picked.dedup();
    picked.truncate(16);
    let given = page.of_node("host_gpu_owner_info", node);
    let given = given.filter(|(l, _)| label(l, "active").to_lowercase().contains("passthru"));
    for (labels, _) in given.take(MOST) {
        let address = label(labels, "gpu");
        match all.iter_mut().find(|gpu| gpu.gpu == address) {
            Some(gpu) => gpu.passthrough = true,
            None => all.push(Gpu { gpu: address, passthrough: true, ..Gpu::default() }),
        }
    }
    for gpu in all.iter_mut().filter(|gpu| gpu.passthrough) {
        gpu.vms = by_gpu.remove(&gpu.gpu).unwrap_or_default();
        if gpu.vms.is_empty() {
            gpu.one_of.clone_from(&picked);
        }
    }
}

fn gpu(page: &Page, node: &str, role: &str, labels: &Labels) -> Gpu {
    let address = label(labels, "gpu");
    let of = [("node", node), ("role", role), ("gpu", address.as_str())];
    let number = |name: &str| page.value(name, &of);
    let vgpus =
        page.of_node("host_vgpu_info", node).filter(|(l, _)| role == "host" && label(l, "gpu") == address);
    Gpu {
        name: labels.get("name").cloned(),
        passthrough: false,
        vms: vec![],
        one_of: vec![],
        utilization_ratio: number("gpu_utilization_ratio"),
        memory_used_bytes: number("gpu_memory_used_bytes"),
        memory_total_bytes: number("gpu_memory_total_bytes"),
        temperature_celsius: number("gpu_temperature_celsius"),
        power_watts: number("gpu_power_watts"),
        memory_errors: number("gpu_ecc_uncorrected_errors").is_some_and(|n| n > 0.0)
            || number("gpu_remap_failed") == Some(1.0),
        throttled: number("gpu_throttled") == Some(1.0),
        vgpus: {
            let mut all: Vec<Vgpu> = vgpus.map(|(l, _)| vgpu(page, node, &address, l)).collect();
            all.sort_by(|a, b| a.vm.cmp(&b.vm));
            all
        },
        gpu: address,
    }
}

fn vgpu(page: &Page, node: &str, gpu: &str, labels: &Labels) -> Vgpu {
    let vm = label(labels, "vm");
    let of = [("node", node), ("gpu", gpu), ("vm", vm.as_str())];
    Vgpu {
        profile: label(labels, "type"),
        utilization_ratio: page.value("host_vgpu_utilization_ratio", &of),
        memory_used_bytes: page.value("host_vgpu_memory_used_bytes", &of),
        memory_total_bytes: page.value("host_vgpu_memory_total_bytes", &of),
        licensed: page.value("host_vgpu_licensed", &of).map(|v| v == 1.0),
        guest_driver: label(labels, "guest_driver"),
        vm,
    }
}
