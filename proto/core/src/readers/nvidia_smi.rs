//! Reader of `nvidia-smi -q` (XML and text), of `nvidia-smi vgpu -q`, and of the ways nvidia-smi fails.
//! Schemas differ between releases (driver 352 to 610 seen): fields are found by name, absent and `N/A` ones
//! are `None`. Never a guess: a document that is cut off is refused, a value that is not understood is
//! absent.

use crate::effect::Command;
use crate::observation::{Observation, Unreadable};
use crate::readers::smi_tree::{Node, from_text, from_xml, usable};
use crate::system::ExitKind;
use crate::units::Bdf;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What `nvidia-smi -q` says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SmiReport {
    /// Version of the loaded kernel module.
    pub driver_version: Option<String>,
    /// Newest CUDA version that the driver serves.
    pub cuda_version: Option<String>,
    /// Every GPU the driver holds.
    pub gpus: Vec<Gpu>,
}

impl SmiReport {
    /// `driver 550.90.05, CUDA 12.4; NVIDIA A100-PCIE-40GB`.
    pub fn in_words(&self) -> String {
        let driver = self.driver_version.as_ref().map(|v| format!("driver {v}"));
        let cuda = self.cuda_version.as_ref().map(|v| format!("CUDA {v}"));
        let versions: Vec<String> = [driver, cuda].into_iter().flatten().collect();
        let mut names: Vec<(String, usize)> = vec![];
        for gpu in &self.gpus {
            let name = gpu.name.as_deref().unwrap_or("a GPU without a name");
            match names.iter_mut().find(|(known, _)| known == name) {
                Some((_, n)) => *n += 1,
                None => names.push((name.into(), 1)),
            }
        }
        let one = |(name, n): (String, usize)| if n == 1 { name } else { format!("{n} x {name}") };
        format!("{}; {}", versions.join(", "), crate::words::first(names.into_iter().map(one), 4, "no GPU"))
    }
}

/// One GPU, physical or virtual. Sizes in MiB, temperature in degrees Celsius, power in watts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Gpu {
    /// PCI address, `0000:3b:00.0`.
    pub bus_id: String,
    /// Product name; absent in partial reports.
    pub name: Option<String>,
    /// Architecture, as printed by newer releases.
    pub architecture: Option<String>,
    /// UUID. Not a key: copies and masked ones exist.
    pub uuid: Option<String>,
    /// Number of its device node, `/dev/nvidia0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minor_number: Option<u32>,
    /// `None`, `VGPU`, `Host VGPU`, `Host VSGA`, `Pass-Through`.
    pub virtualization_mode: Option<String>,
    /// MIG mode, active.
    pub mig_current: Option<bool>,
    /// MIG mode after the next reset or reboot.
    pub mig_pending: Option<bool>,
    /// ECC, active.
    pub ecc_current: Option<bool>,
    /// ECC after the next reboot.
    pub ecc_pending: Option<bool>,
    /// vGPUs of several sizes on one GPU (hosts, R550 and later).
    #[serde(default)]
    pub heterogeneous: Option<bool>,
    /// Frame buffer, whole.
    pub fb_total_mib: Option<u64>,
    /// Frame buffer, used.
    pub fb_used_mib: Option<u64>,
    /// BAR1, whole.
    pub bar1_total_mib: Option<u64>,
    /// Utilisation in percent.
    pub gpu_util_percent: Option<u32>,
    /// Temperature.
    pub temperature_c: Option<i32>,
    /// Power drawn.
    pub power_watts: Option<f64>,
    /// Memory errors since the driver was loaded, and over the GPU's life; absent where ECC is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecc_errors: Option<EccErrors>,
    /// Rows of memory that were replaced by spare ones (Ampere and later).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remapped_rows: Option<RemappedRows>,
    /// Why the clocks are held down now, where it is the hardware or the heat: `hw_slowdown`,
    /// `sw_thermal_slowdown`, ...
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slowdowns: Vec<String>,
    /// Licensed product (vGPU guests).
    pub license_product: Option<String>,
    /// The whole license status, such as `Licensed (Expiry: N/A)`.
    pub license_status: Option<String>,
}

/// Counters of memory errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EccErrors {
    /// Corrected, since the driver was loaded.
    pub corrected: u64,
    /// Not corrected, since the driver was loaded.
    pub uncorrected: u64,
    /// Not corrected, over the GPU's life.
    pub uncorrected_ever: u64,
}

/// Replaced rows of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RemappedRows {
    /// After errors that could be corrected.
    pub correctable: u64,
    /// After errors that could not.
    pub uncorrectable: u64,
    /// A row waits for the next reset of the GPU.
    pub pending: bool,
    /// No spare row was left.
    pub failed: bool,
}

/// One GPU of the host with the vGPUs on it, from `nvidia-smi vgpu -q`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VgpuHost {
    /// PCI address of the GPU.
    pub bus_id: String,
    /// Active vGPUs.
    pub vgpus: Vec<Vgpu>,
}

/// One active vGPU as the host sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Vgpu {
    /// Name of the VM.
    pub vm_name: Option<String>,
    /// vGPU type.
    pub profile: Option<String>,
    /// Driver in the guest.
    pub guest_driver: Option<String>,
    /// License state as reported by the guest.
    pub license_status: Option<String>,
    /// Utilisation in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_util_percent: Option<u32>,
    /// Frame buffer, used, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fb_used_mib: Option<u64>,
}

/// vGPU types of one GPU, from `nvidia-smi vgpu -s` or `-c`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TypesOfGpu {
    /// PCI address of the GPU.
    pub bus_id: String,
    /// Type names.
    pub names: Vec<String>,
}

/// `nvidia-smi -q -x`: the probe behind every fact that comes from the driver.
pub fn query() -> Command {
    Command::new("nvidia-smi", ["-q", "-x"])
}

/// The report among what was seen, or why there is none. nvidia-smi may fail with exit status 0, or print a
/// usable report with another one: the text decides.
///
/// # Errors
/// On a machine without a driver, which is how every journey begins.
pub fn report(seen: &Observation) -> Result<SmiReport, Unreadable> {
    let output = seen.output(&query())?;
    read(&output.stdout).map_err(|why| {
        let cause = match (&output.ended, failure(&output.both())) {
            (ExitKind::Missing, _) => "nvidia-smi is not installed".into(),
            (ExitKind::ByApi(why), _) => why.clone(),
            (ExitKind::TimedOut(_) | ExitKind::Flooded(_), _) => format!("nvidia-smi: {}", output.ended),
            (_, Some(failure)) => failure.to_string(),
            (_, None) => why,
        };
        Unreadable::of(&query(), output, cause)
    })
}

/// Whether the vSphere API answers for the machine: it has nothing of the driver, for ever.
pub fn is_by_api(seen: &Observation) -> bool {
    seen.output(&query()).is_ok_and(|output| matches!(output.ended, ExitKind::ByApi(_)))
}

/// Whether a license status means licensed. The text "Unlicensed" contains "licensed": the first word is
/// compared whole.
pub fn is_licensed(status: &str) -> bool {
    status.split([' ', '(']).next() == Some("Licensed")
}

/// Reads `nvidia-smi -q` in either form.
///
/// # Errors
/// A sentence that names what was missing.
pub fn read(text: &str) -> Result<SmiReport, String> {
    if let Some(cause) =
        failure(text).filter(|_| !text.contains("nvidia_smi_log") && !text.contains("NVSMI LOG"))
    {
        return Err(cause.to_string());
    }
    if text.contains("<nvidia_smi_log") {
        let root = from_xml(text, "<nvidia_smi_log")?;
        if root.name != "nvidiasmilog" {
            return Err("the document is no nvidia_smi_log".into());
        }
        let gpus = root.children.iter().filter(|c| c.name == "gpu");
        return Ok(SmiReport {
            driver_version: root.get(&[&["driverversion"]]).map(first_word),
            cuda_version: root.get(&[&["cudaversion"]]).map(first_word),
            gpus: gpus.map(|g| gpu(g, g.get(&[&["id"]]).unwrap_or_default())).collect::<Result<_, _>>()?,
        });
    }
    let at = text
        .find("NVSMI LOG")
        .ok_or("there is neither a <nvidia_smi_log> document nor an NVSMI LOG heading")?;
    let body = text[at..].lines().skip(1).collect::<Vec<_>>().join("\n");
    let root = from_text(&body);
    let gpus = root.children.iter().filter_map(|c| c.name.strip_prefix("GPU ").map(|id| gpu(c, id)));
    Ok(SmiReport {
        driver_version: root.get(&[&["driverversion"]]).map(first_word),
        cuda_version: root.get(&[&["cudaversion", "cudaumdversion"]]).map(first_word),
        gpus: gpus.collect::<Result<_, _>>()?,
    })
}

/// Newer releases add remarks behind a value (`610.62 [Deprecated; ...]`).
fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().into()
}

fn gpu(node: &Node, id: &str) -> Result<Gpu, String> {
    let bus_id = id
        .parse::<Bdf>()
        .or_else(|e| node.get(&[&["pci"], &["pcibusid", "busid"]]).ok_or(e)?.parse())?
        .to_string();
    let text = |path: &[&[&str]]| node.get(path).map(str::to_string);
    let on = |path: &[&[&str]]| match node.get(path)? {
        "Enabled" => Some(true),
        "Disabled" => Some(false),
        _ => None,
    };
    let number = |path: &[&[&str]], unit: &str| {
        let (value, seen) = node.get(path)?.split_once(' ')?;
        (seen == unit).then(|| value.parse::<f64>().ok()).flatten()
    };
    let whole = |path: &[&[&str]], unit: &str| number(path, unit).filter(|n| *n >= 0.0).map(|n| n as u64);
    let license = ["vgpusoftwarelicensedproduct", "gridlicensedproduct"];
    let power = ["gpupowerreadings", "powerreadings"];
    let watts = ["powerdraw", "instantpowerdraw", "instantaneouspowerdraw", "averagepowerdraw"];
    Ok(Gpu {
        bus_id,
        name: text(&[&["productname"]]),
        architecture: text(&[&["productarchitecture"]]),
        uuid: text(&[&["uuid", "gpuuuid"]]),
        minor_number: node.get(&[&["minornumber"]]).and_then(|n| n.parse().ok()),
        // Here `None` is a mode, not a missing value, and is printed as such.
        virtualization_mode: text(&[&["gpuvirtualizationmode"], &["virtualizationmode"]]),
        mig_current: on(&[&["migmode"], &["currentmig", "current"]]),
        mig_pending: on(&[&["migmode"], &["pendingmig", "pending"]]),
        ecc_current: on(&[&["eccmode"], &["currentecc", "current"]]),
        ecc_pending: on(&[&["eccmode"], &["pendingecc", "pending"]]),
        heterogeneous: on(&[&["gpuvirtualizationmode"], &["vgpuheterogeneousmode"]]),
        fb_total_mib: whole(&[&["fbmemoryusage"], &["total"]], "MiB"),
        fb_used_mib: whole(&[&["fbmemoryusage"], &["used"]], "MiB"),
        bar1_total_mib: whole(&[&["bar1memoryusage"], &["total"]], "MiB"),
        gpu_util_percent: whole(&[&["utilization"], &["gpuutil", "gpu"]], "%").map(|n| n as u32),
        temperature_c: number(&[&["temperature"], &["gputemp", "gpucurrenttemp"]], "C").map(|n| n as i32),
        power_watts: power
            .iter()
            .find_map(|block| watts.iter().find_map(|draw| number(&[&[block], &[draw]], "W"))),
        ecc_errors: ecc_errors(node),
        remapped_rows: remapped_rows(node),
        slowdowns: slowdowns(node),
        license_product: text(&[&license, &["licensedproductname", "productname"]]),
        license_status: text(&[&license, &["licensestatus"]]),
    })
}

/// Sum of the counters of one block: `sram_uncorrectable`, `dram_uncorrectable`, ... since R4xx,
/// `double_bit/total` before.
fn counted(block: &Node, corrected: bool) -> Option<u64> {
    let number = |node: &Node| usable(&node.value)?.parse::<u64>().ok();
    let old = if corrected { "singlebit" } else { "doublebit" };
    if let Some(total) = block.child(&[old]).and_then(|bits| bits.child(&["total"])) {
        return number(total);
    }
    let counts = |c: &&Node| {
        c.name.contains("correctable")
            && c.name.contains("uncorrectable") != corrected
            && !c.name.contains("threshold")
    };
    let all: Vec<u64> = block.children.iter().filter(counts).filter_map(number).collect();
    (!all.is_empty()).then(|| all.iter().sum())
}

fn ecc_errors(gpu: &Node) -> Option<EccErrors> {
    let errors = gpu.child(&["eccerrors"])?;
    let volatile = errors.child(&["volatile"])?;
    Some(EccErrors {
        corrected: counted(volatile, true)?,
        uncorrected: counted(volatile, false)?,
        uncorrected_ever: errors.child(&["aggregate"]).and_then(|a| counted(a, false)).unwrap_or_default(),
    })
}

fn remapped_rows(gpu: &Node) -> Option<RemappedRows> {
    let rows = gpu.child(&["remappedrows"])?;
    let number = |names: &[&str]| rows.get(&[names])?.parse().ok();
    let yes = |names: &[&str]| rows.get(&[names]).is_some_and(|v| v == "Yes");
    Some(RemappedRows {
        correctable: number(&["remappedrowcorr", "correctableerror"])?,
        uncorrectable: number(&["remappedrowunc", "uncorrectableerror"])?,
        pending: yes(&["remappedrowpending", "pending"]),
        failed: yes(&["remappedrowfailure", "remappingfailureoccurred"]),
    })
}

/// The reasons that tell of heat, power or hardware; a power cap by software and idle clocks are everyday.
fn slowdowns(gpu: &Node) -> Vec<String> {
    let reasons = ["hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "sw_thermal_slowdown"];
    let Some(block) = gpu.child(&["clockseventreasons", "clocksthrottlereasons"]) else { return vec![] };
    let active = |reason: &&&str| {
        let plain = crate::readers::smi_tree::squeezed(reason);
        // The text form nests the thermal ones below `HW Slowdown`.
        let named = |c: &Node| {
            c.name
                .strip_prefix("clockseventreason")
                .or(c.name.strip_prefix("clocksthrottlereason"))
                .unwrap_or(&c.name)
                == plain
        };
        let all = block.children.iter().chain(block.children.iter().flat_map(|c| &c.children));
        all.into_iter().any(|c| named(c) && c.value.trim() == "Active")
    };
    reasons.iter().filter(active).map(|r| r.to_string()).collect()
}

/// Reads `nvidia-smi vgpu -s` and `-c`, with `-v` (a block with a `Name` for each type) or without (a name on
/// each line).
///
/// # Errors
/// Where no GPU is named.
pub fn read_types(text: &str) -> Result<Vec<TypesOfGpu>, String> {
    let mut gpus: Vec<TypesOfGpu> = vec![];
    for line in text.lines() {
        if let Some(id) = line.strip_prefix("GPU ") {
            gpus.push(TypesOfGpu { bus_id: id.trim().parse::<Bdf>()?.to_string(), names: vec![] });
            continue;
        }
        let Some(gpu) = gpus.last_mut() else { continue };
        let name = match line.split_once(" : ") {
            Some((label, value)) if label.trim() == "Name" => value.trim(),
            Some(_) => continue,
            None => line.trim(),
        };
        // Every type's name ends with `-<size><series>`.
        if name.rsplit_once('-').is_some_and(|(_, size)| size.starts_with(|c: char| c.is_ascii_digit())) {
            gpu.names.push(name.into());
        }
    }
    if gpus.is_empty() {
        Err(failure(text).map_or("there is no `GPU ..` line".into(), |f| f.to_string()))
    } else {
        Ok(gpus)
    }
}

/// Reads the text of `nvidia-smi vgpu -q`.
///
/// # Errors
/// A sentence that names what was missing.
pub fn read_vgpus(text: &str) -> Result<Vec<VgpuHost>, String> {
    let root = from_text(text);
    let hosts: Vec<VgpuHost> = root
        .children
        .iter()
        .filter_map(|node| Some((node.name.strip_prefix("GPU ")?, node)))
        .map(|(id, node)| {
            if node.child(&["activevgpus"]).is_none() {
                return Err(format!("GPU {id}: there is no `Active vGPUs`"));
            }
            let vgpus = node.children.iter().filter(|c| c.name == "vgpuid").map(|v| {
                let text = |name: &str| v.get(&[&[name]]).and_then(usable).map(str::to_string);
                let number = |path: &[&[&str]], unit: &str| {
                    v.get(path)?.strip_suffix(unit)?.trim().parse::<u64>().ok()
                };
                Vgpu {
                    gpu_util_percent: number(&[&["utilization"], &["gpu"]], "%").map(|n| n as u32),
                    fb_used_mib: number(&[&["fbmemoryusage"], &["used"]], "MiB"),
                    vm_name: text("vmname"),
                    profile: text("vgpuname"),
                    guest_driver: text("guestdriverversion"),
                    license_status: text("licensestatus").filter(|s| !s.starts_with("N/A")),
                }
            });
            Ok(VgpuHost { bus_id: id.parse::<Bdf>()?.to_string(), vgpus: vgpus.collect() })
        })
        .collect::<Result<_, String>>()?;
    if hosts.is_empty() {
        let none = if text.contains("No supported devices in vGPU mode") {
            "no GPU of this host is in vGPU mode"
        } else {
            "there is no `GPU ..` block"
        };
        return Err(failure(text).map_or(none.into(), |f| f.to_string()));
    }
    Ok(hosts)
}

/// The known ways in which nvidia-smi says that it cannot (it may do so with exit status 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SmiFailure {
    /// One GPU does not answer; often fallen off the bus.
    DeviceHandle,
    /// Library and loaded module differ.
    VersionMismatch,
    /// No module loaded.
    NoDriver,
    /// The module drives no GPU.
    NoDevices,
    /// The driver's library is missing, or where nobody looks for it.
    NoLibrary,
    /// The caller may not open the GPU's device files.
    NoPermission,
    /// NVML knows no more.
    UnknownError,
}

impl std::fmt::Display for SmiFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::DeviceHandle => "a GPU does not answer the driver (fallen off the bus?)",
            Self::VersionMismatch => {
                "driver library and loaded module have different versions: reboot the machine"
            }
            Self::NoDriver => "the NVIDIA driver is not loaded",
            Self::NoDevices => "the NVIDIA driver is loaded, but drives no GPU",
            Self::NoLibrary => {
                "the driver's library libnvidia-ml is missing or not found: the driver is half removed, or this is a container without it"
            }
            Self::NoPermission => "nvidia-smi may not open the GPU's device files",
            Self::UnknownError => "NVML failed without a reason",
        })
    }
}

/// Recognises a failure in what nvidia-smi printed (both streams, whatever its exit status).
pub fn failure(text: &str) -> Option<SmiFailure> {
    use SmiFailure::*;
    let has = |needle: &str| text.contains(needle);
    if has("Unable to determine the device handle") {
        Some(DeviceHandle)
    } else if has("Driver/library version mismatch") {
        Some(VersionMismatch)
    } else if has("couldn't communicate with the NVIDIA driver") || has("Driver Not Loaded") {
        Some(NoDriver)
    } else if has("No devices were found") || has("No devices found") {
        Some(NoDevices)
    } else if has("couldn't find libnvidia-ml") || has("NVML Shared Library Not Found") {
        Some(NoLibrary)
    } else if has("Insufficient Permissions") {
        Some(NoPermission)
    } else if has("Failed to initialize NVML") {
        Some(UnknownError)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_itself_is_the_reason() {
        let library = "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display Driver is properly installed and present in your system.";
        assert_eq!(failure(library), Some(SmiFailure::NoLibrary));
        assert!(read(library).is_err_and(|why| why.contains("libnvidia-ml")));
        assert_eq!(
            failure("Failed to initialize NVML: Insufficient Permissions"),
            Some(SmiFailure::NoPermission)
        );
        assert_eq!(failure("Failed to initialize NVML: Unknown Error"), Some(SmiFailure::UnknownError));
    }

    #[test]
    fn both_forms_are_one_report() {
        let xml = r#"<?xml version="1.0" ?><!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd"><nvidia_smi_log>
            <driver_version>535.183.04</driver_version><gpu id="00000000:3B:00.0"><product_name>Tesla P100-PCIE-16GB</product_name>
            <ecc_mode><current_ecc>Enabled</current_ecc><pending_ecc>Disabled</pending_ecc></ecc_mode>
            <gpu_virtualization_mode><virtualization_mode>Host VGPU</virtualization_mode></gpu_virtualization_mode>
            <fb_memory_usage><total>16384 MiB</total></fb_memory_usage><temperature><gpu_temp>N/A</gpu_temp></temperature></gpu></nvidia_smi_log>"#;
        let text = "\n==============NVSMI LOG==============\n\nDriver Version            : 535.183.04\n\nGPU 00000000:3B:00.0\n    Product Name          : Tesla P100-PCIE-16GB\n    ECC Mode\n        Current           : Enabled\n        Pending           : Disabled\n    GPU Virtualization Mode\n        Virtualization Mode : Host VGPU\n    FB Memory Usage\n        Total             : 16384 MiB\n    Temperature\n        GPU Current Temp  : N/A\n";
        let report = read(xml).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(read(text), Ok(report.clone()));
        let gpu = &report.gpus[0];
        assert_eq!(
            (gpu.bus_id.as_str(), gpu.ecc_current, gpu.ecc_pending, gpu.temperature_c),
            ("0000:3b:00.0", Some(true), Some(false), None)
        );
        assert_eq!(gpu.virtualization_mode.as_deref(), Some("Host VGPU"));
        assert!(read(&xml[..xml.len() / 2]).is_err(), "a cut document is refused");
    }

    #[test]
    fn unlicensed_is_not_licensed() {
        assert!(is_licensed("Licensed (Expiry: 2026-7-7 16:1:44 GMT)") && is_licensed("Licensed"));
        for no in ["Unlicensed", "Unlicensed (Unrestricted)", "unlicensed", "Not Licensed", "", "Licensedish"]
        {
            assert!(!is_licensed(no), "{no}");
        }
    }
}
