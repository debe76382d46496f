//! The fewest moves of running VMs that make room for others. Moves go to GPUs that have room for the vGPU now: by vMotion
//! to another host, or by a power cycle on the same one. Passthrough VMs are never moved.

use super::fits::Fits;
use super::placement::{Placed, Placement};
use super::problem::{Part, Problem};
use std::collections::BTreeSet;

/// One move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub want: usize,
    pub from: Placed,
    pub to: Placed,
}

/// GPUs that are emptied at once, at most: all choices of so many are tried.
const MOST_EMPTIED: usize = 4;
/// Choices that are looked at.
const TRIES: usize = 20_000;

/// Makes room for the VMs that are left over, and places them: the moves in their order, and whether fewer are known to
/// be too few. `None` where emptying up to four GPUs does not help.
pub fn make_room(problem: &Problem, now: &Placement) -> Option<(Vec<Move>, Placement, bool)> {
    let mut fits = Fits::new(problem.series_mix);
    let gpus: Vec<(usize, usize)> = (0..problem.hosts.len())
        .flat_map(|h| (0..problem.hosts[h].gpus.len()).map(move |g| (h, g)))
        .filter(|(h, g)| {
            !now.is_empty(problem, *h, *g) && !now.whole[*h][*g] && !problem.hosts[*h].gpus[*g].taken
        })
        .filter(|(h, g)| problem.hosts[*h].gpus[*g].holds.is_empty())
        .collect();
    let tenants = now.tenants(problem);
    let cost = |at: &(usize, usize)| tenants.get(at).map_or(0, Vec::len);
    let mut cheap = gpus.clone();
    cheap.sort_by_key(cost);
    let mut best: Option<(Vec<Move>, Placement)> = None;
    let mut tries = TRIES;
    for size in 0..=MOST_EMPTIED.min(cheap.len()) {
        let mut chosen = vec![];
        choose(&cheap, size, 0, &mut chosen, &mut |emptied| {
            tries = tries.saturating_sub(1);
            let total: usize = emptied.iter().map(cost).sum();
            if tries == 0 || best.as_ref().is_some_and(|(moves, _)| moves.len() <= total) {
                return tries > 0;
            }
            if let Some(found) = emptying(problem, now, &mut fits, emptied)
                && best.as_ref().is_none_or(|(moves, _)| found.0.len() < moves.len())
            {
                best = Some(found);
            }
            true
        });
    }
    // Emptying GPUs whole is the best there is where vGPUs of one size share a GPU; elsewhere fewer may do.
    let exact = tries > 0 && problem.gpus().all(|g| !g.modes.mixed_size && !g.modes.mig);
    best.map(|(moves, placement)| (moves, placement, exact))
}

/// Every choice of so many, until nobody wants to look at more.
fn choose<T: Copy>(
    list: &[T],
    size: usize,
    from: usize,
    chosen: &mut Vec<T>,
    look: &mut impl FnMut(&[T]) -> bool,
) -> bool {
    if chosen.len() == size {
        return look(chosen);
    }
    for at in from..list.len() {
        chosen.push(list[at]);
        let on = choose(list, size, at + 1, chosen, look);
        chosen.pop();
        if !on {
            return false;
        }
    }
    true
}

/// The VMs of these GPUs elsewhere, and then those that are left over.
fn emptying(
    problem: &Problem,
    now: &Placement,
    fits: &mut Fits,
    emptied: &[(usize, usize)],
) -> Option<(Vec<Move>, Placement)> {
    let tenants = now.tenants(problem);
    let mut after = now.clone();
    let mut moves = vec![];
    let movers: BTreeSet<usize> =
        emptied.iter().flat_map(|at| tenants.get(at).into_iter().flatten().map(|(want, _)| *want)).collect();
    for want in movers {
        let from = after.take_away(problem, want)?;
        let to = elsewhere(problem, &after, fits, want, emptied)?;
        after.put(problem, want, to.clone());
        moves.push(Move { want, from, to });
    }
    for want in std::mem::take(&mut after.left) {
        let to = elsewhere(problem, &after, fits, want, &[])?;
        after.put(problem, want, to);
    }
    Some((moves, after))
}

/// The best place for a VM that is none of these GPUs: used ones first.
fn elsewhere(
    problem: &Problem,
    now: &Placement,
    fits: &mut Fits,
    want: usize,
    not: &[(usize, usize)],
) -> Option<Placed> {
    let wish = &problem.wants[want];
    let mut best: Option<(u64, Placed)> = None;
    for host in (0..problem.hosts.len()).filter(|host| now.host_takes(problem, *host, wish)) {
        let gpus = &problem.hosts[host].gpus;
        let mut holds = now.contents[host].clone();
        let mut whole = now.whole[host].clone();
        let mut chosen = vec![];
        let mut rank = 0;
        for part in &wish.parts {
            let mut found: Option<(u64, usize)> = None;
            for (g, gpu) in gpus.iter().enumerate() {
                if whole[g] || gpu.taken || not.contains(&(host, g)) || !part.is_for(gpu.model) {
                    continue;
                }
                let key = match part {
                    Part::Whole(_) if gpu.whole && holds[g].is_empty() => 0,
                    Part::Vgpu(vgpu) if fits.fit(gpu, &holds[g].with(vgpu)) => {
                        u64::from(holds[g].is_empty()) * 1000 + 64 - holds[g].count().min(63)
                    }
                    _ => continue,
                };
                if found.is_none_or(|(known, _)| key < known) {
                    found = Some((key, g));
                }
            }
            let Some((key, g)) = found else { break };
            rank += key;
            match part {
                Part::Whole(_) => whole[g] = true,
                Part::Vgpu(vgpu) => holds[g].add(vgpu),
            }
            chosen.push(g);
        }
        if chosen.len() == wish.parts.len() && best.as_ref().is_none_or(|(known, _)| rank < *known) {
            best = Some((rank, Placed { host, gpus: chosen }));
        }
    }
    best.map(|(_, placed)| placed)
}
