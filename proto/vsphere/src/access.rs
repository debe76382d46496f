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
/// Objects of one kind that are asked of, over all hosts.
const MOST_OF_A_KIND: usize = 10_000;
/// Objects of one kind that may not be read, until no more are looked for one by one.
const MOST_UNREAD: usize = 20;

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
    /// Their clusters, or what stands for one.
    Computes,
    /// Their networks.
    Networks,
}

/// One thing that vsgpu does.
pub struct Purpose {
    /// In a few words.
    pub name: &'static str,
    /// What it takes.
    pub privileges: &'static [(On, &'static str)],
}

/// Everything, in the order of a site's life.
pub const PURPOSES: [Purpose; 14] = [
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
    Purpose { name: "set options of DRS", privileges: &[(On::Computes, "Host.Inventory.EditCluster")] },
    Purpose {
        name: "install packages (below 9)",
        privileges: &[
            (On::Hosts, "Host.Config.Patch"),
            (On::Hosts, "Host.Config.NetService"),
            (On::Datastores, "Datastore.Browse"),
            (On::Hosts, "Host.Config.Image"),
            (On::Datastores, "Datastore.FileManagement"),
        ],
    },
    Purpose {
        name: "read images of hosts",
        privileges: &[
            (On::Root, "VcIntegrity.lifecycleSettings.Read"),
            (On::Root, "VcIntegrity.lifecycleSoftwareSpecification.Read"),
        ],
    },
    Purpose {
        name: "put drivers into images",
        privileges: &[
            (On::Root, "VcIntegrity.lifecycleSettings.Write"),
            (On::Root, "VcIntegrity.lifecycleSoftwareSpecification.Write"),
        ],
    },
    Purpose {
        name: "remediate hosts",
        privileges: &[
            (On::Root, "VcIntegrity.lifecycleHealth.Read"),
            (On::Root, "VcIntegrity.lifecycleSoftwareRemediation.Read"),
            (On::Root, "VcIntegrity.lifecycleSoftwareRemediation.Write"),
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
            (On::Vms, "VirtualMachine.Provisioning.DeployTemplate"),
            (On::Vms, "VirtualMachine.Inventory.CreateFromExisting"),
            (On::Computes, "Resource.AssignVMToPool"),
            (On::Datastores, "Datastore.AllocateSpace"),
            (On::Networks, "Network.Assign"),
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
    /// Kinds of which there is no object, so that nothing was asked.
    pub not_there: BTreeSet<On>,
    /// VMs that were asked of, and all of them.
    pub vms: (usize, usize),
}

/// Asks which privileges of each purpose are missing. `None` where this server cannot be asked.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn allowed(session: &mut Session, hosts: &[&Host]) -> Result<Option<Allowed>, Fault> {
    let mut missing: Vec<BTreeMap<&'static str, BTreeSet<String>>> = vec![BTreeMap::new(); PURPOSES.len()];
    let (mut not_there, mut vms) = (BTreeSet::new(), (0, 0));
    let root = session.named("rootFolder")?;
    for on in [On::Root, On::Hosts, On::Vms, On::Datastores, On::Computes, On::Networks] {
        let mut wanted: Vec<&'static str> = PURPOSES
            .iter()
            .flat_map(|purpose| purpose.privileges.iter().filter(|(of, _)| *of == on).map(|(_, id)| *id))
            .collect();
        // Servers before 7.0 know no images, and refuse a question with an id that they do not know.
        let knows_images = session.about().is_vcenter && !session.about().api.starts_with("6.");
        wanted.retain(|id| knows_images || !id.starts_with(IMAGES));
        wanted.sort_unstable();
        wanted.dedup();
        // Each object once, with the host it belongs to.
        let mut objects: BTreeMap<Ref, String> = match on {
            On::Root => [(root.clone(), String::new())].into(),
            On::Hosts => hosts.iter().map(|host| (host.of.clone(), host.name.clone())).collect(),
            On::Vms => of_each(hosts, |host| host.vms.clone()),
            On::Datastores => of_each(hosts, |host| host.datastores.clone()),
            On::Computes => of_each(hosts, |host| host.compute.iter().cloned().collect()),
            On::Networks => of_each(hosts, |host| host.networks.clone()),
        };
        if objects.is_empty() {
            not_there.insert(on);
        }
        let all = objects.len();
        while objects.len() > MOST_OF_A_KIND {
            objects.pop_last();
        }
        if on == On::Vms {
            vms = (objects.len(), all);
        }
        let objects: Vec<(Ref, String)> = objects.into_iter().collect();
        let mut parts: Vec<&[(Ref, String)]> = objects.chunks(MOST_OBJECTS).rev().collect();
        let mut unread = 0;
        while let Some(some) = parts.pop() {
            if unread >= MOST_UNREAD {
                if on == On::Vms {
                    vms.0 -= some.len();
                }
                continue;
            }
            let lacks = match ask(session, some, &wanted) {
                Ok(lacks) => lacks,
                Err(fault) if UNKNOWN.contains(&fault.kind.as_str()) => return Ok(None),
                // One object refuses the whole question: it is looked for by halves.
                Err(fault) if OF_ONE.contains(&fault.kind.as_str()) && some.len() > 1 => {
                    let (first, second) = some.split_at(some.len() / 2);
                    parts.extend([second, first]);
                    continue;
                }
                // It is gone meanwhile.
                Err(fault) if fault.kind == OF_ONE[1] => continue,
                // Nothing at all may be read there.
                Err(fault) if fault.kind == OF_ONE[0] => {
                    unread += 1;
                    wanted.iter().map(|id| ((*id).to_string(), some[0].1.clone())).collect()
                }
                Err(fault) => return Err(fault),
            };
            for (privilege, host) in lacks {
                for (at, purpose) in PURPOSES.iter().enumerate() {
                    let of_purpose = purpose.privileges.iter().find(|(of, id)| *of == on && *id == privilege);
                    if let Some((_, id)) = of_purpose {
                        missing[at].entry(id).or_default().insert(host.clone());
                    }
                }
            }
        }
    }
    Ok(Some(Allowed { missing, not_there, vms }))
}

fn of_each(hosts: &[&Host], of: impl Fn(&Host) -> Vec<Ref>) -> BTreeMap<Ref, String> {
    let mut all = BTreeMap::new();
    for host in hosts {
        for object in of(host) {
            all.entry(object).or_insert_with(|| host.name.clone());
        }
    }
    all
}

/// Privileges that are missing, each with the host of its object. What no answer is about is missing, too.
fn ask(
    session: &mut Session,
    objects: &[(Ref, String)],
    wanted: &[&str],
) -> Result<Vec<(String, String)>, Fault> {
    let manager = session.named("authorizationManager")?;
    let entities: String = objects.iter().map(|(of, _)| object("entity", of)).collect();
    let ids: String = wanted.iter().map(|id| text("privId", id)).collect();
    let given = session.within_session(|session| {
        let arguments = format!("{entities}{}{ids}", text("sessionId", &session.key()));
        session.look("HasPrivilegeOnEntities", &manager, &arguments)
    })?;
    let mut granted: BTreeMap<Ref, BTreeSet<String>> = BTreeMap::new();
    for entity in &given {
        let Some(of) = entity.child("entity").and_then(Ref::of) else { continue };
        for answer in entity.all("privAvailability") {
            let text = |name: &str| answer.child(name).map(|e| e.text.as_str()).unwrap_or_default();
            if text("isGranted") == "true" {
                granted.entry(of.clone()).or_default().insert(text("privId").to_string());
            }
        }
    }
    let has = |of: &Ref, id: &str| granted.get(of).is_some_and(|all| all.contains(id));
    let lacks = |(of, host): &(Ref, String)| {
        let lacking = wanted.iter().filter(|id| !has(of, id)).map(|id| ((*id).to_string(), host.clone()));
        lacking.collect::<Vec<_>>()
    };
    Ok(objects.iter().flat_map(lacks).collect())
}

/// How the privileges of images begin.
const IMAGES: &str = "VcIntegrity.lifecycle";

/// Faults of one object among those that are asked of: it may not even be read, or it is gone.
const OF_ONE: [&str; 2] = ["NoPermission", "ManagedObjectNotFound"];

/// How servers say that they do not have the question.
const UNKNOWN: [&str; 3] = ["MethodNotFound", "NotImplemented", "NotSupported"];

/// A role with everything that these purposes take, as govc and PowerCLI make it. `System.*` is in every role.
pub fn role_commands(name: &str, purposes: impl Iterator<Item = &'static Purpose>) -> [String; 3] {
    let all: BTreeSet<&str> = purposes
        .flat_map(|purpose| purpose.privileges.iter().map(|(_, id)| *id))
        .filter(|id| !id.starts_with("System."))
        .collect();
    let all: Vec<&str> = all.into_iter().collect();
    [
        format!("govc role.create {name} {}", all.join(" ")),
        format!("govc role.update {name} {}", all.join(" ")),
        format!("New-VIRole -Name {name} -Privilege (Get-VIPrivilege -Id {})", all.join(", ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_names_each_privilege_once() {
        let [govc, _, powercli] = role_commands("vsgpu", PURPOSES.iter());
        assert_eq!(govc.matches("Host.Config.Image").count(), 1);
        assert!(!govc.contains("System.") && powercli.contains("-Id Datastore.AllocateSpace, "));
    }
}
