//! `gateway serve` and `gateway facts`: the hosts of one vCenter, each as a node of its own, over one session. One address
//! for all of them: the controller says which host it means by the name that its certificate must have. (A port for each
//! host would have to be opened, counted and kept; this is the same name, certificate, lease and memory for each.)

use super::config::Config;
use super::door::ByApi;
use super::login::told;
use super::metrics::{Shown, read_on};
use super::site::Site;
use super::tasks::plain;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vsgpu_core::Scope;
use vsgpu_core::System;
use vsgpu_machine::{Posix, own_folder};
use vsgpu_vsphere::Fault;
use vsgpu_vsphere::inventory::Host;
use vsgpu_vsphere::session::REFUSED;
use vsgpu_wire::metrics::listener::{ScrapeAuth, serve};
use vsgpu_wire::server::{Agent, Hosted, log_to_stderr, print_facts, serve_hosts, tell_systemd_of_waiting};

/// A file that no host was given for so long was forgotten.
const OLD: Duration = Duration::from_secs(14 * 24 * 3600);
/// Hosts that are named in a message.
const NAMED: usize = 5;

/// What requirements of VMs read of their settings.
fn kept(agent: &Agent) -> Vec<&'static str> {
    let mut all: Vec<&'static str> = crate::facts::VmConfig::KEYS.to_vec();
    all.extend((agent.catalogue)().of(Scope::Vm).flat_map(|entry| entry.fact.vmx_keys.iter().copied()));
    all.sort_unstable();
    all.dedup();
    all
}

/// The hosts of the file, or why there is none. Of one name there must not be two.
fn listed(site: &Site) -> Result<Vec<Host>, Fault> {
    let hosts = site.hosts()?;
    if hosts.is_empty() {
        return Err(Fault::said(format!(
            "{}: none of the file's hosts is in the inventory: `vsgpu-host-agent gateway check` says more",
            site.config.address
        )));
    }
    match hosts.windows(2).find(|two| two[0].name == two[1].name) {
        Some(two) => {
            Err(Fault::said(format!("there are two hosts named {}: rename all but one", two[0].name)))
        }
        None => Ok(hosts),
    }
}

/// The folder of files that are received for hosts; what lies there since weeks goes.
fn received(state: &Path) -> Result<Posix, String> {
    let folder = state.join("files");
    own_folder::private(&folder)?;
    own_folder::without_old_files(&folder, OLD);
    Ok(Posix::new(None, folder))
}

/// Lists until vCenter answers: a service that ended and was started again would log in each time, and a refused login
/// counts towards the account's lock.
fn listed_at_last(site: &Site) -> Vec<Host> {
    let (mut pause, mut last) = (Duration::from_secs(5), None);
    loop {
        let fault = match listed(site) {
            Ok(hosts) => return hosts,
            Err(fault) => fault,
        };
        let refused = fault.kind == REFUSED;
        let why = told(&site.config, &fault).replace('\n', " ");
        tell_systemd_of_waiting(&format!("waiting: {why}"));
        if last.as_ref() != Some(&fault) {
            let advice = match refused {
                true => {
                    " Not tried again before the password file has changed (`touch` it once the account is unlocked)."
                }
                false => "",
            };
            tracing::warn!("{why}{advice}");
            last = Some(fault);
        }
        std::thread::sleep(pause);
        // A refused login is only tried again with another password: that is soon seen.
        pause = if refused { Duration::from_secs(5) } else { (pause * 2).min(Duration::from_secs(20)) };
    }
}

/// Names of the file that nobody has: each is said, or nobody would miss them.
fn say_what_is_missing(config: &Config, hosts: &[Host]) {
    let at = &config.address;
    for name in config.hosts.iter().filter(|name| hosts.iter().all(|host| host.name != **name)) {
        tracing::warn!(
            "host {name} is not in the inventory of {at}, or this account does not see it: not served"
        );
    }
    let in_it = |name: &String| hosts.iter().any(|host| host.cluster.as_ref() == Some(name));
    for name in config.clusters.iter().filter(|name| !in_it(name)) {
        tracing::warn!(
            "cluster {name} is not in the inventory of {at}, has no hosts, or is not seen: not served"
        );
    }
}

/// One host through its door. `state`: the folder of its memory; a visit has none.
fn door(agent: &Agent, site: &Arc<Site>, host: &Host, state: Option<PathBuf>) -> Arc<ByApi> {
    Arc::new(ByApi {
        site: site.clone(),
        host: host.clone(),
        own_prefix: format!("{}/", agent.state),
        state: state.map(|folder| Posix::new(None, folder)),
        clock: Posix::new(None, "/".into()),
        tasks: Mutex::default(),
        boot: Mutex::default(),
    })
}

/// Prints the facts of one host, or of a VM on it; nothing is kept.
pub(super) fn facts(agent: Agent, config: Config, name: &str, vm: Option<&String>) -> Result<(), String> {
    let site = Arc::new(Site::new(config, kept(&agent), None));
    let all = Arc::new(listed(&site).map_err(|fault| told(&site.config, &fault))?);
    let host = all.iter().find(|host| host.name == name).ok_or_else(|| {
        let names: Vec<&str> = all.iter().take(NAMED).map(|host| host.name.as_str()).collect();
        let more = if all.len() > NAMED { ", .." } else { "" };
        format!("{name}: the file has no host of this name in vCenter; it has {}{more}", names.join(", "))
    })?;
    print_facts(&agent, door(&agent, &site, host, None).as_ref(), vm)
}

/// The doors to all hosts of a gateway's file by their names, over one session, with their memory in folders below `state`;
/// a visit has none. For programs and tests that are no gateway.
///
/// # Errors
/// A sentence.
pub fn doors_to(
    agent: &Agent,
    file: &Path,
    state: Option<&Path>,
) -> Result<BTreeMap<String, Arc<dyn System>>, String> {
    let files = state.map(received).transpose()?;
    let site = Arc::new(Site::new(super::config::read(file)?, kept(agent), files));
    let all = Arc::new(listed(&site).map_err(|fault| told(&site.config, &fault))?);
    let one = |host: &Host| {
        let folder = state.map(|state| state.join(plain(&host.of.id)));
        folder.as_deref().map(own_folder::private).transpose()?;
        let system: Arc<dyn System> = door(agent, &site, host, folder);
        Ok((host.name.clone(), system))
    };
    all.iter().map(one).collect()
}

/// Serves until killed.
pub(super) fn run(agent: Agent, config: Config, ready_file: Option<&Path>) -> Result<(), String> {
    log_to_stderr();
    let state = config.serving.state.clone();
    // What is wrong here is said before anybody logs in.
    own_folder::private(&state).map_err(|why| format!("state: {why}"))?;
    let _held = own_folder::locked(&state)
        .map_err(|why| format!("state: {why}: each gateway needs a `state` and a `listen` of its own"))?;
    let files = received(&state)?;
    let site = Arc::new(Site::new(config, kept(&agent), Some(files)));
    let serving = &site.config.serving;
    own_folder::is_folder(&serving.pki).map_err(|why| format!("pki: {why}"))?;
    let auth = |address| ScrapeAuth::of(address, serving.metrics_auth.as_deref(), &serving.pki, "gateway");
    let auth = serving.metrics.map(auth).transpose().map_err(|why| format!("metrics: {why}"))?;
    let all = Arc::new(listed_at_last(&site));
    say_what_is_missing(&site.config, &all);
    let certificates = certificates(&all, &serving.pki)?;
    let server = site.with(|session| Ok(session.about().instance));
    let server = server.map_err(|fault| told(&site.config, &fault))?;
    let server = server.unwrap_or_else(|| site.config.address.clone());
    let mut hosted = vec![];
    for (host, pki) in &certificates {
        // By its object, which keeps its id when the host is renamed; ids are a server's own.
        let folder = state.join(plain(&format!("{server}-{}", host.of.id)));
        own_folder::private(&folder)?;
        let system: Arc<dyn System> = door(&agent, &site, host, Some(folder));
        hosted.push(Hosted { system, pki: pki.clone() });
    }
    serve_hosts(agent, hosted, serving.listen, ready_file, || {
        let Some((address, auth)) = serving.metrics.zip(auth) else { return Ok(()) };
        let shown = Arc::new(Shown::default());
        read_on(&site, &shown)?;
        std::thread::spawn(move || {
            if let Err(why) = serve(address, auth, shown, || Ok(())) {
                tracing::error!("metrics are not served: {why}");
            }
        });
        Ok(())
    })
}

/// Each host's folder of certificates: `NAME.host`, as `vsgpu cert issue NAME --role host` makes it, by its name in vCenter
/// or by the first part of that. Hosts without one are named and not served.
fn certificates<'a>(hosts: &'a [Host], pki: &Path) -> Result<Vec<(&'a Host, PathBuf)>, String> {
    let by_number = |host: &Host| host.name.parse::<std::net::IpAddr>().is_ok();
    let folder = |name: &str| {
        let folder = pki.join(format!("{}.host", name.to_ascii_lowercase()));
        folder.join("node.pem").is_file().then_some(folder)
    };
    let (mut found, mut taken, mut missing) = (vec![], BTreeMap::new(), vec![]);
    for host in hosts {
        let short = host.name.split('.').next().unwrap_or_default();
        let by_short = || folder(short).filter(|_| !by_number(host));
        let Some(folder) = folder(&host.name).or_else(by_short) else {
            missing.push(host.name.as_str());
            continue;
        };
        if let Some(other) = taken.insert(folder.clone(), &host.name) {
            return Err(format!(
                "{}: {other} and {} would have the same certificate: name one folder by the host's whole name",
                folder.display(),
                host.name
            ));
        }
        found.push((host, folder));
    }
    let first = missing.first().copied().unwrap_or_default();
    let short = first.split('.').next().unwrap_or_default();
    let advice = format!(
        "`vsgpu cert issue {short} --role host`, then copy the folder {short}.host into {}",
        pki.display()
    );
    if found.is_empty() {
        return Err(format!("no host has a certificate in {}: {advice}", pki.display()));
    }
    if !missing.is_empty() {
        let named: Vec<&str> = missing.iter().copied().take(NAMED).collect();
        tracing::warn!(
            hosts = missing.len(),
            "without a certificate, not served: {}; {advice}",
            named.join(", ")
        );
    }
    Ok(found)
}
