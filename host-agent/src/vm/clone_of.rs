//! A VM that is a copy of another one on the same host: disks with vmkfstools, a `.vmx` of its own,
//! registered under its own name. The base has to be off, without snapshots and without PCI devices (each
//! clone gets its own GPU afterwards). Whatever a power cut leaves lies in a folder with our marker and
//! without a `.vmx`, which is written last: only such disks are ever removed, before the next attempt. A
//! folder with a `.vmx` is whole, and only registered.
//! Where vCenter answers for the host, vCenter copies: a VM of this host, or a template of any. It makes the folder and the
//! new identity, and leaves nothing where it fails.

use crate::facts::virtual_machines::{VirtualMachine, VirtualMachines};
use crate::facts::vm_devices::slots_of;
use crate::pci_slots::Slot;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::readers::vmx;
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{
    Command, Effect, Fact, InVcenter, Observation, Probe, Requirement, Subject, Unreadable, Verdict,
};

/// A copy of a VM.
pub struct CloneOf;

/// Written first into the new folder, and removed last: what lies beside it is ours.
const MARKER: &str = "vsgpu-clone-under-way";
/// Seconds for one disk.
const DISK_SECS: u32 = 7200;

/// What is wanted.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, from = "CloneWish")]
pub struct CloneSpec {
    /// Display name of the VM to be copied.
    pub base: String,
    /// Datastore of the copy, by name; the base's own where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore: Option<String>,
}

/// The name of the base alone, or more.
#[derive(Deserialize, JsonSchema)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "the name of a VM, or `{ base: NAME, datastore: NAME }`, is expected"
)]
enum CloneWish {
    Base(String),
    #[serde(rename_all = "kebab-case")]
    Long {
        base: String,
        datastore: Option<String>,
    },
}

impl From<CloneWish> for CloneSpec {
    fn from(wish: CloneWish) -> Self {
        match wish {
            CloneWish::Base(base) => Self { base, datastore: None },
            CloneWish::Long { base, datastore } => Self { base, datastore },
        }
    }
}

/// The VM's own registration, and what could be its base.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CloneFact {
    /// Name of the VM in question.
    pub name: String,
    /// Whether it is registered.
    pub registered: bool,
    /// Other VMs of the host.
    pub others: Vec<Base>,
    /// Files in the folder that a copy would get, by datastore.
    pub folders: BTreeMap<String, Vec<String>>,
    /// Datastores on which a VM of that name has been registered before.
    #[serde(default)]
    pub lived: Vec<String>,
    /// The marker in the folder of a VM that is registered: an earlier copy was not tidied up.
    #[serde(default)]
    pub marker: Option<String>,
    /// Where vCenter would copy: what it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_vcenter: Option<NewVm>,
}

/// What vCenter says of a VM that is to be made on a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewVm {
    /// Hosts on which a VM of that name is already, also one that cannot be read.
    pub elsewhere: Vec<String>,
    /// Templates, whichever host they are on.
    pub templates: Vec<Template>,
    /// Datastores that this host sees and that can be written.
    pub datastores: Vec<String>,
}

/// A template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Template {
    /// Its name.
    pub name: String,
    /// Absolute path of its configuration file.
    pub file: String,
    /// What makes it unfit, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfit: Option<String>,
}

/// A VM that could be copied.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Base {
    /// Display name.
    pub name: String,
    /// `.vmx`.
    pub vmx: String,
    /// It runs.
    pub running: bool,
    /// Disks: the key of the `.vmx` and the file as it is written there.
    pub disks: Vec<(String, String)>,
    /// Keys that a copy must not share with it.
    pub identity: Vec<String>,
    /// EFI variables.
    pub nvram: Option<String>,
    /// What makes it unfit, in words.
    pub unfit: Option<String>,
}

/// Keys that hostd makes anew for a copy.
fn is_identity(key: &str) -> bool {
    let exact = [
        "uuid.bios",
        "uuid.location",
        "vc.uuid",
        "sched.swap.derivedname",
        "migrate.hostlog",
        "checkpoint.vmstate",
        "extendedconfigfile",
    ];
    exact.contains(&key)
        || key.starts_with("ethernet")
            && (key.ends_with(".generatedaddress") || key.ends_with(".generatedaddressoffset"))
}

fn base(vm: &VirtualMachine, seen: &Observation) -> Option<Base> {
    let keys = vmx::read(seen.file(&vm.vmx).ok()??.as_bytes());
    let present = |device: &str| {
        keys.get(&format!("{device}.present")).is_none_or(|v| !v.eq_ignore_ascii_case("false"))
    };
    let disk = |(key, file): (&String, &String)| {
        let device = key.strip_suffix(".filename")?;
        (file.to_lowercase().ends_with(".vmdk") && present(device)).then(|| (key.clone(), file.clone()))
    };
    let disks: Vec<(String, String)> = keys.iter().filter_map(disk).collect();
    let holds_pci = slots_of(&vm.vmx, seen).into_values().any(|slot| slot != Slot::Other);
    let static_mac = keys
        .iter()
        .find(|(key, value)| key.ends_with(".addresstype") && value.eq_ignore_ascii_case("static"));
    let snapshot = disks.iter().any(|(_, file)| {
        let stem = file.trim_end_matches(".vmdk");
        stem.len() > 7
            && stem.as_bytes()[stem.len() - 7] == b'-'
            && stem[stem.len() - 6..].chars().all(|c| c.is_ascii_digit())
    });
    let unfit = if holds_pci {
        Some("it holds PCI devices or vGPUs: take them away first, each clone then gets its own".to_string())
    } else if snapshot {
        Some("it has snapshots: delete them first".into())
    } else if keys.keys().any(|key| key.starts_with("encryption.")) {
        Some("it is encrypted".into())
    } else if disks.is_empty() {
        Some("it has no disk".into())
    } else {
        static_mac.map(|(key, _)| format!("`{key}` is static: its copies would have the same MAC address"))
    };
    Some(Base {
        name: vm.name.clone(),
        vmx: vm.vmx.clone(),
        running: vm.running,
        identity: keys.keys().filter(|key| is_identity(key)).cloned().collect(),
        nvram: keys.get("nvram").cloned(),
        disks,
        unfit,
    })
}

fn datastore(vmx: &str) -> &str {
    vmx.strip_prefix("/vmfs/volumes/").and_then(|rest| rest.split('/').next()).unwrap_or_default()
}

fn folder(datastore: &str, name: &str) -> String {
    format!("/vmfs/volumes/{datastore}/{name}")
}

/// Folder of a `.vmx`.
fn home(vmx: &str) -> Option<&str> {
    vmx.rsplit_once('/').map(|(folder, _)| folder)
}

/// Entries of /vmfs/volumes that are looked at: each datastore is there by its id and by its name.
const MOST_STORES: usize = 256;
const VOLUMES: &str = "/vmfs/volumes";

impl Fact for CloneFact {
    const NAME: &'static str = "clone-of";
    const ABOUT: &'static str = "Whether the VM is registered, and which VMs of the host could be copied";
    fn probes(on: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = VirtualMachines::probes(on, seen);
        let name = on.vm.clone().unwrap_or_default();
        let Ok(all) = VirtualMachines::parse(on, seen) else { return probes };
        // A VM that is there needs no base.
        if let Some(vm) = all.vms.iter().find(|vm| vm.name == name) {
            probes.extend(home(&vm.vmx).map(|folder| Probe::List(folder.into())));
        } else {
            let by_vcenter = Probe::Inventory(InVcenter::NewVm(name.clone()));
            let copied_by_vcenter = seen.text(&by_vcenter).is_ok_and(|said| said.is_some());
            probes.push(by_vcenter);
            probes.push(Probe::List(VOLUMES.into()));
            probes.extend(
                all.vms
                    .iter()
                    .filter(|vm| !vm.infrastructure)
                    .take(512)
                    .map(|vm| Probe::Read(vm.vmx.clone())),
            );
            let stores = if copied_by_vcenter { vec![] } else { seen.names(VOLUMES).unwrap_or_default() };
            probes.extend(stores.iter().take(MOST_STORES).map(|store| Probe::List(folder(store, &name))));
            probes.extend(
                stores
                    .iter()
                    .take(MOST_STORES)
                    .map(|store| Probe::Read(format!("{}/{name}.vmx", folder(store, &name)))),
            );
        }
        probes
    }
    fn parse(on: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let name = on.vm.clone().ok_or_else(|| Unreadable::new("no VM was named"))?;
        let all = VirtualMachines::parse(on, seen)?;
        let registered = all.vms.iter().any(|vm| vm.name == name);
        let others =
            if registered { vec![] } else { all.vms.iter().filter_map(|vm| base(vm, seen)).collect() };
        let by_vcenter = match registered {
            true => None,
            false => seen.text(&Probe::Inventory(InVcenter::NewVm(name.clone())))?,
        };
        let by_vcenter = by_vcenter.map(|text| {
            serde_json::from_str::<NewVm>(text)
                .map_err(|why| Unreadable::new(format!("what vCenter says cannot be read: {why}")))
        });
        let by_vcenter = by_vcenter.transpose()?;
        let stores = match seen.names(VOLUMES) {
            Ok(stores) => stores,
            Err(_) if by_vcenter.is_some() => vec![],
            // A VM that is there needs no datastores; for one that is to be made they must be seen.
            Err(_) if registered => vec![],
            Err(why) => return Err(why),
        };
        // A folder that could not be looked into is not taken for an empty one: its datastore is left out.
        let files = |store: &str| -> Option<(String, Vec<String>)> {
            let names = seen.names(&folder(store, &name)).ok()?;
            Some((store.to_string(), names.into_iter().map(String::from).collect()))
        };
        // hostd writes a VM's identity into its .vmx when it has it: such a VM was registered before, here or
        // elsewhere.
        let lived = |store: &&&str| {
            let text = seen.file(&format!("{}/{name}.vmx", folder(store, &name))).ok().flatten();
            text.is_some_and(|t| {
                vmx::read(t.as_bytes())
                    .keys()
                    .any(|k| k.starts_with("uuid.") && k != "uuid.action" || k == "vc.uuid")
            })
        };
        let lived = stores.iter().filter(lived).map(|s| s.to_string()).collect();
        let folders =
            if registered { BTreeMap::new() } else { stores.iter().filter_map(|s| files(s)).collect() };
        let own = all.vms.iter().find(|vm| vm.name == name).and_then(|vm| home(&vm.vmx));
        let left = own.filter(|folder| seen.names(folder).is_ok_and(|files| files.contains(&MARKER)));
        let marker = left.map(|folder| format!("{folder}/{MARKER}"));
        Ok(Self { name, registered, others, folders, lived, marker, by_vcenter })
    }
    fn sentence(&self) -> Option<String> {
        let is = if self.registered { "registered on this host" } else { "not registered on this host" };
        Some(format!("{is}, beside {}", vsgpu_core::words::counted(self.others.len(), "other VM")))
    }
}

impl Requirement for CloneOf {
    const NAME: &'static str = "clone-of";
    const ABOUT: &'static str =
        "The VM is there, if need be as a copy of another VM of the host, or of a template";
    const AFTER: &'static [&'static str] = &[];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 10;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"base": "base-debian", "datastore": "datastore1"}"#;
    type Spec = CloneSpec;
    type Fact = CloneFact;

    fn check(spec: &CloneSpec, fact: &CloneFact) -> Verdict {
        let name = &fact.name;
        if let Some(path) = fact.marker.clone().filter(|_| fact.registered) {
            return Verdict::unmet(
                "registered, not tidied up",
                format!("{name} is registered"),
                vec![Effect::Remove { path }],
            );
        }
        if fact.registered {
            return Verdict::met(format!("{name} is registered"));
        }
        // Plain ASCII: a .vmx says its own encoding, and ours would not be it.
        if name.is_empty()
            || !name.is_ascii()
            || name.len() > 80
            || name.starts_with('.')
            || name.contains(['/', '\\', '[', ']', '"', '\n'])
        {
            return Verdict::blocked(
                format!("`{name}` cannot be the name of a folder"),
                "choose another name for the VM",
            );
        }
        if let Some(vcenter) = &fact.by_vcenter {
            return by_vcenter(spec, fact, vcenter);
        }
        let Some(base) = fact.others.iter().find(|vm| vm.name == spec.base) else {
            let names: Vec<&str> = fact.others.iter().map(|vm| vm.name.as_str()).take(8).collect();
            return Verdict::blocked(
                format!("there is no VM `{}` on this host to be copied", spec.base),
                format!("VMs here: {}; a clone is made on the host of its base", names.join(", ")),
            );
        };
        if let Some(blocked) = unfit(base) {
            return blocked;
        }
        let store = spec.datastore.as_deref().unwrap_or_else(|| datastore(&base.vmx));
        let Some(there) = fact.folders.get(store) else {
            let known: Vec<&str> = fact.folders.keys().map(String::as_str).collect();
            return Verdict::blocked(
                format!(
                    "this host has no datastore `{store}`, or the VM's folder on it cannot be looked into"
                ),
                format!("it has {}", known.join(", ")),
            );
        };
        let to = folder(store, name);
        if fact.lived.iter().any(|s| s == store) {
            return Verdict::blocked(
                format!("{to}/{name}.vmx is a VM that was registered before, here or on another host"),
                "register it, if it is registered nowhere else, or choose another name",
            );
        }
        if !there.is_empty() && !there.iter().any(|file| file == MARKER) {
            return Verdict::blocked(
                format!("{to} is there already and was not made by vsgpu"),
                "remove or register what is in it, or choose another name",
            );
        }
        Verdict::unmet("absent", format!("copy of {} in {to}", base.name), copy(base, name, &to, there))
    }

    fn as_spec(_: &CloneFact) -> Option<CloneSpec> {
        // Where a VM came from is not to be seen any more.
        None
    }
}

/// Why a VM of this host cannot be copied as it is.
fn unfit(base: &Base) -> Option<Verdict> {
    if let Some(why) = &base.unfit {
        let why = format!("{} cannot be cloned: {why}", base.name);
        return Some(Verdict::blocked(why, "mend that, then plan again"));
    }
    let why = format!("{} runs: its disks cannot be copied", base.name);
    base.running.then(|| Verdict::blocked(why, "shut it down"))
}

/// One call, where nothing of the VM is anywhere yet.
fn by_vcenter(spec: &CloneSpec, fact: &CloneFact, vcenter: &NewVm) -> Verdict {
    let name = &fact.name;
    if !vcenter.elsewhere.is_empty() {
        return Verdict::blocked(
            format!("there is a VM `{name}` already, on {}", vcenter.elsewhere.join(", ")),
            "see whose it is; if it is yours, write that `host:` in the fleet file; if not, choose another name",
        );
    }
    let mut of_host = fact.others.iter().filter(|vm| vm.name == spec.base);
    let (of_host, twice) = (of_host.next(), of_host.next());
    if twice.is_some() {
        let why = format!("there are two VMs named `{}` on this host", spec.base);
        return Verdict::blocked(why, "rename one of them");
    }
    let templates: Vec<&Template> =
        vcenter.templates.iter().filter(|template| template.name == spec.base).collect();
    let from = match (of_host, templates.as_slice()) {
        (Some(base), [template]) if base.vmx != template.file => {
            return Verdict::blocked(
                format!("`{}` is a VM of this host and a template of this vCenter", spec.base),
                "rename one of them",
            );
        }
        (_, [template]) => match &template.unfit {
            Some(why) => {
                let why = format!("{} cannot be cloned: {why}", template.name);
                return Verdict::blocked(why, "mend that, then plan again");
            }
            None => &template.file,
        },
        (Some(base), []) => match unfit(base) {
            Some(blocked) => return blocked,
            None => &base.vmx,
        },
        (None, []) => {
            let names =
                fact.others.iter().map(|vm| &vm.name).chain(vcenter.templates.iter().map(|t| &t.name));
            let names = vsgpu_core::words::first(names.cloned(), 8, "none");
            return Verdict::blocked(
                format!("there is no template `{}`, and no such VM on this host", spec.base),
                format!("VMs here and templates of this vCenter: {names}"),
            );
        }
        (_, several) => {
            return Verdict::blocked(
                format!("there are {} templates named `{}`", several.len(), spec.base),
                "rename all but one",
            );
        }
    };
    let store = spec.datastore.as_deref().unwrap_or_else(|| datastore(from));
    if !vcenter.datastores.iter().any(|known| known == store) {
        return Verdict::blocked(
            format!("this host has no datastore `{store}` that can be written"),
            format!("it has {}", vsgpu_core::words::first(vcenter.datastores.iter().cloned(), 8, "none")),
        );
    }
    let effect = Effect::CloneVm {
        base: spec.base.clone(),
        from: from.clone(),
        name: name.clone(),
        datastore: store.into(),
        within_secs: DISK_SECS,
    };
    Verdict::unmet("absent", format!("copy of {} on {store}", spec.base), vec![effect])
}

fn copy(base: &Base, name: &str, to: &str, there: &[String]) -> Vec<Effect> {
    let from = base.vmx.rsplit_once('/').map_or("", |(folder, _)| folder);
    let absolute =
        |file: &str| if file.starts_with('/') { file.to_string() } else { format!("{from}/{file}") };
    let marker = format!("{to}/{MARKER}");
    let vmx = format!("{to}/{name}.vmx");
    let register = Command::new("vim-cmd", ["solo/registervm", &vmx, name]);
    let last = [
        Effect::Run { command: register, already: Some("already exists".into()) },
        Effect::Remove { path: marker.clone() },
    ];
    // The .vmx is written when all else is there: what has one is a whole VM, and may have been used since.
    if there.contains(&format!("{name}.vmx")) {
        return last.to_vec();
    }
    let mut effects = vec![Effect::Write {
        path: marker.clone(),
        contents: format!("copy of {}\n", base.name),
        mode: 0o600,
    }];
    let mut set: Vec<(String, Option<String>)> = vec![
        ("displayName".into(), Some(name.into())),
        // hostd makes new identities without asking a question at power-on.
        ("uuid.action".into(), Some("create".into())),
    ];
    set.extend(base.identity.iter().map(|key| (key.clone(), None)));
    for (at, (key, file)) in base.disks.iter().enumerate() {
        let disk = if at == 0 { format!("{name}.vmdk") } else { format!("{name}_{at}.vmdk") };
        if there.contains(&disk) {
            // Of an attempt that was cut off: exit status 255 says that there was no whole disk to delete.
            let delete = Command::new("vmkfstools", ["-U", &format!("{to}/{disk}")]).within(600);
            effects.push(Effect::Run { command: delete, already: Some("Failed to".into()) });
        }
        let command =
            Command::new("vmkfstools", ["-i", &absolute(file), &format!("{to}/{disk}"), "-d", "thin"]);
        effects.push(Effect::run(command.within(DISK_SECS)));
        set.push((key.clone(), Some(disk)));
    }
    if let Some(nvram) = &base.nvram {
        effects.push(Effect::Copy { from: absolute(nvram), to: format!("{to}/{name}.nvram"), mode: 0o600 });
        set.push(("nvram".into(), Some(format!("{name}.nvram"))));
    }
    effects.push(Effect::DeriveVmx { from: base.vmx.clone(), to: vmx, set });
    effects.extend(last);
    effects
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(change: impl Fn(&mut CloneFact)) -> CloneFact {
        let base = Base {
            name: "base".into(),
            vmx: "/vmfs/volumes/ds1/base/base.vmx".into(),
            running: false,
            disks: vec![
                ("scsi0:0.filename".into(), "base.vmdk".into()),
                ("scsi0:1.filename".into(), "/vmfs/volumes/ds2/data.vmdk".into()),
            ],
            identity: vec!["uuid.bios".into(), "ethernet0.generatedaddress".into()],
            nvram: Some("base.nvram".into()),
            unfit: None,
        };
        let mut fact = CloneFact {
            name: "vm-01".into(),
            registered: false,
            others: vec![base],
            folders: [("ds1".to_string(), vec![]), ("ds2".to_string(), vec![])].into(),
            lived: vec![],
            marker: None,
            by_vcenter: None,
        };
        change(&mut fact);
        fact
    }

    fn check(fact: &CloneFact) -> Verdict {
        CloneOf::check(&CloneSpec { base: "base".into(), datastore: Some("ds2".into()) }, fact)
    }

    #[test]
    fn a_copy_has_disks_identity_and_variables_of_its_own() {
        let Verdict::Unmet { effects, .. } = check(&fact(|_| {})) else { panic!("not unmet") };
        let text: Vec<String> = effects.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "write /vmfs/volumes/ds2/vm-01/vsgpu-clone-under-way (mode 0600); copy of base",
                "vmkfstools -i /vmfs/volumes/ds1/base/base.vmdk /vmfs/volumes/ds2/vm-01/vm-01.vmdk -d thin",
                "vmkfstools -i /vmfs/volumes/ds2/data.vmdk /vmfs/volumes/ds2/vm-01/vm-01_1.vmdk -d thin",
                "copy /vmfs/volumes/ds1/base/base.nvram to /vmfs/volumes/ds2/vm-01/vm-01.nvram (mode 0600)",
                "write /vmfs/volumes/ds2/vm-01/vm-01.vmx from /vmfs/volumes/ds1/base/base.vmx; displayName = \"vm-01\"; uuid.action = \"create\"; drop uuid.bios; drop ethernet0.generatedaddress; scsi0:0.filename = \"vm-01.vmdk\"; scsi0:1.filename = \"vm-01_1.vmdk\"; nvram = \"vm-01.nvram\"",
                "vim-cmd solo/registervm /vmfs/volumes/ds2/vm-01/vm-01.vmx vm-01",
                "remove /vmfs/volumes/ds2/vm-01/vsgpu-clone-under-way",
            ]
        );
    }

    #[test]
    fn vcenter_copies_a_vm_of_the_host_or_a_template_of_any() {
        let template = |name: &str| Template {
            name: name.into(),
            file: format!("/vmfs/volumes/ds9/{name}/{name}.vmtx"),
            unfit: None,
        };
        let vcenter = NewVm {
            elsewhere: vec![],
            templates: vec![template("golden"), template("twice"), template("twice")],
            datastores: vec!["ds1".into(), "ds2".into()],
        };
        let check = |base: &str, store: Option<&str>, change: &dyn Fn(&mut NewVm)| {
            let mut vcenter = vcenter.clone();
            change(&mut vcenter);
            let fact = fact(|f| f.by_vcenter = Some(vcenter.clone()));
            CloneOf::check(&CloneSpec { base: base.into(), datastore: store.map(String::from) }, &fact)
        };
        let effect = |verdict: Verdict| match verdict {
            Verdict::Unmet { effects, .. } => {
                effects.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            }
            other => format!("{other:?}"),
        };
        assert_eq!(
            effect(check("golden", Some("ds2"), &|_| {})),
            "clone golden (/vmfs/volumes/ds9/golden/golden.vmtx) as vm-01 to ds2, by vCenter"
        );
        assert_eq!(
            effect(check("base", None, &|_| {})),
            "clone base (/vmfs/volumes/ds1/base/base.vmx) as vm-01 to ds1, by vCenter"
        );
        let blocked = |verdict: Verdict| matches!(verdict, Verdict::Blocked { .. });
        // The datastore of the template is not one of this host's.
        assert!(blocked(check("golden", None, &|_| {})));
        assert!(blocked(check("twice", Some("ds1"), &|_| {})));
        assert!(blocked(check("nobody", Some("ds1"), &|_| {})));
        assert!(blocked(check("golden", Some("ds1"), &|v| v.elsewhere.push("esx-02".into()))));
    }

    #[test]
    fn what_must_not_be_copied_or_overwritten_is_refused() {
        let blocked =
            |change: &dyn Fn(&mut CloneFact)| matches!(check(&fact(change)), Verdict::Blocked { .. });
        assert!(blocked(&|f| f.others[0].running = true));
        assert!(blocked(&|f| f.others[0].unfit = Some("it holds PCI devices".into())));
        assert!(blocked(&|f| f.others.clear()));
        assert!(blocked(&|f| f.name = "../x".into()));
        assert!(blocked(&|f| f.folders = BTreeMap::new()));
        assert!(blocked(&|f| f.folders.insert("ds2".into(), vec!["precious.vmdk".into()]).map_or((), drop)));
        assert!(check(&fact(|f| f.registered = true)).is_met());
        // What a power cut left beside our marker is made anew.
        let left = fact(|f| drop(f.folders.insert("ds2".into(), vec![MARKER.into(), "vm-01.vmdk".into()])));
        let Verdict::Unmet { effects, .. } = check(&left) else { panic!("not unmet") };
        // What has a .vmx is whole and perhaps in use: never removed, only registered.
        let whole = fact(|f| {
            drop(f.folders.insert("ds2".into(), vec![MARKER.into(), "vm-01.vmdk".into(), "vm-01.vmx".into()]))
        });
        assert!(
            matches!(check(&whole), Verdict::Unmet { effects, .. } if effects.len() == 2 && effects[0].to_string().contains("registervm"))
        );
        let untidy = fact(|f| (f.registered, f.marker) = (true, Some("/vmfs/volumes/ds2/vm-01/x".into())));
        assert!(
            matches!(check(&untidy), Verdict::Unmet { effects, .. } if effects == [Effect::Remove { path: "/vmfs/volumes/ds2/vm-01/x".into() }])
        );
        assert_eq!(effects[1].to_string(), "vmkfstools -U /vmfs/volumes/ds2/vm-01/vm-01.vmdk");
    }
}
