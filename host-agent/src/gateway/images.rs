//! Images of Lifecycle Manager: what a host's image holds, and the way of a component into it and onto the host. A component
//! comes from a bundle that was sent here: vCenter fetches it from this machine. What cannot be is refused before anything
//! is committed; a draft that came to nothing is thrown away, never somebody else's.

use super::asked::{Asked, refused};
use super::site::{OfImage, spooled};
use super::tasks::{Failed, plain, wait};
use crate::facts::esx_version::EsxVersion;
use crate::facts::host_image::{Component, HostImage, is_daemon, is_nvidias};
use std::path::Path;
use std::sync::{PoisonError, TryLockError};
use std::time::{Duration, Instant};
use vsgpu_core::text::piece;
use vsgpu_core::words::first;
use vsgpu_core::{IoError, System as _};
use vsgpu_machine::{Posix, package};
use vsgpu_vsphere::host::HostDetails;
use vsgpu_vsphere::images::Image;
use vsgpu_vsphere::offered::Offered;
use vsgpu_vsphere::{Fault, Ref, images};

/// Notes of drafts that came to no end, beside the files that were received.
const DRAFTS: &str = "/drafts-of-images";
/// Reasons in a message.
const NAMED: usize = 3;
/// Seconds for a question that vCenter answers by a task, and for a bundle to be fetched.
const ASKED_WITHIN: u32 = 900;
const FETCHED_WITHIN: u32 = 1_800;
/// Between two looks whether it is one's turn.
const AGAIN: Duration = Duration::from_secs(1);

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

#[expect(clippy::disallowed_methods, reason = "a deadline over many calls")]
fn now() -> Instant {
    Instant::now()
}

/// One image, and what is left of the time for what is done with it.
struct Work<'a> {
    asked: &'a Asked<'a>,
    /// The host's memory: tasks are noted there.
    state: &'a Posix,
    /// What all hosts share: drafts are noted there.
    files: &'a Posix,
    of: Ref,
    /// Its name.
    shown: String,
    until: Instant,
}

impl Work<'_> {
    fn left(&self) -> Result<u32, Failed> {
        let left = self.until.saturating_duration_since(now()).as_secs();
        match u32::try_from(left).unwrap_or(u32::MAX) {
            0 => Err(lost(format!(
                "no time is left for the image of {}: nothing more was begun; look in Recent Tasks, then `vsgpu apply`; `deadlines: {{ step-secs: N }}` gives longer",
                self.shown
            ))),
            left => Ok(left),
        }
    }

    /// Waits for a task, not longer than there is time.
    fn wait(&self, task: &Ref, doing: &str, at_most: u32) -> Result<(), Failed> {
        wait(self.asked, self.state, task, doing, self.left()?.min(at_most))
    }

    /// What a task that has ended says against it.
    fn unless_refused(&self, task: &Ref, what: &str) -> Result<(), Failed> {
        let said = self.asked.site.with(|session| images::refusals(session, task))?;
        match said.is_empty() {
            true => Ok(()),
            false => Err(lost(format!("{what}: {}", first(said.into_iter(), NAMED, "")))),
        }
    }

    fn image(&self) -> Result<Image, Failed> {
        let image = self.asked.site.with(|session| images::image(session, &self.of))?;
        image.ok_or_else(|| lost(format!("{} has no image any more; `vsgpu plan` again", self.shown)))
    }
}

/// Does something with the image of a host, which is the one that was meant; one at a time for each image. `of`: whose it is.
fn with_image(
    asked: &Asked<'_>,
    state: &Posix,
    of: &str,
    secs: u32,
    act: impl FnOnce(&Work<'_>) -> Result<(), Failed>,
) -> Result<(), Failed> {
    let until = now() + Duration::from_secs(secs.into());
    let files = asked.site.files.as_ref().ok_or_else(|| lost("nothing is changed by looking"))?;
    let details = asked.details().map_err(Failed::Lost)?;
    let (image, shown) = owner(asked, &details)
        .map_err(Failed::Lost)?
        .ok_or_else(|| lost("the host has no image any more; `vsgpu plan` again"))?;
    if piece(&shown, 80) != of {
        return Err(lost(format!(
            "the host is made from the image of {shown} now, not of {of}; `vsgpu plan` again"
        )));
    }
    let work = Work { asked, state, files, of: image, shown, until };
    // Other hosts of the cluster may want the same, and vCenter remediates one after the other.
    let turn = asked.site.writing(&format!("image of {}", work.of.id));
    let _turn = loop {
        match turn.try_lock() {
            Ok(turn) => break turn,
            Err(TryLockError::Poisoned(turn)) => break turn.into_inner(),
            Err(TryLockError::WouldBlock) => {
                work.left()?;
                state.sleep(AGAIN);
            }
        }
    };
    let done = act(&work);
    asked.site.image_changed(&work.of);
    done
}

/// Puts the component of a bundle that was received into the image of a host.
pub(super) fn add(
    asked: &Asked<'_>,
    state: &Posix,
    (of, path): (&str, &str),
    secs: u32,
) -> Result<(), Failed> {
    with_image(asked, state, of, secs, |work| {
        let of_io = |why: IoError| lost(why.to_string());
        let here = spooled(path);
        let (sum, local) = (work.files.hash(&here).map_err(of_io)?, work.files.path(&here).map_err(of_io)?);
        let file_name = path.rsplit('/').next().unwrap_or_default();
        #[expect(clippy::disallowed_methods, reason = "the gateway's own folder")]
        let mut file = std::fs::File::open(&local).map_err(|e| lost(format!("{file_name}: {e}")))?;
        let (name, version) = package::component(&mut file)
            .map_err(|why| lost(format!("{file_name}: {why}: an image takes components only")))?;
        let before = work.image()?;
        if before.components.get(&name) == Some(&version) {
            return Ok(());
        }
        // Two drivers in one image would be one too many.
        let alike =
            |other: &&String| **other != name && is_nvidias(other) && is_daemon(other) == is_daemon(&name);
        if let Some(other) = before.components.keys().find(alike) {
            return Err(lost(format!(
                "the image of {} holds {other}, and {file_name} is {name}: take {other} out of it in vCenter, or name its own bundle",
                work.shown
            )));
        }
        let component = (name.as_str(), version.as_str());
        if !asked.site.with(|session| images::in_a_depot(session, &name, &version))? {
            fetch(work, (&local, &sum, file_name), component)?;
        }
        into_image(work, component, &before)
    })
}

/// Has vCenter fetch a bundle from here.
fn fetch(
    work: &Work<'_>,
    (local, sum, file): (&Path, &str, &str),
    (name, version): (&str, &str),
) -> Result<(), Failed> {
    let site = work.asked.site;
    let Some(address) = site.config.depot else {
        return Err(lost(format!(
            "{name} {version} is in no depot of Lifecycle Manager: import {file} in the vSphere Client (Lifecycle Manager, Actions, Import Updates), then `vsgpu apply`; or write `depot = IP:PORT` into the gateway's file, this machine as vCenter reaches it, and restart the gateway"
        )));
    };
    // One address, one file at a time.
    let turn = site.writing("depot");
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    let offered = Offered::file(address, local, sum, file).map_err(|why| lost(format!("depot: {why}")))?;
    let about = format!("vsgpu: {file}");
    // ALREADY_EXISTS, at once or by its task: an earlier try, or somebody else, had it fetched.
    let task = site.with(|session| images::fetch_depot(session, &offered.url, &about))?;
    let fetched = task.map_or(Ok(()), |task| work.wait(&task, &format!("depot of {file}"), FETCHED_WITHIN));
    match fetched {
        Ok(()) => {}
        Err(Failed::Said(fault)) if fault.kind == "ALREADY_EXISTS" => {}
        Err(Failed::Said(fault)) => {
            return Err(lost(format!(
                "vCenter did not fetch {file} from {}: {}; does it reach that address and port? Or import the bundle (Lifecycle Manager, Actions, Import Updates)",
                offered.url,
                refused(&fault)
            )));
        }
        Err(other) => return Err(other),
    }
    match site.with(|session| images::in_a_depot(session, name, version))? {
        true => Ok(()),
        false => Err(lost(format!(
            "vCenter has imported {file}, and {name} {version} is not in its depot: import the bundle again in the vSphere Client (Lifecycle Manager, Actions, Import Updates)"
        ))),
    }
}

/// A draft with the component, judged and committed. What somebody else committed meanwhile is not undone.
fn into_image(work: &Work<'_>, (name, version): (&str, &str), before: &Image) -> Result<(), Failed> {
    let (site, of, shown) = (work.asked.site, &work.of, &work.shown);
    let draft = draft(work)?;
    let made = (|| {
        site.with(|session| images::set_component(session, (of, &draft), name, version))?;
        let task = site.with(|session| images::validate(session, of, &draft))?;
        work.wait(&task, &format!("draft of the image of {shown}: validate"), ASKED_WITHIN)?;
        work.unless_refused(&task, &format!("the image of {shown} cannot hold {name} {version}"))?;
        let task = site.with(|session| images::compare(session, of, &draft))?;
        work.wait(&task, &format!("draft of the image of {shown}: compare"), ASKED_WITHIN)?;
        unless_incompatible(work, &task, (name, version))?;
        if work.image()? != *before {
            return Err(lost(format!(
                "somebody else changed the image of {shown} meanwhile: nothing was committed; `vsgpu plan` again"
            )));
        }
        // Behind the deadline nobody hears of it any more.
        let left = work.left()?;
        let message = format!("vsgpu: {name} {version}");
        let task = site.with(|session| images::commit(session, (of, &draft), &message))?;
        work.wait(&task, &format!("commit of the image of {shown}: {name} {version}"), left)
    })();
    // What did not end in time goes on with its draft: the note stays, and the next try clears up.
    if !matches!(made, Err(Failed::Late(_))) {
        // One that was committed is gone.
        match site.with(|session| images::discard(session, of, &draft)) {
            Ok(()) => drop(work.files.remove(&note_of(of))),
            Err(why) => tracing::warn!(draft, %why, "the draft of the image is left"),
        }
    }
    made?;
    // Somebody else's commit may have come right behind.
    let mut wanted = before.clone();
    wanted.components.insert(name.into(), version.into());
    match work.image()? == wanted {
        true => Ok(()),
        false => Err(lost(format!(
            "the image of {shown} is not what was committed ({name} {version}): somebody else changed it; `vsgpu plan` again"
        ))),
    }
}

/// Refuses where a host of the image could not become what a draft says, and could before.
fn unless_incompatible(work: &Work<'_>, task: &Ref, (name, version): (&str, &str)) -> Result<(), Failed> {
    let (site, shown) = (work.asked.site, &work.shown);
    let was = site.with(|session| images::compliance(session, &work.of))?;
    let was = |id: &str| was.get(id).is_some_and(|of_host| of_host.status == "INCOMPATIBLE");
    let mut now = site.with(|session| images::incompatible(session, task, &work.of))?;
    let own = &work.asked.host.of.id;
    now.retain(|id, _| id == own || !was(id));
    let Some((_, (host, why))) = now.iter().find(|(id, _)| *id == own).or_else(|| now.iter().next()) else {
        return Ok(());
    };
    let why = first(why.iter().cloned(), NAMED, "vCenter does not say why");
    let more = if now.len() > 1 { format!(" ({} hosts in all)", now.len()) } else { String::new() };
    Err(lost(format!(
        "with {name} {version} the image of {shown} would be incompatible with {host}{more}: {why}; nothing was committed. Mend that at the host, then `vsgpu apply`"
    )))
}

/// Where a draft of an image is noted.
fn note_of(of: &Ref) -> String {
    format!("{DRAFTS}/{}", plain(&of.id))
}

/// A new draft. One that an earlier try of ours left is thrown away; any other is somebody's work.
fn draft(work: &Work<'_>) -> Result<String, Failed> {
    let (site, of) = (work.asked.site, &work.of);
    let note = |text: &str| {
        let noted = work.files.write(&note_of(of), text.as_bytes(), 0o600);
        noted.map_err(|why| lost(format!("the draft is not noted: {why}")))
    };
    let before = work.files.read(&note_of(of), 1_024).ok().and_then(|text| String::from_utf8(text).ok());
    let make = || {
        // Before it is made: its answer may be lost, and then it is known by its time.
        note(&format!("{UNHEARD}{}", site.with(images::clock)?))?;
        let made = site.with(|session| images::draft(session, of)).map_err(Failed::from);
        match &made {
            Ok(id) => note(id)?,
            // Refused: there is none of ours.
            Err(Failed::Said(_)) => drop(work.files.remove(&note_of(of))),
            Err(_) => {}
        }
        made
    };
    let fault = match make() {
        Err(Failed::Said(fault)) if fault.kind == "ALREADY_EXISTS" => fault,
        other => return other,
    };
    let ours = match before.as_deref().map(|noted| noted.strip_prefix(UNHEARD).ok_or(noted)) {
        Some(Err(id)) => vec![id.to_string()],
        Some(Ok(since)) => {
            let user = &site.config.user;
            site.with(|session| images::drafts_since(session, of, user, since))?
        }
        None => vec![],
    };
    let [ours] = ours.as_slice() else {
        tracing::info!(%fault, "a draft of this account is not touched");
        return Err(lost(format!(
            "{} has a draft of the image of {} already, which vsgpu did not make: sign in to the vSphere Client as this user (Updates, Hosts, Image, Edit), save or discard it, then `vsgpu apply`",
            site.config.user, work.shown
        )));
    };
    note(ours)?;
    site.with(|session| images::discard(session, of, ours))?;
    make()
}

/// Of a draft whose id was not heard there is the time.
const UNHEARD: &str = "since ";

/// Makes a host what its image says. It is in maintenance mode: what Lifecycle Manager would do with VMs (it may be told to
/// power them off) is not left to it. `base`: the ESXi that comes with it, as the plan showed it.
pub(super) fn remediate(
    asked: &Asked<'_>,
    state: &Posix,
    (of, base): (&str, &str),
    secs: u32,
) -> Result<(), Failed> {
    let done = with_image(asked, state, of, secs, |work| {
        let (site, host, name, shown) = (asked.site, &asked.host.of, &asked.host.name, &work.shown);
        let stays = || {
            site.changed(host);
            let details = asked.details().map_err(Failed::Lost)?;
            match details.in_maintenance {
                Some(true) => Ok(()),
                _ => Err(lost("the host is not in maintenance mode: nothing was remediated")),
            }
        };
        stays()?;
        let image = work.image()?;
        if image.base != base {
            return Err(lost(format!(
                "the image of {shown} has ESXi {} now, not {base}; `vsgpu plan` again",
                image.base
            )));
        }
        let task = site.with(|session| images::check(session, &work.of, host))?;
        work.wait(&task, &format!("check of {name} against the image of {shown}"), ASKED_WITHIN)?;
        work.unless_refused(&task, &format!("vCenter would not remediate {name}"))?;
        // A quarter of an hour may lie between.
        stays()?;
        let left = work.left()?;
        let task = match site.with(|session| images::remediate(session, &work.of, host)) {
            Err(fault) if fault.kind == "ALREADY_IN_DESIRED_STATE" => {
                return Err(lost(format!(
                    "vCenter says that {name} matches the image of {shown} already, and the fleet file's package is not on it: compare that package with NVIDIA's component of the image, name and whole version, and name the right one in the fleet file"
                )));
            }
            other => other?,
        };
        work.wait(&task, &format!("remediation of {name} by the image of {shown}"), left)?;
        // A task may succeed whose hosts were left out.
        work.unless_refused(&task, &format!("{name} was not remediated"))
    });
    asked.site.packages_changed(&asked.host.of);
    done
}
