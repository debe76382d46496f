//! ESXi and vGPU manager: a release is packaged for certain majors of vSphere.

use crate::compat::combination::{Combination, Finding};
use vsgpu_core::knowledge::{Basis, TABLES_OF, releases};
use vsgpu_host_agent::facts::EsxVersion;

/// First release of which no list of packages was seen.
const FIRST_UNLISTED: (u32, u32) = (18, 4);

/// The first build of ESXi 8.0 U3: no patch is in it (a public `esxcli system version get`).
const FIRST_8_0_3: &str = "24022510";

/// A release may ask for a patch of an update: `8.0 U3 P06 or later`. A version such as 8.0.3 does not tell
/// the patch, and which build a patch is stands in no table of ours.
fn patch_level(c: &Combination, release: &releases::Release, esxi: &str) -> Option<Finding> {
    let asks = release.vsphere.split(", ").find(|item| {
        let patch =
            item.split(' ').any(|w| w.len() == 3 && w.starts_with('P') && w[1..].parse::<u32>().is_ok());
        patch && item.starts_with("8.0 U3") && esxi.starts_with("8.0.3")
    })?;
    let manager = c.manager.as_ref()?;
    let has = match c.esxi_build.as_deref() {
        Some(FIRST_8_0_3) => format!("build {FIRST_8_0_3} is the first 8.0 U3, without any patch"),
        Some(build) => format!("build {build} is to be compared with that patch's"),
        None => format!("{esxi} alone does not tell the patch"),
    };
    let what = format!("{}: vGPU {} asks for ESXi {asks}; {has}", manager.by, release.name);
    let nearest = "compare the host's build (`esxcli system version get`) with Broadcom KB 316595, and patch ESXi first";
    Some(c.finding(what, release.basis.clone(), Some(nearest.into())).doubtful())
}

/// Releases of ESXi that our tables speak of, with their newest update. Patches of an update
/// do not count: `8.0.3` is every build of 8.0 U3.
const RELEASES: [(&str, u32); 7] =
    [("6.0", 3), ("6.5", 3), ("6.7", 3), ("7.0", 3), ("8.0", 3), ("9.0", 2), ("9.1", 0)];

/// A release that no table of ours has: what goes with it is not known, and everything else is judged all the same.
fn stranger(c: &Combination) -> Option<Finding> {
    let esxi = c.esxi.as_ref()?;
    let mut parts = esxi.value.split('.');
    let minor = format!("{}.{}", parts.next()?, parts.next()?);
    let update = parts.next().and_then(|update| update.parse::<u32>().ok()).unwrap_or_default();
    let of_minor = RELEASES.iter().find(|(known, _)| *known == minor);
    let newest = match of_minor {
        Some((_, newest)) if update <= *newest => return None,
        Some((known, newest)) => format!("{known}.{newest} is the newest {known} there"),
        None => format!("{} is the newest there", RELEASES[RELEASES.len() - 1].0),
    };
    let what =
        format!("{}: ESXi {} is not in our table of releases ({TABLES_OF}); {newest}", esxi.by, esxi.value);
    let basis = Basis::document("the releases that our tables speak of", false);
    let nearest = "look for this ESXi in NVIDIA's release notes of the vGPU release, or in a newer vsgpu";
    Some(c.finding(what, basis, Some(nearest.into())).doubtful())
}

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    match stranger(c) {
        None => of_manager(c),
        // Of an unknown update its minor is known: what is certain of that stays so.
        Some(finding) => of_manager(c).into_iter().filter(|found| found.certain).chain([finding]).collect(),
    }
}

fn of_manager(c: &Combination) -> Vec<Finding> {
    let (Some(esxi), Some(manager)) = (&c.esxi, &c.manager) else { return vec![] };
    let vsphere: String = esxi.value.split('.').take(2).collect::<Vec<_>>().join(".");
    let found = c.manager_releases();
    if found.is_empty() {
        return vec![];
    }
    let mut doubt = None;
    for release in &found {
        let packaged = releases::packaged_for(release.name);
        if packaged.iter().any(|(major, _)| *major == vsphere) {
            return vec![];
        }
        let number = release
            .name
            .split_once('.')
            .map_or((release.major, 0), |(a, b)| (a.parse().unwrap_or(0), b.parse().unwrap_or(0)));
        // Of newer releases only a note about the branch is known: `8.0 U3 P06 or later, 9.x`.
        let allows = |item: &str| {
            let on_major = item.starts_with(vsphere.as_str()) || item == "9.x" && vsphere.starts_with("9.");
            let since = !item.contains("U3") || EsxVersion::at_least(&esxi.value, "8.0.3");
            on_major && since && !item.contains("packages")
        };
        let noted = release.vsphere.split(", ").any(allows);
        if noted {
            return patch_level(c, release, &esxi.value).into_iter().collect();
        }
        doubt = doubt.or(Some((*release, number >= FIRST_UNLISTED)));
    }
    let Some((release, unlisted)) = doubt else { return vec![] };
    let on: Vec<&str> = releases::packaged_for(release.name).iter().map(|(major, _)| *major).collect();
    let for_what = if on.is_empty() {
        "no package list was seen".to_string()
    } else {
        format!("packages: vSphere {}", on.join(", "))
    };
    if on.is_empty() && release.vsphere.is_empty() && release.basis.is_own() {
        let what = format!(
            "{}: {} does not say for which vSphere vGPU {} is packaged",
            manager.by,
            release.basis.source.split(": ").next().unwrap_or_default(),
            release.name
        );
        let nearest = Some("fill its column `vsphere_versions_with_package`".into());
        return vec![c.finding(what, release.basis.clone(), nearest).doubtful()];
    }
    if on.is_empty() && !release.vsphere.is_empty() {
        let what = format!(
            "{}: vGPU {} asks for ESXi {}; {} has {}",
            manager.by, release.name, release.vsphere, esxi.by, esxi.value
        );
        return vec![
            c.finding(what, release.basis.clone(), Some("patch or upgrade ESXi first".into())).doubtful(),
        ];
    }
    let what = format!(
        "{}: vGPU {} ({}) was not packaged for ESXi {} of {} ({for_what})",
        manager.by, release.name, manager.value, esxi.value, esxi.by
    );
    let same_branch = || releases::packaged_on(&vsphere).into_iter().rfind(|r| r.major == release.major);
    let newest = || releases::packaged_on(&vsphere).into_iter().next_back();
    let nearest = same_branch().or_else(newest).map(|r| {
        format!(
            "for ESXi {vsphere}: vGPU {} (host {}, guest {})",
            r.name,
            r.host,
            crate::compat::driver_pair::guest_of(r)
        )
    });
    let mut basis = release.basis.clone();
    if let Some((_, packaged)) = releases::packaged_for(release.name).first() {
        basis = (*packaged).clone();
    }
    let finding = c.finding(what, basis, nearest);
    // Gaps inside a branch exist, and lists end: only a branch without any package for that vSphere is
    // certain. What runs already, runs.
    let of_branch = releases::packaged_on(&vsphere).iter().any(|r| r.major == release.major);
    let in_range = releases::packaged_on(&vsphere).len() > 1;
    let sure = c.manager_wished && !unlisted && !on.is_empty() && !of_branch && in_range;
    vec![if sure { finding } else { finding.doubtful() }]
}
