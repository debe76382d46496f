//! Why an installation failed, from the installer's log, the kernel's log and DKMS's build log. The first
//! cause that fits is said, the most telling ones first (facts: failures 5.3, guests "Failure signatures").

use crate::facts::kernel_log;
use crate::guest::driver::fact::{DriverFact, LOG};
use crate::guest::driver::installer_log::installer_log;
use crate::package_errors;
use vsgpu_core::diagnosis::{Input, Source, first_cause};
use vsgpu_core::requirement::{Explained, Failure};
use vsgpu_core::{Observation, Probe, Subject};

/// What DKMS says where a build fails; the cause is in its own log.
const DKMS: [&str; 4] = [
    "Bad return status for module build",
    "Failed to run `/usr/sbin/dkms",
    "DKMS kernel module installation failed",
    "dkms.conf does not exist",
];

fn make_log(version: &str) -> String {
    format!("/var/lib/dkms/nvidia/{version}/build/make.log")
}

pub(super) fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
    let log = Probe::Tail(LOG.into());
    let version = seen
        .has(&log)
        .then(|| seen.text(&log).ok().flatten())
        .flatten()
        .and_then(|t| installer_log(t).version);
    let mut probes = vec![log, Probe::Run(kernel_log::command())];
    probes.extend(version.map(|v| Probe::Tail(make_log(&v))));
    probes
}

pub(super) fn explain(failure: &Failure, seen: &Observation) -> Option<Explained> {
    let log = seen.text(&Probe::Tail(LOG.into())).ok().flatten().unwrap_or_default();
    let kernel =
        kernel_log::since(seen.stdout_if_ok(&kernel_log::command()).unwrap_or_default(), failure.since);
    let said = failure.output.as_ref().map(|o| o.both()).unwrap_or_default() + "\n" + &failure.why;
    // What this attempt said first, the kernel's words next: an installer's log may hold older attempts'
    // lines.
    let own = format!("{said}\n{}", installer_log(log).errors.join("\n"));
    let find = |name: &str, text: &str, sources: &[Source]| {
        let input = Input { name: name.into(), text, sources: sources.to_vec() };
        let (finding, Explained { cause, fix }) = first_cause(&[input])?;
        let evidence: String = finding.evidence.first()?.line.chars().take(200).collect();
        Some(Explained { cause: format!("{cause}: {evidence}"), fix })
    };
    let module_failed = own.contains("Unable to load the kernel module") || own.contains("could not insert");
    if let Some(found) = find("kernel log", &kernel, &[Source::GuestKernel]).filter(|_| module_failed) {
        return Some(found);
    }
    if let Some(found) = package_errors::explain(failure) {
        return Some(found);
    }
    if DKMS.iter().any(|n| own.contains(n) || log.contains(n)) {
        let version = installer_log(log).version.unwrap_or_else(|| "VERSION".into());
        let make = seen.text(&Probe::Tail(make_log(&version))).ok().flatten().unwrap_or_default();
        let error = make
            .lines()
            .find(|l| l.contains("error:") || l.contains("Error ") || l.contains("fatal"))
            .unwrap_or("make.log tells no error");
        return Some(Explained {
            cause: format!("DKMS could not build the module: {}", error.trim()),
            fix: format!(
                "read {}; a driver older than the kernel does not build: take a newer driver or an older kernel",
                make_log(&version)
            ),
        });
    }
    if own.contains("Operation not permitted") && module_failed
        || own.contains("could not insert") && own.contains("Operation not permitted")
    {
        return Some(Explained {
            cause:
                "this machine may not load kernel modules: it is a container, or its kernel is locked down"
                    .into(),
            fix: "install the driver in the machine that owns the kernel".into(),
        });
    }
    find("installer", &own, &[Source::Installer, Source::GuestKernel, Source::GuestSmi])
}

/// For a driver that is installed and not loaded: what is there for the running kernel.
pub(super) fn module_of_kernel(fact: &DriverFact) -> String {
    let built: Vec<&str> = fact
        .dkms_modules
        .iter()
        .filter(|m| m.state == "installed")
        .filter_map(|m| m.kernel.as_deref())
        .collect();
    match &fact.module_version {
        Some(version) => format!("; its module {version} is there for this kernel, not loaded"),
        None if fact.kernel.is_empty() => String::new(),
        None if built.is_empty() => format!("; no module is there for kernel {}", fact.kernel),
        None => format!(
            "; its module is there for {}, not for the running kernel {}",
            built.join(", "),
            fact.kernel
        ),
    }
}
