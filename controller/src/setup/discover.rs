//! What is out there, before there is a fleet file: hosts over ssh or through their agents, looked at and
//! nothing else; and the commented fleet file that follows from it. `fleet_file` is pure.

use crate::error::{Error, Kind};
use crate::fleet::{file, yaml};
use crate::inventory::readiness::{GpuReadiness, of_host};
use crate::inventory::shared::SharedFacts;
use crate::inventory::{self, Seen};
use crate::node::{NodeId, NodeKind};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use vsgpu_core::text::{sentence, visible};
use vsgpu_core::{Scope, Subject, observe};
use vsgpu_host_agent::facts::{EsxVersion, VirtualMachines};
use vsgpu_host_agent::host::VgpuManagerFact;
use vsgpu_machine::over_ssh::OverSsh;
use vsgpu_machine::ssh::Target;
use vsgpu_wire::client::Connector;

/// Hosts looked at over ssh at once.
const AT_ONCE: usize = 16;

/// A host as it was found.
pub struct Found {
    /// Its name in the fleet file to be.
    pub name: String,
    /// Where its agent is, or will be.
    pub address: String,
    /// Whether it was reached without an agent.
    pub over_ssh: bool,
    /// What was seen, or why nothing was.
    pub seen: Result<Seen, Error>,
}

/// Looks at hosts over ssh. `tools`, `root`: as for an agent, over there.
pub fn over_ssh(targets: Vec<Target>, tools: Option<&Path>, root: &Path) -> Vec<Found> {
    let facts: Vec<_> = vsgpu_host_agent::catalogue().facts(Scope::Host);
    let look = |target: &Target| -> Result<Seen, Error> {
        let away = |why: String| Error::new(Kind::Unreachable, why);
        let system = OverSsh::read_only(target, tools, root).map_err(away)?;
        Ok(Seen {
            boot_id: String::new(),
            facts: SharedFacts::default().of(observe::observe(&system, &Subject::node(), &facts)),
            ..Seen::default()
        })
    };
    let mut all = vec![];
    for group in targets.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let running: Vec<_> = group.iter().map(|target| (target, scope.spawn(|| look(target)))).collect();
            all.extend(running.into_iter().map(|(target, thread)| {
                let host = target.host();
                // A host's short name; of an address all of it.
                let name = if host.parse::<std::net::IpAddr>().is_ok() {
                    host.replace(':', "-")
                } else {
                    host.split('.').next().unwrap_or(host).into()
                };
                let seen = thread.join().unwrap_or_else(|_| {
                    Err(Error::new(Kind::Internal, format!("{target}: the look failed")))
                });
                Found { name, address: agent_at(host), over_ssh: true, seen }
            }));
        });
    }
    all
}

/// Where a machine's agent listens, unless somebody says otherwise.
pub fn agent_at(host: &str) -> String {
    if host.contains(':') { format!("[{host}]:7443") } else { format!("{host}:7443") }
}

/// Looks at hosts through their agents: `(name, address)`.
///
/// # Errors
/// For names that are none.
pub async fn by_agents(
    agents: &[(String, String)],
    pki: PathBuf,
    connector: &Connector,
) -> Result<Vec<Found>, Vec<Error>> {
    let hosts: serde_json::Map<_, _> = agents
        .iter()
        .map(|(name, address)| (name.clone(), serde_json::json!({ "address": address })))
        .collect();
    let text = yaml::write(&serde_json::json!({ "version": 1, "hosts": hosts }));
    let mut fleet = file::from_text(Path::new("--agent"), &text)?;
    fleet.pki = pki;
    let mut seen = inventory::gather(&fleet, connector, inventory::Scope::All, &|_| true).await;
    let found = |(name, address): &(String, String)| {
        let away = || Err(Error::new(Kind::Unreachable, format!("{name}: nothing was seen")));
        let seen = seen.nodes.remove(&NodeId::new(NodeKind::Host, name)).unwrap_or_else(away);
        Found { name: name.clone(), address: address.clone(), over_ssh: false, seen }
    };
    Ok(agents.iter().map(found).collect())
}

/// A host in a line: its release, what of NVIDIA is on it.
pub fn summary(seen: &Seen) -> String {
    let release = seen
        .fact::<EsxVersion>()
        .map_or("release unknown".into(), |v| format!("ESXi {} ({})", v.version, v.build));
    let manager = match seen.fact::<VgpuManagerFact>().ok().and_then(|m| m.driver_version) {
        Some(version) => format!("vGPU manager {version}"),
        None => "no vGPU manager loaded".into(),
    };
    sentence(&format!("{release}, {manager}"))
}

/// Its VMs that are somebody's: name and whether it runs.
pub fn vms(seen: &Seen) -> Vec<(String, bool)> {
    let listed = seen.fact::<VirtualMachines>().map(|l| l.vms).unwrap_or_default();
    listed.into_iter().filter(|vm| !vm.infrastructure).map(|vm| (vm.name, vm.running)).collect()
}

fn gpu_line(gpu: &GpuReadiness) -> String {
    let owner = if gpu.passthrough_active {
        "given to VMs whole"
    } else {
        gpu.graphics_active.as_deref().unwrap_or("owner unknown")
    };
    let vms = if gpu.vms.is_empty() { String::new() } else { format!(", used by {}", gpu.vms.join(", ")) };
    sentence(&format!("{}  {}  ({owner}{vms})", gpu.address, gpu.model))
}

/// The fleet file: what is there, nothing set yet, and what could be wished as comments.
pub fn fleet_file(found: &[Found]) -> String {
    let mut text = String::from(
        "# Written by `vsgpu init` from what the hosts said. Nothing is set yet: take the `#` away where you want something, then\n\
         # `vsgpu validate` and `vsgpu plan`, which change nothing. All keys: `vsgpu schema`, and the reference of the fleet file.\n\
         version: 1\n\nhosts:\n",
    );
    let mut names = std::collections::BTreeSet::new();
    let mut all_vms = vec![];
    for host in found {
        let Ok(seen) = &host.seen else { continue };
        let gpus = of_host(seen).map(|r| r.gpus).unwrap_or_default();
        let _ = writeln!(text, "  {}:\n    # {}", host.name, summary(seen));
        for gpu in &gpus {
            let _ = writeln!(text, "    #   {}", gpu_line(gpu));
        }
        if gpus.is_empty() {
            text += "    #   no NVIDIA GPU was found on its PCI bus\n";
        }
        let hint = if host.over_ssh {
            "    # its agent's address: `vsgpu bootstrap` installs one, or one elsewhere serves it over ssh\n"
        } else {
            ""
        };
        let _ = writeln!(text, "{hint}    address: {}", host.address);
        let major = seen.fact::<EsxVersion>().ok().and_then(|v| EsxVersion::major(&v.version)).unwrap_or(8);
        let _ = writeln!(
            text,
            "    # For vGPUs, with NVIDIA's package for ESXi {major} as you downloaded it:\n\
             \x20   # vgpu-manager: {{ package: files/NVD-VGPU-....zip, datastore: datastore1 }}\n\
             \x20   # graphics-type: SharedPassthru"
        );
        if let Some(gpu) = gpus.first() {
            let _ = writeln!(
                text,
                "    # Or to give whole GPUs to VMs, by address or model:\n    # passthrough: [\"{}\"]",
                sentence(&gpu.address)
            );
        }
        // In a comment: a name that ends a line would begin one of the fleet file.
        let types: Vec<String> = gpus
            .iter()
            .find_map(|g| g.vgpu_types.clone())
            .unwrap_or_default()
            .iter()
            .map(|t| sentence(t))
            .collect();
        all_vms.extend(vms(seen).into_iter().map(|vm| (host.name.clone(), vm, types.first().cloned())));
    }
    if all_vms.is_empty() {
        return text;
    }
    text += "\nvms:\n";
    for (host, (vm, running), vgpu) in all_vms {
        let key = key_of(&vm, &mut names);
        let _ = writeln!(
            text,
            "  {key}:{}\n    host: {host}",
            if running { "    # runs" } else { "    # is off" }
        );
        if key != vm {
            // A JSON string is a YAML string, whatever is in the name.
            let _ =
                writeln!(text, "    vm-name: {}", visible(&serde_json::Value::from(vm.as_str()).to_string()));
        }
        let profile = vgpu.unwrap_or_else(|| "grid_a100-10c".into());
        let _ = writeln!(
            text,
            "    # vgpu: [{profile}]\n    # guest: {{ address: \"{key}:7443\", driver: {{ package: files/NVIDIA-Linux-x86_64-....run }} }}"
        );
    }
    text
}

/// A VM's key in the fleet file: its name, where that is one; each once.
fn key_of(vm: &str, taken: &mut std::collections::BTreeSet<String>) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let mut key: String =
        vm.chars().map(plain).take(55).collect::<String>().trim_start_matches(['-', '_', '.']).into();
    if key.is_empty() {
        key = "vm".into();
    }
    let (first, mut n) = (key.clone(), 1);
    while !taken.insert(key.clone()) {
        n += 1;
        key = format!("{first}-{n}");
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_is_a_fleet_file_whatever_vms_are_called() {
        let facts = json!({
            "esx-version": { "product": "VMware ESXi", "version": "8.0.2", "build": "Releasebuild-1", "update": null, "patch": null },
            "virtual-machines": { "vms": [
                { "vmid": 1, "name": "db 01 \"prod\"", "vmx": "/a", "running": true, "infrastructure": false },
                { "vmid": 2, "name": "db-01--prod-", "vmx": "/b", "running": false, "infrastructure": false },
                { "vmid": 3, "name": "--", "vmx": "/c", "running": false, "infrastructure": false },
                { "vmid": 4, "name": "vCLS-1", "vmx": "/d", "running": true, "infrastructure": true },
            ] },
        });
        let facts = facts
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, fact)| (name.as_str().into(), Ok(fact.clone().into())))
            .collect();
        let found = Found {
            name: "esx-01".into(),
            address: "esx-01:7443".into(),
            over_ssh: true,
            seen: Ok(Seen { boot_id: String::new(), facts, ..Seen::default() }),
        };
        let text = fleet_file(&[found]);
        let fleet = file::from_text(Path::new("f.yaml"), &text).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
        let names: Vec<&str> = fleet.vms.iter().map(|v| v.vm_name.as_str()).collect();
        assert_eq!(names, ["db 01 \"prod\"", "db-01--prod-", "--"]);
        assert!(fleet.specs().values().all(|w| w.is_empty()), "nothing is wished");
    }
}
