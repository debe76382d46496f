//! What is known of a run while it happens, node by node, and how long it may take still. Pure: events in,
//! lines out.

use crate::journal::History;
use crate::plan::Plan;
use crate::run::Event;
use std::time::Duration;

/// Where a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeState {
    Waiting,
    AtWork,
    Done,
    Failed,
    LeftOut,
}

pub(super) struct Node {
    name: String,
    steps: usize,
    over: usize,
    pub state: NodeState,
    /// The step that runs, and what its agent says.
    now: Option<(usize, String)>,
    /// Bytes of a file that is under way, of so many.
    pub sent: Option<(u64, u64)>,
}

impl Node {
    /// The step that runs.
    pub fn step(&self) -> Option<usize> {
        self.now.as_ref().map(|(step, _)| *step)
    }
}

pub(super) struct RunView {
    pub nodes: Vec<Node>,
    /// Node and title of each step, and its seconds in earlier runs.
    steps: Vec<(usize, String, Option<f64>)>,
    /// Steps that each step waits for, and the seconds that it may take.
    waits: Vec<(Vec<usize>, u32)>,
    over: Vec<bool>,
    /// Done or failed while this program looked: what its pace is told by.
    ran: Vec<bool>,
    finished: usize,
    width: usize,
    sent_before: u64,
}

impl RunView {
    pub fn new(plan: &Plan, history: History) -> Self {
        let mut nodes: Vec<Node> = vec![];
        let mut steps = vec![];
        let mut by_name = std::collections::HashMap::new();
        for step in &plan.steps {
            let name = step.node.to_string();
            let at = *by_name.entry(name.clone()).or_insert_with(|| {
                nodes.push(Node {
                    name,
                    steps: 0,
                    over: 0,
                    state: NodeState::Waiting,
                    now: None,
                    sent: None,
                });
                nodes.len() - 1
            });
            nodes[at].steps += 1;
            steps.push((at, step.title.clone(), history.seconds(&step.title)));
        }
        let width = nodes.iter().map(|n| n.name.len()).max().unwrap_or(0);
        Self {
            over: vec![false; steps.len()],
            ran: vec![false; steps.len()],
            waits: plan.steps.iter().map(|step| (step.after.clone(), step.deadline_secs)).collect(),
            nodes,
            steps,
            finished: 0,
            width,
            sent_before: 0,
        }
    }

    /// Seconds that the step of a node may take, while it runs.
    pub fn at_most(&self, at: usize) -> Option<u32> {
        let step = self.nodes[at].step()?;
        self.waits.get(step - 1).map(|(_, at_most)| *at_most)
    }

    /// What a node waits for: the machines whose steps come first, else its turn.
    fn waits_for(&self, at: usize) -> String {
        let next = (1..=self.steps.len()).find(|step| self.steps[step - 1].0 == at && !self.over[step - 1]);
        let before = next.and_then(|step| self.waits.get(step - 1)).map(|(after, _)| after.as_slice());
        let mut names: Vec<&str> = vec![];
        for step in before.unwrap_or_default().iter().filter(|step| !self.over[**step - 1]) {
            let name = self.nodes[self.steps[step - 1].0].name.as_str();
            if self.steps[step - 1].0 != at && !names.contains(&name) {
                names.push(name);
            }
        }
        match names.as_slice() {
            [] => "waits for its turn".into(),
            [one] => format!("waits for {one}"),
            [one, two] => format!("waits for {one}, {two}"),
            [one, rest @ ..] => format!("waits for {one} and {} more", rest.len()),
        }
    }

    /// Node and title of a step.
    pub fn names(&self, step: usize) -> Option<(&str, &str)> {
        let (node, title, _) = self.steps.get(step.checked_sub(1)?)?;
        Some((&self.nodes[*node].name, title))
    }

    pub fn node_of(&self, step: usize) -> usize {
        self.steps[step - 1].0
    }

    /// Takes an event in.
    pub fn on_event(&mut self, event: &Event) {
        match event {
            Event::Begun { before, .. } => {
                before.iter().for_each(|step| self.end(*step, NodeState::Done));
                self.ran.fill(false);
            }
            Event::Ended { .. } => {}
            Event::Started { step } => {
                let at = self.node_of(*step);
                // What failed stays failed, whatever is still restored there.
                if matches!(self.nodes[at].state, NodeState::Waiting | NodeState::Done) {
                    self.nodes[at].state = NodeState::AtWork;
                }
                (self.nodes[at].now, self.nodes[at].sent) = (Some((*step, String::new())), None);
            }
            Event::Said { step, text } => {
                let at = self.node_of(*step);
                self.nodes[at].now = Some((*step, text.clone()));
            }
            Event::Sent { step, bytes, total } => {
                let at = self.node_of(*step);
                self.nodes[at].sent = Some((*bytes, *total));
            }
            Event::Done { step, .. } => self.end(*step, NodeState::Done),
            Event::Failed { step, .. } => self.end(*step, NodeState::Failed),
            Event::Skipped { step, .. } => self.end(*step, NodeState::LeftOut),
        }
    }

    fn end(&mut self, step: usize, how: NodeState) {
        let at = self.node_of(step);
        if std::mem::replace(&mut self.over[step - 1], true) {
            return;
        }
        self.finished += 1;
        self.ran[step - 1] = how != NodeState::LeftOut;
        let node = &mut self.nodes[at];
        node.over += 1;
        node.now = None;
        self.sent_before += node.sent.take().map_or(0, |(bytes, _)| bytes);
        node.state = match (node.state, how) {
            (NodeState::Failed, _) | (_, NodeState::Failed) => NodeState::Failed,
            (NodeState::LeftOut, _) | (_, NodeState::LeftOut) => NodeState::LeftOut,
            _ if node.over == node.steps => NodeState::Done,
            _ => NodeState::AtWork,
        };
    }

    /// A step with what happened, as a line of a log.
    pub fn line(&self, step: usize, text: &str) -> String {
        let (node, title) = self.names(step).unwrap_or_default();
        let total = self.steps.len();
        let digits = total.to_string().len();
        let colon = if text.is_empty() { "" } else { ": " };
        format!(
            "[{:>digits$}/{total}] {node:width$}  {title}{colon}{text}",
            self.finished,
            width = self.width
        )
    }

    /// A node as it is now: up to the step that runs, and what its agent says.
    pub fn node_line(&self, at: usize) -> (String, String) {
        let node = &self.nodes[at];
        let (what, said) = match (node.state, &node.now) {
            (NodeState::Failed, _) => ("FAILED".to_string(), String::new()),
            (_, Some((step, text))) => {
                let title = self.names(*step).map_or("", |(_, title)| title);
                (title.to_string(), if text.is_empty() { String::new() } else { format!(": {text}") })
            }
            (NodeState::Done, None) => ("done".into(), String::new()),
            (NodeState::LeftOut, None) => ("left out".into(), String::new()),
            (NodeState::Waiting | NodeState::AtWork, None) => (self.waits_for(at), String::new()),
        };
        let before =
            format!("{:width$}  {:>2}/{:<2}  {what}", node.name, node.over, node.steps, width = self.width);
        (before, said)
    }

    /// All nodes in one line.
    pub fn totals(&self) -> String {
        let count = |state| self.nodes.iter().filter(|n| n.state == state).count();
        let more = |n: usize, what: &str| if n > 0 { format!(", {n} {what}") } else { String::new() };
        format!(
            "{} of {} nodes done{}{}{}; {} of {} steps",
            count(NodeState::Done),
            self.nodes.len(),
            more(self.nodes.iter().filter(|n| n.now.is_some()).count(), "at work"),
            more(count(NodeState::Failed), "FAILED"),
            more(count(NodeState::LeftOut), "left out"),
            self.finished,
            self.steps.len()
        )
    }

    /// Bytes of all files.
    pub fn bytes_sent(&self) -> u64 {
        self.sent_before + self.nodes.iter().filter_map(|n| n.sent).map(|(bytes, _)| bytes).sum::<u64>()
    }

    /// The remaining time, where earlier runs and this one say enough: the work that is left, at the pace of
    /// this run.
    pub fn left(&self, elapsed: Duration) -> Option<String> {
        let work = |over: bool| {
            self.steps.iter().zip(&self.over).filter(move |(_, o)| **o == over).map(|(step, _)| step.2)
        };
        let known = self.steps.iter().filter(|(_, _, seconds)| seconds.is_some()).count();
        let done: f64 =
            self.steps.iter().zip(&self.ran).filter(|(_, ran)| **ran).filter_map(|(step, _)| step.2).sum();
        let left: f64 = work(false).flatten().sum();
        if known * 10 < self.steps.len() * 8 || done <= 0.0 || left <= 0.0 || elapsed < Duration::from_secs(2)
        {
            return None;
        }
        let seconds = left * elapsed.as_secs_f64() / done;
        Some(match seconds as u64 {
            0..=89 => format!("about {} s left", (seconds.ceil() as u64).max(1)),
            s @ 90..=5_399 => format!("about {} min left", s.div_ceil(60)),
            s => format!("about {:.1} h left", s as f64 / 3600.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_view(nodes: usize, seconds: Option<f64>) -> RunView {
        let node = |n: usize| Node {
            name: format!("esx-{n:02}"),
            steps: 2,
            over: 0,
            state: NodeState::Waiting,
            now: None,
            sent: None,
        };
        let steps: Vec<_> = (0..nodes * 2)
            .map(|n| (n / 2, if n % 2 == 0 { "send" } else { "reboot" }.to_string(), seconds))
            .collect();
        let (over, ran) = (vec![false; steps.len()], vec![false; steps.len()]);
        RunView {
            nodes: (1..=nodes).map(node).collect(),
            steps,
            over,
            ran,
            waits: (0..nodes * 2).map(|n| (if n % 2 == 1 { vec![n] } else { vec![] }, 1200)).collect(),
            finished: 0,
            width: 6,
            sent_before: 0,
        }
    }

    fn line(run_view: &RunView, at: usize) -> String {
        let (before, said) = run_view.node_line(at);
        before + &said
    }

    #[test]
    fn a_run_is_lines_and_totals() {
        let mut run_view = run_view(3, Some(100.0));
        let done = |step| Event::Done { step, note: "there".into(), changed: true };
        for event in [
            Event::Started { step: 1 },
            Event::Sent { step: 1, bytes: 7, total: 9 },
            Event::Started { step: 3 },
            done(1),
        ] {
            run_view.on_event(&event);
        }
        run_view.on_event(&Event::Failed {
            step: 3,
            error: crate::error::Error::new(crate::error::Kind::Failed, "no"),
        });
        run_view.on_event(&Event::Skipped { step: 4, why: None });
        assert_eq!(run_view.line(1, "there"), "[3/6] esx-01  send: there");
        assert_eq!(line(&run_view, 0), "esx-01   1/2   waits for its turn");
        assert_eq!(line(&run_view, 1), "esx-02   2/2   FAILED");
        assert_eq!(run_view.totals(), "0 of 3 nodes done, 1 FAILED; 3 of 6 steps");
        assert_eq!(run_view.bytes_sent(), 7);
        // Two steps of a hundred seconds took sixty here (one was left out): three are left.
        assert_eq!(run_view.left(Duration::from_secs(60)).as_deref(), Some("about 2 min left"));
        assert_eq!(run_view.left(Duration::from_secs(600)).as_deref(), Some("about 15 min left"));
        run_view.on_event(&Event::Started { step: 2 });
        run_view.on_event(&Event::Said { step: 2, text: "esxcli system shutdown reboot".into() });
        assert_eq!(line(&run_view, 0), "esx-01   1/2   reboot: esxcli system shutdown reboot");
        assert_eq!(run_view.at_most(0), Some(1200));
        // One that stands behind another machine says so.
        run_view.waits[5].0 = vec![2, 6];
        run_view.on_event(&done(5));
        assert_eq!(line(&run_view, 2), "esx-03   1/2   waits for esx-01");
        run_view.on_event(&done(2));
        assert_eq!(line(&run_view, 0), "esx-01   2/2   done");
        assert_eq!(line(&run_view, 2), "esx-03   1/2   waits for its turn");
    }

    #[test]
    fn without_earlier_runs_nothing_is_guessed() {
        let mut run_view = run_view(1, None);
        run_view.on_event(&Event::Done { step: 1, note: String::new(), changed: true });
        assert_eq!(run_view.left(Duration::from_secs(60)), None);
    }
}
