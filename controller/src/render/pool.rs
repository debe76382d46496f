//! GPU servers, for people: who has which GPU, and who waits.

use crate::inventory::acquired::span;
use crate::monitoring::pools::Server;
use crate::render::columns;
use crate::render::documents::{GpuServerOf, GpuServers};
use crate::render::printer::Answer;
use serde_json::json;
use vsgpu_core::pool::status::{LeaseStatus, SlotStatus};
use vsgpu_core::pool::{PoolStatus, SlotUse};
use vsgpu_core::text::sentence;
use vsgpu_core::words::counted;

/// `vsgpu pool status`.
pub fn status(servers: &[Server]) -> Answer {
    let document = servers.iter().map(|Server { name, said }| GpuServerOf {
        server: name,
        status: said.as_ref().ok(),
        error: said.as_ref().err().map(|error| &*error.message),
    });
    let json = json!(GpuServers { version: 1, servers: document.collect() });
    let texts: Vec<String> = servers
        .iter()
        .map(|server| match &server.said {
            Ok(status) => one(&server.name, status),
            Err(_) => format!("{}: not known, see below", server.name),
        })
        .collect();
    Answer::new(json, texts.join("\n\n"))
}

/// One line for `vsgpu status`; none where there are no GPU servers.
pub fn summary(servers: &[Server]) -> Option<String> {
    let said: Vec<&PoolStatus> = servers.iter().filter_map(|server| server.said.as_ref().ok()).collect();
    let slots = || said.iter().flat_map(|status| &status.slots);
    let count = |state: SlotUse| slots().filter(|slot| slot.state == state).count();
    let some = |n: usize, what: &str| if n > 0 { format!(", {n} {what}") } else { String::new() };
    let silent = match servers.len() - said.len() {
        0 => String::new(),
        1 => ", 1 does not answer".into(),
        n => format!(", {n} do not answer"),
    };
    (!servers.is_empty()).then(|| {
        format!(
            "{}{silent}: {} of {} free{}{} (`vsgpu pool status`)",
            counted(servers.len(), "GPU server"),
            count(SlotUse::Free),
            counted(slots().count(), "GPU"),
            some(count(SlotUse::OutOfService), "out of service"),
            some(said.iter().map(|status| status.queue.len()).sum(), "waiting")
        )
    })
}

fn memory(mib: u64) -> String {
    if mib >= 1024 { format!("{} GiB", mib.div_ceil(1024)) } else { format!("{mib} MiB") }
}

fn one(name: &str, status: &PoolStatus) -> String {
    let free = status.slots.iter().filter(|slot| slot.state == SlotUse::Free).count();
    let mut head = format!("{name}: {free} of {} free", counted(status.slots.len(), "GPU"));
    if !status.queue.is_empty() {
        head += &format!(", {} waiting", status.queue.len());
    }
    if status.drained {
        head += "; drained: no new GPU leases";
    }
    if let Some(why) = &status.blocked {
        head += &format!("; no new GPU leases: {}", sentence(why));
    }
    let mut rows = vec![];
    if status.slots.iter().any(|slot| slot.lease.is_some()) {
        rows.push(
            ["GPU", "MODEL", "MEMORY", "STATE", "LEASE", "USER", "HELD", "LEFT", "IDLE"]
                .map(String::from)
                .to_vec(),
        );
    } else if !status.slots.is_empty() {
        rows.push(["GPU", "MODEL", "MEMORY", "STATE"].map(String::from).to_vec());
    }
    rows.extend(status.slots.iter().map(|slot| row(slot, status)));
    let mut lines = vec![head];
    if !rows.is_empty() {
        lines.extend(columns(&rows).lines().map(|line| format!("  {line}")));
    }
    for slot in &status.slots {
        if let Some(why) = &slot.why {
            lines.push(format!("  GPU {} is out of service: {}", slot.slot, sentence(why)));
        }
    }
    for ask in &status.queue {
        let team = status.teams.iter().find(|team| team.name == ask.team);
        let team = team.map(|team| format!(", holds {} of {}", team.holds, team.may)).unwrap_or_default();
        lines.push(format!(
            "  waiting: {} on {} for {} (team {}{team}), for {}",
            sentence(&ask.user),
            sentence(&ask.node),
            counted(ask.gpus as usize, "GPU"),
            sentence(&ask.team),
            span(ask.for_secs)
        ));
    }
    lines.join("\n")
}

fn row(slot: &SlotStatus, status: &PoolStatus) -> Vec<String> {
    let state = slot.state.word().replace('-', " ");
    // Whose it is everybody knows; a line has 80 columns.
    let name = sentence(&slot.name);
    let name = name.strip_prefix("NVIDIA ").unwrap_or(&name).to_string();
    let mut row = vec![slot.slot.to_string(), name, memory(slot.memory_mib), state];
    let lease = slot.lease.and_then(|id| status.leases.iter().find(|lease| lease.lease == id));
    if let Some(LeaseStatus { lease, user, node, for_secs, left_secs, idle_secs, .. }) = lease {
        row.extend([
            lease.to_string(),
            format!("{} on {}", sentence(user), sentence(node)),
            span(*for_secs),
            left_secs.map(span).unwrap_or_default(),
            idle_secs.map(span).unwrap_or_default(),
        ]);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsgpu_core::pool::config::EngineBuild;
    use vsgpu_core::pool::status::{AskStatus, STATUS_VERSION, TeamStatus, Totals};

    #[test]
    fn a_screen_of_a_gpu_server() {
        let slot = |slot: u32, state, lease, why: Option<&str>| SlotStatus {
            slot,
            name: "NVIDIA A100-PCIE-40GB".into(),
            uuid: format!("GPU-{slot}"),
            memory_mib: 40_960,
            state,
            lease,
            why: why.map(String::from),
            tried_again: false,
        };
        let status = PoolStatus {
            version: STATUS_VERSION,
            engine: EngineBuild { name: "lupine".into(), build: "a".into(), cuda: "13.3".into() },
            config: String::new(),
            config_of_start: String::new(),
            drained: false,
            blocked: None,
            teams: vec![TeamStatus { name: "ci".into(), holds: 1, may: 1 }],
            slots: vec![
                slot(0, SlotUse::Held, Some(7), None),
                slot(1, SlotUse::OutOfService, None, Some("its engine crashed 3 times within 5 minutes")),
            ],
            leases: vec![LeaseStatus {
                lease: 7,
                node: "ci-1".into(),
                user: "ada".into(),
                team: "ci".into(),
                slots: vec![0],
                for_secs: 720,
                left_secs: Some(1_080),
                idle_secs: None,
                connections: 1,
                ended: None,
                rtt_micros: None,
            }],
            queue: vec![AskStatus {
                node: "ci-2".into(),
                user: "bob".into(),
                team: "ci".into(),
                gpus: 1,
                for_secs: 200,
            }],
            totals: Totals::default(),
        };
        assert_eq!(
            one("gpu-srv-1", &status),
            "gpu-srv-1: 0 of 2 GPUs free, 1 waiting\n  \
             GPU  MODEL           MEMORY  STATE           LEASE  USER         HELD    LEFT    IDLE\n  \
             0    A100-PCIE-40GB  40 GiB  held            7      ada on ci-1  12 min  18 min\n  \
             1    A100-PCIE-40GB  40 GiB  out of service\n  \
             GPU 1 is out of service: its engine crashed 3 times within 5 minutes\n  \
             waiting: bob on ci-2 for 1 GPU (team ci, holds 1 of 1), for 3 min"
        );
    }
}
