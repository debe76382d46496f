//! What the network costs: each call that waits for its answer takes a round trip more. Never refused: how many of
//! them a program makes is its own matter.

use crate::compat::combination::Finding;
use crate::compat::pool_link::PoolLink;
use vsgpu_core::knowledge::Basis;

/// Round trips above this are said.
const NOTICED_MICROS: u64 = 1_000;
/// What a waiting call takes without a network, with the engine and both relays.
const OWN_MICROS: u64 = 120;

pub(super) fn check(link: &PoolLink) -> Vec<Finding> {
    let Some(rtt) = link.rtt_micros.filter(|rtt| *rtt > NOTICED_MICROS) else { return vec![] };
    let ms = |micros: u64| format!("{:.1} ms", micros as f64 / 1000.0);
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
