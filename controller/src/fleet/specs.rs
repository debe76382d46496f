//! What is wanted of one node: one spec for each requirement that the fleet file names.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use vsgpu_core::Requirement;

/// What the fleet file wants of one requirement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spec {
    #[serde(rename = "name")]
    pub requirement: &'static str,
    /// In full form, as the requirement itself writes it.
    #[serde(rename = "spec")]
    pub value: Arc<Value>,
}

/// The specs of one node, in the order of the catalogue.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Specs(Vec<Spec>);

impl Specs {
    /// What is wanted of `R`; `None` where the fleet file says nothing about it.
    pub fn get<R: Requirement>(&self) -> Option<R::Spec> {
        let spec = R::Spec::deserialize(&*self.iter().find(|s| s.requirement == R::NAME)?.value);
        debug_assert!(spec.is_ok(), "{}: every spec was read by its requirement before it was kept", R::NAME);
        spec.ok()
    }

    /// Whether the fleet file says anything about `R`.
    pub fn has<R: Requirement>(&self) -> bool {
        self.iter().any(|s| s.requirement == R::NAME)
    }

    /// Puts another spec of `R` in the place of the one that is there, or behind the others.
    pub fn set<R: Requirement>(&mut self, spec: &R::Spec) {
        let Ok(value) = serde_json::to_value(spec) else { return };
        let spec = Spec { requirement: R::NAME, value: value.into() };
        match self.iter_mut().find(|s| s.requirement == R::NAME) {
            Some(there) => *there = spec,
            None => self.0.push(spec),
        }
    }
}

impl std::ops::Deref for Specs {
    type Target = [Spec];
    fn deref(&self) -> &[Spec] {
        &self.0
    }
}

impl std::ops::DerefMut for Specs {
    fn deref_mut(&mut self) -> &mut [Spec] {
        &mut self.0
    }
}

impl FromIterator<Spec> for Specs {
    fn from_iter<I: IntoIterator<Item = Spec>>(specs: I) -> Self {
        Self(specs.into_iter().collect())
    }
}
