//! The fleet at one look: what needs a person first, then hosts with their GPUs as bars, then guests.

use crate::monitoring::top::{FleetSummary, Gpu, Need, Node, Severity, gib, of_vgpu, parts, room, said};
use crate::node::NodeKind;
use crate::picture::{self, Palette};
use crate::web::frame::{mark, seen, with_commands, word};
use crate::web::links::{self, Place, Query, paged};
use maud::{Markup, html};
use std::collections::BTreeMap;
use vsgpu_core::words::counted;

/// Needs on the first page; all of them have a page of their own.
const FIRST_NEEDS: usize = 10;
/// Hosts, guests and needs on one page.
const EACH: usize = 50;
/// Hosts whose GPUs are unfolded at once; of more only those that need somebody are.
const OPEN: usize = 12;
/// Machines in a file.
pub const IN_FILE: usize = 5_000;

/// What a machine is shown with beside itself.
pub struct Shown<'a> {
    pub fleet: &'a FleetSummary,
    pub needs: &'a [Need],
    /// The worst of each machine, by kind and name.
    worst: BTreeMap<(NodeKind, &'a str), Severity>,
    /// Seconds since the agents' pages were read.
    pub since: u64,
}

impl<'a> Shown<'a> {
    pub fn of(fleet: &'a FleetSummary, needs: &'a [Need], since: u64) -> Self {
        let mut worst: BTreeMap<(NodeKind, &str), Severity> = BTreeMap::new();
        for need in needs {
            if let Some(machine) = &need.machine {
                let known = worst.entry((machine.kind, machine.name.as_str())).or_insert(need.severity);
                *known = need.severity.max(*known);
            }
        }
        Self { fleet, needs, worst, since }
    }

    pub fn severity(&self, kind: NodeKind, name: &str) -> Severity {
        self.worst.get(&(kind, name)).copied().unwrap_or(Severity::Fine)
    }

    fn age(&self, node: &Node) -> Option<u64> {
        node.age_secs.map(|age| age + self.since)
    }
}

/// The first sentence of the page.
pub fn headline(shown: &Shown<'_>) -> String {
    let asked = shown.fleet.hosts.len() + shown.fleet.guests.len();
    if shown.fleet.round_age_secs.is_none() {
        return format!("The agents are being asked: {} so far.", counted(asked, "answer"));
    }
    let bad = shown.needs.iter().filter(|need| need.severity == Severity::Bad).count();
    let things = |n: usize| if n == 1 { "One thing".to_string() } else { format!("{n} things") };
    let look = |n: usize| if n == 1 { "is worth a look" } else { "are worth a look" };
    match (bad, shown.needs.len() - bad) {
        (0, 0) => "Nothing needs anybody.".into(),
        (0, n) => format!("{} {}.", things(n), look(n)),
        (n, 0) => format!("{} {} somebody.", things(n), if n == 1 { "needs" } else { "need" }),
        (n, more) => {
            format!(
                "{} {} somebody, {more} {}.",
                things(n),
                if n == 1 { "needs" } else { "need" },
                look(more)
            )
        }
    }
}

fn counts(fleet: &FleetSummary) -> String {
    let away = |nodes: &[Node]| match nodes.iter().filter(|node| !node.reachable).count() {
        0 => String::new(),
        n => format!(" ({n} away)"),
    };
    let gpus: Vec<&Gpu> = fleet.hosts.iter().flat_map(|host| &host.gpus).collect();
    let vgpus = gpus.iter().map(|gpu| gpu.vgpus.len()).sum();
    format!(
        "{}{}, {}, {}, {}{}",
        counted(fleet.hosts.len(), "host"),
        away(&fleet.hosts),
        counted(gpus.len(), "GPU"),
        counted(vgpus, "vGPU"),
        counted(fleet.guests.len(), "guest"),
        away(&fleet.guests)
    )
}

/// The latest run in a sentence.
fn run(place: Place, fleet: &FleetSummary) -> Markup {
    if !fleet.runs_readable {
        return mark(Severity::Bad, "The records of runs cannot be read.");
    }
    let Some(run) = &fleet.run else { return html! { "No run yet." } };
    let number = u32::try_from(run.number).unwrap_or_default();
    let state = match run.state {
        "unfinished" => "is not finished",
        "running" => "is under way",
        _ => "has ended",
    };
    html! {
        (links::run(place, number, &format!("Run {}", run.number))) " " (state) ": " (run.done) " of " (run.steps) " steps done"
        @if run.failed > 0 { ", " (run.failed) " failed" } @if run.held > 0 { ", " (counted(run.held, "node")) " held" } "."
    }
}

/// What needs a person, as a table.
pub fn needs_table(place: Place, needs: &[Need]) -> Markup {
    html! {
        div.wide { table {
            caption.hidden { "What there is to do, the worst first" }
            thead { tr { th scope="col" { "Machine" } th scope="col" { "What is so" } th scope="col" { "What to do" } } }
            tbody {
                @for need in needs {
                    tr {
                        th scope="row" { @match &need.machine {
                            None => "the fleet",
                            Some(machine) if machine.kind == NodeKind::Host => (links::host(place, &machine.name)),
                            Some(machine) if machine.kind == NodeKind::Guest => (links::guest(place, &machine.name)),
                            Some(machine) => { (machine.name) " (VM)" }
                        } }
                        td { (mark(need.severity, &need.what)) }
                        td { (with_commands(&need.fix)) }
                    }
                }
            }
        } }
    }
}

/// What a host is, in marks.
pub fn host_marks(node: &Node) -> Markup {
    html! {
        @if !node.reachable { (mark(Severity::Bad, "does not answer")) " " }
        @for hold in &node.held { (mark(Severity::Bad, &format!("held: {hold}"))) " " }
        @if node.maintenance == Some(true) { (mark(Severity::Doubt, "maintenance mode")) " " }
        @if node.reboot_pending == Some(true) { (mark(Severity::Doubt, "reboot pending")) " " }
        @if let Some(wishes) = node.wishes.as_ref().filter(|_| node.reachable) { (wishes_mark(wishes.met, wishes.of)) }
    }
}

/// How much of what the fleet file says is so.
fn wishes_mark(met: usize, of: usize) -> Markup {
    let severity = if met == of { Severity::Fine } else { Severity::Doubt };
    mark(severity, &format!("{met} of {of} as the file says"))
}

/// License, proof and driver of a guest, in marks. Of one that does not answer nothing else is said: it was so once.
pub fn guest_marks(node: &Node) -> Markup {
    html! {
        @for hold in &node.held { (mark(Severity::Bad, &format!("held: {hold}"))) " " }
        @if node.reachable { (guest_state(node)) } @else { (mark(Severity::Bad, "does not answer")) }
    }
}

fn guest_state(node: &Node) -> Markup {
    html! {
        @match node.driver_loaded {
            Some(true) => { (mark(Severity::Fine, "driver loaded")) " " }
            Some(false) => { (mark(Severity::Bad, "no driver")) " " }
            None => {}
        }
        @match node.licensed {
            Some(true) => { (mark(Severity::Fine, "licensed")) " " }
            Some(false) => { (mark(Severity::Bad, "UNLICENSED")) " " }
            None => {}
        }
        @match node.proof {
            Some("right") => { (mark(Severity::Fine, "proved")) " " }
            Some("wrong") => { (mark(Severity::Bad, "PROOF WRONG")) " " }
            Some(_) => { (mark(Severity::Doubt, "proof of another boot")) " " }
            None => { (word("no proof")) " " }
        }
        @if let Some(wishes) = &node.wishes { (wishes_mark(wishes.met, wishes.of)) }
    }
}

/// What a GPU does now, as far as it says.
fn figures(gpu: &Gpu) -> String {
    let mut all = vec![];
    all.extend(gpu.utilization_ratio.map(|ratio| format!("{:.0} % busy", ratio * 100.0)));
    if let (Some(used), Some(of)) = (gpu.memory_used_bytes, gpu.memory_total_bytes) {
        all.push(format!("{} of {} in use", gib(used), gib(of)));
    }
    all.extend(gpu.temperature_celsius.map(|heat| format!("{heat:.0} °C")));
    all.extend(gpu.power_watts.map(|power| format!("{power:.0} W")));
    all.join(", ")
}

/// A GPU: its bar to scale, what is free (`fresh`: its machine answers), and its VMs, each with its page.
pub fn gpu(place: Place, gpu: &Gpu, palette: &Palette, fresh: bool) -> Markup {
    let parts = parts(gpu);
    // What a host said before it went away is no promise.
    let room = room(gpu).filter(|_| fresh);
    let who: Vec<String> = gpu.vgpus.iter().map(said).collect();
    let name = gpu.name.as_deref().unwrap_or(if gpu.passthrough { "given away whole" } else { "" });
    let mut in_words = who;
    match gpu.vms.as_slice() {
        [] => in_words.extend(room.clone()),
        vms => in_words.push(format!("whole GPU of {}", vms.join(", "))),
    }
    let in_words = if in_words.is_empty() { "nobody's part is known".into() } else { in_words.join("; ") };
    html! {
        li.gpu {
            p { code { (gpu.gpu) } " " (name) @let figures = figures(gpu); @if fresh && !figures.is_empty() { span.quiet { " " (figures) } }
                @if gpu.memory_errors { " " (mark(Severity::Bad, "memory errors")) }
                @if gpu.throttled { " " (mark(Severity::Doubt, "slowed down")) }
            }
            @if !parts.is_empty() || gpu.memory_total_bytes.is_some() {
                (picture::inline(&parts, palette, &in_words))
            }
            @if let Some(room) = room { p.quiet { (room) } }
            @if !(gpu.vgpus.is_empty() && gpu.vms.is_empty() && gpu.one_of.is_empty()) { (users(place, gpu, fresh)) }
        }
    }
}

/// The VMs of a GPU, each with its page.
fn users(place: Place, gpu: &Gpu, fresh: bool) -> Markup {
    html! {
        ul.who {
            @for vgpu in &gpu.vgpus {
                li {
                    (links::vm(place, &vgpu.vm)) " " (of_vgpu(vgpu)) " "
                    @match vgpu.licensed.filter(|_| fresh) {
                        Some(true) => (mark(Severity::Fine, "licensed")),
                        Some(false) => (mark(Severity::Bad, "UNLICENSED")),
                        None => {}
                    }
                }
            }
            @for vm in gpu.vms.iter().chain(&gpu.one_of) { li { (links::vm(place, vm)) } }
        }
    }
}

/// A host with its GPUs.
fn host(place: Place, node: &Node, shown: &Shown<'_>, palette: &Palette, open: bool) -> Markup {
    let severity = shown.severity(NodeKind::Host, &node.name);
    let class = ["host", "host doubt", "host bad"][severity as usize];
    let vgpus: usize = node.gpus.iter().map(|gpu| gpu.vgpus.len()).sum();
    let count = match (node.gpus.len(), vgpus) {
        (0, _) => "no GPU known".into(),
        (n, 0) => counted(n, "GPU"),
        (n, v) => format!("{}, {}", counted(n, "GPU"), counted(v, "vGPU")),
    };
    html! {
        article class=(class) {
            h3 { (links::host(place, &node.name)) }
            p { (host_marks(node)) " " (seen(shown.age(node))) }
            @if !node.gpus.is_empty() {
                details open[open || severity == Severity::Bad] {
                    summary { (count) }
                    ul.gpus { @for one in &node.gpus { (gpu(place, one, palette, node.reachable)) } }
                }
            } @else { p.quiet { (count) } }
        }
    }
}

/// Guests as a table.
fn guests(place: Place, nodes: &[&Node], shown: &Shown<'_>) -> Markup {
    html! {
        div.wide { table {
            caption.hidden { "Guests, with driver, license and proof" }
            thead { tr { th scope="col" { "Guest" } th scope="col" { "Host" } th scope="col" { "How it is" } th scope="col" { "Seen" } } }
            tbody {
                @for node in nodes {
                    tr {
                        th scope="row" { (links::guest(place, &node.name)) }
                        td { @match &node.host { Some(host) => (links::host(place, host)), None => "-" } }
                        td { (guest_marks(node)) }
                        td { (seen(shown.age(node))) }
                    }
                }
            }
        } }
    }
}

/// By trouble, by name, or by how busy the busiest GPU is.
fn ordered<'a>(nodes: &'a [Node], kind: NodeKind, query: &Query, shown: &Shown<'_>) -> Vec<&'a Node> {
    // A VM is found by its name on the host, too: on the host that has it.
    let has = |node: &&Node| {
        let vms = node.gpus.iter().flat_map(|gpu| gpu.vgpus.iter().map(|vgpu| &vgpu.vm).chain(&gpu.vms));
        query.wants(&node.name) || vms.into_iter().any(|vm| query.wants(vm))
    };
    let mut all: Vec<&Node> = nodes.iter().filter(has).collect();
    let busy = |node: &Node| node.gpus.iter().filter_map(|gpu| gpu.utilization_ratio).fold(0.0, f64::max);
    match query.order.as_str() {
        "name" => {}
        "busy" => all.sort_by(|a, b| busy(b).total_cmp(&busy(a))),
        _ => all.sort_by_key(|node| std::cmp::Reverse(shown.severity(kind, &node.name))),
    }
    all
}

fn search(query: &Query) -> Markup {
    html! {
        form method="get" action="/" role="search" {
            label for="q" { "Host, guest or VM" } input id="q" name="q" type="search" maxlength="100" value=(query.words);
            label for="order" { "Order" }
            select id="order" name="order" {
                @for (value, words) in [("", "trouble first"), ("name", "by name"), ("busy", "busiest first")] {
                    option value=(value) selected[query.order == value] { (words) }
                }
            }
            button type="submit" { "Show" }
        }
    }
}

/// All of it.
pub fn page(place: Place, shown: &Shown<'_>, query: &Query) -> Markup {
    let fleet = shown.fleet;
    let few = if place == Place::File { shown.needs.len().min(IN_FILE) } else { FIRST_NEEDS };
    let hosts = ordered(&fleet.hosts, NodeKind::Host, query, shown);
    let those = ordered(&fleet.guests, NodeKind::Guest, query, shown);
    let (hosts_here, more_hosts) = paged(place, query, &hosts, EACH, IN_FILE);
    let (guests_here, more_guests) = paged(place, query, &those, EACH, IN_FILE);
    let parts: Vec<picture::Part> = hosts_here.iter().flat_map(|host| &host.gpus).flat_map(parts).collect();
    let palette = Palette::of(parts.iter());
    let open = hosts_here.len() <= OPEN;
    html! {
        h1 { (headline(shown)) }
        p { (counts(fleet)) ". " (run(place, fleet)) }
        @if !shown.needs.is_empty() {
            section aria-labelledby="needs" {
                h2 #needs { "To do" }
                (needs_table(place, &shown.needs[..few.min(shown.needs.len())]))
                @if shown.needs.len() > few {
                    p { @if place == Place::Site { a href="/needs" { "all " (shown.needs.len()) } } @else { "and " (shown.needs.len() - few) " more" } }
                }
            }
        }
        @if place == Place::Site { (search(query)) }
        section aria-labelledby="hosts" {
            h2 #hosts { "Hosts" }
            @if hosts.is_empty() && !query.words.is_empty() { p { "No host has this in its name, nor a VM on it." } }
            div.hosts { @for node in hosts_here { (host(place, node, shown, &palette, open)) } }
            (more_hosts)
        }
        @if !fleet.guests.is_empty() {
            section aria-labelledby="guests" {
                h2 #guests { "Guests" }
                @if those.is_empty() { p { "No guest has this in its name." } } @else { (guests(place, guests_here, shown)) }
                (more_guests)
            }
        }
    }
}

/// All that needs a person.
pub fn all_needs(shown: &Shown<'_>, query: &Query) -> Markup {
    let (here, more) = paged(Place::Site, query, shown.needs, EACH, IN_FILE);
    html! {
        h1 { (headline(shown)) }
        @if here.is_empty() && shown.fleet.round_age_secs.is_some() {
            p { "Every machine answers, and all is as the fleet file says, as far as the agents tell." }
        }
        @if !here.is_empty() { (needs_table(Place::Site, here)) (more) }
    }
}
