//! Images of Lifecycle Manager: what a host's image holds, and the way of a component into it and onto the host. A component
//! comes from a bundle that was sent here: vCenter fetches it from this machine. What cannot be is refused before anything
//! is committed; a draft that came to nothing is thrown away, never somebody else's.

use super::asked::{Asked, refused};
use super::site::{OfImage, spooled};
use super::tasks::{Failed, wait};
use crate::facts::esx_version::EsxVersion;
use crate::facts::host_image::{Component, HostImage, is_nvidias};
use std::sync::PoisonError;
use vsgpu_core::text::piece;
use vsgpu_core::words::first;
use vsgpu_core::{IoError, System as _};
use vsgpu_machine::{Posix, package};
use vsgpu_vsphere::host::HostDetails;
use vsgpu_vsphere::offered::Offered;
use vsgpu_vsphere::{Fault, Ref, images};

/// The draft that was made last and came to no end, in the host's memory.
const DRAFT: &str = "/image-draft";
/// Reasons in a message.
const NAMED: usize = 3;
/// Seconds for a question that vCenter answers by a task.
const ASKED_WITHIN: u32 = 900;

/// Whose image a host is made from; none where it has none. Hosts of a cluster that is not managed by one may stand in a vCenter
/// 9 as well.
fn owner(asked: &Asked<'_>, details: &HostDetails) -> Result<Option<(Ref, String)>, String> {
    let said = |fault: Fault| refused(&fault);
    if !asked.site.config.is_vcenter {
        return Ok(None);
    }
    let cluster = details.parent.as_ref().filter(|parent| parent.kind == "ClusterComputeResource");
    if let Some(of) = cluster {
        let cluster = asked.site.cluster(of).map_err(said)?;
        let managed = cluster.filter(|cluster| cluster.image_managed == Some(true));
        return Ok(managed.map(|cluster| (of.clone(), cluster.name)));
    }
    let api = asked.site.with(|session| Ok(session.about().api)).map_err(said)?;
    let by_image = EsxVersion::major(&api).is_some_and(|major| major >= 9);
    Ok(by_image.then(|| (asked.host.of.clone(), asked.host.name.clone())))
}

/// The image of a host, as far as the account sees it.
pub(super) fn of_host(asked: &Asked<'_>, details: &HostDetails) -> Result<Option<HostImage>, String> {
    let Some((of, name)) = owner(asked, details)? else { return Ok(None) };
    let config = &asked.site.config;
    let is_of_cluster = of.kind == "ClusterComputeResource";
    let mut image =
        HostImage { of: piece(&name, 80), is_of_cluster, may: config.images, ..HostImage::default() };
    let read = match asked.site.image(&of) {
        Ok(read) => read,
        Err(fault) => {
            image.unread = Some(unread(&fault));
            return Ok(Some(image));
        }
    };
    let OfImage { image: held, compliance, orphaned, orchestrator } = &*read;
    image.base = held.as_ref().map(|held| held.base.clone());
    let components = held.iter().flat_map(|held| &held.components).filter(|(name, _)| is_nvidias(name));
    image.components = components
        .map(|(name, version)| Component { name: name.clone(), version: version.clone() })
        .collect();
    let of_this = compliance.get(&asked.host.of.id);
    image.status = of_this.map(|of_this| of_this.status.clone());
    let by_vib = orphaned.iter().filter(|(_, hosts)| hosts.contains(&asked.host.of.id));
    image.by_hand = by_vib.map(|(vib, _)| vib.clone()).collect();
    image.by_hand.extend(of_this.iter().flat_map(|of_this| of_this.extra.iter().cloned()));
    image.by_hand.sort();
    image.by_hand.dedup();
    image.orchestrator = orchestrator.clone().filter(|_| !config.images_in_vcf);
    Ok(Some(image))
}

/// Which privilege is missing is not said by this API.
fn unread(fault: &Fault) -> String {
    match fault.kind.as_str() {
        "NoPermission" => {
            "the account may not: it lacks privileges of \"VMware vSphere Lifecycle Manager\" (`vsgpu-host-agent gateway role`)".into()
        }
        _ => refused(fault),
    }
}

fn lost(why: impl Into<String>) -> Failed {
    Failed::Lost(why.into())
}

/// What a task that has ended says against it.
fn unless_refused(asked: &Asked<'_>, task: &Ref, what: &str) -> Result<(), Failed> {
    let said = asked.site.with(|session| images::refusals(session, task))?;
    match said.is_empty() {
        true => Ok(()),
        false => Err(lost(format!("{what}: {}", first(said.into_iter(), NAMED, "")))),
    }
}

/// Puts the component of a bundle that was received into the image of a host.
pub(super) fn add(asked: &Asked<'_>, state: &Posix, path: &str, secs: u32) -> Result<(), Failed> {
    let files = asked.site.files.as_ref().ok_or_else(|| lost("nothing is changed by looking"))?;
    let of_io = |why: IoError| lost(why.to_string());
    let here = spooled(path);
    let (sum, local) = (files.hash(&here).map_err(of_io)?, files.path(&here).map_err(of_io)?);
    let file_name = path.rsplit('/').next().unwrap_or_default();
    #[expect(clippy::disallowed_methods, reason = "the gateway's own folder")]
    let mut file = std::fs::File::open(&local).map_err(|e| lost(format!("{file_name}: {e}")))?;
    let (name, version) = package::component(&mut file)
        .map_err(|why| lost(format!("{file_name}: {why}: an image takes components only")))?;
    let details = asked.details().map_err(Failed::Lost)?;
    let (of, shown) = owner(asked, &details)
        .map_err(Failed::Lost)?
        .ok_or_else(|| lost("the host has no image any more; `vsgpu plan` again"))?;
    // Other hosts of the cluster may want the same.
    let turn = asked.site.writing(&format!("image of {}", of.id));
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    let holds = |asked: &Asked<'_>| {
        let image = asked.site.with(|session| images::image(session, &of))?;
        Ok::<_, Fault>(image.is_some_and(|image| image.components.get(&name) == Some(&version)))
    };
    let made = (|| {
        if holds(asked)? {
            return Ok(());
        }
        if !asked.site.with(|session| images::in_a_depot(session, &name, &version))? {
            fetch(asked, state, (&local, &sum, file_name), secs)?;
            if !asked.site.with(|session| images::in_a_depot(session, &name, &version))? {
                return Err(lost(format!(
                    "vCenter fetched {file_name}, and its depot has no {name} {version}"
                )));
            }
        }
        into_image(asked, state, (&of, &shown), (&name, &version), secs)?;
        // Somebody else's commit may have come between.
        match holds(asked)? {
            true => Ok(()),
            false => Err(lost(format!(
                "the image of {shown} has no {name} {version} although it was committed: somebody else changed it; `vsgpu plan` again"
            ))),
        }
    })();
    asked.site.image_changed(&of);
    made
}

/// Has vCenter fetch a bundle from here.
fn fetch(
    asked: &Asked<'_>,
    state: &Posix,
    (local, sum, name): (&std::path::Path, &str, &str),
    secs: u32,
) -> Result<(), Failed> {
    let Some(address) = asked.site.config.depot else {
        return Err(lost(format!(
            "vCenter has no depot with {name}, and fetches bundles itself: import it there (Lifecycle Manager, Imported ISOs and bundles), or write `depot = IP:PORT` into the gateway's file, an address of this machine that vCenter reaches"
        )));
    };
    let offered = Offered::file(address, local, sum, name).map_err(|why| lost(format!("depot: {why}")))?;
    let about = format!("vsgpu: {name}");
    let task = asked.site.with(|session| images::fetch_depot(session, &offered.url, &about))?;
    let Some(task) = task else { return Ok(()) };
    wait(asked, state, &task, &format!("depot of {name}"), secs).map_err(|failed| {
        match failed {
            // An earlier try has fetched it.
            Failed::Said(fault) if fault.kind == "ALREADY_EXISTS" => {
                lost("vCenter has this depot, and not its component: remove the depot in Lifecycle Manager")
            }
            Failed::Said(fault) => {
                lost(format!("vCenter did not fetch {name} from {}: {}", offered.url, refused(&fault)))
            }
            other => other,
        }
    })
}

/// A draft with the component, judged and committed.
fn into_image(
    asked: &Asked<'_>,
    state: &Posix,
    (of, shown): (&Ref, &str),
    (name, version): (&str, &str),
    secs: u32,
) -> Result<(), Failed> {
    let draft = draft(asked, state, (of, shown))?;
    let made = (|| {
        asked.site.with(|session| images::set_component(session, (of, &draft), name, version))?;
        let task = asked.site.with(|session| images::validate(session, of, &draft))?;
        wait(
            asked,
            state,
            &task,
            &format!("draft of the image of {shown}: validate"),
            ASKED_WITHIN.min(secs),
        )?;
        unless_refused(asked, &task, &format!("the image of {shown} cannot hold {name} {version}"))?;
        let task = asked.site.with(|session| images::compare(session, of, &draft))?;
        wait(
            asked,
            state,
            &task,
            &format!("draft of the image of {shown}: compare"),
            ASKED_WITHIN.min(secs),
        )?;
        let host = &asked.host.of;
        let against = asked.site.with(|session| images::incompatible(session, &task, of, host))?;
        if let Some(against) = against {
            let why = first(against.into_iter(), NAMED, "vCenter does not say why");
            return Err(lost(format!(
                "with {name} {version} the image of {shown} would be incompatible with {}: {why}; nothing was committed",
                asked.host.name
            )));
        }
        let message = format!("vsgpu: {name} {version}");
        let task = asked.site.with(|session| images::commit(session, (of, &draft), &message))?;
        wait(asked, state, &task, &format!("commit of the image of {shown}: {name} {version}"), secs)
    })();
    // One that was committed is gone.
    match asked.site.with(|session| images::discard(session, of, &draft)) {
        Ok(()) => drop(state.remove(DRAFT)),
        Err(why) => tracing::warn!(draft, %why, "the draft of the image is left"),
    }
    made
}

/// A new draft. One that an earlier try of ours left is thrown away; any other is somebody's work.
fn draft(asked: &Asked<'_>, state: &Posix, (of, shown): (&Ref, &str)) -> Result<String, Failed> {
    let make = || asked.site.with(|session| images::draft(session, of));
    let note = |text: String| {
        let noted = state.write(DRAFT, text.as_bytes(), 0o600);
        noted.map_err(|why| lost(format!("the draft is not noted: {why}")))
    };
    let before = state.read(DRAFT, 1_024).ok().and_then(|text| String::from_utf8(text).ok());
    // Before it is made: its answer may be lost, and then it is known by its time.
    note(format!("{} {UNHEARD}{}", of.id, asked.site.with(images::clock)?))?;
    let made = match make() {
        Err(fault) if fault.kind == "ALREADY_EXISTS" => {
            let _ = state.remove(DRAFT);
            let noted = before.as_deref().and_then(|text| text.strip_prefix(&format!("{} ", of.id)));
            let ours = match noted.map(|noted| noted.strip_prefix(UNHEARD).ok_or(noted)) {
                Some(Err(id)) => vec![id.to_string()],
                Some(Ok(since)) => asked.site.with(|session| images::drafts_since(session, of, since))?,
                None => vec![],
            };
            let [ours] = ours.as_slice() else {
                return Err(lost(format!(
                    "this account has a draft of the image of {shown} already, which vsgpu did not make: commit or discard it in vCenter (as {})",
                    asked.site.config.user
                )));
            };
            asked.site.with(|session| images::discard(session, of, ours))?;
            make()
        }
        other => other,
    }?;
    note(format!("{} {made}", of.id))?;
    Ok(made)
}

/// Of a draft whose id was not heard there is the time.
const UNHEARD: &str = "since ";

/// Makes a host what its image says. It is in maintenance mode: what Lifecycle Manager would do with VMs (it may be told to
/// power them off) is not left to it.
pub(super) fn remediate(asked: &Asked<'_>, state: &Posix, secs: u32) -> Result<(), Failed> {
    asked.site.changed(&asked.host.of);
    let details = asked.details().map_err(Failed::Lost)?;
    if details.in_maintenance != Some(true) {
        return Err(lost("the host is not in maintenance mode: nothing was remediated"));
    }
    let (of, shown) = owner(asked, &details)
        .map_err(Failed::Lost)?
        .ok_or_else(|| lost("the host has no image any more; `vsgpu plan` again"))?;
    let host = &asked.host.of;
    let name = &asked.host.name;
    let made = (|| {
        let task = asked.site.with(|session| images::check(session, &of, host))?;
        wait(
            asked,
            state,
            &task,
            &format!("check of {name} against the image of {shown}"),
            ASKED_WITHIN.min(secs),
        )?;
        unless_refused(asked, &task, &format!("vCenter would not remediate {name}"))?;
        let task = match asked.site.with(|session| images::remediate(session, &of, host)) {
            Err(fault) if fault.kind == "ALREADY_IN_DESIRED_STATE" => return Ok(()),
            other => other?,
        };
        wait(asked, state, &task, &format!("remediation of {name} by the image of {shown}"), secs)?;
        // A task may succeed whose hosts were left out.
        unless_refused(asked, &task, &format!("{name} was not remediated"))
    })();
    asked.site.image_changed(&of);
    asked.site.packages_changed(host);
    made
}
