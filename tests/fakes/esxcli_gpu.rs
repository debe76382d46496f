//! The namespaces `graphics`, `hardware pci` and `system module parameters` of the simulated esxcli.

use super::Answer;
use super::esxcli::{Shape, options};
use super::state::{Esxi, Gpu, Machine};
use std::path::Path;

type Block = (String, Vec<(&'static str, String)>);

pub fn command(folder: &Path, words: &[&str]) -> Result<Shape, Answer> {
    let host = Machine::read(folder).esxi().clone();
    let newer = |than: &str| vsgpu_host_agent::facts::EsxVersion::at_least(&host.version, than);
    match words {
        ["graphics", "host", "get"] => {
            let fields = vec![
                ("Default Graphics Type", host.default_type.clone()),
                ("Shared Passthru Assignment Policy", host.policy.clone()),
            ];
            Ok(Shape::Block { type_name: "GraphicsHost", heading: None, fields })
        }
        ["graphics", "host", "set", rest @ ..] => {
            let found = options(
                rest,
                &[("--default-type", "-t"), ("--shared-passthru-assignment-policy", "-p")],
                &[],
            )?;
            let allowed = |name: &str| {
                if name == "--default-type" {
                    ["Shared", "SharedPassthru"]
                } else {
                    ["Performance", "Consolidation"]
                }
            };
            if let Some((name, value)) = found.iter().find(|(n, v)| !allowed(n).contains(v)) {
                return Err(Answer::fail(1, format!("Error: Invalid value for option {name}: {value}\n")));
            }
            Machine::with(folder, |m| {
                for (name, value) in found {
                    match name.as_str() {
                        "--default-type" => m.esxi().default_type = value.into(),
                        _ => m.esxi().policy = value.into(),
                    }
                }
            });
            Ok(Shape::Nothing)
        }
        ["graphics", "host", "refresh"] => Ok(Shape::Nothing),
        ["graphics", "device", "list", "--configured-type"] if newer("8.0.3") => {
            let of = |g: &Gpu| {
                if g.given_pending {
                    "Direct".into()
                } else {
                    g.own_type.clone().unwrap_or(host.default_type.clone())
                }
            };
            Ok(Shape::Blocks(host.gpus.iter().map(|g| graphics(&host, g, of(g))).collect()))
        }
        ["graphics", "device", "list"] => {
            Ok(Shape::Blocks(host.gpus.iter().map(|g| graphics(&host, g, g.graphics_type.clone())).collect()))
        }
        ["graphics", "device", "set", rest @ ..] if newer("8.0.3") => {
            let found =
                options(rest, &[("--device-id", "-d"), ("--type", "-t"), ("--vgpu-mode", "-m")], &[])?;
            let value = |name: &str| found.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
            let device = value("--device-id")
                .ok_or_else(|| Answer::fail(1, "Error: Missing required parameter -d|--device-id\n"))?;
            Machine::with(folder, |m| {
                let Some(gpu) = m.esxi().gpus.iter_mut().find(|g| g.bdf == device) else {
                    return Err(Answer::fail(1, format!("No graphics device {device} (simulated)\n")));
                };
                match value("--type") {
                    Some(t @ ("Shared" | "SharedPassthru")) => gpu.own_type = Some(t.into()),
                    Some(t) => {
                        return Err(Answer::fail(
                            1,
                            format!("Error: Invalid value for option --type: {t}\n"),
                        ));
                    }
                    None => {}
                }
                match value("--vgpu-mode") {
                    Some(mode @ ("SameSize" | "MixedSize")) => gpu.mixed_pending = mode == "MixedSize",
                    Some(mode) => {
                        return Err(Answer::fail(
                            1,
                            format!("Error: Invalid value for option --vgpu-mode: {mode}\n"),
                        ));
                    }
                    None => {}
                }
                Ok(Shape::Nothing)
            })
        }
        ["hardware", "pci", "list"] => {
            Ok(Shape::Blocks(host.gpus.iter().flat_map(|g| functions(&host, g)).collect()))
        }
        ["hardware", "pci", "pcipassthru", "list"] => {
            let row = |g: &Gpu| {
                let own = vec![g.bdf.clone(), g.given_pending.to_string()];
                let virtual_functions = virtual_functions(&host, g);
                [own].into_iter().chain(virtual_functions.into_iter().map(|(at, _)| vec![at, "false".into()]))
            };
            Ok(Shape::Table {
                type_name: "PciPassthru",
                columns: vec!["Device ID", "Enabled"],
                rows: host.gpus.iter().flat_map(row).collect(),
            })
        }
        ["hardware", "pci", "pcipassthru", "set", rest @ ..] => {
            let found = options(rest, &[("--device-id", "-d"), ("--enable", "-e")], &["--apply-now", "-a"])?;
            let value = |name: &str| found.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
            let now = found.iter().any(|(n, _)| n == "--apply-now" || n == "-a");
            if now && !newer("7.0") {
                return Err(Answer::fail(1, "Error: Invalid option -a\n"));
            }
            let (Some(device), Some(enable)) = (value("--device-id"), value("--enable")) else {
                return Err(Answer::fail(
                    1,
                    "Error: Missing required parameter -d|--device-id or -e|--enable\n",
                ));
            };
            give(folder, device, matches!(enable, "true" | "on"), now)
        }
        ["system", "module", "parameters", "list", "-m", "nvidia"] => {
            if host.loaded.is_none() {
                return Err(Answer::fail(
                    1,
                    "Unable to get module parameters: Unknown module name nvidia (simulated)\n",
                ));
            }
            let row = |(name, text): (&str, &str)| {
                vec![
                    name.into(),
                    "string".into(),
                    host.parameters.get(name).cloned().unwrap_or_default(),
                    text.into(),
                ]
            };
            let rows = [
                ("NVreg_RegistryDwords", "NVreg_RegistryDwords: (charp)"),
                ("NVreg_EnableMSI", "NVreg_EnableMSI: (int)"),
            ]
            .map(row)
            .to_vec();
            Ok(Shape::Table {
                type_name: "ModuleParameter",
                columns: vec!["Name", "Type", "Value", "Description"],
                rows,
            })
        }
        ["system", "module", "parameters", "set", rest @ ..] => {
            let found = options(rest, &[("--module", "-m"), ("--parameter-string", "-p")], &[])?;
            let line =
                found.iter().find(|(n, _)| n == "--parameter-string").map(|(_, v)| *v).unwrap_or_default();
            // The line replaces what was there, as the real one does.
            let parameters = line
                .split(' ')
                .filter_map(|word| word.split_once('='))
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect();
            Machine::with(folder, |m| m.esxi().parameters = parameters);
            Ok(Shape::Nothing)
        }
        _ => Err(Answer::fail(1, format!("Error: Unknown command or namespace {}\n\n", words.join(" ")))),
    }
}

/// Another owner for a device; at once where it may be, and the device is in no VM that runs.
fn give(folder: &Path, device: &str, enable: bool, now: bool) -> Result<Shape, Answer> {
    let words = |text: &str| Err(Answer::fail(1, format!("Unable to configure the PCI device: {text}\n")));
    let mut machine = Machine::read(folder);
    let used = super::passthrough::in_use(&mut machine, device, None);
    Machine::with(folder, |m| {
        let Some(gpu) = m.esxi().gpus.iter_mut().find(|g| g.bdf == device) else {
            return words("Device not found.");
        };
        if gpu.given_pending == enable {
            return words(if enable {
                "Device owner is already configured to passthru."
            } else {
                "Device owner is already configured to vmkernel."
            });
        }
        if gpu.not_capable {
            return words("Device is not passthrough capable. (simulated)");
        }
        if used.is_some() {
            return words("Device is in use. (simulated)");
        }
        gpu.given_pending = enable;
        gpu.asleep = gpu.asleep && (enable || !now);
        if now && gpu.applies_at_once && !gpu.stuck && !gpu.asleep {
            gpu.given = enable;
            let host = m.esxi();
            super::state::graphics_restart(host);
        }
        Ok(Shape::Nothing)
    })
}

/// VMkernel's view of a device: the first half of the GPUs on node 0, the others on node 1.
pub fn vsish(folder: &Path, words: &[&str]) -> Answer {
    let host = Machine::read(folder).esxi().clone();
    let node = |g: &Gpu| {
        let id = g.bdf.parse::<vsgpu_core::units::Bdf>().unwrap().vmx_id();
        let n: Vec<u32> = id.split([':', '.']).map(|n| n.parse().unwrap()).collect();
        format!("/hardware/pci/seg/{}/bus/{}/slot/{}/func/{}/pciConfigHeader", n[0], n[1], n[2], n[3])
    };
    match words {
        ["-e", "get", path] => match host.gpus.iter().position(|g| node(g) == *path) {
            Some(at) => Answer::ok(format!(
                "PCI Config Header {{ (simulated)\n   Numa node:{}\n}}\n",
                at * 2 / host.gpus.len().max(1)
            )),
            None => Answer::fail(
                255,
                format!("VSISHCmdGetInt():Get failed: Status (bad0003)=Not found (simulated: {path})\n"),
            ),
        },
        _ => Answer::fail(1, "vsish: simulated: only -e get NODE\n"),
    }
}

/// The VMkernel module that drives a GPU.
fn module(host: &Esxi, g: &Gpu) -> &'static str {
    match (g.given, &host.loaded) {
        (true, _) => "pciPassthru",
        (false, Some(_)) => "nvidia",
        (false, None) => "None",
    }
}

fn graphics(host: &Esxi, g: &Gpu, graphics_type: String) -> Block {
    let module = module(host, g);
    let memory = if host.loaded.is_some() && !g.given { g.memory_mib * 1024 } else { 0 };
    let running = host.vms.iter().filter(|v| v.on).count();
    let fields = vec![
        ("Vendor Name", "NVIDIA Corporation".into()),
        ("Device Name", g.device_name.clone()),
        ("Module Name", module.into()),
        ("Graphics Type", graphics_type),
        ("Memory Size in KB", memory.to_string()),
        ("Number of VMs", running.to_string()),
    ];
    (g.bdf.clone(), fields)
}

/// Address and VMkernel's name of each virtual function: from function 4 on, eight to a slot.
pub fn virtual_functions(host: &Esxi, g: &Gpu) -> Vec<(String, String)> {
    let Some((slot, _)) = g.bdf.rsplit_once(":00.").filter(|_| host.loaded.is_some() && !g.given) else {
        return vec![];
    };
    let bus = slot.rsplit(':').next().and_then(|bus| u8::from_str_radix(bus, 16).ok()).unwrap_or_default();
    let one = |n: u8| (format!("{slot}:{:02x}.{}", (n + 4) / 8, (n + 4) % 8), format!("PF_0.{bus}.0_VF_{n}"));
    (0..g.virtual_functions).map(one).collect()
}

/// The GPU, and the sound function of boards that have one.
fn functions(host: &Esxi, g: &Gpu) -> Vec<Block> {
    let owner = |given: bool| if given { "VM Passthru" } else { "VMkernel" }.to_string();
    let module = module(host, g);
    let at: vsgpu_core::units::Bdf = g.bdf.parse().unwrap();
    let decimal = at.vmx_id().replace('.', ":");
    let dependent: Vec<u32> = decimal.split(':').map(|n| n.parse().unwrap()).collect();
    let function = |bdf: String, name: String, class: &str, id: String| {
        let fields = vec![
            ("Address", bdf.clone()),
            ("Segment", "0x0000".into()),
            ("Vendor Name", "NVIDIA Corporation".into()),
            ("Device Name", name),
            ("Configured Owner", owner(g.given_pending)),
            ("Current Owner", owner(g.given)),
            ("Vendor ID", "0x10de".into()),
            ("Device ID", id),
            ("SubVendor ID", "0x10de".into()),
            ("SubDevice ID", g.subsystem_id.clone()),
            ("Device Class", class.into()),
            ("Module Name", module.into()),
            ("Passthru Capable", (!g.not_capable).to_string()),
            (
                "Dependent Device",
                format!("PCI {}:{}:{}:{}", dependent[0], dependent[1], dependent[2], dependent[3]),
            ),
            ("Reset Method", "Bridge reset".into()),
        ];
        (bdf, fields)
    };
    let mut all = vec![function(g.bdf.clone(), g.device_name.clone(), "0x0302", g.device_id.clone())];
    for (at, name) in virtual_functions(host, g) {
        let (bdf, mut fields) = function(at, g.device_name.clone(), "0x0302", g.device_id.clone());
        fields.insert(2, ("VMkernel Name", name));
        all.push((bdf, fields));
    }
    if g.sound {
        all.push(function(
            g.bdf.replace(".0", ".1"),
            "High Definition Audio Controller".into(),
            "0x0403",
            "0x10f8".into(),
        ));
    }
    all
}
