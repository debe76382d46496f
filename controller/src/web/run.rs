//! Runs: the list, and one of them over time, with steps and waits.

use crate::fleet::range::folded;
use crate::journal::outcome::NodeState;
use crate::journal::timeline::{Machine, Outcome, Span, Timeline};
use crate::journal::{Purpose, Status, StepState, Stored, outstanding};
use crate::monitoring::top::Severity;
use crate::node::{NodeId, NodeKind};
use crate::picture::{self, Palette, Part, WHOLE};
use crate::render::words::{bare, took};
use crate::web::frame::{mark, with_commands};
use crate::web::links::{self, Place, Query, paged};
use crate::web::plan;
use maud::{Markup, html};
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::text::sentence;
use vsgpu_core::words::counted;
use vsgpu_wire::life::date;

/// Machines on one page, and in one file.
const EACH: usize = 50;
const IN_FILE: usize = 2_000;
/// Machines that need somebody, named at the top.
const LEFT: usize = 100;
/// Machines whose steps are unfolded at once.
const OPEN: usize = 3;

/// Ends of steps, and what lies between them; white letters can be read on each.
const COLOURS: [(&str, &str); 4] =
    [("done", "#2e6b34"), ("failed", "#a1260d"), ("not ended", "#2f5d8a"), ("waits", "#767676")];

/// A run with all that its page shows.
pub struct Shown {
    pub stored: Stored,
    pub timeline: Timeline,
    /// In words, as `vsgpu status` says it.
    pub state: &'static str,
    pub nodes: BTreeMap<String, NodeState>,
}

/// A run of the list: what is kept of its journal.
#[derive(Clone)]
pub struct Listed {
    begun: u64,
    ended: Option<u64>,
    done: usize,
    steps: usize,
    machines: usize,
    state: &'static str,
    purpose: Purpose,
}

impl Listed {
    pub fn of(run: &Stored, state: &'static str) -> Self {
        let status = &run.status;
        let machines: BTreeSet<&str> = status.plan.steps.iter().map(|step| step.node.name.as_str()).collect();
        Self {
            begun: status.begun,
            ended: status.ended.map(|(at, _)| at),
            done: done(status),
            steps: status.steps.len(),
            machines: machines.len(),
            state,
            purpose: status.purpose,
        }
    }
}

fn done(status: &Status) -> usize {
    status.steps.iter().filter(|state| matches!(state, StepState::Done { .. })).count()
}

fn what(purpose: Purpose) -> &'static str {
    if purpose == Purpose::Rollback { "Rollback" } else { "Run" }
}

/// The list. `older`: how many are not on it.
pub fn list(runs: &[(u32, Result<Listed, String>)], older: usize) -> Markup {
    html! {
        h1 { "Runs" }
        @if runs.is_empty() { p { "No run yet. " code { "vsgpu plan" } " shows what would be done." } }
        @else {
            div.wide { table {
                caption.hidden { "Runs of this fleet, the newest first" }
                thead { tr {
                    th scope="col" { "Run" } th scope="col" { "Begun" } th scope="col" { "Took" } th scope="col" { "Steps" }
                    th scope="col" { "Machines" } th scope="col" { "How it ended" }
                } }
                tbody { @for (number, run) in runs { tr {
                    th scope="row" { (links::run(Place::Site, *number, &number.to_string())) }
                    @match run {
                        Ok(run) => {
                            td { (date(run.begun)) }
                            td { (run.ended.map_or("-".into(), |at| took(at.saturating_sub(run.begun)))) }
                            td { (run.done) " of " (run.steps) }
                            td { (run.machines) }
                            td { @if run.purpose == Purpose::Rollback { "rollback: " } (with_commands(run.state)) }
                        }
                        Err(why) => td colspan="5" { (why) },
                    }
                } } }
            } }
            @if older > 0 { p.quiet { "and " (older) " older ones: " code { "vsgpu runs --most " (runs.len() + older) } } }
        }
    }
}

/// What the run left that a person must see to: first of all, as `vsgpu status` has it.
fn left(shown: &Shown) -> Markup {
    let left = outstanding(&shown.stored.status);
    let is = |kind: NodeKind, name: &str| {
        if left.unsettled.contains(&NodeId::new(kind, name)) { "may be" } else { "is" }
    };
    let away = left
        .in_maintenance
        .iter()
        .map(|host| format!("{host} {} in maintenance mode by this run", is(NodeKind::Host, host)));
    let off = left.stopped.iter().map(|vm| format!("{vm} {} shut down by this run", is(NodeKind::Vm, vm)));
    let said: Vec<String> = away.chain(off).chain(shown.stored.damage.clone()).take(LEFT).collect();
    let held = shown.nodes.iter().filter_map(|(node, state)| match state {
        NodeState::Held { held, advice } => Some((node, held, advice)),
        _ => None,
    });
    html! {
        @for text in said { p { (mark(Severity::Bad, &text)) } }
        @for (node, held, advice) in held.take(LEFT) {
            p {
                b { (node) } " " (mark(Severity::Bad, &format!("held: {}", held.hold))) " "
                (sentence(bare(&held.why, node, ""))) " " (with_commands(advice))
            }
        }
    }
}

/// A machine's steps as a bar from the run's beginning to its end.
fn bar(timeline: &Timeline, machine: &Machine) -> Vec<Part> {
    let whole = (timeline.end - timeline.begun).max(1);
    let scale = |at: u64| {
        usize::try_from(at.clamp(timeline.begun, timeline.end) - timeline.begun).unwrap_or(0) * WHOLE
            / usize::try_from(whole).unwrap_or(1)
    };
    let mut parts = vec![];
    let mut before = timeline.begun;
    for one in &machine.spans {
        if one.begun > before {
            let label = if one.waited > 0 { "waits" } else { "" };
            let title = waited(one).unwrap_or_default();
            let (start, size) = (scale(before), scale(one.begun) - scale(before));
            parts.push(Part { label: label.into(), kind: "waits".into(), title, start, size });
        }
        let end = one.ended.unwrap_or(timeline.end).max(one.begun);
        let (start, size) = (scale(one.begun), scale(end) - scale(one.begun));
        let title = format!("{}: {}, {}", one.title, one.outcome.word(), took(end - one.begun));
        parts.push(Part { label: one.title.clone(), kind: one.outcome.word().into(), title, start, size });
        before = before.max(end);
    }
    // What failed at once must not vanish under its next try.
    parts.sort_by_key(|part| part.kind == Outcome::Failed.word());
    parts
}

/// What was waited for before a step.
fn waited(one: &Span) -> Option<String> {
    (one.waited > 0).then(|| match &one.waited_for {
        Some(what) => format!("waited {} for {what}", took(one.waited)),
        None => format!("waited {}", took(one.waited)),
    })
}

fn outcome(outcome: Outcome) -> Markup {
    mark([Severity::Fine, Severity::Bad, Severity::Doubt][outcome as usize], outcome.word())
}

fn machine(timeline: &Timeline, machine: &Machine, open: bool) -> Markup {
    let parts = bar(timeline, machine);
    let failed = machine.spans.iter().any(|span| span.outcome == Outcome::Failed);
    let words = machine.spans.iter().map(|one| format!("{} {}", one.title, one.outcome.word()));
    let in_words = vsgpu_core::words::first(words, 8, "");
    html! {
        article.machine {
            h3 { (machine.node.to_string()) }
            (picture::inline(&parts, &Palette::fixed(&COLOURS), &in_words))
            details open[open || failed] {
                summary { (counted(machine.spans.len(), "step")) }
                div.wide { table {
                    caption.hidden { "Steps of " (machine.node.to_string()) }
                    thead { tr { th scope="col" { "Begun" } th scope="col" { "Step" } th scope="col" { "Change" } th scope="col" { "Took" } th scope="col" { "How it ended" } } }
                    tbody { @for one in &machine.spans { tr {
                        td { "+" (clock(one.begun.saturating_sub(timeline.begun))) @if let Some(waited) = waited(one) { br; span.quiet { (waited) } } }
                        th scope="row" { (one.title) }
                        td { (one.change) }
                        td { (one.ended.map_or("-".into(), |end| took(end.saturating_sub(one.begun)))) }
                        td { (outcome(one.outcome)) " " (bare(&one.note, &machine.node.to_string(), &one.title)) }
                    } } }
                } }
            }
        }
    }
}

/// `1:04:09` after the beginning.
fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// One run.
pub fn page(place: Place, shown: &Shown, query: &Query) -> Markup {
    let Shown { stored, timeline, state, .. } = shown;
    let status = &stored.status;
    let mut wanted: Vec<&Machine> =
        timeline.machines.iter().filter(|machine| query.wants(&machine.node.to_string())).collect();
    // Those that failed first, the others as they began.
    wanted.sort_by_key(|machine| machine.spans.last().is_none_or(|last| last.outcome == Outcome::Done));
    let (here, more) = paged(place, query, &wanted, EACH, IN_FILE);
    let when = match status.ended {
        Some((end, _)) => format!(
            "Begun {}, ended {}; it took {}.",
            date(status.begun),
            date(end),
            took(end.saturating_sub(status.begun))
        ),
        None => format!("Begun {}.", date(status.begun)),
    };
    let failed = status.steps.iter().filter(|state| matches!(state, StepState::Failed { .. })).count();
    let file = status.plan.fleet_file.rsplit('/').next().unwrap_or_default();
    let open = here.len() <= OPEN || place == Place::File && here.len() <= EACH;
    html! {
        h1 { (what(status.purpose)) " " (stored.number) ": " (with_commands(state)) }
        p {
            (when) " " (done(status)) " of " (counted(status.steps.len(), "step")) " done"
            @if failed > 0 { ", " (failed) " failed" } ". Fleet file " code { (file) } "."
        }
        (left(shown))
        section aria-labelledby="time" {
            h2 #time { "Over time" }
            @if place == Place::Site && timeline.machines.len() > EACH {
                form method="get" role="search" {
                    label for="q" { "Machine" } input id="q" name="q" type="search" maxlength="100" value=(query.words);
                    button type="submit" { "Show" }
                }
            }
            p.quiet {
                "From the beginning to " (clock(timeline.end - timeline.begun)) " later. "
                @for (kind, colour) in COLOURS {
                    svg.key viewBox="0 0 10 10" aria-hidden="true" { rect width="10" height="10" fill=(colour) {} } " " (kind) "  "
                }
            }
            @for one in here { (machine(timeline, one, open)) }
            (more)
            @if !timeline.untouched.is_empty() {
                @let names: Vec<String> = timeline.untouched.iter().map(ToString::to_string).collect();
                p { "Nothing was begun on " (folded(names).join(", ")) "." }
            }
        }
        section aria-labelledby="plan" {
            h2 #plan { "What was planned" }
            (plan::section(&status.plan, None))
        }
    }
}
