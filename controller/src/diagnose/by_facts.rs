//! Causes that show in facts, not in texts: what a host, a VM and its guest say of themselves, put side by side. The
//! records (what it is, what to do, from where that is known) stand in the catalogue in core; here stands only what a cause
//! looks like in facts. A healthy machine has none of these signs, so they are looked at where every link is good, too.
//!
//! Deliberately absent: what a requirement finds by itself when a key of the fleet file wishes for it. These signs are for
//! what nobody wished for, and for pairs of machines, which no requirement sees.

use crate::fleet::Vm;
use crate::inventory::{Inventory, Seen};
use crate::node::{NodeId, NodeKind};
use vsgpu_core::diagnosis::Confidence::{self, High, Medium};
use vsgpu_core::diagnosis::{Evidence, Finding, named};
use vsgpu_core::knowledge::gpus::{self, OpenModule};
use vsgpu_core::knowledge::pairs;
use vsgpu_core::knowledge::{releases, vgpu_types};
use vsgpu_core::readers::nvidia_smi::{TypesOfGpu, is_licensed};
use vsgpu_core::requirement::Verdict;
use vsgpu_core::units::DriverVersion;
use vsgpu_core::{Fact, Requirement};
use vsgpu_guest_agent::facts::{Clock, Health};
use vsgpu_guest_agent::guest::build_tools::BuildToolsFact;
use vsgpu_guest_agent::guest::driver::DriverFact;
use vsgpu_guest_agent::guest::license::LicenseFact;
use vsgpu_guest_agent::guest::nouveau::NouveauFact;
use vsgpu_host_agent::facts::{Gpus, HostSummary, PciGpu, VgpuTypes, VirtualMachines, VmConfig, VmDevices};
use vsgpu_host_agent::host::mig::MigFact;
use vsgpu_host_agent::host::{HostGraphics, HostPassthrough, MaintenanceModeFact, VgpuManagerFact};
use vsgpu_host_agent::pci_slots::{Slot, slots};
use vsgpu_host_agent::vm::PowerState;
use vsgpu_host_agent::vm::memory_reserved::Share;
use vsgpu_host_agent::vm::{MemoryReserved, Mmio, MmioSpec};

/// What is known of a host, read once for all its VMs.
#[derive(Default)]
pub struct HostFacts {
    name: String,
    vms: Option<VirtualMachines>,
    graphics: Option<HostGraphics>,
    passthrough: Option<HostPassthrough>,
    manager: Option<VgpuManagerFact>,
    types: Option<VgpuTypes>,
    mig: Option<MigFact>,
    gpus: Option<Gpus>,
    summary: Option<HostSummary>,
    maintenance: Option<MaintenanceModeFact>,
}

impl HostFacts {
    pub fn of(name: &str, seen: Option<&Seen>) -> Self {
        Self {
            name: name.into(),
            vms: fact(seen),
            graphics: fact(seen),
            passthrough: fact(seen),
            manager: fact(seen),
            types: fact(seen),
            mig: fact(seen),
            gpus: fact(seen),
            summary: fact(seen),
            maintenance: fact(seen),
        }
    }
}

/// What is known of a VM and its guest.
#[derive(Default)]
pub struct VmFacts {
    name: String,
    guest_name: String,
    devices: Option<VmDevices>,
    /// The keys that requirements without devices read.
    config: Option<VmConfig>,
    running: Option<bool>,
    to_run: bool,
    /// The fleet file wants it off.
    meant_off: bool,
    driver: Option<DriverFact>,
    health: Option<Health>,
    nouveau: Option<NouveauFact>,
    license: Option<LicenseFact>,
    tools: Option<BuildToolsFact>,
    clock: Option<Clock>,
    /// When the facts were gathered, by the controller's clock.
    at: u64,
}

impl VmFacts {
    pub fn of(vm: &Vm, host: &HostFacts, inventory: &Inventory) -> Self {
        let (node, of_guest) = (NodeId::new(NodeKind::Vm, &vm.name), NodeId::new(NodeKind::Guest, &vm.name));
        let (seen, guest) = (inventory.seen(&node), inventory.seen(&of_guest));
        let listed = host.vms.iter().flat_map(|all| &all.vms).find(|v| v.name == vm.vm_name);
        Self {
            name: node.to_string(),
            guest_name: of_guest.to_string(),
            devices: fact(seen),
            config: fact(seen),
            running: listed.map(|v| v.running),
            to_run: vm.is_to_run(),
            meant_off: vm.power == Some(PowerState::Off),
            driver: fact(guest),
            health: fact(guest),
            nouveau: fact(guest),
            license: fact(guest),
            tools: fact(guest),
            clock: fact(guest),
            at: inventory.at,
        }
    }

    fn slots(&self) -> Vec<Slot> {
        self.devices.iter().flat_map(|d| slots(&d.config.keys).into_values()).collect()
    }

    fn profiles(&self) -> Vec<String> {
        let profile = |slot| if let Slot::Vgpu(profile) = slot { Some(profile) } else { None };
        self.slots().into_iter().filter_map(profile).collect()
    }

    fn has_whole_gpu(&self) -> bool {
        self.fixed().next().is_some()
            || self.slots().iter().any(|slot| matches!(slot, Slot::Dynamic(_)) && slot.is_nvidia_gpu())
    }

    /// Whole GPUs that the VM's file names by their address; NVSwitches and sound functions are none.
    fn fixed(&self) -> impl Iterator<Item = String> {
        let is_gpu = |at: &String| self.devices.as_ref().is_none_or(|d| !d.no_gpus.contains(at));
        let address = |slot| match slot {
            Slot::Fixed { at, .. } => at.map(|at| at.to_string()),
            _ => None,
        };
        self.slots().into_iter().filter(Slot::is_nvidia_gpu).filter_map(address).filter(is_gpu)
    }

    fn has_gpu(&self) -> bool {
        self.has_whole_gpu() || !self.profiles().is_empty()
    }

    /// It does not run, and nobody wants it off.
    fn is_down(&self) -> bool {
        self.running == Some(false) && !self.meant_off
    }

    /// As much memory is reserved as it has, pinned or not.
    fn reserves_all(&self) -> bool {
        let config = self.config.as_ref();
        let least = config.and_then(|c| c.keys.get("sched.mem.min")?.parse::<u64>().ok());
        least.zip(config).is_some_and(|(least, config)| least >= config.memory_mib)
    }

    fn key(&self, key: &str) -> bool {
        self.devices
            .as_ref()
            .and_then(|d| d.config.keys.get(key))
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// The driver's module is on disk for the running kernel and not loaded.
    fn module_waits(&self) -> bool {
        self.driver.as_ref().is_some_and(|d| d.modules.is_empty() && d.module_version.is_some())
    }
}

/// What a requirement says that nobody has to wish for.
fn unmet<R: Requirement>(spec: &R::Spec, fact: &R::Fact) -> Option<String> {
    match R::check(spec, fact) {
        Verdict::Unmet { is, wants, .. } => Some(format!("{}: {is}; {wants} is needed", R::NAME)),
        _ => None,
    }
}

fn fact<F: Fact>(seen: Option<&Seen>) -> Option<F> {
    seen?.fact().ok()
}

/// A host by itself, or with one of its VMs.
pub struct Machines<'a> {
    pub host: &'a HostFacts,
    pub vm: Option<&'a VmFacts>,
}

/// Which machine a sign is seen at.
#[derive(Clone, Copy)]
enum Of {
    Host,
    Vm,
    Guest,
}

/// What a cause looks like in facts.
struct Sign {
    cause: &'static str,
    of: Of,
    confidence: Confidence,
    /// What is so, where it is.
    seen: fn(&Machines<'_>) -> Option<String>,
}

const fn sign(
    cause: &'static str,
    of: Of,
    confidence: Confidence,
    seen: fn(&Machines<'_>) -> Option<String>,
) -> Sign {
    Sign { cause, of, confidence, seen }
}

const SIGNS: &[Sign] = &[
    sign("graphics-type-shared", Of::Host, High, shared_graphics),
    sign("passthrough-not-active", Of::Host, High, passthrough_waits),
    sign("device-not-passthrough", Of::Host, High, device_not_given),
    sign("device-moved", Of::Vm, High, device_is_gone),
    sign("device-not-capable", Of::Host, High, not_capable),
    sign("all-gpus-passthrough", Of::Host, High, all_given),
    sign("no-host-driver", Of::Host, High, no_manager),
    sign("host-reboot-waits", Of::Host, Medium, reboot_waits),
    sign("host-driver-not-running", Of::Host, Medium, manager_not_loaded),
    sign("no-vgpu-mode", Of::Host, Medium, no_profiles),
    sign("profile-not-offered", Of::Host, High, profile_not_offered),
    sign("profiles-exhausted", Of::Host, Medium, profile_has_no_room),
    sign("mig-mode-pending", Of::Host, Medium, mig_waits),
    sign("mig-left-on", Of::Host, High, mig_in_the_way),
    sign("gpu-memory-remap-failed", Of::Host, Medium, |m| rows(&m.host.gpus.as_ref()?.0.gpus, |r| r.failed)),
    sign("gpu-memory-remap-waits", Of::Host, Medium, |m| rows(&m.host.gpus.as_ref()?.0.gpus, |r| r.pending)),
    sign("host-in-maintenance", Of::Host, High, in_maintenance),
    // A VM that runs has passed these checks of vSphere's, whatever its file says.
    sign("memory-not-reserved", Of::Vm, High, |m| {
        let vm = m.vm.filter(|vm| vm.has_gpu() && vm.is_down() && !vm.reserves_all())?;
        unmet::<MemoryReserved>(&Share::All, vm.config.as_ref()?)
    }),
    sign("mmio-too-small", Of::Vm, Medium, |m| {
        let without_bar =
            |vm: &VmFacts| vm.driver.iter().flat_map(|d| &d.on_bus).any(|g| g.bar1_mib == Some(0));
        let vm = m.vm.filter(|vm| vm.has_whole_gpu() && (vm.is_down() || without_bar(vm)))?;
        unmet::<Mmio>(&MmioSpec::Auto(vec![]), vm.devices.as_ref()?)
    }),
    sign("vgpu-window-missing", Of::Vm, Medium, large_vgpu_without_window),
    sign("nested-virt-on", Of::Vm, Medium, |m| {
        let vm = m.vm.filter(|vm| vm.has_whole_gpu() && vm.key("vhv.enable"))?;
        Some(format!("`vhv.enable` is TRUE, and the VM has {}", counted_gpus(vm)))
    }),
    sign("bar1-empty", Of::Guest, High, bar_without_room),
    sign("no-gpu-in-guest", Of::Guest, High, no_gpu_on_bus),
    sign("nouveau-loaded", Of::Guest, High, |m| {
        m.vm?.nouveau.as_ref()?.loaded.then(|| "the module nouveau is loaded".into())
    }),
    sign("api-mismatch", Of::Guest, High, module_is_another),
    sign("kernel-headers-missing", Of::Guest, High, |m| {
        let vm = m.vm.filter(|vm| vm.tools.as_ref().is_some_and(|t| !t.headers))?;
        module_of_another_kernel(vm).map(|what| format!("{what}; its headers are missing"))
    }),
    sign("module-of-another-kernel", Of::Guest, High, |m| {
        let vm = m.vm.filter(|vm| vm.tools.as_ref().is_none_or(|t| t.headers))?;
        module_of_another_kernel(vm)
    }),
    sign("secure-boot", Of::Guest, Medium, |m| {
        let vm = m.vm.filter(|vm| vm.module_waits())?;
        let driver = vm.driver.as_ref()?;
        let trusted = driver.certificates.values().any(|trusted| *trusted);
        (driver.secure_boot == Some(true) && !trusted)
            .then(|| "Secure Boot is on, and the module is there and not loaded".into())
    }),
    sign("open-module-needed", Of::Guest, High, |m| {
        wrong_module(m.vm?, false, |model| model.open_module == OpenModule::Required)
    }),
    sign("open-module-on-old-gpu", Of::Guest, High, |m| {
        wrong_module(m.vm?, true, |model| model.open_module == OpenModule::No)
    }),
    sign("guest-read-only", Of::Guest, High, |m| {
        m.vm?.driver.as_ref()?.read_only.then(|| "the root file system is mounted read-only".into())
    }),
    sign("cuda-replaced-driver", Of::Guest, Medium, driver_without_gridd),
    sign("guest-driver-newer", Of::Guest, High, |m| pair(m, |host, guest| guest > host)),
    sign("guest-driver-older", Of::Guest, Medium, |m| pair(m, |host, guest| guest < host)),
    // A token may lie elsewhere (ClientConfigTokenPath), so it is not sure.
    sign("no-token", Of::Guest, Medium, |m| {
        let license = unlicensed(m.vm?)?;
        (license.tokens.is_empty() && !license.configured.contains_key("ServerAddress"))
            .then(|| "no token, and no ServerAddress in gridd.conf".into())
    }),
    sign("gridd-missing", Of::Guest, High, |m| {
        (unlicensed(m.vm?)?.program == Some(false)).then(|| "nvidia-gridd is not installed".into())
    }),
    sign("gridd-ended", Of::Guest, High, |m| {
        let license = unlicensed(m.vm?).filter(|l| l.program != Some(false))?;
        (!matches!(license.daemon.as_str(), "active" | "activating" | "reloading" | ""))
            .then(|| format!("nvidia-gridd is {}", license.daemon))
    }),
    sign("feature-type-wrong", Of::Guest, High, |m| {
        let license = unlicensed(m.vm?)?;
        (license.configured.get("FeatureType")? == "0").then(|| "FeatureType=0 in gridd.conf".into())
    }),
    sign("license-clock", Of::Guest, Medium, clock_is_off),
];

fn counted_gpus(vm: &VmFacts) -> String {
    match vm.profiles().as_slice() {
        [] => "a whole GPU".into(),
        profiles => profiles.join(" + "),
    }
}

/// Every GPU of the host's driver serves the host's own graphics only.
fn shared_graphics(m: &Machines<'_>) -> Option<String> {
    let profile = m.vm?.profiles().into_iter().next()?;
    let graphics = m.host.graphics.as_ref()?;
    let mut served = graphics.devices.iter().filter(|d| d.graphics_type != "Direct").peekable();
    let first = served.peek()?.bdf.clone();
    served.all(|d| d.graphics_type == "Shared").then(|| match graphics.default_type.as_str() {
        "SharedPassthru" => {
            format!("SharedPassthru is configured, but {first} is still Shared; the VM has {profile}")
        }
        other => format!("the host's default is {other}, {first} is Shared; the VM has {profile}"),
    })
}

fn passthrough_waits(m: &Machines<'_>) -> Option<String> {
    let fact = m.host.passthrough.as_ref()?;
    let waits = |gpu: &&PciGpu| fact.enabled.get(&gpu.address) == Some(&true) && !gpu.is_passed_through();
    // Of a VM's way only its own GPU counts; a host by itself tells of any.
    let own: Option<Vec<String>> = m.vm.map(|vm| vm.fixed().collect());
    let counts = |gpu: &&PciGpu| own.as_ref().is_none_or(|own| own.contains(&gpu.address));
    let gpu = fact.devices.iter().filter(|gpu| gpu.is_gpu()).filter(counts).find(waits)?;
    Some(format!("{}: configured for passthrough, owned by {}", gpu.address, owner(gpu)))
}

fn owner(gpu: &PciGpu) -> &str {
    gpu.current_owner.as_deref().unwrap_or("nobody")
}

fn device_not_given(m: &Machines<'_>) -> Option<String> {
    let fact = m.host.passthrough.as_ref()?;
    let not = |at: &String| {
        fact.enabled.get(at) != Some(&true)
            && fact.devices.iter().any(|gpu| gpu.address == *at && !gpu.is_passed_through())
    };
    m.vm?.fixed().find(not).map(|at| format!("the VM has {at}, and the host does not pass it through"))
}

fn device_is_gone(m: &Machines<'_>) -> Option<String> {
    let vm = m.vm?;
    let devices = vm.devices.as_ref().filter(|d| !d.gpus.is_empty())?;
    let known =
        |at: &String| devices.gpus.iter().any(|gpu| gpu.address == *at) || devices.no_gpus.contains(at);
    vm.fixed()
        .find(|at| !known(at))
        .map(|at| format!("the VM has {at}, and the host has no NVIDIA device there"))
}

fn not_capable(m: &Machines<'_>) -> Option<String> {
    let fact = m.host.passthrough.as_ref()?;
    m.vm?.fixed().find_map(|at| {
        let gpu = fact.devices.iter().find(|gpu| gpu.address == at)?;
        (gpu.passthru_capable == Some(false))
            .then(|| format!("{at}: esxcli says it is not passthrough capable"))
    })
}

fn all_given(m: &Machines<'_>) -> Option<String> {
    let profile = m.vm?.profiles().into_iter().next()?;
    m.host.manager.as_ref()?.all_given.then(|| format!("every GPU is passed through; the VM has {profile}"))
}

fn no_manager(m: &Machines<'_>) -> Option<String> {
    let profile = m.vm?.profiles().into_iter().next()?;
    let manager = m.host.manager.as_ref()?;
    let none = manager.packages.installed.is_empty() && manager.packages.staged.is_empty();
    (none && !manager.module_loaded).then(|| format!("no NVIDIA package is installed; the VM has {profile}"))
}

fn reboot_waits(m: &Machines<'_>) -> Option<String> {
    let staged = m.host.manager.as_ref().and_then(|manager| {
        let first = manager.packages.staged.iter().find(|vib| !manager.packages.installed.contains(vib))?;
        Some(format!("{} {} waits for the next boot", first.name, first.version))
    });
    let said = || {
        (m.host.summary.as_ref()?.reboot_required == Some(true))
            .then(|| "the host says that it needs a reboot".into())
    };
    staged.or_else(said)
}

fn manager_not_loaded(m: &Machines<'_>) -> Option<String> {
    let manager = m.host.manager.as_ref()?;
    if manager.module_loaded || manager.all_given || !manager.packages.staged.is_empty() {
        return None;
    }
    let vib = manager.packages.installed.first()?;
    Some(format!("{} {} is installed, the module nvidia is not loaded", vib.name, vib.version))
}

fn no_profiles(m: &Machines<'_>) -> Option<String> {
    let profile = m.vm?.profiles().into_iter().next()?;
    let manager = m.host.manager.as_ref().filter(|manager| !manager.all_given)?;
    let version = manager.driver_version.as_ref()?;
    let types = m.host.types.as_ref()?;
    types
        .supported
        .iter()
        .all(|gpu| gpu.names.is_empty())
        .then(|| format!("the manager {version} runs and offers no profile; the VM has {profile}"))
}

fn same_profile(one: &str, other: &str) -> bool {
    vgpu_types::plain(one) == vgpu_types::plain(other)
}

fn offers(list: &[TypesOfGpu], profile: &str) -> bool {
    list.iter().flat_map(|gpu| &gpu.names).any(|name| same_profile(name, profile))
}

fn profile_not_offered(m: &Machines<'_>) -> Option<String> {
    let types = m.host.types.as_ref()?;
    let some = types.supported.iter().any(|gpu| !gpu.names.is_empty());
    let profile = m.vm?.profiles().into_iter().find(|profile| some && !offers(&types.supported, profile))?;
    Some(format!("the VM has {profile}, which is not among the profiles that the host offers"))
}

/// Only of a VM that does not run: the place of one that runs is taken by itself.
fn profile_has_no_room(m: &Machines<'_>) -> Option<String> {
    let vm = m.vm.filter(|vm| vm.running == Some(false) && vm.to_run)?;
    let types = m.host.types.as_ref()?;
    let full = |profile: &String| offers(&types.supported, profile) && !offers(&types.creatable, profile);
    let profile = vm.profiles().into_iter().find(full)?;
    Some(format!("the host offers {profile}, but has no room for one more"))
}

fn mig_waits(m: &Machines<'_>) -> Option<String> {
    let gpu =
        m.host.mig.as_ref()?.gpus.iter().find(|gpu| gpu.pending.is_some() && gpu.pending != gpu.current)?;
    let word = |on: Option<bool>| if on == Some(true) { "on" } else { "off" };
    Some(format!("{}: MIG is {}, and will be {}", gpu.bus_id, word(gpu.current), word(gpu.pending)))
}

fn mig_in_the_way(m: &Machines<'_>) -> Option<String> {
    let vm = m.vm.filter(|vm| vm.running != Some(true))?;
    let mut gpus = m.host.mig.as_ref()?.gpus.iter().peekable();
    gpus.peek()?;
    let sliced = |profile: &String| vgpu_types::find(profile).is_some_and(|t| !t.mig);
    let profile = vm.profiles().into_iter().find(sliced)?;
    gpus.all(|gpu| gpu.current == Some(true))
        .then(|| format!("MIG is on at every GPU of the host; {profile} is time-sliced"))
}

fn rows(
    gpus: &[vsgpu_core::readers::nvidia_smi::Gpu],
    so: fn(&vsgpu_core::readers::nvidia_smi::RemappedRows) -> bool,
) -> Option<String> {
    let gpu = gpus.iter().find(|gpu| gpu.remapped_rows.as_ref().is_some_and(so))?;
    Some(format!("{}: nvidia-smi says so of its remapped rows", gpu.bus_id))
}

fn in_maintenance(m: &Machines<'_>) -> Option<String> {
    let vm = m.vm.filter(|vm| vm.running == Some(false) && vm.to_run)?;
    m.host
        .maintenance
        .as_ref()?
        .enabled
        .then(|| format!("the host is in maintenance mode; {} is to run", vm.name))
}

/// Frame buffers above this want a 64-bit window, by public guides.
const LARGE_VGPU_MIB: u64 = 16 * 1024;

/// Only of a VM that should run and does not.
fn large_vgpu_without_window(m: &Machines<'_>) -> Option<String> {
    let vm =
        m.vm.filter(|vm| vm.running == Some(false) && vm.to_run && !vm.key("pcipassthru.use64bitmmio"))?;
    let large = |profile: &String| vgpu_types::find(profile).is_some_and(|t| t.size_mib > LARGE_VGPU_MIB);
    let profile = vm.profiles().into_iter().find(large)?;
    Some(format!("`pciPassthru.use64bitMMIO` is not TRUE, and {profile} has more than 16 GB"))
}

fn bar_without_room(m: &Machines<'_>) -> Option<String> {
    let gpu = m.vm?.driver.as_ref()?.on_bus.iter().find(|gpu| gpu.bar1_mib == Some(0))?;
    Some(format!("{}: BAR1 has no room", gpu.address))
}

fn no_gpu_on_bus(m: &Machines<'_>) -> Option<String> {
    let vm = m.vm.filter(|vm| vm.has_gpu())?;
    (vm.driver.as_ref()?.gpu_on_bus == Some(false))
        .then(|| format!("the VM has {}, and its guest sees no NVIDIA device", counted_gpus(vm)))
}

fn module_is_another(m: &Machines<'_>) -> Option<String> {
    let health = m.vm?.health.as_ref()?;
    let (loaded, disk) = (health.module.as_ref()?, health.on_disk.as_ref()?);
    (health.loaded && loaded != disk).then(|| format!("module {loaded} is loaded, {disk} is installed"))
}

/// A driver is installed, and the running kernel has no module of it.
fn module_of_another_kernel(vm: &VmFacts) -> Option<String> {
    let driver = vm.driver.as_ref().filter(|driver| driver.gpu_on_bus == Some(true))?;
    if !driver.modules.is_empty() || driver.module_version.is_some() || driver.kernel.is_empty() {
        return None;
    }
    let other: Vec<&str> = driver
        .dkms_modules
        .iter()
        .filter(|m| m.state == "installed")
        .filter_map(|m| m.kernel.as_deref())
        .filter(|kernel| *kernel != driver.kernel)
        .collect();
    match other.first() {
        Some(kernel) => Some(format!("the kernel is {}, the module was built for {kernel}", driver.kernel)),
        None if driver.from_run => {
            Some(format!("a driver is installed, but not for kernel {}", driver.kernel))
        }
        None => None,
    }
}

fn wrong_module(vm: &VmFacts, open: bool, of: fn(&gpus::Model) -> bool) -> Option<String> {
    let driver = vm.driver.as_ref().filter(|d| d.open_module == Some(open))?;
    // A vGPU has its board's ids, and other rules.
    let model = driver.on_bus.iter().filter(|gpu| gpu.vgpu_type.is_none()).find_map(|gpu| {
        gpus::by_pci(&gpu.device_id, gpu.subsystem_id.as_deref()).filter(|model| of(model))
    })?;
    let word = if open { "open" } else { "proprietary" };
    Some(format!("the {word} module is installed, and the GPU is {}", model.name))
}

/// The license daemon comes with the vGPU driver only, and a vGPU takes that driver only.
fn driver_without_gridd(m: &Machines<'_>) -> Option<String> {
    let vm = m.vm?;
    let driver = vm.driver.as_ref().filter(|d| d.gridd == Some(false) && d.module_version.is_some())?;
    let vgpu = driver.on_bus.iter().find_map(|gpu| gpu.vgpu_type.clone())?;
    let (name, version) = driver.packages.iter().next()?;
    Some(format!("{name} {version} is installed; {vgpu} takes the vGPU driver only"))
}

/// Driver of the guest and manager of its host, of which NVIDIA's rules are known to say no.
fn pair(m: &Machines<'_>, of: fn(u32, u32) -> bool) -> Option<String> {
    let vm = m.vm.filter(|vm| !vm.profiles().is_empty())?;
    let driver = vm.driver.as_ref()?;
    let said = driver.version.as_ref().or(driver.module_version.as_ref())?;
    let host = DriverVersion::leading(m.host.manager.as_ref()?.driver_version.as_ref()?)?;
    let guest = DriverVersion::leading(said)?;
    let (host_major, guest_major) =
        (releases::of_branch(host.branch())?.0, releases::of_branch(guest.branch())?.0);
    if !of(host_major, guest_major) {
        return None;
    }
    // Older ones are taken as far as a rule says so.
    let taken = guest_major < host_major && pairs::guests_of(host_major).contains(&guest_major);
    (!taken).then(|| {
        format!("the guest has {guest} (vGPU {guest_major}.x), its host {host} (vGPU {host_major}.x)")
    })
}

/// The license of a guest with a vGPU whose driver runs and says that it has none. A whole GPU works without.
fn unlicensed(vm: &VmFacts) -> Option<&LicenseFact> {
    let vgpu = |driver: &DriverFact| driver.vgpu || driver.on_bus.iter().any(|gpu| gpu.vgpu_type.is_some());
    let license = vm.license.as_ref().filter(|_| vm.driver.as_ref().is_some_and(vgpu))?;
    let status = |s: &String| s != "N/A" && !is_licensed(s);
    license.statuses.iter().any(status).then_some(license)
}

/// Seconds that looking at a whole fleet may take, and that nobody has to explain.
const NOTICED: u64 = 600;

fn clock_is_off(m: &Machines<'_>) -> Option<String> {
    let vm = m.vm?;
    unlicensed(vm)?;
    let clock = vm.clock.as_ref()?;
    let apart = clock.now.abs_diff(vm.at);
    let side = if clock.now < vm.at { "behind" } else { "ahead of" };
    // Saved facts do not say when they were gathered.
    (vm.at > 0 && apart > NOTICED)
        .then(|| format!("the guest's clock is {} min {side} this machine's", apart / 60))
}

/// Causes whose signs these facts have. Each with what is so as its evidence.
pub fn find(machines: &Machines<'_>) -> Vec<Finding> {
    // What would keep a VM from running is no fault where it is to be off.
    let idle = machines.vm.is_some_and(|vm| vm.meant_off && vm.running != Some(true));
    if idle {
        return vec![];
    }
    let found = |sign: &Sign| {
        let line = (sign.seen)(machines)?;
        let of_vm = machines.vm;
        let text = match sign.of {
            Of::Host => format!("facts of {}", machines.host.name),
            Of::Vm => format!("facts of {}", of_vm.map_or("", |vm| &vm.name)),
            Of::Guest => format!("facts of {}", of_vm.map_or("", |vm| &vm.guest_name)),
        };
        let evidence = Evidence { text, line_number: 0, line, times: 1 };
        let mut finding = Finding::of(named(sign.cause)?, sign.confidence, vec![evidence]);
        // A fact has decided: what else could have the same text does not matter.
        if sign.confidence == High {
            finding.or.clear();
        }
        Some(finding)
    };
    SIGNS.iter().filter_map(found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};
    use std::collections::BTreeSet;

    const A100: &str = "0000:3b:00.0";

    fn read<F: Fact>(value: Value) -> Option<F> {
        Some(from_value(value).unwrap_or_else(|why| panic!("{}: {why}", F::NAME)))
    }

    /// A host with one A100 that serves vGPUs and one that is passed through, and nothing wrong.
    fn host() -> HostFacts {
        let gpu = |address: &str, owner: &str| {
            json!({"address": address, "vendor_id": "10de", "device_id": "20f1", "device_name": "A100",
                "configured_owner": owner, "current_owner": owner, "module": null, "passthru_capable": true})
        };
        let devices = json!([gpu(A100, "VMkernel"), gpu("0000:5e:00.0", "VM Passthru")]);
        let offered = json!([{"bus_id": A100, "names": ["GRID A100-10C", "GRID A100-40C"]}]);
        let vib = json!({"name": "NVD-AIE", "version": "535.183.04", "vendor": "NVIDIA"});
        HostFacts {
            name: "esx-01".into(),
            vms: None,
            graphics: read(json!({"default_type": "SharedPassthru", "assignment_policy": "Performance",
                "devices": [{"bdf": A100, "vendor": null, "device": "A100", "module": "nvidia",
                    "graphics_type": "SharedPassthru", "memory_kib": null, "vms": null}]})),
            passthrough: read(json!({"devices": devices, "esx_version": "8.0.2",
                "enabled": {A100: false, "0000:5e:00.0": true}})),
            manager: read(
                json!({"installed": [vib], "staged": [], "esx_version": "8.0.2", "module_loaded": true,
                "driver_version": "535.183.04", "modes": [], "smi_failure": null}),
            ),
            types: read(json!({"supported": offered, "creatable": offered})),
            mig: read(json!({"gpus": [{"bus_id": A100, "name": null, "architecture": null, "current": false,
                "pending": false}], "smi_failure": null})),
            gpus: read(
                json!({"gpus": [{"bus_id": A100, "remapped_rows": {"correctable": 0, "uncorrectable": 0,
                "pending": false, "failed": false}}]}),
            ),
            summary: read(json!({"reboot_required": false, "in_maintenance_mode": false, "boot_time": null})),
            maintenance: read(json!({"enabled": false, "running": []})),
        }
    }

    fn keys(of: &[(&str, &str)]) -> Value {
        of.iter().map(|(key, value)| (key.to_string(), json!(value))).collect()
    }

    fn config() -> Option<VmConfig> {
        let reserved =
            [("sched.mem.min", "65536"), ("sched.mem.minsize", "65536"), ("sched.mem.pin", "TRUE")];
        read(json!({"vmid": 1, "vmx": "/vmfs/volumes/ds/vm/vm.vmx", "firmware": "efi", "memory_mib": 65536,
            "keys": keys(&reserved)}))
    }

    fn devices(of: &[(&str, &str)]) -> Option<VmDevices> {
        let gpu = |address: &str| {
            json!({"address": address, "vendor_id": "10de", "device_id": "20f1",
            "subsystem_id": "145f", "device_name": "A100", "configured_owner": null, "current_owner": null, "module": null, "passthru_capable": true})
        };
        read(json!({"vmid": 1, "vmx": "/vmfs/volumes/ds/vm/vm.vmx", "firmware": "efi", "memory_mib": 65536,
            "keys": keys(of), "gpus": [gpu(A100), gpu("0000:5e:00.0")], "system_id": "", "held": {}}))
    }

    fn vgpu(profile: &str) -> Option<VmDevices> {
        devices(&[("pcipassthru0.present", "TRUE"), ("pcipassthru0.vgpu", profile)])
    }

    /// 0000:5e:00.0 is 94 in decimal.
    const WHOLE: [(&str, &str); 6] = [
        ("pcipassthru0.present", "TRUE"),
        ("pcipassthru0.id", "00000:094:00.0"),
        ("pcipassthru0.deviceid", "0x20f1"),
        ("pcipassthru0.vendorid", "0x10de"),
        ("pcipassthru.use64bitmmio", "TRUE"),
        ("pcipassthru.64bitmmiosizegb", "256"),
    ];

    fn whole(but: &[(&str, &str)]) -> Option<VmDevices> {
        let kept = WHOLE.iter().filter(|(key, _)| !but.iter().any(|(other, _)| other == key));
        devices(&kept.chain(but).copied().collect::<Vec<_>>())
    }

    fn bus(vgpu: Option<&str>) -> Value {
        json!({"address": "0000:02:00.0", "device_id": "20f1", "subsystem_id": "145f", "bar1_mib": 65536, "vgpu_type": vgpu})
    }

    /// A VM with a vGPU of that host, running and licensed.
    fn vm() -> VmFacts {
        VmFacts {
            name: "vm-01".into(),
            guest_name: "vm-01 (guest)".into(),
            devices: vgpu("grid_a100-10c"),
            config: config(),
            running: Some(true),
            to_run: true,
            meant_off: false,
            driver: read(json!({"version": "535.183.06", "gpus": ["GRID A100-10C"], "vgpu": true,
                "smi_failure": null, "installer": null, "dkms": true, "gpu_on_bus": true,
                "on_bus": [bus(Some("GRID A100-10C"))], "kernel": "5.14.0-1", "modules": ["nvidia"],
                "module_version": "535.183.06", "gridd": true, "open_module": false, "secure_boot": true,
                "certificates": {"a.der": true}, "packages": {}})),
            health: read(json!({"worst": null, "findings": [], "loaded": true, "module": "535.183.06",
                "on_disk": "535.183.06", "xids": [], "license_expires": null, "at": 1000})),
            nouveau: read(json!({"loaded": false, "blocked_by": null, "rebuilt": false, "os_release": ""})),
            license: read(
                json!({"configured": {"FeatureType": "1"}, "template_keys": null, "tokens": {"a.tok": "0"},
                "daemon": "active", "statuses": ["Licensed (Expiry: N/A)"], "product": null, "reason": null,
                "smi_failure": null, "program": true}),
            ),
            tools: read(
                json!({"kernel": "5.14.0-1", "headers": true, "compiler": true, "dkms": true, "os_release": ""}),
            ),
            clock: read(json!({"now": 1000, "synchronized": true})),
            at: 1010,
        }
    }

    fn told(host: &HostFacts, vm: &VmFacts) -> Vec<String> {
        find(&Machines { host, vm: Some(vm) }).into_iter().map(|f| f.cause).collect()
    }

    fn not_loaded(vm: &mut VmFacts) {
        let driver = vm.driver.as_mut().unwrap();
        (driver.version, driver.modules) = (None, vec![]);
    }

    fn unlicensed(vm: &mut VmFacts) -> &mut LicenseFact {
        let license = vm.license.as_mut().unwrap();
        license.statuses = vec!["Unlicensed (Restricted)".into()];
        license
    }

    type Break = fn(&mut HostFacts, &mut VmFacts);

    /// One fault each, in a host and a VM that are well.
    const BROKEN: &[(&str, Break)] = &[
        ("graphics-type-shared", |h, _| {
            h.graphics.as_mut().unwrap().devices[0].graphics_type = "Shared".into()
        }),
        ("passthrough-not-active", |h, v| {
            v.devices = whole(&[]);
            h.passthrough.as_mut().unwrap().devices[1].current_owner = Some("VMkernel".into());
        }),
        ("device-not-passthrough", |h, v| {
            v.devices = whole(&[]);
            let fact = h.passthrough.as_mut().unwrap();
            fact.enabled.clear();
            fact.devices[1].current_owner = Some("VMkernel".into());
        }),
        ("device-moved", |_, v| v.devices = whole(&[("pcipassthru0.id", "00000:095:00.0")])),
        ("device-not-capable", |h, v| {
            v.devices = whole(&[]);
            h.passthrough.as_mut().unwrap().devices[1].passthru_capable = Some(false);
        }),
        ("all-gpus-passthrough", |h, _| h.manager.as_mut().unwrap().all_given = true),
        ("no-host-driver", |h, _| {
            let manager = h.manager.as_mut().unwrap();
            manager.packages.installed.clear();
            manager.module_loaded = false;
        }),
        ("host-reboot-waits", |h, _| h.summary.as_mut().unwrap().reboot_required = Some(true)),
        ("host-driver-not-running", |h, _| h.manager.as_mut().unwrap().module_loaded = false),
        ("no-vgpu-mode", |h, _| h.types.as_mut().unwrap().supported.clear()),
        ("profile-not-offered", |_, v| v.devices = vgpu("grid_a100-20c")),
        ("profiles-exhausted", |h, v| {
            v.running = Some(false);
            h.types.as_mut().unwrap().creatable.clear();
        }),
        ("mig-mode-pending", |h, _| h.mig.as_mut().unwrap().gpus[0].pending = Some(true)),
        ("mig-left-on", |h, v| {
            v.running = Some(false);
            h.mig.as_mut().unwrap().gpus[0].current = Some(true);
        }),
        ("gpu-memory-remap-failed", |h, _| {
            h.gpus.as_mut().unwrap().0.gpus[0].remapped_rows.as_mut().unwrap().failed = true;
        }),
        ("gpu-memory-remap-waits", |h, _| {
            h.gpus.as_mut().unwrap().0.gpus[0].remapped_rows.as_mut().unwrap().pending = true;
        }),
        ("host-in-maintenance", |h, v| {
            v.running = Some(false);
            h.maintenance.as_mut().unwrap().enabled = true;
        }),
        ("memory-not-reserved", |_, v| {
            v.running = Some(false);
            v.config.as_mut().unwrap().keys.clear();
        }),
        ("mmio-too-small", |_, v| {
            v.running = Some(false);
            v.devices = whole(&[("pcipassthru.64bitmmiosizegb", "32")]);
        }),
        ("vgpu-window-missing", |_, v| {
            v.running = Some(false);
            v.devices = vgpu("grid_a100-40c");
        }),
        ("nested-virt-on", |_, v| v.devices = whole(&[("vhv.enable", "TRUE")])),
        ("bar1-empty", |_, v| v.driver.as_mut().unwrap().on_bus[0].bar1_mib = Some(0)),
        ("no-gpu-in-guest", |_, v| v.driver.as_mut().unwrap().gpu_on_bus = Some(false)),
        ("nouveau-loaded", |_, v| v.nouveau.as_mut().unwrap().loaded = true),
        ("api-mismatch", |_, v| v.health.as_mut().unwrap().on_disk = Some("535.216.01".into())),
        ("kernel-headers-missing", |_, v| {
            not_loaded(v);
            let driver = v.driver.as_mut().unwrap();
            (driver.module_version, driver.from_run) = (None, true);
            v.tools.as_mut().unwrap().headers = false;
        }),
        ("module-of-another-kernel", |_, v| {
            not_loaded(v);
            let driver = v.driver.as_mut().unwrap();
            (driver.module_version, driver.from_run) = (None, true);
        }),
        ("secure-boot", |_, v| {
            not_loaded(v);
            v.driver.as_mut().unwrap().certificates.clear();
        }),
        ("open-module-needed", |_, v| {
            let driver = v.driver.as_mut().unwrap();
            let needs = gpus::all().iter().find(|m| m.open_module == OpenModule::Required).unwrap();
            driver.on_bus[0].vgpu_type = None;
            driver.on_bus[0].device_id = needs.device_id.clone();
            driver.on_bus[0].subsystem_id = needs.subsystem_id.clone();
        }),
        ("open-module-on-old-gpu", |_, v| {
            let driver = v.driver.as_mut().unwrap();
            let old = gpus::all().iter().find(|m| m.open_module == OpenModule::No).unwrap();
            driver.open_module = Some(true);
            driver.on_bus[0].vgpu_type = None;
            driver.on_bus[0].device_id = old.device_id.clone();
            driver.on_bus[0].subsystem_id = old.subsystem_id.clone();
        }),
        ("guest-read-only", |_, v| v.driver.as_mut().unwrap().read_only = true),
        ("cuda-replaced-driver", |_, v| {
            let driver = v.driver.as_mut().unwrap();
            driver.gridd = Some(false);
            driver.packages.insert("nvidia-driver".into(), "560.35.03".into());
        }),
        ("guest-driver-newer", |_, v| v.driver.as_mut().unwrap().version = Some("570.148.08".into())),
        ("guest-driver-older", |_, v| v.driver.as_mut().unwrap().version = Some("430.30".into())),
        ("no-token", |_, v| unlicensed(v).tokens.clear()),
        ("gridd-missing", |_, v| unlicensed(v).program = Some(false)),
        ("gridd-ended", |_, v| unlicensed(v).daemon = "failed".into()),
        ("feature-type-wrong", |_, v| {
            unlicensed(v).configured.insert("FeatureType".into(), "0".into());
        }),
        ("license-clock", |_, v| {
            unlicensed(v);
            v.clock.as_mut().unwrap().now = 5000;
        }),
    ];

    #[test]
    fn every_sign_is_seen_in_its_fault_and_nothing_in_what_is_well() {
        assert_eq!(told(&host(), &vm()), Vec::<String>::new());
        // With a whole GPU and the driver for it, likewise.
        let mut passed = vm();
        passed.devices = whole(&[]);
        assert_eq!(told(&host(), &passed), Vec::<String>::new());
        for (cause, broken) in BROKEN {
            let (mut host, mut vm) = (host(), vm());
            broken(&mut host, &mut vm);
            assert!(told(&host, &vm).contains(&(*cause).to_string()), "{cause}: {:?}", told(&host, &vm));
        }
        let tried: BTreeSet<&str> = BROKEN.iter().map(|(cause, _)| *cause).collect();
        let signs: BTreeSet<&str> = SIGNS.iter().map(|sign| sign.cause).collect();
        assert_eq!(tried, signs);
    }

    /// What looks like a fault and is none.
    #[test]
    fn what_is_not_this_vms_fault_is_not_told() {
        let silent = |what: &str, change: Break| {
            let (mut host, mut vm) = (host(), vm());
            change(&mut host, &mut vm);
            assert_eq!(told(&host, &vm), Vec::<String>::new(), "{what}");
        };
        silent("another GPU of the host waits", |h, _| {
            h.passthrough.as_mut().unwrap().devices[1].current_owner = Some("VMkernel".into());
        });
        silent("a VM that is to be off", |h, v| {
            (v.running, v.meant_off, v.to_run) = (Some(false), true, false);
            h.manager.as_mut().unwrap().all_given = true;
            h.maintenance.as_mut().unwrap().enabled = true;
        });
        silent("a VM that runs with what its file lacks", |_, v| {
            v.devices = whole(&[("pcipassthru.64bitmmiosizegb", "32")]);
            v.config.as_mut().unwrap().keys.remove("sched.mem.pin");
        });
        silent("reserved and not pinned", |_, v| {
            v.running = Some(false);
            v.config.as_mut().unwrap().keys.remove("sched.mem.pin");
        });
        silent("a guest without a GPU has an old installer", |_, v| {
            not_loaded(v);
            v.devices = devices(&[]);
            let driver = v.driver.as_mut().unwrap();
            (driver.module_version, driver.from_run, driver.gpu_on_bus) = (None, true, Some(false));
            driver.on_bus.clear();
        });
        silent("a whole GPU needs no license", |_, v| {
            v.devices = whole(&[]);
            unlicensed(v).tokens.clear();
            let driver = v.driver.as_mut().unwrap();
            driver.vgpu = false;
            driver.on_bus[0].vgpu_type = None;
        });
        silent("an NVSwitch is no GPU", |_, v| {
            v.devices = whole(&[]);
            v.devices.as_mut().unwrap().no_gpus = vec!["0000:5e:00.0".into()];
            let driver = v.driver.as_mut().unwrap();
            (driver.gpu_on_bus, driver.vgpu) = (Some(false), false);
            driver.on_bus.clear();
        });
        let (host, mut vm) = (host(), vm());
        unlicensed(&mut vm);
        (vm.at, vm.clock.as_mut().unwrap().now) = (0, 1_790_000_000);
        assert!(!told(&host, &vm).contains(&"license-clock".to_string()), "saved facts have no time");
    }

    #[test]
    fn every_cause_that_no_text_tells_is_told_by_facts() {
        let signs: BTreeSet<&str> = SIGNS.iter().map(|sign| sign.cause).collect();
        for cause in vsgpu_core::diagnosis::all().filter(|cause| !cause.in_texts()) {
            assert!(signs.contains(cause.id), "{}", cause.id);
        }
        for cause in signs {
            assert!(named(cause).is_some(), "{cause}");
        }
    }

    /// Nothing is known of anything: nothing is said.
    #[test]
    fn silence_is_no_sign() {
        assert!(find(&Machines { host: &HostFacts::default(), vm: Some(&VmFacts::default()) }).is_empty());
        assert!(find(&Machines { host: &HostFacts::default(), vm: None }).is_empty());
    }
}
