//! Packages of a host by the API. They are listed by a method of their own. A single package is installed by one, too, below
//! vCenter 9; bundles, and removing, take esxcli through the API, where the account may. A file is put onto the datastore
//! through vCenter, and read back: nobody there tells its hash.

use super::asked::{Asked, refused};
use super::boot::RAMDISK;
use super::site::{APART_PATIENCE, spooled};
use super::tasks::{Failed, noted_call, wait};
use super::tool_xml::{fields, record, records, word};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;
use vsgpu_core::artifact::PackageContent;
use vsgpu_core::{IoError, System as _};
use vsgpu_machine::{Posix, package};
use vsgpu_vsphere::files::{Place, datacenter, datacenter_of, file_url, hash, make_folder, put};
use vsgpu_vsphere::host_methods::{Managers, Package};
use vsgpu_vsphere::{Fault, esxcli};

/// What was installed in this boot and waits for the next: gone with it.
const STAGED: &str = "/staged-packages";
/// For a file to go there and to be read back.
const TRANSFER: Duration = Duration::from_secs(1_200);
/// esxcli that only looks.
const LOOK: Duration = Duration::from_secs(120);

type Said = Result<String, String>;

/// `esxcli software ..` that only looks; none where there is no such answer.
pub(super) fn answer(asked: &Asked<'_>, words: &[&str]) -> Option<Said> {
    Some(match words {
        ["acceptance", "get"] => asked.method(Managers::acceptance).and_then(|level| {
            let found = crate::by_api::LEVELS.iter().find(|(_, of_api)| *of_api == level);
            let found = found.map(|(of_esxcli, _)| word(of_esxcli));
            found.ok_or_else(|| format!("`{level}` is no level known here"))
        }),
        ["profile", "get"] => asked
            .method(Managers::profile)
            .map(|(name, vendor)| record(&[("Name", &name), ("Vendor", &vendor)])),
        ["vib", "list"] => asked.method(Managers::packages).map(|all| listed(&all)),
        ["vib", "list", "--rebooting-image"] => staged(asked),
        ["component", "list"] => asked.site.esxcli_once(&asked.host.of, || {
            by_esxcli(asked, (&["software", "component"], "list"), &[]).map_err(|fault| refused(&fault))
        }),
        _ => return None,
    })
}

fn listed(all: &[Package]) -> String {
    records(all.iter().map(|package| {
        fields(&[("Name", &package.name), ("Version", &package.version), ("Vendor", &package.vendor)])
    }))
}

fn by_esxcli(
    asked: &Asked<'_>,
    what: (&[&str], &str),
    arguments: &[(String, String)],
) -> Result<String, Fault> {
    asked.details().map_err(Fault::said)?;
    let found =
        asked.site.apart(LOOK, |session| esxcli::run(session, &asked.host.of, what, arguments, LOOK))?;
    Ok(records(found.into_iter()))
}

/// The image of the next boot. Where nothing waits for it there is none. Who may run esxcli sees it; else it is what runs,
/// with what was installed from here since.
fn staged(asked: &Asked<'_>) -> Said {
    let details = asked.details()?;
    let waits = details.reboot_required.ok_or("whether a reboot waits may not be read")?;
    let noted = asked.memory.map(noted).unwrap_or_default();
    if !waits && noted.is_empty() {
        return Ok(records(std::iter::empty()));
    }
    let argument = [("rebootingimage".to_string(), "true".to_string())];
    match by_esxcli(asked, (&["software", "vib"], "list"), &argument) {
        Ok(seen) => return Ok(seen),
        Err(fault) if fault.privilege.is_some() => {}
        Err(fault) => return Err(refused(&fault)),
    }
    let mut all = asked.method(Managers::packages)?;
    for held in noted {
        all.retain(|package| package.name != held.name);
        all.push(Package { name: held.name, version: held.version, vendor: "NVIDIA".into() });
    }
    Ok(listed(&all))
}

fn noted(memory: &Posix) -> Vec<PackageContent> {
    let text = memory.read(&format!("{RAMDISK}{STAGED}"), 1 << 16).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn note(memory: &Posix, new: Vec<PackageContent>) {
    let mut all = noted(memory);
    all.retain(|held| new.iter().all(|other| other.name != held.name));
    all.extend(new);
    write(memory, &all);
}

fn write(memory: &Posix, all: &[PackageContent]) {
    let written = serde_json::to_vec(all).map_err(|e| e.to_string());
    let written = written.and_then(|text| {
        memory.write(&format!("{RAMDISK}{STAGED}"), &text, 0o600).map_err(|e| e.to_string())
    });
    if let Err(why) = written {
        tracing::warn!(why, "what was installed is not noted");
    }
}

/// What a file that was received holds.
fn holds(local: &Path, path: &str) -> Result<Vec<PackageContent>, Failed> {
    let unread = |why: String| Failed::Lost(format!("{path}: {why}"));
    #[expect(clippy::disallowed_methods, reason = "the gateway's own folder")]
    let mut file = std::fs::File::open(local).map_err(|e| unread(e.to_string()))?;
    let size = file.metadata().map_err(|e| unread(e.to_string()))?.len();
    let name = path.rsplit('/').next().unwrap_or_default();
    package::inspect(&mut file, name, size).map(|(_, holds)| holds).map_err(unread)
}

/// Installs a single package that was received.
pub(super) fn install_vib(asked: &Asked<'_>, state: &Posix, path: &str, secs: u32) -> Result<(), Failed> {
    let local = on_datastore(asked, path)?;
    let before = noted(state);
    // Before it begins: who is killed meanwhile must not take it for absent.
    note(state, holds(&local, path)?);
    let url = file_url(path);
    let made = asked.site.with(|session| {
        let managers = asked.site.managers(session, &asked.host.of)?;
        managers.install_vibs(session, std::slice::from_ref(&url))
    });
    // Without a task nothing is known to have begun.
    if made.is_err() {
        write(state, &before);
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    let ended = made
        .map_err(Failed::from)
        .and_then(|task| wait(asked, state, &task, &format!("InstallHostPatchV2_Task {name}"), secs));
    asked.site.packages_changed(&asked.host.of);
    if matches!(ended, Err(Failed::Said(_))) {
        write(state, &before);
    }
    ended
}

/// Runs esxcli for a change. What it says of success is not believed: the package list tells.
pub(super) fn change(
    asked: &Asked<'_>,
    state: &Posix,
    (namespace, command): (&[&str], &str),
    arguments: &[(String, String)],
    secs: u32,
) -> Result<(), Failed> {
    let before = noted(state);
    for (_, path) in arguments.iter().filter(|(name, _)| name == "depot") {
        let local = on_datastore(asked, path)?;
        note(state, holds(&local, path)?);
    }
    let within = Duration::from_secs(secs.into());
    let doing = format!("esxcli {} {command}", namespace.join(" "));
    let done = noted_call(asked, state, &doing, secs, || {
        let what = (namespace, command);
        asked
            .site
            .apart(APART_PATIENCE, |session| esxcli::run(session, &asked.host.of, what, arguments, within))
    });
    asked.site.packages_changed(&asked.host.of);
    if matches!(done, Err(Failed::Said(_))) {
        write(state, &before);
    }
    done.map(drop)
}

/// Puts a file that was received where the host finds it, and makes sure that it is this one. Where it lies here.
fn on_datastore(asked: &Asked<'_>, path: &str) -> Result<PathBuf, Failed> {
    let lost = |why: String| Failed::Lost(why);
    let files = asked.site.files.as_ref().ok_or_else(|| lost("nothing is changed by looking".into()))?;
    let of_io = |why: IoError| lost(why.to_string());
    let here = spooled(path);
    let (sum, local) = (files.hash(&here).map_err(of_io)?, files.path(&here).map_err(of_io)?);
    let place = path.strip_prefix("/vmfs/volumes/").and_then(|rest| rest.split_once('/'));
    let (datastore, file) = place.ok_or_else(|| lost(format!("{path} is on no datastore")))?;
    let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
    let details = asked.details().map_err(lost)?;
    let above = details.parent.clone().unwrap_or_else(|| details.of.clone());
    let is_it = |found: Option<String>| found.is_some_and(|there| there.eq_ignore_ascii_case(&sum));
    // Hosts may share the datastore: one of them writes a file, while the others wait and find it.
    let turn = asked.site.writing(path);
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    let there = asked.site.apart(APART_PATIENCE, |session| {
        let datacenter = datacenter(session, &above)?;
        let at: Place<'_> = (datacenter.as_deref(), datastore, file);
        if is_it(hash(session, at, TRANSFER)?) {
            return Ok(true);
        }
        let of = if session.about().is_vcenter { datacenter_of(session, &above)? } else { None };
        make_folder(session, of.as_ref(), (datastore, folder))?;
        put(session, at, &local, TRANSFER)?;
        Ok(is_it(hash(session, at, TRANSFER)?))
    })?;
    match there {
        true => Ok(local),
        false => Err(lost(format!(
            "[{datastore}] {file} is another file than the one that was put there: nothing was installed"
        ))),
    }
}
