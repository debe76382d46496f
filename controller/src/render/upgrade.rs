//! The answer of `upgrade`: rounds with their pairs, what must be at hand, what stays; and what the proofs
//! say afterwards.

use crate::fleet::range::folded;
use crate::render::words::wrapped;
use crate::render::{Answer, columns};
use crate::upgrade::{HostUpgrade, ONE_RELEASE, Pair, Round, Runs, Upgrade};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::words::counted;

/// What a screen shows of an upgrade.
pub struct Shown<'a> {
    pub upgrade: &'a Upgrade,
    pub rounds: &'a [Round],
    /// Files of each round that take the place of others.
    pub files: Vec<BTreeSet<String>>,
    /// Packages that are not at hand.
    pub missing: Vec<BTreeSet<String>>,
    /// Whether a folder was looked at.
    pub looked: bool,
    /// Lines of the fleet file that will change.
    pub lines: usize,
    /// How the hosts are ordered, in words.
    pub order: String,
    /// What must be reached of the bandwidth of before.
    pub at_least: String,
}

/// The document of `upgrade -o json`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Document {
    /// vGPU release that is asked for.
    to: String,
    /// Version of its vGPU manager.
    host_version: String,
    /// Version of its Linux driver.
    guest_version: String,
    /// Runs, one after the other; empty where nothing is to do.
    rounds: Vec<RoundOf>,
    /// What stays as it is, by the reason.
    stays: BTreeMap<String, BTreeSet<String>>,
    /// Guests that nothing will prove.
    unproven: Vec<String>,
    /// What keeps hosts out.
    problems: Vec<String>,
    /// What is not certain.
    warnings: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct RoundOf {
    /// Its vGPU release.
    release: String,
    /// Hosts that change and reboot.
    hosts: Vec<String>,
    /// VMs whose drivers change.
    guests: Vec<String>,
    /// Pairs while hosts are new and guests are not.
    between: Vec<PairOf>,
    /// Pairs at its end.
    after: Vec<PairOf>,
    /// Packages that are used.
    files: BTreeSet<String>,
    /// Packages that are not at hand.
    missing: BTreeSet<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct PairOf {
    host: String,
    guest: String,
    says: String,
    /// The source was seen.
    certain: bool,
    source: String,
}

fn guests<'a>(upgrade: &'a Upgrade, round: &'a Round) -> impl Iterator<Item = &'a str> {
    let of = |host: &&HostUpgrade| round.hosts.get(&host.host).is_some_and(|stage| stage.guests);
    upgrade
        .hosts
        .iter()
        .filter(of)
        .flat_map(|host| host.guests.iter().filter(|g| g.managed).map(|g| g.vm.as_str()))
}

fn pairs<'a>(round: &'a Round, of: impl Fn(&'a crate::upgrade::Stage) -> &'a [Pair]) -> BTreeSet<&'a Pair> {
    round.hosts.values().flat_map(of).collect()
}

fn document(shown: &Shown<'_>) -> Document {
    let upgrade = shown.upgrade;
    let pair = |p: &Pair| PairOf {
        host: p.host.clone(),
        guest: p.guest.clone(),
        says: p.says.clone(),
        certain: p.certain,
        source: p.source.clone(),
    };
    let round = |(at, round): (usize, &Round)| RoundOf {
        release: round.release.name.into(),
        hosts: round.hosts_that_change().map(String::from).collect(),
        guests: guests(upgrade, round).map(String::from).collect(),
        between: pairs(round, |s| &s.between).into_iter().map(pair).collect(),
        after: pairs(round, |s| &s.after).into_iter().map(pair).collect(),
        files: shown.files.get(at).cloned().unwrap_or_default(),
        missing: shown.missing.get(at).cloned().unwrap_or_default(),
    };
    Document {
        to: upgrade.to.name.into(),
        host_version: upgrade.to.host.to_string(),
        guest_version: upgrade.to.guest.as_ref().map_or(String::new(), ToString::to_string),
        rounds: shown.rounds.iter().enumerate().map(round).collect(),
        stays: upgrade.left.clone(),
        unproven: unproven(upgrade),
        problems: upgrade.problems.iter().map(|e| e.message.clone()).collect(),
        warnings: upgrade.warnings.iter().map(|f| f.what.clone()).collect(),
    }
}

fn unproven(upgrade: &Upgrade) -> Vec<String> {
    let of = |host: &HostUpgrade| {
        host.guests.iter().filter(|g| g.managed && !g.proof).map(|g| g.vm.clone()).collect::<Vec<_>>()
    };
    upgrade.going().flat_map(of).collect()
}

/// A row: what, then text in a column of its own, broken at its width.
fn row(what: &str, text: &str) -> String {
    let margin = " ".repeat(12);
    let wrapped = wrapped(text, &margin);
    format!("{what:<12}{}\n", wrapped.trim_start())
}

fn names<'a>(all: impl IntoIterator<Item = &'a str>) -> String {
    let all = folded(all);
    match all.as_slice() {
        [] => "none".into(),
        [a, b, c, d, rest @ ..] if !rest.is_empty() => format!("{a}, {b}, {c}, {d} and {} more", rest.len()),
        some => some.join(", "),
    }
}

/// `535.161.05 (vGPU 16.4)` of many, each once.
fn running<'a>(all: impl Iterator<Item = (&'a str, &'a Runs, String)>) -> Vec<String> {
    let mut by: BTreeMap<(String, bool), Vec<&str>> = BTreeMap::new();
    for (name, runs, said) in all {
        by.entry((said, runs.seen)).or_default().push(name);
    }
    let line = |((said, seen), all): ((String, bool), Vec<&str>)| {
        let by = if seen { "" } else { ", as the fleet file says" };
        format!("{}: {said}{by}", names(all))
    };
    by.into_iter().map(line).collect()
}

pub fn text(shown: &Shown<'_>) -> String {
    let upgrade = shown.upgrade;
    let to = upgrade.to;
    let guest = to.guest.as_ref().map_or(String::new(), ToString::to_string);
    let going: Vec<&HostUpgrade> = upgrade.going().collect();
    let mut text = format!("To vGPU {}: vGPU manager {}, Linux driver {guest}.\n", to.name, to.host);
    if going.is_empty() {
        let done = upgrade.problems.is_empty() && !upgrade.hosts.is_empty();
        text += if done {
            "Every host and guest runs it. Nothing is to do.\n"
        } else {
            "Nothing can be done: see below.\n"
        };
    } else {
        let reboots: usize = shown.rounds.iter().map(|r| r.hosts_that_change().count()).sum();
        let vms: BTreeSet<&str> = shown.rounds.iter().flat_map(|r| guests(upgrade, r)).collect();
        let down = if reboots == 0 { "No host reboots." } else { "VMs of a host are off while it reboots." };
        let cost = format!(
            "{}, {} of hosts, {} with new drivers. {down}",
            counted(shown.rounds.len(), "round"),
            counted(reboots, "reboot"),
            counted(vms.len(), "guest"),
        );
        text += &format!("{}\n", wrapped(&cost, ""));
    }
    let hosts = running(going.iter().map(|h| (h.host.as_str(), &h.runs, h.runs.of_host())));
    let inside = going.iter().flat_map(|h| &h.guests);
    let inside = running(inside.map(|g| (g.vm.as_str(), &g.runs, g.runs.of_guest())));
    text.push('\n');
    for (at, line) in hosts.iter().chain(&inside).enumerate() {
        text += &row(if at == 0 { "now" } else { "" }, line);
    }
    for (at, round) in shown.rounds.iter().enumerate() {
        let release = round.release;
        text += &format!("\nround {}     vGPU {}\n", at + 1, release.name);
        let changing = names(round.hosts_that_change());
        if changing != "none" {
            text += &row("  hosts", &format!("{changing}: {}, one reboot each", release.host));
        }
        for pair in pairs(round, |s| &s.between) {
            text += &row("  meanwhile", &said(pair));
        }
        let inside = names(guests(upgrade, round));
        if inside != "none" {
            let version = release.guest.as_ref().map_or(String::new(), ToString::to_string);
            text += &row("  guests", &format!("{inside}: {version}"));
        }
        // That one release goes with itself needs no line.
        for pair in pairs(round, |s| &s.after).into_iter().filter(|p| p.says != ONE_RELEASE) {
            text += &row("  then", &said(pair));
        }
        for file in shown.files.get(at).into_iter().flatten() {
            text += &row("  package", file);
        }
        for missing in shown.missing.get(at).into_iter().flatten() {
            text += &row(if shown.looked { "  MISSING" } else { "  needs" }, missing);
        }
    }
    if !going.is_empty() {
        text.push('\n');
        text += &row("order", &shown.order);
        let proofs = going.iter().flat_map(|h| &h.guests).filter(|g| g.managed && g.proof);
        let (known, unknown): (Vec<_>, Vec<_>) = proofs.partition(|g| g.figures);
        if !known.is_empty() {
            let vms = names(known.iter().map(|g| g.vm.as_str()));
            text += &row(
                "proof",
                &format!("{vms}: computes right, with {} of today's bandwidth", shown.at_least),
            );
        }
        if !unknown.is_empty() {
            let vms = names(unknown.iter().map(|g| g.vm.as_str()));
            text += &row("proof", &format!("{vms}: computes right; no figures of today to compare with"));
        }
        let none = unproven(upgrade);
        if !none.is_empty() {
            let vms = names(none.iter().map(String::as_str));
            text += &row("NO PROOF", &format!("{vms}: no `cuda-proof:` in the fleet file"));
        }
    }
    for (why, which) in &upgrade.left {
        text += &row("stays", &format!("{}: {why}", names(which.iter().map(String::as_str))));
    }
    if shown.lines > 0 {
        text += &row(
            "fleet file",
            &format!("{} change, the old one is kept beside it", counted(shown.lines, "line")),
        );
    }
    text.trim_end().into()
}

fn said(pair: &Pair) -> String {
    let unsure = if pair.certain { "" } else { " (not confirmed)" };
    // `570.195.02 (vGPU 18.5)`: the versions stand beside.
    let short = |said: &str| match said.split_once(" (") {
        Some((_, release)) if !said.contains("not in") && !said.contains("no vGPU") => {
            release.trim_end_matches(')').to_string()
        }
        _ => said.to_string(),
    };
    format!("host {}, guest {}: {}{unsure}", short(&pair.host), short(&pair.guest), pair.says)
}

pub fn answer(shown: &Shown<'_>) -> Answer {
    let names = shown.upgrade.going().map(|host| host.host.clone()).collect();
    let json = serde_json::to_value(document(shown)).unwrap_or_default();
    Answer { names, ..Answer::new(json, text(shown)) }
}

/// What one VM reached, before and after.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Proved {
    pub vm: String,
    /// Driver before.
    pub from: Option<String>,
    /// Driver now.
    pub to: Option<String>,
    /// The proof ran in this boot and computed right; absent where none is asked for.
    pub proof: Option<bool>,
    /// Device memory, GB/s (10^9 bytes a second), before and now.
    pub before: Option<f64>,
    pub now: Option<f64>,
}

/// The table at the end.
pub fn proved(all: &[Proved]) -> String {
    let mut rows = vec![["VM", "DRIVER", "PROOF", "BANDWIDTH"].map(String::from).to_vec()];
    for one in all {
        let version = |v: &Option<String>| v.clone().unwrap_or_else(|| "?".into());
        let share = match one.before.zip(one.now) {
            Some((before, now)) if before > 0.0 => {
                format!("{:.0} % of before ({now:.1}, was {before:.1} GB/s)", now / before * 100.0)
            }
            _ => "-".into(),
        };
        let proof = match one.proof {
            Some(true) => "right",
            Some(false) => "FAILED",
            None => "-",
        };
        let change = if one.from == one.to {
            version(&one.to)
        } else {
            format!("{} -> {}", version(&one.from), version(&one.to))
        };
        rows.push(vec![one.vm.clone(), change, proof.into(), share]);
    }
    columns(&rows)
}
