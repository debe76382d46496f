//! The state of one simulated machine, and what a boot does to it.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Memory = BTreeMap<PathBuf, Arc<Mutex<Machine>>>;

fn memory() -> MutexGuard<'static, Memory> {
    static MACHINES: Mutex<Memory> = Mutex::new(BTreeMap::new());
    MACHINES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    #[serde(skip)]
    pub folder: PathBuf,
    /// Calls of its tools, for one that is kept in memory.
    #[serde(skip)]
    pub calls: Vec<String>,
    /// Power events that somebody else acts on, for one that is kept in memory.
    #[serde(skip)]
    pub power: Vec<String>,
    pub boots: u64,
    pub booted_at_ms: u64,
    /// Free on its only disk; plenty where absent.
    #[serde(default)]
    pub disk_free_bytes: Option<u64>,
    pub faults: BTreeMap<String, Fault>,
    pub esxi: Option<Esxi>,
    pub linux: Option<Linux>,
}

/// Told to a tool by a prefix of its command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Fault {
    Fail {
        text: String,
    },
    Hang,
    Slow {
        ms: u64,
    },
    /// The tool waits until the fault is taken away: nothing that a test does in between can come too late.
    Stalled,
    Garbage,
    Flood,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Esxi {
    pub version: String,
    pub build: String,
    pub maintenance: bool,
    pub vibs: Vec<Vib>,
    pub staged: Vec<Vib>,
    /// Packages that are gone after the next boot.
    pub removing: Vec<String>,
    /// Version of the loaded NVIDIA module.
    pub loaded: Option<String>,
    pub default_type: String,
    pub policy: String,
    pub gpus: Vec<Gpu>,
    pub vms: Vec<Vm>,
    /// Installs that answer "Reboot Required: false" although a reboot is needed, as the real one does.
    pub says_no_reboot: bool,
    /// The module does not load at boot (a wrong package).
    pub module_broken: bool,
    pub uuid: String,
    pub acceptance: String,
    pub profile: String,
    pub components: Vec<Vib>,
    /// Parameters of the module nvidia, as configured.
    pub parameters: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Vib {
    pub name: String,
    pub version: String,
    pub vendor: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Gpu {
    pub bdf: String,
    pub name: String,
    pub device_name: String,
    pub device_id: String,
    pub subsystem_id: String,
    pub architecture: Option<String>,
    pub memory_mib: u64,
    pub bar1_mib: u64,
    pub ecc: Option<bool>,
    pub ecc_pending: Option<bool>,
    pub graphics_type: String,
    pub token: String,
    pub mig_capable: bool,
    pub mig: bool,
    pub mig_pending: bool,
    /// Owner after the next reboot, and now.
    pub given_pending: bool,
    pub given: bool,
    /// A change of owner applies at once.
    pub applies_at_once: bool,
    /// It never changes hands: a stale record of the host.
    pub stuck: bool,
    /// Configured and not active, also behind a reboot, until it is turned off and on (7.0 and 8.0 are known
    /// for it).
    #[serde(default)]
    pub asleep: bool,
    /// Cannot be a passthrough device.
    pub not_capable: bool,
    /// Graphics type of its own, where one was set.
    pub own_type: Option<String>,
    pub mixed_pending: bool,
    pub mixed: bool,
    /// The board has a sound function.
    pub sound: bool,
    /// SR-IOV virtual functions that it has while the host's driver drives it.
    #[serde(default)]
    pub virtual_functions: u8,
    /// Processes on it, and whether they do anything, as a look at it finds them.
    #[serde(skip)]
    pub processes: Vec<u32>,
    #[serde(skip)]
    pub busy: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Vm {
    pub vmid: u32,
    pub name: String,
    pub datastore: String,
    pub file: String,
    pub on: bool,
    /// The guest does not answer a shutdown.
    pub stubborn: bool,
    /// It waits for an answer at its console, and neither starts nor stops.
    #[serde(default)]
    pub question: Option<String>,
    pub snapshots: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Linux {
    pub kernel: String,
    pub packages: BTreeSet<String>,
    pub nouveau_loaded: bool,
    /// What the initramfs was built with.
    pub initramfs_blocks_nouveau: bool,
    pub display_manager: bool,
    pub graphical: bool,
    pub driver: Option<String>,
    pub loaded: Option<String>,
    /// A driver with which the GPUs' memory reaches half of what it should.
    #[serde(default)]
    pub slow_with: Option<String>,
    /// The driver is the one for vGPU and licensed products.
    pub grid: bool,
    pub gridd: String,
    pub persistenced: bool,
    pub licensed: bool,
    pub journal: Vec<String>,
    /// Lines of the kernel's log, as `journalctl -k -o short-unix` prints them.
    pub kernel_log: Vec<String>,
    /// Whether DKMS knows the driver.
    pub dkms: bool,
    /// Kernels that have the driver's module.
    pub modules_of: BTreeSet<String>,
    /// A newer kernel that is installed, and whether the next boot is its.
    pub newer_kernel: Option<String>,
    pub boots_newer: bool,
    /// Folder name of the host, and the VM's name there.
    pub host: String,
    pub vm_name: String,
    /// What the lab's license servers accept.
    pub license_server: String,
    pub token: String,
}

impl Linux {
    /// Kernels that are installed.
    pub fn kernels(&self) -> Vec<String> {
        std::iter::once(self.kernel.clone()).chain(self.newer_kernel.clone()).collect()
    }
}

impl Machine {
    pub fn read(folder: &Path) -> Self {
        Self::with(folder, |m| m.clone())
    }

    /// Keeps a machine's state in memory from here on, for simulations that make thousands of them in one
    /// process.
    pub fn keep_in_memory(folder: &Path, machine: Self) {
        memory().insert(folder.into(), Arc::new(Mutex::new(machine)));
    }

    /// Whether a machine is kept in memory.
    pub fn in_memory(folder: &Path) -> bool {
        memory().contains_key(folder)
    }

    /// Forgets a machine that was kept in memory.
    pub fn forget(folder: &Path) {
        memory().remove(folder);
    }

    /// Reads, changes and writes under a lock: tools run beside each other.
    pub fn with<T>(folder: &Path, change: impl FnOnce(&mut Self) -> T) -> T {
        let kept = memory().get(folder).cloned();
        if let Some(kept) = kept {
            let mut machine = kept.lock().unwrap();
            machine.folder = folder.into();
            return change(&mut machine);
        }
        let lock = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join("state.lock"))
            .unwrap();
        let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
        let path = folder.join("state.json");
        let before = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut machine: Self = serde_json::from_slice(&before).unwrap();
        machine.folder = folder.into();
        let result = change(&mut machine);
        let after = serde_json::to_vec_pretty(&machine).unwrap();
        if after != before {
            let new = folder.join("state.json.new");
            std::fs::write(&new, after).unwrap();
            std::fs::rename(new, path).unwrap();
        }
        drop(lock);
        result
    }

    pub fn create(folder: &Path, machine: &Self) {
        std::fs::create_dir_all(folder.join("tools")).unwrap();
        std::fs::create_dir_all(folder.join("root")).unwrap();
        std::fs::write(folder.join("state.json"), serde_json::to_vec_pretty(machine).unwrap()).unwrap();
    }

    pub fn log(&mut self, call: &str) {
        if memory().contains_key(&self.folder) {
            self.calls.push(call.into());
            return;
        }
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("calls.log"))
            .unwrap();
        let _ = writeln!(file, "{call}");
    }

    pub fn fault(&self, call: &str) -> Option<Fault> {
        self.faults.iter().find(|(prefix, _)| call.starts_with(prefix.as_str())).map(|(_, f)| f.clone())
    }

    pub fn root(&self, path: &str) -> PathBuf {
        self.folder.join("root").join(path.trim_start_matches('/'))
    }

    pub fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root(path)).ok()
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.root(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Makes a tool appear in `tools/`.
    pub fn link(&self, name: &str) {
        link(&self.folder.join("tools").join(name));
    }

    pub fn esxi(&mut self) -> &mut Esxi {
        self.esxi.as_mut().expect("a host")
    }

    pub fn linux(&mut self) -> &mut Linux {
        self.linux.as_mut().expect("a guest")
    }
}

/// A link to the simulator under another name.
pub fn link(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let _ = std::fs::remove_file(path);
    std::os::unix::fs::symlink(simulator(), path).unwrap();
}

pub fn simulator() -> PathBuf {
    if let Some(path) = std::env::var_os("VSGPU_SIM") {
        return path.into();
    }
    let exe = std::env::current_exe().unwrap();
    if exe.file_name().is_some_and(|n| n == "vsgpu-sim") {
        return exe;
    }
    // Tests live in target/debug/deps, the simulator in target/debug.
    exe.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("vsgpu-sim"))
        .find(|p| p.exists())
        .unwrap_or_else(|| "vsgpu-sim".into())
}

pub fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

/// What happens when a machine boots.
pub fn boot(folder: &Path) {
    Machine::with(folder, |m| {
        m.boots += 1;
        m.booted_at_ms = now_ms();
        if m.esxi.is_some() {
            for ramdisk in ["var/run", "tmp"] {
                let _ = std::fs::remove_dir_all(m.root(ramdisk));
            }
            let host = m.esxi();
            let removing = std::mem::take(&mut host.removing);
            host.vibs.retain(|v| !removing.contains(&v.name));
            let staged = std::mem::take(&mut host.staged);
            install(host, staged);
            let driver = host
                .vibs
                .iter()
                .find(|v| is_manager(v))
                .map(|v| v.version.split('-').next().unwrap_or_default().to_string());
            host.loaded = driver.filter(|_| !host.module_broken);
            for gpu in &mut host.gpus {
                gpu.ecc = gpu.ecc_pending;
                gpu.mig = gpu.mig_pending;
                gpu.given = if gpu.stuck || gpu.asleep { gpu.given } else { gpu.given_pending };
            }
            graphics_restart(host);
            host.vms.iter_mut().for_each(|vm| vm.on = false);
        }
        if m.linux.is_some() {
            let boots = m.boots;
            let guest = m.linux();
            guest.nouveau_loaded = !guest.initramfs_blocks_nouveau && guest.packages.contains("nouveau");
            if let Some(next) = guest.newer_kernel.take_if(|_| guest.boots_newer) {
                guest.kernel = next;
            }
            guest.loaded = guest
                .driver
                .clone()
                .filter(|_| !guest.nouveau_loaded && guest.modules_of.contains(&guest.kernel));
            guest.display_manager = guest.graphical && guest.packages.contains("gdm3");
            let id = format!("{:08x}-0000-4000-8000-{:012x}", boots, now_ms());
            m.write("/proc/sys/kernel/random/boot_id", &format!("{id}\n"));
            kernel_files(m);
            super::guest::gridd(m);
        }
    });
}

/// Configured graphics settings become active.
pub fn graphics_restart(host: &mut Esxi) {
    let (loaded, default) = (host.loaded.is_some(), host.default_type.clone());
    for gpu in &mut host.gpus {
        gpu.mixed = gpu.mixed_pending;
        gpu.graphics_type = match (gpu.given, loaded) {
            (true, _) => "Direct".into(),
            (false, true) => gpu.own_type.clone().unwrap_or(default.clone()),
            (false, false) => "Basic".into(),
        };
    }
}

/// The parts of /proc that follow from the state.
pub fn kernel_files(m: &mut Machine) {
    let guest = m.linux().clone();
    let mut modules = "ext4 987136 1 - Live 0x0000000000000000\n".to_string();
    if guest.nouveau_loaded {
        modules += "nouveau 2469888 0 - Live 0x0000000000000000\n";
    }
    if guest.loaded.is_some() {
        modules += "nvidia_uvm 4861952 0 - Live 0x0000000000000000 (POE)\nnvidia 56717312 1 nvidia_uvm, Live 0x0000000000000000 (POE)\n";
    }
    m.write("/proc/modules", &modules);
    m.write("/proc/sys/kernel/osrelease", &format!("{}\n", guest.kernel));
    match &guest.loaded {
        Some(v) => m.write(
            "/proc/driver/nvidia/version",
            &format!("NVRM version: NVIDIA UNIX x86_64 Kernel Module  {v}  (simulated)\n"),
        ),
        None => drop(std::fs::remove_file(m.root("/proc/driver/nvidia/version"))),
    }
    let bus = m.root("/sys/bus/pci/devices");
    let _ = std::fs::remove_dir_all(&bus);
    m.write("/sys/bus/pci/devices/0000:00:0f.0/vendor", "0x15ad\n");
    let efi = m.root("/sys/firmware/efi");
    let _ = std::fs::remove_dir_all(&efi);
    let (gpus, booted_by_efi) = super::cuda::given(m);
    if booted_by_efi {
        m.write("/sys/firmware/efi/fw_platform_size", "64\n");
    }
    for (n, gpu) in gpus.iter().enumerate() {
        let at = format!("/sys/bus/pci/devices/0000:02:0{}.0", n + 1);
        let (device, sub) = (&gpu.device_id, &gpu.subsystem_id);
        for (file, text) in
            [("vendor", "0x10de"), ("device", device), ("class", "0x030200"), ("subsystem_device", sub)]
        {
            m.write(&format!("{at}/{file}"), &format!("{text}\n"));
        }
        write_config(m, &format!("{at}/config"), gpu.host_driver.as_deref());
        let first = 0x3b8_0000_0000u64 + ((n as u64) << 38);
        let bar1 = match gpu.bar1_mib {
            0 => "0x0000000000000000 0x0000000000000000 0x0000000000000000".to_string(),
            mib => format!("0x{first:016x} 0x{:016x} 0x000000000014220c", first + (mib << 20) - 1),
        };
        m.write(
            &format!("{at}/resource"),
            &format!("0x00000000fc000000 0x00000000fcffffff 0x0000000000040200\n{bar1}\n"),
        );
    }
}

/// The device's configuration space: behind a vGPU of a manager since 12.0 (R460) the capability that names
/// it.
fn write_config(m: &Machine, path: &str, host_driver: Option<&str>) {
    let mut space = vec![0u8; 256];
    space[..2].copy_from_slice(&[0xde, 0x10]);
    let branch = |v: &str| v.split('.').next().and_then(|b| b.parse::<u32>().ok()).unwrap_or(0);
    if let Some(driver) = host_driver.filter(|d| branch(d) >= 460) {
        space[0x34] = 0x60;
        let mut own = vec![0x09, 0, 27, b'V', b'F', 0, 22];
        for text in [driver.to_string(), format!("r{}_00", branch(driver))] {
            own.extend(text.bytes().chain(std::iter::repeat(0)).take(10));
        }
        space[0x60..0x60 + own.len()].copy_from_slice(&own);
    }
    std::fs::write(m.root(path), space).unwrap();
}

pub fn is_manager(vib: &Vib) -> bool {
    vib.vendor.starts_with("NV") && !vib.name.to_lowercase().contains("mgmt")
}

/// Replaces packages of the same kind.
pub fn install(host: &mut Esxi, new: Vec<Vib>) -> Vec<Vib> {
    let mut removed = vec![];
    for vib in new {
        let same = |old: &Vib| {
            old.name == vib.name || (old.vendor.starts_with("NV") && is_manager(old) == is_manager(&vib))
        };
        removed.extend(host.vibs.iter().filter(|v| same(v)).cloned());
        host.vibs.retain(|v| !same(v));
        host.vibs.push(vib);
    }
    removed
}
