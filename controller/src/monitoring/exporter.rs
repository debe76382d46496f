//! One page of metrics for the whole fleet: what each agent serves, fetched over the same mutual TLS as
//! everything else, with the node's name on it; and what the journal tells about runs and held nodes. Agents
//! then need no listener of their own beyond loopback. A node that does not answer keeps its last values for
//! a while, and its age says so.

use crate::fleet::Fleet;
use crate::inventory::reaches;
use crate::monitoring::runs::Runs;
use crate::node::{NodeId, NodeKind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use vsgpu_wire::client::{Connection, Connector};
use vsgpu_wire::metrics::listener::Pages;
use vsgpu_wire::metrics::{Sample, text};

/// Agents asked at once.
const AT_ONCE: usize = 64;
/// Longest page of one agent: 200 series are some tens of kilobytes.
const MAX_PAGE: usize = 256 << 10;
/// How long the page of a node that does not answer any more is shown.
const KEPT: Duration = Duration::from_secs(600);

struct Page {
    role: &'static str,
    text: Arc<str>,
    at: Option<Instant>,
    answers: bool,
    refused: bool,
}

/// What was last fetched, by node.
#[derive(Default)]
pub struct Collected {
    pages: Mutex<BTreeMap<(String, &'static str), Page>>,
    runs: Runs,
    /// Of each guest of the fleet file: its host there, where it names one, and the VM's display name.
    guests: BTreeMap<String, (Option<String>, String)>,
    /// When the certificate that it asks with ends.
    certificate_end: Option<u64>,
    rounds: AtomicU64,
    /// When the latest round ended.
    round: Mutex<Option<Instant>>,
}

impl Collected {
    /// Nothing yet, of this fleet.
    pub fn new(fleet: &Fleet) -> Self {
        Self {
            runs: Runs::of(fleet.state_folder()),
            guests: {
                let guests = fleet.vms.iter().filter(|vm| vm.guest.is_some());
                let host = |vm: &crate::fleet::Vm| vm.any.is_empty().then(|| vm.host.clone());
                guests.map(|vm| (vm.name.clone(), (host(vm), vm.vm_name.clone()))).collect()
            },
            certificate_end: vsgpu_wire::pki::own_life(&fleet.pki).map(|life| life.ends),
            ..Self::default()
        }
    }

    fn pages(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, &'static str), Page>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks every agent once, beside each other.
    pub async fn round(&self, fleet: &Fleet, connector: &Connector, within: Duration) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut work = JoinSet::new();
        for (id, reach) in reaches(fleet).into_iter().filter(|(id, _)| id.kind != NodeKind::Vm) {
            let (connector, places, target) = (connector.clone(), places.clone(), reach.target());
            work.spawn(async move {
                let _place = places.acquire_owned().await;
                let text = match Connection::open(&connector, &target, within).await {
                    Ok(connection) => connection.metrics(within).await.ok(),
                    Err(_) => None,
                };
                (id, text)
            });
        }
        while let Some(Ok((id, text))) = work.join_next().await {
            let role = if id.kind == NodeKind::Guest { "guest" } else { "host" };
            let mut pages = self.pages();
            let page = pages.entry((id.name, role)).or_insert(Page {
                role,
                text: Arc::default(),
                at: None,
                answers: false,
                refused: false,
            });
            page.answers = text.is_some();
            // Whoever is root in a VM speaks for its agent: what is not a page of ours must not spoil
            // everybody's.
            page.refused = text.as_deref().is_some_and(|text| !is_sound(text, role));
            if let Some(text) = text.filter(|_| !page.refused) {
                (page.text, page.at) = (text.into(), Some(Instant::now()));
            }
        }
        *self.round.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.rounds.fetch_add(1, Ordering::SeqCst);
    }
}

impl Pages for Collected {
    fn metrics(&self) -> String {
        // Journals first: whoever brings new pages does not wait for them.
        let mut own = self.runs.samples();
        let pages = self.pages();
        if let Some(end) = self.certificate_end {
            let (name, help) = vsgpu_wire::metrics::CERTIFICATE_END;
            own.push(Sample::new(name, help, vec![], end as f64));
        }
        for ((node, _), page) in pages.iter() {
            let labels = || vec![("node", node.clone()), ("role", page.role.to_string())];
            let help = "1: the node's agent answered when it was last asked";
            own.push(Sample::new("node_reachable", help, labels(), f64::from(page.answers)));
            let help = "1: what the node's agent sent was no page of an agent, and is not shown";
            own.push(Sample::new("node_page_refused", help, labels(), f64::from(page.refused)));
            if let Some(at) = page.at {
                let help = "Age of what is shown of the node; after ten minutes it is shown no more";
                own.push(Sample::new("node_page_age_seconds", help, labels(), at.elapsed().as_secs_f64()));
            }
        }
        let on = hosts_of_vms(pages.iter().filter(|(_, page)| page.role == "host" && page.answers));
        for (guest, (host, vm)) in &self.guests {
            let now = on.get(vm.as_str()).and_then(|hosts| hosts.first().filter(|_| hosts.len() == 1));
            let Some(host) = now.copied().or(host.as_deref()) else { continue };
            let help =
                "The host of a guest, as the hosts say, else as the fleet file says; the value is always 1";
            let labels = [("node", guest.as_str()), ("role", "guest"), ("host", host), ("vm", vm)];
            let labels = labels.map(|(name, value)| (name, value.to_string())).to_vec();
            own.push(Sample::new("node_host_info", help, labels, 1.0));
        }
        if let Some(at) = *self.round.lock().unwrap_or_else(PoisonError::into_inner) {
            let help = "Seconds since the latest round over all agents ended";
            own.push(Sample::new("exporter_round_age_seconds", help, vec![], at.elapsed().as_secs_f64()));
        }
        let fresh = pages.iter().filter(|(_, page)| page.at.is_some_and(|at| at.elapsed() < KEPT));
        let shown: Vec<(String, &str, Arc<str>)> =
            fresh.map(|((node, _), page)| (node.clone(), page.role, page.text.clone())).collect();
        // The rest takes long for a large fleet: whoever brings new pages does not wait for it.
        drop(pages);
        let shown: Vec<(&str, &str, &str)> =
            shown.iter().map(|(node, role, text)| (node.as_str(), *role, &**text)).collect();
        merged(&text(own), &shown)
    }

    fn ready(&self) -> Result<String, String> {
        match self.rounds.load(Ordering::SeqCst) {
            0 => Err("the nodes have not been asked yet".into()),
            n => Ok(format!("asked all nodes {n} times")),
        }
    }
}

/// Hosts that say of a VM, by its display name, that it runs there with a GPU.
fn hosts_of_vms<'a>(
    pages: impl Iterator<Item = (&'a (String, &'static str), &'a Page)>,
) -> BTreeMap<String, BTreeSet<&'a str>> {
    let mut on: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for ((host, _), page) in pages {
        let says = |line: &&str| {
            line.starts_with("vsgpu_host_vgpu_info{") || line.starts_with("vsgpu_host_whole_gpu_info{")
        };
        for line in page.text.lines().filter(says) {
            let Some((_, rest)) = line.split_once("vm=\"") else { continue };
            // Up to the quote that is none of the name's own.
            let mut name = String::new();
            let mut chars = rest.chars();
            while let Some(c) = chars.next().filter(|c| *c != '"') {
                name.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
            }
            on.entry(name).or_default().insert(host);
        }
    }
    on
}

/// Whether a page is one that an agent of this role makes: our names, plain labels, numbers, and nothing that the
/// exporter says itself. A guest speaks of no host: it could say where other VMs are.
fn is_sound(text: &str, role: &str) -> bool {
    const OWN: [&str; 6] =
        ["vsgpu_runs_", "vsgpu_node_", "vsgpu_run_", "vsgpu_controller_", "vsgpu_fleet_", "vsgpu_exporter_"];
    let name_is_ours = |name: &str| {
        name.starts_with("vsgpu_")
            && !OWN.iter().any(|own| name.starts_with(own))
            && (role == "host" || !name.starts_with("vsgpu_host_"))
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let label_is_plain = |label: &str| {
        label.chars().all(|c| c.is_ascii_lowercase() || c == '_')
            && !["node", "instance", "job"].contains(&label)
    };
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').map_or((series, ""), |(name, rest)| (name, rest));
        let labels = if labels.is_empty() { "" } else { labels.strip_suffix('}')? };
        // `a="x",b="y"`: a quote or a backslash inside a value is escaped.
        let labels = labels.replace("\\\\", "").replace("\\\"", "");
        let mut rest = labels.as_str();
        while !rest.is_empty() {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = after.split_once('"')?;
            (label_is_plain(label) && (label != "role" || value == role)).then_some(())?;
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        (name_is_ours(name) && value.parse::<f64>().is_ok()).then_some(())
    };
    let head = |words: &str| {
        words.split(' ').nth(1).is_some_and(name_is_ours)
            && (words.starts_with("HELP ") || words.starts_with("TYPE "))
    };
    text.len() <= MAX_PAGE
        && *vsgpu_core::text::visible(text) == *text
        && text.lines().filter(|l| !l.is_empty()).all(|line| match line.strip_prefix("# ") {
            Some(words) => head(words),
            None => sample(line).is_some(),
        })
}

/// Pages as one: each family once, every series of a node with the node's name.
fn merged(own: &str, pages: &[(&str, &str, &str)]) -> String {
    let mut families: BTreeMap<String, (Vec<String>, Vec<String>)> = BTreeMap::new();
    let mut take = |text: &str, node: Option<(&str, &str)>| {
        let mut family = String::new();
        for line in text.lines().filter(|l| !l.is_empty()) {
            if let Some(words) = line.strip_prefix("# ") {
                let name = words.split(' ').nth(1).unwrap_or_default();
                if name != family {
                    family = name.into();
                }
                let heads = &mut families.entry(family.clone()).or_default().0;
                // HELP and TYPE stand once; agents of two versions may word them differently.
                if heads.len() < 2 {
                    heads.push(line.into());
                }
                continue;
            }
            let with = match (node, line.split_once('{')) {
                (None, _) => line.to_string(),
                // A metric that says the role itself keeps its own.
                (Some((node, role)), Some((name, rest))) => {
                    let role =
                        if rest.contains("role=\"") { String::new() } else { format!("role=\"{role}\",") };
                    format!("{name}{{node=\"{node}\",{role}{rest}")
                }
                (Some((node, role)), None) => {
                    let (name, value) = line.split_once(' ').unwrap_or((line, "NaN"));
                    format!("{name}{{node=\"{node}\",role=\"{role}\"}} {value}")
                }
            };
            families.entry(family.clone()).or_default().1.push(with);
        }
    };
    take(own, None);
    for (node, role, text) in pages {
        take(text, Some((node, role)));
    }
    families
        .into_values()
        .flat_map(|(heads, series)| heads.into_iter().chain(series))
        .map(|line| line + "\n")
        .collect()
}

/// The nodes that have an agent.
pub fn agents(fleet: &Fleet) -> usize {
    reaches(fleet).keys().filter(|id: &&NodeId| id.kind != NodeKind::Vm).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_none_of_ours_is_refused() {
        assert!(is_sound(
            "# HELP vsgpu_up 1: the agent answers\n# TYPE vsgpu_up gauge\nvsgpu_up 1\nvsgpu_gpu_info{gpu=\"0000:3b:00.0\",name=\"A, b = {c} \\\"d\\\" \\\\\"} 1\n",
            "guest"
        ));
        // A guest says nothing of hosts, and of no role but its own.
        let (of_host, of_role) =
            ("vsgpu_host_vgpu_info{vm=\"prod-db\"} 1\n", "vsgpu_build_info{role=\"host\"} 1\n");
        assert!(is_sound(of_host, "host") && !is_sound(of_host, "guest"));
        assert!(is_sound(of_role, "host") && !is_sound(of_role, "guest"));
        for bad in [
            "garbage here and there\n",
            "up 1\n",
            "vsgpu_up{node=\"esx-01\"} 1\n",
            "vsgpu_up{instance=\"x\"} 1\n",
            "vsgpu_node_reachable 1\n",
            "vsgpu_up one\n",
            "vsgpu_up{gpu=\"x} 1\n",
            "# EVIL\n",
            "vsgpu_gpu_info{name=\"\u{1b}[2J\"} 1\n",
        ] {
            assert!(!is_sound(bad, "guest"), "{bad}");
        }
        assert!(!is_sound(&"vsgpu_up 1\n".repeat(100_000), "guest"));
    }

    #[test]
    fn pages_become_one_with_each_family_once() {
        let page = "# HELP vsgpu_up 1: the agent answers\n# TYPE vsgpu_up gauge\nvsgpu_up 1\n# HELP vsgpu_gpu_info A GPU\n# TYPE vsgpu_gpu_info gauge\nvsgpu_gpu_info{gpu=\"0000:3b:00.0\"} 1\n";
        let all = merged("", &[("esx-01", "host", page), ("esx-02", "host", page)]);
        assert_eq!(
            all,
            "# HELP vsgpu_gpu_info A GPU\n# TYPE vsgpu_gpu_info gauge\n\
             vsgpu_gpu_info{node=\"esx-01\",role=\"host\",gpu=\"0000:3b:00.0\"} 1\n\
             vsgpu_gpu_info{node=\"esx-02\",role=\"host\",gpu=\"0000:3b:00.0\"} 1\n\
             # HELP vsgpu_up 1: the agent answers\n# TYPE vsgpu_up gauge\n\
             vsgpu_up{node=\"esx-01\",role=\"host\"} 1\nvsgpu_up{node=\"esx-02\",role=\"host\"} 1\n"
        );
    }
}
