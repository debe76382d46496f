//! What an administrator is asked before anything is chosen.

use crate::fit;
use vsgpu_core::amounts::Memory;
use vsgpu_core::knowledge::gpus::Model;
use vsgpu_core::knowledge::products::Product;
use vsgpu_host_agent::facts::EsxVersion;

/// What the VMs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Training of models
    #[value(alias = "ml", alias = "ai")]
    Training,
    /// Inference
    Inference,
    /// Development, notebooks, tests
    #[value(alias = "dev", alias = "notebooks")]
    Development,
    /// Graphics, VDI, CAD
    #[value(alias = "vdi", alias = "cad", alias = "workstation")]
    Graphics,
    /// HPC, simulation
    #[value(alias = "simulation")]
    Hpc,
}

impl Workload {
    pub const ALL: [Self; 5] =
        [Self::Training, Self::Inference, Self::Development, Self::Graphics, Self::Hpc];

    pub fn word(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Inference => "inference",
            Self::Development => "development",
            Self::Graphics => "graphics",
            Self::Hpc => "hpc",
        }
    }
}

/// What must go with the running VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Moved while it runs
    Vmotion,
    /// Moved by DRS while it runs
    Drs,
    /// Restarted on another host by itself
    Ha,
    /// A snapshot while it runs
    Snapshots,
    /// Suspended and resumed
    Suspend,
    /// No neighbour takes anything of it
    Isolation,
    /// Its host has no GPU
    NoGpuInHost,
}

impl Need {
    pub const ALL: [Self; 7] = [
        Self::Vmotion,
        Self::Drs,
        Self::Ha,
        Self::Snapshots,
        Self::Suspend,
        Self::Isolation,
        Self::NoGpuInHost,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Vmotion => "vmotion",
            Self::Drs => "drs",
            Self::Ha => "ha",
            Self::Snapshots => "snapshots",
            Self::Suspend => "suspend",
            Self::Isolation => "isolation",
            Self::NoGpuInHost => "no-gpu-in-host",
        }
    }
}

#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Guest {
    #[default]
    Linux,
    Windows,
}

/// Licenses that are there. What is not said is not refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct License {
    /// NVIDIA's product: `Some(None)` is "none".
    pub nvidia: Option<Option<Product>>,
    /// The name was vCS, which was for Linux only.
    pub old_compute: bool,
    /// vSphere Standard.
    pub standard: bool,
}

impl License {
    /// `nvaie`, `vws,standard`, `none`, and names of old.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut license = Self::default();
        for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            let plain: String =
                word.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
            match plain.as_str() {
                "none" | "no" => license.nvidia = Some(None),
                "standard" | "vspherestandard" => license.standard = true,
                "enterpriseplus" | "vsphereenterpriseplus" | "vvf" | "vcf" => license.standard = false,
                // GRID was the family's name: what is meant is the workstation.
                "grid" | "gridvws" | "gridvdws" => license.nvidia = Some(Some(Product::Workstation)),
                "gridvcs" => {
                    license.nvidia = Some(Some(Product::Compute));
                    license.old_compute = true;
                }
                _ => {
                    let product = Product::named(word).ok_or_else(|| {
                        format!("`{word}` is no license: nvaie, vws, vpc, vapps, none, and standard or enterprise-plus")
                    })?;
                    license.old_compute |= plain.contains("vcs") || plain.contains("computeserver");
                    license.nvidia = Some(Some(product));
                }
            }
        }
        Ok(license)
    }

    pub fn none(self) -> bool {
        self.nvidia == Some(None)
    }
}

/// The question.
#[derive(Clone, Debug)]
pub struct Question {
    pub workload: Workload,
    /// VMs that use one GPU at the same time.
    pub users: u64,
    pub needs: Vec<Need>,
    /// Percent of bare metal that may be lost.
    pub max_loss: Option<f64>,
    /// The GPU by its name; `None` where it is not chosen yet.
    pub gpu: Option<String>,
    /// `8.0.2`.
    pub esxi: Option<String>,
    pub guest: Guest,
    pub license: License,
    /// GPU memory of each VM.
    pub memory: Option<Memory>,
}

impl Question {
    pub fn needs(&self, need: Need) -> bool {
        self.needs.contains(&need)
    }

    /// The board; `None` where it is in no table, or not chosen.
    pub fn model(&self) -> Option<&'static Model> {
        fit::model(self.gpu.as_deref()?, &[]).ok()
    }

    /// ESXi is at least this; it is where it is not said.
    pub fn esxi_at_least(&self, least: &str) -> bool {
        self.esxi.as_deref().is_none_or(|v| EsxVersion::at_least(v, least))
    }

    /// Needs that mean moving or stopping a running VM.
    pub fn moves(&self) -> bool {
        [Need::Vmotion, Need::Drs, Need::Suspend, Need::Snapshots].into_iter().any(|need| self.needs(need))
    }

    /// Programs of CUDA.
    pub fn computes(&self) -> bool {
        self.workload != Workload::Graphics
    }

    /// GPUs that one VM needs for its memory.
    pub fn gpus_per_vm(&self) -> u64 {
        let of_one = self.model().map_or(0, |m| m.memory_gib * 1024);
        match (self.memory, of_one) {
            (Some(memory), 1..) => memory.mib.div_ceil(of_one).max(1),
            _ => 1,
        }
    }
}
