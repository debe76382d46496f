//! A run without machines: events move its steps, and the keeper of the rollout says what may begin then.

use crate::facts::NOW;
use crate::script::{Section, Wrong, wrong};
use std::collections::BTreeSet;
use vsgpu::hold::Hold;
use vsgpu::journal::{Purpose, Record, Status, outstanding};
use vsgpu::plan::{Plan, Step};
use vsgpu::run::{Admission, RolloutBudget};

/// Where a step is.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Waiting,
    Begun,
    Done,
    Failed,
    LeftOut,
}

struct Run<'a> {
    plan: &'a Plan,
    state: Vec<State>,
    keeper: RolloutBudget<'a>,
    status: Status,
    text: String,
}

fn named(step: &Step) -> String {
    format!("{} {}: {}", step.id, step.node, step.title)
}

impl Run<'_> {
    fn record(&mut self, record: &Record) -> Result<(), String> {
        self.status.next(record)
    }

    fn begin(&mut self, step: &Step) -> Result<(), String> {
        let ready = step
            .after
            .iter()
            .all(|a| self.state[a - 1] != State::Waiting && self.state[a - 1] != State::Begun);
        if !ready {
            return Err(format!("step {} has to wait for {:?}", step.id, step.after));
        }
        if let gate @ (Admission::Wait | Admission::Refuse(_)) = self.keeper.admit(step) {
            return Err(format!("step {} may not begin: {gate:?}", step.id));
        }
        self.keeper.began(step);
        self.state[step.id - 1] = State::Begun;
        self.record(&Record::Started { at: NOW, step: step.id, boot_id: "boot-1".into() })
    }

    fn end(&mut self, step: &Step, good: bool) -> Result<(), String> {
        if self.state[step.id - 1] == State::Waiting {
            self.begin(step)?;
        }
        if self.state[step.id - 1] != State::Begun {
            return Err(format!("step {} has ended already", step.id));
        }
        self.keeper.ended(step, Some(good));
        self.state[step.id - 1] = if good { State::Done } else { State::Failed };
        let (at, id) = (NOW, step.id);
        self.record(&match good {
            true => Record::Done { at, step: id, note: "so".into(), theirs: false },
            false => Record::Failed { at, step: id, error: "it failed".into(), hold: Hold::Failed },
        })
    }

    /// What may begin, what has to wait, what will not begin in this run.
    fn look(&mut self) {
        let (mut start, mut wait, mut refused) = (vec![], vec![], vec![]);
        for step in &self.plan.steps {
            let state = |id: &usize| self.state[id - 1];
            if state(&step.id) != State::Waiting
                || step.after.iter().any(|a| matches!(state(a), State::Waiting | State::Begun))
            {
                continue;
            }
            let tainted = step.after.iter().any(|a| matches!(state(a), State::Failed | State::LeftOut));
            let must_restore = step.restores_earlier
                || step.restores.is_some_and(|id| !matches!(state(&id), State::Waiting | State::LeftOut));
            if tainted && !must_restore {
                self.keeper.ended(step, None);
                self.state[step.id - 1] = State::LeftOut;
                self.text += &format!("  left out  {}\n", named(step));
                continue;
            }
            match self.keeper.admit(step) {
                Admission::Start => start.push(named(step)),
                Admission::Wait => wait.push(named(step)),
                Admission::Refuse(why) => refused.push(format!("{}: {why}", named(step))),
            }
        }
        for (word, steps) in [("may start", start), ("waits", wait), ("refused", refused)] {
            self.text += &steps.iter().map(|step| format!("  {word:<9} {step}\n")).collect::<String>();
        }
        if self.keeper.paused() {
            self.text += "  paused: the rest waits for `vsgpu resume`\n";
        }
    }
}

/// Numbers of steps: `3`, `1-4`.
fn numbers(text: &str, plan: &Plan) -> Option<Vec<usize>> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
    (from >= 1 && from <= to && to <= plan.steps.len()).then(|| (from..=to).collect())
}

/// The run as far as the events go, and what it leaves behind if it stops there.
pub fn told(file: &str, events: &Section, plan: Plan) -> Result<String, Wrong> {
    let pause = events.text.lines().any(|line| line == "pause");
    let first = Record::Planned {
        at: NOW,
        run: "run-1".into(),
        purpose: Purpose::Apply,
        plan: Box::new(plan.clone()),
        in_maintenance: BTreeSet::new(),
        stopped: BTreeSet::new(),
        unsettled: BTreeSet::new(),
        rebooted: [].into(),
        held: [].into(),
    };
    let status = Status::first(first).map_err(|why| wrong(file, events.line, why))?;
    let keeper = RolloutBudget::new(&plan, &status, pause);
    let mut run = Run {
        plan: &plan,
        state: vec![State::Waiting; plan.steps.len()],
        keeper,
        status,
        text: "at first\n".into(),
    };
    run.look();
    for (at, line) in events.text.lines().enumerate().filter(|(_, line)| !line.is_empty() && *line != "pause")
    {
        let at = |why: String| wrong(file, events.line + at, why);
        let (word, which) = line.split_once(' ').unwrap_or((line, ""));
        let which = numbers(which, &plan)
            .ok_or_else(|| at(format!("`{line}` names no step of the plan: 1 to {}", plan.steps.len())))?;
        run.text += &format!("{line}\n");
        for id in which {
            let step = &plan.steps[id - 1];
            match word {
                "start" => run.begin(step).map_err(at)?,
                "done" => run.end(step, true).map_err(at)?,
                "failed" => run.end(step, false).map_err(at)?,
                _ => return Err(at(format!("`{word}` is no event: start, done, failed, pause"))),
            }
        }
        run.look();
    }
    let left = outstanding(&run.status);
    let list = |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let nothing = left.in_maintenance.is_empty() && left.stopped.is_empty();
    run.text += "to give back\n";
    run.text += &match nothing {
        true => "  nothing\n".into(),
        false => format!(
            "  in maintenance mode: {}\n  shut down: {}\n",
            list(&left.in_maintenance),
            list(&left.stopped)
        ),
    };
    Ok(run.text)
}
