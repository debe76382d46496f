//! What one GPU can hold at once, and where on it each vGPU would lie. Answers are kept: the same contents are asked for
//! thousands of times.

use super::gpu::{Contents, Gpu, Mode, Modes};
use std::collections::{HashMap, HashSet};
use vsgpu_core::knowledge::placement;
use vsgpu_core::knowledge::vgpu_types::VgpuType;

/// Where a vGPU lies: on a GPU that is divided by MIG or of mixed sizes its place, else nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    pub vgpu: &'static str,
    /// First unit of memory (MIG), or GB (mixed-size).
    pub start: Option<usize>,
    /// How much of the GPU it takes, of `Held::of`.
    pub size: usize,
}

/// How contents lie on a GPU.
#[derive(Clone, Debug)]
pub struct Held {
    pub mode: Mode,
    pub spots: Vec<Spot>,
    /// What sizes and places are parts of.
    pub of: usize,
}

type Key = (&'static str, Modes, Vec<(usize, u64)>);

/// Answers whether contents fit on a GPU.
pub struct Fits {
    known: HashMap<Key, Option<Held>>,
    series_mix: bool,
    /// No search for places was cut off.
    sure: bool,
}

/// Places that are tried for one GPU.
const TRIES: usize = 500_000;

impl Fits {
    /// `series_mix`: vGPUs of one size but of several series may share a GPU.
    pub fn new(series_mix: bool) -> Self {
        Self { known: HashMap::new(), series_mix, sure: true }
    }

    pub fn is_sure(&self) -> bool {
        self.sure
    }

    /// How these would lie on this GPU; `None` where they do not fit.
    pub fn held(&mut self, gpu: &Gpu, contents: &Contents) -> Option<Held> {
        let key = (gpu.model.token, gpu.modes, contents.key());
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let answer = self.look(gpu, contents);
        self.known.insert(key, answer.clone());
        answer
    }

    /// Whether they fit.
    pub fn fit(&mut self, gpu: &Gpu, contents: &Contents) -> bool {
        let key = (gpu.model.token, gpu.modes, contents.key());
        match self.known.get(&key) {
            Some(known) => known.is_some(),
            None => self.held(gpu, contents).is_some(),
        }
    }

    fn look(&mut self, gpu: &Gpu, contents: &Contents) -> Option<Held> {
        if contents.0.iter().any(|(t, _)| !t.token.eq_ignore_ascii_case(gpu.model.token)) {
            return None;
        }
        let mig = contents.0.iter().filter(|(t, _)| t.mig).count();
        if mig > 0 {
            return (mig == contents.0.len() && gpu.modes.mig).then(|| self.divided(gpu, contents)).flatten();
        }
        let same = gpu.modes.same_size.then(|| self.one_size(gpu, contents)).flatten();
        same.or_else(|| gpu.modes.mixed_size.then(|| self.mixed(gpu, contents)).flatten())
    }

    fn one_size(&self, gpu: &Gpu, contents: &Contents) -> Option<Held> {
        let (first, _) = contents.0.first()?;
        let alike =
            |t: &VgpuType| t.size_mib == first.size_mib && (self.series_mix || t.series == first.series);
        let most = contents.0.iter().map(|(t, _)| placement::most_of_one_size(t)).min()?;
        if !contents.0.iter().all(|(t, _)| alike(t)) || contents.count() > most {
            return None;
        }
        let size = first.size_mib as usize;
        let spots = contents.each().iter().map(|t| Spot { vgpu: t.name, start: None, size }).collect();
        Some(Held { mode: Mode::SameSize, spots, of: (gpu.model.memory_gib * 1024) as usize })
    }

    fn mixed(&mut self, gpu: &Gpu, contents: &Contents) -> Option<Held> {
        let region = placement::region_gb(gpu.model.token);
        let each = contents.each();
        // Types below 1 GB have no place in the guide's tables.
        if each.iter().any(|t| t.size_mib < 1024) || contents.size_mib() > region * 1024 {
            return None;
        }
        let items: Vec<Interval> = each
            .iter()
            .map(|t| {
                let size = t.size_mib.div_ceil(1024);
                (size as usize, placement::mixed_starts(gpu.model.token, region, size))
            })
            .collect();
        let starts = self.lay(&items, region as usize)?;
        let spots = each
            .iter()
            .zip(&items)
            .zip(starts)
            .map(|((t, (size, _)), start)| Spot { vgpu: t.name, start: Some(start), size: *size })
            .collect();
        Some(Held { mode: Mode::MixedSize, spots, of: region as usize })
    }

    fn divided(&mut self, gpu: &Gpu, contents: &Contents) -> Option<Held> {
        // Types that share an instance fill it before another one is made.
        let mut items = vec![];
        let mut names = vec![];
        let mut count: HashMap<&str, u64> = HashMap::new();
        let mut list: Vec<_> = contents.0.clone();
        list.sort_by_key(|(t, _)| std::cmp::Reverse(t.size_mib));
        for (vgpu, n) in list {
            let (instance, share) = placement::instance_of(vgpu)?;
            let instances = n.div_ceil(share);
            let total = count.entry(instance.profile).or_default();
            *total += instances;
            if *total > instance.max {
                return None;
            }
            let mut rest = n;
            for _ in 0..instances {
                items.push((instance.units, instance.starts.clone()));
                names.push((vgpu.name, rest.min(share)));
                rest = rest.saturating_sub(share);
            }
        }
        // The largest first, as the search for places wants it.
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by_key(|at| std::cmp::Reverse(items[*at].0));
        let sorted: Vec<_> = order.iter().map(|at| items[*at].clone()).collect();
        let units = placement::units(gpu.model.token);
        let starts = self.lay(&sorted, units)?;
        let mut spots = vec![];
        for (at, start) in order.into_iter().zip(starts) {
            let (name, n) = names[at];
            for _ in 0..n {
                spots.push(Spot { vgpu: name, start: Some(start), size: items[at].0 });
            }
        }
        Some(Held { mode: Mode::Mig, spots, of: units })
    }

    /// Places for intervals, none on another: `(size, starts)` each.
    fn lay(&mut self, items: &[Interval], region: usize) -> Option<Vec<usize>> {
        // Alike ones are counted: which of them is which does not matter.
        let mut kinds: Vec<Alike<'_>> = vec![];
        for (at, item) in items.iter().enumerate() {
            match kinds.iter_mut().find(|(known, _)| *known == item) {
                Some((_, of_kind)) => of_kind.push(at),
                None => kinds.push((item, vec![at])),
            }
        }
        let mut left: Vec<u8> = kinds.iter().map(|(_, of_kind)| of_kind.len().min(255) as u8).collect();
        let mut search = Lay { kinds: &kinds, region, placed: vec![], dead: HashSet::new(), tries: TRIES };
        let found = search.from(0, &mut left);
        self.sure &= search.tries > 0;
        if !found {
            return None;
        }
        let placed = search.placed;
        let mut starts = vec![0; items.len()];
        let mut next = vec![0; kinds.len()];
        for (kind, start) in placed {
            starts[kinds[kind].1[next[kind]]] = start;
            next[kind] += 1;
        }
        Some(starts)
    }
}

/// How long, and where it may begin.
type Interval = (usize, Vec<usize>);
/// One of these, and which they are.
type Alike<'a> = (&'a Interval, Vec<usize>);

/// Goes along the GPU from its beginning: at each place something begins there, or nothing does. What is left over at a
/// place decides all the rest, so nothing is looked at twice.
struct Lay<'a> {
    kinds: &'a [Alike<'a>],
    region: usize,
    placed: Vec<(usize, usize)>,
    dead: HashSet<(usize, Vec<u8>)>,
    tries: usize,
}

impl Lay<'_> {
    fn from(&mut self, place: usize, left: &mut Vec<u8>) -> bool {
        let wanted: usize = left.iter().zip(self.kinds).map(|(n, (item, _))| usize::from(*n) * item.0).sum();
        if wanted == 0 {
            return true;
        }
        if self.tries == 0
            || wanted > self.region.saturating_sub(place)
            || self.dead.contains(&(place, left.clone()))
        {
            return false;
        }
        self.tries -= 1;
        // The next place at which anything that is left may begin.
        let next = |from: usize, left: &[u8]| {
            let of_kind = |(n, (item, _)): (&u8, &Alike<'_>)| {
                if *n == 0 { None } else { item.1.iter().copied().filter(|start| *start >= from).min() }
            };
            left.iter().zip(self.kinds).filter_map(of_kind).min()
        };
        let Some(at) = next(place, left) else {
            self.dead.insert((place, left.clone()));
            return false;
        };
        for kind in 0..self.kinds.len() {
            let (size, starts) = self.kinds[kind].0;
            if left[kind] == 0 || !starts.contains(&at) || at + size > self.region {
                continue;
            }
            left[kind] -= 1;
            self.placed.push((kind, at));
            if self.from(at + size, left) {
                return true;
            }
            self.placed.pop();
            left[kind] += 1;
        }
        if self.from(at + 1, left) {
            return true;
        }
        self.dead.insert((place, left.clone()));
        false
    }
}
