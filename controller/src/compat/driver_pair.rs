//! vGPU manager and guest driver. Versions of host and guest differ inside one release, so they are never
//! compared: both map to releases, and the rule is about majors. A guest newer than its host never works; the
//! protocol range compiled into the branches is the hard stop; NVIDIA's own catalogue, where the operator has
//! it, overrides both.

use crate::compat::combination::{Combination, Finding};
use crate::fleet::driver_catalogue::Says as CatalogueSays;
use vsgpu_core::knowledge::pairs::{self, Says};
use vsgpu_core::knowledge::releases::{self, Release};
use vsgpu_core::knowledge::{Basis, TABLES_OF};
use vsgpu_core::units::DriverVersion;

/// Guest driver of a release in words.
pub(crate) fn guest_of(release: &Release) -> String {
    release.guest.as_ref().map_or_else(|| "not known".into(), ToString::to_string)
}

/// Majors that a version can mean: by its release, or by its branch where the very version is not in the
/// table.
fn majors(found: &[&'static Release], version: &DriverVersion) -> Vec<u32> {
    let mut all: Vec<u32> = found.iter().map(|r| r.major).collect();
    if all.is_empty() {
        all.extend(releases::of_branch(version.branch()).map(|(major, _)| major));
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// `535.161.05 (vGPU 16.4 or 16.5)`.
pub(crate) fn named(version: &DriverVersion, found: &[&'static Release]) -> String {
    match (found, releases::of_branch(version.branch())) {
        ([], Some((major, _))) => format!("{version} (vGPU {major}.x, not in the table)"),
        ([], None) => format!("{version} (of no vGPU release)"),
        (some, _) => {
            format!("{version} (vGPU {})", some.iter().map(|r| r.name).collect::<Vec<_>>().join(" or "))
        }
    }
}

/// The name of this constraint.
pub(crate) const NAME: &str = "driver-pair";

/// A release that no table of ours has: what it holds is not known, and everything else is judged all the same.
pub(crate) fn release_not_in_table(by: &str, release: &str) -> Finding {
    Finding {
        constraint: NAME,
        nodes: vec![],
        what: format!("{by}: vGPU {release} is not in our table of releases ({TABLES_OF})"),
        basis: unknown(),
        nearest: Some(
            "name the driver by its version, or add the release: `tables:` in the fleet file, or `--tables DIR`".into(),
        ),
        certain: false,
    }
}

/// A release that no table has, of a guest that is newer than its host all the same.
pub(crate) fn newer_than_host(host: u32, guest: u32) -> Finding {
    let basis = pairs::general("any", "newer").map(|(_, basis)| basis);
    let basis = basis.unwrap_or_else(|| Basis::document("NVIDIA's release notes", true));
    Finding {
        constraint: NAME,
        nodes: vec![],
        what: format!(
            "vGPU {host}.x in the host, {guest}.x in the guest: a guest must never be newer than its host"
        ),
        certain: basis.confirmed,
        basis,
        nearest: Some("upgrade the host first".into()),
    }
}

/// No row speaks of it.
fn unknown() -> Basis {
    Basis {
        table: "vgpu_releases.tsv",
        row: "none".into(),
        confirmed: false,
        source: "no row speaks of it".into(),
    }
}

impl Finding {
    /// Nothing is known, neither for nor against it.
    pub(crate) fn is_ignorance(&self) -> bool {
        self.constraint == NAME && self.basis.row == "none"
    }
}

pub(crate) fn check(c: &Combination) -> Vec<Finding> {
    let (Some(manager), Some(guest)) = (&c.manager, &c.guest) else { return vec![] };
    // A whole GPU has nothing to do with the host's manager. A driver of the wrong kind is another
    // constraint's matter.
    if !c.vgpu() || guest.value.grid == Some(false) {
        return vec![];
    }
    let (hosts, guests) = (c.manager_releases(), c.guest_releases());
    let both = format!(
        "{} has vGPU manager {}, {} wants driver {}",
        manager.by,
        named(&manager.value, &hosts),
        guest.by,
        named(&guest.value.version, &guests)
    );
    if let Some(catalogue) = &c.catalogue {
        let of_profile = c
            .types()
            .first()
            .and_then(|(_, t)| vsgpu_core::knowledge::gpus::by_token(t.token))
            .map(|m| m.device_id.clone());
        let device = of_profile.or_else(|| match c.host_gpus.as_deref() {
            Some([only]) => only.device_id.clone(),
            _ => None,
        });
        match catalogue.pair(&manager.value, &guest.value.version, device.as_deref()) {
            CatalogueSays::Allows => return vec![],
            CatalogueSays::Denies(why) => {
                let basis = Basis {
                    table: "",
                    row: String::new(),
                    confirmed: true,
                    source: format!("your {} ({why})", catalogue.file),
                };
                return vec![c.finding(format!("{both}: they do not go together"), basis, nearest(c))];
            }
            CatalogueSays::Nothing => {}
        }
    }
    let (host_majors, guest_majors) = (majors(&hosts, &manager.value), majors(&guests, &guest.value.version));
    let pairs: Vec<(u32, u32)> =
        host_majors.iter().flat_map(|h| guest_majors.iter().map(move |g| (*h, *g))).collect();
    let rules: Vec<_> = pairs.iter().filter_map(|(h, g)| pairs::rule(*h, *g)).collect();
    if rules.iter().any(|r| r.says != Says::Deny) {
        return vec![];
    }
    // What comes in one package goes together, also in a release that no rule speaks of yet.
    let together = |host: &&Release| guests.iter().any(|guest| guest.name == host.name);
    if rules.is_empty() && hosts.iter().copied().any(|host| together(&host)) {
        return vec![];
    }
    if !pairs.is_empty() && pairs.iter().all(|(h, g)| g > h) {
        let basis = pairs::general("any", "newer")
            .map(|(_, basis)| basis)
            .unwrap_or_else(|| Basis::document("NVIDIA's release notes", true));
        return vec![c.finding(
            format!("{both}: a guest must never be newer than its host"),
            basis,
            nearest(c),
        )];
    }
    let protocols =
        pairs::protocol(manager.value.branch()).zip(pairs::protocol(guest.value.version.branch()));
    if let Some((host, of_guest)) =
        protocols.filter(|(host, guest)| host.min.is_some_and(|min| guest.max < min))
    {
        let what = format!(
            "{both}: the guest speaks vGPU protocol {:#x}, the host takes {:#x} and later",
            of_guest.max,
            host.min.unwrap_or_default()
        );
        return vec![c.finding(what, host.basis, nearest(c))];
    }
    let no_rule = || pairs.first().is_some_and(|(host, _)| pairs::guests_of(*host).is_empty());
    if pairs.is_empty() || rules.is_empty() && no_rule() {
        let what = format!("{both}: nothing is known about this pair");
        return vec![c.finding(what, unknown(), nearest(c))];
    }
    if let Some(rule) = rules.first() {
        return vec![c.finding(format!("{both}: {}", rule.text), rule.basis.clone(), nearest(c))];
    }
    // Not in the list of compatible pairs. How sure that list is, the host's own row says.
    let (host, guest_major) = pairs[0];
    let own = pairs::rule(host, host)
        .map(|r| r.basis.clone())
        .unwrap_or_else(|| Basis::document("NVIDIA's release notes", false));
    let takes: Vec<String> = pairs::guests_of(host).iter().map(|m| format!("{m}.x")).collect();
    let what =
        format!("{both}: a host of {host}.x takes guests of {}, not of {guest_major}.x", takes.join(", "));
    vec![c.finding(what, own, nearest(c))]
}

/// The guest driver of the host's own release, or the oldest host that takes the guest.
fn nearest(c: &Combination) -> Option<String> {
    let (manager, guest) = (c.manager.as_ref()?, c.guest.as_ref()?);
    let of_host = c.manager_releases().into_iter().find(|r| r.guest.is_some());
    let of_host = of_host.or_else(|| {
        releases::of_branch(manager.value.branch()).and_then(|(major, _)| releases::newest(major))
    });
    let guests = c.guest_releases();
    let of_guest = guests.first().copied().or_else(|| {
        releases::of_branch(guest.value.version.branch()).and_then(|(major, _)| releases::newest(major))
    });
    let for_guest = of_host.map(|r| format!("guest driver {} for this host (vGPU {})", guest_of(r), r.name));
    let for_host = of_guest
        .filter(|r| of_host.is_none_or(|h| h.major < r.major))
        .map(|r| format!("upgrade the host first, to {} (vGPU {})", r.host, r.name));
    let all: Vec<String> = for_guest.into_iter().chain(for_host).collect();
    (!all.is_empty()).then(|| all.join("; or "))
}
