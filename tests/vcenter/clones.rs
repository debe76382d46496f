//! New VMs of the simulated vCenter: its list of VMs and templates, the datastores of a host, and `CloneVM_Task`, which
//! refuses what vCenter refuses. A template is a VM whose configuration file ends in `.vmtx`.

use super::changes::{Ended, Made};
use super::machine::{self, escaped, word};
use crate::fakes;
use crate::fakes::state::{Machine, Vm};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use vsgpu_core::readers::vmx;
use vsgpu_core::readers::xml::Element;

/// The folder of all VMs.
pub const FOLDER: &str = "group-v3";
/// The pool of all clusters.
pub const POOL: &str = "resgroup-8";

fn is_template(vm: &Vm) -> bool {
    vm.file.ends_with(".vmtx")
}

fn vms(folder: &Path) -> Vec<Vm> {
    Machine::read(folder).esxi().vms.clone()
}

/// Ids of all VMs behind these machines.
pub fn all_vms(machines: &BTreeMap<usize, PathBuf>) -> Vec<String> {
    let of = |(host, folder): (&usize, &PathBuf)| {
        vms(folder).into_iter().map(|vm| machine::vm_id(*host, vm.vmid)).collect::<Vec<_>>()
    };
    machines.iter().flat_map(of).collect()
}

/// Datastores of a machine by their ids: its folders, each in its place.
pub fn datastores(folder: &Path) -> BTreeMap<String, String> {
    let read = std::fs::read_dir(folder.join("root/vmfs/volumes")).into_iter().flatten();
    let mut names: Vec<String> =
        read.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names.into_iter().enumerate().map(|(at, name)| (format!("datastore-{}", at + 1), name)).collect()
}

/// Properties of a VM that say what it is and where.
pub fn vm_value(folder: &Path, host: usize, id: &str, path: &str) -> Option<String> {
    let vm = vms(folder).into_iter().find(|vm| machine::vm_id(host, vm.vmid) == id)?;
    Some(match path {
        "config.template" => format!("<val xsi:type=\"xsd:boolean\">{}</val>", is_template(&vm)),
        "runtime.host" => {
            format!("<val xsi:type=\"ManagedObjectReference\" type=\"HostSystem\">host-{host}</val>")
        }
        "parent" => format!("<val xsi:type=\"ManagedObjectReference\" type=\"Folder\">{FOLDER}</val>"),
        _ => return None,
    })
}

/// Properties of a datastore.
pub fn datastore_value(name: &str, path: &str) -> Option<String> {
    Some(match path {
        "name" => word(name),
        "summary.accessible" => "<val xsi:type=\"xsd:boolean\">true</val>".into(),
        "summary.maintenanceMode" => word("normal"),
        "summary.freeSpace" => "<val xsi:type=\"xsd:long\">1099511627776</val>".into(),
        _ => return None,
    })
}

fn text(of: &Element, path: &[&str]) -> String {
    let found = path.iter().try_fold(of, |of, name| of.child(name));
    found.map(|of| of.text.clone()).unwrap_or_default()
}

/// Makes the copy of a VM (of host `from`) on the host that the call names.
pub fn make(machines: &BTreeMap<usize, PathBuf>, from: usize, call: &Element) -> Made {
    let refused = |kind: &'static str, words: &str| Made::Refused(kind, words.into());
    let at = |path: &[&str]| text(call, path);
    let base = vms(&machines[&from]).into_iter().find(|vm| machine::vm_id(from, vm.vmid) == at(&["_this"]));
    let Some(base) = base else {
        return refused("ManagedObjectNotFound", "The object has already been deleted");
    };
    let host = at(&["spec", "location", "host"]);
    let host = host.strip_prefix("host-").and_then(|n| n.parse::<usize>().ok());
    let Some(folder) = host.and_then(|host| machines.get(&host)) else {
        return refused("InvalidArgument", "A specified parameter was not correct: spec.location.host");
    };
    if at(&["folder"]) != FOLDER || at(&["spec", "location", "pool"]) != POOL {
        return refused("InvalidArgument", "A specified parameter was not correct: spec.pool");
    }
    if at(&["spec", "template"]) != "false" || at(&["spec", "powerOn"]) != "false" {
        return refused("InvalidArgument", "A specified parameter was not correct: spec");
    }
    let name = at(&["name"]);
    // One folder, one name.
    if machines.values().any(|folder| vms(folder).iter().any(|vm| vm.name == name)) {
        return Made::Task(Err(("DuplicateName", format!("The name '{name}' already exists."))));
    }
    let Some(store) = datastores(folder).remove(&at(&["spec", "location", "datastore"])) else {
        return Made::Task(Err(("InvalidDatastore", "Invalid datastore (simulated)".into())));
    };
    Made::Task(copy(&machines[&from], &base, folder, &store, &name))
}

/// As vCenter does it: a new folder, new identities, and the devices of the base with it.
fn copy(from: &Path, base: &Vm, to: &Path, store: &str, name: &str) -> Ended {
    let file = Machine::read(from).text(&format!("/vmfs/volumes/{}/{}", base.datastore, base.file));
    let file = file.ok_or(("FileNotFound", format!("[{}] {}", base.datastore, base.file)))?;
    let of_identity = |key: &String| key.starts_with("uuid.") || key.ends_with(".generatedaddress");
    let mut set: Vec<(String, Option<String>)> =
        vmx::read(file.as_bytes()).into_keys().filter(of_identity).map(|key| (key, None)).collect();
    set.push(("displayName".into(), Some(name.into())));
    let text = String::from_utf8(vmx::edit(file.as_bytes(), &set)).unwrap();
    let path = format!("/vmfs/volumes/{store}/{name}/{name}.vmx");
    Machine::with(to, |machine| {
        machine.log("CloneVM_Task");
        machine.write(&path, &text);
    });
    let words = ["solo/registervm".to_string(), path, name.to_string()];
    let answer = fakes::run(to, "vim-cmd", &words);
    if answer.status == 0 { Ok(()) } else { Err(("InvalidState", escaped(&answer.stdout))) }
}
