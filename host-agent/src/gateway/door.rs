//! A host by the vSphere API, as the agents' `System`: the third door beside the host itself and ssh. Commands are
//! answered by `answers`; of files there are the VMs' settings, the logs, and those that are received for a datastore. Said
//! here as well: which VMs and datastores a new VM has to do with. What the agent keeps (its lease above all)
//! and what it would note on the host's ramdisk lies here, in a folder of this host's.

use super::answers::answer;
use super::asked::{Asked, Tasks, refused};
use super::boot::{self, RAMDISK};
use super::changes::{make, make_effect};
use super::site::{Site, spooled};
use super::tasks::left_running;
use super::vmx;
use crate::by_api::{Call, shown};
use crate::facts::EsxVersion;
use crate::facts::vcenter::{ClusterOfHost, DirectPathDevice, GpuCounters, HostInVcenter, OfferedProfile};
use crate::vm::clone_of::{NewVm, Template};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use vsgpu_core::machine::Machine;
use vsgpu_core::text::piece;
use vsgpu_core::{
    Command, Effect, InVcenter, Incoming, IoError, OpenedBy, Output, Staged, System, UploadError,
};
use vsgpu_machine::Posix;
use vsgpu_vsphere::Ref;
use vsgpu_vsphere::clone::{Listed, datastores, host_names};
use vsgpu_vsphere::host::{HostDetails, PciDevice};
use vsgpu_vsphere::host_methods::{kernel_log, uptime};
use vsgpu_vsphere::inventory::Host;
use vsgpu_vsphere::vm::{Vm, vms};

/// Templates that are looked at.
const MOST_TEMPLATES: usize = 500;
/// How a server says that it has no answer, for ever.
const NOT_OFFERED: [&str; 4] = ["NoPermission", "MethodNotFound", "NotSupported", "NotImplemented"];
const VOLUMES: &str = "/vmfs/volumes";
/// Folder of a datastore for files of ours.
const OURS: &str = "vsgpu";
const VMKERNEL: &str = crate::facts::log_findings::VMKERNEL;

/// One host.
pub(super) struct ByApi {
    pub site: Arc<Site>,
    pub host: Host,
    /// Paths below this prefix are the agent's memory.
    pub own_prefix: String,
    /// None for a visit, which keeps nothing.
    pub state: Option<Posix>,
    /// What tells the time.
    pub clock: Posix,
    pub tasks: Mutex<Tasks>,
    /// One look at the boot at a time: two would each make one of their own.
    pub boot: Mutex<boot::Asked>,
}

fn other(path: &str, why: &str) -> IoError {
    IoError::Other { path: path.into(), why: why.into() }
}

impl ByApi {
    fn asked(&self) -> Asked<'_> {
        Asked { site: &self.site, host: &self.host, tasks: &self.tasks, memory: self.state.as_ref() }
    }

    fn is_own(&self, path: &str) -> bool {
        path.starts_with(&self.own_prefix) || path.starts_with(RAMDISK)
    }

    /// The agent's memory, for a path that is its own.
    fn memory(&self, path: &str) -> Result<&Posix, IoError> {
        match &self.state {
            Some(state) if self.is_own(path) => Ok(state),
            Some(_) => Err(other(path, "files of a host are not written through the vSphere API")),
            None => Err(other(path, "nothing is changed by looking")),
        }
    }

    /// Where files for the hosts lie until they are installed.
    fn received(&self, path: &str) -> Result<&Posix, IoError> {
        let of_ours = path.strip_prefix(VOLUMES).and_then(|rest| rest.split('/').nth(2)) == Some(OURS);
        match &self.site.files {
            Some(files) if of_ours => Ok(files),
            Some(_) => Err(other(path, "vsgpu does not look into datastores through vCenter")),
            None => Err(other(path, "nothing is changed by looking")),
        }
    }

    fn datastores(&self) -> Result<Vec<String>, IoError> {
        self.asked().details().map_err(IoError::Unreachable)?;
        let found = self.site.with(|session| datastores(session, &self.host.of));
        let found = found.map_err(|fault| other(VOLUMES, &refused(&fault)))?;
        Ok(found.into_iter().filter(|of| of.is_open).map(|of| of.name).collect())
    }

    /// A `.vmx`, as the settings of its VM would write it.
    fn vm_file(&self, path: &str) -> Result<Vec<u8>, IoError> {
        let details = self.asked().details().map_err(IoError::Unreachable)?;
        let vms = details.vms.as_ref().map_err(|fault| other(path, &refused(fault)))?;
        let vm = vms.iter().find(|vm| vmx::path(vm).as_deref() == Some(path));
        vm.map(vmx::text).ok_or_else(|| IoError::NotFound(path.into()))
    }

    fn new_vm(&self, name: &str) -> Result<NewVm, String> {
        self.asked().details()?;
        let said = |fault: vsgpu_vsphere::Fault| refused(&fault);
        let listed = self.site.listed().map_err(said)?;
        // Also on this host: one that cannot be read is not among its VMs.
        let others = listed.iter().filter(|vm| vm.name == name);
        let hosts: BTreeSet<Ref> = others.clone().filter_map(|vm| vm.host.clone()).collect();
        let hosts: Vec<Ref> = hosts.into_iter().collect();
        let templates: Vec<Ref> =
            listed.iter().filter(|vm| vm.is_template).map(|vm| vm.of.clone()).take(MOST_TEMPLATES).collect();
        let (names, read, datastores) = self
            .site
            .with(|session| {
                let names = host_names(session, &hosts)?;
                Ok((names, vms(session, &templates, &|_| false)?, datastores(session, &self.host.of)?))
            })
            .map_err(said)?;
        let host = |vm: &Listed| vm.host.as_ref().and_then(|host| names.get(host)).cloned();
        let template = |vm: &Vm| {
            let unfit = match (vm.devices.is_empty(), vm.fixed_macs) {
                (false, _) => Some("it holds PCI devices or vGPUs: take them away first".to_string()),
                (true, 0) => None,
                (true, _) => Some("a MAC address is static: its copies would have the same".into()),
            };
            Some(Template { name: vm.name.clone(), file: vmx::path(vm)?, unfit })
        };
        Ok(NewVm {
            elsewhere: others
                .map(|vm| host(vm).unwrap_or_else(|| "a host that the account does not see".into()))
                .collect(),
            templates: read.iter().filter_map(template).collect(),
            datastores: datastores.into_iter().filter(|of| of.is_open).map(|of| of.name).collect(),
        })
    }

    fn in_vcenter(&self) -> Result<HostInVcenter, String> {
        let details = self.asked().details()?;
        let said = |fault: vsgpu_vsphere::Fault| refused(&fault);
        let about = self.site.with(|session| Ok(session.about())).map_err(said)?;
        // As it is now: hosts are moved.
        // Every host of a vCenter is in something.
        if self.site.config.is_vcenter && details.parent.is_none() {
            return Err("the account does not see the host's cluster: give it Read-only there".into());
        }
        let of = details.parent.as_ref().filter(|parent| parent.kind == "ClusterComputeResource");
        let cluster = match of {
            Some(of) => {
                Some(self.site.cluster(of).map_err(said)?.ok_or("the account does not see the cluster")?)
            }
            None => None,
        };
        let cluster = cluster.map(|of| ClusterOfHost {
            name: of.name,
            hosts: of.hosts,
            drs: of.drs.map(|(on, level)| if on { level } else { "off".into() }),
            drs_options: of.drs_options.iter().map(|(k, v)| (piece(k, 100), piece(v, 100))).collect(),
            ha: of.ha.map(|(on, _)| on),
            ha_admission: of.ha.map(|(_, admission)| admission),
            image_managed: of.image_managed,
        });
        // Counters are no part of what a plan rests on: without them the rest is there.
        let mut counters: BTreeMap<String, GpuCounters> = BTreeMap::new();
        for reading in self.site.counters(&self.host) {
            let (name, _, value) = super::metrics::in_units(&reading);
            let of_gpu = counters
                .entry(reading.gpu.clone())
                .or_insert_with(|| GpuCounters { gpu: reading.gpu.clone(), values: BTreeMap::new() });
            of_gpu.values.insert(name.into(), value);
        }
        let image = super::images::of_host(&self.asked(), &details)?;
        let names: Vec<&String> = details.profiles.keys().collect();
        let more = match names.is_empty() || !is_from_nine(&about.api) {
            true => BTreeMap::new(),
            false => self.site.remaining(&self.host.of, &names),
        };
        Ok(HostInVcenter {
            image,
            server: about.full_name,
            api: Some(about.api),
            is_vcenter: about.is_vcenter,
            name: self.host.name.clone(),
            lockdown: details.lockdown.clone(),
            cluster,
            profiles: details
                .profiles
                .iter()
                .map(|(name, can_move)| OfferedProfile {
                    name: name.clone(),
                    can_move: *can_move,
                    remaining: more.get(name).copied(),
                })
                .collect(),
            devices: devices_of(&details),
            counters: counters.into_values().collect(),
        })
    }
}

fn is_from_nine(api: &str) -> bool {
    EsxVersion::major(api).is_some_and(|major| major >= 9)
}

/// How GPUs are used, where vCenter says it: those that the graphics system holds, and those that are given away. Their virtual
/// functions are neither.
fn devices_of(details: &HostDetails) -> Vec<DirectPathDevice> {
    let passthrough = || details.passthrough.as_ref().ok().into_iter().flatten();
    let modes: BTreeMap<&str, &String> =
        passthrough().filter_map(|of| Some((of.address.as_str(), of.mode.as_ref()?))).collect();
    let given = passthrough().filter(|of| of.enabled || of.active).map(|of| &of.address);
    let gpus: BTreeSet<&String> = given.chain(details.gpus.iter().map(|gpu| &gpu.address)).collect();
    let one = |device: &PciDevice| {
        let mode = modes.get(device.address.as_str()).map(|mode| (*mode).clone());
        let driver_version = device.driver.as_ref().map(|(_, version)| version.clone());
        let said = gpus.contains(&device.address) && (mode.is_some() || driver_version.is_some());
        said.then(|| DirectPathDevice { gpu: device.address.clone(), mode, driver_version })
    };
    details.devices.as_ref().ok().into_iter().flatten().filter_map(one).collect()
}

impl System for ByApi {
    fn run(&self, command: &Command) -> Output {
        match (Call::of(command), &self.state) {
            (Some(call), Some(state)) => make(&self.asked(), state, &call, command.timeout_secs),
            _ => answer(&self.asked(), command),
        }
    }

    /// Tasks go on without whoever began them.
    fn orphan(&self) -> Option<String> {
        left_running(&self.asked(), self.state.as_ref()?)
    }

    fn shown(&self, effect: &Effect) -> Option<String> {
        shown(effect)
    }

    fn told(&self, by: std::thread::ThreadId) -> Vec<String> {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let told = std::mem::take(&mut tasks.told).into_iter();
        let (ours, others): (Vec<_>, Vec<_>) = told.partition(|(thread, _)| *thread == by);
        tasks.told = others;
        ours.into_iter().map(|(_, text)| text).collect()
    }

    fn by_api(&self, effect: &Effect) -> Option<Result<(), String>> {
        let made = self.state.as_ref().map(|state| make_effect(&self.asked(), state, effect));
        made.unwrap_or_else(|| Some(Err("nothing is changed by looking".into())))
    }

    fn read(&self, path: &str, max: usize) -> Result<Vec<u8>, IoError> {
        if self.is_own(path) {
            let Some(state) = &self.state else { return Err(IoError::NotFound(path.into())) };
            if path.starts_with(RAMDISK) {
                // What was noted for an earlier boot is gone.
                self.boot_id()?;
            }
            return state.read(path, max);
        }
        if !path.starts_with("/vmfs/volumes/") {
            return Err(other(path, "vCenter does not give this file of the host"));
        }
        let bytes = self.vm_file(path)?;
        if bytes.len() > max { Err(IoError::TooLarge(path.into(), max)) } else { Ok(bytes) }
    }

    fn tail(&self, path: &str, max: usize) -> Result<Vec<u8>, IoError> {
        let of_vm = path.strip_prefix("/vmfs/volumes/").and_then(|rest| rest.split_once('/'));
        if let Some((datastore, file)) = of_vm.filter(|(_, file)| file.ends_with("/vmware.log")) {
            let log = self.site.tail(&self.host, datastore, file, max);
            return log.map_err(|fault| match fault.kind.as_str() {
                "FileNotFound" => IoError::NotFound(path.into()),
                _ => other(path, &refused(&fault)),
            });
        }
        if path != VMKERNEL {
            return Err(other(path, "vCenter does not give this file of the host"));
        }
        let log = self.site.with(|session| kernel_log(session, &self.host.of, max));
        log.map(String::into_bytes).map_err(|fault| other(path, &refused(&fault)))
    }

    fn head(&self, path: &str, max: usize) -> Result<Vec<u8>, IoError> {
        let mut bytes = self.read(path, 1 << 20)?;
        bytes.truncate(max);
        Ok(bytes)
    }

    fn holders(&self, prefix: &str) -> Result<Vec<OpenedBy>, IoError> {
        Err(other(prefix, "who holds a file open is only asked of Linux guests, by their own agents"))
    }

    fn hash(&self, path: &str) -> Result<String, IoError> {
        self.received(path)?.hash(&spooled(path))
    }

    fn list(&self, path: &str) -> Result<Vec<String>, IoError> {
        if self.is_own(path) {
            return self.state.as_ref().map_or_else(|| Err(IoError::NotFound(path.into())), |s| s.list(path));
        }
        if path != VOLUMES {
            return Err(other(path, "vsgpu does not look into datastores by the vSphere API"));
        }
        if self.site.config.is_vcenter {
            return self.datastores();
        }
        Err(other(
            path,
            "an ESXi host that stands alone copies no VM by its API: make it in its Host Client, then `vsgpu plan`",
        ))
    }

    fn size(&self, path: &str) -> Result<Option<u64>, IoError> {
        self.received(path)?.size(&spooled(path))
    }

    fn is_folder(&self, path: &str) -> Result<bool, IoError> {
        // Whether the host is there: everything has this folder.
        if path == "/" {
            return self.asked().details().map(|_| true).map_err(IoError::Unreachable);
        }
        let datastore = path.strip_prefix(VOLUMES).and_then(|rest| rest.strip_prefix('/'));
        match datastore.filter(|name| !name.contains('/')) {
            Some(name) => Ok(self.datastores()?.iter().any(|known| known == name)),
            None => Err(other(path, "vsgpu does not look into datastores through vCenter")),
        }
    }

    fn write(&self, path: &str, contents: &[u8], mode: u32) -> Result<(), IoError> {
        self.memory(path)?.write(path, contents, mode)
    }

    fn copy(&self, from: &str, to: &str, mode: u32) -> Result<(), IoError> {
        self.memory(to)?.copy(from, to, mode)
    }

    fn remove(&self, path: &str) -> Result<(), IoError> {
        self.memory(path)?.remove(path)
    }

    /// Nobody but this agent comes into the folder of what was received: it is used where it lies.
    fn stage(&self, path: &str, sha256: &str) -> Result<Staged, IoError> {
        let (files, here) = (self.received(path)?, spooled(path));
        let staged = files.stage(&here, sha256)?;
        files.unstage(&here, &staged.instead);
        Ok(Staged { instead: path.into(), ..staged })
    }

    fn unstage(&self, _: &str, _: &str) {}

    fn upload(&self, file: &Incoming, next: &mut dyn FnMut() -> Option<Vec<u8>>) -> Result<(), UploadError> {
        let files = self.received(&file.target)?;
        let here =
            Incoming { target: spooled(&file.target), partial: spooled(&file.partial), ..file.clone() };
        files.upload(&here, next)
    }

    fn boot_id(&self) -> Result<String, IoError> {
        let state = self.memory(RAMDISK)?;
        let mut last = self.boot.lock().unwrap_or_else(PoisonError::into_inner);
        let details = self.asked().details().map_err(IoError::Unreachable)?;
        let boot_time = details.boot_time.as_deref().unwrap_or_default();
        boot::current(state, boot_time, &mut last, || {
            match self.site.with(|session| uptime(session, &self.host.of)) {
                Ok(seconds) => Ok(Some(seconds)),
                // An old server, or one that does not let this account ask.
                Err(fault) if NOT_OFFERED.contains(&fault.kind.as_str()) => Ok(None),
                Err(fault) => Err(IoError::Unreachable(refused(&fault))),
            }
        })
    }

    fn machine(&self) -> Result<Machine, IoError> {
        Err(other("the machine", "its CPUs and disks are only asked of guests, by their own agents"))
    }

    fn inventory(&self, what: &InVcenter) -> Result<String, IoError> {
        let json = |found: Result<serde_json::Value, String>| {
            found.map(|found| found.to_string()).map_err(|why| other("vCenter", &why))
        };
        match what {
            InVcenter::Host => json(self.in_vcenter().map(|found| serde_json::json!(found))),
            // A host that stands alone copies nothing by itself.
            InVcenter::Evacuation => {
                json(super::evacuation::of_host(&self.asked()).map(|found| serde_json::json!(found)))
            }
            InVcenter::NewVm(_) if !self.site.config.is_vcenter => {
                Err(IoError::NotFound("vCenter's inventory".into()))
            }
            InVcenter::NewVm(name) => json(self.new_vm(name).map(|found| serde_json::json!(found))),
        }
    }

    fn kernel_release(&self) -> String {
        String::new()
    }

    fn is_real(&self) -> bool {
        true
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn now(&self) -> u64 {
        self.clock.now()
    }

    fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    fn sleep(&self, time: Duration) {
        self.clock.sleep(time);
    }

    /// Nearly everything comes from one look; more at once would only wait for connections.
    fn probes_at_once(&self) -> usize {
        4
    }
}
