//! Counts that no placement can beat: how many GPUs of a kind a set of wishes takes at least.
//!
//! Each vGPU type is given a price. The dearest contents that one GPU can have cost so much; all wishes
//! together cost so much more: that quotient is a lower bound, whatever the prices are. Prices are sought
//! that make it large, and whole numbers are compared in the end, so that the proof does not hang on
//! rounding.

use super::fits::Fits;
use super::gpu::{Contents, Gpu, Modes};
use super::problem::{Host, Part, Problem, Want};
use std::collections::BTreeMap;
use vsgpu_core::knowledge::placement;
use vsgpu_core::knowledge::vgpu_types::VgpuType;
use vsgpu_core::words::counted;

/// Contents that are enumerated for one kind of GPU, at most.
const MOST_CONTENTS: usize = 4000;
/// Rounds in which prices are bettered.
const ROUNDS: usize = 2000;
const SCALE: f64 = 1_000_000.0;

/// GPUs of one kind.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Need {
    /// Name of the board; `any GPU` for whole GPUs of any kind.
    pub gpu: String,
    /// How many it takes at least.
    pub at_least: usize,
    /// How many are there.
    pub there: usize,
    #[serde(skip)]
    pub(super) token: &'static str,
}

/// Everything that is wanted of, or lies on, GPUs of a kind.
fn items(problem: &Problem, token: &str) -> Vec<(&'static VgpuType, u64)> {
    let mut all = Contents::default();
    for vgpu in problem.wants.iter().flat_map(Want::vgpus).filter(|t| t.token.eq_ignore_ascii_case(token)) {
        all.add(vgpu);
    }
    for gpu in problem.gpus().filter(|g| g.model.token.eq_ignore_ascii_case(token)) {
        for (vgpu, n) in &gpu.holds.0 {
            (0..*n).for_each(|_| all.add(vgpu));
        }
    }
    all.0
}

/// A GPU that may do whatever one of its kind may.
fn freest(problem: &Problem, token: &str) -> Option<Gpu> {
    let mut of_kind = problem.gpus().filter(|g| g.model.token.eq_ignore_ascii_case(token));
    let mut gpu = of_kind.next()?.clone();
    for other in of_kind {
        gpu.modes = Modes {
            same_size: gpu.modes.same_size | other.modes.same_size,
            mixed_size: gpu.modes.mixed_size | other.modes.mixed_size,
            mig: gpu.modes.mig | other.modes.mig,
        };
    }
    gpu.holds = Contents::default();
    Some(gpu)
}

pub fn needs(problem: &Problem, fits: &mut Fits) -> Vec<Need> {
    let mut kinds: BTreeMap<&'static str, Need> = BTreeMap::new();
    for gpu in problem.gpus() {
        let need = kinds.entry(gpu.model.token).or_insert_with(|| Need {
            gpu: gpu.model.name.into(),
            at_least: 0,
            there: 0,
            token: gpu.model.token,
        });
        need.there += usize::from(!gpu.taken);
    }
    for need in kinds.values_mut() {
        let items = items(problem, need.token);
        let Some(gpu) = freest(problem, need.token) else { continue };
        for mig in [false, true] {
            let of: Vec<_> = items.iter().filter(|(t, _)| t.mig == mig).copied().collect();
            need.at_least += at_least(&gpu, &of, fits);
        }
    }
    let mut any = 0;
    for part in problem.wants.iter().flat_map(|w| &w.parts) {
        let Part::Whole(name) = part else { continue };
        let of_kind: Vec<&'static str> = problem
            .gpus()
            .filter(|g| name.is_some() && part.is_for(g.model))
            .map(|g| g.model.token)
            .collect();
        // A name that several boards have is counted with those of any kind.
        match of_kind.first().filter(|first| of_kind.iter().all(|t| t == *first)) {
            Some(token) => kinds.entry(token).and_modify(|need| need.at_least += 1),
            None => {
                any += 1;
                continue;
            }
        };
    }
    let mut all: Vec<Need> = kinds.into_values().filter(|need| need.at_least > 0).collect();
    if any > 0 {
        let there = problem.gpus().filter(|g| !g.taken).count();
        all.push(Need { gpu: "any GPU".into(), at_least: any, there, token: "" });
    }
    all
}

fn at_least(gpu: &Gpu, items: &[(&'static VgpuType, u64)], fits: &mut Fits) -> usize {
    if items.is_empty() {
        return 0;
    }
    let by_memory = {
        let wanted: u64 = items.iter().map(|(t, n)| t.size_mib * n).sum();
        wanted.div_ceil((gpu.model.memory_gib * 1024).max(1))
    };
    let by_size = if gpu.modes.mixed_size || items[0].0.mig { 0 } else { same_size(items) };
    let by_price = fillings(gpu, items, fits).map_or(0, |all| prices(items, &all).bound);
    by_memory.max(by_size).max(by_price) as usize
}

/// Sizes never share a GPU.
fn same_size(items: &[(&'static VgpuType, u64)]) -> u64 {
    let mut sizes: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (vgpu, n) in items {
        let size = sizes.entry(vgpu.size_mib).or_default();
        *size = (size.0 + n, size.1.max(placement::most_of_one_size(vgpu)));
    }
    sizes.values().map(|(n, most)| n.div_ceil((*most).max(1))).sum()
}

/// Every way to fill a GPU with these types, how many of each, to which nothing can be added; `None` where
/// there are too many.
pub fn fillings(gpu: &Gpu, items: &[(&'static VgpuType, u64)], fits: &mut Fits) -> Option<Vec<Vec<u64>>> {
    let mut all = vec![];
    let mut now = vec![0; items.len()];
    let mut looked = 0;
    fill(gpu, items, fits, &mut now, 0, &Contents::default(), &mut all, &mut looked).then_some(all)
}

#[expect(clippy::too_many_arguments, reason = "one recursion over a few buffers")]
fn fill(
    gpu: &Gpu,
    items: &[(&'static VgpuType, u64)],
    fits: &mut Fits,
    now: &mut Vec<u64>,
    from: usize,
    contents: &Contents,
    all: &mut Vec<Vec<u64>>,
    looked: &mut usize,
) -> bool {
    *looked += 1;
    if *looked > MOST_CONTENTS {
        return false;
    }
    let mut grows = false;
    for at in 0..items.len() {
        let more = contents.with(items[at].0);
        if !fits.fit(gpu, &more) {
            continue;
        }
        grows = true;
        if at >= from {
            now[at] += 1;
            let done = fill(gpu, items, fits, now, at, &more, all, looked);
            now[at] -= 1;
            if !done {
                return false;
            }
        }
    }
    if !grows {
        all.push(now.clone());
    }
    true
}

/// What a search for prices found.
struct Priced {
    prices: Vec<u64>,
    bound: u64,
    /// How often each contents were the dearest: about how many GPUs of each a good placement has, to scale.
    often: Vec<f64>,
}

/// Prices: what the dearest contents have much of becomes cheaper, round by round (multiplicative weights).
fn prices(items: &[(&'static VgpuType, u64)], contents: &[Vec<u64>]) -> Priced {
    let sure = |y: &[f64]| {
        let top = y.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let whole: Vec<u64> = y.iter().map(|y| (y / top * SCALE).round() as u64).collect();
        let cost = |c: &Vec<u64>| c.iter().zip(&whole).map(|(n, y)| n * y).sum::<u64>();
        let most = contents.iter().map(cost).max().unwrap_or(0);
        let total: u64 = items.iter().zip(&whole).map(|((_, n), y)| n * y).sum();
        let bound = if most == 0 { 0 } else { total.div_ceil(most) };
        (whole, bound)
    };
    let sizes: Vec<f64> = items.iter().map(|(t, _)| t.size_mib as f64).collect();
    let (prices, bound) = sure(&sizes);
    let mut best = Priced { prices, bound, often: vec![0.0; contents.len()] };
    let wanted: Vec<f64> = items.iter().map(|(_, n)| (*n).max(1) as f64).collect();
    let mut weight = vec![1.0_f64; items.len()];
    for round in 0..ROUNDS {
        let y: Vec<f64> = weight.iter().zip(&wanted).map(|(w, n)| w / n).collect();
        let cost = |c: &Vec<u64>| c.iter().zip(&y).map(|(n, y)| *n as f64 * y).sum::<f64>();
        let costs = contents.iter().map(cost).enumerate();
        let Some((dearest, _)) = costs.max_by(|a, b| a.1.total_cmp(&b.1)) else { break };
        if round % 10 == 0 {
            let (prices, bound) = sure(&y);
            if bound > best.bound {
                (best.prices, best.bound) = (prices, bound);
            }
        }
        // So many of it that no item is met more than once over.
        let shares: Vec<f64> = contents[dearest].iter().zip(&wanted).map(|(n, of)| *n as f64 / of).collect();
        let most = shares.iter().copied().fold(0.0, f64::max);
        if most <= 0.0 {
            break;
        }
        let step = 0.5 / (1.0 + round as f64 / 20.0).sqrt();
        best.often[dearest] += step / most;
        weight.iter_mut().zip(&shares).for_each(|(w, share)| *w *= (-step * share / most).exp());
        let top = weight.iter().copied().fold(0.0, f64::max);
        weight.iter_mut().for_each(|w| *w = (*w / top).max(1e-12));
    }
    best
}

/// How often each contents are to be used so that everything is met, as far as whole numbers go.
fn share_out(items: &[(&'static VgpuType, u64)], contents: &[Vec<u64>], often: &[f64]) -> Vec<u64> {
    let met = |at: usize| {
        let sum: f64 = contents.iter().zip(often).map(|(c, x)| c[at] as f64 * x).sum();
        sum / items[at].1.max(1) as f64
    };
    let least = (0..items.len()).map(met).fold(f64::INFINITY, f64::min);
    if !least.is_finite() || least <= 0.0 {
        return vec![0; contents.len()];
    }
    often.iter().map(|x| (x / least).floor() as u64).collect()
}

/// GPUs filled the best way by these prices: token, contents, how many times. For wishes of one vGPU each.
pub(super) fn packed(problem: &Problem, fits: &mut Fits) -> Vec<Vec<(&'static str, Contents, usize)>> {
    let mut all = vec![vec![], vec![]];
    let mut tokens: Vec<&'static str> = problem.gpus().map(|g| g.model.token).collect();
    tokens.sort_unstable();
    tokens.dedup();
    for token in tokens {
        let Some(gpu) = freest(problem, token) else { continue };
        for mig in [false, true] {
            let mut counts = Contents::default();
            let single = problem.wants.iter().filter(|w| w.parts.len() == 1);
            for vgpu in single.flat_map(Want::vgpus).filter(|t| t.token == token && t.mig == mig) {
                counts.add(vgpu);
            }
            if counts.0.len() < 2 {
                continue;
            }
            let Some(contents) = fillings(&gpu, &counts.0, fits) else { continue };
            let priced = prices(&counts.0, &contents);
            let begun = [vec![0; contents.len()], share_out(&counts.0, &contents, &priced.often)];
            for (way, begun) in all.iter_mut().zip(begun) {
                fill_by(&counts.0, &contents, &priced.prices, &begun, &mut |list, times| {
                    way.push((token, Contents::of(&list), times));
                });
            }
        }
    }
    all.retain(|way| !way.is_empty());
    all
}

/// First so many of each contents, then always those that are worth most of what is still to be placed.
fn fill_by(
    items: &[(&'static VgpuType, u64)],
    contents: &[Vec<u64>],
    prices: &[u64],
    begun: &[u64],
    take: &mut impl FnMut(Vec<(&'static VgpuType, u64)>, usize),
) {
    let mut left: Vec<u64> = items.iter().map(|(_, n)| *n).collect();
    let mut begun = begun.to_vec();
    loop {
        let part =
            |c: &[u64], left: &[u64]| -> Vec<u64> { c.iter().zip(left).map(|(n, l)| *n.min(l)).collect() };
        let worth = |c: &Vec<u64>| part(c, &left).iter().zip(prices).map(|(n, y)| n * (y + 1)).sum::<u64>();
        let next = begun.iter().position(|n| *n > 0);
        let Some(at) = next.or_else(|| (0..contents.len()).max_by_key(|at| worth(&contents[*at]))) else {
            break;
        };
        let some = part(&contents[at], &left);
        let most = some.iter().zip(&left).filter(|(n, _)| **n > 0).map(|(n, l)| l / n).min().unwrap_or(0);
        let times = if next.is_some() { most.min(begun[at]) } else { most };
        if next.is_some() {
            begun[at] -= times;
            if times == 0 || most == times {
                begun[at] = 0;
            }
        }
        if times == 0 {
            if next.is_none() {
                break;
            }
            continue;
        }
        left.iter_mut().zip(&some).for_each(|(l, n)| *l -= n * times);
        take(items.iter().zip(&some).map(|((t, _), n)| (*t, *n)).collect(), times as usize);
    }
}

/// Why it cannot fit, by counting alone.
pub(super) fn refuted(problem: &Problem, needs: &[Need]) -> Option<String> {
    if let Some(need) = needs.iter().find(|need| need.at_least > need.there) {
        let word = if need.there == 1 { "is" } else { "are" };
        return Some(format!(
            "that takes at least {} ({}), {} {word} there",
            counted(need.at_least, "GPU"),
            need.gpu,
            need.there
        ));
    }
    let total: usize = needs.iter().map(|n| n.at_least).sum();
    let there = problem.gpus().filter(|g| !g.taken).count();
    if total > there {
        return Some(format!("that takes at least {}, {there} are there", counted(total, "GPU")));
    }
    if let Some((n, want)) = several_whole(problem) {
        return Some(format!(
            "a VM is on one host: the hosts have GPUs for {n} {} with {}, more are wanted",
            if n == 1 { "VM" } else { "VMs" },
            want
        ));
    }
    let memory: Option<u64> = problem.hosts.iter().map(|h| h.memory_mib).sum();
    let wanted: u64 = problem.wants.iter().filter_map(|w| w.memory_mib).sum();
    if let Some(memory) = memory.filter(|memory| wanted > *memory) {
        return Some(format!(
            "the memory of VMs with GPUs is reserved whole: {} GiB are wanted, the hosts have {} GiB for VMs",
            wanted / 1024,
            memory / 1024
        ));
    }
    let mut apart: BTreeMap<&str, usize> = BTreeMap::new();
    for word in problem.wants.iter().flat_map(|w| w.apart.iter().map(String::as_str)) {
        *apart.entry(word).or_default() += 1;
    }
    let (word, n) = apart.into_iter().find(|(_, n)| *n > problem.hosts.len())?;
    Some(format!(
        "{n} VMs ({word}) are to be on hosts of their own, and there {} {}",
        if problem.hosts.len() == 1 { "is" } else { "are" },
        problem.hosts.len()
    ))
}

/// VMs of which each part takes a GPU of its own: how many all hosts together have GPUs for, where that is too few.
fn several_whole(problem: &Problem) -> Option<(usize, String)> {
    let takes_a_gpu = |part: &Part| match part {
        Part::Whole(_) => true,
        Part::Vgpu(vgpu) => !vgpu.mig && placement::most_of_one_size(vgpu) == 1,
    };
    let mut kinds: Vec<(&Want, usize)> = vec![];
    for want in problem.wants.iter().filter(|w| w.parts.len() > 1 && w.parts.iter().all(takes_a_gpu)) {
        match kinds.iter_mut().find(|(known, _)| known.is_like(want)) {
            Some((_, n)) => *n += 1,
            None => kinds.push((want, 1)),
        }
    }
    kinds.into_iter().find_map(|(want, n)| {
        let first = want.parts.first()?;
        if !want.parts.iter().all(|part| part == first) {
            return None;
        }
        let of_host = |host: &Host| {
            host.gpus.iter().filter(|g| g.is_free() && first.is_for(g.model)).count() / want.parts.len()
        };
        let most: usize = problem.hosts.iter().map(of_host).sum();
        (most < n).then(|| (most, want.shown()))
    })
}
