//! What the GPU servers of this machine have, and how far away they are.

use super::state::{CONNECT, MAX_TEXT, Setting, refused, target};
use crate::client::local::{GpuSeen, Kind, Refused, ServerSeen};
use std::collections::BTreeMap;
use tokio::task::JoinSet;
use tokio::time::Instant;
use vsgpu_core::pool::config::ServerAddress;
use vsgpu_core::text::piece;
use vsgpu_wire::client::{CallError, Connector, Target};
use vsgpu_wire::pool::client::Gateway;
use vsgpu_wire::pool::v1::{self, gpu};

/// Round trips that are measured.
const ROUND_TRIPS: u32 = 3;

/// Asks all servers, or one, what they have; beside each other, each with its own deadline.
pub(super) async fn look(setting: &Setting, only: Option<&str>) -> Result<Vec<ServerSeen>, Refused> {
    let named: Vec<&ServerAddress> =
        setting.config.servers.iter().filter(|server| only.is_none_or(|name| name == server.node)).collect();
    if named.is_empty() {
        let all: Vec<&str> = setting.config.servers.iter().map(|server| server.node.as_str()).collect();
        let why = format!("{} is no server of this machine", only.unwrap_or("that"));
        return Err(refused(Kind::NotAllowed, why, &format!("there are: {}", all.join(", "))));
    }
    let mut looks = JoinSet::new();
    for (at, server) in named.iter().enumerate() {
        let (rpc, target) = (setting.rpc.clone(), target(server));
        looks.spawn(async move { (at, look_at(&rpc, &target).await) });
    }
    let mut seen: BTreeMap<usize, ServerSeen> = BTreeMap::new();
    while let Some(looked) = looks.join_next().await {
        if let Ok((at, looked)) = looked {
            seen.insert(at, looked);
        }
    }
    Ok(seen.into_values().collect())
}

async fn look_at(rpc: &Connector, target: &Target) -> ServerSeen {
    let looked = async {
        let gateway = Gateway::open(rpc, target, CONNECT).await?;
        let mut list = gateway.list(CONNECT).await?;
        // The first answer had the handshake in it; of the others the quickest tells most of the way.
        let mut best = CONNECT;
        for _ in 0..ROUND_TRIPS {
            let since = Instant::now();
            list = gateway.list(CONNECT).await?;
            best = best.min(since.elapsed());
        }
        Ok::<_, CallError>((list, best))
    };
    let looked = tokio::time::timeout(CONNECT, looked)
        .await
        .unwrap_or_else(|_| Err(CallError::away("", format!("no answer within {} s", CONNECT.as_secs()))));
    let (list, rtt, problem) = match looked {
        Ok((list, rtt)) => (list, Some(rtt.as_micros() as u64), None),
        Err(CallError::Refused(what)) => {
            (v1::ListReply::default(), None, Some(piece(&format!("{what}: {}", what.hint), MAX_TEXT)))
        }
        Err(why) => (v1::ListReply::default(), None, Some(piece(&why.to_string(), MAX_TEXT))),
    };
    let text = |text: &str| piece(text, MAX_TEXT);
    let gpus = list.gpus.iter().take(vsgpu_core::pool::MAX_SLOTS).map(|gpu| GpuSeen {
        name: text(&gpu.name),
        memory_mib: gpu.memory_mib,
        uuid: text(&gpu.uuid),
        state: Some(
            match gpu.state() {
                gpu::State::Free => "free",
                gpu::State::Held => "held",
                gpu::State::OutOfService | gpu::State::Unspecified => "out-of-service",
            }
            .into(),
        ),
    });
    ServerSeen {
        server: target.node.clone(),
        address: target.address.clone(),
        problem,
        team: text(&list.team),
        team_holds: list.team_holds,
        team_may: list.team_may,
        waiting: list.waiting,
        drained: list.drained,
        blocked: text(&list.blocked),
        engine: text(&list.engine),
        build: text(&list.build),
        cuda: text(&list.cuda),
        rtt_micros: rtt,
        gpus: gpus.collect(),
    }
}
