//! Hosts of the inventory: found by name, with their cluster, their state and their GPUs.

use crate::fault::Fault;
use crate::properties::Object;
use crate::session::Session;
use crate::soap::Ref;
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::text::piece;

/// PCI vendor id of NVIDIA, as the API's signed 16 bits have it: below 0x8000 it is the same.
const NVIDIA: &str = "4318";

/// A host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its object.
    pub of: Ref,
    /// Its name in the inventory.
    pub name: String,
    /// The cluster it is in; none where it stands alone.
    pub cluster: Option<String>,
    /// `connected`, `disconnected`, `notResponding`.
    pub state: String,
    /// In maintenance mode.
    pub in_maintenance: bool,
    /// NVIDIA GPUs; none where they may not be read.
    pub gpus: Option<usize>,
    /// Its VMs.
    pub vms: Vec<Ref>,
    /// Its datastores.
    pub datastores: Vec<Ref>,
    /// Its networks.
    pub networks: Vec<Ref>,
    /// The cluster's object, or what stands for one where the host is alone.
    pub compute: Option<Ref>,
}

/// All hosts, in the order of their names; their GPUs are counted only of those that `wanted` names.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn hosts(session: &mut Session, wanted: impl Fn(&str, Option<&str>) -> bool) -> Result<Vec<Host>, Fault> {
    let clusters = session.all("ClusterComputeResource", &["name"])?;
    let named: BTreeMap<Ref, String> = clusters
        .into_iter()
        .filter_map(|cluster| Some((cluster.of.clone(), name(cluster.text("name")?))))
        .collect();
    let paths = [
        "name",
        "parent",
        "runtime.connectionState",
        "runtime.inMaintenanceMode",
        "vm",
        "datastore",
        "network",
    ];
    let mut hosts: Vec<Host> =
        session.all("HostSystem", &paths)?.into_iter().map(|host| read(&host, &named)).collect();
    hosts.sort_by(|a, b| (&a.name, &a.of).cmp(&(&b.name, &b.of)));
    let asked: Vec<Ref> = hosts
        .iter()
        .filter(|host| wanted(&host.name, host.cluster.as_deref()))
        .map(|host| host.of.clone())
        .collect();
    let counted: BTreeMap<Ref, usize> = session
        .of(&asked, &["hardware.pciDevice"])?
        .into_iter()
        .filter_map(|host| Some((host.of.clone(), gpus(&host)?)))
        .collect();
    for host in &mut hosts {
        host.gpus = counted.get(&host.of).copied();
    }
    Ok(hosts)
}

fn read(host: &Object, clusters: &BTreeMap<Ref, String>) -> Host {
    Host {
        of: host.of.clone(),
        name: host.text("name").map(name).unwrap_or_default(),
        cluster: host.reference("parent").and_then(|parent| clusters.get(&parent).cloned()),
        state: host.text("runtime.connectionState").map_or("unknown".into(), |state| piece(state, 40)),
        in_maintenance: host.text("runtime.inMaintenanceMode") == Some("true"),
        gpus: None,
        vms: host.references("vm"),
        datastores: host.references("datastore"),
        networks: host.references("network"),
        compute: host.reference("parent"),
    }
}

/// A name as people see it: the API writes three characters in hexadecimal.
fn name(text: &str) -> String {
    let decoded = [("%2f", "/"), ("%5c", "\\"), ("%25", "%")]
        .iter()
        .fold(text.to_string(), |text, (code, is)| text.replace(code, is).replace(&code.to_uppercase(), is));
    piece(&decoded, 253)
}

/// Display controllers and 3D controllers of NVIDIA's, each once: virtual functions are on their GPU's bus, in slots of
/// their own.
fn gpus(host: &Object) -> Option<usize> {
    let devices = host.values.get("hardware.pciDevice")?;
    let bus = |device: &vsgpu_core::readers::xml::Element| {
        let text = |name: &str| device.child(name).map(|e| e.text.as_str()).unwrap_or_default();
        let is_display = text("classId").parse::<i32>().is_ok_and(|class| (class & 0xff00) == 0x0300);
        let at = text("id").rsplit_once(':').map(|(bus, _)| bus.to_string());
        (text("vendorId") == NVIDIA && is_display).then_some(at)?
    };
    Some(devices.children.iter().filter_map(bus).collect::<BTreeSet<String>>().len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsgpu_core::readers::xml::parse;

    #[test]
    fn gpus_are_nvidias_display_controllers_without_their_virtual_functions() {
        let device = |id: &str, class: i32, vendor: i32| {
            format!(
                "<HostPciDevice><id>{id}</id><classId>{class}</classId><vendorId>{vendor}</vendorId></HostPciDevice>"
            )
        };
        let all = [
            device("0000:3b:00.0", 0x0302, 4318),
            device("0000:3b:00.4", 0x0302, 4318),
            device("0000:3b:01.0", 0x0302, 4318),
            device("0000:3b:02.3", 0x0302, 4318),
            device("0000:af:00.0", 0x0300, 4318),
            device("0000:af:00.1", 0x0403, 4318),
            device("0000:00:02.0", 0x0300, -32634),
        ];
        let val = parse(&format!("<val>{}</val>", all.concat())).unwrap();
        let object = Object {
            of: Ref { kind: "HostSystem".into(), id: "host-14".into() },
            values: [("hardware.pciDevice".to_string(), val)].into(),
            missing: BTreeMap::new(),
        };
        assert_eq!(gpus(&object), Some(2));
        assert_eq!(name("GPU%2fA %25 %5c"), "GPU/A % \\");
    }
}
