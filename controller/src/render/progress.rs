//! A run as it happens. On a terminal one live line for each node below the steps that are done, and beyond
//! twenty nodes one line of totals with failures above it; elsewhere plain lines, one for each thing that
//! happened.

use crate::journal::History;
use crate::plan::Plan;
use crate::render::printer::{Format, Printer};
use crate::render::run_view::{NodeState, RunView};
use crate::render::words::bare;
use crate::run::Event;
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use vsgpu_core::text::{piece, sentence};

/// Nodes that have a line each.
const LINES: usize = 20;
/// Between two drawings of the totals.
const DRAW: Duration = Duration::from_millis(100);

/// Of a node on which no step runs.
const STILL: u64 = u64::MAX;
/// From when on a step shows how long it takes.
const SHOWN: Duration = Duration::from_secs(3);

/// `  04:12 of at most 20:00`; nothing in the first seconds.
fn took(since: Duration, at_most: u64) -> String {
    let clock = |seconds: u64| match seconds {
        0..3600 => format!("{:02}:{:02}", seconds / 60, seconds % 60),
        _ => format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
    };
    match at_most {
        STILL => String::new(),
        _ if since < SHOWN => String::new(),
        0 => format!("  {}", clock(since.as_secs())),
        most => format!("  {} of at most {}", clock(since.as_secs()), clock(most)),
    }
}

/// Listens to the engine.
pub struct Progress {
    format: Format,
    run_view: RunView,
    live: Option<Live>,
    begun: Instant,
    /// Since when a step sends its file.
    sending: BTreeMap<usize, Instant>,
    drawn: Option<Instant>,
    screen: Screen,
    /// Machines of which it was said that their steps are left out.
    left_out: BTreeSet<String>,
}

/// Where live lines are, for whoever says something beside them: what is printed without them is drawn over.
#[derive(Clone, Default)]
pub struct Screen(Arc<Mutex<Option<MultiProgress>>>);

impl Screen {
    /// Says something, above the live lines where there are any.
    pub fn say(&self, printer: &Printer, text: &str) {
        let bars = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if bars.is_none_or(|bars| bars.println(piece(text, 1 << 20)).is_err()) {
            printer.note(text);
        }
    }
}

struct Live {
    bars: MultiProgress,
    /// One for each node; none beyond twenty nodes.
    nodes: Vec<ProgressBar>,
    /// Seconds that the step of each may take; `STILL` where none runs.
    at_most: Vec<Arc<AtomicU64>>,
    totals: ProgressBar,
}

impl Live {
    fn new(run_view: &RunView) -> Self {
        let bars = MultiProgress::new();
        let style = |template: &str| {
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
        };
        let count = if run_view.nodes.len() > LINES { 0 } else { run_view.nodes.len() };
        let at_most: Vec<Arc<AtomicU64>> = (0..count).map(|_| Arc::new(AtomicU64::new(STILL))).collect();
        let node = |at_most: &Arc<AtomicU64>| {
            let at_most = at_most.clone();
            let key = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = out.write_str(&took(state.elapsed(), at_most.load(Relaxed)));
            };
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(style("  {prefix}{took}{wide_msg}").with_key("took", key));
            bar
        };
        let nodes = at_most.iter().map(node).collect();
        let totals = bars.add(ProgressBar::new_spinner());
        totals.set_style(style("{spinner} {wide_msg}"));
        totals.enable_steady_tick(Duration::from_millis(200));
        Self { bars, nodes, at_most, totals }
    }
}

impl Progress {
    /// For a plan. `history`: how long its steps took before.
    #[expect(clippy::disallowed_methods, reason = "the edge: what an operator is shown")]
    pub fn new(printer: &Printer, plan: &Plan, history: History, screen: Screen) -> Self {
        let run_view = RunView::new(plan, history);
        let live = printer.live().then(|| Live::new(&run_view));
        *screen.0.lock().unwrap_or_else(PoisonError::into_inner) =
            live.as_ref().map(|live| live.bars.clone());
        Self {
            format: printer.format(),
            live,
            run_view,
            begun: Instant::now(),
            sending: BTreeMap::new(),
            drawn: None,
            screen,
            left_out: BTreeSet::new(),
        }
    }

    /// Whether each step has a line of its own.
    fn each(&self) -> bool {
        self.live.is_none() || self.run_view.nodes.len() <= LINES
    }

    /// The event with the names of its step: a reader of the stream has no plan to look them up in.
    fn as_json(&self, event: &Event) -> serde_json::Value {
        let mut json = serde_json::to_value(event).unwrap_or_default();
        if let Some((node, title)) = json["step"].as_u64().and_then(|step| self.run_view.names(step as usize))
        {
            json["node"] = node.into();
            json["title"] = title.into();
        }
        json
    }

    fn print(&self, text: &str) {
        let text = &piece(text, 1 << 20);
        match &self.live {
            Some(live) => drop(live.bars.println(text)),
            None => crate::render::printer::say(&format!("{text}\n")),
        }
    }

    pub fn on_event(&mut self, event: &Event) {
        self.run_view.on_event(event);
        if self.format.is_document() {
            Printer::new(self.format).talk(&self.as_json(event));
            return;
        }
        match event {
            Event::Begun { steps, done_before, .. } if *done_before > 0 => {
                self.print(&format!("{done_before} of {steps} steps were done before"))
            }
            Event::Begun { .. } | Event::Ended { .. } | Event::Started { .. } | Event::Sent { .. } => {}
            Event::Said { step, text } => {
                if self.live.is_none() {
                    self.print(&self.run_view.line(*step, &format!("$ {text}")));
                }
            }
            Event::Done { step, note, changed } => {
                if self.each() {
                    self.print(
                        &self.run_view.line(
                            *step,
                            &format!("{note}{}", if *changed { "" } else { " (nothing to do)" }),
                        ),
                    );
                }
            }
            Event::Failed { step, error } => {
                let (node, title) = self.run_view.names(*step).unwrap_or_default();
                let why = bare(&error.message, node, title);
                self.print(&self.run_view.line(*step, &format!("FAILED: {why}")))
            }
            Event::Skipped { step, why } => {
                // Once for a machine: what waits for a step that is left out is left out as well.
                let node = self.run_view.names(*step).map(|(node, _)| node.to_string());
                if self.each() && node.is_some_and(|node| self.left_out.insert(node)) {
                    let why = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                    let text = format!("left out{why}, with all that waits for it");
                    self.print(&self.run_view.line(*step, &text));
                }
            }
        }
        self.draw(event);
    }

    /// Brings the live lines up to date with what an event is about.
    #[expect(clippy::disallowed_methods, reason = "the edge: what an operator is shown")]
    fn draw(&mut self, event: &Event) {
        let Some(live) = &self.live else { return };
        let now = Instant::now();
        if let Event::Sent { step, .. } = event {
            self.sending.entry(*step).or_insert(now);
        }
        // All nodes are counted for one line of totals: of a large fleet, not at every event.
        if live.nodes.is_empty() && self.drawn.is_some_and(|at| now - at < DRAW) {
            return;
        }
        self.drawn = Some(now);
        let elapsed = self.begun.elapsed();
        let about = match event {
            Event::Started { step }
            | Event::Said { step, .. }
            | Event::Sent { step, .. }
            | Event::Done { step, .. }
            | Event::Failed { step, .. }
            | Event::Skipped { step, .. } => Some(self.run_view.node_of(*step)),
            Event::Begun { .. } | Event::Ended { .. } => None,
        };
        for (at, bar) in live.nodes.iter().enumerate().filter(|(at, _)| about.is_none_or(|node| node == *at))
        {
            let node = &self.run_view.nodes[at];
            let sent = node.sent.filter(|_| node.state == NodeState::AtWork).map(|(bytes, total)| {
                let since = node
                    .step()
                    .and_then(|step| self.sending.get(&step))
                    .map_or(Duration::ZERO, |since| now - *since);
                let rate = bytes as f64 / since.as_secs_f64().max(0.2);
                format!("  {} of {}, {}/s", HumanBytes(bytes), HumanBytes(total), HumanBytes(rate as u64))
            });
            let (before, behind) = self.run_view.node_line(at);
            // A step that begins begins its clock; a node that waits has none.
            match (event, node.step()) {
                (Event::Started { step }, Some(now)) if *step == now => {
                    bar.reset_elapsed();
                    live.at_most[at].store(self.run_view.at_most(at).unwrap_or_default().into(), Relaxed);
                    bar.enable_steady_tick(Duration::from_secs(1));
                }
                (_, None) => {
                    live.at_most[at].store(STILL, Relaxed);
                    bar.disable_steady_tick();
                }
                _ => {}
            }
            bar.set_prefix(sentence(&before));
            bar.set_message(format!("{}{}", sentence(&behind), sent.unwrap_or_default()));
            bar.tick();
        }
        let sent = self.run_view.bytes_sent();
        let sent = if sent > 0 && live.nodes.is_empty() {
            format!("; {} sent", HumanBytes(sent))
        } else {
            String::new()
        };
        let left = self.run_view.left(elapsed).map(|left| format!("; {left}")).unwrap_or_default();
        live.totals.set_message(format!("{}{sent}{left}", self.run_view.totals()));
    }

    /// Leaves the terminal clean.
    pub fn finish(&mut self) {
        *self.screen.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(live) = self.live.take() {
            live.nodes.iter().chain([&live.totals]).for_each(ProgressBar::finish_and_clear);
        }
    }
}
