//! Certificates that end soon: what `verify` and `status` say of them, long before a node cannot be reached
//! any more. Of a node that was talked to the one counts that it showed; of the others the copy that was
//! issued here.

use crate::fleet::Fleet;
use crate::inventory::acquired::some_of;
use crate::inventory::reaches;
use serde::Serialize;
use std::collections::BTreeSet;
use vsgpu_wire::client::Connector;
use vsgpu_wire::life::{Due, Life};
use vsgpu_wire::pki;

/// A certificate that somebody has to do something about.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ending {
    /// Whose: a node's name, `controller`, or `ca`.
    pub of: String,
    /// `host`, `guest`, `connector` or `authority`.
    pub role: &'static str,
    /// When it ends, seconds since 1970.
    pub ends: u64,
    pub state: String,
    /// A newer one was issued here and is not on the node yet.
    pub issued: bool,
    #[serde(skip)]
    due: Due,
}

/// All of them, the first to end first.
pub fn ending(fleet: &Fleet, connector: Option<&Connector>, now: u64) -> Vec<Ending> {
    let mut all = vec![];
    let mut look = |of: &str, role, life: Option<Life>, here: Option<Life>| {
        if let Some((life, due)) = life.and_then(|life| Some((life, life.due(now)?))) {
            let issued = here.is_some_and(|here| here.ends > life.ends && here.due(now).is_none());
            all.push(Ending { of: of.into(), role, ends: life.ends, state: due.to_string(), issued, due });
        }
    };
    look("controller", "operator", pki::own_life(&fleet.pki), None);
    look("ca", "authority", pki::life(&fleet.pki.join("ca.pem")).ok(), None);
    let mut seen = BTreeSet::new();
    for reach in
        reaches(fleet).into_values().filter(|reach| seen.insert((reach.node.clone(), reach.role.clone())))
    {
        let target = reach.target();
        let shown = connector.and_then(|connector| connector.life(&target.node, target.role));
        // That of a node that was talked to counts; the copy here is read where it ends, or where nobody was
        // talked to.
        let issued =
            || pki::life(&pki::node_folder(&fleet.pki, &target.node, target.role).join("node.pem")).ok();
        match shown {
            Some(shown) if shown.due(now).is_none() => {}
            shown => {
                let here = issued();
                look(&target.node, target.role, shown.or(here), here.filter(|_| shown.is_some()));
            }
        }
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
                "warning: your CA {}, then no node can be reached: `vsgpu ca init --pki NEW` makes another; issue all nodes from it, copy, then `--pki NEW`",
                e.state
            )),
            _ => None,
        })
        .collect();
    let nodes: Vec<&Ending> = ending.iter().filter(|e| !matches!(e.role, "operator" | "authority")).collect();
    let next = |e: &Ending| match e.issued {
        true => format!(
            "a new one is in the CA's folder and not on {} yet: copy it there, restart its agent",
            e.of
        ),
        false => format!("`vsgpu cert renew {} --role {}`", e.of, e.role),
    };
    match nodes.as_slice() {
        [] => {}
        [one] => all.push(format!("warning: the certificate of {} {}: {}", one.of, one.state, next(one))),
        [first, ..] => {
            let named: Vec<String> = nodes.iter().map(|e| format!("{} ({})", e.of, e.role)).collect();
            let ended = nodes.iter().filter(|e| e.due == Due::Ended).count();
            let count = match (ended, nodes.len() - ended) {
                (0, soon) => format!("{soon} certificates end soon"),
                (ended, 0) => format!("{ended} certificates have ended"),
                (ended, soon) => format!("{ended} certificates have ended, {soon} end soon"),
            };
            let all_names = if nodes.len() > 5 { " (`-o json` names all)" } else { "" };
            all.push(format!(
                "warning: {count}: {}{all_names}; the first {}: {}",
                some_of(&named),
                first.state,
                next(first)
            ));
        }
    }
    all
}
