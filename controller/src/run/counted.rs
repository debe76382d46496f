//! What the agents count in their metrics: the requirements that the fleet file has for them. It goes with a
//! run, once a person has agreed to it, and takes the place of what an agent counted before. An agent that
//! does not answer counts on as before, until a later run tells it.

use crate::fleet::Fleet;
use crate::inventory::reaches;
use crate::node::NodeKind;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use vsgpu_wire::client::{Connection, Connector, Target, Wishes};

/// Agents told at once.
const AT_ONCE: usize = 128;

/// Tells every agent of the fleet.
pub async fn tell(fleet: &Fleet, connector: &Connector) {
    let within = Duration::from_secs(fleet.deadlines.connect_secs.into());
    let (specs, places) = (fleet.specs(), Arc::new(Semaphore::new(AT_ONCE)));
    // A VM's are its host's to count.
    let mut by_agent: BTreeMap<(String, String), (Target, Vec<Wishes>)> = BTreeMap::new();
    for (id, reach) in reaches(fleet) {
        let target = reach.target();
        let key = (reach.role.clone(), reach.node.clone());
        let (_, all) = by_agent.entry(key).or_insert_with(|| (target, vec![]));
        let of_node = specs.get(&id).into_iter().flat_map(|specs| specs.iter());
        let wishes = of_node.map(|s| (s.requirement.to_string(), (*s.value).clone())).collect();
        all.push(Wishes { vm: reach.vm.filter(|_| id.kind == NodeKind::Vm), wishes });
    }
    let mut work = JoinSet::new();
    for (target, wishes) in by_agent.into_values() {
        let (connector, places) = (connector.clone(), places.clone());
        work.spawn(async move {
            let _place = places.acquire_owned().await;
            if let Ok(connection) = Connection::open(&connector, &target, within).await {
                // An older agent does not know the call, and counts what it was told before.
                connection.remember(&wishes, within).await.ok();
            }
        });
    }
    while work.join_next().await.is_some() {}
}
