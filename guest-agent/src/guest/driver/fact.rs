//! What is looked at before anything is done to a driver: what runs, what is installed and how, who holds it,
//! whether modules must be signed.

use crate::distro::{self, OS_RELEASE, os_release};
use crate::facts::dkms::{self, DkmsModule};
use crate::facts::machine::rooms;
use crate::facts::os::kernel;
use crate::facts::pci_gpus::{PciGpu, PciGpus};
use crate::guest::driver::installer_log::{InstallerLog, installer_log};
use crate::guest::driver_package;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::artifact::GUEST_FOLDER;
use vsgpu_core::disk_room::Room;
use vsgpu_core::readers::nvidia_smi;
use vsgpu_core::system::OpenedBy;
use vsgpu_core::{Command, Fact, Observation, Probe, Subject, Unreadable};

/// Log of the `.run`.
pub(super) use crate::facts::log_findings::INSTALLER_LOG as LOG;
/// What a `.run` leaves behind to be removed with.
pub(super) const UNINSTALLER: &str = "/usr/bin/nvidia-uninstall";
/// License daemon of the `-grid` kind.
const GRIDD: &str = "/usr/bin/nvidia-gridd";
/// State of Secure Boot: four bytes of attributes, then 1 or 0 (UEFI specification, global variables).
const SECURE_BOOT: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Their names as the kernel cuts them to 15 characters, and the tools that hold a GPU only while they look.
const OWN_PROGRAMS: [&str; 4] = ["nvidia-gridd", "nvidia-persiste", "nvidia-smi", "nvidia-modprobe"];
const X_LOCK: &str = "/tmp/.X0-lock";
/// The driver's own daemons: they are stopped and started with it.
pub(super) const OWN_DAEMONS: [&str; 2] = ["nvidia-gridd", "nvidia-persistenced"];
/// NVIDIA's order of unloading (facts: nvidia 6).
const UNLOAD_ORDER: [&str; 7] = [
    "nv_peer_mem",
    "nvidia_peermem",
    "nvidia_vgpu_vfio",
    "nvidia_uvm",
    "nvidia_drm",
    "nvidia_modeset",
    "nvidia",
];

/// What is there.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct DriverFact {
    /// Version of the running driver, by nvidia-smi.
    pub version: Option<String>,
    /// Names of the GPUs it drives.
    pub gpus: Vec<String>,
    /// A GPU of the guest is a vGPU, by nvidia-smi.
    #[serde(default)]
    pub vgpu: bool,
    /// Why nvidia-smi has no answer.
    pub smi_failure: Option<String>,
    /// What the installer wrote last.
    pub installer: Option<InstallerLog>,
    /// Whether DKMS answers.
    pub dkms: bool,
    /// Whether an NVIDIA GPU is on the PCI bus; absent where there is no bus to look at.
    pub gpu_on_bus: Option<bool>,
    /// The GPUs on the bus.
    #[serde(default)]
    pub on_bus: Vec<PciGpu>,
    /// Running kernel.
    #[serde(default)]
    pub kernel: String,
    /// os-release, to choose the package tool.
    #[serde(default)]
    pub os_release: String,
    /// Loaded NVIDIA modules, in the order in which they can be unloaded.
    #[serde(default)]
    pub modules: Vec<String>,
    /// Version of the module that is installed for the running kernel, loaded or not.
    #[serde(default)]
    pub module_version: Option<String>,
    /// NVIDIA's modules that DKMS knows.
    #[serde(default)]
    pub dkms_modules: Vec<DkmsModule>,
    /// Programs that hold a GPU, without the driver's own daemons.
    #[serde(default)]
    pub holders: Vec<OpenedBy>,
    /// A running X server, GPU or not: the installer refuses to work beside it.
    #[serde(default)]
    pub x_server: Option<OpenedBy>,
    /// Installed packages that carry a driver, with their versions.
    #[serde(default)]
    pub packages: BTreeMap<String, String>,
    /// A `.run` was installed: its uninstaller is there.
    #[serde(default)]
    pub from_run: bool,
    /// Secure Boot; absent where the guest was not booted by EFI.
    #[serde(default)]
    pub secure_boot: Option<bool>,
    /// Certificates among the files sent to this guest, by path, and whether the firmware trusts them.
    #[serde(default)]
    pub certificates: BTreeMap<String, bool>,
    /// Options that installers among the files sent to this guest said they have, by the folder of each.
    #[serde(default)]
    pub installers: BTreeMap<String, Vec<String>>,
    /// The license daemon is there: it comes with the `-grid` kind only. Absent where that was not looked at.
    #[serde(default)]
    pub gridd: Option<bool>,
    /// The module on disk is the open one, by its license; absent without a module.
    #[serde(default)]
    pub open_module: Option<bool>,
    /// The root file system is mounted read-only.
    #[serde(default)]
    pub read_only: bool,
    /// Room where an installation writes.
    #[serde(default)]
    pub rooms: Vec<Room>,
}

/// Where a `.run` unpacks itself.
pub(super) const UNPACKED: &str = "/tmp";
/// Where a driver is installed.
pub(super) const INSTALLED: &str = "/usr";

fn dkms_version() -> Command {
    Command::new("dkms", ["--version"])
}

pub(crate) fn module_version(kernel: &str) -> Command {
    Command::new("modinfo", ["-k", kernel, "-F", "version", "nvidia"])
}

/// `NVIDIA` of the proprietary module, `Dual MIT/GPL` of the open one.
fn module_license(kernel: &str) -> Command {
    Command::new("modinfo", ["-k", kernel, "-F", "license", "nvidia"])
}

fn test_key(path: &str) -> Command {
    Command::new("mokutil", ["--test-key", path])
}

fn certificates(seen: &Observation) -> Vec<String> {
    let is = |name: &&str| [".der", ".cer", ".crt"].iter().any(|e| name.ends_with(e));
    folders(seen)
        .iter()
        .flat_map(|f| {
            seen.names(f).unwrap_or_default().into_iter().filter(is).map(move |n| format!("{f}/{n}"))
        })
        .collect()
}

fn folders(seen: &Observation) -> Vec<String> {
    seen.names(GUEST_FOLDER)
        .unwrap_or_default()
        .into_iter()
        .take(driver_package::MOST)
        .map(|n| format!("{GUEST_FOLDER}/{n}"))
        .collect()
}

impl Fact for DriverFact {
    const NAME: &'static str = "driver";
    const ABOUT: &'static str =
        "NVIDIA driver: version, GPUs it drives, how it was installed, who holds it, what its installer said";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = PciGpus::ask(seen);
        let files = [OS_RELEASE, "/proc/modules", "/proc/mounts", X_LOCK].map(|f| Probe::Read(f.into()));
        probes.extend(files);
        probes.extend([nvidia_smi::query(), dkms_version(), dkms::status()].map(Probe::Run));
        probes.extend([
            Probe::Tail(LOG.into()),
            Probe::KernelRelease,
            Probe::Machine,
            Probe::Holders("/dev/nvidia".into()),
            Probe::Hash(UNINSTALLER.into()),
            Probe::Hex(SECURE_BOOT.into()),
            Probe::List(GUEST_FOLDER.into()),
        ]);
        probes.push(Probe::Hash(GRIDD.into()));
        probes.extend(
            kernel(seen)
                .ok()
                .into_iter()
                .flat_map(|k| [module_version(&k), module_license(&k)].map(Probe::Run)),
        );
        probes.extend(distro::seen(seen).map(|f| Probe::Run(f.list_packages())));
        probes.extend(x_pid(seen).map(|pid| Probe::Read(format!("/proc/{pid}/comm"))));
        probes.extend(
            folders(seen)
                .into_iter()
                .flat_map(|f| [Probe::Read(driver_package::record_in(&f)), Probe::List(f)]),
        );
        if secure_boot(seen) == Some(true) {
            probes.extend(certificates(seen).iter().map(|path| Probe::Run(test_key(path))));
        }
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let report = nvidia_smi::report(seen);
        let on_bus = PciGpus::seen(seen)?;
        let kernel = kernel(seen).unwrap_or_default();
        let loaded = seen.file("/proc/modules")?.unwrap_or_default();
        let is_loaded = |m: &&str| loaded.lines().any(|l| l.split(' ').next() == Some(m));
        let family = distro::seen(seen);
        let listed = |family: &'static dyn distro::Distro| {
            // dpkg-query prints what it found even where one pattern matched nothing.
            let text = seen.output(&family.list_packages()).map(|o| o.stdout.clone()).unwrap_or_default();
            installed(&text).filter(|(name, _)| family.is_driver(name)).collect()
        };
        let holders = seen.text(&Probe::Holders("/dev/nvidia".into())).ok().flatten().unwrap_or_default();
        let holders = holders.lines().filter_map(|l| serde_json::from_str::<OpenedBy>(l).ok());
        let own = |h: &OpenedBy| OWN_PROGRAMS.contains(&h.name.as_str());
        let x_server = x_pid(seen).and_then(|pid| {
            let name = seen.file(&format!("/proc/{pid}/comm")).ok().flatten()?.trim().to_string();
            name.starts_with('X').then_some(OpenedBy { pid, name, service: None })
        });
        let enrolled = |path: String| {
            // Without mokutil nothing is known, and nothing is refused for it.
            let output = seen
                .output(&test_key(&path))
                .ok()
                .filter(|o| matches!(o.ended, vsgpu_core::ExitKind::Status(_)))?;
            Some((path, output.both().contains("is already enrolled")))
        };
        let options = |folder: String| {
            let text = seen.file(&driver_package::record_in(&folder)).ok().flatten()?;
            Some((folder, driver_package::options_in(text)))
        };
        let root = seen
            .file("/proc/mounts")?
            .unwrap_or_default()
            .lines()
            .rfind(|l| l.split(' ').nth(1) == Some("/"));
        Ok(Self {
            version: report.as_ref().ok().and_then(|r| r.driver_version.clone()),
            gpus: report
                .as_ref()
                .map(|r| r.gpus.iter().map(|g| g.name.clone().unwrap_or_default()).collect())
                .unwrap_or_default(),
            vgpu: report
                .as_ref()
                .is_ok_and(|r| r.gpus.iter().any(|g| g.virtualization_mode.as_deref() == Some("VGPU"))),
            smi_failure: report.err().map(|e| e.message),
            installer: seen.text(&Probe::Tail(LOG.into()))?.map(installer_log),
            dkms: seen.output(&dkms_version()).is_ok_and(|o| o.ok()),
            gpu_on_bus: on_bus.as_ref().map(|gpus| !gpus.is_empty()),
            on_bus: on_bus.unwrap_or_default(),
            os_release: os_release(seen).unwrap_or_default().into(),
            modules: UNLOAD_ORDER.iter().filter(|m| is_loaded(m)).map(|m| m.to_string()).collect(),
            module_version: seen
                .stdout_if_ok(&module_version(&kernel))
                .map(|v| v.trim().to_string())
                .filter(|v| !v.is_empty()),
            dkms_modules: dkms::read(seen.stdout_if_ok(&dkms::status()).unwrap_or_default()),
            holders: holders.filter(|h| !own(h)).collect(),
            x_server,
            packages: family.map(listed).unwrap_or_default(),
            from_run: seen.text(&Probe::Hash(UNINSTALLER.into())).is_ok_and(|h| h.is_some()),
            secure_boot: secure_boot(seen),
            gridd: seen.text(&Probe::Hash(GRIDD.into())).ok().map(|hash| hash.is_some()),
            open_module: seen
                .stdout_if_ok(&module_license(&kernel))
                .map(str::trim)
                .filter(|l| !l.is_empty())
                .map(|l| l.contains("GPL") || l.contains("MIT")),
            rooms: rooms(seen, &[UNPACKED, INSTALLED]),
            certificates: certificates(seen).into_iter().filter_map(enrolled).collect(),
            installers: folders(seen).into_iter().filter_map(options).collect(),
            kernel,
            read_only: root
                .and_then(|l| l.split(' ').nth(3))
                .is_some_and(|o| o.split(',').any(|o| o == "ro")),
        })
    }
    fn sentence(&self) -> Option<String> {
        let gpus = vsgpu_core::words::first(self.gpus.iter().cloned(), 4, "no GPU");
        self.version.as_ref().map(|version| format!("{version}, {gpus}"))
    }
}

/// `name version` of installed packages; dpkg's lines begin with the package's state, and only `ii` is
/// installed.
fn installed(text: &str) -> impl Iterator<Item = (String, String)> {
    text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["ii" | "hi", name, version] => Some((name.to_string(), version.to_string())),
            // rpm has no states; dpkg's two letters are no name.
            [name, version] if name.len() > 2 => Some((name.to_string(), version.to_string())),
            _ => None,
        }
    })
}

fn secure_boot(seen: &Observation) -> Option<bool> {
    let probe = Probe::Hex(SECURE_BOOT.into());
    let hex = seen.has(&probe).then(|| seen.text(&probe).ok().flatten()).flatten()?;
    (hex.len() == 10).then(|| hex.ends_with("01"))
}

fn x_pid(seen: &Observation) -> Option<u32> {
    let lock = Probe::Read(X_LOCK.into());
    seen.has(&lock).then(|| seen.text(&lock).ok().flatten()).flatten()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_count() {
        let text = "ii nvidia-driver 535.183.01-1\nun nvidia-dkms-535 \nrc  libcuda1 525.1\nkmod-nvidia 3:550.54-1.el9\n";
        let all: Vec<_> = installed(text).map(|(n, _)| n).collect();
        assert_eq!(all, ["nvidia-driver", "kmod-nvidia"]);
    }
}
