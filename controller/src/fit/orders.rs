//! What a host does by itself when VMs are powered on one after the other. It never moves one that runs, and
//! it does not know who comes next: what fits can still be refused in a given order.
//!
//! Known of ESXi (facts: nvidia 9): with `performance` the GPU with fewest vGPUs is taken, with `consolidation` one
//! that holds vGPUs already. Both rules hold in same-size mode. Which of several equal GPUs is taken is not documented;
//! here it is the first. Which host is taken is up to DRS; here it is the one with most GPUs unused, as DRS spreads.

use super::fits::Fits;
use super::placement::{Placed, Placement};
use super::problem::{Part, Problem};

/// The host's assignment policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The GPU with fewest vGPUs (the default of ESXi)
    Performance,
    /// A GPU that holds vGPUs already
    Consolidation,
}

impl Policy {
    pub fn word(self) -> &'static str {
        match self {
            Self::Performance => "performance",
            Self::Consolidation => "consolidation",
        }
    }
}

/// How it would go.
#[derive(Clone, Debug)]
pub struct PowerOns {
    pub policy: Policy,
    pub placement: Placement,
}

impl PowerOns {
    /// VMs that would not start.
    pub fn refused(&self) -> &[usize] {
        &self.placement.left
    }
}

/// Powers the VMs on in their order.
pub fn power_on(problem: &Problem, policy: Policy) -> PowerOns {
    let mut fits = Fits::new(problem.series_mix);
    let mut now = Placement::new(problem);
    for at in 0..problem.wants.len() {
        match one(problem, &now, &mut fits, at, policy) {
            Some(placed) => now.put(problem, at, placed),
            None => now.left.push(at),
        }
    }
    PowerOns { policy, placement: now }
}

fn one(problem: &Problem, now: &Placement, fits: &mut Fits, at: usize, policy: Policy) -> Option<Placed> {
    let want = &problem.wants[at];
    let mut hosts: Vec<(usize, usize)> = (0..problem.hosts.len())
        .filter(|host| now.host_takes(problem, *host, want))
        .map(|host| {
            let used =
                (0..problem.hosts[host].gpus.len()).filter(|g| !now.is_empty(problem, host, *g)).count();
            (used, host)
        })
        .collect();
    hosts.sort_unstable();
    hosts.into_iter().find_map(|(_, host)| {
        let gpus = &problem.hosts[host].gpus;
        let mut holds = now.contents[host].clone();
        let mut whole = now.whole[host].clone();
        let mut chosen = vec![];
        for part in &want.parts {
            let takes = |g: &usize| {
                let gpu = &gpus[*g];
                if whole[*g] || gpu.taken || !part.is_for(gpu.model) {
                    return None;
                }
                match part {
                    Part::Whole(_) => (gpu.whole && holds[*g].is_empty()).then_some(0),
                    Part::Vgpu(vgpu) => {
                        let count = holds[*g].count();
                        let key = match policy {
                            Policy::Performance => count,
                            // The fullest that takes it.
                            Policy::Consolidation => u64::MAX - count,
                        };
                        fits.fit(gpu, &holds[*g].with(vgpu)).then_some(key)
                    }
                }
            };
            let mut takes = takes;
            let best = (0..gpus.len()).filter_map(|g| Some((takes(&g)?, g))).min()?.1;
            match part {
                Part::Whole(_) => whole[best] = true,
                Part::Vgpu(vgpu) => holds[best].add(vgpu),
            }
            chosen.push(best);
        }
        Some(Placed { host, gpus: chosen })
    })
}
