//! `gateway check`: who answers, whether each host is there once, and what the service account may not do, by purpose.
//! Nothing is changed.

use super::config::{Config, password};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use vsgpu_core::text::visible;
use vsgpu_vsphere::access::{Allowed, PURPOSES, allowed, role_commands};
use vsgpu_vsphere::inventory::{Host, hosts};
use vsgpu_vsphere::session::{About, Account};
use vsgpu_vsphere::{Fault, Session};

/// Hosts that are named one by one.
const SHOWN: usize = 20;

pub(super) fn run(config: &Config) -> Result<(), String> {
    let at = |fault: Fault| match fault.kind.as_str() {
        "InvalidLogin" => format!(
            "{}: user or password is wrong, or the account is locked: {} (from {})",
            config.address,
            config.user,
            config.password_file.display()
        ),
        "no answer" => fault.said.join(": "),
        _ => format!("{}: {fault}", config.address),
    };
    let file = config.password_file.clone();
    let account = Account { user: config.user.clone(), password: Box::new(move || password(&file)) };
    let mut session = Session::begin(&config.address, config.trust.as_ref(), account).map_err(at)?;
    let about = session.about().clone();
    if about.is_vcenter != config.is_vcenter {
        let (is, key) = if about.is_vcenter { ("a vCenter", "vcenter") } else { ("a host", "esxi") };
        return Err(format!("{}: this is {is}: `{key} = {}` is expected", config.address, config.address));
    }
    let wanted = |name: &str, cluster: Option<&str>| {
        !config.is_vcenter
            || config.hosts.iter().any(|host| host == name)
            || cluster.is_some_and(|of| config.clusters.iter().any(|cluster| cluster == of))
    };
    let all = hosts(&mut session, wanted).map_err(at)?;
    let served: Vec<&Host> = all.iter().filter(|host| wanted(&host.name, host.cluster.as_deref())).collect();
    let may = if served.is_empty() { None } else { allowed(&mut session, &served).map_err(at)? };
    let wrong = wrong(config, &served);
    let text = screen(config, &about, &served, may.as_ref(), &wrong);
    drop(session);
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{}", visible(text.trim_end())).map_err(|e| e.to_string())?;
    let looks = may.as_ref().is_none_or(|may| may.missing[0].is_empty());
    match (wrong.len(), looks) {
        (0, true) => Ok(()),
        (0, false) => Err("the account may not even look: give it the role Read-only on these hosts".into()),
        (n, _) => Err(format!("{n} of the file's names do not fit what the inventory has")),
    }
}

/// Names that are not there once, and hosts that cannot be served.
fn wrong(config: &Config, served: &[&Host]) -> Vec<String> {
    let mut found = vec![];
    for name in &config.hosts {
        match served.iter().filter(|host| host.name == *name).count() {
            0 => found.push(format!("host {name}: not in the inventory, or this account does not see it")),
            1 => {}
            n => found.push(format!("host {name}: there are {n} of this name; rename all but one")),
        }
    }
    for name in &config.clusters {
        if !served.iter().any(|host| host.cluster.as_deref() == Some(name)) {
            found.push(format!(
                "cluster {name}: not in the inventory, without hosts, or not seen by this account"
            ));
        }
    }
    for host in served.iter().filter(|host| host.state != "connected") {
        found.push(format!("host {}: vCenter says it is {}", host.name, host.state));
    }
    found
}

fn screen(
    config: &Config,
    about: &About,
    served: &[&Host],
    may: Option<&Allowed>,
    wrong: &[String],
) -> String {
    let (name, api) = (&about.full_name, &about.api);
    let mut text = format!("{}: {name}, API {api}\nlogged in as {}\n\n", config.address, config.user);
    for line in wrong {
        let _ = writeln!(text, "WRONG  {line}");
    }
    if !wrong.is_empty() {
        text.push('\n');
    }
    let width = |of: fn(&Host) -> usize, least: usize| {
        served.iter().take(SHOWN).map(|host| of(host)).max().unwrap_or(0).max(least)
    };
    let name = width(|host| host.name.len(), 4);
    let cluster = width(|host| host.cluster.as_deref().unwrap_or("-").len(), 7);
    if !served.is_empty() {
        let _ = writeln!(text, "{:<name$}  {:<cluster$}  {:>4}  STATE", "HOST", "CLUSTER", "GPUS");
    }
    for host in served.iter().take(SHOWN) {
        let gpus = host.gpus.map_or("?".into(), |n| n.to_string());
        let of = host.cluster.as_deref().unwrap_or("-");
        let mode = if host.in_maintenance { ", in maintenance mode" } else { "" };
        let _ = writeln!(text, "{:<name$}  {of:<cluster$}  {gpus:>4}  {}{mode}", host.name, host.state);
    }
    if let Some(more) = served.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        let _ = writeln!(text, "and {more} more");
    }
    match may {
        Some(may) => text += &purposes(may),
        None if served.is_empty() => {}
        None => text += "\nThis server cannot be asked what the account may do.\n",
    }
    text
}

fn purposes(may: &Allowed) -> String {
    let mut text = "\nMAY THE ACCOUNT\n".to_string();
    let width = PURPOSES.iter().map(|purpose| purpose.name.len()).max().unwrap_or(0);
    for (purpose, missing) in PURPOSES.iter().zip(&may.missing) {
        let name = purpose.name;
        let Some((first, on)) = missing.iter().next() else {
            let _ = writeln!(text, "  {name:<width$}  yes");
            continue;
        };
        let more = if missing.len() > 1 { format!(" and {} more", missing.len() - 1) } else { String::new() };
        let _ = writeln!(text, "  {name:<width$}  no: {first}{more}{}", where_missing(on));
    }
    let lacks = may.missing.iter().filter(|missing| !missing.is_empty()).count();
    if lacks == 0 {
        return text + "\nNothing is missing. Nothing was changed.\n";
    }
    text += "\nA role for everything; leave out what this site does not want:\n\n";
    for command in role_commands("vsgpu", PURPOSES.iter()) {
        let _ = writeln!(text, "  {command}\n");
    }
    text + &format!("{lacks} of {} purposes are not allowed. Nothing was changed.\n", PURPOSES.len())
}

fn where_missing(on: &BTreeSet<String>) -> String {
    let named: Vec<&str> = on.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    match named.as_slice() {
        [] => " on the inventory's root".into(),
        [one] => format!(" on {one}"),
        [one, rest @ ..] => format!(" on {one} and {} more", rest.len()),
    }
}
