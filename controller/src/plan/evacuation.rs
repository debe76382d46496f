//! Who leaves a host before its maintenance window, and how: the fleet file's wish against vCenter's forecast. Pure.

use crate::compat::Finding;
use crate::error::{Error, Kind};
use crate::fleet::{Maintenance, WithVms};
use crate::node::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::Fact as _;
use vsgpu_core::knowledge::Basis;
use vsgpu_core::words::first;
use vsgpu_host_agent::facts::Evacuation;
use vsgpu_host_agent::facts::evacuation::{Forecast, Leaving, Way};
use vsgpu_host_agent::host::Leave;

/// VMs that are named.
const NAMED: usize = 5;

/// VMs that leave a host while they run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moves {
    /// Those that DRS moves.
    pub by_drs: Vec<String>,
    /// Those that somebody has to move.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_hand: Vec<String>,
    /// Those that stand still for seconds while they move, with how many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stand_still: Vec<(String, u64)>,
    /// Those that are shut down because they do not move, and why they do not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shut_down: Vec<(String, String)>,
}

impl Moves {
    /// Nobody leaves while they run.
    pub fn is_empty(&self) -> bool {
        self.by_drs.is_empty() && self.by_hand.is_empty()
    }

    /// How they leave, and who.
    pub fn in_words(&self) -> Vec<(String, Vec<String>)> {
        let still = self.stand_still.iter().map(|(vm, secs)| format!("{vm} {secs} s")).collect();
        let down = self.shut_down.iter().map(|(vm, why)| format!("{vm} ({why})")).collect();
        let all: [(&str, Vec<String>); 4] = [
            ("shut down, as they do not move", down),
            ("moved by DRS", self.by_drs.clone()),
            ("for you to move while it waits", self.by_hand.clone()),
            ("stand still while they move, about", still),
        ];
        let all = all.into_iter().filter(|(_, vms)| !vms.is_empty());
        all.map(|(how, vms)| (how.to_string(), vms)).collect()
    }
}

/// What is done.
pub(super) struct Decided {
    /// VMs of the fleet file, by their names in vSphere, that are shut down.
    pub off: BTreeSet<String>,
    pub moves: Moves,
    pub leave: Leave,
    pub warnings: Vec<Finding>,
}

/// Decides. `of_file`: VMs of the fleet file by their names in vSphere, and whether it ties each to this host. `edited`:
/// those that are shut down anyway.
pub(super) fn decide(
    node: &NodeId,
    wish: &Maintenance,
    fact: Result<Evacuation, String>,
    of_file: &BTreeMap<&str, bool>,
    edited: &BTreeSet<&str>,
) -> Result<Decided, Error> {
    let blocked = |why: String| Error::new(Kind::Blocked, format!("{node}: {why}")).code("cannot-evacuate");
    let forecast = fact
        .map_err(|why| blocked(format!("what becomes of its VMs is not known: {why}")))?
        .forecast
        .ok_or_else(|| {
            blocked("`maintenance: { vms: .. }` takes vCenter, and this host's agent does not reach it by vCenter".into())
                .hint("serve the host by `vsgpu-host-agent gateway serve`, or take `maintenance:` out: its VMs are then shut down")
        })?;
    let mut decided = Decided {
        off: BTreeSet::new(),
        moves: Moves::default(),
        leave: Leave::Moved,
        warnings: warnings(node, &forecast),
    };
    let mut stuck: Vec<&Leaving> = vec![];
    for vm in forecast.vms.iter().filter(|vm| !edited.contains(vm.name.as_str())) {
        // Nobody is shut down for what is only not known.
        let may_be_off = matches!(vm.way, Way::ByHand | Way::Off) && of_file.contains_key(vm.name.as_str());
        let off = wish.vms == WithVms::MoveOrOff && may_be_off;
        match vm.way {
            Way::Drs => decided.moves.by_drs.push(vm.name.clone()),
            _ if off => {
                decided.moves.shut_down.push((vm.name.clone(), vm.why.clone()));
                decided.off.insert(vm.name.clone());
            }
            Way::ByHand if wish.vms == WithVms::Move => decided.moves.by_hand.push(vm.name.clone()),
            Way::ByHand | Way::Off | Way::Unknown => stuck.push(vm),
        }
        if let Some(secs) = vm.stun_secs.filter(|_| matches!(vm.way, Way::Drs | Way::ByHand) && !off) {
            decided.moves.stand_still.push((vm.name.clone(), secs));
        }
    }
    if !stuck.is_empty() {
        let named = first(stuck.iter().map(|vm| format!("{} ({})", vm.name, vm.why)), NAMED, "");
        let is = |way: Way| stuck.iter().any(|vm| vm.way == way);
        let hint = if is(Way::Unknown) {
            "vsgpu shuts no VM down for what is not known: mend what the reason says, then `vsgpu plan`"
        } else if wish.vms == WithVms::MoveOrOff {
            "move them yourself, or shut them down; those that are yours can be listed under `vms:`: vsgpu may then shut them down"
        } else if is(Way::Off) {
            "the reason may be one to mend: room, a rule of DRS, HA; else shut them down, or say `maintenance: { vms: move-or-off }`: those of the fleet file are then shut down"
        } else {
            "let DRS move them, or say `maintenance: { vms: move }`: vsgpu then waits while you move them"
        };
        return Err(blocked(format!("not every VM can leave it: {named}")).hint(hint));
    }
    // One that comes later is waited for as well.
    if wish.vms == WithVms::Move {
        decided.leave = Leave::MovedAlsoByHand;
    }
    if !decided.moves.by_hand.is_empty() {
        let of_hand = forecast.of(Way::ByHand).filter(|vm| decided.moves.by_hand.contains(&vm.name));
        let named = first(of_hand.map(|vm| format!("{} ({})", vm.name, vm.why)), NAMED, "");
        decided.warnings.push(finding(
            node,
            format!("vsgpu waits for somebody to move {named}"),
            Some("move them when the step `enter maintenance mode` begins".into()),
        ));
    }
    let tied = decided.moves.by_drs.iter().filter(|vm| of_file.get(vm.as_str()) == Some(&true));
    let tied = first(tied.cloned(), NAMED, "");
    if !tied.is_empty() {
        decided.warnings.push(finding(
            node,
            format!(
                "DRS moves away what the fleet file ties to this host: {tied}; the next plan would stop there"
            ),
            Some(
                "write `host: { cluster: NAME }` for them first, and list every host of that cluster".into(),
            ),
        ));
    }
    Ok(decided)
}

/// Said where DRS is only then asked what it moves.
pub(super) fn options_first(node: &NodeId) -> Finding {
    finding(
        node,
        "options of DRS are set first: what else is to change on this host is planned when they are".into(),
        Some("`vsgpu apply` once more when this is done".into()),
    )
}

fn warnings(node: &NodeId, forecast: &Forecast) -> Vec<Finding> {
    forecast.warnings.iter().map(|said| finding(node, said.clone(), None)).collect()
}

fn finding(node: &NodeId, what: String, nearest: Option<String>) -> Finding {
    Finding {
        constraint: Evacuation::NAME,
        nodes: vec![node.clone()],
        what,
        basis: Basis::document("", true),
        nearest,
        certain: false,
    }
}
