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

/// Leaves that change while a host is served.
const STATE: [&str; 2] = ["runtime.connectionState", "runtime.inMaintenanceMode"];
/// Hosts of one call that asks for their VMs, and of one that asks for their PCI devices.
const WITH_OBJECTS: usize = 20;
const WITH_DEVICES: usize = 5;

/// The hosts that `wanted` takes by their names and clusters, in the order of their names; without what belongs to them.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn hosts(session: &mut Session, wanted: impl Fn(&str, Option<&str>) -> bool) -> Result<Vec<Host>, Fault> {
    let clusters = session.all("ClusterComputeResource", &["name"])?;
    let named: BTreeMap<Ref, String> = clusters
        .into_iter()
        .filter_map(|cluster| Some((cluster.of.clone(), name(cluster.text("name")?))))
        .collect();
    let paths = ["name", "parent", STATE[0], STATE[1]];
    let mut hosts: Vec<Host> =
        session.all("HostSystem", &paths)?.into_iter().map(|host| read(&host, &named)).collect();
    hosts.retain(|host| wanted(&host.name, host.cluster.as_deref()));
    hosts.sort_by(|a, b| (&a.name, &a.of).cmp(&(&b.name, &b.of)));
    Ok(hosts)
}

/// What belongs to these hosts: VMs, datastores, networks, GPUs.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn belongings(session: &mut Session, hosts: &mut [Host]) -> Result<(), Fault> {
    let all: Vec<Ref> = hosts.iter().map(|host| host.of.clone()).collect();
    let objects = session.of_some(&all, &["vm", "datastore", "network"], WITH_OBJECTS)?;
    let devices = session.of_some(&all, &["hardware.pciDevice"], WITH_DEVICES)?;
    let counted: BTreeMap<&Ref, usize> =
        devices.iter().filter_map(|host| Some((&host.of, gpus(host)?))).collect();
    let objects: BTreeMap<&Ref, &Object> = objects.iter().map(|object| (&object.of, object)).collect();
    for host in hosts {
        host.gpus = counted.get(&host.of).copied();
        let Some(object) = objects.get(&host.of) else { continue };
        host.vms = object.references("vm");
        host.datastores = object.references("datastore");
        host.networks = object.references("network");
    }
    Ok(())
}

/// Reads anew whether these hosts are there.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn refresh(session: &mut Session, hosts: &mut [Host]) -> Result<(), Fault> {
    let all: Vec<Ref> = hosts.iter().map(|host| host.of.clone()).collect();
    let objects = session.of(&all, &STATE)?;
    let objects: BTreeMap<&Ref, &Object> = objects.iter().map(|object| (&object.of, object)).collect();
    for host in hosts {
        (host.state, host.in_maintenance) = match objects.get(&host.of) {
            Some(object) => state(object),
            None => (UNKNOWN.into(), false),
        };
    }
    Ok(())
}

const UNKNOWN: &str = "unknown";

fn state(host: &Object) -> (String, bool) {
    let state = host.text(STATE[0]).map_or(UNKNOWN.into(), |state| piece(state, 40));
    (state, host.text(STATE[1]) == Some("true"))
}

fn read(host: &Object, clusters: &BTreeMap<Ref, String>) -> Host {
    let (state, in_maintenance) = state(host);
    Host {
        of: host.of.clone(),
        name: host.text("name").map(name).unwrap_or_default(),
        cluster: host.reference("parent").and_then(|parent| clusters.get(&parent).cloned()),
        state,
        in_maintenance,
        gpus: None,
        vms: vec![],
        datastores: vec![],
        networks: vec![],
        compute: host.reference("parent"),
    }
}

/// A name as people see it: the API writes three characters in hexadecimal.
pub(crate) fn name(text: &str) -> String {
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
