//! The table of answers: what the requirements ask an ESXi host by its own tools, answered by typed calls of the API, in
//! the tools' own words. The same readers read it, so the same facts come of it. A command that is not here has no
//! counterpart, and says so.

use super::asked::{Asked, refused};
use super::tool_xml::{fields, record, records, word};
use super::vmx;
use crate::by_api::{GRAPHICS_TYPES, POLICIES};
use std::fmt::Write as _;
use vsgpu_core::units::Bdf;
use vsgpu_core::{Command, ExitKind, Output};
use vsgpu_vsphere::host::{HostDetails, PciDevice};
use vsgpu_vsphere::host_methods::{Managers, uptime};
use vsgpu_vsphere::vm::Vm;

/// Why there is no answer from the driver, in words that lead on.
const NO_DRIVER: &str = "only nvidia-smi on the host tells this, and vCenter does not";

type Said = Result<String, String>;

/// Answers a command as the host's own tool would.
pub(super) fn answer(asked: &Asked<'_>, command: &Command) -> Output {
    let args: Vec<&str> = command.args.iter().map(String::as_str).collect();
    let said = match (command.program.as_str(), args.as_slice()) {
        ("esxcli", ["--formatter=xml", words @ ..]) => esxcli(asked, words),
        ("vim-cmd", words) => vim_cmd(asked, words),
        ("vmkload_mod", ["-l"]) => asked.method(Managers::modules).map(|all| {
            let row = |module: &vsgpu_vsphere::host_methods::Module| {
                format!("{:<40} {:>5} {:>10}\n", module.name, module.uses, 0)
            };
            "Name                                     Used  Size (kb)\n".to_string()
                + &all.iter().filter(|module| module.loaded).map(row).collect::<String>()
        }),
        ("vsish", ["-e", "get", node]) => numa(asked, node),
        ("nvidia-smi", _) => Err(NO_DRIVER.into()),
        (program, _) => Err(none(program)),
    };
    match said {
        Ok(stdout) => Output { ended: ExitKind::Status(0), stdout, stderr: String::new() },
        Err(why) => Output { ended: ExitKind::ByApi(why), stdout: String::new(), stderr: String::new() },
    }
}

fn none(what: &str) -> String {
    format!("vCenter has nothing that stands for `{what}`: serve this host over ssh for it")
}

fn esxcli(asked: &Asked<'_>, words: &[&str]) -> Said {
    match words {
        ["system", "version", "get"] => {
            let details = asked.details()?;
            let (name, version, build) = details
                .product
                .as_ref()
                .ok_or("the account may not read the release: give it Read-only on the host")?;
            let build = format!("Releasebuild-{build}");
            Ok(record(&[("Product", name), ("Version", version), ("Build", &build)]))
        }
        ["system", "uuid", "get"] => {
            asked.details()?;
            // Not the hardware's UUID: it is the host's own id, which devices of VMs name.
            asked.site.system_id(asked.host).map(|id| word(&id)).map_err(|fault| refused(&fault))
        }
        ["system", "maintenanceMode", "get"] => {
            let on = asked
                .details()?
                .in_maintenance
                .ok_or("the account may not read maintenance mode: give it Read-only on the host")?;
            Ok(word(if on { "Enabled" } else { "Disabled" }))
        }
        ["system", "stats", "uptime", "get"] => {
            let seconds = asked.site.with(|session| uptime(session, &asked.host.of));
            Ok(word(&(seconds.map_err(|fault| refused(&fault))? * 1_000_000).to_string()))
        }
        ["system", "module", "parameters", "list", "-m", "nvidia"] => parameters(asked),
        ["vm", "process", "list"] => {
            let details = asked.details()?;
            let all = vms(&details)?;
            // A VM that may not be read may run.
            all.iter().try_for_each(|vm| power(vm).map(|_| ()))?;
            let running = all.iter().filter(|vm| vm.power == "poweredOn");
            Ok(records(running.map(|vm| {
                let file = vmx::path(vm).unwrap_or_default();
                fields(&[("DisplayName", &vm.name), ("ConfigFile", &file)])
            })))
        }
        ["hardware", "pci", "list"] => pci_list(&*asked.details()?),
        ["hardware", "pci", "pcipassthru", "list"] => {
            let details = asked.details()?;
            let all = details.passthrough.as_ref().map_err(refused)?;
            Ok(records(all.iter().map(|of| {
                fields(&[("DeviceID", &of.address), ("Enabled", if of.enabled { "true" } else { "false" })])
            })))
        }
        ["graphics", "host", "get"] => {
            let details = asked.details()?;
            let graphics = graphics(&details)?;
            Ok(record(&[
                ("DefaultGraphicsType", graphics_type(&graphics.default_type)?),
                ("SharedPassthruAssignmentPolicy", policy(&graphics.policy)?),
            ]))
        }
        ["graphics", "device", "list"] => graphics_devices(&*asked.details()?, false),
        ["graphics", "device", "list", "--configured-type"] => graphics_devices(&*asked.details()?, true),
        ["software", rest @ ..] => {
            let answered = super::software::answer(asked, rest);
            answered.unwrap_or_else(|| Err(none(&format!("esxcli {}", words.join(" ")))))
        }
        _ => Err(none(&format!("esxcli {}", words.join(" ")))),
    }
}

fn graphics(details: &HostDetails) -> Result<&vsgpu_vsphere::host::Graphics, String> {
    details
        .graphics
        .as_ref()
        .map_err(refused)?
        .as_ref()
        .ok_or_else(|| "this host has no graphics settings".into())
}

fn vms(details: &HostDetails) -> Result<&[Vm], String> {
    details.vms.as_ref().map(Vec::as_slice).map_err(refused)
}

fn graphics_type(word: &str) -> Result<&'static str, String> {
    let found = GRAPHICS_TYPES.iter().find(|(_, of_api)| *of_api == word);
    found.map(|(of_esxcli, _)| *of_esxcli).ok_or_else(|| format!("`{word}` is no graphics type known here"))
}

fn policy(word: &str) -> Result<&'static str, String> {
    let found = POLICIES.iter().find(|(_, of_api)| *of_api == word);
    found
        .map(|(of_esxcli, _)| *of_esxcli)
        .ok_or_else(|| format!("`{word}` is no assignment policy known here"))
}

fn graphics_devices(details: &HostDetails, configured: bool) -> Said {
    let settings = graphics(details)?;
    let mut all = vec![];
    for gpu in &details.gpus {
        let own = settings.own.get(&gpu.address);
        let given = details
            .passthrough
            .as_ref()
            .is_ok_and(|all| all.iter().any(|of| of.address == gpu.address && of.enabled));
        let (kind, mode) = match (configured, own) {
            (false, _) => (gpu.graphics_type.as_str(), gpu.vgpu_mode.as_deref()),
            (true, _) if given => ("direct", None),
            (true, Some((kind, mode))) => (kind.as_str(), mode.as_deref()),
            (true, None) => (settings.default_type.as_str(), None),
        };
        let memory = gpu.memory_kib.map(|n| n.to_string()).unwrap_or_default();
        let vms = gpu.vms.to_string();
        let mut of_gpu = fields(&[
            ("Address", &gpu.address),
            ("VendorName", &gpu.vendor),
            ("DeviceName", &gpu.name),
            ("GraphicsType", graphics_type(kind)?),
            ("MemorySizeinKB", &memory),
            ("NumberofVMs", &vms),
        ]);
        if let Some(mode) = mode.filter(|mode| *mode != "none") {
            let name = if configured { "ConfiguredvGPUMode" } else { "vGPUMode" };
            of_gpu.push((name.into(), mode.into()));
        }
        all.push(of_gpu);
    }
    Ok(records(all.into_iter()))
}

fn pci_list(details: &HostDetails) -> Said {
    let devices = details.devices.as_ref().map_err(refused)?;
    let one = |device: &PciDevice| {
        let given = details
            .passthrough
            .as_ref()
            .ok()
            .and_then(|all| all.iter().find(|of| of.address == device.address));
        let hex = |n: u16| format!("0x{n:04x}");
        let mut of_device = fields(&[
            ("Address", &device.address),
            ("VendorName", &device.vendor_name),
            ("DeviceName", &device.name),
            ("VendorID", &hex(device.vendor)),
            ("DeviceID", &hex(device.device)),
            ("SubVendorID", &hex(device.sub_vendor)),
            ("SubDeviceID", &hex(device.sub_device)),
            ("DeviceClass", &hex(device.class)),
        ]);
        if let Some(of) = given {
            let owner = |given: bool| if given { "VM Passthru" } else { "VMkernel" };
            of_device.extend(fields(&[
                ("ConfiguredOwner", owner(of.enabled)),
                ("CurrentOwner", owner(of.active)),
                ("PassthruCapable", if of.capable { "true" } else { "false" }),
            ]));
            if let Some(dependent) = of.dependent.parse::<Bdf>().ok().and_then(as_vmkernel) {
                of_device.push(("DependentDevice".into(), dependent));
            }
        }
        of_device
    };
    Ok(records(devices.iter().map(one)))
}

/// `PCI 0:59:0:0`: decimal, as VMkernel counts in its own words.
fn as_vmkernel(at: Bdf) -> Option<String> {
    let numbers: Option<Vec<u32>> = at.vmx_id().split([':', '.']).map(|n| n.parse().ok()).collect();
    let numbers: Vec<String> = numbers?.iter().map(u32::to_string).collect();
    Some(format!("PCI {}", numbers.join(":")))
}

/// `/hardware/pci/seg/0/bus/59/slot/0/func/0/pciConfigHeader`
fn numa(asked: &Asked<'_>, node: &str) -> Said {
    let numbers: Vec<u32> = node.split('/').filter_map(|part| part.parse().ok()).collect();
    let [segment, bus, slot, function] = numbers[..] else { return Err(none("vsish")) };
    let at = Bdf::from_vmx_id(&format!("{segment}:{bus}:{slot}.{function}")).ok_or_else(|| none("vsish"))?;
    let details = asked.details()?;
    let node = details.numa.get(&at.to_string()).ok_or("vCenter does not tell its NUMA node")?;
    Ok(format!("   Numa node:{node}\n"))
}

/// The API knows what is configured, as one line, and not which options there are: the line of registry words is there
/// in every driver that has vGPUs.
fn parameters(asked: &Asked<'_>) -> Said {
    const REGISTRY: &str = crate::host::vgpu_scheduler::WORDS;
    let line = asked.method(|managers, session| match managers.options(session, "nvidia") {
        Err(fault) if fault.kind == "NotFound" => Ok(None),
        other => other.map(Some),
    })?;
    let line = line.ok_or("there is no module `nvidia` on this host")?;
    let mut all: Vec<(String, String)> = line
        .split_whitespace()
        .filter_map(|option| option.split_once('='))
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    if !all.iter().any(|(name, _)| name == REGISTRY) {
        all.push((REGISTRY.into(), String::new()));
    }
    Ok(records(
        all.iter().map(|(name, value)| fields(&[("Name", name), ("Type", "string"), ("Value", value)])),
    ))
}

fn vim_cmd(asked: &Asked<'_>, words: &[&str]) -> Said {
    match words {
        ["vmsvc/getallvms"] => listing(vms(&*asked.details()?)?),
        ["vmsvc/power.getstate", id] => {
            let details = asked.details()?;
            let state = power(vm(&details, id)?)?;
            Ok(format!("Retrieved runtime info\n{state}\n"))
        }
        ["vmsvc/snapshot.get", id] => {
            let details = asked.details()?;
            let count = vm(&details, id)?.snapshots;
            Ok(format!("Get Snapshot:\n{}", "--Snapshot Name        : (by the API)\n".repeat(count)))
        }
        ["hostsvc/hostsummary"] => {
            let details = asked.details()?;
            let number = |n: Option<u32>| n.map_or("<unset>".into(), |n| n.to_string());
            let flag = |on: Option<bool>| on.map_or("<unset>".into(), |on| on.to_string());
            let boot = match &details.boot_time {
                Some(time) => format!("\"{}\"", time.replace(['"', '\''], "")),
                None => "<unset>".into(),
            };
            Ok(format!(
                "Listsummary:\n\n(vim.host.Summary) {{\n   hardware = (vim.host.Summary.HardwareSummary) {{\n      cpuMhz = {},\n      numCpuCores = {}\n   }},\n   runtime = (vim.host.RuntimeInfo) {{\n      inMaintenanceMode = {},\n      bootTime = {boot}\n   }},\n   rebootRequired = {}\n}}\n",
                number(details.cpu_mhz),
                number(details.cores),
                flag(details.in_maintenance),
                flag(details.reboot_required)
            ))
        }
        _ => Err(none(&format!("vim-cmd {}", words.first().unwrap_or(&"")))),
    }
}

/// A VM's number: that of its object, as hostd counts on a host that stands alone.
pub(super) fn number(vm: &Vm) -> Option<u32> {
    let digits = vm.of.id.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.parse().ok()
}

fn vm<'a>(details: &'a HostDetails, id: &str) -> Result<&'a Vm, String> {
    let id: u32 = id.parse().map_err(|_| none("that VM"))?;
    vms(details)?
        .iter()
        .find(|vm| number(vm) == Some(id))
        .ok_or_else(|| "this VM is not on the host any more: it was moved or unregistered".into())
}

/// A VM's power in vim-cmd's words. What may not be read is not off.
fn power(vm: &Vm) -> Result<&'static str, String> {
    match vm.power.as_str() {
        "poweredOn" => Ok("Powered on"),
        "poweredOff" => Ok("Powered off"),
        "suspended" => Ok("Suspended"),
        _ => Err(format!(
            "the account may not read whether {} runs: give it Read-only there, with \"Propagate to children\"",
            if vm.name.is_empty() { vm.of.id.as_str() } else { vm.name.as_str() }
        )),
    }
}

/// Columns are padded: whatever stands in a name, each row begins where the heading says.
fn listing(vms: &[Vm]) -> Said {
    let mut rows = vec![["Vmid", "Name", "File", "Guest OS", "Version", "Annotation"].map(String::from)];
    let mut invalid = String::new();
    for vm in vms {
        let Some(id) = number(vm) else { continue };
        let readable = !["invalid", "orphaned", "inaccessible"].contains(&vm.connection.as_str());
        match vm.file.as_ref().filter(|_| readable && vm.memory_mib.is_some()) {
            Some(file) => rows.push([
                id.to_string(),
                vm.name.clone(),
                file.clone(),
                vm.guest.clone().unwrap_or_else(|| "otherGuest".into()),
                vm.version.clone().unwrap_or_else(|| "vmx-0".into()),
                String::new(),
            ]),
            None => {
                let _ = writeln!(invalid, "Skipping invalid VM '{id}'");
            }
        }
    }
    let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("   ").trim_end().to_string() + "\n"
    };
    Ok(invalid + &rows.iter().map(line).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsgpu_core::readers::vim_cmd;
    use vsgpu_vsphere::Ref;

    #[test]
    fn functions_are_numbered_as_vmkernel_does() {
        assert_eq!(as_vmkernel("0000:3b:00.0".parse().unwrap()).as_deref(), Some("PCI 0:59:0:0"));
    }

    #[test]
    fn vms_are_listed_as_hostd_lists_them() {
        let vm = |id: &str, name: &str, connection: &str| Vm {
            of: Ref { kind: "VirtualMachine".into(), id: id.into() },
            name: name.into(),
            file: Some(format!("[ds 1] {name}/{name}.vmx")),
            power: "poweredOn".into(),
            connection: connection.into(),
            change_version: None,
            version: Some("vmx-21".into()),
            guest: Some("ubuntu64Guest".into()),
            firmware: None,
            cpus: None,
            memory_mib: Some(4096),
            memory_locked: None,
            memory_reserved: None,
            cpu_reserved: None,
            nested: None,
            devices: vec![],
            extra: vec![],
            snapshots: 0,
            disks: vec![],
            fixed_macs: 0,
        };
        let all = [
            vm("vm-1042", "größe [old]", "connected"),
            vm("vm-7", "lost", "inaccessible"),
            vm("12", "x  9 y (2)", "connected"),
        ];
        let text = listing(&all).unwrap();
        let read = vim_cmd::all_vms(&text).unwrap();
        assert_eq!(vim_cmd::invalid_vms(&text), [7]);
        assert_eq!(
            read.iter().map(|vm| (vm.vmid, vm.datastore.as_str())).collect::<Vec<_>>(),
            [(1042, "ds 1"), (12, "ds 1")],
            "{text}"
        );
        assert_eq!(read[0].name, "größe [old]");
    }
}
