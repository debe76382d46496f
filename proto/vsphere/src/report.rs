//! What a server answers about GPUs, as it answers it, for somebody who has no such server: a person runs it and sends
//! the result. Texts are hidden unless they are words of NVIDIA's, VMware's or PCI's; names of a site, ids, addresses and
//! serial numbers are not. Only properties are read, each in a call of its own: a server that does not know one refuses
//! the whole call.

use crate::fault::Fault;
use crate::inventory::Host;
use crate::session::Session;
use crate::soap::{Ref, object};
use serde_json::{Map, Value, json};
use vsgpu_core::readers::xml::Element;
use vsgpu_core::text::piece;

/// Hosts that are asked of: the first ones with GPUs.
const MOST_HOSTS: usize = 3;
/// VMs that are looked at for devices, and those that are shown.
const MOST_VMS: usize = 200;
const SHOWN_VMS: usize = 5;
/// Elements of one answer.
const MOST_ELEMENTS: usize = 5_000;

/// Of hosts: everything that says something about GPUs.
const OF_HOSTS: [&str; 16] = [
    "config.product",
    "capability",
    "summary.rebootRequired",
    "runtime.bootTime",
    "config.lockdownMode",
    "config.graphicsConfig",
    "config.graphicsInfo",
    "config.sharedPassthruGpuTypes",
    "config.sharedGpuCapabilities",
    "config.pciPassthruInfo",
    "config.assignableHardwareConfig",
    "config.assignableHardwareBinding",
    "hardware.pciDevice",
    "hardware.numaInfo",
    "hardware.biosInfo",
    "config.service",
];
/// Of clusters: who moves VMs, and who owns the image.
const OF_CLUSTERS: [&str; 4] = [
    "lifecycleManaged",
    "configurationEx.drsConfig.enabled",
    "configurationEx.drsConfig.option",
    "configurationEx.dasConfig.enabled",
];

/// Texts of these elements are words of NVIDIA's, VMware's or the standard's.
const KEPT: [&str; 44] = [
    "acceptanceLevel",
    "apiType",
    "apiVersion",
    "assignableHardwareType",
    "biosVersion",
    "build",
    "class",
    "dependentDevice",
    "deviceClassName",
    "deviceName",
    "driverName",
    "driverVersion",
    "firmwareType",
    "fullName",
    "function",
    "graphicsType",
    "hostDefaultGraphicsType",
    "id",
    "instance",
    "key",
    "label",
    "level",
    "licenseProductName",
    "lockdownMode",
    "mode",
    "option",
    "parentBridge",
    "pciId",
    "policy",
    "productLineId",
    "profileClass",
    "profileSharing",
    "rollupType",
    "ruleset",
    "sharedPassthruAssignmentPolicy",
    "sharedPassthruGpuTypes",
    "statsType",
    "string",
    "type",
    "unit",
    "vendor",
    "vendorName",
    "version",
    "vgpuMode",
];

/// Hidden although its element may be kept: an id of the inventory or a UUID.
fn is_of_a_site(text: &str) -> bool {
    let is_uuid = text.len() >= 32 && text.chars().all(|c| c.is_ascii_hexdigit() || "- ".contains(c));
    let words =
        ["host-", "vm-", "domain-", "datastore-", "group-", "@", "://", ".com", ".net", ".local", ".org"];
    is_uuid || words.iter().any(|word| text.contains(word))
}

/// Everything that is asked, as JSON.
///
/// # Errors
/// What the server said, or why it is not heard, before anything could be asked.
pub fn about_gpus(session: &mut Session, hosts: &[&Host]) -> Result<Value, Fault> {
    let with_gpus: Vec<&&Host> = hosts.iter().filter(|host| host.gpus != Some(0)).take(MOST_HOSTS).collect();
    let mut of_hosts = vec![];
    for host in &with_gpus {
        let mut answers = asked(session, &host.of, &OF_HOSTS);
        answers.insert("gpu counters".into(), available_counters(session, &host.of));
        of_hosts.push(Value::Object(answers));
    }
    let clusters: Vec<Ref> =
        session.all("ClusterComputeResource", &["name"])?.into_iter().map(|c| c.of).collect();
    let mut of_clusters = vec![];
    for cluster in clusters.iter().take(MOST_HOSTS) {
        of_clusters.push(Value::Object(asked(session, cluster, &OF_CLUSTERS)));
    }
    let about = session.about();
    let server = json!({ "name": about.full_name, "api": about.api, "vcenter": about.is_vcenter });
    let vms: Vec<Ref> = with_gpus.iter().flat_map(|host| host.vms.clone()).take(MOST_VMS).collect();
    Ok(json!({
        "version": 1,
        "server": server,
        "counters": counters(session),
        "hosts": of_hosts,
        "clusters": of_clusters,
        "vms with GPUs": devices(session, &vms),
    }))
}

fn asked(session: &mut Session, of: &Ref, paths: &[&str]) -> Map<String, Value> {
    let mut answers = Map::new();
    for path in paths {
        answers.insert((*path).to_string(), property(session, of, path));
    }
    answers
}

fn property(session: &mut Session, of: &Ref, path: &str) -> Value {
    match session.of(std::slice::from_ref(of), &[path]) {
        Err(fault) => told(&fault),
        Ok(objects) => {
            let Some(object) = objects.into_iter().next() else { return Value::Null };
            match (object.values.get(path), object.missing.get(path)) {
                (Some(value), _) => redacted(value),
                (None, Some(fault)) => told(fault),
                (None, None) => Value::Null,
            }
        }
    }
}

/// A fault's type and the privilege that it names: its words may name the site.
fn told(fault: &Fault) -> Value {
    json!({ "fault": fault.kind, "privilege": fault.privilege })
}

/// Counters of the group `gpu`: their numbers differ between servers, their names do not.
fn counters(session: &mut Session) -> Value {
    let Ok(manager) = session.named("perfManager") else { return Value::Null };
    match session.of(&[manager], &["perfCounter"]) {
        Err(fault) => told(&fault),
        Ok(objects) => {
            let values = objects.iter().filter_map(|object| object.values.get("perfCounter"));
            let of_gpus = values.flat_map(|value| &value.children).filter(|counter| {
                counter
                    .child("groupInfo")
                    .and_then(|group| group.child("key"))
                    .is_some_and(|key| key.text == "gpu")
            });
            Value::Array(of_gpus.take(200).map(redacted).collect())
        }
    }
}

/// Which instances of which counters a host has now: what a GPU is called there is an open question.
fn available_counters(session: &mut Session, host: &Ref) -> Value {
    let Ok(manager) = session.named("perfManager") else { return Value::Null };
    let asked = |session: &mut Session| {
        let arguments = object("entity", host) + "<intervalId>20</intervalId>";
        session.look("QueryAvailablePerfMetric", &manager, &arguments)
    };
    match session.reading(asked) {
        Err(fault) => told(&fault),
        Ok(metrics) => {
            let of_devices = metrics.iter().filter(|metric| {
                metric.child("instance").is_some_and(|instance| instance.text.contains([':', '.']))
            });
            Value::Array(of_devices.take(400).map(redacted).collect())
        }
    }
}

fn devices(session: &mut Session, vms: &[Ref]) -> Value {
    let objects = match session.of(vms, &["config.hardware.device"]) {
        Ok(objects) => objects,
        Err(fault) => return told(&fault),
    };
    let of_gpus =
        |device: &&Element| device.attribute("type").is_some_and(|t| t.ends_with("VirtualPCIPassthrough"));
    let of_vm = |object: &crate::properties::Object| {
        let all: Vec<Value> = object
            .values
            .get("config.hardware.device")?
            .children
            .iter()
            .filter(of_gpus)
            .map(redacted)
            .collect();
        (!all.is_empty()).then_some(Value::Array(all))
    };
    Value::Array(objects.iter().filter_map(of_vm).take(SHOWN_VMS).collect())
}

/// An element as JSON: elements of one name become a list, texts that are not known are hidden.
fn redacted(element: &Element) -> Value {
    let mut left = MOST_ELEMENTS;
    hidden(element, &mut left)
}

/// The reader bounds the depth.
fn hidden(element: &Element, left: &mut usize) -> Value {
    if *left == 0 {
        return json!("cut off");
    }
    *left -= 1;
    if element.children.is_empty() {
        return text(&element.name, &element.text);
    }
    let mut all = Map::new();
    if let Some(kind) = element.attribute("type") {
        all.insert("is".into(), json!(piece(kind.rsplit(':').next().unwrap_or(kind), 100)));
    }
    for child in &element.children {
        let value = hidden(child, left);
        match all.get_mut(&child.name) {
            Some(Value::Array(list)) => list.push(value),
            Some(first) => *first = json!([first.take(), value]),
            None => {
                all.insert(piece(&child.name, 100), value);
            }
        }
    }
    Value::Object(all)
}

fn text(name: &str, text: &str) -> Value {
    let is_number = !text.is_empty()
        && text.len() <= 18
        && text.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit());
    let is_time = name.ends_with("Time") || name == "releaseDate";
    let is_word = is_number || is_time || matches!(text, "true" | "false" | "");
    let is_serial = name.to_lowercase().contains("serial");
    if !is_serial && (is_word || KEPT.contains(&name) && !is_of_a_site(text)) {
        return json!(piece(text, 200));
    }
    json!(format!("hidden, {} characters", text.chars().count()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsgpu_core::readers::xml::parse;

    #[test]
    fn only_words_that_are_known_are_kept() {
        let xml = "<HostGraphicsInfo xmlns:i=\"x\" i:type=\"HostGraphicsInfo\"><deviceName>NVIDIAA100-PCIE-40GB</deviceName><pciId>0000:3b:00.0</pciId><memorySizeInKB>41943040</memorySizeInKB><vm type=\"VirtualMachine\">vm-1042</vm><vm type=\"VirtualMachine\">vm-1043</vm><note>payroll</note><serialNumber>12345678</serialNumber><id>564d5e1a-1111-2222-3333-444455556666</id><key>host-14</key></HostGraphicsInfo>";
        let value = redacted(&parse(xml).unwrap());
        assert_eq!(value["deviceName"], "NVIDIAA100-PCIE-40GB");
        assert_eq!(
            (value["is"].as_str(), value["memorySizeInKB"].as_str()),
            (Some("HostGraphicsInfo"), Some("41943040"))
        );
        let said = value.to_string();
        for secret in ["vm-104", "payroll", "12345678", "564d5e1a", "host-14"] {
            assert!(!said.contains(secret), "{secret}: {said}");
        }
        assert_eq!(value["vm"].as_array().map(Vec::len), Some(2));
    }
}
