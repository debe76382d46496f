//! What the API says of hosts: release, boots, GPUs on the bus and who owns them, graphics settings, VMs. Many hosts with
//! few calls. What may not be read is missing with the server's own reason, while the rest is there.

use crate::fault::Fault;
use crate::properties::Object;
use crate::session::Session;
use crate::soap::Ref;
use crate::vm::{Vm, vms};
use std::collections::BTreeMap;
use vsgpu_core::readers::xml::Element;
use vsgpu_core::text::piece;

/// Hosts of one call: the buses of some have a thousand devices, each of a dozen elements.
const AT_ONCE: usize = 10;
/// Hosts whose VMs are read together.
const WITH_VMS: usize = 50;
/// PCI vendor id of NVIDIA: a signed number of 16 bits, which is the same below 0x8000.
const NVIDIA: i32 = 0x10de;

const HARDWARE: &str = "hardware.pciDevice";
const GRAPHICS: [&str; 3] = ["graphicsConfig", "graphicsInfo", "sharedGpuCapabilities"];
const PASSTHROUGH: &str = "pciPassthruInfo";

/// Leaves of a host.
const PATHS: [&str; 14] = [
    "vm",
    "parent",
    "runtime.connectionState",
    "runtime.inMaintenanceMode",
    "runtime.bootTime",
    "summary.rebootRequired",
    "config.product",
    "config.lockdownMode",
    "hardware.cpuInfo.numCpuCores",
    "summary.hardware.cpuMhz",
    "hardware.numaInfo",
    HARDWARE,
    "configManager.graphicsManager",
    "configManager.pciPassthruSystem",
];

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDetails {
    /// Its object.
    pub of: Ref,
    /// Its cluster, or what stands for one where it is alone.
    pub parent: Option<Ref>,
    /// `connected`, `disconnected`, `notResponding`; what is said of one that is not connected is old.
    pub connection: String,
    /// In maintenance mode.
    pub in_maintenance: Option<bool>,
    /// `2026-11-01T10:00:00.123456Z`.
    pub boot_time: Option<String>,
    /// Whether something waits for a reboot.
    pub reboot_required: Option<bool>,
    /// `VMware ESXi`, `8.0.3`, `24022510`.
    pub product: Option<(String, String, String)>,
    /// `lockdownDisabled`, `lockdownNormal`, `lockdownStrict`.
    pub lockdown: Option<String>,
    /// Speed of a core, MHz.
    pub cpu_mhz: Option<u32>,
    /// Cores.
    pub cores: Option<u32>,
    /// NUMA nodes of PCI devices, by the device's address, where this release says so.
    pub numa: BTreeMap<String, u32>,
    /// NVIDIA's functions on its bus.
    pub devices: Result<Vec<PciDevice>, Fault>,
    /// Passthrough of those.
    pub passthrough: Result<Vec<Passthrough>, Fault>,
    /// Graphics settings; none where the release has none.
    pub graphics: Result<Option<Graphics>, Fault>,
    /// GPUs that its graphics system holds.
    pub gpus: Vec<GraphicsGpu>,
    /// vGPU profiles that it offers, and whether a VM that has one can move while it runs.
    pub profiles: BTreeMap<String, bool>,
    /// Its VMs.
    pub vms: Result<Vec<Vm>, Fault>,
}

/// One function on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciDevice {
    /// `0000:3b:00.0`
    pub address: String,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Subsystem's vendor id.
    pub sub_vendor: u16,
    /// Subsystem id.
    pub sub_device: u16,
    /// Class; display controllers are 0x03xx.
    pub class: u16,
    /// `GA100 [A100 PCIe 40GB]`
    pub name: String,
    /// `NVIDIA Corporation`
    pub vendor_name: String,
    /// Name and version of the driver that holds it (9.1).
    pub driver: Option<(String, String)>,
}

/// Passthrough of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passthrough {
    /// Its address.
    pub address: String,
    /// The function that goes with it; empty where none does.
    pub dependent: String,
    /// Configured.
    pub enabled: bool,
    /// Active.
    pub active: bool,
    /// Possible.
    pub capable: bool,
    /// `host`, `directPath`, `enhancedDirectPath`, `vGpuSameSize`, .. (9.1).
    pub mode: Option<String>,
}

/// Graphics settings of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graphics {
    /// `shared` or `sharedDirect`.
    pub default_type: String,
    /// `performance` or `consolidation`.
    pub policy: String,
    /// Types of single GPUs, with the vGPU mode where it is said, by address.
    pub own: BTreeMap<String, (String, Option<String>)>,
}

/// A GPU that the graphics system holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphicsGpu {
    /// Its address.
    pub address: String,
    /// `NVIDIA A100-PCIE-40GB`
    pub name: String,
    /// `NVIDIA Corporation`
    pub vendor: String,
    /// Active: `basic`, `shared`, `direct`, `sharedDirect`.
    pub graphics_type: String,
    /// Active: `sameSize`, `mixedSize`, `multiInstanceGpu`, `none`.
    pub vgpu_mode: Option<String>,
    /// KiB.
    pub memory_kib: Option<u64>,
    /// VMs on it.
    pub vms: usize,
}

/// Reads hosts with their VMs; one that is gone is not among them. `wanted`: as for [`vms`].
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn details(
    session: &mut Session,
    hosts: &[Ref],
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Vec<HostDetails>, Fault> {
    let mut found = Vec::with_capacity(hosts.len());
    for part in hosts.chunks(AT_ONCE) {
        let objects = session.of_some(part, &PATHS, AT_ONCE)?;
        let graphics = of_managers(session, &objects, "configManager.graphicsManager", &GRAPHICS)?;
        let passthrough = of_managers(session, &objects, "configManager.pciPassthruSystem", &[PASSTHROUGH])?;
        found.extend(objects.into_iter().map(|host| {
            let of = |all: &BTreeMap<Ref, Object>| all.get(&host.of).cloned();
            let vms = Waits(host.references("vm"));
            (read(&host, of(&graphics).as_ref(), of(&passthrough).as_ref()), vms)
        }));
    }
    let mut hosts = Vec::with_capacity(found.len());
    while !found.is_empty() {
        let part: Vec<(HostDetails, Waits)> = found.drain(..WITH_VMS.min(found.len())).collect();
        let all: Vec<Ref> = part.iter().flat_map(|(_, Waits(vms))| vms.clone()).collect();
        let read: BTreeMap<Ref, Vm> =
            vms(session, &all, wanted)?.into_iter().map(|vm| (vm.of.clone(), vm)).collect();
        for (mut host, Waits(vms)) in part {
            if let Ok(into) = &mut host.vms {
                into.extend(vms.iter().filter_map(|vm| read.get(vm).cloned()));
            }
            hosts.push(host);
        }
    }
    Ok(hosts)
}

/// VMs that are still to be read.
struct Waits(Vec<Ref>);

/// Properties of one manager of each host, by host. A manager that cannot be asked is answered by the host's own
/// `config`, which has the same.
fn of_managers(
    session: &mut Session,
    hosts: &[Object],
    place: &str,
    paths: &[&str],
) -> Result<BTreeMap<Ref, Object>, Fault> {
    let by_manager: BTreeMap<Ref, Ref> =
        hosts.iter().filter_map(|host| Some((host.reference(place)?, host.of.clone()))).collect();
    let managers: Vec<Ref> = by_manager.keys().cloned().collect();
    let asked = match session.of_some(&managers, paths, AT_ONCE) {
        // The last one is younger than the rest (6.7).
        Err(fault) if fault.kind == "InvalidProperty" && paths.len() > 1 => {
            session.of_some(&managers, &paths[..paths.len() - 1], AT_ONCE)
        }
        other => other,
    };
    match asked {
        Ok(objects) => Ok(objects
            .into_iter()
            .filter_map(|object| Some((by_manager.get(&object.of)?.clone(), object)))
            .collect()),
        Err(fault) if ["ManagedObjectNotFound", "InvalidProperty"].contains(&fault.kind.as_str()) => {
            let of_host: Vec<String> = paths.iter().map(|path| format!("config.{path}")).collect();
            let of_host: Vec<&str> = of_host.iter().map(String::as_str).collect();
            let hosts: Vec<Ref> = by_manager.into_values().collect();
            let plain = |mut object: Object| {
                let plain = |path: String| path.trim_start_matches("config.").to_string();
                object.values = object.values.into_iter().map(|(path, of)| (plain(path), of)).collect();
                object.missing = object.missing.into_iter().map(|(path, of)| (plain(path), of)).collect();
                (object.of.clone(), object)
            };
            Ok(session.of_some(&hosts, &of_host, AT_ONCE)?.into_iter().map(plain).collect())
        }
        Err(fault) => Err(fault),
    }
}

fn text(of: &Element, name: &str) -> String {
    of.child(name).map(|child| piece(&child.text, 200)).unwrap_or_default()
}

fn children<'a>(of: Option<&'a Object>, path: &str) -> &'a [Element] {
    of.and_then(|of| of.values.get(path)).map(|value| value.children.as_slice()).unwrap_or_default()
}

/// A list, or why it may not be read.
fn list<T>(of: Option<&Object>, path: &str, one: impl Fn(&Element) -> Option<T>) -> Result<Vec<T>, Fault> {
    match of.and_then(|of| of.missing.get(path)) {
        Some(fault) => Err(fault.clone()),
        None => Ok(children(of, path).iter().filter_map(one).collect()),
    }
}

fn read(host: &Object, graphics: Option<&Object>, passthrough: Option<&Object>) -> HostDetails {
    let word = |path: &str| host.text(path).map(|text| piece(text, 100)).filter(|text| !text.is_empty());
    let flag = |path: &str| host.text(path).map(|text| text == "true");
    let number = |path: &str| host.text(path).and_then(|text| text.parse().ok());
    let product = host.values.get("config.product");
    let devices = list(Some(host), HARDWARE, pci_device);
    let of_nvidia = |address: &str| {
        devices.as_ref().map_or(true, |all| all.iter().any(|device| device.address == address))
    };
    // A manager whose name may not be read says nothing; that is not "nothing is given away".
    let unread = |place: &str| host.missing.get(place).cloned();
    let mut given = match unread("configManager.pciPassthruSystem") {
        Some(fault) => Err(fault),
        None => list(passthrough, PASSTHROUGH, passthrough_of),
    };
    if let Ok(all) = &mut given {
        all.retain(|of| of_nvidia(&of.address));
    }
    let of_graphics = |path: &str| graphics.and_then(|of| of.missing.get(path)).cloned();
    let lacks = unread("configManager.graphicsManager").or_else(|| of_graphics(GRAPHICS[0]));
    let settings = match lacks.or_else(|| of_graphics(GRAPHICS[1])) {
        Some(fault) => Err(fault),
        None => Ok(graphics.and_then(|of| of.values.get(GRAPHICS[0])).map(settings)),
    };
    let movable = |of: &Element| Some((text(of, "vgpu"), text(of, "migrateSupported") == "true"));
    let nodes = host.values.get("hardware.numaInfo").into_iter().flat_map(|info| info.all("numaNode"));
    let numa = nodes
        .flat_map(|node| {
            let number = text(node, "typeId").parse::<u32>().ok();
            node.all("pciId").filter_map(move |id| Some((id.text.clone(), number?)))
        })
        .filter(|(address, _)| of_nvidia(address));
    HostDetails {
        of: host.of.clone(),
        parent: host.reference("parent"),
        connection: word("runtime.connectionState").unwrap_or_default(),
        in_maintenance: flag("runtime.inMaintenanceMode"),
        boot_time: word("runtime.bootTime"),
        reboot_required: flag("summary.rebootRequired"),
        product: product.map(|of| (text(of, "name"), text(of, "version"), text(of, "build"))),
        lockdown: word("config.lockdownMode"),
        cpu_mhz: number("summary.hardware.cpuMhz"),
        cores: number("hardware.cpuInfo.numCpuCores"),
        numa: numa.collect(),
        passthrough: given,
        graphics: settings,
        gpus: children(graphics, GRAPHICS[1]).iter().map(graphics_gpu).collect(),
        profiles: children(graphics, GRAPHICS[2]).iter().filter_map(movable).collect(),
        vms: match host.missing.get("vm") {
            Some(fault) => Err(fault.clone()),
            None => Ok(vec![]),
        },
        devices,
    }
}

fn pci_device(device: &Element) -> Option<PciDevice> {
    let number = |name: &str| {
        let number = device.child(name)?.text.parse::<i32>().ok()?;
        Some((number & 0xffff) as u16)
    };
    let vendor = number("vendorId").filter(|vendor| i32::from(*vendor) == NVIDIA)?;
    Some(PciDevice {
        address: text(device, "id"),
        vendor,
        device: number("deviceId").unwrap_or_default(),
        sub_vendor: number("subVendorId").unwrap_or_default(),
        sub_device: number("subDeviceId").unwrap_or_default(),
        class: number("classId").unwrap_or_default(),
        driver: device.child("directPathInfo").and_then(|info| {
            Some((text(info, "driverName"), text(info, "driverVersion")))
                .filter(|(_, version)| !version.is_empty())
        }),
        name: text(device, "deviceName"),
        vendor_name: text(device, "vendorName"),
    })
}

fn passthrough_of(info: &Element) -> Option<Passthrough> {
    let flag = |name: &str| text(info, name) == "true";
    let state = info.child("directPathState");
    Some(Passthrough {
        mode: state.map(|state| text(state, "mode")).filter(|mode| !mode.is_empty()),
        address: text(info, "id"),
        dependent: text(info, "dependentDevice"),
        enabled: flag("passthruEnabled"),
        active: flag("passthruActive"),
        capable: flag("passthruCapable"),
    })
}

fn settings(config: &Element) -> Graphics {
    let own = |of: &Element| {
        let mode = text(of, "vgpuMode");
        (text(of, "deviceId"), (text(of, "graphicsType"), (!mode.is_empty()).then_some(mode)))
    };
    Graphics {
        default_type: text(config, "hostDefaultGraphicsType"),
        policy: text(config, "sharedPassthruAssignmentPolicy"),
        own: config.all("deviceType").map(own).collect(),
    }
}

fn graphics_gpu(info: &Element) -> GraphicsGpu {
    let mode = text(info, "vgpuMode");
    GraphicsGpu {
        address: text(info, "pciId"),
        name: text(info, "deviceName"),
        vendor: text(info, "vendorName"),
        graphics_type: text(info, "graphicsType"),
        vgpu_mode: (!mode.is_empty()).then_some(mode),
        memory_kib: text(info, "memorySizeInKB").parse().ok(),
        vms: info.all("vm").count(),
    }
}
