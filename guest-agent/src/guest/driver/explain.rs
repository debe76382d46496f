//! Why an installation failed, from the installer's log, the kernel's log and DKMS's build log. The first
//! cause that fits is said, the most telling ones first (facts: failures 5.3, guests "Failure signatures").

use crate::facts::kernel_log;
use crate::guest::driver::fact::{DriverFact, LOG};
use crate::guest::driver::installer_log::installer_log;
use crate::package_errors;
use vsgpu_core::requirement::{Explained, Failure};
use vsgpu_core::{Observation, Probe, Subject};

/// Words to look for, the cause, what to do.
const CAUSES: [(&[&str], &str, &str); 15] = [
    (
        &[
            "Key was rejected by service",
            "Required key not available",
            "unsigned module loading is restricted",
        ],
        "Secure Boot refused the module: it is not signed by a key that the firmware trusts",
        "give `signing:` at `driver` and enrol its certificate once (mokutil, VM console), or switch Secure Boot off in the VM's options",
    ),
    (
        &["does not include the required GPU"],
        "the open kernel module does not drive this GPU",
        "set `kernel-module: proprietary` at `driver`",
    ),
    (
        &["requires use of the NVIDIA open kernel modules"],
        "only the open kernel module drives this GPU",
        "set `kernel-module: open` at `driver`",
    ),
    (
        &["Disable GSP firmware to use this feature"],
        "a workstation license in passthrough does not work with GSP firmware on this driver",
        "set `options nvidia NVreg_EnableGpuFirmware=0` in /etc/modprobe.d, rebuild the initramfs, reboot",
    ),
    (
        &["installed in this system is not supported by the"],
        "this driver does not drive this GPU: a vGPU needs the `-grid` driver of the host's release, and old GPUs an old branch",
        "`vsgpu compat` says which driver fits; the host's release is in `vsgpu facts` under `pci-gpus`",
    ),
    (
        &["BAR1 is 0M", "PCI I/O region assigned to your NVIDIA device is invalid"],
        "the GPU's BAR1 has no room in this VM",
        "wish for EFI firmware and `mmio` at the VM",
    ),
    (
        &["RmInitAdapter failed", "rm_init_adapter failed"],
        "the module was loaded, but the GPU did not start",
        "power-cycle the VM (not only reboot); then compare host and guest driver with `vsgpu compat`, and look at the lines of NVRM in `dmesg`",
    ),
    (
        &["such as nouveau", "Nouveau kernel driver is currently in use"],
        "the nouveau driver holds the GPU",
        "`lsmod | grep nouveau` shows it; rebuild the initramfs (`update-initramfs -u` or `dracut --force`), reboot, `vsgpu apply` again",
    ),
    (
        &["appear to be running an X server"],
        "an X server runs, and the installer does not work beside it",
        "stop it, or allow `stop-processes: true` at `driver`",
    ),
    (
        &[
            "an NVIDIA kernel module 'nvidia' appears to already be loaded",
            "An NVIDIA kernel module 'nvidia",
            "Module nvidia is in use",
            "is in use by:",
        ],
        "another NVIDIA module is loaded and in use",
        "see who holds it: `lsof /dev/nvidia*` in the guest; a container may hold it, too",
    ),
    (
        &["alternate driver installation", "alternate-install-present", "alternate method of installing"],
        "a package of the distribution carries another driver",
        "allow `remove-packages: true` at `driver`",
    ),
    (
        &[
            "Unable to find the kernel source tree",
            "Kernel headers for target kernel",
            "kernel headers for kernel",
        ],
        "the headers of the running kernel are missing",
        "`vsgpu plan` shows what `build-tools` installs; where they are in no repository any more, update the guest's kernel and reboot it",
    ),
    (
        &["Unable to find the development tool", "No suitable C compiler", "cc: not found"],
        "there is no C compiler",
        "`vsgpu plan` shows what `build-tools` installs; see why `gcc --version` does not answer in the guest",
    ),
    (
        &["Unrecognized option", "Invalid commandline"],
        "this installer does not know an option that it was given",
        "have it asked again: `rm /var/lib/vsgpu/artifacts/*/package.json` in the guest, then `vsgpu apply`",
    ),
    (
        &[
            "Error in check sum",
            "Error in MD5",
            "Unexpected end of file",
            "not in gzip format",
            "CRC32 checksums",
        ],
        "the driver's package is broken or cut off",
        "download it again and compare its SHA-256",
    ),
];

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
    let find = |text: &str| {
        let line = |needles: &[&str]| {
            text.lines().find(|l| needles.iter().any(|n| l.contains(n))).map(|l| l.trim().to_string())
        };
        CAUSES.iter().find_map(|(needles, cause, fix)| {
            let evidence = line(needles)?;
            Some(Explained {
                cause: format!("{cause}: {}", evidence.chars().take(200).collect::<String>()),
                fix: (*fix).into(),
            })
        })
    };
    let module_failed = own.contains("Unable to load the kernel module") || own.contains("could not insert");
    if let Some(found) = find(&kernel).filter(|_| module_failed) {
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
    find(&own)
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
