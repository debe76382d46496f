//! What the agent is doing and has done lately, by the name the controller gave it. An operation outlives the
//! connection it was asked on: asked again under its name it is not run again, and whoever asks hears what
//! was missed.
//!
//! Deliberately in memory only: after a restart of the agent an operation is unknown, and asking again looks
//! at the machine first, as every change does.

use crate::refusal::Refusal;
use crate::v1;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Finished operations that are remembered.
const REMEMBERED: usize = 256;
/// Events of one operation that are remembered; an installer says far less.
const MAX_EVENTS: usize = 2000;

/// One operation.
pub(crate) struct Operation {
    /// What it is, for people.
    what: String,
    events: Mutex<Events>,
    /// Number of the last event.
    last: watch::Sender<u64>,
}

#[derive(Default)]
struct Events {
    kept: VecDeque<v1::Event>,
    ended: bool,
}

impl Operation {
    fn new(what: String) -> Arc<Self> {
        Arc::new(Self { what, events: Mutex::default(), last: watch::channel(0).0 })
    }

    fn events(&self) -> std::sync::MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn push(&self, event: v1::event::Event, ended: bool) {
        let mut events = self.events();
        let number = *self.last.borrow() + 1;
        events.kept.push_back(v1::Event { event: Some(event), number });
        if events.kept.len() > MAX_EVENTS {
            events.kept.pop_front();
        }
        events.ended = ended;
        drop(events);
        self.last.send_replace(number);
    }

    /// What is being done now.
    pub(crate) fn say(&self, text: String) {
        self.push(v1::event::Event::Said(text), false);
    }

    /// How it ended; always the last event.
    pub(crate) fn end(&self, outcome_json: String) {
        self.push(v1::event::Event::OutcomeJson(outcome_json), true);
    }

    fn ended(&self) -> bool {
        self.events().ended
    }

    /// Events after `heard`, as they come, to the last one. Never more than a few wait for a slow listener.
    pub(crate) fn listen(
        self: Arc<Self>,
        heard: u64,
    ) -> tokio::sync::mpsc::Receiver<Result<v1::Event, tonic::Status>> {
        let (tx, rx) = tokio::sync::mpsc::channel(16);
        let mut last = self.last.subscribe();
        tokio::spawn(async move {
            // More than there is: it was heard of another run of this operation.
            let mut heard = if heard > *last.borrow() { 0 } else { heard };
            loop {
                last.mark_unchanged();
                let (news, ended) = {
                    let events = self.events();
                    (
                        events.kept.iter().filter(|e| e.number > heard).cloned().collect::<Vec<_>>(),
                        events.ended,
                    )
                };
                for event in news {
                    heard = event.number;
                    if tx.send(Ok(event)).await.is_err() {
                        return;
                    }
                }
                if ended || last.changed().await.is_err() {
                    return;
                }
            }
        });
        rx
    }
}

/// All operations of the agent.
#[derive(Default)]
pub(crate) struct Operations(Mutex<Known>);

#[derive(Default)]
struct Known {
    by_name: BTreeMap<String, Arc<Operation>>,
    order: VecDeque<String>,
    begun: u64,
}

impl Operations {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How many were begun, ever.
    pub(crate) fn begun(&self) -> u64 {
        self.known().begun
    }

    /// The operation of this name; `true` where it is new and must be run; with `look_again`
    /// that is also one that has ended.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` where so many are not done yet.
    pub(crate) fn begin(
        &self,
        name: &str,
        look_again: bool,
        what: String,
        most: usize,
    ) -> Result<(Arc<Operation>, bool), Refusal> {
        let mut known = self.known();
        if let Some(found) = known.by_name.get(name).filter(|o| !look_again || !o.ended()) {
            return Ok((found.clone(), false));
        }
        if known.by_name.len() >= most.min(REMEMBERED)
            && known.by_name.values().filter(|o| !o.ended()).count() >= most
        {
            return Err(Refusal::exhausted(format!("{most} changes of this node are not done yet")));
        }
        known.begun += 1;
        let operation = Operation::new(what);
        if known.by_name.insert(name.into(), operation.clone()).is_none() {
            known.order.push_back(name.into());
        }
        while known.order.len() > REMEMBERED {
            let Some(at) = known.order.iter().position(|n| known.by_name.get(n).is_none_or(|o| o.ended()))
            else {
                break;
            };
            if let Some(old) = known.order.remove(at) {
                known.by_name.remove(&old);
            }
        }
        Ok((operation, true))
    }

    /// Something that runs now.
    pub(crate) fn running(&self) -> Option<String> {
        self.known().by_name.values().find(|o| !o.ended()).map(|o| o.what.clone())
    }
}
