//! A plan with all that is to be said beside it.

use crate::compat::Finding;
use crate::inventory::acquired::{self, Left};
use crate::plan::steps::{Plan, Problem};
use std::collections::HashSet;

/// A plan with what stands in its way.
pub struct Planned {
    pub plan: Plan,
    /// What a person must mend first.
    pub problems: Vec<Problem>,
    /// What may go wrong.
    pub warnings: Vec<Finding>,
    /// What runs changed on the hosts temporarily, our own among them.
    pub temporary: Vec<Left>,
    /// When the hosts were looked at, seconds since 1970.
    pub at: u64,
}

impl Planned {
    /// A plan that nothing stands in the way of.
    pub fn only(plan: Plan) -> Self {
        Self { plan, problems: vec![], warnings: vec![], temporary: vec![], at: 0 }
    }

    /// What other runs than this one left; what a problem says already is not said again.
    pub fn left_by_others(&self, own: Option<&str>) -> Vec<String> {
        let known: HashSet<&str> = self
            .problems
            .iter()
            .filter(|p| p.error.code == "left-behind")
            .map(|p| p.node.name.as_str())
            .collect();
        let said = |left: &Left| left.vm.is_empty() && known.contains(left.host.as_str());
        acquired::told(
            self.temporary.iter().filter(|left| Some(left.run.as_str()) != own && !said(left)),
            self.at,
        )
    }
}
