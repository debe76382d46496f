//! `gateway serve` and `gateway facts`: the hosts of one vCenter, each as a node of its own, over one session. One address
//! for all of them: the controller says which host it means by the name that its certificate must have. (A port for each
//! host would have to be opened, counted and kept; this is the same name, certificate, lease and memory for each.)

use super::config::Config;
use super::door::ByApi;
use super::login::told;
use super::metrics::{Shown, read_on};
use super::site::Site;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use vsgpu_core::Scope;
use vsgpu_core::System;
use vsgpu_machine::{Posix, own_folder};
use vsgpu_vsphere::inventory::Host;
use vsgpu_wire::metrics::listener::{ScrapeAuth, serve};
use vsgpu_wire::server::{Agent, Hosted, log_to_stderr, print_facts, serve_hosts};

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
fn listed(site: &Site) -> Result<Vec<Host>, String> {
    let hosts = site.hosts().map_err(|fault| told(&site.config, &fault))?;
    if hosts.is_empty() {
        return Err(format!(
            "{}: none of the file's hosts is in the inventory: `gateway check` says more",
            site.config.address
        ));
    }
    match hosts.windows(2).find(|two| two[0].name == two[1].name) {
        Some(two) => Err(format!("there are two hosts named {}: rename all but one", two[0].name)),
        None => Ok(hosts),
    }
}

/// One host through its door. `state`: the folder of its memory; a visit has none.
fn door(
    agent: &Agent,
    site: &Arc<Site>,
    all: &Arc<Vec<Host>>,
    host: &Host,
    state: Option<PathBuf>,
) -> Arc<ByApi> {
    Arc::new(ByApi {
        site: site.clone(),
        host: host.clone(),
        all: all.clone(),
        own_prefix: format!("{}/", agent.state),
        state: state.map(|folder| Posix::new(None, folder)),
        clock: Posix::new(None, "/".into()),
        tasks: Mutex::default(),
        boot: Mutex::default(),
    })
}

/// Prints the facts of one host, or of a VM on it; nothing is kept.
pub(super) fn facts(agent: Agent, config: Config, name: &str, vm: Option<&String>) -> Result<(), String> {
    let site = Arc::new(Site::new(config, kept(&agent)));
    let all = Arc::new(listed(&site)?);
    let host = all.iter().find(|host| host.name == name).ok_or_else(|| {
        let names: Vec<&str> = all.iter().take(NAMED).map(|host| host.name.as_str()).collect();
        format!("{name} is none of the file's hosts, such as {}", names.join(", "))
    })?;
    print_facts(&agent, door(&agent, &site, &all, host, None).as_ref(), vm)
}

/// The door to one host of a gateway's file, with its memory in a folder; a visit has none. For programs and tests that are
/// no gateway.
///
/// # Errors
/// A sentence.
pub fn door_to(
    agent: &Agent,
    file: &Path,
    name: &str,
    state: Option<PathBuf>,
) -> Result<Arc<dyn System>, String> {
    let site = Arc::new(Site::new(super::config::read(file)?, kept(agent)));
    let all = Arc::new(listed(&site)?);
    let host = all.iter().find(|host| host.name == name).ok_or_else(|| format!("{name}: no such host"))?;
    Ok(door(agent, &site, &all, host, state))
}

/// Serves until killed.
pub(super) fn run(agent: Agent, config: Config, ready_file: Option<&Path>) -> Result<(), String> {
    log_to_stderr();
    let state = config.serving.state.clone();
    own_folder::private(&state)?;
    let _held = own_folder::locked(&state)?;
    let site = Arc::new(Site::new(config, kept(&agent)));
    let serving = &site.config.serving;
    let all = Arc::new(listed(&site)?);
    let certificates = certificates(&all, &serving.pki)?;
    let mut hosted = vec![];
    for (host, pki) in &certificates {
        // By its object, which keeps its id when the host is renamed.
        let folder = state.join(plain(&host.of.id));
        own_folder::private(&folder)?;
        let system: Arc<dyn System> = door(&agent, &site, &all, host, Some(folder));
        hosted.push(Hosted { system, pki: pki.clone() });
    }
    serve_hosts(agent, hosted, serving.listen, ready_file, || {
        let Some(address) = serving.metrics else { return Ok(()) };
        let auth = ScrapeAuth::of(address, serving.metrics_auth.as_deref(), &serving.pki, "gateway")?;
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

/// An id as the name of a folder.
fn plain(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

/// Each host's folder of certificates: `NAME.host`, as `vsgpu cert issue NAME --role host` makes it, by its name in vCenter
/// or by the first part of that. Hosts without one are named and not served.
fn certificates<'a>(hosts: &'a [Host], pki: &Path) -> Result<Vec<(&'a Host, PathBuf)>, String> {
    let folder = |name: &str| {
        let folder = pki.join(format!("{}.host", name.to_ascii_lowercase()));
        folder.join("node.pem").is_file().then_some(folder)
    };
    let (mut found, mut taken, mut missing) = (vec![], BTreeMap::new(), vec![]);
    for host in hosts {
        let short = host.name.split('.').next().unwrap_or_default();
        let Some(folder) = folder(&host.name).or_else(|| folder(short)) else {
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
