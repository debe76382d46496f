//! One GPU: what it is, how it may be shared, what it holds.

use vsgpu_core::Requirement as _;
use vsgpu_core::knowledge::gpus::Model;
use vsgpu_core::knowledge::placement;
use vsgpu_core::knowledge::vgpu_types::VgpuType;

/// How a GPU is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Every time-sliced vGPU of a GPU has one size
    SameSize,
    /// Time-sliced vGPUs of several sizes on a GPU
    MixedSize,
    /// A GPU that is divided by MIG
    Mig,
}

impl Mode {
    pub fn word(self) -> &'static str {
        match self {
            Self::SameSize => "same-size",
            Self::MixedSize => "mixed-size",
            Self::Mig => vsgpu_host_agent::host::Mig::NAME,
        }
    }
}

/// Which of them may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Modes {
    pub same_size: bool,
    pub mixed_size: bool,
    pub mig: bool,
}

impl Modes {
    pub const NONE: Self = Self { same_size: false, mixed_size: false, mig: false };

    pub fn of(list: &[Mode]) -> Self {
        let has = |mode| list.contains(&mode);
        Self { same_size: has(Mode::SameSize), mixed_size: has(Mode::MixedSize), mig: has(Mode::Mig) }
    }

    /// Both allow it.
    pub fn and(self, other: Self) -> Self {
        Self {
            same_size: self.same_size && other.same_size,
            mixed_size: self.mixed_size && other.mixed_size,
            mig: self.mig && other.mig,
        }
    }

    pub fn allow(self, mode: Mode) -> bool {
        match mode {
            Mode::SameSize => self.same_size,
            Mode::MixedSize => self.mixed_size,
            Mode::Mig => self.mig,
        }
    }
}

/// vGPUs of one GPU: each type with how many. Sorted by name, so that equal contents are equal.
#[derive(Clone, Debug, Default)]
pub struct Contents(pub Vec<(&'static VgpuType, u64)>);

impl Contents {
    pub fn of(list: &[(&'static VgpuType, u64)]) -> Self {
        let mut all = Self::default();
        for (vgpu, n) in list {
            for _ in 0..*n {
                all.add(vgpu);
            }
        }
        all
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn add(&mut self, vgpu: &'static VgpuType) {
        match self.0.binary_search_by(|(t, _)| t.name.cmp(vgpu.name)) {
            Ok(at) => self.0[at].1 += 1,
            Err(at) => self.0.insert(at, (vgpu, 1)),
        }
    }

    pub fn with(&self, vgpu: &'static VgpuType) -> Self {
        let mut more = self.clone();
        more.add(vgpu);
        more
    }

    pub fn remove(&mut self, vgpu: &'static VgpuType) {
        if let Ok(at) = self.0.binary_search_by(|(t, _)| t.name.cmp(vgpu.name)) {
            self.0[at].1 -= 1;
            if self.0[at].1 == 0 {
                self.0.remove(at);
            }
        }
    }

    pub fn count(&self) -> u64 {
        self.0.iter().map(|(_, n)| n).sum()
    }

    pub fn size_mib(&self) -> u64 {
        self.0.iter().map(|(t, n)| t.size_mib * n).sum()
    }

    /// Every vGPU by itself, the largest first.
    pub(super) fn each(&self) -> Vec<&'static VgpuType> {
        let mut all: Vec<&'static VgpuType> =
            self.0.iter().flat_map(|(t, n)| std::iter::repeat_n(*t, *n as usize)).collect();
        all.sort_by_key(|t| std::cmp::Reverse(t.size_mib));
        all
    }

    pub(super) fn key(&self) -> Vec<(usize, u64)> {
        self.0.iter().map(|(t, n)| (std::ptr::from_ref::<VgpuType>(t) as usize, *n)).collect()
    }
}

/// One GPU.
#[derive(Clone, Debug)]
pub struct Gpu {
    pub model: &'static Model,
    /// Modes that it can be brought into.
    pub modes: Modes,
    /// What is on it and stays there.
    pub holds: Contents,
    /// It may be given to a VM as a whole.
    pub whole: bool,
    /// It belongs to a VM as a whole already.
    pub taken: bool,
    /// Where it is known: memory of VMs with several GPUs is nearest there.
    pub numa: Option<u64>,
}

impl Gpu {
    /// What the hardware can do.
    pub fn new(model: &'static Model) -> Self {
        let modes = Modes {
            same_size: true,
            mixed_size: placement::takes_mixed(model),
            mig: model.mig && placement::units(model.token) > 0,
        };
        Self { model, modes, holds: Contents::default(), whole: true, taken: false, numa: None }
    }

    pub fn is_free(&self) -> bool {
        !self.taken && self.holds.is_empty()
    }
}
