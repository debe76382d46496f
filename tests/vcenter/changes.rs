//! What calls that change something do to a simulated machine: its own tools do it, in the API's words, and refuse what
//! they refuse. Settings of a VM are taken as the real server takes them: only for the state they were made for, in order,
//! new devices with negative keys of their own, nothing while the VM runs.

use super::machine;
use crate::fakes::state::{Machine, Vm};
use crate::fakes::{self, Answer};
use std::collections::BTreeMap;
use std::path::Path;
use vsgpu_core::readers::vmx;
use vsgpu_core::readers::xml::Element;
use vsgpu_core::units::Bdf;

/// How a task ends: well, or with a fault's type and words.
pub type Ended = Result<(), (&'static str, String)>;

/// How a call ended.
pub enum Made {
    /// At once.
    Done,
    /// By a task, which ended so.
    Task(Ended),
    /// Refused at once.
    Refused(&'static str, String),
}

/// Calls, each with its privilege and whether it is about a VM.
pub const CALLS: [(&str, &str, bool); 16] = [
    ("UpdateGraphicsConfig", "Host.Config.Settings", false),
    ("RefreshGraphicsManager", "Host.Config.Settings", false),
    ("UpdatePassthruConfig", "Host.Config.PciPassthru", false),
    ("UpdateModuleOptionString", "Host.Config.Settings", false),
    ("UpdateHostImageAcceptanceLevel", "Host.Config.Image", false),
    ("RestartService", "Host.Config.NetService", false),
    ("EnterMaintenanceMode_Task", "Host.Config.Maintenance", false),
    ("ExitMaintenanceMode_Task", "Host.Config.Maintenance", false),
    ("RebootHost_Task", "Host.Config.Maintenance", false),
    ("PowerOnVM_Task", "VirtualMachine.Interact.PowerOn", true),
    ("PowerOffVM_Task", "VirtualMachine.Interact.PowerOff", true),
    ("ShutdownGuest", "VirtualMachine.Interact.PowerOff", true),
    ("ReconfigVM_Task", "VirtualMachine.Config.AddRemoveDevice", true),
    ("InstallHostPatchV2_Task", "Host.Config.Patch", false),
    ("StopService", "Host.Config.NetService", false),
    ("CloneVM_Task", "VirtualMachine.Provisioning.Clone", true),
];

fn text(of: &Element, path: &[&str]) -> String {
    let found = path.iter().try_fold(of, |of, name| of.child(name));
    found.map(|of| of.text.clone()).unwrap_or_default()
}

/// What the tool says, as a fault.
pub fn refused(answer: &Answer) -> (&'static str, String) {
    let fault = vsgpu_core::readers::vim_cmd::fault(&answer.stdout);
    let kind = match fault.as_ref().and_then(|fault| fault.fault.as_deref()) {
        Some("InvalidPowerState") => "InvalidPowerState",
        Some("InvalidState") => "InvalidState",
        Some("GenericVmConfigFault") => "GenericVmConfigFault",
        Some("InsufficientCpuResourcesFault") => "InsufficientCpuResourcesFault",
        _ => "HostConfigFault",
    };
    (kind, fault.map_or_else(|| answer.stdout.trim().to_string(), |fault| fault.text))
}

pub fn make(folder: &Path, number: usize, call: &Element) -> Made {
    let tool = |program: &str, words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_string()).collect();
        fakes::run(folder, program, &words)
    };
    let at_once = |answer: Answer| match answer.status {
        0 => Made::Done,
        _ => {
            let (kind, words) = refused(&answer);
            Made::Refused(kind, words)
        }
    };
    let task = |answer: Answer| Made::Task(if answer.status == 0 { Ok(()) } else { Err(refused(&answer)) });
    let of = |name: &str| text(call, &[name]);
    let mut machine = Machine::read(folder);
    let vm = machine.esxi().vms.iter().find(|vm| machine::vm_id(number, vm.vmid) == of("_this")).cloned();
    match call.name.as_str() {
        "UpdateGraphicsConfig" => graphics(folder, call),
        "RefreshGraphicsManager" => Made::Done,
        "UpdatePassthruConfig" => {
            let (id, on) = (text(call, &["config", "id"]), text(call, &["config", "passthruEnabled"]));
            let mut words = vec!["hardware", "pci", "pcipassthru", "set", "-d", &id, "-e", &on];
            if text(call, &["config", "applyNow"]) == "true" {
                words.push("-a");
            }
            let answer = tool("esxcli", &words);
            // The API does not mind what is so already.
            if answer.stdout.contains("already configured") { Made::Done } else { at_once(answer) }
        }
        "UpdateModuleOptionString" => {
            if machine.esxi().loaded.is_none() {
                return Made::Refused(
                    "NotFound",
                    "The object or item referred to could not be found.".into(),
                );
            }
            at_once(tool(
                "esxcli",
                &["system", "module", "parameters", "set", "-m", &of("name"), "-p", &of("options")],
            ))
        }
        "UpdateHostImageAcceptanceLevel" => {
            let level = match of("newAcceptanceLevel").as_str() {
                "community" => "CommunitySupported",
                "partner" => "PartnerSupported",
                "vmware_accepted" => "VMwareAccepted",
                _ => "VMwareCertified",
            };
            at_once(tool("esxcli", &["software", "acceptance", "set", &format!("--level={level}")]))
        }
        "RestartService" => match of("id").as_str() {
            "xorg" => {
                tool("xorg", &["stop"]);
                at_once(tool("xorg", &["start"]))
            }
            _ => Made::Refused("NotFound", "The object or item referred to could not be found.".into()),
        },
        "InstallHostPatchV2_Task" => super::software::install(folder, call),
        // The service of the host's GPU manager is there where its package is.
        "StopService" => {
            Made::Refused("NotFound", "The object or item referred to could not be found.".into())
        }
        "EnterMaintenanceMode_Task" => {
            task(tool("esxcli", &["system", "maintenanceMode", "set", "--enable", "true"]))
        }
        "ExitMaintenanceMode_Task" => {
            task(tool("esxcli", &["system", "maintenanceMode", "set", "--enable", "false"]))
        }
        "RebootHost_Task" => task(tool("esxcli", &["system", "shutdown", "reboot", "--reason=api"])),
        _ => {
            let Some(vm) = vm else {
                return Made::Refused("ManagedObjectNotFound", "The object has already been deleted".into());
            };
            let id = vm.vmid.to_string();
            match call.name.as_str() {
                "PowerOnVM_Task" => task(tool("vim-cmd", &["vmsvc/power.on", &id])),
                "PowerOffVM_Task" => task(tool("vim-cmd", &["vmsvc/power.off", &id])),
                "ShutdownGuest" => at_once(tool("vim-cmd", &["vmsvc/power.shutdown", &id])),
                _ => reconfigure(folder, &vm, call),
            }
        }
    }
}

/// The whole of the settings, as the server takes them.
fn graphics(folder: &Path, call: &Element) -> Made {
    let of_esxcli = |word: &str| match word {
        "shared" => Some("Shared"),
        "sharedDirect" => Some("SharedPassthru"),
        _ => None,
    };
    let Some(config) = call.child("config") else {
        return Made::Refused("InvalidArgument", "config".into());
    };
    let default = of_esxcli(&text(config, &["hostDefaultGraphicsType"]));
    let policy = match text(config, &["sharedPassthruAssignmentPolicy"]).as_str() {
        "performance" => Some("Performance"),
        "consolidation" => Some("Consolidation"),
        _ => None,
    };
    let (Some(default), Some(policy)) = (default, policy) else {
        return Made::Refused("InvalidArgument", "A specified parameter was not correct: config".into());
    };
    let mut own = BTreeMap::new();
    for device in config.all("deviceType") {
        let Some(kind) = of_esxcli(&text(device, &["graphicsType"])) else {
            return Made::Refused(
                "InvalidArgument",
                "A specified parameter was not correct: deviceType".into(),
            );
        };
        own.insert(text(device, &["deviceId"]), (kind, text(device, &["vgpuMode"])));
    }
    Machine::with(folder, |m| {
        m.log("UpdateGraphicsConfig");
        let host = m.esxi();
        (host.default_type, host.policy) = (default.into(), policy.into());
        for gpu in &mut host.gpus {
            // What is not named has nothing of its own any more.
            let of_gpu = own.get(&gpu.bdf);
            gpu.own_type = of_gpu.map(|(kind, _)| (*kind).to_string());
            gpu.mixed_pending = of_gpu.is_some_and(|(_, mode)| mode == "mixedSize");
        }
    });
    Made::Done
}

fn reconfigure(folder: &Path, vm: &Vm, call: &Element) -> Made {
    let path = format!("/vmfs/volumes/{}/{}", vm.datastore, vm.file);
    let Some(spec) = call.child("spec") else { return Made::Refused("InvalidArgument", "spec".into()) };
    let mut machine = Machine::read(folder);
    let file = machine.text(&path).unwrap_or_default();
    machine.log("ReconfigVM_Task");
    let asked_for = text(spec, &["changeVersion"]);
    if !asked_for.is_empty() && asked_for != machine::change_version(&file) {
        let words = "Concurrent access to the object (simulated)";
        return Made::Task(Err(("ConcurrentAccess", words.into())));
    }
    if vm.on {
        let words = "The attempted operation cannot be performed in the current state (Powered on).";
        return Made::Task(Err(("InvalidPowerState", words.into())));
    }
    match settings(&vmx::read(file.as_bytes()), spec) {
        Ok(set) => {
            machine.write(&path, &String::from_utf8(vmx::edit(file.as_bytes(), &set)).unwrap());
            Made::Task(Ok(()))
        }
        Err(words) => Made::Task(Err(("InvalidDeviceSpec", words))),
    }
}

type Set = Vec<(String, Option<String>)>;

fn settings(keys: &BTreeMap<String, String>, spec: &Element) -> Result<Set, String> {
    let mut set: Set = vec![];
    let mut taken: Vec<u32> =
        (0..64).filter(|n| keys.contains_key(&format!("pcipassthru{n}.present"))).collect();
    let mut new_keys = vec![];
    for change in spec.all("deviceChange") {
        let device = change.child("device").ok_or("Device operation without a device (simulated)")?;
        if device.attribute("type") != Some("VirtualPCIPassthrough") {
            return Err("the device has no type (simulated)".into());
        }
        let key: i32 = text(device, &["key"]).parse().map_err(|_| "the device has no key (simulated)")?;
        if text(change, &["operation"]) == "remove" {
            let slot = taken.iter().position(|n| 13_000 + *n as i32 == key).ok_or("The device or operation specified at index '0' is not supported for the current virtual machine (simulated)")?;
            let prefix = format!("pcipassthru{}.", taken.remove(slot));
            let gone = keys.keys().filter(|key| key.starts_with(&prefix) && !key.contains(".cfg."));
            set.extend(gone.map(|key| (key.clone(), None)));
            continue;
        }
        if key >= 0 || new_keys.contains(&key) {
            return Err("Cannot add multiple devices using the same device key".into());
        }
        new_keys.push(key);
        let slot = (0..).find(|n| !taken.contains(n)).unwrap();
        taken.push(slot);
        let backing = device.child("backing").ok_or("Invalid backing (simulated)")?;
        set.extend(of_backing(slot, backing)?);
    }
    let memory = keys.get("memsize").cloned().unwrap_or_default();
    let reservation = |name: &str| spec.child(name).map(|of| text(of, &["reservation"]));
    if let Some(mhz) = reservation("cpuAllocation") {
        set.push(("sched.cpu.min".into(), Some(mhz)));
        set.push(("sched.cpu.units".into(), Some("mhz".into())));
    }
    if let Some(mib) = reservation("memoryAllocation") {
        set.push(("sched.mem.min".into(), Some(mib.clone())));
        set.push(("sched.mem.minSize".into(), Some(mib)));
    }
    for option in spec.all("extraConfig") {
        let value = option.child("value").ok_or("extraConfig without a value (simulated)")?;
        if value.attribute("type").is_none_or(|kind| !kind.ends_with("string")) {
            return Err("the value has no type (simulated)".into());
        }
        set.push((text(option, &["key"]), (!value.text.is_empty()).then(|| value.text.clone())));
    }
    match text(spec, &["memoryReservationLockedToMax"]).as_str() {
        "true" => {
            for (key, value) in [
                ("sched.mem.min", memory.as_str()),
                ("sched.mem.minSize", &memory),
                ("sched.mem.pin", "TRUE"),
            ] {
                set.push((key.into(), Some(value.into())));
            }
        }
        "false" => set.push(("sched.mem.pin".into(), None)),
        _ => {}
    }
    Ok(set)
}

fn of_backing(slot: u32, backing: &Element) -> Result<Set, String> {
    let key = |name: &str, value: String| (format!("pciPassthru{slot}.{name}"), Some(value));
    let mut set = vec![key("present", "TRUE".into())];
    match backing.attribute("type") {
        Some("VirtualPCIPassthroughVmiopBackingInfo") => {
            set.push(key("virtualDev", "vmiop".into()));
            set.push(key("vgpu", text(backing, &["vgpu"])));
        }
        Some("VirtualPCIPassthroughDeviceBackingInfo") => {
            let at: Bdf = text(backing, &["id"]).parse().map_err(|_| "id (simulated)".to_string())?;
            let vendor: i16 =
                text(backing, &["vendorId"]).parse().map_err(|_| "vendorId is a short (simulated)")?;
            set.push(key("id", at.vmx_id()));
            set.push(key("deviceId", format!("0x{}", text(backing, &["deviceId"]))));
            set.push(key("vendorId", format!("0x{:x}", vendor as u16)));
            set.push(key("systemId", text(backing, &["systemId"])));
        }
        Some("VirtualPCIPassthroughDynamicBackingInfo") => {
            let one = |of: &Element| {
                let hex =
                    |name: &str| format!("0x{:04x}", text(of, &[name]).parse::<i32>().unwrap() & 0xffff);
                format!("{}:{}", hex("vendorId"), hex("deviceId"))
            };
            let all: Vec<String> = backing.all("allowedDevice").map(one).collect();
            set.push(key("allowedDevices", all.join(",")));
        }
        other => return Err(format!("Invalid backing {other:?} (simulated)")),
    }
    Ok(set)
}
