//! What the service account may do, by purpose: each purpose's privileges, and which of them are missing on which
//! objects (facts: vsphere-api 4). Asked before anything is planned: a `NoPermission` in a maintenance window is too
//! late.

use crate::fault::Fault;
use crate::inventory::Host;
use crate::session::Session;
use crate::soap::{Ref, object, text};
use std::collections::{BTreeMap, BTreeSet};

/// Objects of one question.
const MOST_OBJECTS: usize = 200;
/// VMs of one host that are asked of: roles are given on folders, so some tell of all.
const MOST_VMS: usize = 20;

/// On what a privilege is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum On {
    /// The whole inventory.
    Root,
    /// The hosts.
    Hosts,
    /// Their VMs.
    Vms,
    /// Their datastores.
    Datastores,
}

/// One thing that vsgpu does.
pub struct Purpose {
    /// In a few words.
    pub name: &'static str,
    /// What it takes.
    pub privileges: &'static [(On, &'static str)],
}

/// Everything, in the order of a site's life.
pub const PURPOSES: [Purpose; 10] = [
    Purpose {
        name: "look",
        privileges: &[(On::Hosts, "System.View"), (On::Hosts, "System.Read"), (On::Vms, "System.Read")],
    },
    Purpose {
        name: "read packages, modules, logs",
        privileges: &[
            (On::Hosts, "Host.Config.Image"),
            (On::Hosts, "Host.Config.Settings"),
            (On::Root, "Global.Diagnostics"),
            (On::Datastores, "Datastore.Browse"),
        ],
    },
    Purpose {
        name: "set graphics and modules",
        privileges: &[(On::Hosts, "Host.Config.Settings"), (On::Hosts, "Host.Config.NetService")],
    },
    Purpose { name: "set passthrough", privileges: &[(On::Hosts, "Host.Config.PciPassthru")] },
    Purpose { name: "maintenance and reboot", privileges: &[(On::Hosts, "Host.Config.Maintenance")] },
    Purpose {
        name: "install packages (below 9)",
        privileges: &[
            (On::Hosts, "Host.Config.Patch"),
            (On::Hosts, "Host.Config.Image"),
            (On::Datastores, "Datastore.FileManagement"),
        ],
    },
    Purpose {
        name: "give GPUs to VMs",
        privileges: &[
            (On::Vms, "VirtualMachine.Config.AddRemoveDevice"),
            (On::Vms, "VirtualMachine.Config.EditDevice"),
            (On::Vms, "VirtualMachine.Config.AdvancedConfig"),
            (On::Vms, "VirtualMachine.Config.Settings"),
            (On::Vms, "VirtualMachine.Config.Memory"),
            (On::Vms, "VirtualMachine.Config.Resource"),
        ],
    },
    Purpose {
        name: "start and stop VMs",
        privileges: &[
            (On::Vms, "VirtualMachine.Interact.PowerOn"),
            (On::Vms, "VirtualMachine.Interact.PowerOff"),
            (On::Vms, "VirtualMachine.Interact.Reset"),
        ],
    },
    Purpose {
        name: "clone VMs",
        privileges: &[
            (On::Vms, "VirtualMachine.Provisioning.Clone"),
            (On::Vms, "VirtualMachine.Inventory.CreateFromExisting"),
            (On::Root, "Resource.AssignVMToPool"),
            (On::Datastores, "Datastore.AllocateSpace"),
            (On::Root, "Network.Assign"),
        ],
    },
    Purpose {
        name: "reach guests through Tools",
        privileges: &[
            (On::Vms, "VirtualMachine.GuestOperations.Query"),
            (On::Vms, "VirtualMachine.GuestOperations.Modify"),
            (On::Vms, "VirtualMachine.GuestOperations.Execute"),
        ],
    },
];

/// What is missing, by purpose.
pub struct Allowed {
    /// For each of [`PURPOSES`]: privileges that are missing somewhere, with the names of the hosts whose objects lack
    /// them (none for the whole inventory).
    pub missing: Vec<BTreeMap<&'static str, BTreeSet<String>>>,
}

/// Asks which privileges of each purpose are missing. `None` where this server cannot be asked.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn allowed(session: &mut Session, hosts: &[&Host]) -> Result<Option<Allowed>, Fault> {
    let mut missing: Vec<BTreeMap<&'static str, BTreeSet<String>>> = vec![BTreeMap::new(); PURPOSES.len()];
    let root = session.named("rootFolder")?;
    for on in [On::Root, On::Hosts, On::Vms, On::Datastores] {
        let mut wanted: Vec<&'static str> = PURPOSES
            .iter()
            .flat_map(|purpose| purpose.privileges.iter().filter(|(of, _)| *of == on).map(|(_, id)| *id))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        // Each object with the host it belongs to.
        let mut objects: Vec<(Ref, String)> = match on {
            On::Root => vec![(root.clone(), String::new())],
            On::Hosts => hosts.iter().map(|host| (host.of.clone(), host.name.clone())).collect(),
            On::Vms => of_each(hosts, |host| &host.vms, MOST_VMS),
            On::Datastores => of_each(hosts, |host| &host.datastores, MOST_VMS),
        };
        if objects.is_empty() {
            objects.push((root.clone(), String::new()));
        }
        for some in objects.chunks(MOST_OBJECTS) {
            let Some(lacks) = ask(session, some, &wanted)? else { return Ok(None) };
            for (privilege, host) in lacks {
                for (at, purpose) in PURPOSES.iter().enumerate() {
                    if let Some((_, id)) =
                        purpose.privileges.iter().find(|(of, id)| *of == on && *id == privilege)
                    {
                        missing[at].entry(id).or_default().insert(host.clone());
                    }
                }
            }
        }
    }
    Ok(Some(Allowed { missing }))
}

fn of_each(hosts: &[&Host], of: impl Fn(&Host) -> &Vec<Ref>, most: usize) -> Vec<(Ref, String)> {
    let some = |host: &&Host| {
        of(host).iter().take(most).map(|of| (of.clone(), host.name.clone())).collect::<Vec<_>>()
    };
    hosts.iter().flat_map(some).collect()
}

/// Privileges that are missing, each with the host of its object.
fn ask(
    session: &mut Session,
    objects: &[(Ref, String)],
    wanted: &[&str],
) -> Result<Option<Vec<(String, String)>>, Fault> {
    let manager = session.named("authorizationManager")?;
    let entities: String = objects.iter().map(|(of, _)| object("entity", of)).collect();
    let ids: String = wanted.iter().map(|id| text("privId", id)).collect();
    let asked = |session: &mut Session| {
        let arguments = format!("{entities}{}{ids}", text("sessionId", session.key()));
        session.look("HasPrivilegeOnEntities", &manager, &arguments)
    };
    let given = match session.reading(asked) {
        Err(fault) if UNKNOWN.contains(&fault.kind.as_str()) => return Ok(None),
        other => other?,
    };
    let host_of: BTreeMap<&Ref, &String> = objects.iter().map(|(of, host)| (of, host)).collect();
    let mut lacks = vec![];
    for entity in &given {
        let Some(of) = entity.child("entity").and_then(Ref::of) else { continue };
        let host = host_of.get(&of).map(|host| (*host).clone()).unwrap_or_default();
        for answer in entity.all("privAvailability") {
            let text = |name: &str| answer.child(name).map(|e| e.text.as_str()).unwrap_or_default();
            if text("isGranted") != "true" {
                lacks.push((text("privId").to_string(), host.clone()));
            }
        }
    }
    Ok(Some(lacks))
}

/// How servers say that they do not have the question.
const UNKNOWN: [&str; 4] = ["MethodNotFound", "NotImplemented", "NotSupported", "ManagedObjectNotFound"];

/// A role with everything that these purposes take, as govc and PowerCLI make it. `System.*` is in every role.
pub fn role_commands(name: &str, purposes: impl Iterator<Item = &'static Purpose>) -> [String; 2] {
    let all: BTreeSet<&str> = purposes
        .flat_map(|purpose| purpose.privileges.iter().map(|(_, id)| *id))
        .filter(|id| !id.starts_with("System."))
        .collect();
    let all: Vec<&str> = all.into_iter().collect();
    [
        format!("govc role.create {name} {}", all.join(" ")),
        format!("New-VIRole -Name {name} -Privilege (Get-VIPrivilege -Id {})", all.join(", ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_names_each_privilege_once() {
        let [govc, powercli] = role_commands("vsgpu", PURPOSES.iter());
        assert_eq!(govc.matches("Host.Config.Image").count(), 1);
        assert!(!govc.contains("System.") && powercli.contains("-Id Datastore.AllocateSpace, "));
    }
}
