//! DRS of the simulated vCenter: what it would move, and what it moves when a host enters maintenance mode. It moves no VM
//! with a whole GPU, VMs with vGPUs only where its option allows that and another GPU has room, and nothing where it is
//! off. (A moved VM has another id here, unlike there.)

use super::machine;
use super::world::World;
use crate::fakes::state::{Machine, Vm};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use vsgpu_core::readers::vmx;

/// What DRS of all clusters is set to.
#[derive(Clone)]
pub struct Drs {
    /// `fullyAutomated`, `manual`, or `off`.
    pub level: &'static str,
    pub options: BTreeMap<String, String>,
    /// `vgpu.hotmigrate.enabled` of vCenter; it may be missing.
    pub hot_migrate: Option<bool>,
    /// Somebody moves what DRS leaves and what can move.
    pub people_move: bool,
}

impl Default for Drs {
    fn default() -> Self {
        let options = [("LBMaxVmotionPerHost".to_string(), "1".to_string())];
        Self { level: "fullyAutomated", options: options.into(), hot_migrate: Some(true), people_move: false }
    }
}

impl Drs {
    /// As `configurationEx` has it.
    pub fn xml(&self) -> String {
        let option = |(key, value): (&String, &String)| {
            format!("<option><key>{key}</key><value xsi:type=\"xsd:string\">{value}</value></option>")
        };
        format!(
            "<drsConfig><enabled>{}</enabled><defaultVmBehavior>{}</defaultVmBehavior>{}</drsConfig>",
            self.level != "off",
            if self.level == "off" { "fullyAutomated" } else { self.level },
            self.options.iter().map(option).collect::<String>()
        )
    }
}

fn keys(folder: &Path, vm: &Vm) -> BTreeMap<String, String> {
    let file = Machine::read(folder).text(&format!("/vmfs/volumes/{}/{}", vm.datastore, vm.file));
    vmx::read(file.unwrap_or_default().as_bytes())
}

fn vgpus(keys: &BTreeMap<String, String>) -> Vec<&String> {
    keys.iter()
        .filter(|(key, _)| key.starts_with("pcipassthru") && key.ends_with(".vgpu"))
        .map(|(_, v)| v)
        .collect()
}

/// GB of a profile, by the number in its name.
fn gigabytes(profile: &str) -> u64 {
    let digits: String =
        profile.rsplit('-').next().unwrap().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_default()
}

fn has_whole_gpu(keys: &BTreeMap<String, String>) -> bool {
    keys.iter().any(|(key, _)| {
        key.starts_with("pcipassthru") && (key.ends_with(".id") || key.ends_with(".alloweddevices"))
    })
}

/// Why a VM cannot move to this host; a fault's type.
fn refused(to: &Path, of_vm: &BTreeMap<String, String>) -> Option<&'static str> {
    let mut machine = Machine::read(to);
    let host = machine.esxi().clone();
    if host.maintenance {
        return Some("InvalidState");
    }
    let wanted: u64 = vgpus(of_vm).into_iter().map(|profile| gigabytes(profile)).sum();
    if wanted == 0 {
        return None;
    }
    let shared = host.gpus.iter().filter(|gpu| !gpu.given && gpu.graphics_type == "SharedPassthru");
    let there: u64 = shared.map(|gpu| gpu.memory_mib / 1024).sum();
    let running = host.vms.iter().filter(|vm| vm.on);
    let used: u64 =
        running.map(|vm| vgpus(&keys(to, vm)).into_iter().map(|p| gigabytes(p)).sum::<u64>()).sum();
    (used + wanted > there).then_some("InsufficientGraphicsResourcesFault")
}

/// Where a VM would go, or the fault's type; `None` for one of which DRS says nothing.
fn target(world: &World, from: usize, vm: &Vm, by_people: bool) -> Option<Result<usize, &'static str>> {
    let of_vm = keys(&world.machines[&from], vm);
    if has_whole_gpu(&of_vm) {
        return Some(Err("DisallowedMigrationDeviceAttached"));
    }
    let moves_vgpus = world.drs.options.get("PassthroughDrsAutomation").is_some_and(|on| on == "1");
    let forbidden = world.drs.hot_migrate == Some(false);
    if !vgpus(&of_vm).is_empty() && (forbidden || !moves_vgpus && !by_people) {
        return None;
    }
    let others: Vec<usize> = world
        .machines
        .keys()
        .copied()
        .filter(|host| *host != from && world.hosts[*host].cluster == world.hosts[from].cluster)
        .collect();
    let mut why = "NoCompatibleHost";
    for host in others {
        match refused(&world.machines[&host], &of_vm) {
            None => return Some(Ok(host)),
            Some(fault) => why = fault,
        }
    }
    Some(Err(why))
}

fn running(folder: &Path) -> Vec<Vm> {
    let vms = Machine::read(folder).esxi().vms.clone();
    vms.into_iter().filter(|vm| vm.on && !vm.name.starts_with("vCLS")).collect()
}

/// `ClusterEnterMaintenanceMode`: what would happen.
pub fn forecast(world: &World, from: usize) -> String {
    let Some(folder) = world.machines.get(&from) else { return "<returnval></returnval>".into() };
    let (mut moves, mut faults) = (String::new(), String::new());
    for vm in running(folder) {
        let id = machine::vm_id(from, vm.vmid);
        match target(world, from, &vm, false) {
            Some(Ok(to)) => {
                moves += &format!(
                    "<action xsi:type=\"ClusterMigrationAction\"><type>MigrationV1</type><target type=\"VirtualMachine\">{id}</target><drsMigration><key>1</key><time>2026-11-27T14:00:00Z</time><vm type=\"VirtualMachine\">{id}</vm><source type=\"HostSystem\">host-{from}</source><destination type=\"HostSystem\">host-{to}</destination></drsMigration></action>"
                );
            }
            Some(Err(fault)) => {
                faults += &format!(
                    "<faultsByVm><vm type=\"VirtualMachine\">{id}</vm><fault xsi:type=\"{fault}\"></fault></faultsByVm>"
                );
            }
            None => {}
        }
    }
    let moves = if moves.is_empty() {
        String::new()
    } else {
        format!(
            "<recommendations><key>1</key><type>V1</type><time>2026-11-27T14:00:00Z</time><rating>5</rating><reason>hostMaint</reason><reasonText>Host is entering maintenance mode (simulated)</reasonText>{moves}</recommendations>"
        )
    };
    format!("<returnval>{moves}<fault><reason>hostMaint</reason>{faults}</fault></returnval>")
}

/// Moves what can be moved; whether anything that runs is left.
pub fn evacuate(world: &World, from: usize) -> bool {
    for vm in running(&world.machines[&from]) {
        let by_drs = world.drs.level == "fullyAutomated";
        let way = if by_drs { target(world, from, &vm, false) } else { None };
        let way = way.or_else(|| world.drs.people_move.then(|| target(world, from, &vm, true))?);
        if let Some(Ok(to)) = way {
            let (from, to): (&PathBuf, &PathBuf) = (&world.machines[&from], &world.machines[&to]);
            moved(from, to, &vm);
        }
    }
    !running(&world.machines[&from]).is_empty()
}

fn moved(from: &Path, to: &Path, vm: &Vm) {
    let path = format!("/vmfs/volumes/{}/{}", vm.datastore, vm.file);
    let file = Machine::read(from).text(&path).unwrap_or_default();
    Machine::with(from, |machine| {
        machine.log(&format!("vMotion of {}", vm.name));
        machine.esxi().vms.retain(|other| other.vmid != vm.vmid);
    });
    Machine::with(to, |machine| {
        machine.write(&path, &file);
        let vmid = machine.esxi().vms.iter().map(|vm| vm.vmid).max().unwrap_or_default() + 1;
        machine.esxi().vms.push(Vm { vmid, ..vm.clone() });
    });
}

/// `QueryOptions` of vCenter's settings.
pub fn setting(drs: &Drs, name: &str) -> Option<String> {
    let value = drs.hot_migrate.filter(|_| name == "vgpu.hotmigrate.enabled")?;
    Some(format!(
        "<returnval xsi:type=\"OptionValue\"><key>{name}</key><value xsi:type=\"xsd:boolean\">{value}</value></returnval>"
    ))
}

/// `RetrieveVgpuProfileInfo`.
pub fn profiles() -> String {
    let one = |profile: &str, stuns: [u64; 2]| {
        let estimate = |(bandwidth, secs): (u64, u64)| {
            format!(
                "<stunTimeEstimates><name>{bandwidth}</name><migrationBW>{bandwidth}</migrationBW><stunTime>{secs}</stunTime></stunTimeEstimates>"
            )
        };
        let estimates: String = [(10_000, stuns[0]), (25_000, stuns[1])].map(estimate).concat();
        format!(
            "<returnval><name>{profile}</name><profileName>{profile}</profileName><deviceVendorId>0</deviceVendorId><fbSizeInGib>10</fbSizeInGib><profileSharing>timeSliced</profileSharing><profileClass>compute</profileClass>{estimates}</returnval>"
        )
    };
    one("grid_a100-10c", [9, 4]) + &one("grid_a100-40c", [31, 12])
}
