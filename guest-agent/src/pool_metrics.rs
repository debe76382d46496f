//! Metrics of GPUs over the network: of a GPU server's slots, leases and queue, and of a client's servers.

use crate::guest::network_gpu::NetworkProof;
use crate::guest::{GpuServerFact, NetworkGpuFact};
use std::collections::BTreeMap;
use vsgpu_core::observe::{Facts, typed};
use vsgpu_core::pool::status::WAITS;
use vsgpu_core::pool::{PoolStatus, SlotUse};
use vsgpu_wire::metrics::Sample;

/// Series of one kind that name nodes, teams or reasons: a page stays small whatever a gateway says.
const MOST: usize = 256;

/// From the last facts.
pub(crate) fn samples(facts: &Facts) -> Vec<Sample> {
    let mut all = vec![];
    if let Some(server) = typed::<GpuServerFact>(facts).filter(|fact| fact.config.is_some()) {
        let up = f64::from(server.active && server.status.is_some());
        all.push(Sample::for_alert("pool_up", "1: the gateway of this GPU server answers", vec![], up));
        if let Some(status) = &server.status {
            of_server(status, &mut all);
        }
    }
    if let Some(client) = typed::<NetworkGpuFact>(facts) {
        if client.config.is_some() {
            of_client(&client, &mut all);
        }
        if let Some(made) = client.bitfusion.config.as_ref().and_then(|config| config.made) {
            all.push(Sample::for_alert(
                "network_gpu_token_timestamp_seconds",
                "When Bitfusion's token was made",
                vec![],
                made as f64,
            ));
        }
        // By whichever engine.
        let by_bitfusion = client.bitfusion.proof.filter(|_| client.bitfusion.config.is_some());
        if let Some(proof) = client.proof.filter(|_| client.config.is_some()).or(by_bitfusion) {
            of_proof(&proof, &mut all);
        }
    }
    all
}

fn of_server(status: &PoolStatus, all: &mut Vec<Sample>) {
    for state in SlotUse::ALL {
        let count = status.slots.iter().filter(|slot| slot.state == state).count();
        let labels = vec![("state", state.word().into())];
        all.push(Sample::for_alert(
            "pool_slots",
            "GPUs of this server by what they are doing",
            labels,
            count as f64,
        ));
    }
    let drained = f64::from(status.drained);
    all.push(Sample::new(
        "pool_drained",
        "1: an operator drained it, no new GPU leases are given",
        vec![],
        drained,
    ));
    let blocked = f64::from(status.blocked.is_some());
    all.push(Sample::for_alert(
        "pool_blocked",
        "1: nobody drained it, and it cannot give any",
        vec![],
        blocked,
    ));
    let oldest = status.queue.iter().map(|ask| ask.for_secs).max().unwrap_or(0);
    let help = "Seconds for which the oldest ask has waited; 0: nobody waits";
    all.push(Sample::for_alert("pool_queue_oldest_seconds", help, vec![], oldest as f64));
    for team in status.teams.iter().take(MOST) {
        let labels = || vec![("team", team.name.clone())];
        let of = |ended: bool| {
            let leases = status.leases.iter().filter(|lease| lease.team == team.name);
            leases.filter(|lease| lease.ended.is_some() == ended).count() as f64
        };
        for (state, ended) in [("running", false), ("ending", true)] {
            let labels = vec![("team", team.name.clone()), ("state", state.into())];
            all.push(Sample::new("pool_leases", "GPU leases", labels, of(ended)));
        }
        let waiting = status.queue.iter().filter(|ask| ask.team == team.name).count();
        all.push(Sample::new("pool_queue", "Asks that wait", labels(), waiting as f64));
        all.push(Sample::new("pool_team_gpus", "GPUs that a team holds", labels(), f64::from(team.holds)));
        all.push(Sample::new("pool_team_quota", "GPUs that a team may hold", labels(), f64::from(team.may)));
    }
    let totals = &status.totals;
    let by_why = |name, help, of: &BTreeMap<String, u64>, all: &mut Vec<Sample>| {
        let one = |(why, count): (&String, &u64)| {
            Sample::counter(name, help, vec![("why", why.clone())], *count as f64)
        };
        all.extend(of.iter().take(MOST).map(one));
    };
    by_why("pool_refused_total", "Asks that were refused", &totals.refused, all);
    by_why("pool_ended_total", "GPU leases that ended", &totals.ended, all);
    by_why("pool_tunnel_errors_total", "Connections that were not opened", &totals.tunnel_errors, all);
    all.push(Sample::counter("pool_granted_total", "GPU leases granted", vec![], totals.granted as f64));
    let crashes = totals.engine_crashes as f64;
    all.push(Sample::counter("pool_engine_crashes_total", "Engines that crashed", vec![], crashes));
    for (direction, bytes) in [("in", totals.bytes_in), ("out", totals.bytes_out)] {
        let labels = vec![("direction", direction.into())];
        all.push(Sample::counter("pool_bytes_total", "Bytes to and from the engines", labels, bytes as f64));
    }
    let of_nodes = totals.gpu_seconds.iter().flat_map(|(team, nodes)| {
        nodes.iter().map(move |(node, seconds)| (team.clone(), node.clone(), *seconds))
    });
    for (team, client, seconds) in of_nodes.take(MOST) {
        let labels = vec![("team", team), ("client", client)];
        all.push(Sample::counter(
            "pool_gpu_seconds_total",
            "Seconds for which GPUs were held",
            labels,
            seconds,
        ));
    }
    let bounds = WAITS.iter().map(|bound| *bound as f64).chain([f64::INFINITY]);
    let spread = bounds.zip(totals.waits).collect();
    all.push(Sample::histogram(
        "pool_wait_seconds",
        "How long granted asks had waited",
        spread,
        totals.waited,
    ));
    for lease in status.leases.iter().take(MOST) {
        if let Some(rtt) = lease.rtt_micros {
            let labels = vec![("client", lease.node.clone())];
            all.push(Sample::new("pool_rtt_seconds", "Round trip to a client", labels, rtt as f64 / 1e6));
        }
    }
}

fn of_client(client: &NetworkGpuFact, all: &mut Vec<Sample>) {
    all.push(Sample::for_alert(
        "network_gpu_up",
        "1: the daemon for GPUs of other machines runs",
        vec![],
        f64::from(client.active),
    ));
    for server in client.servers.iter().take(MOST) {
        let labels = || vec![("server", server.server.clone())];
        let usable = f64::from(server.problem.is_none());
        all.push(Sample::for_alert(
            "network_gpu_server_usable",
            "1: the GPU server answers",
            labels(),
            usable,
        ));
        if let Some(rtt) = server.rtt_micros {
            let rtt = rtt as f64 / 1e6;
            all.push(Sample::new("network_gpu_rtt_seconds", "Round trip to the GPU server", labels(), rtt));
        }
    }
}

fn of_proof(proof: &NetworkProof, all: &mut Vec<Sample>) {
    let right = f64::from(proof.failure.is_none() && proof.report.passed());
    all.push(Sample::for_alert(
        "network_gpu_proof_passed",
        "1: the last proof on a GPU of another machine was right",
        vec![],
        right,
    ));
    let at = proof.at as f64;
    all.push(Sample::new("network_gpu_proof_timestamp_seconds", "When it was made", vec![], at));
}
