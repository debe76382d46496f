//! What the network costs: each call that waits for its answer takes a round trip more. Never refused: how many of
//! them a program makes is its own matter.

use crate::compat::combination::Finding;
use crate::compat::pool_link::{self, PoolLink};
use crate::fleet::Fleet;
use crate::inventory::Inventory;
use crate::node::NodeId;
use std::collections::BTreeSet;
use vsgpu_core::knowledge::Basis;
use vsgpu_core::words::counted;

/// Round trips above this are said.
const NOTICED_MICROS: u64 = 1_000;
/// What a waiting call takes without a network, with the engine and both relays.
const OWN_MICROS: u64 = 120;

fn ms(micros: u64) -> String {
    format!("{:.1} ms", micros as f64 / 1000.0)
}

/// The same of all clients that a plan touches, in a sentence; nothing where there are none. A new client has measured
/// nothing yet, and nobody else can: the way is its own.
pub fn told(fleet: &Fleet, inventory: &Inventory, touched: impl Fn(&NodeId) -> bool) -> Option<String> {
    let links: Vec<PoolLink> =
        pool_link::links(fleet, Some(inventory)).into_iter().filter(|link| touched(&link.node)).collect();
    let known = || links.iter().filter_map(|link| link.rtt_micros);
    let clients: BTreeSet<&NodeId> = links.iter().map(|link| &link.node).collect();
    let clients = counted(clients.len(), "client");
    match (links.is_empty(), known().min().zip(known().max())) {
        (true, _) => None,
        (false, None) => Some(format!(
            "{clients}. The round trip to the GPU server is measured once the client is set up; a CUDA call that waits for its answer takes that and about {}.",
            ms(OWN_MICROS)
        )),
        (false, Some((least, most))) => {
            let span = |of: &dyn Fn(u64) -> String| match (of(least), of(most)) {
                (least, most) if least == most => most,
                (least, most) => format!("{} to {most}", least.trim_end_matches(" ms")),
            };
            let unknown = match links.len() - known().count() {
                0 => String::new(),
                n => format!(" ({n} not measured yet)"),
            };
            Some(format!(
                "{clients}. The round trip to the GPU server takes {}{unknown}; a CUDA call that waits for its answer takes about {}.",
                span(&ms),
                span(&|rtt| ms(rtt + OWN_MICROS))
            ))
        }
    }
}

pub(super) fn check(link: &PoolLink) -> Vec<Finding> {
    let Some(rtt) = link.rtt_micros.filter(|rtt| *rtt > NOTICED_MICROS) else { return vec![] };
    let what = format!(
        "{}: the round trip to its GPU server {} takes {}; a CUDA call that waits for its answer takes about {}",
        link.client,
        link.server,
        ms(rtt),
        ms(rtt + OWN_MICROS)
    );
    let basis = Basis::document("measured with Lupine on loopback and a delayed network", false);
    let nearest = "put both VMs on one host or one switch; work that is sent in large pieces suffers least";
    vec![link.finding(what, basis, Some(nearest.into()))]
}
