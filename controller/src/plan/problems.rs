//! What a person must mend first, in the order in which it was found.

use crate::error::Error;
use crate::node::NodeId;
use crate::plan::steps::Problem;
use std::collections::HashSet;

/// All problems of one plan.
#[derive(Default)]
pub(super) struct Problems {
    all: Vec<Problem>,
    said: HashSet<Error>,
}

impl Problems {
    pub(super) fn add(&mut self, node: &NodeId, error: Error) {
        self.all.push(Problem { node: node.clone(), error });
    }

    /// One that several nodes share (a host that is away, a combination) is one problem.
    pub(super) fn add_once(&mut self, node: &NodeId, error: Error) {
        if self.said.insert(error.clone()) {
            self.add(node, error);
        }
    }

    pub(super) fn into_list(self) -> Vec<Problem> {
        self.all
    }
}
