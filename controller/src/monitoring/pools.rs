//! The GPU servers of a fleet, asked what they are doing.

use crate::error::{Error, Kind};
use crate::fleet::pool::gateway;
use crate::fleet::{Fleet, Vm};
use std::time::Duration;
use vsgpu_core::pool::PoolStatus;
use vsgpu_wire::client::{CallError, Connector, Target};
use vsgpu_wire::pool::client::Gateway;

/// For the connection, and for the answer.
pub const WITHIN: Duration = Duration::from_secs(5);
/// Servers that are asked at once.
const AT_ONCE: usize = 64;

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
    serde_json::from_str(&text).map_err(|e| {
        let why = format!("{}: its status is not understood ({e}); use one version of vsgpu", target.node);
        Error::new(Kind::Failed, why)
    })
}

/// Asks all of them, beside each other.
pub async fn statuses(connector: &Connector, targets: &[Target]) -> Vec<Server> {
    let mut all = vec![];
    for some in targets.chunks(AT_ONCE) {
        let asking: Vec<_> = some
            .iter()
            .map(|target| {
                let (connector, target) = (connector.clone(), target.clone());
                tokio::spawn(async move { ask(&connector, &target).await })
            })
            .collect();
        for (target, asked) in some.iter().zip(asking) {
            let said = asked.await.unwrap_or_else(|e| Err(Error::new(Kind::Internal, e.to_string())));
            all.push(Server { name: target.node.clone(), said });
        }
    }
    all
}
