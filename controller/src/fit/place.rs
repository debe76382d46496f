//! Places VMs one after the other, each where it leaves least room unused, in several orders; the best result counts.
//! Fast, and not always the best there is: what it leaves over is tried again by [`super::exact`].

use super::bound::{self, Need};
use super::fits::Fits;
use super::gpu::{Contents, Gpu, Modes};
use super::placement::{Placed, Placement, hardest_first, on_host, rank, wanted};
use super::problem::{Part, Problem, Want};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// GPUs that are alike in all that counts, so that one of them need be looked at.
struct Alike {
    classes: BTreeMap<Class, BTreeSet<(usize, usize)>>,
}

type Class = (&'static str, u64, Modes, bool, Vec<(&'static str, u64)>);

fn class(gpu: &Gpu, holds: &Contents) -> Class {
    let list = holds.0.iter().map(|(t, n)| (t.name, *n)).collect();
    (gpu.model.token, gpu.model.memory_gib, gpu.modes, gpu.whole, list)
}

impl Alike {
    fn new(problem: &Problem, now: &Placement) -> Self {
        let mut classes: BTreeMap<Class, BTreeSet<(usize, usize)>> = BTreeMap::new();
        for (h, host) in problem.hosts.iter().enumerate() {
            for (g, gpu) in host.gpus.iter().enumerate().filter(|(_, gpu)| !gpu.taken) {
                classes.entry(class(gpu, &now.contents[h][g])).or_default().insert((h, g));
            }
        }
        Self { classes }
    }

    fn moved(&mut self, problem: &Problem, at: (usize, usize), before: &Contents, after: Option<&Contents>) {
        let gpu = &problem.hosts[at.0].gpus[at.1];
        let old = class(gpu, before);
        if let Some(list) = self.classes.get_mut(&old) {
            list.remove(&at);
            if list.is_empty() {
                self.classes.remove(&old);
            }
        }
        if let Some(after) = after {
            self.classes.entry(class(gpu, after)).or_default().insert(at);
        }
    }
}

/// One pass over the wants in this order.
fn pass(problem: &Problem, fits: &mut Fits, order: &[usize]) -> Placement {
    rest(problem, fits, Placement::new(problem), order)
}

fn single(
    problem: &Problem,
    now: &Placement,
    alike: &Alike,
    fits: &mut Fits,
    want: &Want,
    part: &Part,
    wanted: &HashSet<&'static str>,
) -> Option<Placed> {
    let mut best: Option<((u64, u64), (usize, usize))> = None;
    for list in alike.classes.values() {
        let Some(first) = list.first() else { continue };
        let gpu = &problem.hosts[first.0].gpus[first.1];
        let holds = &now.contents[first.0][first.1];
        let Some(ranked) = rank(gpu, holds, false, part, fits, wanted) else { continue };
        if best.as_ref().is_some_and(|(known, _)| *known <= ranked) {
            continue;
        }
        if let Some(at) = list.iter().find(|(host, _)| now.host_takes(problem, *host, want)) {
            best = Some((ranked, *at));
        }
    }
    best.map(|(_, (host, gpu))| Placed { host, gpus: vec![gpu] })
}

/// The wants in their own order, each on the first GPU that takes it: what is compared with.
pub struct FirstFit;

impl FirstFit {
    pub fn place(problem: &Problem) -> Placement {
        let mut fits = Fits::new(problem.series_mix);
        let mut now = Placement::new(problem);
        let wanted = wanted(problem);
        for (at, want) in problem.wants.iter().enumerate() {
            let mut hosts = (0..problem.hosts.len()).filter(|host| now.host_takes(problem, *host, want));
            let found = hosts.find_map(|host| match want.parts.as_slice() {
                [part] => {
                    let gpus = &problem.hosts[host].gpus;
                    let takes = |g: &usize| {
                        rank(
                            &gpus[*g],
                            &now.contents[host][*g],
                            now.whole[host][*g],
                            part,
                            &mut fits,
                            &wanted,
                        )
                        .is_some()
                    };
                    (0..gpus.len()).find(takes).map(|g| Placed { host, gpus: vec![g] })
                }
                _ => on_host(problem, &now, &mut fits, host, want, &wanted).map(|(placed, _)| placed),
            });
            match found {
                Some(placed) => now.put(problem, at, placed),
                None => now.left.push(at),
            }
        }
        now
    }
}

/// One quick pass.
pub(super) fn once(problem: &Problem, fits: &mut Fits) -> Placement {
    pass(problem, fits, &hardest_first(problem))
}

/// The best of several orders. Sizes are mixed only where the same size on each GPU is not enough.
pub(super) fn best(problem: &Problem, fits: &mut Fits, needs: &[Need]) -> Placement {
    let mut plain = problem.clone();
    let mut mixes = false;
    for gpu in plain.hosts.iter_mut().flat_map(|host| &mut host.gpus) {
        if gpu.modes.same_size && gpu.modes.mixed_size {
            gpu.modes.mixed_size = false;
            mixes = true;
        }
    }
    let by_size = hardest_first(problem);
    let mut by_memory = by_size.clone();
    by_memory.sort_by_key(|at| Reverse(problem.wants[*at].memory_mib));
    let own: Vec<usize> = (0..problem.wants.len()).collect();
    let at_least: usize = needs.iter().map(|n| n.at_least).sum();
    let mut best: Option<Placement> = None;
    let better = |new: &Placement, old: &Option<Placement>| {
        let key = |p: &Placement| (p.left.len(), p.used(problem));
        old.as_ref().is_none_or(|old| key(new) < key(old))
    };
    for of in [Some(&plain), mixes.then_some(problem)].into_iter().flatten() {
        for order in [&by_size, &by_memory, &own] {
            let found = pass(of, fits, order);
            if better(&found, &best) {
                best = Some(found);
            }
            if best.as_ref().is_some_and(|b| b.left.is_empty() && b.used(problem) <= at_least) {
                return best.unwrap_or_default();
            }
        }
        // GPUs packed one by one, the fullest first, where nothing ties VMs to hosts.
        for packed in bound::packed(of, fits) {
            let found = pass_packed(of, fits, &packed, &by_size);
            if better(&found, &best) {
                best = Some(found);
            }
        }
        if best.as_ref().is_some_and(|b| b.left.is_empty()) {
            break;
        }
    }
    best.unwrap_or_default()
}

/// GPUs filled with given contents, then whatever is left as ever.
fn pass_packed(
    problem: &Problem,
    fits: &mut Fits,
    packed: &[(&'static str, Contents, usize)],
    order: &[usize],
) -> Placement {
    let mut now = Placement::new(problem);
    // Wants of one vGPU each, by type.
    let mut waiting: BTreeMap<&'static str, Vec<usize>> = BTreeMap::new();
    for at in order.iter().rev() {
        let want = &problem.wants[*at];
        if let [Part::Vgpu(vgpu)] = want.parts.as_slice()
            && want.host.is_none()
            && want.apart.is_empty()
        {
            waiting.entry(vgpu.name).or_default().push(*at);
        }
    }
    let mut free: Vec<(usize, usize)> = problem
        .hosts
        .iter()
        .enumerate()
        .flat_map(|(h, host)| (0..host.gpus.len()).map(move |g| (h, g)))
        .filter(|(h, g)| now.is_empty(problem, *h, *g))
        .collect();
    for (token, contents, times) in packed {
        for _ in 0..*times {
            let Some(at) = free.iter().position(|(h, g)| {
                let gpu = &problem.hosts[*h].gpus[*g];
                gpu.model.token == *token && fits.fit(gpu, contents)
            }) else {
                break;
            };
            let (host, gpu) = free.remove(at);
            for (vgpu, n) in &contents.0 {
                for _ in 0..*n {
                    let Some(want) = waiting.get_mut(vgpu.name).and_then(Vec::pop) else { continue };
                    if now.host_takes(problem, host, &problem.wants[want]) {
                        now.put(problem, want, Placed { host, gpus: vec![gpu] });
                    }
                }
            }
        }
    }
    rest(problem, fits, now, order)
}

/// Places who has no place yet, and moves nobody.
pub fn without_moves(problem: &Problem, mut now: Placement) -> Placement {
    let mut fits = Fits::new(problem.series_mix);
    let order = hardest_first(problem);
    now.left.clear();
    rest(problem, &mut fits, now, &order)
}

fn rest(problem: &Problem, fits: &mut Fits, mut now: Placement, order: &[usize]) -> Placement {
    let mut alike = Alike::new(problem, &now);
    let whole: Vec<(usize, usize)> = (0..problem.hosts.len())
        .flat_map(|h| (0..problem.hosts[h].gpus.len()).map(move |g| (h, g)))
        .filter(|(h, g)| now.whole[*h][*g])
        .collect();
    for at in whole {
        let holds = now.contents[at.0][at.1].clone();
        alike.moved(problem, at, &holds, None);
    }
    let wanted = wanted(problem);
    // A wish like one that found nothing finds nothing either: room only gets less.
    let mut nothing: Option<usize> = None;
    for at in order.iter().copied().filter(|at| now.at[*at].is_none()).collect::<Vec<_>>() {
        let want = &problem.wants[at];
        if nothing.is_some_and(|last| problem.wants[last].is_like(want)) {
            now.left.push(at);
            continue;
        }
        let found = match want.parts.as_slice() {
            [part] => single(problem, &now, &alike, fits, want, part, &wanted),
            _ => (0..problem.hosts.len())
                .filter(|host| now.host_takes(problem, *host, want))
                .filter_map(|host| on_host(problem, &now, fits, host, want, &wanted))
                .min_by_key(|(_, total)| *total)
                .map(|(placed, _)| placed),
        };
        let Some(placed) = found else {
            nothing = Some(at);
            now.left.push(at);
            continue;
        };
        let host = placed.host;
        let touched: BTreeSet<usize> = placed.gpus.iter().copied().collect();
        let before: Vec<(usize, Contents)> =
            touched.iter().map(|g| (*g, now.contents[host][*g].clone())).collect();
        now.put(problem, at, placed);
        for (g, before) in before {
            let after = (!now.whole[host][g]).then(|| now.contents[host][g].clone());
            alike.moved(problem, (host, g), &before, after.as_ref());
        }
    }
    now.left.sort_unstable();
    now
}
