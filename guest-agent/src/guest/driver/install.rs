//! Which effects bring a guest from the driver it has to the one it is to have.

use crate::distro;
use crate::guest::driver::fact::{DriverFact, INSTALLED, OWN_DAEMONS, UNINSTALLER, UNPACKED};
use crate::guest::driver::spec::{KernelModule, PackageSpec};
use crate::guest::driver_package;
use vsgpu_core::artifact::Kind;
use vsgpu_core::disk_room::{DiskNeed, lacks_room};
use vsgpu_core::knowledge::gpus::{self, OpenModule};
use vsgpu_core::units::DriverVersion;
use vsgpu_core::{Command, Effect, Verdict};

/// Seconds for the installer (facts: failures 7); building the module takes minutes on small machines.
const INSTALL_SECS: u32 = 3600;
/// Seconds that a program may take to end after it was asked to.
const END_SECS: &str = "30";
/// First version with `--kernel-module-type` (facts: guests "Installer options").
const MODULE_TYPE_SINCE: &str = "555.42.02";
/// First branch with an open module in its `.run`, chosen by its build folder until the option above came
/// (same section).
const OPEN_SINCE_BRANCH: u32 = 515;

/// Everything in order; or why a person must act first.
pub(super) fn effects(spec: &PackageSpec, wanted: &str, fact: &DriverFact) -> Result<Vec<Effect>, Verdict> {
    // Installed and only not loaded, or only not built for this kernel: then nothing is installed again.
    let package = driver_package::kind(&spec.package);
    let own_name = driver_package::package_name(spec.package.file_name());
    let whole = is_whole(spec, wanted, fact);
    if let Some(effects) = bring_back(wanted, fact).filter(|_| whole && other_kind(spec, fact).is_none()) {
        return Ok(effects);
    }
    if fact.read_only {
        return Err(Verdict::blocked(
            "the guest's root is mounted read-only: no driver can be installed",
            "look for a broken disk (`dmesg`), then `mount -o remount,rw /`; a guest that is read-only by design needs the driver in its image",
        ));
    }
    if let Some(full) = lacks_room(&fact.rooms, "the driver", &room(spec, package, fact)) {
        return Err(full);
    }
    let foreign =
        || fact.packages.iter().filter(|(name, _)| package == Kind::Run || name.as_str() != own_name);
    if foreign().next().is_some()
        && !spec.remove_packages
        && !(package != Kind::Run && same_family(spec, fact))
    {
        let names: Vec<String> = foreign().map(|(name, version)| format!("{name} {version}")).collect();
        return Err(Verdict::blocked(
            format!("packages with another driver are installed: {}", names.join(", ")),
            "allow `remove-packages: true` at `driver`, or remove them yourself",
        ));
    }
    if let Some(blocked) = held(fact, spec.stop_processes) {
        return Err(blocked);
    }
    secure_boot(spec, fact)?;
    let mut effects = unload(fact, spec.stop_processes);
    if fact.from_run && package != Kind::Run {
        // A `.run` removes an older `.run` by itself; nothing else does.
        effects.push(uninstall());
    }
    if spec.remove_packages && foreign().next().is_some() {
        effects.extend(remove_packages(fact)?);
    }
    effects.push(match package {
        Kind::Run => Effect::run(run(spec, wanted, fact)?),
        _ => match distro::of(&fact.os_release) {
            Some(family) => Effect::run(family.install(&[spec.package.stored(None)]).within(INSTALL_SECS)),
            None => {
                return Err(Verdict::blocked(
                    "this distribution's package tool is not known",
                    format!("{}; use the `.run` instead", distro::UNKNOWN),
                ));
            }
        },
    });
    // Services that held the GPU go on with the new driver.
    let services = fact.holders.iter().filter_map(|h| h.service.as_ref()).filter(|_| spec.stop_processes);
    effects.extend(
        services.map(|service| Effect::run(Command::new("systemctl", ["start", service]).within(120))),
    );
    Ok(effects)
}

/// A package is compressed: unpacked it needs more than its own size, never less. What an older driver leaves
/// free when it goes is not known, so the installed size counts only where there is none.
fn room(spec: &PackageSpec, package: Kind, fact: &DriverFact) -> Vec<DiskNeed<'static>> {
    let bytes = spec.package.size.unwrap_or_default();
    let cut_off = fact.installer.as_ref().is_some_and(|log| log.outcome != "success");
    let there = fact.from_run || fact.version.is_some() || fact.module_version.is_some();
    let replaces = there || cut_off || !fact.packages.is_empty();
    let unpacked = (package == Kind::Run).then_some(DiskNeed { path: UNPACKED, bytes });
    let installed = (!replaces).then_some(DiskNeed { path: INSTALLED, bytes });
    unpacked.into_iter().chain(installed).collect()
}

/// An installer that was cut off left parts behind that look like a driver: only a whole one counts.
fn is_whole(spec: &PackageSpec, wanted: &str, fact: &DriverFact) -> bool {
    match driver_package::kind(&spec.package) {
        Kind::Run => fact
            .installer
            .as_ref()
            .map_or(fact.from_run, |l| l.outcome == "success" && l.version.as_deref() == Some(wanted)),
        _ => fact.packages.contains_key(driver_package::package_name(spec.package.file_name())),
    }
}

/// In what the running driver of the wanted version is another one than is wished for.
pub(super) fn other_kind(spec: &PackageSpec, fact: &DriverFact) -> Option<&'static str> {
    let grid = spec.package.file_name().contains("-grid");
    match (grid, fact.gridd, spec.kernel_module, fact.open_module) {
        (true, Some(false), ..) => Some("it is the data-center driver of that number"),
        (_, _, KernelModule::Open, Some(false)) => Some("with the proprietary kernel module"),
        (_, _, KernelModule::Proprietary, Some(true)) => Some("with the open kernel module"),
        _ => None,
    }
}

/// The wanted driver is whole and its module loaded, and still nvidia-smi has no answer: nothing that is
/// installed again would help.
pub(super) fn sick(wanted: &str, spec: &PackageSpec, fact: &DriverFact) -> Option<&'static str> {
    let whole = is_whole(spec, wanted, fact)
        && fact.module_version.as_deref() == Some(wanted)
        && other_kind(spec, fact).is_none();
    (whole && fact.modules.iter().any(|m| m == "nvidia")).then_some(
        "look for NVRM and Xid lines in `dmesg`, compare host and guest with `vsgpu compat`, and power-cycle the VM; a driver is not installed again for this",
    )
}

/// A package that replaces an older one of its own name: `nvidia-linux-grid-535` by `nvidia-linux-grid-550`.
fn same_family(spec: &PackageSpec, fact: &DriverFact) -> bool {
    let stem =
        |name: &str| name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-' || c == '.').to_string();
    let own = stem(driver_package::package_name(spec.package.file_name()));
    fact.packages.keys().all(|name| stem(name) == own)
}

/// The wanted driver is installed: its module is loaded, or built for this kernel by DKMS first.
fn bring_back(wanted: &str, fact: &DriverFact) -> Option<Vec<Effect>> {
    if fact.version.is_some() || !fact.modules.is_empty() {
        return None;
    }
    let load = Effect::run(Command::new("modprobe", ["nvidia"]));
    if fact.module_version.as_deref() == Some(wanted) {
        return Some(vec![load]);
    }
    // A broken tree is not built from: the installer makes it anew.
    let known = fact.dkms_modules.iter().find(|m| m.version == wanted && !m.state.starts_with("broken"))?;
    let build =
        ["install", &format!("{}/{}", known.name, known.version), "-k", &fact.kernel].map(String::from);
    Some(vec![Effect::run(Command::new("dkms", build).within(INSTALL_SECS)), load])
}

/// Programs that hold the GPU, where they may not be ended.
pub(super) fn held(fact: &DriverFact, allowed: bool) -> Option<Verdict> {
    let all: Vec<String> = fact.holders.iter().chain(&fact.x_server).map(ToString::to_string).collect();
    let first = all.first().filter(|_| !allowed)?;
    let what = if fact.x_server.as_ref().is_some_and(|x| *first == x.to_string()) {
        "an X server runs"
    } else {
        "the GPU is in use"
    };
    Some(Verdict::blocked(
        format!("{what}: {}", all.join(", ")),
        "end it when its work is done (`systemctl stop NAME`, `kill NUMBER`) and run `vsgpu apply` again, or allow `stop-processes: true` beside `package:` at `driver`",
    ))
}

/// Stops what holds the driver and takes its modules out, in NVIDIA's order.
pub(super) fn unload(fact: &DriverFact, stop: bool) -> Vec<Effect> {
    let run = |program: &str, args: &[&str]| Command::new(program, args.iter().copied());
    let mut effects = vec![];
    if !fact.modules.is_empty() || fact.version.is_some() {
        let own = |unit| Effect::Run {
            command: run("systemctl", &["stop", unit]),
            already: Some("not loaded".into()),
        };
        effects.extend(OWN_DAEMONS.map(own));
    }
    for holder in fact.holders.iter().chain(&fact.x_server).filter(|_| stop) {
        match &holder.service {
            Some(service) => effects.push(Effect::run(run("systemctl", &["stop", service]).within(120))),
            None => {
                let pid = holder.pid.to_string();
                effects.push(Effect::Run {
                    command: run("kill", &[&pid]),
                    already: Some("No such process".into()),
                });
                // Ends when the process has ended: no guess, no pause. One that its parent never takes notice
                // of stays listed for ever and holds nothing, so the wait itself decides nothing: `modprobe
                // -r` behind it says whether the GPU is free.
                let wait = run("timeout", &[END_SECS, "tail", "--pid", &pid, "-f", "/dev/null"]);
                effects.push(Effect::Run { command: wait, already: Some(String::new()) });
            }
        }
    }
    if !fact.modules.is_empty() {
        let modules = std::iter::once("-r").chain(fact.modules.iter().map(String::as_str));
        effects.push(Effect::run(Command::new("modprobe", modules)));
    }
    effects
}

pub(super) fn uninstall() -> Effect {
    Effect::run(Command::new(UNINSTALLER, ["--silent"]).within(INSTALL_SECS))
}

pub(super) fn remove_packages(fact: &DriverFact) -> Result<Option<Effect>, Verdict> {
    let names: Vec<String> = fact.packages.keys().cloned().collect();
    if names.is_empty() {
        return Ok(None);
    }
    match distro::of(&fact.os_release) {
        Some(family) => Ok(Some(Effect::run(family.remove(&names)))),
        None => Err(Verdict::blocked("this distribution's package tool is not known", distro::UNKNOWN)),
    }
}

/// The `.run` with its arguments.
fn run(spec: &PackageSpec, wanted: &str, fact: &DriverFact) -> Result<Command, Verdict> {
    let mut args: Vec<String> = ["--silent", "--accept-license"].map(String::from).into();
    // These options are in every driver that vGPU ever had (`--dkms` since 304.22, signing since 319.12;
    // facts: guests "Installer options"); only what differs between versions is looked up in the installer's
    // own list. DKMS would sign with a key of its own, which the firmware does not trust; the installer signs
    // with the operator's.
    if fact.dkms && spec.signing.is_none() {
        args.push("--dkms".into());
    }
    args.extend(module_option(spec, wanted, fact)?);
    if let Some(signing) = &spec.signing {
        args.extend(signing.options());
    }
    Ok(Command::new(spec.package.stored(None), args).within(INSTALL_SECS))
}

/// The module that is to be built: what is wished, else what the GPUs need; nothing where both would do.
fn module(spec: &PackageSpec, fact: &DriverFact) -> KernelModule {
    if spec.kernel_module != KernelModule::Auto {
        return spec.kernel_module;
    }
    let known = || fact.on_bus.iter().filter_map(|g| gpus::by_pci(&g.device_id, g.subsystem_id.as_deref()));
    if known().any(|m| m.open_module == OpenModule::Required) {
        KernelModule::Open
    } else if known().any(|m| m.open_module == OpenModule::No) {
        KernelModule::Proprietary
    } else {
        KernelModule::Auto
    }
}

fn options<'a>(spec: &PackageSpec, fact: &'a DriverFact) -> Option<&'a Vec<String>> {
    fact.installers.get(&driver_package::folder_of(&spec.package)).filter(|o| !o.is_empty())
}

/// Whether the arguments depend on what the installer says it can do, and it was not asked yet.
pub(super) fn depends_on_options(spec: &PackageSpec, fact: &DriverFact) -> bool {
    driver_package::kind(&spec.package) == Kind::Run
        && module(spec, fact) != KernelModule::Auto
        && options(spec, fact).is_none()
}

/// How this installer is told which module, by its own list of options; by its version where it was not asked
/// yet.
fn module_option(spec: &PackageSpec, wanted: &str, fact: &DriverFact) -> Result<Option<String>, Verdict> {
    let module = module(spec, fact);
    let (kind, folder) = match module {
        KernelModule::Auto => return Ok(None),
        KernelModule::Open => ("open", "kernel-open"),
        KernelModule::Proprietary => ("proprietary", "kernel"),
    };
    let version = wanted.parse::<DriverVersion>().ok();
    let since = MODULE_TYPE_SINCE.parse::<DriverVersion>().ok();
    let says = |option: &str, by_version: bool| {
        options(spec, fact).map_or(by_version, |o| o.iter().any(|x| x == option))
    };
    if says("--kernel-module-type", version >= since) {
        return Ok(Some(format!("--kernel-module-type={kind}")));
    }
    let with_folders = version.as_ref().is_some_and(|v| v.branch() >= OPEN_SINCE_BRANCH);
    match (says("--kernel-module-build-directory", with_folders) && with_folders, module) {
        (true, _) => Ok(Some(format!("--kernel-module-build-directory={folder}"))),
        // An installer that knows one module only builds the proprietary one.
        (false, KernelModule::Proprietary) => Ok(None),
        (false, _) => Err(Verdict::blocked(
            format!("driver {wanted} has no open kernel module, which this GPU or the wish needs"),
            format!("use a driver of branch {OPEN_SINCE_BRANCH} or later; Blackwell needs 570 or later"),
        )),
    }
}

/// With Secure Boot an unsigned module is never loaded: that is said before anything is touched, not after an
/// hour.
fn secure_boot(spec: &PackageSpec, fact: &DriverFact) -> Result<(), Verdict> {
    if fact.secure_boot != Some(true) {
        return Ok(());
    }
    let Some(signing) = &spec.signing else {
        return Err(Verdict::blocked(
            "Secure Boot is on: a kernel module that nobody signed is not loaded",
            "give `signing: { key: ..., certificate: ... }` at `driver`, or switch Secure Boot off in the VM's options",
        ));
    };
    let certificate = signing.certificate.stored(None);
    if fact.certificates.get(&certificate) == Some(&false) {
        return Err(Verdict::blocked(
            format!(
                "Secure Boot is on, and the firmware does not trust {} yet",
                signing.certificate.file_name()
            ),
            format!(
                "one manual step: `mokutil --import {certificate}` in the guest (package mokutil; it asks for a one-time password), reboot it, choose `Enroll MOK` on the VM's console and type that password; then `vsgpu apply` again"
            ),
        ));
    }
    Ok(())
}
