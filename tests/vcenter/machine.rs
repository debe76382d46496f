//! A simulated ESXi host (`fakes`) as its vCenter sees it: the same state that its own tools show, in the API's types and
//! words. Numbers are signed, optional things are left out, lists repeat their element.

use crate::fakes::state::{Esxi, Gpu, Machine, Vm};
use std::path::Path;
use vsgpu_core::readers::vmx;
use vsgpu_core::units::Bdf;

/// Ids of VMs: the first host's are hostd's own numbers.
pub fn vm_id(host: usize, vmid: u32) -> String {
    format!("vm-{}", host as u32 * 1_000 + vmid)
}

fn vm_of(host: &Esxi, number: usize, id: &str) -> Option<Vm> {
    host.vms.iter().find(|vm| vm_id(number, vm.vmid) == id).cloned()
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

pub fn word(text: &str) -> String {
    format!("<val xsi:type=\"xsd:string\">{}</val>", escaped(text))
}

fn flag(on: bool) -> String {
    format!("<val xsi:type=\"xsd:boolean\">{on}</val>")
}

fn list(kind: &str, items: impl Iterator<Item = String>) -> String {
    let each = items.map(|inside| format!("<{kind}>{inside}</{kind}>"));
    format!("<val xsi:type=\"ArrayOf{kind}\">{}</val>", each.collect::<String>())
}

fn time_of(ms: u64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).unwrap();
    at.format(&time::format_description::well_known::Rfc3339).unwrap()
}

/// A 16-bit number as the API has it.
fn signed(hex: &str) -> i16 {
    u16::from_str_radix(hex.trim_start_matches("0x"), 16).unwrap() as i16
}

/// A property of the host, or of one of its managers.
pub fn host_value(folder: &Path, number: usize, path: &str) -> Option<String> {
    let mut machine = Machine::read(folder);
    let booted = machine.booted_at_ms;
    let host = machine.esxi().clone();
    let newer = vsgpu_host_agent::facts::EsxVersion::at_least(&host.version, "8.0.3");
    Some(match path {
        "configManager.graphicsManager" => reference("HostGraphicsManager", &format!("graphicsManager-{number}")),
        "configManager.pciPassthruSystem" => {
            reference("HostPciPassthruSystem", &format!("pciPassthruSystem-{number}"))
        }
        "configManager.imageConfigManager" => {
            reference("HostImageConfigManager", &format!("imageConfigManager-{number}"))
        }
        "configManager.patchManager" => reference("HostPatchManager", &format!("patchManager-{number}")),
        "configManager.serviceSystem" => reference("HostServiceSystem", &format!("serviceSystem-{number}")),
        "configManager.kernelModuleSystem" => {
            reference("HostKernelModuleSystem", &format!("kernelModuleSystem-{number}"))
        }
        "runtime.inMaintenanceMode" => flag(host.maintenance),
        "runtime.bootTime" => format!("<val xsi:type=\"xsd:dateTime\">{}</val>", time_of(booted)),
        "summary.rebootRequired" => flag(!host.staged.is_empty()),
        "config.product" => format!(
            "<val xsi:type=\"AboutInfo\"><name>VMware ESXi</name><fullName>VMware ESXi {0} (simulated)</fullName><vendor>VMware, Inc.</vendor><version>{0}</version><build>{1}</build></val>",
            host.version,
            host.build.trim_start_matches("Releasebuild-")
        ),
        "config.lockdownMode" => word("lockdownDisabled"),
        // The hardware's own, which is not the id that devices of VMs name.
        "hardware.systemInfo.uuid" => word("4c4c4544-0000-0000-0000-000000000000"),
        "hardware.cpuInfo.numCpuCores" => "<val xsi:type=\"xsd:short\">8</val>".into(),
        "summary.hardware.cpuMhz" => "<val xsi:type=\"xsd:int\">1996</val>".into(),
        "hardware.numaInfo" => {
            let node = |n: usize| {
                let on = |at: usize| at * 2 / host.gpus.len().max(1) == n;
                let ids = host.gpus.iter().enumerate().filter(|(at, _)| on(*at));
                let ids: String = ids.map(|(_, gpu)| format!("<pciId>{}</pciId>", gpu.bdf)).collect();
                format!("<numaNode><typeId>{n}</typeId><cpuID>{n}</cpuID>{ids}</numaNode>")
            };
            format!("<val xsi:type=\"HostNumaInfo\"><type>NUMA</type><numNodes>2</numNodes>{}{}</val>", node(0), node(1))
        }
        "hardware.pciDevice" => list("HostPciDevice", host.gpus.iter().flat_map(|gpu| functions(&host, gpu))),
        "pciPassthruInfo" => list(
            "HostPciPassthruInfo",
            host.gpus.iter().flat_map(|gpu| {
                let virtual_ones = crate::fakes::esxcli_gpu::virtual_functions(&host, gpu);
                let virtual_ones = virtual_ones.into_iter().map(|(at, _)| {
                    format!("<id>{at}</id><dependentDevice></dependentDevice><passthruEnabled>false</passthruEnabled><passthruCapable>true</passthruCapable><passthruActive>false</passthruActive>")
                });
                let of = |at: &String| {
                    format!(
                        "<id>{at}</id><dependentDevice>{}</dependentDevice><passthruEnabled>{}</passthruEnabled><passthruCapable>{}</passthruCapable><passthruActive>{}</passthruActive>",
                        gpu.bdf, gpu.given_pending, !gpu.not_capable, gpu.given
                    )
                };
                addresses(gpu).iter().map(of).chain(virtual_ones).collect::<Vec<_>>()
            }),
        ),
        "graphicsConfig" => {
            // A GPU has an entry once something of its own was set.
            let own = |gpu: &Gpu| {
                let kind = gpu.own_type.as_ref().or(gpu.mixed_pending.then_some(&host.default_type))?;
                let mode = if gpu.mixed_pending { "mixedSize" } else { "sameSize" };
                let mode = if newer { format!("<vgpuMode>{mode}</vgpuMode>") } else { String::new() };
                Some(format!(
                    "<deviceType><deviceId>{}</deviceId><graphicsType>{}</graphicsType>{mode}</deviceType>",
                    gpu.bdf,
                    graphics_type(kind)
                ))
            };
            format!(
                "<val xsi:type=\"HostGraphicsConfig\"><hostDefaultGraphicsType>{}</hostDefaultGraphicsType><sharedPassthruAssignmentPolicy>{}</sharedPassthruAssignmentPolicy>{}</val>",
                graphics_type(&host.default_type),
                host.policy.to_lowercase(),
                host.gpus.iter().filter_map(own).collect::<String>()
            )
        }
        "graphicsInfo" => list(
            "HostGraphicsInfo",
            host.gpus.iter().map(|gpu| {
                let memory = if host.loaded.is_some() && !gpu.given { gpu.memory_mib * 1024 } else { 0 };
                let running = host.vms.iter().filter(|vm| vm.on);
                let vms = running.map(|vm| format!("<vm type=\"VirtualMachine\">{}</vm>", vm_id(number, vm.vmid)));
                let mode = if gpu.mixed { "mixedSize" } else { "sameSize" };
                let mode = if newer { format!("<vgpuMode>{mode}</vgpuMode>") } else { String::new() };
                format!(
                    "<deviceName>{}</deviceName><vendorName>NVIDIA Corporation</vendorName><pciId>{}</pciId><graphicsType>{}</graphicsType>{mode}<memorySizeInKB>{memory}</memorySizeInKB>{}",
                    escaped(&gpu.device_name),
                    gpu.bdf,
                    graphics_type(&gpu.graphics_type),
                    vms.collect::<String>()
                )
            }),
        ),
        // Of a driver that runs.
        "sharedGpuCapabilities" if host.loaded.is_some() => list(
            "HostSharedGpuCapabilities",
            ["grid_a100-10c", "grid_a100-40c"].into_iter().map(|vgpu| {
                format!("<vgpu>{vgpu}</vgpu><diskSnapshotSupported>true</diskSnapshotSupported><memorySnapshotSupported>true</memorySnapshotSupported><suspendSupported>true</suspendSupported><migrateSupported>true</migrateSupported>")
            }),
        ),
        "vm" => list_of_references(host.vms.iter().map(|vm| vm_id(number, vm.vmid))),
        _ => return None,
    })
}

/// What 9.1 says beside it: who drives a device, and how it is used.
pub fn of_9_1(folder: &Path, value: &str) -> String {
    let loaded = Machine::read(folder).esxi().loaded.clone();
    let driver = loaded.map(|version| {
        format!("<directPathInfo><interconnectType>PCIE</interconnectType><driverName>nvidia</driverName><driverVersion>{version}</driverVersion><availableMemory>40960</availableMemory></directPathInfo>")
    });
    let mode = |mode: &str| {
        format!(
            "<directPathState><mode>{mode}</mode><configurableModes>directPath</configurableModes><configurableModes>vGpuSameSize</configurableModes></directPathState>"
        )
    };
    let end = "</HostPciPassthruInfo>";
    value
        .replace("</HostPciDevice>", &format!("{}</HostPciDevice>", driver.unwrap_or_default()))
        .replace(
            &format!("<passthruActive>true</passthruActive>{end}"),
            &format!("<passthruActive>true</passthruActive>{}{end}", mode("directPath")),
        )
        .replace(
            &format!("<passthruActive>false</passthruActive>{end}"),
            &format!("<passthruActive>false</passthruActive>{}{end}", mode("vGpuSameSize")),
        )
}

fn reference(kind: &str, id: &str) -> String {
    format!("<val xsi:type=\"ManagedObjectReference\" type=\"{kind}\">{id}</val>")
}

fn list_of_references(ids: impl Iterator<Item = String>) -> String {
    let each = ids
        .map(|id| format!("<ManagedObjectReference type=\"VirtualMachine\">{id}</ManagedObjectReference>"));
    format!("<val xsi:type=\"ArrayOfManagedObjectReference\">{}</val>", each.collect::<String>())
}

/// esxcli's words and the API's.
fn graphics_type(word: &str) -> &'static str {
    match word {
        "Shared" => "shared",
        "SharedPassthru" => "sharedDirect",
        "Direct" => "direct",
        _ => "basic",
    }
}

/// The GPU's functions: that of its sound with it.
fn addresses(gpu: &Gpu) -> Vec<String> {
    let sound = gpu.sound.then(|| gpu.bdf.replace(".0", ".1"));
    std::iter::once(gpu.bdf.clone()).chain(sound).collect()
}

fn functions(host: &Esxi, gpu: &Gpu) -> Vec<String> {
    let function = |at: &String, class: u16, device: &str, name: &str| {
        format!(
            "<id>{at}</id><classId>{class}</classId><vendorId>4318</vendorId><subVendorId>4318</subVendorId><vendorName>NVIDIA Corporation</vendorName><deviceId>{}</deviceId><subDeviceId>{}</subDeviceId><deviceName>{}</deviceName>",
            signed(device),
            signed(&gpu.subsystem_id),
            escaped(name)
        )
    };
    let all = addresses(gpu);
    let mut found = vec![function(&all[0], 0x0302, &gpu.device_id, &gpu.device_name)];
    let virtual_ones = crate::fakes::esxcli_gpu::virtual_functions(host, gpu);
    found.extend(virtual_ones.iter().map(|(at, _)| function(at, 0x0302, &gpu.device_id, &gpu.device_name)));
    found.extend(all.get(1).map(|at| function(at, 0x0403, "0x10f8", "High Definition Audio Controller")));
    found
}

/// A property of a VM of the host.
pub fn vm_value(folder: &Path, number: usize, id: &str, path: &str) -> Option<String> {
    let mut machine = Machine::read(folder);
    let vm = vm_of(machine.esxi(), number, id)?;
    let file = machine.text(&format!("/vmfs/volumes/{}/{}", vm.datastore, vm.file)).unwrap_or_default();
    let keys = vmx::read(file.as_bytes());
    let of = |key: &str| keys.get(key).cloned();
    let reserved = |mib: String| {
        format!(
            "<val xsi:type=\"ResourceAllocationInfo\"><reservation>{mib}</reservation><limit>-1</limit></val>"
        )
    };
    Some(match path {
        "name" => word(&vm.name),
        "runtime.powerState" => word(if vm.on { "poweredOn" } else { "poweredOff" }),
        "runtime.connectionState" => word("connected"),
        "config.changeVersion" => word(&change_version(&file)),
        "config.files.vmPathName" => word(&format!("[{}] {}", vm.datastore, vm.file)),
        "config.version" => word(&format!("vmx-{}", of("virtualhw.version").unwrap_or_else(|| "19".into()))),
        "config.guestId" => word("debian11_64Guest"),
        "config.firmware" => word(&of("firmware").unwrap_or_else(|| "bios".into())),
        "config.hardware.numCPU" => number_of("int", &of("numvcpus").unwrap_or_else(|| "1".into())),
        "config.hardware.memoryMB" => number_of("int", &of("memsize")?),
        "config.hardware.device" => devices(&keys),
        "config.extraConfig" => extra(&file),
        "config.memoryReservationLockedToMax" => {
            flag(of("sched.mem.pin").is_some_and(|on| on.eq_ignore_ascii_case("true")))
        }
        "config.memoryAllocation" => reserved(of("sched.mem.min").unwrap_or_else(|| "0".into())),
        "config.cpuAllocation" => reserved(of("sched.cpu.min").unwrap_or_else(|| "0".into())),
        "config.nestedHVEnabled" => flag(of("vhv.enable").is_some_and(|on| on.eq_ignore_ascii_case("true"))),
        "snapshot" if vm.snapshots > 0 => {
            let each = "<rootSnapshotList><name>s</name></rootSnapshotList>".repeat(vm.snapshots as usize);
            format!("<val xsi:type=\"VirtualMachineSnapshotInfo\">{each}</val>")
        }
        _ => return None,
    })
}

fn number_of(kind: &str, text: &str) -> String {
    format!("<val xsi:type=\"xsd:{kind}\">{text}</val>")
}

/// Somebody else changes a VM.
pub fn somebody_else(folder: &Path, number: usize, id: &str) {
    Machine::with(folder, |m| {
        let vm = vm_of(m.esxi(), number, id).unwrap();
        let path = format!("/vmfs/volumes/{}/{}", vm.datastore, vm.file);
        let text = m.text(&path).unwrap() + "somebody.else = \"1\"\n";
        m.write(&path, &text);
    });
}

/// Another one whenever the settings are others.
pub fn change_version(file: &str) -> String {
    use sha2::Digest as _;
    let sum = sha2::Sha256::digest(file.as_bytes());
    sum.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Keys that have a type of their own, so that they are none of the further settings.
fn is_typed(key: &str) -> bool {
    let slot = |key: &str| {
        let rest = key.strip_prefix("pcipassthru")?;
        let (number, of) = rest.split_once('.')?;
        number.parse::<u32>().ok()?;
        ["present", "virtualdev", "vgpu", "id", "deviceid", "vendorid", "systemid", "alloweddevices"]
            .contains(&of)
            .then_some(())
    };
    ["memsize", "numvcpus", "firmware", "virtualhw.version", "displayname", "vhv.enable"].contains(&key)
        || key.starts_with("sched.")
        || slot(key).is_some()
}

fn extra(file: &str) -> String {
    // As they are spelled.
    let pair = |line: &str| {
        let (key, value) = line.split_once(" = ")?;
        (!is_typed(&key.to_lowercase()))
            .then(|| (key.to_string(), value.trim().trim_matches('"').to_string()))
    };
    list(
        "OptionValue",
        file.lines().filter_map(pair).map(|(key, value)| {
            format!("<key>{key}</key><value xsi:type=\"xsd:string\">{}</value>", escaped(&value))
        }),
    )
}

fn devices(keys: &std::collections::BTreeMap<String, String>) -> String {
    let disk = |(at, file): (usize, &String)| {
        // Relative to the VM's folder, or with its datastore.
        let path = file.strip_prefix("/vmfs/volumes/").and_then(|rest| rest.split_once('/'));
        let path =
            path.map_or(format!("[of its folder] {file}"), |(store, file)| format!("[{store}] {file}"));
        format!(
            "<VirtualDevice xsi:type=\"VirtualDisk\"><key>{}</key><backing xsi:type=\"VirtualDiskFlatVer2BackingInfo\"><fileName>{}</fileName></backing></VirtualDevice>",
            2_000 + at,
            escaped(&path)
        )
    };
    let disks = keys.iter().filter(|(key, file)| key.ends_with(".filename") && file.ends_with(".vmdk"));
    let mut all: String = disks.map(|(_, file)| file).enumerate().map(disk).collect();
    for n in 0..64 {
        let of = |key: &str| keys.get(&format!("pcipassthru{n}.{key}"));
        if of("present").is_none_or(|on| !on.eq_ignore_ascii_case("true")) {
            continue;
        }
        let backing = if let Some(profile) = of("vgpu") {
            format!(
                "<backing xsi:type=\"VirtualPCIPassthroughVmiopBackingInfo\"><vgpu>{profile}</vgpu></backing>"
            )
        } else if let Some(at) = of("id").and_then(|id| Bdf::from_vmx_id(id)) {
            let text = |key: &str| of(key).cloned().unwrap_or_default();
            format!(
                "<backing xsi:type=\"VirtualPCIPassthroughDeviceBackingInfo\"><deviceName>x</deviceName><id>{at}</id><deviceId>{}</deviceId><systemId>{}</systemId><vendorId>{}</vendorId></backing>",
                text("deviceid").trim_start_matches("0x"),
                text("systemid"),
                signed(&text("vendorid"))
            )
        } else if let Some(allowed) = of("alloweddevices") {
            let one = |ids: &str| {
                let (vendor, device) = ids.split_once(':').unwrap();
                format!(
                    "<allowedDevice><vendorId>{}</vendorId><deviceId>{}</deviceId></allowedDevice>",
                    signed(vendor),
                    u16::from_str_radix(device.trim_start_matches("0x"), 16).unwrap()
                )
            };
            format!(
                "<backing xsi:type=\"VirtualPCIPassthroughDynamicBackingInfo\"><deviceName></deviceName>{}</backing>",
                allowed.split(',').map(one).collect::<String>()
            )
        } else {
            String::new()
        };
        all += &format!(
            "<VirtualDevice xsi:type=\"VirtualPCIPassthrough\"><key>{}</key>{backing}</VirtualDevice>",
            13_000 + n
        );
    }
    format!("<val xsi:type=\"ArrayOfVirtualDevice\">{all}</val>")
}

/// What a method of the host or of a manager returns: its elements `returnval`, or a fault's type and words.
pub fn method(
    folder: &Path,
    name: &str,
    argument: &dyn Fn(&str) -> String,
) -> Option<Result<String, (&'static str, String)>> {
    let mut machine = Machine::read(folder);
    let (booted, log) = (machine.booted_at_ms, machine.text("/var/log/vmkernel.log").unwrap_or_default());
    let host = machine.esxi().clone();
    let one = |text: String| Some(Ok(format!("<returnval>{text}</returnval>")));
    match name {
        "RetrieveHardwareUptime" => one(((crate::fakes::state::now_ms() - booted) / 1000).to_string()),
        "HostImageConfigGetAcceptance" => one(match host.acceptance.as_str() {
            "CommunitySupported" => "community",
            "PartnerSupported" => "partner",
            "VMwareAccepted" => "vmware_accepted",
            _ => "vmware_certified",
        }
        .into()),
        "HostImageConfigGetProfile" => {
            one(format!("<name>{}</name><vendor>VMware, Inc.</vendor>", escaped(&host.profile)))
        }
        "fetchSoftwarePackages" => {
            let package = |vib: &crate::fakes::state::Vib| {
                format!(
                    "<returnval><name>{}</name><version>{}</version><type>bootbank</type><vendor>{}</vendor><acceptanceLevel>vmware_accepted</acceptanceLevel></returnval>",
                    vib.name, vib.version, vib.vendor
                )
            };
            Some(Ok(host.vibs.iter().map(package).collect()))
        }
        "QueryConfigTarget" => {
            let of = |gpu: &Gpu| {
                format!(
                    "<pciPassthrough><pciDevice><id>{}</id></pciDevice><systemId>{}</systemId></pciPassthrough>",
                    gpu.bdf, host.uuid
                )
            };
            one(host.gpus.iter().map(of).collect())
        }
        "QueryModules" => {
            let module = |name: &str, loaded: bool| {
                format!(
                    "<returnval><id>1</id><name>{name}</name><version>x</version><filename>{name}</filename><optionString></optionString><loaded>{loaded}</loaded><enabled>true</enabled><useCount>3</useCount></returnval>"
                )
            };
            Some(Ok(module("vmkernel", true) + &module("nvidia", host.loaded.is_some())))
        }
        "QueryConfiguredModuleOptionString" => match (argument("name").as_str(), &host.loaded) {
            ("nvidia", Some(_)) => {
                let options: Vec<String> = host.parameters.iter().map(|(k, v)| format!("{k}={v}")).collect();
                one(escaped(&options.join(" ")))
            }
            _ => Some(Err(("NotFound", "The object or item referred to could not be found.".into()))),
        },
        "BrowseDiagnosticLog" => {
            if argument("key") != "vmkernel" {
                return Some(Err(("CannotAccessFile", "no such log (simulated)".into())));
            }
            let number = |name: &str| argument(name).parse::<usize>().unwrap_or(1).max(1);
            let lines: Vec<&str> = log.lines().collect();
            let shown = lines.iter().skip(number("start") - 1).take(number("lines"));
            let shown: String = shown.map(|line| format!("<lineText>{}</lineText>", escaped(line))).collect();
            one(format!("<lineStart>1</lineStart><lineEnd>{}</lineEnd>{shown}", lines.len()))
        }
        _ => None,
    }
}
