//! Simulated vim-cmd: inventory and power of VMs. Powering on checks what hostd and the vGPU plug-in check.

use super::Answer;
use super::state::{Machine, Vm};
use super::vgpu_placement::Placement;
use std::path::Path;
use vsgpu_core::readers::vmx;

/// Speed of a core of the simulated hosts, and how many they have.
const CPU_MHZ: u64 = 1996;
const CPU_CORES: u64 = 8;

fn fault(what: &str, name: &str, message: &str) -> Answer {
    Answer::fail(
        1,
        format!(
            "{what}\n{} failed: (vim.fault.{name}) {{\n   faultCause = (vmodl.MethodFault) null, \n   faultMessage = <unset>, \n   reason = \"{message}\"\n   msg = \"{message}\"\n}}\n",
            what.trim_end_matches(" VM:").replace("Powering", "Power")
        ),
    )
}

pub fn run(folder: &Path, words: &[&str]) -> Answer {
    let vm_of = |id: &str| {
        let mut machine = Machine::read(folder);
        id.parse::<u32>().ok().and_then(|id| machine.esxi().vms.iter().find(|v| v.vmid == id).cloned())
    };
    match words {
        ["vmsvc/getallvms"] => Answer::ok(listing(&Machine::read(folder).esxi().vms)),
        ["hostsvc/hostsummary"] => {
            let mut machine = Machine::read(folder);
            let host = machine.esxi();
            Answer::ok(format!(
                "Listsummary:\n\n(vim.host.Summary) {{\n   host = 'vim.HostSystem:ha-host', \n   hardware = (vim.host.Summary.HardwareSummary) {{\n      cpuMhz = {CPU_MHZ}, \n      numCpuPkgs = 1, \n      numCpuCores = {CPU_CORES}\n   }}, \n   runtime = (vim.host.RuntimeInfo) {{\n      connectionState = \"connected\", \n      inMaintenanceMode = {}, \n      bootTime = <unset>\n   }}, \n   rebootRequired = {}\n}}\n",
                host.maintenance,
                !host.staged.is_empty()
            ))
        }
        ["solo/registervm", path, rest @ ..] if rest.len() <= 1 => {
            register(folder, path, rest.first().copied())
        }
        ["vmsvc/snapshot.get", id] => {
            let count = vm_of(id).map_or(0, |vm| vm.snapshots);
            let one =
                |n: u32| format!("|-ROOT\n--Snapshot Name        : snap{n}\n--Snapshot Id        : {n}\n");
            Answer::ok(format!("Get Snapshot:\n{}", (1..=count).map(one).collect::<String>()))
        }
        [verb, id] => {
            let Some(vm) = vm_of(id) else {
                return Answer::fail(
                    1,
                    format!(
                        "(vim.fault.NotFound) {{\n   faultCause = (vmodl.MethodFault) null, \n   faultMessage = <unset>\n   msg = \"Unable to find a VM corresponding to \"{id}\"\"\n}}\n"
                    ),
                );
            };
            match *verb {
                "vmsvc/message" => Answer::ok(match &vm.question {
                    Some(said) => format!(
                        "Virtual machine message 0:\n{said}\n\n   0. Cancel (Cancel)\n   1. OK (OK) [default]\n"
                    ),
                    None => "No message.\n".into(),
                }),
                "vmsvc/power.getstate" => Answer::ok(format!(
                    "Retrieved runtime info\nPowered {}\n",
                    if vm.on { "on" } else { "off" }
                )),
                "vmsvc/reload" => Answer::ok(""),
                "vmsvc/power.on" => power_on(folder, &vm),
                "vmsvc/power.off" | "vmsvc/power.shutdown" => {
                    power_off(folder, &vm, *verb == "vmsvc/power.shutdown")
                }
                _ => Answer::fail(1, format!("Invalid command '{verb}'.\n")),
            }
        }
        _ => Answer::fail(1, "Commands available under /:\nhostsvc/ vmsvc/\n"),
    }
}

fn listing(vms: &[Vm]) -> String {
    let mut text = "Vmid   Name          File              Guest OS       Version   Annotation\n".to_string();
    for vm in vms {
        text += &format!(
            "{:<6} {}   [{}] {}   debian11_64Guest   vmx-19   simulated\n",
            vm.vmid, vm.name, vm.datastore, vm.file
        );
    }
    text
}

fn set_power(folder: &Path, vm: &Vm, on: bool) {
    Machine::with(folder, |m| m.esxi().vms.iter_mut().filter(|v| v.vmid == vm.vmid).for_each(|v| v.on = on));
    let guest = folder.with_file_name(&vm.name);
    if guest.join("state.json").exists() {
        super::power_event(&guest, if on { "start" } else { "stop" });
    }
}

fn power_off(folder: &Path, vm: &Vm, by_guest: bool) -> Answer {
    if !vm.on {
        return fault(
            if by_guest { "Shutting down VM:" } else { "Powering off VM:" },
            "InvalidPowerState",
            "The attempted operation cannot be performed in the current state (Powered off).",
        );
    }
    if by_guest && (vm.stubborn || vm.question.is_some()) {
        return Answer::ok("");
    }
    set_power(folder, vm, false);
    Answer::ok(if by_guest { "" } else { "Powering off VM:\n" })
}

/// Lines of the VM's own log, as ESXi 8 writes them.
fn log(machine: &Machine, vm: &Vm, lines: &[String]) {
    use std::io::Write as _;
    let path =
        machine.root(&format!("/vmfs/volumes/{}/{}", vm.datastore, vm.file)).with_file_name("vmware.log");
    let at = time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339).unwrap();
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    for line in lines {
        writeln!(file, "{at} In(05) vmx - {line}").unwrap();
    }
}

fn register(folder: &Path, path: &str, name: Option<&str>) -> Answer {
    let Some((datastore, file)) = path.strip_prefix("/vmfs/volumes/").and_then(|rest| rest.split_once('/'))
    else {
        return Answer::fail(
            1,
            "(vim.fault.NotFound) {\n   faultCause = (vmodl.MethodFault) null, \n   faultMessage = <unset>\n   msg = \"The object or item referred to could not be found.\"\n}\n",
        );
    };
    Machine::with(folder, |m| {
        let Some(text) = m.text(path) else {
            return Answer::fail(
                1,
                "(vim.fault.NotFound) {\n   faultCause = (vmodl.MethodFault) null, \n   faultMessage = <unset>\n   msg = \"The object or item referred to could not be found.\"\n}\n",
            );
        };
        let shown = vmx::read(text.as_bytes()).get("displayname").cloned().unwrap_or_default();
        let name = name.map_or(shown, String::from);
        let host = m.esxi();
        if let Some(old) = host.vms.iter().find(|v| v.datastore == datastore && v.file == file) {
            return Answer::fail(
                1,
                format!(
                    "(vim.fault.AlreadyExists) {{\n   faultCause = (vmodl.MethodFault) null, \n   name = \"{}\"\n   msg = \"The specified key, name, or identifier already exists.\"\n}}\n",
                    old.vmid
                ),
            );
        }
        let vmid = host.vms.iter().map(|v| v.vmid).max().unwrap_or(0) + 1;
        host.vms.push(Vm { vmid, name, datastore: datastore.into(), file: file.into(), ..Vm::default() });
        Answer::ok(format!("{vmid}\n"))
    })
}

fn power_on(folder: &Path, vm: &Vm) -> Answer {
    const DO: &str = "Powering on VM:";
    let mut machine = Machine::read(folder);
    let text = machine.text(&format!("/vmfs/volumes/{}/{}", vm.datastore, vm.file)).unwrap_or_default();
    let keys = vmx::read(text.as_bytes());
    let host = machine.esxi().clone();
    if vm.on {
        return fault(
            DO,
            "InvalidPowerState",
            "The attempted operation cannot be performed in the current state (Powered on).",
        );
    }
    if host.maintenance {
        return fault(DO, "InvalidState", "The operation is not allowed in the current state.");
    }
    // Admission control: what is reserved by all that runs must be there.
    let reserved = |keys: &std::collections::BTreeMap<String, String>| {
        keys.get("sched.cpu.min").and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    let others = host.vms.iter().filter(|other| other.on && other.vmid != vm.vmid).map(|other| {
        let text =
            machine.text(&format!("/vmfs/volumes/{}/{}", other.datastore, other.file)).unwrap_or_default();
        reserved(&vmx::read(text.as_bytes()))
    });
    if others.sum::<u64>() + reserved(&keys) > CPU_MHZ * CPU_CORES {
        let why =
            "The available CPU resources in the parent resource pool are insufficient for the operation.";
        return fault(DO, "InsufficientCpuResourcesFault", why);
    }
    let profiles = profiles(&keys);
    let whole = vsgpu_host_agent::pci_slots::slots(&keys).values().any(|slot| slot.is_nvidia_gpu());
    if !profiles.is_empty() || whole {
        let memory = keys.get("memsize").cloned().unwrap_or_default();
        if keys.get("sched.mem.min") != Some(&memory) {
            return fault(
                DO,
                "GenericVmConfigFault",
                &format!(
                    "Invalid memory setting: memory reservation (sched.mem.min) should be equal to memsize({memory})."
                ),
            );
        }
        let mut placement = Placement::running(&mut machine, Some(vm.vmid));
        if let Some(why) = profiles.iter().find_map(|p| placement.place(&vm.name, p).err()) {
            return fault(DO, "GenericVmConfigFault", &why);
        }
        if let Some((why, lines)) = super::passthrough::refuses(&mut machine, vm, &keys) {
            log(&machine, vm, &lines);
            return fault(DO, "GenericVmConfigFault", &why);
        }
    }
    set_power(folder, vm, true);
    Answer::ok("Powering on VM:\n")
}

/// vGPU profiles of a `.vmx`.
pub fn profiles(keys: &std::collections::BTreeMap<String, String>) -> Vec<String> {
    let present = |n: &str| keys.get(&format!("pcipassthru{n}.present")).is_some_and(|v| v == "TRUE");
    let slot = |key: &str| Some(key.strip_prefix("pcipassthru")?.strip_suffix(".vgpu")?.to_string());
    keys.iter()
        .filter_map(|(key, profile)| slot(key).filter(|n| present(n)).map(|_| profile.clone()))
        .collect()
}

/// `grid_p100-8q` -> (`P100`, 8192 MiB).
pub fn parts(profile: &str) -> Option<(String, u64)> {
    let known = vsgpu_core::knowledge::vgpu_types::find(profile)?;
    Some((known.token.to_uppercase(), known.size_mib))
}
