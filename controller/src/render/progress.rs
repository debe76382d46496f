//! A run as it happens: on a terminal one live line per transfer below the finished steps, elsewhere plain lines.

use super::{Format, Printer};
use crate::event::Event;
use crate::plan::Plan;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::BTreeMap;

/// Listens to the engine.
pub struct Progress {
    format: Format,
    labels: Vec<(String, String)>,
    width: usize,
    bars: Option<MultiProgress>,
    running: BTreeMap<usize, ProgressBar>,
    finished: usize,
}

impl Progress {
    /// For a plan.
    pub fn new(printer: &Printer, plan: &Plan) -> Self {
        let labels: Vec<_> = plan.steps.iter().map(|s| (s.node.to_string(), s.title.clone())).collect();
        let width = labels.iter().map(|(node, _)| node.len()).max().unwrap_or(0);
        Self {
            format: printer.format(),
            labels,
            width,
            bars: printer.live().then(MultiProgress::new),
            running: BTreeMap::new(),
            finished: 0,
        }
    }

    fn line(&self, step: usize, text: &str) -> String {
        let (node, title) = &self.labels[step - 1];
        let total = self.labels.len();
        let digits = total.to_string().len();
        format!(
            "[{:>digits$}/{total}] {node:width$}  {title}{}{text}",
            self.finished,
            if text.is_empty() { "" } else { ": " },
            width = self.width
        )
    }

    /// The event with the names of its step: a reader of the stream has no plan to look them up in.
    fn as_json(&self, event: &Event) -> serde_json::Value {
        let mut json = serde_json::to_value(event).unwrap_or_default();
        if let Some((node, title)) = json["step"].as_u64().and_then(|step| self.labels.get(step as usize - 1)) {
            json["node"] = node.as_str().into();
            json["title"] = title.as_str().into();
        }
        json
    }

    fn print(&self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(text)),
            None => eprintln!("{text}"),
        }
    }

    /// Shows one event.
    pub fn hear(&mut self, event: &Event) {
        if self.format.is_document() {
            eprintln!("{}", self.as_json(event));
            return;
        }
        match event {
            Event::Begun { steps, done_before } if *done_before > 0 => {
                self.finished = *done_before;
                self.print(&format!("{done_before} of {steps} steps were done before"));
            }
            Event::Begun { .. } | Event::Ended { .. } => {}
            Event::Started { step } => {
                if let Some(bars) = &self.bars {
                    let bar = bars.add(ProgressBar::new_spinner());
                    bar.set_message(self.line(*step, ""));
                    bar.enable_steady_tick(std::time::Duration::from_millis(200));
                    self.running.insert(*step, bar);
                }
            }
            Event::Said { step, text } => match self.running.get(step) {
                Some(bar) => bar.set_message(self.line(*step, text)),
                None => self.print(&self.line(*step, &format!("$ {text}"))),
            },
            Event::Sent { step, bytes, total } => {
                if let Some(bar) = self.running.get(step) {
                    if bar.length() != Some(*total) {
                        bar.set_length(*total);
                        let style = ProgressStyle::with_template("  {msg} {bar:20} {bytes}/{total_bytes} {bytes_per_sec}");
                        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                    }
                    bar.set_position(*bytes);
                }
            }
            Event::Done { step, note, changed } => {
                self.end(*step);
                self.print(&self.line(*step, &format!("{note}{}", if *changed { "" } else { " (nothing to do)" })));
            }
            Event::Failed { step, error } => {
                self.end(*step);
                self.print(&self.line(*step, &format!("FAILED: {}", error.message)));
            }
            Event::Skipped { step, why } => {
                self.end(*step);
                let why = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                self.print(&self.line(*step, &format!("left out{why}")));
            }
        }
    }

    fn end(&mut self, step: usize) {
        self.finished += 1;
        if let Some(bar) = self.running.remove(&step) {
            bar.finish_and_clear();
        }
    }

    /// Leaves the terminal clean.
    pub fn finish(&mut self) {
        self.running.values().for_each(ProgressBar::finish_and_clear);
        self.running.clear();
    }
}
