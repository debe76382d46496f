//! The GPU servers of a fleet, asked what they are doing.

use crate::error::{Error, Kind};
use crate::fleet::pool::gateway;
use crate::fleet::{Fleet, Vm};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use vsgpu_core::pool::PoolStatus;
use vsgpu_wire::client::{CallError, Connector, Target};
use vsgpu_wire::pool::client::Gateway;

/// For the connection, and for the answer.
pub const WITHIN: Duration = Duration::from_secs(5);
/// Servers that are asked at once.
const AT_ONCE: usize = 64;
/// For all of them, where their answers are all that is asked for.
pub const ALL_WITHIN: Duration = Duration::from_secs(30);

/// What one of them says.
pub struct Server {
    pub name: String,
    pub said: Result<PoolStatus, Error>,
}

/// Where the gateways are, in the order of the fleet file.
pub fn servers(fleet: &Fleet) -> Vec<Target> {
    let target = |vm: &Vm| Some(Target { address: gateway(vm)?, node: vm.name.clone(), role: "guest" });
    fleet.vms.iter().filter_map(target).collect()
}

/// Connects to one.
///
/// # Errors
/// It is away or refuses.
pub async fn open(connector: &Connector, target: &Target) -> Result<Gateway, CallError> {
    Gateway::open(connector, target, WITHIN).await
}

async fn ask(connector: &Connector, target: &Target) -> Result<PoolStatus, Error> {
    let gateway = open(connector, target).await.map_err(Error::from)?;
    let text = gateway.status(WITHIN).await.map_err(Error::from)?;
    PoolStatus::read(text.as_bytes()).map_err(|why| {
        let why = format!("{}: its status is not understood ({why}); use one version of vsgpu", target.node);
        Error::new(Kind::Failed, why)
    })
}

/// Asks all of them, beside each other; who has not answered within this time is said not to have.
pub async fn statuses(connector: &Connector, targets: &[Target], within: Duration) -> Vec<Server> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut asking = JoinSet::new();
    for (at, target) in targets.iter().enumerate() {
        let (connector, target, places) = (connector.clone(), target.clone(), places.clone());
        asking.spawn(async move {
            let _place = places.acquire_owned().await;
            (at, ask(&connector, &target).await)
        });
    }
    let mut said: Vec<Option<Result<PoolStatus, Error>>> = targets.iter().map(|_| None).collect();
    let gathered = tokio::time::timeout(within, async {
        while let Some(done) = asking.join_next().await {
            if let Ok((at, answer)) = done {
                said[at] = Some(answer);
            }
        }
    });
    let _ = gathered.await;
    let server = |(target, said): (&Target, Option<Result<PoolStatus, Error>>)| {
        let late = || {
            let why = format!("{} did not answer within {} s", target.node, within.as_secs());
            Err(Error::new(Kind::Unreachable, why))
        };
        Server { name: target.node.clone(), said: said.unwrap_or_else(late) }
    };
    targets.iter().zip(said).map(server).collect()
}
