//! The answer: a placement, a proof that there is none, or neither.

use super::bound::{self, Need, needs};
use super::exact::{self, Searched};
use super::fits::Fits;
use super::gpu::Gpu;
use super::placement::Placement;
use super::problem::{Problem, Want};
use super::{place, why};
use std::collections::BTreeMap;
use vsgpu_core::knowledge::placement;

/// Placements that are tried before a search gives up.
const TRIES: usize = 200_000;

/// What was found out.
#[derive(Clone, Debug)]
pub struct Answer {
    /// All of it fits.
    pub fits: bool,
    /// The answer cannot be another one.
    pub proven: bool,
    /// The best placement that was found; not of everybody where it does not fit.
    pub placement: Placement,
    /// Why not.
    pub reason: Option<String>,
    /// GPUs of each kind: how many it takes at least.
    pub needs: Vec<Need>,
}

/// Whether all wants fit on the hosts.
pub fn solve(problem: &Problem) -> Answer {
    let mut fits = Fits::new(problem.series_mix);
    let needs = needs(problem, &mut fits);
    let never = why::impossible(problem, &mut fits).or_else(|| bound::refuted(problem, &needs));
    // What is disproved by counting is not packed with all one's might.
    let mut placement = match never.is_some() && problem.wants.len() > LARGE {
        true => place::once(problem, &mut fits),
        false => place::best(problem, &mut fits, &needs),
    };
    let sure = fits.is_sure() && !doubtful(problem);
    if let Some(reason) = never {
        if placement.left.is_empty() {
            // There is room, and it is not allowed.
            placement = Placement::new(problem);
            placement.left = (0..problem.wants.len()).collect();
        }
        return Answer { fits: false, proven: sure, placement, reason: Some(reason), needs };
    }
    if placement.left.is_empty() {
        return Answer { fits: true, proven: true, placement, reason: None, needs };
    }
    let searched = exact::search(problem, &mut fits, TRIES);
    let tried = fits.is_sure() && !doubtful(problem);
    match searched {
        Searched::Found(found) => {
            placement = *found;
            Answer { fits: true, proven: true, placement, reason: None, needs }
        }
        Searched::Nothing if tried => {
            let reason = why::left_over(problem, &placement);
            Answer { fits: false, proven: true, placement, reason: Some(reason), needs }
        }
        Searched::Nothing | Searched::GaveUp => {
            let reason = format!("{}; not every placement was tried", why::left_over(problem, &placement));
            Answer { fits: false, proven: false, placement, reason: Some(reason), needs }
        }
    }
}

/// Wishes that make a problem a large one.
const LARGE: usize = 400;

/// Sizes are mixed on a board whose places no table of NVIDIA names.
pub fn doubtful(problem: &Problem) -> bool {
    let token = |g: &Gpu| {
        problem
            .wants
            .iter()
            .flat_map(Want::vgpus)
            .any(|t| !t.mig && t.token.eq_ignore_ascii_case(g.model.token))
    };
    problem.gpus().any(|g| {
        g.modes.mixed_size
            && !g.modes.same_size
            && !placement::places_are_published(g.model.token)
            && token(g)
    })
}

/// Whether all fits still where any `spare` hosts are away; the names of hosts without which it does not.
pub fn spare(problem: &Problem, spare: usize) -> Result<(), (Vec<String>, Answer)> {
    let mut kinds: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, host) in problem.hosts.iter().enumerate() {
        kinds.entry(host.likeness()).or_default().push(at);
    }
    // Hosts that are alike are as good as each other: how many of each kind are away is what matters.
    let kinds: Vec<Vec<usize>> = kinds.into_values().collect();
    let mut chosen = vec![0; kinds.len()];
    away(problem, &kinds, &mut chosen, 0, spare.min(problem.hosts.len()))
}

fn away(
    problem: &Problem,
    kinds: &[Vec<usize>],
    chosen: &mut Vec<usize>,
    from: usize,
    left: usize,
) -> Result<(), (Vec<String>, Answer)> {
    if left == 0 {
        let out: Vec<usize> =
            kinds.iter().zip(chosen.iter()).flat_map(|(hosts, n)| hosts[..*n].iter().copied()).collect();
        let mut rest = problem.clone();
        let names = out.iter().map(|at| problem.hosts[*at].name.clone()).collect();
        rest.remove_hosts(&out);
        let answer = solve(&rest);
        return if answer.fits { Ok(()) } else { Err((names, answer)) };
    }
    for at in from..kinds.len() {
        if chosen[at] < kinds[at].len() {
            chosen[at] += 1;
            let found = away(problem, kinds, chosen, at, left - 1);
            chosen[at] -= 1;
            found?;
        }
    }
    Ok(())
}
