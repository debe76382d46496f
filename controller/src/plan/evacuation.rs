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
    /// Seconds that one of them stands still while it moves, at most; none where no vGPU makes that long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stun_secs: Option<u64>,
}

impl Moves {
    /// How they leave, and who.
    pub fn in_words(&self) -> Vec<(String, Vec<String>)> {
        let stun = self.stun_secs.map(|secs| format!(" (each may stand still for {secs} s)"));
        let all = [
            (format!("VMs that DRS moves{}", stun.unwrap_or_default()), self.by_drs.clone()),
            ("VMs that you move while it waits".to_string(), self.by_hand.clone()),
        ];
        all.into_iter().filter(|(_, vms)| !vms.is_empty()).collect()
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
        let off =
            wish.vms == WithVms::MoveOrOff && vm.way != Way::Drs && of_file.contains_key(vm.name.as_str());
        match vm.way {
            Way::Drs => decided.moves.by_drs.push(vm.name.clone()),
            _ if off => drop(decided.off.insert(vm.name.clone())),
            Way::ByHand if wish.vms == WithVms::Move => decided.moves.by_hand.push(vm.name.clone()),
            Way::ByHand | Way::Off => stuck.push(vm),
        }
        let longest = decided.moves.stun_secs.max(vm.stun_secs);
        decided.moves.stun_secs = longest.filter(|_| vm.way != Way::Off && !off).or(decided.moves.stun_secs);
    }
    if !stuck.is_empty() {
        let named = first(stuck.iter().map(|vm| format!("{} ({})", vm.name, vm.why)), NAMED, "");
        let hint = match (wish.vms, stuck.iter().any(|vm| vm.way == Way::Off)) {
            (WithVms::MoveOrOff, _) => {
                "list them under `vms:` so that vsgpu may shut them down, move them, or shut them down yourself"
            }
            (_, true) => {
                "shut them down, or say `maintenance: { vms: move-or-off }`: those of the fleet file are then shut down"
            }
            (_, false) => {
                "let DRS move them, or say `maintenance: { vms: move }`: vsgpu then waits while somebody moves them"
            }
        };
        return Err(blocked(format!("not every VM can leave it: {named}")).hint(hint));
    }
    if !decided.moves.by_hand.is_empty() {
        decided.leave = Leave::MovedAlsoByHand;
        let of_hand = forecast.of(Way::ByHand).filter(|vm| decided.moves.by_hand.contains(&vm.name));
        let named = first(of_hand.map(|vm| format!("{} ({})", vm.name, vm.why)), NAMED, "");
        decided.warnings.push(finding(
            node,
            format!("vsgpu waits for somebody to move {named}"),
            Some("move them when the run says that it waits".into()),
        ));
    }
    let tied = decided.moves.by_drs.iter().filter(|vm| of_file.get(vm.as_str()) == Some(&true));
    let tied = first(tied.cloned(), NAMED, "");
    if !tied.is_empty() {
        decided.warnings.push(finding(
            node,
            format!("the fleet file ties to this host what DRS moves away: {tied}"),
            Some("`host: { cluster: NAME }` lets a VM be on any host of its cluster".into()),
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
        basis: Basis::document("vCenter's own forecast", true),
        nearest,
        certain: false,
    }
}
