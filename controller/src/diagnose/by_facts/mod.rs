//! Causes that show in facts, not in texts: what a host, a VM and its guest say of themselves, put side by
//! side. The records (what it is, what to do, from where that is known) stand in the catalogue in core;
//! here stands only what a cause looks like in facts. A healthy machine has none of these signs, so they
//! are looked at where every link is good, too.
//!
//! Deliberately absent: what a requirement finds by itself when a key of the fleet file wishes for it.
//! These signs are for what nobody wished for, and for pairs of machines, which no requirement sees.

mod machines;

pub use machines::{HostFacts, Machines, VmFacts};

use crate::compat::{self, Combination, GuestDriver, Stated};
use vsgpu_core::Requirement;
use vsgpu_core::diagnosis::Confidence::{self, High, Medium};
use vsgpu_core::diagnosis::{Evidence, Finding, named};
use vsgpu_core::knowledge::gpus::{self, OpenModule};
use vsgpu_core::knowledge::vgpu_types;
use vsgpu_core::readers::nvidia_smi::{Gpu, RemappedRows, TypesOfGpu, is_licensed};
use vsgpu_core::requirement::Verdict;
use vsgpu_core::units::DriverVersion;
use vsgpu_guest_agent::guest::driver::DriverFact;
use vsgpu_guest_agent::guest::license::LicenseFact;
use vsgpu_host_agent::facts::PciGpu;
use vsgpu_host_agent::vm::memory_reserved::Share;
use vsgpu_host_agent::vm::{MemoryReserved, Mmio, MmioSpec, large_vgpus};

/// What a requirement says that nobody has to wish for.
fn unmet<R: Requirement>(spec: &R::Spec, fact: &R::Fact) -> Option<String> {
    match R::check(spec, fact) {
        Verdict::Unmet { is, wants, .. } => Some(format!("{}: {is}; {wants} is needed", R::NAME)),
        _ => None,
    }
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
    sign("guest-driver-newer", Of::Guest, High, |m| pair(m, true)),
    sign("guest-driver-older", Of::Guest, Medium, |m| pair(m, false)),
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

fn rows(gpus: &[Gpu], so: fn(&RemappedRows) -> bool) -> Option<String> {
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

/// Only of a VM that should run and does not.
fn large_vgpu_without_window(m: &Machines<'_>) -> Option<String> {
    let vm =
        m.vm.filter(|vm| vm.running == Some(false) && vm.to_run && !vm.key("pcipassthru.use64bitmmio"))?;
    let large = |profile: &String| !large_vgpus([profile.as_str()]).is_empty();
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

/// Driver of the guest and manager of its host, as the compatibility check judges them.
fn pair(m: &Machines<'_>, newer: bool) -> Option<String> {
    let vm = m.vm?;
    let profile = vm.profiles().into_iter().next()?;
    let driver = vm.driver.as_ref()?;
    let said = driver.version.as_ref().or(driver.module_version.as_ref())?;
    let host = DriverVersion::leading(m.host.manager.as_ref()?.driver_version.as_ref()?)?;
    let version = DriverVersion::leading(said)?;
    if (version.branch() > host.branch()) != newer {
        return None;
    }
    let combination = Combination {
        manager: Some(Stated::new(host, &m.host.name)),
        guest: Some(Stated::new(GuestDriver { version, grid: None }, &vm.guest_name)),
        profiles: vec![Stated::new(profile, &vm.name)],
        catalogue: vm.catalogue.clone(),
        ..Combination::default()
    };
    compat::check_pair(&combination)
        .into_iter()
        .find(|found| !newer || found.refused())
        .map(|found| found.what)
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
mod tests;
