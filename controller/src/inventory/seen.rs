//! What was seen of each node, and why a fact is not there. A failure is kept where it happened.

use crate::error::Error;
use crate::inventory::shared::Facts;
use crate::node::NodeId;
use std::collections::BTreeMap;
use vsgpu_core::{Fact, Unreadable};
use vsgpu_wire::acquired::TemporaryChange;
use vsgpu_wire::client::Holder;

/// What was seen of one node.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub boot_id: String,
    pub facts: Facts,
    /// What runs changed on a host temporarily and have not restored, as its agent keeps it.
    pub temporary: Vec<TemporaryChange>,
    /// Who has claimed a host.
    pub holder: Option<Holder>,
}

/// Why a fact is not there.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoFact {
    /// The node could not be talked to, or is not in the fleet.
    #[error("the node could not be asked")]
    NotAsked,
    /// The agent did not answer for it.
    #[error("the agent did not answer for `{0}`")]
    NotAnswered(&'static str),
    /// It could not be read on the node.
    #[error("{0}")]
    Unreadable(Box<Unreadable>),
    /// The agent's form of it is another one than ours.
    #[error("`{0}` has another form: controller and agent should be of one version")]
    OtherForm(&'static str),
}

impl Seen {
    /// A fact with its type.
    ///
    /// # Errors
    /// Why it is not there.
    pub fn fact<F: Fact>(&self) -> Result<F, NoFact> {
        let fact = self.facts.get(F::NAME).ok_or(NoFact::NotAnswered(F::NAME))?;
        let value = fact.as_deref().map_err(|unreadable| NoFact::Unreadable(Box::new(unreadable.clone())))?;
        F::deserialize(value).map_err(|_| NoFact::OtherForm(F::NAME))
    }
}

/// Everything that was seen.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// When it was looked at, seconds since 1970 by this machine's clock.
    pub at: u64,
    /// By node; `Err` where the node could not be talked to.
    pub nodes: BTreeMap<NodeId, Result<Seen, Error>>,
}

impl Inventory {
    /// A fact of a node.
    ///
    /// # Errors
    /// Why it is not there.
    pub fn fact<F: Fact>(&self, node: &NodeId) -> Result<F, NoFact> {
        self.seen(node).ok_or(NoFact::NotAsked)?.fact()
    }

    /// What was seen of a node, if it could be talked to.
    pub fn seen(&self, node: &NodeId) -> Option<&Seen> {
        self.nodes.get(node).and_then(|r| r.as_ref().ok())
    }
}
