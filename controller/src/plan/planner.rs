//! Pure: fleet and inventory in, plan out.
//!
//! What cannot be known yet (ECC before there is a driver) is a step all the same: its commands are decided
//! on the node, and its reboot is skipped when it proves to be needless. The road of one host is in `host.rs`.

use crate::compat::{self, Finding, Judgement};
use crate::error::{Error, Kind};
use crate::fleet::{Fleet, Guest, Specs};
use crate::inventory::shared::Shared;
use crate::inventory::{Inventory, Seen, acquired, reaches};
use crate::node::{NodeId, NodeKind};
use crate::plan::changes::{Change, Judge};
use crate::plan::leftovers::Leftovers;
use crate::plan::planned::Planned;
use crate::plan::steps::{Plan, Step, VERSION, Work, digest};
use crate::plan::{assign, cluster_wide, order, rollout};
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::outcome::Expectation;
use vsgpu_core::requirement::{Deadline, TakesEffect, Verdict};
use vsgpu_core::text::piece;
use vsgpu_core::units::OnOff;
use vsgpu_core::{Catalogue, Effect, Requirement, WordOr};
use vsgpu_guest_agent::guest::{GpuServer, NetworkGpu};
use vsgpu_host_agent::facts::{Vcenter, VmPower};
use vsgpu_host_agent::host::{Leave, MaintenanceMode, MaintenanceModeFact, MaintenanceModeSpec};
use vsgpu_host_agent::vm::{Power, PowerSpec, PowerState};

pub(super) struct Planner<'a> {
    pub(super) fleet: &'a Fleet,
    /// Host of each VM.
    pub(super) host_of: BTreeMap<&'a str, &'a str>,
    pub(super) inventory: &'a Inventory,
    pub(super) leftovers: &'a Leftovers,
    pub(super) catalogue: &'static Catalogue,
    pub(super) judge: Judge<'a>,
    pub(super) steps: Vec<Step>,
    /// What may go wrong with what was planned.
    pub(super) warnings: Vec<Finding>,
    pub(super) texts: Shared<str>,
    pub(super) commands: Shared<[String]>,
    pub(super) effects: Shared<[Effect]>,
}

/// Makes the plan, and says what stands in its way. The compatibility check comes first: nothing is planned
/// for what it refuses.
pub fn plan(fleet: &Fleet, inventory: &Inventory, leftovers: &Leftovers) -> Planned {
    // With model names settled to addresses, so that two VMs are not thought to want the same GPU.
    let assigned = assign::settled(fleet, inventory);
    let Judgement { mut refused, mut warnings, .. } =
        compat::judge(&assigned, Some(inventory), &leftovers.stopped);
    for (node, errors) in cluster_wide::disagree(&assigned, inventory) {
        refused.entry(node).or_default().extend(errors);
    }
    let mut planner = Planner::new(&assigned, inventory, leftovers, assigned.specs(), refused);
    let by_host = assigned.vms_by_host();
    for host in &fleet.hosts {
        planner.host(host, &by_host[host.name.as_str()]);
    }
    rollout::keep_room_for_moves(&assigned, &mut planner.steps);
    wait_for_servers(&assigned, &mut planner.steps);
    let Planner { steps, warnings: of_plan, judge: Judge { problems, met, .. }, .. } = planner;
    warnings.extend(of_plan);
    let seen = inventory.nodes.iter().filter_map(|(id, seen)| Some((id, seen.as_ref().ok()?)));
    let temporary = seen
        .flat_map(|(id, seen)| acquired::of_host(&id.name, &seen.temporary, seen.holder.as_ref()))
        .collect();
    Planned {
        plan: whole(fleet, inventory, steps, met),
        problems: problems.into_list(),
        warnings,
        temporary,
        at: inventory.at,
    }
}

/// A client of GPU servers is set up, and proved, when its servers are: the only steps that wait for another VM's.
fn wait_for_servers(fleet: &Fleet, steps: &mut [Step]) {
    let of =
        |step: &Step, name: &str| matches!(&step.work, Work::Meet { requirement, .. } if requirement == name);
    let clients: Vec<usize> =
        steps.iter().filter(|step| of(step, NetworkGpu::NAME)).map(|step| step.id).collect();
    if clients.is_empty() {
        return;
    }
    // The step that makes it a server; else the one that starts its VM again.
    let mut ready: BTreeMap<&str, usize> = BTreeMap::new();
    for step in steps.iter().filter(|step| step.node.kind == NodeKind::Vm) {
        ready.insert(&step.node.name, step.id);
    }
    for step in steps.iter().filter(|step| of(step, GpuServer::NAME)) {
        ready.insert(&step.node.name, step.id);
    }
    let guests: BTreeMap<&str, &Guest> =
        fleet.vms.iter().filter_map(|vm| Some((vm.name.as_str(), vm.guest.as_ref()?))).collect();
    let mut waits = vec![];
    for id in clients {
        let own = &steps[id - 1].node.name;
        let Some(WordOr::Map(client)) = guests.get(own.as_str()).and_then(|guest| guest.spec::<NetworkGpu>())
        else {
            continue;
        };
        let servers = client.servers.iter().filter(|server| *server != own);
        waits
            .push((id, servers.filter_map(|server| ready.get(server.as_str()).copied()).collect::<Vec<_>>()));
    }
    for (id, on) in waits {
        steps[id - 1].after.extend(on);
    }
}

/// Steps with all that a plan needs beside them.
pub(super) fn whole(fleet: &Fleet, inventory: &Inventory, steps: Vec<Step>, met: usize) -> Plan {
    let rollout = rollout::rollout(fleet, inventory, &steps);
    let used: BTreeSet<&NodeId> = steps.iter().map(|s| &s.node).collect();
    let reaches = reaches(fleet).into_iter().filter(|(id, _)| used.contains(id)).collect();
    let network = compat::network_cost(fleet, inventory, |id| used.contains(id));
    Plan {
        version: VERSION,
        fleet_file: fleet.file.display().to_string(),
        fleet: digest(fleet),
        steps,
        reaches,
        deadlines: fleet.deadlines.clone(),
        met,
        rollout,
        network,
    }
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        fleet: &'a Fleet,
        inventory: &'a Inventory,
        leftovers: &'a Leftovers,
        wanted: BTreeMap<NodeId, &'a Specs>,
        refused: BTreeMap<NodeId, Vec<Error>>,
    ) -> Self {
        let catalogue = crate::catalogue::catalogue();
        let host_of = fleet.vms.iter().map(|vm| (vm.name.as_str(), vm.host.as_str())).collect();
        Self {
            fleet,
            host_of,
            inventory,
            leftovers,
            catalogue,
            judge: Judge::new(wanted, refused, &leftovers.rebooted),
            steps: vec![],
            warnings: vec![],
            texts: Shared::default(),
            commands: Shared::default(),
            effects: Shared::default(),
        }
    }

    pub(super) fn problem(&mut self, node: &NodeId, error: Error) {
        self.judge.problems.add(node, error);
    }

    pub(super) fn seen(&mut self, node: &NodeId) -> Option<&'a Seen> {
        match self.inventory.nodes.get(node) {
            Some(Ok(seen)) => Some(seen),
            Some(Err(error)) => {
                let error = error.clone();
                // One agent that is away is one problem, not one for each of its VMs.
                self.judge.problems.add_once(node, error);
                None
            }
            None => None,
        }
    }

    pub(super) fn push(
        &mut self,
        node: &NodeId,
        title: &str,
        change: String,
        commands: Vec<String>,
        work: Work,
        after: Vec<usize>,
    ) -> usize {
        let id = self.steps.len() + 1;
        let deadlines = &self.fleet.deadlines;
        let connect_secs =
            if node.kind == NodeKind::Guest { deadlines.guest_boot_secs } else { deadlines.connect_secs };
        let deadline_secs = match &work {
            Work::Send { .. } => deadlines.transfer_secs,
            Work::Meet { requirement, spec, .. } => {
                let entry = self.catalogue.find(node.kind.scope(), requirement);
                deadlines.of(entry.map_or(Deadline::Step, |entry| (entry.deadline)(spec)))
            }
            Work::Activate { .. } => deadlines.step_secs,
        };
        let of_vm = self.host_of.get(node.name.as_str()).filter(|_| node.kind != NodeKind::Host);
        let host = of_vm.map_or(node.name.clone(), |host| host.to_string());
        self.steps.push(Step {
            id,
            node: node.clone(),
            title: title.into(),
            change: self.texts.one(change),
            commands: self.commands.one(commands),
            work,
            after,
            restores: None,
            restores_earlier: false,
            connect_secs,
            deadline_secs,
            host,
            disrupts: false,
            moves: None,
            before: None,
        });
        id
    }

    /// The host cannot be used from the first of these steps that takes it or its VMs away to the last that
    /// gives them back.
    pub(super) fn disrupts(&mut self, host: &str, since: usize) {
        self.steps
            .iter_mut()
            .skip(since)
            .filter(|s| s.host == host && rollout::takes_away(s))
            .for_each(|s| s.disrupts = true);
    }

    /// Whether a host, or the host of a VM, is reached by vCenter.
    fn is_by_api(&self, node: &NodeId) -> bool {
        let host = match node.kind {
            NodeKind::Host => Some(node.name.as_str()),
            NodeKind::Vm => self.host_of.get(node.name.as_str()).copied(),
            NodeKind::Guest => None,
        };
        let seen =
            host.and_then(|host| self.inventory.nodes.get(&NodeId::new(NodeKind::Host, host))?.as_ref().ok());
        seen.and_then(|seen| seen.fact::<Vcenter>().ok()).is_some_and(|fact| fact.host.is_some())
    }

    /// What is really done: commands, or calls of the vSphere API.
    pub(super) fn shown(&self, node: &NodeId, effects: &[Effect]) -> Vec<String> {
        let by_api = self.is_by_api(node);
        let one = |effect: &Effect| match by_api {
            true => vsgpu_host_agent::by_api::shown(effect),
            false => Some(effect.to_string()),
        };
        effects.iter().filter_map(one).map(|text| piece(&text, 1 << 20)).collect()
    }

    fn activation_commands(&self, node: &NodeId, restart: Option<&str>) -> Vec<String> {
        match restart {
            None if node.kind == NodeKind::Guest => vec![vsgpu_guest_agent::reboot().to_string()],
            None => self.shown(node, &[vsgpu_host_agent::reboot()]),
            Some(name) => {
                let known = self.catalogue.restarts().into_iter().find(|restart| restart.name == name);
                known.map(|restart| self.shown(node, &(restart.effects)())).unwrap_or_default()
            }
        }
    }

    pub(super) fn held(&mut self, node: &NodeId) -> bool {
        let Some(held) = self.leftovers.held.get(node) else { return false };
        let error = Error::new(Kind::Blocked, format!("{node} is held ({}): {}", held.hold, held.why))
            .held(held.hold);
        self.problem(node, error.hint(held.hold.advice_for(node)));
        true
    }

    pub(super) fn start(&self) -> PowerSpec {
        PowerSpec { within_secs: self.fleet.deadlines.gpu_attach_secs, ..PowerSpec::new(PowerState::On) }
    }

    /// Enters or leaves maintenance mode; `now`: whether the host is in it by then.
    pub(super) fn maintenance(&mut self, node: &NodeId, state: OnOff, now: bool, after: Vec<usize>) -> usize {
        let within_secs = self.fleet.deadlines.maintenance_secs;
        self.maintenance_as(node, MaintenanceModeSpec { state, within_secs, vms: Leave::Off }, now, after)
    }

    pub(super) fn maintenance_as(
        &mut self,
        node: &NodeId,
        spec: MaintenanceModeSpec,
        now: bool,
        after: Vec<usize>,
    ) -> usize {
        let state = spec.state;
        let title = if state.on() { "enter maintenance mode" } else { "leave maintenance mode" };
        let then = MaintenanceModeFact { enabled: now, running: vec![] };
        self.switch::<MaintenanceMode>(node, title, state.on(), &spec, Some(then), after)
    }

    /// Shuts a VM down or starts it.
    pub(super) fn power(
        &mut self,
        node: &NodeId,
        spec: PowerSpec,
        then: Option<VmPower>,
        after: Vec<usize>,
    ) -> usize {
        let on = spec.state == PowerState::On;
        self.switch::<Power>(node, if on { "start" } else { "shut down" }, on, &spec, then, after)
    }

    /// A switch of the planner's own. `then`: the fact as it will be by then; its commands follow from it.
    fn switch<R: Requirement>(
        &mut self,
        node: &NodeId,
        title: &str,
        on: bool,
        spec: &R::Spec,
        then: Option<R::Fact>,
        after: Vec<usize>,
    ) -> usize {
        let (change, commands) = match then.map(|fact| R::check(spec, &fact)) {
            // It is looked at again all the same: what follows rests on it.
            Some(Verdict::Met { is }) => (format!("{is} already"), vec![]),
            Some(Verdict::Unmet { is, wants, effects }) => {
                (format!("{is} -> {wants}"), self.shown(node, &effects))
            }
            _ => (if on { "off -> on" } else { "on -> off" }.to_string(), vec![]),
        };
        let spec = self.judge.specs.one(serde_json::to_value(spec).unwrap_or_default());
        let work = Work::Meet { requirement: R::NAME.into(), spec, expect: None };
        self.push(node, title, change, commands, work, after)
    }

    pub(super) fn sends(&mut self, node: &NodeId, changes: &[Change], mut after: Vec<usize>) -> Vec<usize> {
        let pending =
            |c: &&Change| matches!(&c.verdict, Verdict::Unmet { effects, .. } if effects.is_empty());
        // One file may serve several specs.
        let mut sent = std::collections::BTreeSet::new();
        for change in changes.iter().filter(|c| !c.recheck && !pending(c)) {
            for placed in (change.entry.files)(&change.spec) {
                let to = placed.artifact.stored(placed.datastore.as_deref());
                // What is known to be done without a file needs none: other limits of a GPU server, say.
                let unused = matches!(&change.verdict, Verdict::Unmet { effects, .. }
                    if !effects.iter().any(|effect| effect.names(&to)));
                if unused || !sent.insert(to.clone()) {
                    continue;
                }
                let folder = to.rsplit_once('/').map_or("", |(folder, _)| folder);
                let text = format!(
                    "{} ({}) to {folder}",
                    placed.artifact.file_name(),
                    size_of(placed.artifact.size.unwrap_or_default())
                );
                let work = Work::Send { artifact: placed.artifact.into(), datastore: placed.datastore };
                after = vec![self.push(node, "send", text, vec![], work, after)];
            }
        }
        after
    }

    /// Changes of one node with their activations, one after the other.
    pub(super) fn stages(
        &mut self,
        node: &NodeId,
        changes: Vec<Change>,
        mut after: Vec<usize>,
    ) -> Result<Vec<usize>, ()> {
        let names: Vec<&'static str> = changes.iter().map(|c| c.entry.name).collect();
        let stages = order::stages(self.catalogue, node.kind.scope(), &names).map_err(|names| {
            self.problem(
                node,
                Error::new(
                    Kind::Internal,
                    format!("{node}: these requirements wait for each other: {}", names.join(", ")),
                ),
            );
        })?;
        let mut changes: BTreeMap<&str, Change> = changes.into_iter().map(|c| (c.entry.name, c)).collect();
        for stage in stages {
            let stage: Vec<Change> = stage.iter().filter_map(|name| changes.remove(name)).collect();
            for change in &stage {
                after = self.meet(node, change, after);
            }
            after = self.activations(node, &stage, after);
        }
        Ok(after)
    }

    fn meet(&mut self, node: &NodeId, change: &Change, after: Vec<usize>) -> Vec<usize> {
        let (text, commands, expect) = match &change.verdict {
            // Set already, only its activation is missing.
            Verdict::Unmet { effects, .. }
                if effects.is_empty() && change.entry.takes_effect != TakesEffect::AtOnce =>
            {
                return after;
            }
            Verdict::Unmet { is, wants, effects } => {
                let expect = Expectation {
                    is: is.clone(),
                    effects: self.effects.one(effects.as_slice()),
                    started: false,
                };
                (
                    format!("{is} -> {wants}"),
                    self.shown(node, effects),
                    Some(expect).filter(|_| !change.loose),
                )
            }
            Verdict::Waits { on, wants, effects } => {
                (format!("{wants} (now: {on})"), self.shown(node, effects), None)
            }
            Verdict::Met { .. } | Verdict::Blocked { .. } => return after,
        };
        let work = Work::Meet { requirement: change.entry.name.into(), spec: change.spec.clone(), expect };
        let step = self.push(node, change.entry.name, text, commands, work, after);
        self.steps[step - 1].before.clone_from(&change.before);
        vec![step]
    }

    /// One reboot for all that need one; a restart only for what no certain reboot covers.
    fn activations(&mut self, node: &NodeId, stage: &[Change], mut after: Vec<usize>) -> Vec<usize> {
        let certain = |c: &Change| matches!(c.verdict, Verdict::Unmet { .. }) && c.cost.sure;
        let sure_reboot = stage.iter().any(|c| c.cost.takes_effect == TakesEffect::AfterReboot && certain(c));
        let mut groups: BTreeMap<(u8, &str), Vec<&Change>> = BTreeMap::new();
        for change in stage {
            match change.cost.takes_effect {
                TakesEffect::AtOnce => {}
                TakesEffect::AfterReboot => groups.entry((0, "")).or_default().push(change),
                TakesEffect::AfterRestart(_) if sure_reboot => {
                    groups.entry((0, "")).or_default().push(change)
                }
                TakesEffect::AfterRestart(name) => groups.entry((1, name)).or_default().push(change),
            }
        }
        for ((kind, name), members) in groups {
            let for_what = members.iter().map(|c| c.entry.name).collect::<Vec<_>>().join(", ");
            let sure = members.iter().any(|c| certain(c));
            let text = if sure {
                format!("for {for_what}")
            } else {
                format!("for {for_what}, only if it asks for it")
            };
            let proves = members.iter().map(|c| (c.entry.name.to_string(), c.spec.clone())).collect();
            let (title, restart) = if kind == 0 {
                ("reboot".to_string(), None)
            } else {
                (format!("restart {name}"), Some(name.to_string()))
            };
            let mut commands = self.activation_commands(node, restart.as_deref());
            let second: Vec<_> = members
                .iter()
                .filter(|_| restart.is_none())
                .filter_map(|c| Some((c.entry.name.to_string(), c.once_more.clone()?)))
                .collect();
            for (_, once_more) in &second {
                let last = |command| format!("{command}  (once, if it is still not active)");
                commands.extend(self.shown(node, &once_more.1).into_iter().map(last));
            }
            let once_more = second.into_iter().map(|(name, once_more)| (name, once_more.0.clone())).collect();
            let work = Work::Activate { restart, proves, once_more };
            after = vec![self.push(node, &title, text, commands, work, after)];
        }
        after
    }
}

fn size_of(bytes: u64) -> String {
    if bytes < 1_000_000 { format!("{bytes} bytes") } else { format!("{:.1} MB", bytes as f64 / 1e6) }
}
