//! A plan in short: what goes down and for how long, what has no way back, then one block for machines with
//! the same steps. Every command stands in the long form (`plan --commands`).

use crate::fleet::range::folded;
use crate::journal::{Estimate, History, estimate, said};
use crate::node::NodeKind;
use crate::plan::{Moves, Plan, Step, Work};
use crate::render::plan::{nothing_to_do, order, sum};
use crate::render::words::wrapped;
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::words::counted;

/// Before the words of a row.
const LABEL: usize = 13;
/// Machines that are named one by one or as ranges, at most.
const NAMES: usize = 6;

/// What goes down: `reboots 1 host and shuts down 4 VMs`; `None` where nothing does.
pub fn disruption(plan: &Plan, verbs: [&str; 3]) -> Option<String> {
    let nodes = |which: &dyn Fn(&Step) -> bool| {
        plan.steps.iter().filter(|s| which(s)).map(|s| &s.node).collect::<BTreeSet<_>>().len()
    };
    let reboots = |guest: bool| {
        nodes(&|s| {
            matches!(&s.work, Work::Activate { restart: None, .. })
                && (s.node.kind == NodeKind::Guest) == guest
                && !s.change.contains("only if")
        })
    };
    let (hosts, guests, off) = (reboots(false), reboots(true), nodes(&Step::stops_vm));
    let away = nodes(&Step::enters_maintenance);
    let mut parts = vec![];
    if hosts > 0 {
        parts.push(format!("{} {}", verbs[0], counted(hosts, "host")));
    } else if away > 0 {
        parts.push(format!("{} {} into maintenance mode", verbs[2], counted(away, "host")));
    }
    if off > 0 {
        parts.push(format!("{} {}", verbs[1], counted(off, "VM")));
    } else if guests > 0 && hosts == 0 {
        parts.push(format!("{} {}", verbs[0], counted(guests, "guest")));
    }
    (!parts.is_empty()).then(|| parts.join(" and "))
}

/// The question before it: it repeats the cost.
pub fn question(plan: &Plan, fleet: &str) -> String {
    match disruption(plan, ["reboot", "shut down", "bring"]) {
        Some(cost) => format!("{cost} of {fleet}?"),
        None => format!("do this to {fleet}? Nothing goes down."),
    }
}

/// Names as ranges; of many the first ones.
pub fn names<T: AsRef<str>>(all: impl IntoIterator<Item = T>) -> String {
    let all = folded(all);
    match all.len() {
        0..=NAMES => all.join(", "),
        n => format!("{} and {} more", all[..NAMES].join(", "), n - NAMES),
    }
}

fn row(label: &str, text: &str) -> String {
    let margin = " ".repeat(LABEL);
    format!("{label:<LABEL$}{}\n", wrapped(text, &margin).trim_start())
}

/// A plan in short, for a terminal and for a page alike.
pub struct Summary {
    /// What goes down.
    pub cost: String,
    /// How long it may take, and what that rests on.
    pub time: String,
    pub down: Vec<Down>,
    /// What `rollback` does not bring back, and of which machines.
    pub no_way_back: Vec<(String, Vec<String>)>,
    /// What the network costs clients of GPU servers; empty where none is touched.
    pub network: String,
    /// In which order; empty where there is nothing to say.
    pub order: String,
    pub blocks: Vec<Block>,
    /// What it costs, counted.
    pub sum: String,
}

/// Hosts that are away or whose VMs are, with what alike.
pub struct Down {
    pub hosts: Vec<String>,
    /// What happens to them.
    pub what: String,
    /// For how long: `, about 15 min each`; empty where they stay.
    pub long: String,
    /// VMs that are off for it.
    pub off: Vec<String>,
    /// VMs that leave it while they run, and how.
    pub moved: Vec<(String, Vec<String>)>,
}

/// Machines with the same steps.
pub struct Block {
    pub kind: NodeKind,
    pub nodes: Vec<String>,
    /// A sign, what it is, and what becomes of it.
    pub lines: Vec<Line>,
}

/// Sign, title and change of a step.
pub type Line = (char, String, String);

impl Block {
    /// `3 hosts`.
    pub fn counted(&self) -> String {
        let what = match self.kind {
            NodeKind::Host => "host",
            NodeKind::Vm => "VM",
            NodeKind::Guest => "guest",
        };
        counted(self.nodes.len(), what)
    }
}

/// What the signs of [`Block::lines`] mean.
pub const SIGNS: [(char, &str); 5] =
    [('+', "new"), ('~', "changed"), ('-', "removed"), ('?', "looked at"), ('!', "goes down")];

/// Of a plan with steps.
pub fn summary(plan: &Plan, history: &History) -> Summary {
    let estimate = estimate(plan, history);
    let head = match disruption(plan, ["reboots", "shuts down", "brings"]) {
        Some(cost) => format!("This {cost}{}.", at_once(plan, &estimate)),
        None => "Nothing goes down.".into(),
    };
    let basis = if estimate.from_runs { "as in earlier runs" } else { "a guess: no run has shown it yet" };
    let took = said(estimate.total);
    let took = format!("{}{} ({basis}).", took[..1].to_uppercase(), &took[1..]);
    Summary {
        cost: head,
        time: took,
        down: goes_down(plan, &estimate),
        no_way_back: no_way_back(plan),
        network: plan.network.clone().unwrap_or_default(),
        order: order(plan),
        blocks: blocks(plan),
        sum: sum(plan),
    }
}

/// How many hosts may be away together, where that is more than one.
fn at_once(plan: &Plan, estimate: &Estimate) -> String {
    let most: usize = plan.rollout.clusters.values().map(|cluster| cluster.max_unavailable).sum();
    let widest = plan
        .rollout
        .waves
        .iter()
        .map(|wave| wave.iter().filter(|host| estimate.away.contains_key(*host)).count());
    match widest.max().unwrap_or_default().min(most) {
        0 | 1 => String::new(),
        n => format!(", up to {} away at once", counted(n, "host")),
    }
}

/// All of it. `below`: warnings that follow it on the screen.
pub fn text(plan: &Plan, history: &History, below: usize) -> String {
    if plan.steps.is_empty() {
        return nothing_to_do(plan);
    }
    let summary = summary(plan, history);
    format!("{}{}", body(&summary, below), wrapped(&format!("{} Nothing has been changed.", summary.sum), ""))
}

/// What is left of a run: a plan with the steps that are not done.
pub fn rest(plan: &Plan, history: &History) -> String {
    let back = |verb: &str, which: &dyn Fn(&Step) -> bool| {
        let nodes: Vec<&str> = plan.steps.iter().filter(|s| which(s)).map(|s| &*s.node.name).collect();
        if nodes.is_empty() { String::new() } else { row("comes back", &format!("{}: {verb}", names(nodes))) }
    };
    let back =
        back("leaves maintenance mode", &Step::leaves_maintenance) + &back("started", &Step::starts_vm);
    format!("{}{back}", body(&summary(plan, history), 0)).trim_end().to_string()
}

fn body(summary: &Summary, below: usize) -> String {
    let warned = if below > 0 { format!(" {} below.", counted(below, "warning")) } else { String::new() };
    let mut text = format!("{}\n\n", wrapped(&format!("{} {}{warned}", summary.cost, summary.time), ""));
    let mut label = "goes down";
    for Down { hosts, what, long, off, moved } in &summary.down {
        text += &row(std::mem::take(&mut label), &format!("{}: {what}{long}", names(hosts)));
        if !off.is_empty() {
            text += &row("", &format!("VMs off: {}", names(off)));
        }
        for (how, vms) in moved {
            text += &row("", &format!("VMs {how}: {}", names(vms)));
        }
    }
    text += if summary.down.is_empty() { "" } else { "\n" };
    let mut label = "no rollback";
    for (titles, nodes) in &summary.no_way_back {
        text += &row(std::mem::take(&mut label), &format!("{titles} of {}", names(nodes)));
    }
    text += if summary.no_way_back.is_empty() { "" } else { "\n" };
    if !summary.network.is_empty() {
        text += &format!("{}\n", row("network GPU", &summary.network));
    }
    text += &summary.order;
    for block in &summary.blocks {
        text += &format!("{:<LABEL$}{}\n", block.counted(), names(&block.nodes));
        let widest = block.lines.iter().map(|(_, title, _)| title.chars().count()).max();
        let width = widest.unwrap_or_default().clamp(8, 22);
        for (sign, title, change) in &block.lines {
            let margin = " ".repeat(width + 6);
            let change = wrapped(change, &margin);
            text += &format!("  {sign} {title:<width$}  {}\n", change.trim_start());
        }
        text.push('\n');
    }
    text
}

/// Hosts that are away or whose VMs are, with what alike.
fn goes_down(plan: &Plan, estimate: &Estimate) -> Vec<Down> {
    let mut hosts: BTreeMap<&str, Vec<&Step>> = BTreeMap::new();
    for step in &plan.steps {
        hosts.entry(&step.host).or_default().push(step);
    }
    // By what happens to them: hosts, and their VMs.
    #[derive(Default)]
    struct Alike<'a> {
        hosts: Vec<&'a str>,
        off: Vec<&'a str>,
        moves: Moves,
    }
    let mut alike: BTreeMap<(String, String), Alike<'_>> = BTreeMap::new();
    for (host, steps) in hosts {
        let mut what = vec![];
        if steps.iter().any(|s| s.enters_maintenance()) {
            what.push("maintenance mode".to_string());
        }
        let reboot = |s: &&&Step| {
            s.node.kind == NodeKind::Host && matches!(&s.work, Work::Activate { restart: None, .. })
        };
        for step in steps.iter().filter(reboot) {
            let maybe = step.change.contains("only if");
            let why = step.change.trim_start_matches("for ").trim_end_matches(", only if it asks for it");
            what.push(if maybe {
                format!("a reboot only if {why} asks for it")
            } else {
                format!("reboot for {why}")
            });
        }
        let off: Vec<&str> = steps.iter().filter(|s| s.stops_vm()).map(|s| s.node.name.as_str()).collect();
        if what.is_empty() && off.is_empty() {
            continue;
        }
        let long = estimate.away.get(host).filter(|_| !what.is_empty()).map_or(String::new(), |s| said(*s));
        let entry = alike.entry((what.join(", "), long)).or_default();
        entry.hosts.push(host);
        entry.off.extend(off);
        for moves in steps.iter().filter_map(|step| step.moves.as_deref()) {
            entry.moves.by_drs.extend(moves.by_drs.iter().cloned());
            entry.moves.by_hand.extend(moves.by_hand.iter().cloned());
            entry.moves.stand_still.extend(moves.stand_still.iter().cloned());
            entry.moves.shut_down.extend(moves.shut_down.iter().cloned());
        }
    }
    let mut all = vec![];
    for ((what, long), Alike { hosts, off, moves }) in alike {
        let each = if hosts.len() > 1 { " each" } else { "" };
        let long = if long.is_empty() { long } else { format!(", {long}{each}") };
        let what = if what.is_empty() { "stays up".into() } else { what };
        let own = |names: Vec<&str>| names.into_iter().map(String::from).collect();
        all.push(Down { hosts: own(hosts), what, long, off: own(off), moved: moves.in_words() });
    }
    all
}

/// What `rollback` could not bring back: something that is there now and of which no wish can be made.
fn no_way_back(plan: &Plan) -> Vec<(String, Vec<String>)> {
    let catalogue = crate::catalogue::catalogue();
    let mut by: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for step in plan.steps.iter().filter(|s| s.before.is_none()) {
        let Work::Meet { requirement, .. } = &step.work else { continue };
        let key = catalogue.find(step.node.kind.scope(), requirement).is_some_and(|e| e.is_key);
        if key && sign(step) == '~' && !step.is_restore() && !step.stops_vm() && !step.starts_vm() {
            by.entry(step.title.clone()).or_default().push(&step.node.name);
        }
    }
    // What the same machines lose is one row.
    let mut rows: BTreeMap<Vec<&str>, Vec<String>> = BTreeMap::new();
    for (title, nodes) in by {
        rows.entry(nodes).or_default().push(title);
    }
    let own = |nodes: Vec<&str>| nodes.into_iter().map(String::from).collect();
    rows.into_iter().map(|(nodes, titles)| (titles.join(", "), own(nodes))).collect()
}

/// `+` new, `~` changed, `-` removed, `?` looked at, `!` goes down.
fn sign(step: &Step) -> char {
    match &step.work {
        Work::Activate { .. } => '!',
        Work::Send { .. } => '+',
        Work::Meet { .. } => {
            let Some((is, wants)) = step.change.split_once(" -> ") else { return '?' };
            match (is, wants) {
                (_, "absent" | "none") => '-',
                (is, _)
                    if ["absent", "none", "nothing", "no ", "never ", "not "]
                        .iter()
                        .any(|w| is.starts_with(w)) =>
                {
                    '+'
                }
                _ => '~',
            }
        }
    }
}

/// What a step says where nothing is certain yet.
fn shown(step: &Step) -> String {
    let change = &*step.change;
    if let Some((wants, _)) = change.split_once(" (now: met; looked at again") {
        return format!("looked at again: {wants}");
    }
    match change.strip_suffix(')').and_then(|c| c.rsplit_once(" (now: ")) {
        Some((wants, _)) => format!("{wants}, decided when it is its turn"),
        None => change.into(),
    }
}

/// Power, maintenance mode and files stand above, or need no line.
fn has_line(step: &Step) -> bool {
    let switch =
        step.enters_maintenance() || step.leaves_maintenance() || step.stops_vm() || step.starts_vm();
    !switch && !matches!(step.work, Work::Send { .. })
}

/// Machines with the same steps are one block.
fn blocks(plan: &Plan) -> Vec<Block> {
    let mut of_node: BTreeMap<(NodeKind, &str), Vec<Line>> = BTreeMap::new();
    let mut order: Vec<(NodeKind, &str)> = vec![];
    for step in plan.steps.iter().filter(|s| has_line(s)) {
        let node = (step.node.kind, step.node.name.as_str());
        let lines = of_node.entry(node).or_insert_with(|| {
            order.push(node);
            vec![]
        });
        lines.push((sign(step), step.title.clone(), shown(step)));
    }
    let mut blocks: Vec<Block> = vec![];
    let mut known: BTreeMap<(NodeKind, Vec<Line>), usize> = BTreeMap::new();
    for (kind, node) in order {
        let lines = of_node.remove(&(kind, node)).unwrap_or_default();
        let at = *known.entry((kind, lines.clone())).or_insert_with(|| {
            blocks.push(Block { kind, nodes: vec![], lines });
            blocks.len() - 1
        });
        blocks[at].nodes.push(node.into());
    }
    blocks
}

/// What is said below a plan that was only asked for.
pub fn next(plan: &Plan) -> String {
    let one = plan.steps.first().map_or("", |s| s.node.name.as_str());
    format!(
        "`vsgpu plan --commands` shows every command, `-n {one}` one machine.\n`vsgpu apply` does it.  {}",
        SIGNS.map(|(sign, what)| format!("{sign} {what}")).join("  ")
    )
}
