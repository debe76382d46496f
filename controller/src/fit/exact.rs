//! Tries every placement, with two savings: hosts and GPUs that are alike are tried once, and what led nowhere is
//! remembered. Ends where a placement is found, where there is none, or after so many tries.

use super::fits::Fits;
use super::gpu::{Contents, Gpu, Modes};
use super::placement::{Placed, Placement, hardest_first};
use super::problem::{Part, Problem};
use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};

pub(super) enum Searched {
    Found(Box<Placement>),
    /// There is none.
    Nothing,
    GaveUp,
}

struct Search<'a> {
    problem: &'a Problem,
    order: Vec<usize>,
    fits: &'a mut Fits,
    now: Placement,
    dead: HashSet<(usize, u64, u64)>,
    left: usize,
    /// Some ways were left out.
    cut: bool,
}

pub(super) fn search(problem: &Problem, fits: &mut Fits, tries: usize) -> Searched {
    // A look at a large cluster costs more.
    let gpus = problem.gpus().count().max(1);
    let left = tries.min(tries * 20 / gpus);
    let order = hardest_first(problem);
    let now = Placement::new(problem);
    let mut search = Search { problem, order, fits, now, dead: HashSet::new(), left, cut: false };
    if search.from(0) {
        return Searched::Found(Box::new(search.now));
    }
    if search.left == 0 || search.cut { Searched::GaveUp } else { Searched::Nothing }
}

impl Search<'_> {
    /// Places all wants from this one on.
    fn from(&mut self, step: usize) -> bool {
        let Some(at) = self.order.get(step).copied() else { return true };
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        let (a, b) = self.state();
        if self.dead.contains(&(step, a, b)) {
            return false;
        }
        let mut seen = HashSet::new();
        for host in 0..self.problem.hosts.len() {
            if !self.now.host_takes(self.problem, host, &self.problem.wants[at])
                || !seen.insert(self.host_state(host))
            {
                continue;
            }
            let mut ways = vec![];
            self.ways(at, host, &mut vec![], &mut ways);
            for gpus in ways {
                self.now.put(self.problem, at, Placed { host, gpus });
                if self.from(step + 1) {
                    return true;
                }
                self.now.take_away(self.problem, at);
                if self.left == 0 {
                    return false;
                }
            }
        }
        self.dead.insert((step, a, b));
        false
    }

    /// Every choice of GPUs of a host for the parts of a VM, alike ones once, those that leave least first.
    fn ways(&mut self, at: usize, host: usize, chosen: &mut Vec<usize>, ways: &mut Vec<Vec<usize>>) {
        const MOST: usize = 64;
        let problem = self.problem;
        let parts = &problem.wants[at].parts;
        let Some(part) = parts.get(chosen.len()) else {
            ways.push(chosen.clone());
            return;
        };
        let gpus = &problem.hosts[host].gpus;
        let mut seen = HashSet::new();
        let mut fitting: Vec<(u64, usize)> = vec![];
        for (g, gpu) in gpus.iter().enumerate() {
            let mut holds = self.now.contents[host][g].clone();
            let mut whole = self.now.whole[host][g] || gpu.taken;
            for (before, other) in chosen.iter().zip(parts).filter(|(before, _)| **before == g) {
                debug_assert_eq!(*before, g);
                match other {
                    Part::Whole(_) => whole = true,
                    Part::Vgpu(vgpu) => holds.add(vgpu),
                }
            }
            if whole || !part.is_for(gpu.model) || !seen.insert(gpu_state(gpu, &holds)) {
                continue;
            }
            let free = match part {
                Part::Whole(_) if gpu.whole && holds.is_empty() => 0,
                Part::Vgpu(vgpu) => {
                    let with = holds.with(vgpu);
                    if !self.fits.fit(gpu, &with) {
                        continue;
                    }
                    (gpu.model.memory_gib * 1024).saturating_sub(with.size_mib())
                }
                Part::Whole(_) => continue,
            };
            fitting.push((free, g));
        }
        fitting.sort_unstable();
        for (_, g) in fitting {
            if ways.len() >= MOST {
                // Not all are tried then: the search may no longer say that there is none.
                self.cut = true;
                return;
            }
            chosen.push(g);
            self.ways(at, host, chosen, ways);
            chosen.pop();
        }
    }

    fn host_state(&self, host: usize) -> u64 {
        let there = &self.problem.hosts[host];
        let mut gpus: Vec<u64> = there
            .gpus
            .iter()
            .enumerate()
            .map(|(g, gpu)| {
                let mut hash = DefaultHasher::new();
                gpu_state(gpu, &self.now.contents[host][g]).hash(&mut hash);
                (self.now.whole[host][g] || gpu.taken).hash(&mut hash);
                hash.finish()
            })
            .collect();
        gpus.sort_unstable();
        let mut hash = DefaultHasher::new();
        gpus.hash(&mut hash);
        there.memory_mib.map(|m| m.saturating_sub(self.now.memory_used[host])).hash(&mut hash);
        let of_host: Vec<&str> = self
            .problem
            .wants
            .iter()
            .filter(|w| w.host.as_deref() == Some(&there.name))
            .map(|w| w.vm.as_str())
            .collect();
        of_host.hash(&mut hash);
        let apart: Vec<&str> = self
            .problem
            .wants
            .iter()
            .zip(&self.now.at)
            .filter(|(_, placed)| placed.as_ref().is_some_and(|p| p.host == host))
            .flat_map(|(want, _)| want.apart.iter().map(String::as_str))
            .collect();
        apart.hash(&mut hash);
        hash.finish()
    }

    /// All hosts, whichever is which: twice 64 bits, so that two states are not mistaken for one.
    fn state(&self) -> (u64, u64) {
        let mut hosts: Vec<u64> = (0..self.problem.hosts.len()).map(|h| self.host_state(h)).collect();
        hosts.sort_unstable();
        let mut one = DefaultHasher::new();
        hosts.hash(&mut one);
        let mut two = DefaultHasher::new();
        (0x76_73_67_70_u64, hosts).hash(&mut two);
        (one.finish(), two.finish())
    }
}

fn gpu_state(gpu: &Gpu, holds: &Contents) -> (&'static str, Modes, bool, Vec<(&'static str, u64)>) {
    (gpu.model.name, gpu.modes, gpu.whole, holds.0.iter().map(|(t, n)| (t.name, *n)).collect())
}
