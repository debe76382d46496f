//! The road of one host with its VMs and their guests: who goes down or moves for it, what is changed meanwhile, and who is
//! started again.
//!
//! Where it needs all of it:
//! ```text
//! send files -> shut VMs down -> enter maintenance -> changes, reboot, changes, restart .. -> leave maintenance
//!            -> edit VMs -> start VMs -> in each guest: send files, changes, reboot, changes
//! ```

use crate::compat;
use crate::error::{Error, Kind};
use crate::fleet::{Host, Vm, WithVms};
use crate::inventory::acquired;
use crate::node::{NodeId, NodeKind};
use crate::plan::changes::Change;
use crate::plan::evacuation::{self, Decided};
use crate::plan::image;
use crate::plan::planner::Planner;
use crate::plan::steps::Work;
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::Requirement;
use vsgpu_core::requirement::{Needs, TakesEffect, Verdict};
use vsgpu_core::units::OnOff;
use vsgpu_host_agent::facts::{Evacuation, VirtualMachines, VmPower};
use vsgpu_host_agent::host::{
    DrsOptions, Evacuable, EvacuableSpec, Leave, MaintenanceModeFact, MaintenanceModeSpec, Passthrough,
};
use vsgpu_host_agent::vm::{CloneOf, PowerSpec, PowerState};

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

impl Planner<'_> {
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

    pub(super) fn host(&mut self, host: &Host, vms: &[&Vm]) {
        let node = NodeId::new(NodeKind::Host, &host.name);
        let Some(seen) = self.seen(&node) else { return };
        if self.held(&node) {
            return self.only_restore(&node, vms);
        }
        let Ok(mut changes) = self.judge.changes(&node, Some(seen), false, false) else {
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
        if changes.iter().any(image::waits_for_people) {
            self.warnings.push(image::image_first(&node));
            changes.retain(image::waits_for_people);
            let sent = self.sends(&node, &changes, vec![]);
            self.put_into_image(&node, &mut changes, sent);
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
        let sent = self.sends(&node, &changes, vec![]);
        let mut sent = self.put_into_image(&node, &mut changes, sent);
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
        let node = |host: &str| NodeId::new(NodeKind::Host, host);
        let here = self.inventory.fact::<VirtualMachines>(&node(&vm.host));
        if here.is_ok_and(|listed| listed.vms.iter().any(|seen| seen.name == vm.vm_name)) {
            return None;
        }
        let has_said = |host: &str| self.inventory.fact::<VirtualMachines>(&node(host)).is_ok();
        vm.any.iter().map(String::as_str).find(|host| !has_said(host))
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
