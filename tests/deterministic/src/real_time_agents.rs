//! Agents in real time, on a thread of their own: in the field they have machines of their own. The
//! connections are pipes in memory.

use crate::world::World;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use vsgpu_tests::fakes::in_process::InProcess;
use vsgpu_wire::client::{Connector, Stream};
use vsgpu_wire::server::{Blocking, simulated};

/// Starts an agent on each host, which takes so long for each answer and reads this clock; gives the way to
/// them. They end when nobody has that any more.
pub fn agents(
    world: &World,
    each: Duration,
    clock: impl Fn() -> Duration + Clone + Send + Sync + 'static,
) -> Connector {
    let mut lines = BTreeMap::new();
    let mut agents = vec![];
    for host in &world.hosts {
        let (tx, rx) = mpsc::channel(16);
        lines.insert(host.clone(), tx);
        agents.push((host.clone(), world.folder(host), rx));
    }
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut running = tokio::task::JoinSet::new();
            for (name, folder, rx) in agents {
                let system = Arc::new(InProcess::new(folder, None).by_clock(clock.clone()));
                let offload = Blocking::InPlace(Arc::new(move || (Duration::ZERO, each)));
                running.spawn(async move {
                    simulated(vsgpu_host_agent::agent(), system, &name, offload, rx).await
                });
            }
            while running.join_next().await.is_some() {}
        });
    });
    let lines = Arc::new(lines);
    Connector::by(move |target| {
        let agent = lines[&target.address].clone();
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            agent.send(theirs).await.map_err(std::io::Error::other)?;
            Ok(Box::new(ours) as Box<dyn Stream>)
        })
    })
}
