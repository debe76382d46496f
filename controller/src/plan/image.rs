//! Where vSphere Lifecycle Manager owns what is installed on a host: the component comes into the image while all VMs run,
//! so that a bundle that vCenter does not take costs no window.

use crate::compat::Finding;

use crate::node::NodeId;
use crate::plan::changes::Change;
use crate::plan::planner::Planner;
use crate::plan::steps::Work;
use vsgpu_core::knowledge::Basis;
use vsgpu_core::requirement::Verdict;
use vsgpu_core::{Effect, Requirement};
use vsgpu_host_agent::host::Image;
use vsgpu_host_agent::host::image::{begins_with_image, is_commit_only};

fn effects(change: &Change) -> &[Effect] {
    match &change.verdict {
        Verdict::Unmet { effects, .. } => effects,
        _ => &[],
    }
}

/// Whether a change ends with the image: people remediate the host.
pub(super) fn waits_for_people(change: &Change) -> bool {
    is_commit_only(effects(change))
}

/// The rest of a host waits for them.
pub(super) fn image_first(node: &NodeId) -> Finding {
    Finding {
        constraint: Image::NAME,
        nodes: vec![node.clone()],
        what: format!(
            "the image is changed first: what else is to change on {node} is planned when it is remediated"
        ),
        basis: Basis::document("", true),
        nearest: Some("remediate it in the vSphere Client (Updates, Hosts, Image), then `vsgpu apply`; or write `images = remediate` into the gateway's file and restart the gateway".into()),
        certain: false,
    }
}

impl Planner<'_> {
    /// Steps that bring components into the image; what they do is taken out of the changes. The files were sent before.
    pub(super) fn put_into_image(
        &mut self,
        node: &NodeId,
        changes: &mut [Change],
        mut after: Vec<usize>,
    ) -> Vec<usize> {
        for change in changes.iter_mut().filter(|change| begins_with_image(effects(change))) {
            let Verdict::Unmet { wants, effects, .. } = &mut change.verdict else { continue };
            let first = effects.remove(0);
            let when =
                if effects.is_empty() { "the host stays as it is" } else { "before a VM goes down for it" };
            let text = format!("{} {wants}, {when}", change.entry.name);
            let work =
                Work::Meet { requirement: Image::NAME.into(), spec: change.spec.clone(), expect: None };
            let commands = self.shown(node, &[first]);
            after = vec![self.push(node, "put into the image", text, commands, work, after)];
        }
        after
    }
}
