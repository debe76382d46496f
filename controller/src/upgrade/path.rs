//! The way of one host and its guests from release to release: the fewest reboots of the host, then the fewest rounds,
//! and every pair judged by the checks that `plan` and `vsgpu compat` use.

use crate::compat::{self, Combination, Finding, GuestDriver, Stated};
use crate::error::{Error, Kind};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::knowledge::pairs::{self, Says};
use vsgpu_core::knowledge::releases::{self, Release};
use vsgpu_core::units::DriverVersion;

/// One reboot of a host more costs more than any number of rounds.
const HOST_ROUND: u32 = 1_000;
const GUEST_ROUND: u32 = 10;
/// A pair that works with limits, or whose rule is not certain, where another way is as short.
const UNSURE: u32 = 1;

/// One round of one host: it and its guests, or only the guests.
#[derive(Clone, Debug)]
pub struct Stage {
    pub release: &'static Release,
    /// The host changes, and reboots.
    pub host: bool,
    /// The guests' drivers change.
    pub guests: bool,
    /// Pairs while the host is new and its guests are not.
    pub between: Vec<Pair>,
    /// Pairs at the end of it.
    pub after: Vec<Pair>,
}

/// A host and a guest that are together for a while.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pair {
    /// `580.178.05 (vGPU 19.6)`.
    pub host: String,
    pub guest: String,
    /// What NVIDIA says of it, in short.
    pub says: String,
    /// The source was seen.
    pub certain: bool,
    pub source: String,
}

/// Guests of one kind: for the checks they are one.
#[derive(Clone)]
pub struct Class {
    combination: Combination,
    runs: DriverVersion,
    managed: bool,
    key: String,
}

impl Class {
    pub fn new(combination: &Combination, runs: &DriverVersion, managed: bool) -> Self {
        let c = combination;
        let profiles: Vec<&String> = c.profiles.iter().map(|p| &p.value).collect();
        let key = format!(
            "{runs} {managed} {profiles:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            c.license.as_ref().map(|l| l.value),
            c.feature_type.as_ref().map(|f| f.value),
            c.product,
            c.cuda.as_ref().map(|c| &c.value),
            c.module.as_ref().map(|m| m.value),
            c.host_gpus,
        );
        Self { combination: c.clone(), runs: runs.clone(), managed, key }
    }

    /// What is found against it with these versions. A driver for vGPUs is meant: that another kind does not work is
    /// found before.
    fn findings(&self, manager: &DriverVersion, guest: &DriverVersion) -> Vec<Finding> {
        let mut c = self.combination.clone();
        let by = c.manager.as_ref().map_or("the host".into(), |m| m.by.clone());
        c.manager = Some(Stated::new(manager.clone(), by));
        c.manager_wished = true;
        let by = c.guest.as_ref().map_or("the guest".into(), |g| g.by.clone());
        c.guest = Some(Stated::new(GuestDriver { version: guest.clone(), grid: Some(true) }, by));
        // The host's list is one of the manager that runs.
        c.supported = None;
        compat::judge_one(&c)
    }
}

/// A way, with what is not certain on it.
#[derive(Clone, Debug)]
pub struct Way {
    pub stages: Vec<Stage>,
    pub warnings: Vec<Finding>,
}

/// Ways that were found already, by what they depend on: a fleet has few kinds of hosts.
#[derive(Default)]
pub struct Known(BTreeMap<String, Result<Way, Vec<Error>>>);

impl Known {
    pub fn way(
        &mut self,
        host: Option<&Combination>,
        runs: &DriverVersion,
        classes: &[Class],
        to: &'static Release,
        at_hand: &[&'static Release],
    ) -> &Result<Way, Vec<Error>> {
        let kinds: BTreeMap<&str, &Class> = classes.iter().map(|class| (class.key.as_str(), class)).collect();
        let esxi = host.and_then(|c| c.esxi.as_ref()).map(|esxi| esxi.value.as_str());
        let gpus = host.map(|c| &c.host_gpus);
        let key = format!("{runs} {esxi:?} {gpus:?} {:?}", kinds.keys());
        self.0.entry(key).or_insert_with(|| {
            let search = Search {
                host: host.cloned(),
                runs: runs.clone(),
                classes: kinds.into_values().cloned().collect(),
                candidates: candidates(runs, to, at_hand),
                to,
            };
            search.way()
        })
    }
}

/// The target, and of each older major the release at hand, else the newest.
fn candidates(
    runs: &DriverVersion,
    to: &'static Release,
    at_hand: &[&'static Release],
) -> Vec<&'static Release> {
    let from = releases::of_branch(runs.branch()).map_or(0, |(major, _)| major);
    let one = |major: u32| {
        let usable = |r: &&&'static Release| r.major == major && !r.withdrawn && r.guest.is_some();
        let own = releases::of_host(runs).into_iter().rfind(|r| r.major == major && r.guest.is_some());
        let mine = at_hand.iter().filter(usable).max_by_key(|r| &r.host).copied();
        mine.or(own).or_else(|| releases::all().iter().rfind(|r| usable(&r)))
    };
    (from..to.major).filter_map(one).chain([to]).collect()
}

/// Where a host and its guests are: at the start, or at a candidate.
type At = (Option<usize>, Option<usize>);

struct Search {
    host: Option<Combination>,
    runs: DriverVersion,
    classes: Vec<Class>,
    candidates: Vec<&'static Release>,
    to: &'static Release,
}

/// One move and what it is judged by.
struct Move {
    to: At,
    stage: Stage,
    cost: u32,
    warnings: Vec<Finding>,
}

impl Search {
    fn last(&self) -> usize {
        self.candidates.len() - 1
    }

    fn managed(&self) -> impl Iterator<Item = &Class> {
        self.classes.iter().filter(|class| class.managed)
    }

    fn start(&self) -> At {
        let host = (self.runs == self.to.host).then(|| self.last());
        let there = self.managed().all(|class| Some(&class.runs) == self.to.guest.as_ref());
        (host, there.then(|| self.last()))
    }

    fn host_version(&self, at: Option<usize>) -> &DriverVersion {
        at.map_or(&self.runs, |at| &self.candidates[at].host)
    }

    fn guest_version<'a>(&'a self, class: &'a Class, at: Option<usize>) -> &'a DriverVersion {
        match at.filter(|_| class.managed) {
            Some(at) => self.candidates[at].guest.as_ref().unwrap_or(&class.runs),
            None => &class.runs,
        }
    }

    /// What is found against these together, beyond what is so today: that is another verb's matter.
    fn judged(&self, at: At) -> Vec<Finding> {
        let mut all = vec![];
        for class in &self.classes {
            let today: BTreeSet<&str> =
                class.findings(&self.runs, &class.runs).into_iter().map(|f| f.constraint).collect();
            let then = class.findings(self.host_version(at.0), self.guest_version(class, at.1));
            // A pair must go together, whatever is so today.
            all.extend(then.into_iter().filter(|f| f.constraint == PAIR || !today.contains(f.constraint)));
        }
        all
    }

    /// What is found against the host alone.
    fn judged_host(&self, at: usize) -> Vec<Finding> {
        let Some(mut c) = self.host.clone() else { return vec![] };
        let by = c.manager.as_ref().map_or("the host".into(), |m| m.by.clone());
        c.manager = Some(Stated::new(self.candidates[at].host.clone(), by));
        c.manager_wished = true;
        c.releases.0 = Some(self.candidates[at]);
        compat::judge_one(&c)
    }

    fn pairs(&self, at: At) -> Vec<Pair> {
        let pair = |class: &Class| {
            let (host, guest) = (self.host_version(at.0), self.guest_version(class, at.1));
            said(host, guest)
        };
        let all: BTreeSet<Pair> = self.classes.iter().map(pair).collect();
        all.into_iter().collect()
    }

    /// The moves from somewhere. A pair that only an uncertain source speaks against is none: another way may be had.
    fn moves(&self, from: At) -> Vec<Move> {
        let mut all = vec![];
        let any = self.managed().next().is_some();
        for (at, release) in self.candidates.iter().enumerate() {
            let mut step = |to: At, host: bool, judged: Vec<Finding>, between: Vec<Pair>| {
                if judged.iter().any(|f| f.refused() || f.constraint == PAIR) {
                    return;
                }
                let after = self.pairs(to);
                let limited = between.iter().chain(&after).filter(|p| !p.certain).count();
                let cost = if host { HOST_ROUND } else { GUEST_ROUND }
                    + UNSURE * u32::try_from(limited.min(8)).unwrap_or(8);
                let guests = any && from.1 != to.1;
                let stage = Stage { release, host, guests, between, after };
                all.push(Move { to, stage, cost, warnings: judged });
            };
            if release.host > *self.host_version(from.0) {
                let between = (Some(at), from.1);
                let to = (Some(at), if any { Some(at) } else { from.1 });
                let mut judged = self.judged_host(at);
                judged.extend(self.judged(between));
                judged.extend(self.judged(to));
                let pairs = if from.1 == to.1 { vec![] } else { self.pairs(between) };
                step(to, true, judged, pairs);
            } else if any && from.1 != Some(at) && release.guest.is_some() {
                let forward = from.1.is_none_or(|now| now < at);
                let to = (from.0, Some(at));
                if forward {
                    step(to, false, self.judged(to), vec![]);
                }
            }
        }
        all
    }

    fn way(&self) -> Result<Way, Vec<Error>> {
        self.shortest().ok_or_else(|| self.why_not())
    }

    /// The cheapest way. A dozen majors make some hundred places.
    fn shortest(&self) -> Option<Way> {
        let start = self.start();
        let mut best: BTreeMap<At, (u32, Way)> =
            BTreeMap::from([(start, (0, Way { stages: vec![], warnings: vec![] }))]);
        let mut open: BTreeSet<(u32, At)> = BTreeSet::from([(0, start)]);
        while let Some((cost, at)) = open.pop_first() {
            let (known, way) = best.get(&at)?.clone();
            let there =
                at.0 == Some(self.last()) && (at.1 == Some(self.last()) || self.managed().next().is_none());
            if there {
                return Some(way);
            }
            if cost > known {
                continue;
            }
            for one in self.moves(at) {
                let total = cost + one.cost;
                if best.get(&one.to).is_some_and(|(known, _)| *known <= total) {
                    continue;
                }
                let mut longer = way.clone();
                longer.stages.push(one.stage);
                longer.warnings.extend(one.warnings);
                best.insert(one.to, (total, longer));
                open.insert((total, one.to));
            }
        }
        None
    }

    /// What stands against the target itself; where nothing does, it is the way there.
    fn why_not(&self) -> Vec<Error> {
        let last = self.last();
        let mut against = self.judged_host(last);
        against.extend(self.judged((Some(last), Some(last))));
        let refused: BTreeSet<String> =
            against.iter().filter(|f| f.refused()).map(|f| f.what.clone()).collect();
        if !refused.is_empty() {
            let mut said = BTreeSet::new();
            let errors = against.iter().filter(|f| f.refused() && said.insert(f.what.clone()));
            return errors.map(compat::error).collect();
        }
        let from: Vec<String> = self.pairs(self.start()).iter().map(|p| p.guest.clone()).collect();
        vec![
            Error::new(
                Kind::Blocked,
                format!(
                    "no way to vGPU {} keeps host and guests together: guests run {}",
                    self.to.name,
                    if from.is_empty() { "nothing known".into() } else { from.join(", ") }
                ),
            )
            .code("upgrade-no-way")
            .hint("bring the guests to the host's own release first, then ask again")
            .hint("or write the packages into the fleet file: `vsgpu plan` refuses only what is certain, and warns of the rest"),
        ]
    }
}

/// The check that judges pairs.
const PAIR: &str = "driver-pair";

/// What is said of host and guest of one release.
pub const ONE_RELEASE: &str = "one release";

/// What NVIDIA says of a pair.
fn said(host: &DriverVersion, guest: &DriverVersion) -> Pair {
    let (of_host, of_guest) = (releases::of_host(host), releases::of_guest(guest));
    let major = |found: &[&'static Release], version: &DriverVersion| {
        found
            .first()
            .map(|r| r.major)
            .or_else(|| releases::of_branch(version.branch()).map(|(major, _)| major))
    };
    let same = of_host.iter().any(|h| of_guest.iter().any(|g| g.name == h.name));
    let rule = major(&of_host, host).zip(major(&of_guest, guest)).and_then(|(h, g)| pairs::rule(h, g));
    let says = match rule.map(|rule| rule.says) {
        _ if same => ONE_RELEASE,
        Some(Says::Allow) => "one branch",
        Some(Says::Limited) => "go together, with what both releases support",
        Some(Says::Deny) => "said not to go together, by a source that was not confirmed",
        None => "no rule is known",
    };
    Pair {
        host: compat::named(host, &of_host),
        guest: compat::named(guest, &of_guest),
        says: says.into(),
        certain: same || rule.is_some_and(|rule| rule.basis.confirmed),
        source: rule.map_or("no source".into(), |rule| rule.basis.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(from: &str, guests: &[(&str, bool)], to: &str) -> Result<Way, Vec<Error>> {
        let release = |name: &str| releases::named(name).unwrap_or_else(|| panic!("{name}"));
        let runs = release(from).host.clone();
        let class = |(name, managed): &(&str, bool)| {
            let combination = Combination {
                profiles: vec![Stated::new("grid_a100-10c".into(), "vm")],
                ..Combination::default()
            };
            Class::new(
                &combination,
                release(name).guest.as_ref().unwrap_or_else(|| panic!("{name}")),
                *managed,
            )
        };
        let classes: Vec<Class> = guests.iter().map(class).collect();
        let host = Combination { esxi: Some(Stated::new("8.0.3".into(), "esx")), ..Combination::default() };
        Known::default().way(Some(&host), &runs, &classes, release(to), &[]).clone()
    }

    fn shown(way: &Result<Way, Vec<Error>>) -> Vec<String> {
        let way = way.as_ref().unwrap_or_else(|errors| panic!("{errors:?}"));
        let one = |s: &Stage| {
            let what = match (s.host, s.guests) {
                (true, true) => "host, guests",
                (true, false) => "host",
                _ => "guests",
            };
            format!("{} {}: {what}", s.release.major, s.release.name)
        };
        way.stages.iter().map(one).collect()
    }

    #[test]
    fn releases_in_between_are_found_where_a_pair_would_not_go_together() {
        assert_eq!(
            shown(&search("16.4", &[("16.4", true)], "19.6")),
            ["19 19.6: host, guests"],
            "LTS to LTS"
        );
        assert_eq!(shown(&search("18.3", &[("18.3", true)], "19.6")), ["19 19.6: host, guests"]);
        // 19 takes 18 and 16, not 17.
        assert_eq!(
            shown(&search("17.4", &[("17.4", true)], "19.6")),
            ["18 18.6: host, guests", "19 19.6: host, guests"]
        );
        // A guest that lags behind catches up first; the host is not rebooted for it.
        assert_eq!(
            shown(&search("18.3", &[("17.4", true), ("18.3", true)], "19.6")),
            ["18 18.3: guests", "19 19.6: host, guests"]
        );
        assert_eq!(shown(&search("19.6", &[("18.3", true)], "19.6")), ["19 19.6: guests"]);
        assert_eq!(shown(&search("16.4", &[], "19.6")), ["19 19.6: host"]);
        assert!(shown(&search("19.6", &[("19.6", true)], "19.6")).is_empty());
    }

    #[test]
    fn a_guest_that_nobody_changes_keeps_its_host_back() {
        let way = search("17.4", &[("17.4", false)], "19.6");
        let errors = way.expect_err("19 does not take a guest of 17");
        assert!(errors.iter().any(|e| e.message.contains("17")), "{errors:?}");
        assert_eq!(shown(&search("17.4", &[("17.4", false)], "18.5")), ["18 18.5: host"]);
    }

    /// Every pair on every way between any two releases is one that the rules allow, and no guest is ever newer.
    #[test]
    fn no_way_leads_through_a_pair_that_is_refused() {
        let usable = || releases::all().iter().filter(|r| r.guest.is_some() && !r.withdrawn && r.major >= 11);
        for from in usable() {
            for to in usable().filter(|to| to.host > from.host) {
                let Ok(way) = search(from.name, &[(from.name, true)], to.name) else { continue };
                for pair in way.stages.iter().flat_map(|s| s.between.iter().chain(&s.after)) {
                    assert!(
                        !pair.says.contains("not to go") && !pair.says.contains("no rule"),
                        "{} -> {}: {pair:?}",
                        from.name,
                        to.name
                    );
                }
            }
        }
    }
}
