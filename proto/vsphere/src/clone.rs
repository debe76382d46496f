//! New VMs as copies of VMs and templates: what there is to copy, where a copy can lie, and the call that makes it.

use crate::fault::Fault;
use crate::files::datacenter_of;
use crate::inventory::name;
use crate::properties::Object;
use crate::session::Session;
use crate::soap::{Ref, around, object, text};
use std::collections::BTreeMap;
use vsgpu_core::text::piece;

/// A VM or a template of the inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its object.
    pub of: Ref,
    /// Its name.
    pub name: String,
    /// It is a template: it does not run.
    pub is_template: bool,
    /// Where it is registered.
    pub host: Option<Ref>,
}

/// A datastore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datastore {
    /// Its object.
    pub of: Ref,
    /// Its name.
    pub name: String,
    /// It can be written.
    pub is_open: bool,
}

/// All VMs and templates that the account sees, whatever their number: three leaves of each, by pages.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn list(session: &mut Session) -> Result<Vec<Listed>, Fault> {
    let all = session.all("VirtualMachine", &["name", "config.template", "runtime.host"])?;
    let one = |vm: Object| Listed {
        name: vm.text("name").map(name).unwrap_or_default(),
        is_template: vm.text("config.template") == Some("true"),
        host: vm.reference("runtime.host"),
        of: vm.of,
    };
    Ok(all.into_iter().map(one).collect())
}

/// Names of hosts, by their objects.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn host_names(session: &mut Session, hosts: &[Ref]) -> Result<BTreeMap<Ref, String>, Fault> {
    let named = session.of_those_there(hosts, &["name"])?;
    Ok(named.iter().map(|host| (host.of.clone(), host.text("name").map(name).unwrap_or_default())).collect())
}

/// The datastores that a host sees.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn datastores(session: &mut Session, host: &Ref) -> Result<Vec<Datastore>, Fault> {
    let of_host = session.of(std::slice::from_ref(host), &["datastore"])?;
    let all: Vec<Ref> = of_host.iter().flat_map(|host| host.references("datastore")).collect();
    let paths = ["name", "summary.accessible", "summary.maintenanceMode"];
    let one = |store: &Object| {
        // Before 5.0 nobody put a datastore into maintenance mode.
        let in_use = store.text("summary.maintenanceMode").is_none_or(|mode| mode == "normal");
        Datastore {
            of: store.of.clone(),
            name: store.text("name").map(name).unwrap_or_default(),
            is_open: in_use && store.text("summary.accessible") == Some("true"),
        }
    };
    Ok(session.of(&all, &paths)?.iter().map(one).collect())
}

/// Name and `[datastore1] a/a.vmx` of VMs; those without one are not among them.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn files(session: &mut Session, all: &[Ref]) -> Result<BTreeMap<Ref, (String, String)>, Fault> {
    let found = session.of_those_there(all, &["name", "config.files.vmPathName"])?;
    let file = |vm: &Object| {
        let file = piece(vm.text("config.files.vmPathName")?, 300);
        Some((vm.of.clone(), (vm.text("name").map(name).unwrap_or_default(), file)))
    };
    Ok(found.iter().filter_map(file).collect())
}

fn reference(session: &mut Session, of: &Ref, place: &str, what: &str) -> Result<Ref, Fault> {
    let found = session.of(std::slice::from_ref(of), &[place])?;
    let found = found.first().and_then(|found| found.reference(place));
    found.ok_or_else(|| Fault::said(format!("the account does not see {what}")))
}

/// The folder of a copy: that of its base where both are in one datacenter, else the top one of the host's.
fn folder(session: &mut Session, base: &Ref, compute: &Ref) -> Result<Ref, Fault> {
    let here = datacenter_of(session, compute)?;
    let here = here.ok_or_else(|| Fault::said("the account does not see the host's datacenter"))?;
    let of_base = session.of(std::slice::from_ref(base), &["parent"])?;
    // A VM of a vApp is in no folder.
    if let Some(folder) = of_base.first().and_then(|base| base.reference("parent"))
        && datacenter_of(session, &folder)? == Some(here.clone())
    {
        return Ok(folder);
    }
    reference(session, &here, "vmFolder", "the folder of VMs")
}

/// Copies a VM or a template to a host and a datastore; the copy is off. `compute`: the host's cluster, or what stands for
/// one.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn clone_vm(
    session: &mut Session,
    base: &Ref,
    copy: &str,
    (host, compute, datastore): (&Ref, &Ref, &Ref),
) -> Result<Ref, Fault> {
    let folder = folder(session, base, compute)?;
    let pool = reference(session, compute, "resourcePool", "the resource pool of the host's cluster")?;
    let arguments = object("folder", &folder) + &text("name", &written(copy)) + &spec(datastore, &pool, host);
    session.start("CloneVM_Task", base, &arguments)
}

/// In the order of the schema.
fn spec(datastore: &Ref, pool: &Ref, host: &Ref) -> String {
    let place = object("datastore", datastore) + &object("pool", pool) + &object("host", host);
    around("spec", &(around("location", &place) + &text("template", "false") + &text("powerOn", "false")))
}

/// A name as the API wants it: three characters in hexadecimal.
fn written(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2f").replace('\\', "%5c")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_places_are_written_as_the_schema_has_them() {
        assert_eq!(written("50%/a\\b"), "50%25%2fa%5cb");
        let of = |kind: &str, id: &str| Ref { kind: kind.into(), id: id.into() };
        assert_eq!(
            spec(
                &of("Datastore", "datastore-1"),
                &of("ResourcePool", "resgroup-8"),
                &of("HostSystem", "host-2")
            ),
            "<spec><location><datastore type=\"Datastore\">datastore-1</datastore><pool type=\"ResourcePool\">resgroup-8</pool><host type=\"HostSystem\">host-2</host></location><template>false</template><powerOn>false</powerOn></spec>"
        );
    }
}
