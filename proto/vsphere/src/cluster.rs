//! What the API says of clusters: who moves VMs (DRS), who starts them again (HA), who owns the images of the hosts.

use crate::fault::Fault;
use crate::inventory::name;
use crate::properties::Object;
use crate::session::Session;
use crate::soap::Ref;
use std::collections::BTreeMap;
use vsgpu_core::readers::xml::Element;
use vsgpu_core::text::piece;

/// Clusters of one call: each names its rules and the settings of single VMs.
const AT_ONCE: usize = 5;
/// VMs with settings of their own that are kept.
const MOST_OVERRIDES: usize = 10_000;
/// Characters of an option.
const MOST_TEXT: usize = 1_000;
/// Options of DRS that are kept.
const MOST_OPTIONS: usize = 50;

/// A cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its object.
    pub of: Ref,
    /// Its name.
    pub name: String,
    /// Its hosts.
    pub hosts: usize,
    /// DRS is on; its automation level (`manual`, `partiallyAutomated`, `fullyAutomated`).
    pub drs: Option<(bool, String)>,
    /// VMs with a level of their own: DRS is on for them, and how. Those without one of the two have the cluster's.
    pub overrides: BTreeMap<Ref, (bool, Option<String>)>,
    /// Advanced options of DRS.
    pub drs_options: Vec<(String, String)>,
    /// All of them are there, as they are.
    pub options_are_complete: bool,
    /// HA is on; its admission control is on.
    pub ha: Option<(bool, bool)>,
    /// One image for all its hosts (vSphere Lifecycle Manager); not known before 7.0.
    pub image_managed: Option<bool>,
    /// One configuration for all its hosts (vSphere Configuration Profiles); not known before 8.0.
    pub config_managed: Option<bool>,
    /// Hosts that may fail now with HA still keeping its promise.
    pub failover_level: Option<i32>,
}

/// Reads clusters.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn clusters(session: &mut Session, all: &[Ref]) -> Result<Vec<Cluster>, Fault> {
    let paths = ["name", "host", "configurationEx", "summary", "lifecycleManaged", "configManagerEnabled"];
    // Before 8.0 there are no configuration profiles, before 7.0 no images.
    for known in [&paths[..], &paths[..5]] {
        match session.of_some(all, known, AT_ONCE) {
            Err(fault) if fault.kind == "InvalidProperty" => {}
            other => return Ok(other?.iter().map(read).collect()),
        }
    }
    Ok(session.of_some(all, &paths[..4], AT_ONCE)?.iter().map(read).collect())
}

fn overrides(config: Option<&Element>) -> BTreeMap<Ref, (bool, Option<String>)> {
    let allowed = config
        .and_then(|config| config.child("drsConfig")?.child("enableVmBehaviorOverrides"))
        .is_none_or(|on| on.text == "true");
    let one = |of: &Element| {
        let enabled = of.child("enabled").is_none_or(|on| on.text == "true");
        let level = of.child("behavior").map(|of| piece(&of.text, 40));
        Some((Ref::of(of.child("key")?)?, (enabled, level)))
    };
    let all = config.into_iter().flat_map(|config| config.all("drsVmConfig"));
    all.filter(|_| allowed).take(MOST_OVERRIDES).filter_map(one).collect()
}

fn read(cluster: &Object) -> Cluster {
    let config = cluster.values.get("configurationEx");
    let part = |name: &str| config.and_then(|config| config.child(name));
    let flag = |of: &Element, name: &str| of.child(name).is_some_and(|flag| flag.text == "true");
    let option = |of: &Element| {
        let text = |name: &str| of.child(name).map(|of| of.text.clone()).unwrap_or_default();
        (text("key"), text("value"))
    };
    let drs = part("drsConfig");
    let options: Vec<(String, String)> =
        drs.into_iter().flat_map(|of| of.all("option")).map(option).collect();
    let is_short = |(key, value): &(String, String)| key.len() + value.len() < MOST_TEXT;
    Cluster {
        of: cluster.of.clone(),
        name: cluster.text("name").map(name).unwrap_or_default(),
        hosts: cluster.references("host").len(),
        drs: drs.map(|of| {
            let behavior = of.child("defaultVmBehavior").map(|of| piece(&of.text, 40)).unwrap_or_default();
            (flag(of, "enabled"), behavior)
        }),
        overrides: overrides(config),
        options_are_complete: drs.is_some() && options.len() <= MOST_OPTIONS && options.iter().all(is_short),
        drs_options: options.into_iter().filter(is_short).take(MOST_OPTIONS).collect(),
        ha: part("dasConfig").map(|of| (flag(of, "enabled"), flag(of, "admissionControlEnabled"))),
        image_managed: cluster.text("lifecycleManaged").map(|text| text == "true"),
        config_managed: cluster.text("configManagerEnabled").map(|text| text == "true"),
        failover_level: cluster
            .values
            .get("summary")
            .and_then(|of| of.child("currentFailoverLevel")?.text.parse().ok()),
    }
}
