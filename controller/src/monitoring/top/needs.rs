//! What of the fleet needs a person, the worst first, each with what to type or to do. Pure: from the glance.

use crate::hold::Hold;
use crate::monitoring::top::summary::{FleetSummary, Gpu, Node, Run};
use crate::node::{NodeId, NodeKind};
use serde::Serialize;
use vsgpu_core::words::counted;

/// How loud something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Fine,
    Doubt,
    Bad,
}

/// Something that does not mend itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Need {
    pub severity: Severity,
    /// The machine; absent where it is the fleet's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<NodeId>,
    /// What is so.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

/// All of them, the worst first, machines in their order.
pub fn needs(fleet: &FleetSummary) -> Vec<Need> {
    let mut all = of_run(fleet);
    for (nodes, kind) in [(&fleet.hosts, NodeKind::Host), (&fleet.guests, NodeKind::Guest)] {
        let unmet = |node: &Node| unmet(node, kind).filter(|_| node.reachable);
        all.extend(nodes.iter().flat_map(|node| of_node(node, kind).into_iter().chain(unmet(node))));
    }
    all.extend(fleet.held_vms.iter().map(|(vm, word)| held(NodeId::new(NodeKind::Vm, vm), word)));
    all.sort_by_key(|need| std::cmp::Reverse(need.severity));
    all
}

/// A machine that a run holds.
fn held(machine: NodeId, word: &str) -> Need {
    let fix = match Hold::ALL.into_iter().find(|hold| hold.word() == word) {
        Some(hold) => hold.advice_for(&machine),
        None => "`vsgpu status` says why".into(),
    };
    Need { severity: Severity::Bad, machine: Some(machine), what: format!("held: {word}"), fix }
}

fn of_run(fleet: &FleetSummary) -> Vec<Need> {
    let need =
        |severity, what: String, fix: &str| vec![Need { severity, machine: None, what, fix: fix.into() }];
    if !fleet.runs_readable {
        return need(Severity::Bad, "the records of runs cannot be read".into(), "`vsgpu status` says why");
    }
    match &fleet.run {
        Some(Run { state: "unfinished", number, .. }) => need(
            Severity::Bad,
            format!("run {number} is not finished, and nobody works on it"),
            "`vsgpu status` says what is left; `vsgpu resume` goes on, `vsgpu abort` ends it",
        ),
        Some(Run { state: "ended", number, failed, .. }) if *failed > 0 => need(
            Severity::Doubt,
            format!("run {number} ended with {}", counted(*failed as usize, "failed step")),
            "`vsgpu status` says which; `vsgpu apply` plans the rest",
        ),
        _ => vec![],
    }
}

/// Of one machine, but for what is not as the fleet file says.
pub fn of_node(node: &Node, kind: NodeKind) -> Vec<Need> {
    let name = &node.name;
    let mut all: Vec<Need> = node.held.iter().map(|word| held(NodeId::new(kind, name), word)).collect();
    let mut need = |severity: Severity, what: String, fix: String| {
        all.push(Need { severity, machine: Some(NodeId::new(kind, name)), what, fix });
    };
    if !node.reachable {
        let what = "its agent does not answer";
        need(Severity::Bad, what.into(), format!("`vsgpu facts -n {name}` says why"));
    }
    if node.refused {
        let fix = "see who is root there; `systemctl restart vsgpu-guest-agent` in that VM";
        need(
            Severity::Bad,
            "what its agent sent was no page of an agent, and is not shown".into(),
            fix.into(),
        );
    }
    if node.stale {
        let what = "its agent's last looks at the machine did not end: what is shown of it is old";
        need(Severity::Doubt, what.into(), format!("`vsgpu facts -n {name}` says which tool hangs"));
    }
    // What it said before may be so no more.
    if !node.reachable {
        return all;
    }
    let diagnose = || format!("`vsgpu diagnose -n {name}` looks for the cause");
    if node.driver_loaded == Some(false) {
        need(Severity::Bad, "its NVIDIA driver is not loaded".into(), diagnose());
    }
    if node.licensed == Some(false) {
        need(Severity::Bad, "it has no license".into(), diagnose());
    }
    match node.proof {
        Some("wrong") => need(Severity::Bad, "its GPU computed wrong, or not at all".into(), diagnose()),
        Some("of-another-boot") => {
            let what = "it was not proved since its last boot";
            need(Severity::Doubt, what.into(), "`vsgpu apply` proves it again".into());
        }
        _ => {}
    }
    match node.health {
        Some("critical") => need(Severity::Bad, "its health is critical".into(), diagnose()),
        Some("warning") => need(Severity::Doubt, "its health has warnings".into(), diagnose()),
        _ => {}
    }
    node.gpus.iter().for_each(|gpu| of_gpu(gpu, name, &mut need));
    if let Some(server) = &node.gpu_server {
        let fix = || "`vsgpu pool status` says why".to_string();
        if !server.up {
            need(Severity::Bad, "its gateway for network GPUs does not answer".into(), fix());
        } else if server.blocked {
            need(Severity::Bad, "it gives no GPU over the network".into(), fix());
        }
        if server.out_of_service > 0 {
            let what = format!("{} out of service", counted(server.out_of_service, "GPU"));
            need(Severity::Bad, what, fix());
        }
    }
    if let Some(servers) = node.gpu_servers.as_ref().filter(|servers| servers.usable < servers.of) {
        let severity = if servers.usable == 0 { Severity::Bad } else { Severity::Doubt };
        let what = format!("it can use {} of {}", servers.usable, counted(servers.of, "GPU server"));
        need(severity, what, "`vsgpu-gpu status` in that VM says why".into());
    }
    if let (Some(host), Some(file)) = (&node.host, &node.file_host) {
        let what = format!("it runs on {host}, the fleet file says {file}");
        need(Severity::Doubt, what, "move the VM back, or change its `host` in the fleet file".into());
    }
    if node.reboot_pending == Some(true) {
        let fix = format!("`vsgpu plan -n {name}`");
        need(Severity::Doubt, "a GPU changes its owner with the next reboot".into(), fix);
    }
    if node.maintenance == Some(true) && node.held.is_empty() {
        let fix = "`vsgpu status` says whether a run left it so";
        need(Severity::Doubt, "in maintenance mode".into(), fix.into());
    }
    all.sort_by_key(|need| std::cmp::Reverse(need.severity));
    all
}

/// What of it is not as the fleet file says.
fn unmet(node: &Node, kind: NodeKind) -> Option<Need> {
    let unmet = vsgpu_core::words::first(node.unmet.iter().cloned(), 4, "");
    (!node.unmet.is_empty()).then(|| Need {
        severity: Severity::Doubt,
        machine: Some(NodeId::new(kind, &node.name)),
        what: format!("not as the fleet file says: {unmet}"),
        fix: format!("`vsgpu plan -n {}` says what would be done", node.name),
    })
}

fn of_gpu(gpu: &Gpu, node: &str, need: &mut impl FnMut(Severity, String, String)) {
    if gpu.memory_errors {
        let fix = format!("`vsgpu diagnose -n {node}` says whether it must be exchanged");
        need(Severity::Bad, format!("GPU {} has memory errors", gpu.gpu), fix);
    }
    for vgpu in gpu.vgpus.iter().filter(|vgpu| vgpu.licensed == Some(false)) {
        let fix = "in that VM: `nvidia-smi -q | grep -i license`; of a VM of the fleet file: `vsgpu diagnose -n NAME`";
        need(
            Severity::Doubt,
            format!("the vGPU of {} has no license, as this host says", vgpu.vm),
            fix.into(),
        );
    }
    if gpu.throttled {
        let what = format!("GPU {} is slowed down by heat or power", gpu.gpu);
        need(Severity::Doubt, what, "look at fans, air and power supply of the host".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitoring::top::summary::{Seats, glance};

    fn of(lines: &[&str]) -> Vec<(String, String, Severity)> {
        let page: String = lines.iter().map(|line| format!("vsgpu_{line}\n")).collect();
        let seen = glance("fleet.yaml", &Seats::new(), &page);
        let shown = |need: Need| (need.machine.map(|m| m.name).unwrap_or_default(), need.what, need.severity);
        needs(&seen).into_iter().map(shown).collect()
    }

    #[test]
    fn what_is_well_needs_nobody() {
        let well = [
            "node_reachable{node=\"vm-01\",role=\"guest\"} 1",
            "guest_driver_loaded{node=\"vm-01\",role=\"guest\"} 1",
            "license_licensed{node=\"vm-01\",role=\"guest\",gpu=\"x\"} 1",
            "requirement_met{node=\"vm-01\",role=\"guest\",vm=\"\",requirement=\"driver\"} 1",
            "run_number 3",
            "run_unfinished 0",
        ];
        assert_eq!(of(&well), []);
        assert_eq!(of(&[]), []);
    }

    #[test]
    fn the_worst_comes_first() {
        let all = of(&[
            "node_reachable{node=\"esx-01\",role=\"host\"} 1",
            "host_maintenance_mode{node=\"esx-01\",role=\"host\"} 1",
            "node_reachable{node=\"vm-01\",role=\"guest\"} 0",
            "run_number 3",
            "run_unfinished 1",
        ]);
        let words: Vec<&str> = all.iter().map(|(_, what, _)| what.as_str()).collect();
        assert_eq!(
            words,
            [
                "run 3 is not finished, and nobody works on it",
                "its agent does not answer",
                "in maintenance mode"
            ]
        );
    }
}
