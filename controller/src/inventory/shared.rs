//! What is the same on many nodes is kept once: a fleet is many machines of few kinds.

use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use vsgpu_core::{Unreadable, observe};

/// Facts of a node by name; those that another node has as well are that one's.
pub type Facts = BTreeMap<Arc<str>, Result<Arc<Value>, Unreadable>>;

/// Values of one type, each kept once.
pub struct Shared<T: ?Sized>(HashSet<Arc<T>>);

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self(HashSet::new())
    }
}

impl<T: ?Sized + Eq + Hash> Shared<T> {
    /// The one that is equal to it, else it.
    pub fn one(&mut self, value: impl Into<Arc<T>>) -> Arc<T> {
        let value = value.into();
        match self.0.get(&value) {
            Some(known) => known.clone(),
            None => {
                self.0.insert(value.clone());
                value
            }
        }
    }
}

/// The facts of a fleet.
#[derive(Default)]
pub struct SharedFacts {
    names: Shared<str>,
    facts: Shared<Value>,
}

impl SharedFacts {
    /// Facts as they were read, with what is known already shared.
    pub fn of(&mut self, facts: observe::Facts) -> Facts {
        facts
            .into_iter()
            .map(|(name, fact)| (self.names.one(name), fact.map(|fact| self.facts.one(fact))))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn equal_facts_are_one_and_others_are_not() {
        let mut shared = SharedFacts::default();
        let facts = |gpus: usize| observe::Facts::from([("gpus".to_string(), Ok(json!({ "gpus": gpus })))]);
        let (one, same, other) = (shared.of(facts(1)), shared.of(facts(1)), shared.of(facts(2)));
        let at = |facts: &Facts| Arc::as_ptr(facts["gpus"].as_ref().unwrap_or_else(|_| unreachable!()));
        assert_eq!(at(&one), at(&same));
        assert_ne!(at(&one), at(&other));
        assert_eq!(**other["gpus"].as_ref().unwrap_or_else(|_| unreachable!()), json!({ "gpus": 2 }));
    }
}
