//! Certificates that end soon: what `verify` and `status` say of them, long before a node cannot be reached any more. Of a node that
//! was talked to the one counts that it showed; of the others the copy that was issued here.

use crate::fleet::Fleet;
use crate::inventory::reaches;
use serde::Serialize;
use std::collections::BTreeSet;
use vsgpu_proto::client::Operator;
use vsgpu_proto::life::{Due, Life};
use vsgpu_proto::pki;

/// Names in a warning.
const NAMED: usize = 5;

/// A certificate that somebody has to do something about.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ending {
    /// Whose: a node's name, `controller`, or `ca`.
    pub of: String,
    /// `host`, `guest`, `operator` or `authority`.
    pub role: &'static str,
    /// When it ends, seconds since 1970.
    pub ends: u64,
    /// In words.
    pub state: String,
    #[serde(skip)]
    due: Due,
}

/// All of them, the first to end first.
pub fn ending(fleet: &Fleet, operator: Option<&Operator>, now: u64) -> Vec<Ending> {
    let mut all = vec![];
    let mut look = |of: &str, role, life: Option<Life>| {
        if let Some((life, due)) = life.and_then(|life| Some((life, life.due(now)?))) {
            all.push(Ending { of: of.into(), role, ends: life.ends, state: due.to_string(), due });
        }
    };
    look("controller", "operator", pki::own_life(&fleet.pki));
    look("ca", "authority", pki::life(&fleet.pki.join("ca.pem")).ok());
    let mut seen = BTreeSet::new();
    for reach in reaches(fleet).into_values().filter(|reach| seen.insert((reach.node.clone(), reach.role.clone()))) {
        let target = reach.target();
        let shown = operator.and_then(|operator| operator.life(&target.node, target.role));
        let issued = || pki::life(&pki::node_folder(&fleet.pki, &target.node, target.role).join("node.pem")).ok();
        look(&target.node, target.role, shown.or_else(issued));
    }
    all.sort_by(|a, b| (a.ends, &a.of).cmp(&(b.ends, &b.of)));
    all
}

/// The same as warnings: nodes together, what is one of a kind by itself.
pub fn warnings(ending: &[Ending]) -> Vec<String> {
    let mut all: Vec<String> = ending
        .iter()
        .filter_map(|e| match e.role {
            "operator" => Some(format!("warning: your own certificate {}: `vsgpu cert renew controller`", e.state)),
            "authority" => Some(format!(
                "warning: the certificate of your authority {}: make a new one in time, all nodes need certificates of it",
                e.state
            )),
            _ => None,
        })
        .collect();
    let nodes: Vec<&Ending> = ending.iter().filter(|e| !matches!(e.role, "operator" | "authority")).collect();
    match nodes.as_slice() {
        [] => {}
        [one] => {
            all.push(format!("warning: the certificate of {} {}: `vsgpu cert renew {} --role {}`", one.of, one.state, one.of, one.role))
        }
        many => {
            let named: Vec<&str> = many.iter().take(NAMED).map(|e| e.of.as_str()).collect();
            let more = if many.len() > NAMED { format!(" and {} more (`-o json` names all)", many.len() - NAMED) } else { String::new() };
            let ended = many.iter().filter(|e| e.due == Due::Ended).count();
            let ended = if ended > 0 { format!("{ended} of them have ended; ") } else { String::new() };
            all.push(format!(
                "warning: {} certificates end soon: {ended}the first {}: {}{more}: `vsgpu cert renew NODE --role host|guest`",
                many.len(),
                many[0].state,
                named.join(", ")
            ));
        }
    }
    all
}
