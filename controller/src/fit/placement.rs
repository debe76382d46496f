//! What is where, and where on a host a VM goes best.

use super::fits::Fits;
use super::gpu::{Contents, Gpu};
use super::problem::{Part, Problem, Want};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Where a VM is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Placed {
    pub host: usize,
    /// The GPU of each of its parts, in their order.
    pub gpus: Vec<usize>,
}

/// What is where.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// Of each host and GPU: what it holds, with what was there before.
    pub contents: Vec<Vec<Contents>>,
    /// It is given to a VM as a whole.
    pub whole: Vec<Vec<bool>>,
    /// Memory of each host that is given out, MiB.
    pub memory_used: Vec<u64>,
    /// Where each want is.
    pub at: Vec<Option<Placed>>,
    /// Wants without a place.
    pub left: Vec<usize>,
    /// Hosts that each word of `apart` is on.
    apart: BTreeMap<String, BTreeSet<usize>>,
}

impl Placement {
    pub fn new(problem: &Problem) -> Self {
        Self {
            contents: problem
                .hosts
                .iter()
                .map(|h| h.gpus.iter().map(|g| g.holds.clone()).collect())
                .collect(),
            whole: problem.hosts.iter().map(|h| vec![false; h.gpus.len()]).collect(),
            memory_used: vec![0; problem.hosts.len()],
            at: vec![None; problem.wants.len()],
            left: vec![],
            apart: BTreeMap::new(),
        }
    }

    /// Nothing is on this GPU, and nobody has it.
    pub fn is_empty(&self, problem: &Problem, host: usize, gpu: usize) -> bool {
        !self.whole[host][gpu] && !problem.hosts[host].gpus[gpu].taken && self.contents[host][gpu].is_empty()
    }

    /// The host may take this VM as far as memory and other VMs go.
    pub(super) fn host_takes(&self, problem: &Problem, host: usize, want: &Want) -> bool {
        let there = &problem.hosts[host];
        let memory =
            there.memory_mib.is_none_or(|most| self.memory_used[host] + want.memory_mib.unwrap_or(0) <= most);
        let named = want.host.as_ref().is_none_or(|name| *name == there.name);
        let apart =
            want.apart.iter().all(|word| self.apart.get(word).is_none_or(|hosts| !hosts.contains(&host)));
        memory && named && apart
    }

    /// Puts a VM where it is.
    pub fn put(&mut self, problem: &Problem, at: usize, placed: Placed) {
        let want = &problem.wants[at];
        for (part, gpu) in want.parts.iter().zip(&placed.gpus) {
            match part {
                Part::Whole(_) => self.whole[placed.host][*gpu] = true,
                Part::Vgpu(vgpu) => self.contents[placed.host][*gpu].add(vgpu),
            }
        }
        self.memory_used[placed.host] += want.memory_mib.unwrap_or(0);
        for word in &want.apart {
            self.apart.entry(word.clone()).or_default().insert(placed.host);
        }
        self.at[at] = Some(placed);
    }

    pub(super) fn take_away(&mut self, problem: &Problem, at: usize) -> Option<Placed> {
        let placed = self.at[at].take()?;
        let want = &problem.wants[at];
        for (part, gpu) in want.parts.iter().zip(&placed.gpus) {
            match part {
                Part::Whole(_) => self.whole[placed.host][*gpu] = false,
                Part::Vgpu(vgpu) => self.contents[placed.host][*gpu].remove(vgpu),
            }
        }
        self.memory_used[placed.host] -= want.memory_mib.unwrap_or(0);
        for word in &want.apart {
            self.apart.entry(word.clone()).or_default().remove(&placed.host);
        }
        Some(placed)
    }

    /// Where a VM is.
    pub fn place_of(&self, want: usize) -> Option<&Placed> {
        self.at.get(want)?.as_ref()
    }

    /// GPUs that hold something, or are given away.
    pub fn used(&self, problem: &Problem) -> usize {
        let of_host =
            |h: usize| (0..problem.hosts[h].gpus.len()).filter(|g| !self.is_empty(problem, h, *g)).count();
        (0..problem.hosts.len()).map(of_host).sum()
    }

    /// VMs of each GPU.
    pub fn tenants(&self, problem: &Problem) -> BTreeMap<(usize, usize), Vec<(usize, usize)>> {
        let mut all: BTreeMap<(usize, usize), Vec<(usize, usize)>> = BTreeMap::new();
        for (at, placed) in self.at.iter().enumerate() {
            let Some(placed) = placed else { continue };
            for (part, gpu) in placed.gpus.iter().enumerate() {
                all.entry((placed.host, *gpu)).or_default().push((at, part));
            }
        }
        debug_assert!(all.keys().all(|(h, g)| *g < problem.hosts[*h].gpus.len()));
        all
    }
}

/// Memory of a GPU that stays unused, in thousandths, were it to hold these.
fn unused(gpu: &Gpu, contents: &Contents) -> u64 {
    let all = (gpu.model.memory_gib * 1024).max(1);
    1000 - (contents.size_mib().min(all) * 1000 / all)
}

/// How well a part goes to a GPU: less is better. `None` where it does not.
pub(super) fn rank(
    gpu: &Gpu,
    holds: &Contents,
    whole: bool,
    part: &Part,
    fits: &mut Fits,
    wanted: &HashSet<&'static str>,
) -> Option<(u64, u64)> {
    if gpu.taken || whole || !part.is_for(gpu.model) {
        return None;
    }
    match part {
        // One that nobody wants a vGPU of comes first.
        Part::Whole(_) => (gpu.whole && holds.is_empty())
            .then(|| (u64::from(wanted.contains(gpu.model.token)), gpu.model.memory_gib)),
        Part::Vgpu(vgpu) => {
            let with = holds.with(vgpu);
            fits.fit(gpu, &with).then(|| (u64::from(holds.is_empty()), unused(gpu, &with)))
        }
    }
}

/// GPUs of one host for all parts of a VM, each the best for its part.
pub(super) fn on_host(
    problem: &Problem,
    now: &Placement,
    fits: &mut Fits,
    host: usize,
    want: &Want,
    wanted: &HashSet<&'static str>,
) -> Option<(Placed, (u64, u64))> {
    let gpus = &problem.hosts[host].gpus;
    let mut holds = now.contents[host].clone();
    let mut whole = now.whole[host].clone();
    let mut chosen = vec![0; want.parts.len()];
    let mut total = (0, 0);
    let mut order: Vec<usize> = (0..want.parts.len()).collect();
    order.sort_by_key(|at| Reverse(weight(&want.parts[*at])));
    let mut nodes: BTreeSet<u64> = BTreeSet::new();
    for at in order {
        let part = &want.parts[at];
        let ranked = (0..gpus.len()).filter_map(|g| {
            let (first, second) = rank(&gpus[g], &holds[g], whole[g], part, fits, wanted)?;
            // GPUs of one VM are near each other where that costs nothing.
            let far = !nodes.is_empty() && gpus[g].numa.is_some_and(|node| !nodes.contains(&node));
            Some(((first, second, far), g))
        });
        let ((first, second, _), best) = ranked.min()?;
        nodes.extend(gpus[best].numa);
        total = (total.0 + first, total.1 + second);
        match part {
            Part::Whole(_) => whole[best] = true,
            Part::Vgpu(vgpu) => holds[best].add(vgpu),
        }
        chosen[at] = best;
    }
    Some((Placed { host, gpus: chosen }, total))
}

fn weight(part: &Part) -> (bool, u64) {
    match part {
        Part::Whole(Some(_)) => (true, u64::MAX),
        Part::Whole(None) => (true, u64::MAX - 1),
        Part::Vgpu(vgpu) => (false, vgpu.size_mib),
    }
}

/// Tokens that vGPUs are wanted of.
pub(super) fn wanted(problem: &Problem) -> HashSet<&'static str> {
    let vgpus = problem.wants.iter().flat_map(|w| &w.parts).filter_map(|part| match part {
        Part::Vgpu(vgpu) => Some(vgpu.token),
        Part::Whole(_) => None,
    });
    vgpus.collect()
}

/// The order that works best as a rule: what is bound to a host, what needs several GPUs, what is large.
pub(super) fn hardest_first(problem: &Problem) -> Vec<usize> {
    let mut order: Vec<usize> = (0..problem.wants.len()).collect();
    let key = |at: &usize| {
        let want = &problem.wants[*at];
        let sizes: u64 = want.parts.iter().map(size_of).sum();
        let any = want.parts.iter().any(|part| matches!(part, Part::Whole(None)));
        let name = want.parts.first().map(Part::shown).unwrap_or_default();
        (
            want.host.is_none(),
            want.apart.is_empty(),
            any,
            Reverse((want.parts.len(), sizes, want.memory_mib)),
            name,
        )
    };
    order.sort_by_cached_key(key);
    order
}

fn size_of(part: &Part) -> u64 {
    match part {
        Part::Whole(_) => 1 << 20,
        Part::Vgpu(vgpu) => vgpu.size_mib,
    }
}
