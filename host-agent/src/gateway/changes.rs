//! Changes by the API: the calls that `by_api` says, and effects that are more than a command (settings of a VM, clones,
//! evacuation, options of DRS). Each is proven by its task (`tasks.rs`).

use super::answers::number;
use super::asked::{Asked, refused};
use super::evacuation;
use super::images;
use super::software;
use super::tasks::{Failed, wait};
use super::vmx;
use crate::by_api::{Call, place};
use crate::facts::Evacuation;
use crate::facts::virtual_machines::is_infrastructure;
use crate::host::{Evacuable, EvacuableSpec};
use vsgpu_core::words::first;
use vsgpu_core::{Effect, ExitKind, Output, Requirement as _, Verdict};
use vsgpu_machine::Posix;
use vsgpu_vsphere::change::{
    maintenance, power_off, power_on, reboot, reconfigure, set_drs_options, shut_down_guest,
};
use vsgpu_vsphere::clone;
use vsgpu_vsphere::evacuation::running_on;
use vsgpu_vsphere::host::{Graphics, HostDetails};
use vsgpu_vsphere::vm::Vm;
use vsgpu_vsphere::{Fault, Ref};

/// VMs that are named.
const NAMED: usize = 5;
/// How long a new setting of a VM may take.
const RECONFIGURE: u32 = 300;

/// Makes a change as the host's own tool would, with its output.
pub(super) fn make(asked: &Asked<'_>, state: &Posix, call: &Call, secs: u32) -> Output {
    let made = done(asked, state, call, secs);
    asked.site.changed(&asked.host.of);
    let (ended, stdout) = match made {
        Ok(()) => (ExitKind::Status(0), String::new()),
        Err(Failed::Late(secs)) => (ExitKind::TimedOut(secs), String::new()),
        Err(Failed::Lost(why)) => (ExitKind::Broken(why), String::new()),
        Err(Failed::Said(fault)) if fault.privilege.is_some() => {
            (ExitKind::ByApi(refused(&fault)), String::new())
        }
        // In the words of the tool whose place it takes: those who read them read these.
        Err(Failed::Said(fault)) => {
            let words = fault.said.join(": ");
            let words = if words.is_empty() { fault.kind.clone() } else { words };
            let what = match call {
                Call::PowerOn(_) => "Power on",
                Call::PowerOff(_) => "Power off",
                Call::ShutDownGuest(_) => "Shutdown",
                _ => "The call",
            };
            let text = format!(
                "{what} failed: (vim.fault.{}) {{\n   msg = \"{}\"\n}}\n",
                fault.kind,
                words.replace('"', "'")
            );
            (ExitKind::Status(1), text)
        }
    };
    Output { ended, stdout, stderr: String::new() }
}

fn done(asked: &Asked<'_>, state: &Posix, call: &Call, secs: u32) -> Result<(), Failed> {
    let host = &asked.host.of;
    let managers = |act: &mut dyn FnMut(
        &vsgpu_vsphere::host_methods::Managers,
        &mut vsgpu_vsphere::Session,
    ) -> Result<(), Fault>| {
        asked.site.with(|session| {
            let managers = asked.site.managers(session, host)?;
            act(&managers, session)
        })
    };
    let task = |task: Ref| wait(asked, state, &task, &call.to_string(), secs);
    match call {
        Call::Nothing => Ok(()),
        Call::Graphics { default_type, policy } => {
            let mut settings = graphics(asked)?;
            settings.default_type = default_type.map_or(settings.default_type, String::from);
            settings.policy = policy.map_or(settings.policy, String::from);
            Ok(managers(&mut |of, session| of.set_graphics(session, &settings))?)
        }
        Call::GraphicsOf { gpu, graphics_type, vgpu_mode } => {
            let mut settings = graphics(asked)?;
            let default = settings.default_type.clone();
            let own = settings.own.entry(gpu.clone()).or_insert((default, None));
            own.0 = graphics_type.map_or(std::mem::take(&mut own.0), String::from);
            own.1 = vgpu_mode.map(String::from).or(own.1.take());
            Ok(managers(&mut |of, session| of.set_graphics(session, &settings))?)
        }
        Call::Passthrough { gpu, enabled, at_once } => {
            // Servers before 7.0 do not know the word.
            let at_once = at_once.then_some(true);
            Ok(managers(&mut |of, session| of.set_passthrough(session, gpu, *enabled, at_once))?)
        }
        Call::ModuleOptions { module, line } => {
            Ok(managers(&mut |of, session| of.set_options(session, module, line))?)
        }
        Call::Acceptance(level) => Ok(managers(&mut |of, session| of.set_acceptance(session, level))?),
        Call::RestartService(name) => match managers(&mut |of, session| of.restart_service(session, name)) {
            // Newer releases have no such service.
            Err(fault) if fault.kind == "NotFound" => Ok(()),
            other => Ok(other?),
        },
        Call::StopService(name) => match managers(&mut |of, session| of.stop_service(session, name)) {
            Err(fault) if fault.kind == "NotFound" => Ok(()),
            other => Ok(other?),
        },
        Call::InstallVib(path) => software::install_vib(asked, state, path, secs),
        Call::Esxcli { namespace, command, arguments } => {
            software::change(asked, state, (namespace, command), arguments, secs)
        }
        Call::RefreshGraphics => Ok(managers(&mut |of, session| of.refresh_graphics(session))?),
        Call::EnterMaintenance(within) => {
            task(asked.site.with(|session| maintenance(session, host, true, *within))?)
        }
        Call::ExitMaintenance(within) => {
            task(asked.site.with(|session| maintenance(session, host, false, *within))?)
        }
        Call::Reboot => match asked.site.with(|session| reboot(session, host)) {
            // A host that stands alone may be gone before it answers; whether it boots is proven by its boot.
            Err(fault) if fault.is_unheard() && !asked.site.config.is_vcenter => Ok(()),
            other => task(other?),
        },
        Call::PowerOn(id) => {
            let of = vm(asked, *id)?;
            // Here, where its GPUs are, and not wherever DRS would place it.
            let here = asked.site.config.is_vcenter.then_some(host);
            task(asked.site.with(|session| power_on(session, &of, here))?)
        }
        Call::PowerOff(id) => {
            let of = vm(asked, *id)?;
            task(asked.site.with(|session| power_off(session, &of))?)
        }
        Call::ShutDownGuest(id) => {
            let of = vm(asked, *id)?;
            Ok(asked.site.with(|session| shut_down_guest(session, &of))?)
        }
    }
}

fn details(asked: &Asked<'_>) -> Result<std::sync::Arc<HostDetails>, Failed> {
    asked.details().map_err(Failed::Lost)
}

/// The host's graphics settings as they are now: they are sent whole.
fn graphics(asked: &Asked<'_>) -> Result<Graphics, Failed> {
    asked.site.changed(&asked.host.of);
    let details = details(asked)?;
    let settings = details.graphics.clone()?;
    settings.ok_or_else(|| Failed::Lost("this host has no graphics settings".into()))
}

fn vm(asked: &Asked<'_>, id: u32) -> Result<Ref, Failed> {
    let details = details(asked)?;
    let vms = details.vms.as_ref().map_err(|fault| Failed::from(fault.clone()))?;
    let found = vms.iter().find(|vm| number(vm) == Some(id));
    found.map(|vm| vm.of.clone()).ok_or_else(|| {
        Failed::Lost(format!(
            "VM {id} is not on {} any more: it was moved or unregistered; `vsgpu plan` again",
            asked.host.name
        ))
    })
}

/// Does an effect that is more than a command; none for one that is files and commands.
pub(super) fn make_effect(asked: &Asked<'_>, state: &Posix, effect: &Effect) -> Option<Result<(), String>> {
    match effect {
        Effect::ReconfigureVm { path, set, .. } => Some(set_keys(asked, state, path, set)),
        Effect::Evacuate { within_secs, waits_for_people } => {
            let made = evacuate(asked, state, *within_secs, *waits_for_people);
            asked.site.changed(&asked.host.of);
            Some(made)
        }
        Effect::SetDrsOptions { set, .. } => {
            let made = drs_options(asked, state, set);
            asked.site.changed(&asked.host.of);
            Some(made.map_err(|failed| failed.in_words("this cluster")))
        }
        Effect::AddToImage { of, package, within_secs } => {
            let made = images::add(asked, state, (of, package), *within_secs);
            asked.site.changed(&asked.host.of);
            Some(made.map_err(|failed| failed.in_words("this image")))
        }
        Effect::Remediate { of, base, within_secs } => {
            let made = images::remediate(asked, state, (of, base), *within_secs);
            asked.site.changed(&asked.host.of);
            Some(made.map_err(|failed| failed.in_words("this host")))
        }
        Effect::CloneVm { base, from, name, datastore, within_secs } => {
            let made = clone_of(asked, state, (base, from), (name, datastore), *within_secs);
            asked.site.changed(&asked.host.of);
            match made {
                Ok(()) => asked.site.made_a_vm(name, &asked.host.of),
                Err(_) => asked.site.vms_changed(),
            }
            Some(made.map_err(|failed| failed.in_words("this VM")))
        }
        _ => None,
    }
}

/// Enters maintenance mode while VMs run. What cannot leave now is said before anything moves: other hosts may have less
/// room than when the plan was made. Given up, nothing is half done but what has moved.
fn evacuate(asked: &Asked<'_>, state: &Posix, secs: u32, waits_for_people: bool) -> Result<(), String> {
    asked.site.changed(&asked.host.of);
    let fact = Evacuation { forecast: Some(evacuation::of_host(asked)?) };
    let spec = EvacuableSpec { off: vec![], by_hand: waits_for_people };
    if let Verdict::Blocked { why, .. } = Evacuable::check(&spec, &fact) {
        return Err(format!("{why}; no VM was moved, `vsgpu plan` again"));
    }
    let host = &asked.host.of;
    let made = asked.site.with(|session| maintenance(session, host, true, secs)).map_err(Failed::from);
    let call = Call::EnterMaintenance(secs).to_string();
    let made = made.and_then(|task| wait(asked, state, &task, &call, secs.saturating_add(60)));
    let why = match made {
        Ok(()) => return Ok(()),
        Err(Failed::Lost(why)) => return Err(why),
        Err(Failed::Late(_)) => format!("it did not end within {secs} s"),
        Err(Failed::Said(fault)) => refused(&fault),
    };
    let reasons = evacuation::of_host(asked).map(|forecast| forecast.vms).unwrap_or_default();
    let named = |name: String| match reasons.iter().find(|vm| vm.name == name && !vm.why.is_empty()) {
        Some(vm) => format!("{name} ({})", vm.why),
        None => name,
    };
    let left = asked.site.with(|session| running_on(session, host)).unwrap_or_default();
    let left = left.into_iter().map(|(_, name)| name).filter(|name| !is_infrastructure(name, "a datastore"));
    Err(format!(
        "{why}; still on the host: {}; moves that began may still end: look in Recent Tasks",
        first(left.map(named), NAMED, "no VM")
    ))
}

/// Sets options of DRS of the host's cluster; those that it has beside them are sent with them.
fn drs_options(asked: &Asked<'_>, state: &Posix, set: &[(String, String)]) -> Result<(), Failed> {
    let details = details(asked)?;
    let of = details.parent.as_ref().filter(|parent| parent.kind == "ClusterComputeResource");
    let of =
        of.ok_or_else(|| Failed::Lost("the host is in no cluster any more; `vsgpu plan` again".into()))?;
    asked.site.clusters_changed();
    let cluster = asked.site.cluster(of)?;
    let cluster = cluster.ok_or_else(|| Failed::Lost("the account does not see the cluster".into()))?;
    // All are sent with it: one that was not read would be lost.
    if !cluster.options_are_complete {
        return Err(Failed::Lost("not every option of DRS can be read: set it in the vSphere Client".into()));
    }
    let mut all = cluster.drs_options;
    all.retain(|(key, _)| set.iter().all(|(other, _)| other != key));
    all.extend(set.iter().cloned());
    let task = asked.site.with(|session| set_drs_options(session, of, &all))?;
    let ended = wait(asked, state, &task, "ReconfigureComputeResource_Task drsConfig", RECONFIGURE);
    asked.site.clusters_changed();
    ended
}

/// Copies what has this configuration file: of two datastores of one name there may be two.
fn clone_of(
    asked: &Asked<'_>,
    state: &Posix,
    (base, from): (&str, &str),
    (name, datastore): (&str, &str),
    secs: u32,
) -> Result<(), Failed> {
    let place = place(from);
    let details = details(asked)?;
    let of_host = details.vms.as_ref().ok().into_iter().flatten();
    let mut candidates: Vec<Ref> = of_host
        .filter(|vm| vm.name == base && vm.file.as_deref() == Some(&place))
        .map(|vm| vm.of.clone())
        .collect();
    if candidates.is_empty() {
        let listed = asked.site.listed()?;
        let templates: Vec<Ref> = listed.iter().filter(|vm| vm.is_template).map(|vm| vm.of.clone()).collect();
        let files = asked.site.with(|session| clone::files(session, &templates))?;
        candidates = files
            .into_iter()
            .filter(|(_, (named, file))| named == base && *file == place)
            .map(|(of, _)| of)
            .collect();
    }
    let [of_base] = candidates.as_slice() else {
        return Err(Failed::Lost(format!(
            "{place}: there is no such VM or template any more; `vsgpu plan` again"
        )));
    };
    let compute = details.parent.clone().or_else(|| asked.host.compute.clone());
    let compute =
        compute.ok_or_else(|| Failed::Lost("the account does not see the host's cluster".into()))?;
    let task = asked.site.with(|session| {
        let stores = clone::datastores(session, &asked.host.of)?;
        let store = stores.iter().find(|store| store.name == datastore && store.is_open);
        let store =
            store.ok_or_else(|| Fault::said(format!("the host has no datastore {datastore} any more")))?;
        clone::clone_vm(session, of_base, name, (&asked.host.of, &compute, &store.of))
    })?;
    wait(asked, state, &task, &format!("CloneVM_Task {name}"), secs)
}

/// Sets keys of a VM, where nobody else changes it meanwhile.
fn set_keys(
    asked: &Asked<'_>,
    state: &Posix,
    file: &str,
    set: &[(String, Option<String>)],
) -> Result<(), String> {
    asked.site.changed(&asked.host.of);
    let changed = (|| {
        let details = details(asked)?;
        let vms = details.vms.as_ref().map_err(|fault| Failed::from(fault.clone()))?;
        let found: Option<&Vm> = vms.iter().find(|vm| vmx::path(vm).as_deref() == Some(file));
        let vm = found.ok_or_else(|| {
            Failed::Lost(format!("{file}: no VM on {} has it any more; `vsgpu plan` again", asked.host.name))
        })?;
        let Some(spec) = vmx::spec(vm, set).map_err(Failed::Lost)? else { return Ok(()) };
        let task = asked.site.with(|session| reconfigure(session, &vm.of, &spec))?;
        wait(asked, state, &task, &format!("ReconfigVM_Task {}", vm.name), RECONFIGURE)
    })();
    asked.site.changed(&asked.host.of);
    changed.map_err(|failed| failed.in_words("this VM"))
}
