//! `gateway check`: who answers, whether each host is there once, and what the service account may not do, by purpose.
//! The answer is the first line, and the last one. Nothing is changed.

use super::config::Config;
use super::login::{AskedWith, begin, told, whole_hosts};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use vsgpu_core::text::visible;
use vsgpu_vsphere::access::{Allowed, On, PURPOSES, allowed, role_commands};
use vsgpu_vsphere::inventory::Host;
use vsgpu_vsphere::session::About;

/// Hosts that are named one by one.
const SHOWN: usize = 10;

pub(super) fn run(config: &Config) -> Result<(), String> {
    let mut session = begin(config, &AskedWith::default()).map_err(|fault| told(config, &fault))?;
    let about = session.about();
    let served = whole_hosts(config, &mut session)?;
    let served: Vec<&Host> = served.iter().collect();
    let may = match served.is_empty() {
        true => None,
        false => allowed(&mut session, &served).map_err(|fault| told(config, &fault))?,
    };
    drop(session);
    let seen = Seen { config, about: &about, served: &served, may: may.as_ref() };
    let (ready, verdict) = seen.verdict();
    print(&format!("{verdict}\n\n{}\n{verdict}", seen.screen()))?;
    if ready { Ok(()) } else { Err("nothing was changed; see above".into()) }
}

/// `gateway role`: everything that vsgpu does, and what each takes, for whoever makes the role.
pub(super) fn role() -> Result<(), String> {
    let mut text =
        "What vsgpu does, and what it takes. Leave out what this site does not want.\n`gateway serve` does not reach guests yet.\n\n".to_string();
    for purpose in &PURPOSES {
        let _ = writeln!(text, "{}", purpose.name);
        for (on, id) in purpose.privileges {
            let _ = writeln!(text, "  {id:<44} on {}", kind(*on));
        }
    }
    let [create, update, powercli] = role_commands("vsgpu", PURPOSES.iter());
    let _ = write!(
        text,
        "\nAll of it as a role, with govc:\n\n  {create}\n\nwhere the role is there already:\n\n  {update}\n\nand with PowerCLI:\n\n  {powercli}\n\nGive it at the top of the inventory, with \"Propagate to children\"."
    );
    print(&text)
}

fn print(text: &str) -> Result<(), String> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{}", visible(text)).map_err(|e| e.to_string())
}

struct Seen<'a> {
    config: &'a Config,
    about: &'a About,
    served: &'a [&'a Host],
    may: Option<&'a Allowed>,
}

fn counted(n: usize, one: &str, more: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {more}") }
}

impl Seen<'_> {
    /// Whether these hosts can be served, and the answer in a line.
    fn verdict(&self) -> (bool, String) {
        let (names, away) = (self.names().len(), self.away().len());
        let hosts = counted(self.served.len(), "host", "hosts");
        let mut wrong = vec![];
        if names > 0 {
            wrong.push(counted(names, "name does not fit the inventory", "names do not fit the inventory"));
        }
        if away > 0 {
            wrong.push(counted(away, "host is not connected", "hosts are not connected"));
        }
        let Some(may) = self.may else {
            if self.served.is_empty() {
                return (
                    false,
                    format!("NOT READY: {}; no host was found, so nothing was asked", wrong.join(", ")),
                );
            }
            wrong.push("this server cannot be asked what the account may do".into());
            return (names + away == 0, format!("UNKNOWN: {hosts}; {}", wrong.join(", ")));
        };
        if !may.missing[0].is_empty() {
            wrong.push(
                "the account may not even look: give it the role Read-only there, with propagation".into(),
            );
        }
        let lacks = may.missing.iter().filter(|missing| !missing.is_empty()).count();
        let allowed = match lacks {
            0 => "the account may do everything that was asked".to_string(),
            n => format!("{} of {} purposes are not allowed", n, PURPOSES.len()),
        };
        match (wrong.is_empty(), lacks) {
            (true, 0) => (true, format!("READY: {hosts}, {allowed}")),
            (true, _) => (true, format!("READY TO LOOK: {hosts}, {allowed}")),
            (false, _) => (false, format!("NOT READY: {}; {hosts} found, {allowed}", wrong.join(", "))),
        }
    }

    /// Names that are not there once.
    fn names(&self) -> Vec<String> {
        let mut found = vec![];
        for name in &self.config.hosts {
            match self.served.iter().filter(|host| host.name == *name).count() {
                0 => {
                    found.push(format!("host {name}: not in the inventory, or this account does not see it"))
                }
                1 => {}
                n => found.push(format!("host {name}: there are {n} of this name; rename all but one")),
            }
        }
        for name in &self.config.clusters {
            if !self.served.iter().any(|host| host.cluster.as_deref() == Some(name)) {
                found.push(format!("cluster {name}: not in the inventory, without hosts, or not seen"));
            }
        }
        found
    }

    fn away(&self) -> Vec<String> {
        let away = self.served.iter().filter(|host| host.state != "connected");
        away.map(|host| format!("host {}: vCenter says it is {}", host.name, host.state)).collect()
    }

    fn screen(&self) -> String {
        let (name, api) = (&self.about.full_name, &self.about.api);
        let mut text =
            format!("{}: {name}, API {api}\nlogged in as {}\n\n", self.config.address, self.config.user);
        for line in self.names().into_iter().chain(self.away()) {
            let _ = writeln!(text, "WRONG  {line}");
        }
        text += &self.hosts();
        text += &self.may.map(purposes).unwrap_or_default();
        text
    }

    fn hosts(&self) -> String {
        let mut text = String::new();
        let shown = || self.served.iter().take(SHOWN);
        let name = shown().map(|host| host.name.len()).max().unwrap_or(0).max(4);
        let of = |host: &Host| host.cluster.clone().unwrap_or_else(|| "-".into());
        let cluster = shown().map(|host| of(host).len()).max().unwrap_or(0).max(7);
        if !self.served.is_empty() {
            let _ = writeln!(text, "{:<name$}  {:<cluster$}  {:>4}  STATE", "HOST", "CLUSTER", "GPUS");
        }
        for host in shown() {
            let gpus = host.gpus.map_or("?".into(), |n| n.to_string());
            let mode = if host.in_maintenance { ", in maintenance mode" } else { "" };
            let _ = writeln!(
                text,
                "{:<name$}  {:<cluster$}  {gpus:>4}  {}{mode}",
                host.name,
                of(host),
                host.state
            );
        }
        if let Some(more) = self.served.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            let _ = writeln!(text, "and {more} more");
        }
        if self.served.iter().any(|host| host.gpus.is_none()) {
            text += "?: this account may not read the hardware\n";
        } else if !self.served.is_empty() && self.served.iter().all(|host| host.gpus == Some(0)) {
            text += "none of them has an NVIDIA GPU that vCenter sees\n";
        }
        text
    }
}

fn purposes(may: &Allowed) -> String {
    let (asked, all) = may.vms;
    let mut text = "\nMAY THE ACCOUNT\n".to_string();
    let width = PURPOSES.iter().map(|purpose| purpose.name.len()).max().unwrap_or(0);
    for (purpose, missing) in PURPOSES.iter().zip(&may.missing) {
        let not_there: BTreeSet<&str> = purpose
            .privileges
            .iter()
            .filter(|(on, _)| may.not_there.contains(on))
            .map(|(on, _)| kind(*on))
            .collect();
        let answer = match (missing.is_empty(), not_there.iter().next()) {
            (false, _) => "no".to_string(),
            (true, Some(kind)) => format!("not known: there are no {kind}"),
            (true, None) => "yes".into(),
        };
        let _ = writeln!(text, "  {:<width$}  {answer}", purpose.name);
        for (privilege, on) in missing {
            let _ = writeln!(text, "    {privilege}{}", where_missing(on));
        }
    }
    if asked < all {
        let _ = writeln!(text, "of the VMs {asked} of {all} were asked about");
    }
    if may.missing.iter().any(|missing| !missing.is_empty()) {
        text += "the role with all of it: vsgpu-host-agent gateway role\n";
    }
    text
}

/// Objects of a kind, in words.
fn kind(on: On) -> &'static str {
    match on {
        On::Root => "the top of the inventory",
        On::Hosts => "hosts",
        On::Vms => "VMs",
        On::Datastores => "datastores",
        On::Computes => "clusters (resource pools)",
        On::Networks => "networks",
    }
}

fn where_missing(on: &BTreeSet<String>) -> String {
    let named: Vec<&str> = on.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    match named.as_slice() {
        [] => ", at the top of the inventory".into(),
        [one] => format!(", {one}"),
        [one, rest @ ..] => format!(", {one} and {} more", rest.len()),
    }
}
