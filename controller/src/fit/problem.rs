//! GPUs that are there, and what is wanted of them.

use super::boards::is_named;
use super::gpu::Gpu;
use vsgpu_core::Requirement as _;
use vsgpu_core::knowledge::gpus::Model;
use vsgpu_core::knowledge::vgpu_types::{self, VgpuType};
use vsgpu_host_agent::vm::VmPassthrough;

/// One host.
#[derive(Clone, Debug)]
pub struct Host {
    pub name: String,
    pub gpus: Vec<Gpu>,
    /// Memory for VMs, MiB; `None` where that is not known, and then it is not counted.
    pub memory_mib: Option<u64>,
}

impl Host {
    /// The same for hosts that are as good as each other.
    pub(super) fn likeness(&self) -> String {
        let gpu = |g: &Gpu| format!("{} {:?} {:?} {} {}", g.model.name, g.modes, g.holds, g.whole, g.taken);
        let mut gpus: Vec<String> = self.gpus.iter().map(gpu).collect();
        gpus.sort();
        format!("{:?} {}", self.memory_mib, gpus.join("; "))
    }
}

/// A whole GPU, in words: the key of the fleet file.
pub const WHOLE: &str = VmPassthrough::NAME;

/// A part of a VM's wish.
#[derive(Clone, Debug)]
pub enum Part {
    /// A whole GPU; any where no name is said.
    Whole(Option<String>),
    Vgpu(&'static VgpuType),
}

impl Part {
    pub fn shown(&self) -> String {
        match self {
            Self::Whole(None) => WHOLE.into(),
            Self::Whole(Some(model)) => format!("{WHOLE} {model}"),
            // As people type it: `a100d-8c`.
            Self::Vgpu(vgpu) => vgpu_types::plain(vgpu.profile),
        }
    }

    /// Whether this GPU is of the right kind.
    pub fn is_for(&self, model: &Model) -> bool {
        match self {
            Self::Whole(None) => true,
            Self::Whole(Some(name)) => is_named(name, model),
            Self::Vgpu(vgpu) => vgpu.token.eq_ignore_ascii_case(model.token),
        }
    }
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => a == b,
            (Self::Vgpu(a), Self::Vgpu(b)) => std::ptr::eq(*a, *b),
            _ => false,
        }
    }
}

/// One VM.
#[derive(Clone, Debug)]
pub struct Want {
    pub vm: String,
    pub parts: Vec<Part>,
    /// Memory of the VM, MiB, all of it reserved.
    pub memory_mib: Option<u64>,
    /// The host that it must be on.
    pub host: Option<String>,
    /// VMs that share a word here are kept on different hosts.
    pub apart: Vec<String>,
}

impl Want {
    /// `2 x a100d-80c`.
    pub fn shown(&self) -> String {
        let mut counts: Vec<(String, usize)> = vec![];
        for part in &self.parts {
            let shown = part.shown();
            match counts.iter_mut().find(|(name, _)| *name == shown) {
                Some((_, n)) => *n += 1,
                None => counts.push((shown, 1)),
            }
        }
        let one = |(name, n): &(String, usize)| if *n == 1 { name.clone() } else { format!("{n} {name}") };
        counts.iter().map(one).collect::<Vec<_>>().join(" + ")
    }

    /// The vGPUs of it.
    pub fn vgpus(&self) -> impl Iterator<Item = &'static VgpuType> + '_ {
        self.parts.iter().filter_map(|part| match part {
            Part::Vgpu(vgpu) => Some(*vgpu),
            Part::Whole(_) => None,
        })
    }

    /// The same wish but for the name.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.parts == other.parts
            && self.memory_mib == other.memory_mib
            && self.host == other.host
            && self.apart == other.apart
    }
}

/// What there is, and what is wanted, in the order in which it is powered on.
#[derive(Clone, Debug, Default)]
pub struct Problem {
    pub hosts: Vec<Host>,
    pub wants: Vec<Want>,
    /// vGPUs of one size but of several series may share a GPU.
    pub series_mix: bool,
    /// The oldest ESXi of the hosts, where it is known.
    pub esxi: Option<String>,
}

impl Problem {
    pub(super) fn remove_hosts(&mut self, out: &[usize]) {
        let mut at = 0;
        self.hosts.retain(|_| {
            at += 1;
            !out.contains(&(at - 1))
        });
    }

    pub fn gpus(&self) -> impl Iterator<Item = &Gpu> {
        self.hosts.iter().flat_map(|host| &host.gpus)
    }
}
