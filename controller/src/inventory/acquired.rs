//! What runs changed on the hosts temporarily and have not restored, as the hosts' agents keep it. Another
//! run's is shown, never touched, until somebody says that it is taken over.

use crate::error::{Error, Kind};
use crate::inventory::seen::Seen;
use crate::node::NodeId;
use serde::Serialize;
use std::collections::BTreeMap;
use vsgpu_core::text::sentence;
use vsgpu_host_agent::host::MAINTENANCE_MODE;
use vsgpu_wire::acquired::TemporaryChange;
use vsgpu_wire::client::{Description, Holder};

/// One temporary change of a host, as its agent keeps it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Left {
    pub host: String,
    /// `maintenance-mode`, or `power` of a VM.
    pub what: String,
    /// The VM's display name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub vm: String,
    /// The run, with who ran it.
    pub run: String,
    /// Since when, seconds since 1970 by the host's clock.
    pub since: u64,
    /// A look has shown it so; else it was only about to happen.
    pub seen: bool,
    /// Whose run is at work on the host now, whether it is this one or another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_work: Option<String>,
}

/// What a host's agent keeps.
pub fn of_host(host: &str, temporary: &[TemporaryChange], holder: Option<&Holder>) -> Vec<Left> {
    let at_work = holder.filter(|h| h.is_live()).map(|h| h.name.clone());
    let left = |t: &TemporaryChange| Left {
        host: host.into(),
        what: t.what.clone(),
        vm: t.vm.clone(),
        run: t.run.clone(),
        since: t.since,
        seen: t.seen,
        at_work: at_work.clone(),
    };
    let mut all: Vec<Left> = temporary.iter().map(left).collect();
    // The host before its VMs.
    all.sort_by(|a, b| (&a.vm, &a.what).cmp(&(&b.vm, &b.what)));
    all
}

/// The same of what it says of itself.
pub fn described(host: &str, said: &Description) -> Vec<Left> {
    of_host(host, &said.temporary, said.holder.as_ref())
}

/// For whom did not do it: what of each host is left changed, by which run, and what to do. A paragraph for
/// each host and run.
pub fn told<'a>(all: impl IntoIterator<Item = &'a Left>, now: u64) -> Vec<String> {
    let mut by_run: BTreeMap<(&str, &str), Vec<&Left>> = BTreeMap::new();
    for left in all {
        by_run.entry((&left.host, &left.run)).or_default().push(left);
    }
    by_run.values().map(|of_run| paragraph(of_run, now)).collect()
}

fn paragraph(all: &[&Left], now: u64) -> String {
    let host = &all[0].host;
    let mut lines = vec![];
    let of_host = |left: &&&Left| left.what == MAINTENANCE_MODE;
    if let Some(left) = all.iter().find(of_host) {
        lines.push(format!("{host} {} IN MAINTENANCE MODE", if left.seen { "IS" } else { "MAY BE" }));
    }
    for seen in [true, false] {
        let vms: Vec<String> = all
            .iter()
            .filter(|left| !of_host(left) && left.seen == seen)
            .map(|left| sentence(&left.vm))
            .collect();
        if !vms.is_empty() {
            let verb = if seen { "SHUT DOWN" } else { "MAY BE SHUT DOWN" };
            lines.push(format!("{verb} on {host}: {}", some_of(&vms)));
        }
    }
    let since = all.iter().map(|left| left.since).min().unwrap_or(now);
    lines.push(format!("  for {}, by {}", span(now.saturating_sub(since)), all[0].run));
    lines.push(format!("  {}", all[0].who_is_there()));
    lines.extend(all[0].advice().into_iter().map(|advice| format!("  {advice}")));
    lines.join("\n")
}

/// The first names of many.
pub fn some_of(names: &[String]) -> String {
    const NAMED: usize = 5;
    let more = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
    format!("{}{more}", names[..names.len().min(NAMED)].join(", "))
}

impl Left {
    /// Who is at the host.
    fn who_is_there(&self) -> String {
        match &self.at_work {
            Some(who) => format!("{who} works on it now"),
            None => "no vsgpu works on it now; a person may".into(),
        }
    }

    pub fn advice(&self) -> Vec<String> {
        let host = &self.host;
        match self.at_work {
            Some(_) => vec!["wait for that; `vsgpu status` where it runs shows how far it is".into()],
            None => vec![
                "ask whose run that was: somebody may be at the hardware; then there: `vsgpu abort`".into(),
                format!("if that machine or its records are gone: `vsgpu abort --adopt {host}`"),
            ],
        }
    }
}

/// A time in words.
pub fn span(secs: u64) -> String {
    match secs {
        0..=59 => "less than a minute".into(),
        60..=7_199 => format!("{} min", secs / 60),
        7_200..=172_799 => format!("{} h {} min", secs / 3_600, secs / 60 % 60),
        _ => format!("{} days", secs / 86_400),
    }
}

/// Why nothing is planned for a host that somebody else holds in maintenance mode.
pub(crate) fn foreign(node: &NodeId, seen: &Seen, now: u64) -> Error {
    let left = of_host(&node.name, &seen.temporary, seen.holder.as_ref());
    let blocked = |why: &str| {
        Error::new(
            Kind::Blocked,
            format!("{node}: the host is in maintenance mode{why}: nothing is planned for it"),
        )
    };
    let holder = seen.holder.as_ref().filter(|h| h.is_live());
    match (left.iter().find(|left| left.what == MAINTENANCE_MODE), holder) {
        (Some(first), _) => {
            let error = blocked(" through another run").code("left-behind").detail(format!(
                "for {}, by {}",
                span(now.saturating_sub(first.since)),
                first.run
            ));
            first.advice().into_iter().fold(error.detail(first.who_is_there()), Error::hint)
        }
        // It may be about to say so.
        (None, Some(holder)) => {
            blocked("").code("taken-over").detail(format!("{} works on it now", holder.name)).hint("wait until that is done")
        }
        // An agent before this version, or one that lost what it kept, has no record either.
        (None, None) => blocked(", and its agent has no record of a run that did it").code("maintenance-mode").hint(
            "look at its tasks in the vSphere Client, and ask; only then, on the host: `esxcli system maintenanceMode set --enable false`",
        ),
    }
}
