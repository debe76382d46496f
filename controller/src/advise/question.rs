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

/// `8.0.2`, and as VMware writes it: `8.0U2`, `8.0 U2f`, `VMware ESXi 8.0.2`, `VMware ESX 9.0.1.0`, `8`.
///
/// # Errors
/// A sentence.
pub fn release(text: &str) -> Result<String, String> {
    let lower = text.trim().to_lowercase();
    let number =
        lower.trim_start_matches("vmware").trim().trim_start_matches("esxi").trim_start_matches("esx").trim();
    // `8.0.3 build-24022510`, as `vmware -v` prints it; `8.0 U3 P06`: a patch is no part of the version.
    let number = number.split(" build").next().unwrap_or_default().split(" p0").next().unwrap_or_default();
    let plain = number.replace([' ', '-'], "").replace("update", "u");
    // 8U3 is 8.0 U3.
    let plain = match plain.split_once('u') {
        Some((major, update)) if !major.contains('.') => format!("{major}.0.{update}"),
        _ => plain.replace('u', "."),
    };
    // A letter behind an update (7.0U3f) is a patch of it.
    let plain = plain.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let plain = if plain.contains('.') { plain.to_string() } else { format!("{plain}.0") };
    let numbers: Vec<&str> = plain.split('.').collect();
    let right = (2..=4).contains(&numbers.len())
        && numbers[0].len() <= 1
        && numbers.iter().all(|n| (1..=4).contains(&n.len()) && n.chars().all(|c| c.is_ascii_digit()));
    match right {
        true => Ok(plain),
        false => Err(format!("`{}` is no release of ESXi such as 8.0.2 or 8.0U2", shortened(text))),
    }
}

/// `20GiB`, and as people write it: `20 GB`, `20g`.
///
/// # Errors
/// A sentence.
pub fn memory(text: &str) -> Result<Memory, String> {
    let plain: String = text.split_whitespace().collect::<String>().to_lowercase();
    let plain = plain.strip_suffix("gb").map_or(plain.clone(), |n| format!("{n}gib"));
    match plain.parse::<Memory>() {
        Ok(memory) if memory.mib > 0 => Ok(memory),
        _ => Err(format!("`{}` is no memory such as 20GiB", shortened(text))),
    }
}

/// `5%` or `5`: from 0 to below 100.
///
/// # Errors
/// A sentence.
pub fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim().parse::<f64>().ok();
    match number.filter(|n| (0.0..100.0).contains(n)) {
        Some(n) if n > 0.0 && n < 0.5 && !text.contains('%') => {
            Err(format!("`{text}`: is {}% meant? Write the sign", n * 100.0))
        }
        Some(n) => Ok(n),
        None => Err(format!("`{}` is no percentage such as 5%", shortened(text))),
    }
}

/// One of these words, whatever its case.
///
/// # Errors
/// A sentence with all of them.
pub fn need(text: &str) -> Result<Need, String> {
    let plain = text.trim().to_lowercase();
    Need::ALL.into_iter().find(|need| need.word() == plain).ok_or_else(|| {
        let all: Vec<&str> = Need::ALL.iter().map(|n| n.word()).collect();
        format!("`{}` is none of {}", shortened(text), all.join(", "))
    })
}

/// What was typed, for an error.
pub fn shortened(text: &str) -> String {
    vsgpu_core::text::piece(text, 60)
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
                "gridvpc" => license.nvidia = Some(Some(Product::Pc)),
                "gridvapps" => license.nvidia = Some(Some(Product::Applications)),
                "gridvcs" => {
                    license.nvidia = Some(Some(Product::Compute));
                    license.old_compute = true;
                }
                _ => {
                    let product = Product::named(word).ok_or_else(|| {
                        let word = shortened(word);
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
        let name = self.gpu.as_deref()?;
        // As nvidia-smi prints it: "NVIDIA H100 80GB HBM3".
        let plain: Vec<&str> = name
            .split_whitespace()
            .filter(|w| !w.eq_ignore_ascii_case("nvidia") && !w.to_uppercase().starts_with("HBM"))
            .collect();
        fit::model(&plain.join(" "), &[]).ok()
    }

    /// It is a GPU of somebody else.
    pub fn of_others(&self) -> bool {
        let Some(name) = self.gpu.as_deref().map(str::to_lowercase) else { return false };
        self.model().is_none()
            && (["amd", "radeon", "instinct", "intel", "ponte vecchio", "gaudi"]
                .iter()
                .any(|w| name.contains(w))
                || name.starts_with("mi") && name[2..].chars().all(|c| c.is_ascii_digit()))
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
