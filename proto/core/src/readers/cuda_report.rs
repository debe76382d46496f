//! What `vsgpu-cuda-proof` found: the one document that its program writes and the guest agent, the
//! controller and the metrics read. Versioned, because it is kept on disk.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of the document.
pub const VERSION: u32 = 1;

/// One run of the proof.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CudaReport {
    /// Version of this document.
    pub version: u32,
    /// CUDA version that the driver serves, `12.2`.
    #[serde(default)]
    pub cuda: Option<String>,
    /// What each GPU did, in the driver's order.
    #[serde(default)]
    pub devices: Vec<DeviceProof>,
    /// Why the run ended early: the first thing that failed.
    #[serde(default)]
    pub failure: Option<CudaFailure>,
}

/// A failure of the driver API, or a result that was wrong.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CudaFailure {
    /// What was being done: `load`, `init`, `device 0: vector_add of 50000`, ...
    pub stage: String,
    /// Number that the driver API answered; absent where no call failed.
    #[serde(default)]
    pub code: Option<i32>,
    /// Its name, `CUDA_ERROR_NO_DEVICE`, or one word of ours.
    pub name: String,
    /// The driver's sentence, or ours.
    pub text: String,
}

impl std::fmt::Display for CudaFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.stage, self.name)?;
        if let Some(code) = self.code {
            write!(f, " ({code})")?;
        }
        write!(f, ": {}", self.text)
    }
}

/// One GPU: what deviceQuery lists, and what it did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceProof {
    /// Name: the board, the vGPU type or the MIG instance.
    pub name: String,
    /// What it is of a GPU, by that name.
    #[serde(default)]
    pub part: Part,
    /// PCI address in the guest.
    #[serde(default)]
    pub pci: Option<String>,
    /// Compute capability, `8.0`.
    pub compute_capability: String,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// ECC is on.
    pub ecc: bool,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Peak of the memory by its clock and bus width as the driver states them, GB/s (10^9 bytes). Absent
    /// where it states none.
    #[serde(default)]
    pub stated_gb_s: Option<f64>,
    /// Vector additions, every result checked.
    #[serde(default)]
    pub vector_adds: Vec<VectorAdd>,
    /// Device memory bandwidth of the proof's own kernel (two reads, one write), GB/s; the best of several
    /// rounds.
    #[serde(default)]
    pub device_gb_s: Option<f64>,
    /// Host to device from page-locked memory, GB/s.
    #[serde(default)]
    pub host_to_device_gb_s: Option<f64>,
    /// Device to host, likewise.
    #[serde(default)]
    pub device_to_host_gb_s: Option<f64>,
    /// Microseconds from launch to end of an empty kernel, median.
    #[serde(default)]
    pub launch_us: Option<f64>,
    /// Microseconds for each of many launches that are waited for together, as most programs make them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_launch_us: Option<f64>,
}

/// Whole or a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The whole GPU.
    #[default]
    Whole,
    /// A vGPU: its name ends with the size and series of its type, `-40C`.
    Vgpu,
    /// A MIG instance: `NVIDIA A100-SXM4-40GB MIG 1g.5gb`.
    Mig,
}

impl Part {
    /// By the name that CUDA gives a device.
    pub fn of(name: &str) -> Self {
        let name = name.trim_end_matches(crate::knowledge::vgpu_types::SIMULATED);
        if name.contains(" MIG ") {
            return Self::Mig;
        }
        // `A100-40C`, `A100-2-10C`, `A40-48Q`; a board such as `A100-PCIE-40GB` ends otherwise.
        let size = name.rsplit_once('-').map_or("", |(_, size)| size);
        let digits = size.chars().take_while(char::is_ascii_digit).count();
        // Series letter, then what newer types add to it: `B4`, `CME`, `QGFX`.
        let series = &size[digits..];
        let known =
            series.starts_with(['A', 'B', 'C', 'Q']) && matches!(&series[1..], "" | "4" | "ME" | "GFX");
        if digits > 0 && known { Self::Vgpu } else { Self::Whole }
    }
}

/// One vector addition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VectorAdd {
    /// Elements added.
    pub elements: u64,
    /// Results compared with the right sum: all of them, or the proof failed before.
    pub checked: u64,
    /// Results that were wrong.
    pub wrong: u64,
    /// The first wrong one, for people.
    #[serde(default)]
    pub first_wrong: Option<String>,
    /// Milliseconds in the kernel alone.
    pub kernel_ms: f64,
}

impl VectorAdd {
    /// Every element was checked, none was wrong.
    pub fn passed(&self) -> bool {
        self.wrong == 0 && self.checked == self.elements && self.elements > 0
    }
}

impl CudaReport {
    /// Every GPU added right, and nothing failed.
    pub fn passed(&self) -> bool {
        self.failure.is_none()
            && !self.devices.is_empty()
            && self
                .devices
                .iter()
                .all(|d| !d.vector_adds.is_empty() && d.vector_adds.iter().all(VectorAdd::passed))
    }
}

/// Reads the document of a run. The program's other words, if any, are around it on their own lines.
///
/// # Errors
/// A sentence that says why it is none.
pub fn read(stdout: &str) -> Result<CudaReport, String> {
    let line =
        stdout.lines().rev().find(|l| l.starts_with('{')).ok_or("there is no report in what it printed")?;
    let report: CudaReport =
        serde_json::from_str(line).map_err(|e| format!("the report cannot be read: {e}"))?;
    if report.version == VERSION {
        Ok(report)
    } else {
        Err(format!("the report is of version {}, {VERSION} is expected", report.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_passes_only_when_everything_was_checked() {
        let add = |elements, checked, wrong| VectorAdd { elements, checked, wrong, ..VectorAdd::default() };
        let report = |adds: Vec<VectorAdd>| CudaReport {
            version: VERSION,
            devices: vec![DeviceProof { vector_adds: adds, ..DeviceProof::default() }],
            ..CudaReport::default()
        };
        assert!(report(vec![add(50_000, 50_000, 0)]).passed());
        assert!(!report(vec![]).passed() && !report(vec![add(50_000, 49_999, 0)]).passed());
        assert!(
            !report(vec![add(50_000, 50_000, 0), add(9, 9, 1)]).passed()
                && !report(vec![add(0, 0, 0)]).passed()
        );
        assert!(!CudaReport::default().passed(), "no device, no proof");
    }

    #[test]
    fn parts_are_told_apart_by_name() {
        for (name, part) in [
            ("NVIDIA A100-PCIE-40GB", Part::Whole),
            ("Tesla T4", Part::Whole),
            ("NVIDIA H100 80GB HBM3", Part::Whole),
            ("GRID A100-40C", Part::Vgpu),
            ("NVIDIA A40-48Q", Part::Vgpu),
            ("GRID A100-2-10C", Part::Vgpu),
            ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", Part::Mig),
        ] {
            assert_eq!(Part::of(name), part, "{name}");
        }
    }

    #[test]
    fn a_report_is_found_among_other_lines() {
        let text = format!("warning: something\n{}\n", serde_json::json!({ "version": 1 }));
        assert_eq!(read(&text).map(|r| r.devices.len()), Ok(0));
        assert!(read("").is_err() && read("{\"version\": 9}").is_err() && read("{\"version\": 1").is_err());
    }
}
