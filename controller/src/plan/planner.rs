//! Pure: fleet and inventory in, plan out.
//!
//! The road of one host, where it needs all of it:
//! ```text
//! send files -> shut VMs down -> enter maintenance -> changes, reboot, changes, restart .. -> leave maintenance
//!            -> edit VMs -> start VMs -> in each guest: send files, changes, reboot, changes
//! ```
//! What cannot be known yet (ECC before there is a driver) is a step all the same: its commands are decided
//! on the node, and its reboot is skipped when it proves to be needless.

use crate::compat::{self, Finding, Judgement};
use crate::error::{Error, Kind};
use crate::fleet::{Fleet, Guest, Host, Specs, Vm, WithVms};
use crate::inventory::shared::Shared;
use crate::inventory::{Inventory, Seen, acquired, reaches};
use crate::node::{NodeId, NodeKind};
use crate::plan::changes::{Change, Judge};
use crate::plan::evacuation::{self, Decided};
use crate::plan::leftovers::Leftovers;
use crate::plan::planned::Planned;
use crate::plan::steps::{Plan, Step, VERSION, Work, digest};
use crate::plan::{assign, order, rollout};
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::outcome::Expectation;
use vsgpu_core::requirement::{Deadline, Needs, TakesEffect, Verdict};
use vsgpu_core::text::piece;
use vsgpu_core::units::OnOff;
use vsgpu_core::{Catalogue, Effect, Requirement, WordOr};
use vsgpu_guest_agent::guest::{GpuServer, NetworkGpu};
use vsgpu_host_agent::facts::{Evacuation, Vcenter, VirtualMachines, VmPower};
use vsgpu_host_agent::host::{
    DrsOptions, Evacuable, EvacuableSpec, Leave, MaintenanceMode, MaintenanceModeFact, MaintenanceModeSpec,
    Passthrough,
};
use vsgpu_host_agent::vm::{CloneOf, POWER, Power, PowerSpec, PowerState};

/// A VM before its own steps.
struct Before {
    /// It runs, or did before an earlier run stopped it.
    was_running: bool,
    /// The step that shuts it down.
    stop: Option<usize>,
    /// All its specs could be judged.
    sound: bool,
    /// It may be moved while its host is away.
    moves: bool,
}

pub(super) struct Planner<'a> {
    fleet: &'a Fleet,
    /// Host of each VM.
    host_of: BTreeMap<&'a str, &'a str>,
    inventory: &'a Inventory,
    leftovers: &'a Leftovers,
    catalogue: &'static Catalogue,
    judge: Judge<'a>,
    pub(super) steps: Vec<Step>,
    /// What may go wrong with what was planned.
    warnings: Vec<Finding>,
    texts: Shared<str>,
    commands: Shared<[String]>,
    effects: Shared<[Effect]>,
}

/// Makes the plan, and says what stands in its way. The compatibility check comes first: nothing is planned
/// for what it refuses.
pub fn plan(fleet: &Fleet, inventory: &Inventory, leftovers: &Leftovers) -> Planned {
    // With model names settled to addresses, so that two VMs are not thought to want the same GPU.
    let assigned = assign::settled(fleet, inventory);
    let Judgement { refused, mut warnings, .. } =
        compat::judge(&assigned, Some(inventory), &leftovers.stopped);
    let mut planner = Planner::new(&assigned, inventory, leftovers, assigned.specs(), refused);
    let by_host = assigned.vms_by_host();
    for host in &fleet.hosts {
        planner.host(host, &by_host[host.name.as_str()]);
    }
    planner.keep_room_for_moves();
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

    fn problem(&mut self, node: &NodeId, error: Error) {
        self.judge.problems.add(node, error);
    }

    fn seen(&mut self, node: &NodeId) -> Option<&'a Seen> {
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

    fn push(
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
    fn disrupts(&mut self, host: &str, since: usize) {
        let takes = |s: &Step| match &s.work {
            Work::Meet { requirement, .. } => s.node.kind == NodeKind::Host || requirement == POWER,
            Work::Activate { .. } => s.node.kind == NodeKind::Host,
            Work::Send { .. } => false,
        };
        self.steps
            .iter_mut()
            .skip(since)
            .filter(|s| s.host == host && takes(s))
            .for_each(|s| s.disrupts = true);
    }

    /// Where VMs of one host move, a VM of another one that is off for its own change could lose its place to them: both
    /// are not done at once.
    fn keep_room_for_moves(&mut self) {
        let cluster =
            |name: &str| self.fleet.hosts.iter().find(|h| h.name == name).map(|h| h.cluster.clone());
        let moving =
            self.steps.iter().filter(|step| step.moves.as_deref().is_some_and(|moves| !moves.is_empty()));
        let clusters: BTreeSet<Option<String>> = moving.filter_map(|step| cluster(&step.host)).collect();
        let stopping: BTreeSet<String> = self
            .steps
            .iter()
            .filter(|step| step.stops_vm() && cluster(&step.host).is_some_and(|of| clusters.contains(&of)))
            .map(|step| step.host.clone())
            .collect();
        for host in stopping {
            self.disrupts(&host, 0);
        }
    }

    /// What a person must release first is not touched.
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
    fn shown(&self, node: &NodeId, effects: &[Effect]) -> Vec<String> {
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

    fn held(&mut self, node: &NodeId) -> bool {
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

    fn maintenance_as(
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

    /// Before the first VM is shut down for it: that everything else can leave still.
    fn asks_who_can_leave(&mut self, node: &NodeId, spec: EvacuableSpec, after: Vec<usize>) -> usize {
        let text = "vCenter is asked again, before a VM goes down".to_string();
        let spec = self.judge.specs.one(serde_json::to_value(spec).unwrap_or_default());
        let work = Work::Meet { requirement: Evacuable::NAME.into(), spec, expect: None };
        self.push(node, "ask who can leave", text, vec![], work, after)
    }

    /// Enters maintenance mode while VMs run: they leave the host as it was decided.
    fn evacuate(&mut self, host: &Host, decided: Decided, in_maintenance: bool, after: Vec<usize>) -> usize {
        let node = NodeId::new(NodeKind::Host, &host.name);
        let patience = host.maintenance.timeout.map(|timeout| timeout.secs);
        let within_secs = patience.unwrap_or(self.fleet.deadlines.maintenance_secs);
        let spec = MaintenanceModeSpec { state: OnOff::On, within_secs, vms: decided.leave };
        let step = self.maintenance_as(&node, spec, in_maintenance, after);
        let step = &mut self.steps[step - 1];
        // What it takes to see that it is over comes on top.
        step.deadline_secs = within_secs.saturating_add(180);
        step.moves = Some(Box::new(decided.moves));
        self.warnings.extend(decided.warnings);
        step.id
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

    fn sends(&mut self, node: &NodeId, changes: &[Change], mut after: Vec<usize>) -> Vec<usize> {
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
    fn stages(
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

    fn host(&mut self, host: &Host, vms: &[&Vm]) {
        let node = NodeId::new(NodeKind::Host, &host.name);
        let Some(seen) = self.seen(&node) else { return };
        if self.held(&node) {
            return self.only_restore(&node, vms);
        }
        let Ok(changes) = self.judge.changes(&node, Some(seen), false, false) else {
            // All that must be mended is said at once, not one thing after the other.
            for vm in vms {
                self.judge.say_refused(&NodeId::new(NodeKind::Vm, &vm.name));
            }
            return self.only_restore(&node, vms);
        };
        let since = self.steps.len();
        let listed = match seen.fact::<VirtualMachines>() {
            Ok(listed) => listed,
            Err(why) => {
                let error = Error::new(Kind::Blocked, format!("{node}: which VMs run cannot be seen: {why}"));
                return self
                    .problem(&node, error.hint("nothing is planned for a host whose VMs are not known"));
            }
        };
        let in_maintenance = seen.fact::<MaintenanceModeFact>().is_ok_and(|f| f.enabled);
        let ours = self.leftovers.in_maintenance.contains(&host.name);
        // What lets DRS move VMs comes first, alone: only then DRS says which of them it moves.
        let opens =
            |c: &Change| c.entry.name == DrsOptions::NAME && matches!(c.verdict, Verdict::Unmet { .. });
        let takes_vms =
            |c: &Change| c.cost.needs != Needs::Nothing || c.cost.takes_effect == TakesEffect::AfterReboot;
        let someone_runs = listed.vms.iter().any(|v| v.running && !v.infrastructure);
        let may_move = host.maintenance.vms != WithVms::Off && !in_maintenance;
        if may_move && !ours && someone_runs && changes.iter().any(opens) && changes.iter().any(takes_vms) {
            self.warnings.push(evacuation::options_first(&node));
            let first = changes.into_iter().filter(opens).collect();
            let _ = self.stages(&node, first, vec![]);
            return self.only_restore(&node, vms);
        }
        let needs = changes.iter().map(|c| c.cost.needs).max().unwrap_or(Needs::Nothing);
        let reboots = changes.iter().any(|c| c.cost.takes_effect == TakesEffect::AfterReboot);
        let running = |vm: &Vm| listed.vms.iter().any(|v| v.name == vm.vm_name && v.running);
        let vms_off = needs >= Needs::VmsOff || reboots;
        // Also where nobody runs yet: somebody may by its turn.
        let evacuates = may_move && (needs == Needs::MaintenanceMode || reboots || (vms_off && someone_runs));
        // VMs are moved by maintenance mode, whatever else needs it.
        let window = needs == Needs::MaintenanceMode || reboots || evacuates;
        if vms_off && !evacuates {
            let strangers: Vec<&str> = listed
                .vms
                .iter()
                .filter(|v| v.running && !v.infrastructure && vms.iter().all(|vm| vm.vm_name != v.name))
                .map(|v| v.name.as_str())
                .collect();
            if !strangers.is_empty() {
                self.only_restore(&node, vms);
                // One that the fleet file has on another host is said by itself.
                let known = |name: &&str| self.fleet.vms.iter().any(|vm| vm.vm_name == *name);
                let (elsewhere, strangers): (Vec<&str>, Vec<&str>) = strangers.into_iter().partition(known);
                for vm in self.fleet.vms.iter().filter(|vm| elsewhere.contains(&vm.vm_name.as_str())) {
                    self.problem(&node, compat::moved(vm, &node.name));
                }
                if strangers.is_empty() {
                    return;
                }
                let error = Error::new(
                    Kind::Blocked,
                    format!("{node}: VMs run that are not in the fleet file: {}", strangers.join(", ")),
                )
                .code("unlisted-vms");
                return self.problem(
                    &node,
                    error
                        .hint("move them to another host or shut them down, or list them under `vms:` (a name and its `host:` are enough)"),
                );
            }
        }
        let foreign = in_maintenance && !ours;
        if foreign && vms.iter().any(|vm| vm.guest.is_some() || running(vm)) {
            let error = acquired::foreign(&node, seen, self.inventory.at);
            return self.problem(&node, error);
        }

        // A VM that would be edited is judged before anything is planned for it.
        let gives = changes.iter().any(|c| c.entry.name == Passthrough::NAME);
        let judged: Vec<(&Vm, Option<Vec<Change>>)> =
            vms.iter().map(|vm| (*vm, self.vm_changes(vm, gives))).collect();
        let edited = |vm: &Vm, changes: &Option<Vec<Change>>| {
            vm.power == Some(PowerState::Off)
                || changes.as_ref().is_some_and(|c| c.iter().any(|c| c.cost.needs != Needs::Nothing))
        };
        let mut leaving = None;
        if evacuates {
            let stopped = judged.iter().filter(|(vm, changes)| edited(vm, changes));
            let stopped: BTreeSet<&str> = stopped.map(|(vm, _)| vm.vm_name.as_str()).collect();
            let of_file = vms.iter().map(|vm| (vm.vm_name.as_str(), vm.any.is_empty())).collect();
            let fact = seen.fact::<Evacuation>().map_err(|why| why.to_string());
            match evacuation::decide(&node, &host.maintenance, fact, &of_file, &stopped) {
                Ok(decided) => leaving = Some(decided),
                Err(error) => {
                    self.only_restore(&node, vms);
                    return self.problem(&node, error);
                }
            }
        }
        let mut sent = self.sends(&node, &changes, vec![]);
        if let Some(decided) = &leaving {
            let stopped = judged.iter().filter(|(vm, changes)| edited(vm, changes));
            let off = stopped.map(|(vm, _)| vm.vm_name.clone()).chain(decided.off.iter().cloned());
            let by_hand = decided.leave == Leave::MovedAlsoByHand;
            let spec = EvacuableSpec { off: off.collect(), by_hand };
            sent = vec![self.asks_who_can_leave(&node, spec, sent)];
        }
        let mut stops: BTreeMap<&str, usize> = BTreeMap::new();
        for (vm, changes) in &judged {
            let goes_down = match &leaving {
                Some(decided) => decided.off.contains(&vm.vm_name),
                None => vms_off,
            };
            if running(vm) && (goes_down || edited(vm, changes)) {
                let id = NodeId::new(NodeKind::Vm, &vm.name);
                let stop = PowerSpec {
                    grace_secs: vm.shutdown_secs,
                    hard_stop: vm.hard_stop,
                    ..PowerSpec::new(PowerState::Off)
                };
                let step = self.power(&id, stop, power_fact(&listed, vm, "on"), sent.clone());
                stops.insert(&vm.name, step);
            }
        }
        let mut after: Vec<usize> = sent;
        if vms_off {
            after.extend(stops.values());
        }
        // Nobody goes on in a guest while its VM is moved, or before its host is what it is to be.
        let moves = leaving.is_some();
        let mut entered = None;
        if window && !foreign {
            let step = match leaving {
                Some(decided) => self.evacuate(host, decided, in_maintenance, after),
                None => self.maintenance(&node, OnOff::On, in_maintenance, after),
            };
            entered = Some(step);
            after = vec![step];
        }
        let Ok(mut after) = self.stages(&node, changes, after) else { return };
        if entered.is_some() || ours {
            let step = self.maintenance(&node, OnOff::Off, true, after);
            self.steps[step - 1].restores = entered;
            self.steps[step - 1].restores_earlier = ours;
            after = vec![step];
        }
        for (vm, changes) in judged {
            let was_running = running(vm) || self.leftovers.stopped.contains(&vm.name);
            let stop = stops.get(vm.name.as_str()).copied();
            // A VM that a person must look at is changed in nothing, but what was shut down for its host is
            // started again.
            if changes.is_some() || stop.is_some() || self.leftovers.stopped.contains(&vm.name) {
                let sound = changes.is_some();
                self.vm(
                    vm,
                    changes.unwrap_or_default(),
                    Before { was_running, stop, sound, moves },
                    &after,
                    &listed,
                );
            }
        }
        if vms_off || ours {
            self.disrupts(&host.name, since);
        }
    }

    /// Nothing new is begun on a host that a person must look at, but what an earlier run left behind is
    /// restored.
    fn only_restore(&mut self, node: &NodeId, vms: &[&Vm]) {
        let mut after = vec![];
        if self.leftovers.in_maintenance.contains(&node.name) {
            let step = self.maintenance(node, OnOff::Off, true, vec![]);
            self.steps[step - 1].restores_earlier = true;
            after = vec![step];
        }
        for vm in vms
            .iter()
            .filter(|vm| self.leftovers.stopped.contains(&vm.name) && vm.power != Some(PowerState::Off))
            .collect::<Vec<_>>()
        {
            let id = NodeId::new(NodeKind::Vm, &vm.name);
            let step = self.power(&id, self.start(), None, after.clone());
            self.steps[step - 1].restores_earlier = true;
        }
    }

    /// A host that could have a VM which would be made, and does not answer.
    fn may_be_elsewhere<'v>(&self, vm: &'v Vm) -> Option<&'v str> {
        if vm.any.is_empty() || !vm.specs.has::<CloneOf>() {
            return None;
        }
        let listed = |host: &str| {
            self.inventory
                .fact::<VirtualMachines>(&NodeId::new(NodeKind::Host, host))
                .map(|listed| listed.vms)
        };
        if listed(&vm.host).is_ok_and(|vms| vms.iter().any(|seen| seen.name == vm.vm_name)) {
            return None;
        }
        vm.any.iter().map(String::as_str).find(|host| listed(host).is_err())
    }

    fn vm_changes(&mut self, vm: &Vm, host_gives: bool) -> Option<Vec<Change>> {
        let node = NodeId::new(NodeKind::Vm, &vm.name);
        if self.held(&node) {
            return None;
        }
        if let Some(silent) = self.may_be_elsewhere(vm) {
            let why =
                format!("{node}: it may be on {silent}, which does not answer: it is not made a second time");
            let error = Error::new(Kind::Blocked, why).code("vm-elsewhere");
            self.problem(&node, error.hint("let that host answer, or take it out of the VM's `host:`"));
            return None;
        }
        let seen = self.seen(&node)?;
        // A VM is not shut down for a guest that could not use what it gets.
        let guest = NodeId::new(NodeKind::Guest, &vm.name);
        if let Some(of_guest) = self.inventory.seen(&guest).filter(|_| vm.wants_guest())
            && self.judge.say_lasting(&guest, of_guest)
        {
            return None;
        }
        self.judge.changes(&node, Some(seen), false, host_gives).ok()
    }

    fn vm(
        &mut self,
        vm: &Vm,
        changes: Vec<Change>,
        before: Before,
        host_ready: &[usize],
        listed: &VirtualMachines,
    ) {
        let node = NodeId::new(NodeKind::Vm, &vm.name);
        let Before { was_running, stop, sound, moves } = before;
        let wants_guest = sound && vm.wants_guest();
        let on = vm.power.map_or(was_running || wants_guest, |p| p == PowerState::On);
        let running_now = listed.vms.iter().any(|v| v.name == vm.vm_name && v.running);
        let mut after = if running_now && stop.is_none() && !moves { vec![] } else { host_ready.to_vec() };
        after.extend(stop);
        let Ok(mut after) = self.stages(&node, changes, after) else { return };
        let unsettled = self.leftovers.unsettled.contains(&node);
        let starts = on && (stop.is_some() || !running_now || unsettled);
        if starts {
            let step = self.power(&node, self.start(), power_fact(listed, vm, "off"), after);
            self.steps[step - 1].restores = stop.filter(|_| was_running);
            self.steps[step - 1].restores_earlier = self.leftovers.stopped.contains(&vm.name);
            after = vec![step];
        }
        if on && wants_guest {
            self.guest(vm, starts, running_now, after);
        }
    }

    fn guest(&mut self, vm: &Vm, starts: bool, running_now: bool, after: Vec<usize>) {
        let node = NodeId::new(NodeKind::Guest, &vm.name);
        if self.held(&node) {
            return;
        }
        // A VM that is off now cannot be asked; that is no problem, its guest is looked at when it runs.
        let seen = if running_now { self.seen(&node) } else { None };
        if running_now && seen.is_none() {
            return;
        }
        let Ok(changes) = self.judge.changes(&node, seen, starts, false) else { return };
        let after = self.sends(&node, &changes, after);
        let _ = self.stages(&node, changes, after);
    }
}

/// The power of a VM as it will be by then; unknown for a VM that an earlier step makes.
fn power_fact(listed: &VirtualMachines, vm: &Vm, state: &str) -> Option<VmPower> {
    let found = listed.vms.iter().find(|v| v.name == vm.vm_name);
    found.map(|v| VmPower { vmid: v.vmid, state: state.into() })
}

fn size_of(bytes: u64) -> String {
    if bytes < 1_000_000 { format!("{bytes} bytes") } else { format!("{:.1} MB", bytes as f64 / 1e6) }
}
