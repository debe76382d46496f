//! What a server answers about GPUs, as it answers it, for somebody who has no such server: a person runs it and sends
//! the result. Texts are hidden unless they are words of NVIDIA's, VMware's or PCI's; names of a site, ids, addresses and
//! serial numbers are not. Only properties are read, each in a call of its own: a server that does not know one refuses
//! the whole call.

use crate::fault::Fault;
use crate::inventory::Host;
use crate::session::Session;
use crate::soap::{Ref, object};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};
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
const KEPT: [&str; 46] = [
    "acceptanceLevel",
    "apiType",
    "apiVersion",
    "assignableHardwareType",
    "biosVersion",
    "build",
    "class",
    "dependentDevice",
    "deviceClassName",
    "deviceId",
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
    "vgpu",
    "vgpuMode",
];

/// Named by people, whatever stands in them.
const HIDDEN: [&str; 6] =
    ["assetTag", "customLabel", "hardwareLabel", "instanceId", "serialNumber", "systemId"];
/// Services that say something about GPUs and doors; others may be a site's own.
const SERVICES: [&str; 7] =
    ["TSM", "TSM-SSH", "xorg", "gpuManager", "nv-hostengine", "nvdGpuMgmtDaemon", "vpxa"];
/// Until the whole report is there.
const WHOLE: Duration = Duration::from_secs(600);

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
/// What the server said, or why it is not heard. A property that is refused is part of the report.
pub fn about_gpus(session: &mut Session, hosts: &[&Host]) -> Result<Value, Fault> {
    #[expect(clippy::disallowed_methods, reason = "a deadline over many calls")]
    let begun = Instant::now();
    let mut asking = Asking { session, begun };
    let with_gpus: Vec<&&Host> = hosts.iter().filter(|host| host.gpus != Some(0)).take(MOST_HOSTS).collect();
    let (counters, numbers) = asking.counters()?;
    let mut of_hosts = vec![];
    for host in &with_gpus {
        let mut answers = asking.properties(&host.of, &OF_HOSTS)?;
        answers.insert("gpu counters".into(), asking.available_counters(&host.of, &numbers)?);
        of_hosts.push(Value::Object(answers));
    }
    let mut clusters: Vec<&Ref> = with_gpus.iter().filter_map(|host| host.compute.as_ref()).collect();
    clusters.retain(|of| of.kind == "ClusterComputeResource");
    clusters.sort();
    clusters.dedup();
    let mut of_clusters = vec![];
    for cluster in clusters {
        of_clusters.push(Value::Object(asking.properties(cluster, &OF_CLUSTERS)?));
    }
    let vms: Vec<Ref> = with_gpus.iter().flat_map(|host| host.vms.clone()).take(MOST_VMS).collect();
    let devices = asking.devices(&vms)?;
    let about = asking.session.about();
    let server = json!({ "name": about.full_name, "api": about.api, "vcenter": about.is_vcenter });
    Ok(json!({
        "version": 1,
        "server": server,
        "counters": counters,
        "hosts": of_hosts,
        "clusters": of_clusters,
        "vms with GPUs": devices,
    }))
}

struct Asking<'a> {
    session: &'a mut Session,
    begun: Instant,
}

impl Asking<'_> {
    /// A refusal is part of the report; a server that is not heard, or lets nobody in any more, ends it.
    fn answered<T>(&self, answer: Result<T, Fault>) -> Result<Result<T, Value>, Fault> {
        #[expect(clippy::disallowed_methods, reason = "see above")]
        let took = Instant::now() - self.begun;
        match answer {
            Err(fault) if fault.is_unheard() || fault.kind == "InvalidLogin" => Err(fault),
            _ if took > WHOLE => Err(Fault::unheard(format!("it took longer than {} s", WHOLE.as_secs()))),
            Err(fault) => Ok(Err(told(&fault))),
            Ok(answer) => Ok(Ok(answer)),
        }
    }

    fn properties(&mut self, of: &Ref, paths: &[&str]) -> Result<Map<String, Value>, Fault> {
        let mut answers = Map::new();
        for path in paths {
            answers.insert((*path).to_string(), self.property(of, path)?);
        }
        Ok(answers)
    }

    fn property(&mut self, of: &Ref, path: &str) -> Result<Value, Fault> {
        let answer = self.session.of(std::slice::from_ref(of), &[path]);
        let objects = match self.answered(answer)? {
            Ok(objects) => objects,
            Err(told) => return Ok(told),
        };
        let Some(object) = objects.into_iter().next() else { return Ok(Value::Null) };
        Ok(match (object.values.get(path), object.missing.get(path)) {
            (Some(value), _) => redacted(&of_path(path, value)),
            (None, Some(fault)) => told(fault),
            (None, None) => Value::Null,
        })
    }

    /// Counters of the group `gpu`, and their numbers: those differ between servers, names do not.
    fn counters(&mut self) -> Result<(Value, Vec<String>), Fault> {
        let Ok(manager) = self.session.named("perfManager") else { return Ok((Value::Null, vec![])) };
        let answer = self.session.of(&[manager], &["perfCounter"]);
        let objects = match self.answered(answer)? {
            Ok(objects) => objects,
            Err(told) => return Ok((told, vec![])),
        };
        let values = objects.iter().filter_map(|object| object.values.get("perfCounter"));
        let is_of_gpus = |counter: &&Element| {
            counter
                .child("groupInfo")
                .and_then(|group| group.child("key"))
                .is_some_and(|key| key.text == "gpu")
        };
        let of_gpus: Vec<&Element> =
            values.flat_map(|value| &value.children).filter(is_of_gpus).take(200).collect();
        let numbers = of_gpus.iter().filter_map(|counter| Some(counter.child("key")?.text.clone())).collect();
        Ok((Value::Array(of_gpus.into_iter().map(redacted).collect()), numbers))
    }

    /// Which instances of these counters a host has now: what a GPU is called there is an open question.
    fn available_counters(&mut self, host: &Ref, numbers: &[String]) -> Result<Value, Fault> {
        let Ok(manager) = self.session.named("perfManager") else { return Ok(Value::Null) };
        let answer = self.session.within_session(|session| {
            let arguments = object("entity", host) + "<intervalId>20</intervalId>";
            session.look("QueryAvailablePerfMetric", &manager, &arguments)
        });
        Ok(match self.answered(answer)? {
            Err(told) => told,
            Ok(metrics) => {
                // Instances of others are disks and paths, by their serial numbers.
                let of_gpus = |metric: &&Element| {
                    metric.child("counterId").is_some_and(|number| numbers.contains(&number.text))
                };
                Value::Array(metrics.iter().filter(of_gpus).take(400).map(redacted).collect())
            }
        })
    }

    fn devices(&mut self, vms: &[Ref]) -> Result<Value, Fault> {
        let answer = self.session.of_some(vms, &["config.hardware.device"], 20);
        let objects = match self.answered(answer)? {
            Ok(objects) => objects,
            Err(told) => return Ok(told),
        };
        let of_gpus = |device: &&Element| {
            device.attribute("type").is_some_and(|t| t.ends_with("VirtualPCIPassthrough"))
        };
        let of_vm = |object: &crate::properties::Object| {
            let value = object.values.get("config.hardware.device")?;
            let all: Vec<Value> = value.children.iter().filter(of_gpus).map(redacted).collect();
            (!all.is_empty()).then_some(Value::Array(all))
        };
        Ok(Value::Array(objects.iter().filter_map(of_vm).take(SHOWN_VMS).collect()))
    }
}

/// A property's value is an element `val`: what it is, its path says. Of services only known ones are left.
fn of_path(path: &str, value: &Element) -> Element {
    let mut value = value.clone();
    value.name = path.rsplit('.').next().unwrap_or(path).to_string();
    if path == "config.service" {
        for list in &mut value.children {
            let known = |service: &Element| {
                service.child("key").is_none_or(|key| SERVICES.contains(&key.text.as_str()))
            };
            list.children.retain(known);
        }
        let known =
            |service: &Element| service.child("key").is_none_or(|key| SERVICES.contains(&key.text.as_str()));
        value.children.retain(known);
    }
    value
}

/// A fault's type and the privilege that it names: its words may name the site.
fn told(fault: &Fault) -> Value {
    json!({ "fault": fault.kind, "privilege": fault.privilege })
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
    let of_time = |c: char| c.is_ascii_digit() || "-:.+TZ".contains(c);
    let is_time = (name.ends_with("Time") || name == "releaseDate") && text.chars().all(of_time);
    let is_word = is_number || is_time || matches!(text, "true" | "false" | "");
    if !HIDDEN.contains(&name) && (is_word || KEPT.contains(&name) && !is_of_a_site(text)) {
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
        let xml = "<HostGraphicsInfo xmlns:i=\"x\" i:type=\"HostGraphicsInfo\"><deviceName>NVIDIAA100-PCIE-40GB</deviceName><pciId>0000:3b:00.0</pciId><memorySizeInKB>41943040</memorySizeInKB><vm type=\"VirtualMachine\">vm-1042</vm><vm type=\"VirtualMachine\">vm-1043</vm><note>payroll</note><serialNumber>12345678</serialNumber><id>564d5e1a-1111-2222-3333-444455556666</id><hardwareLabel>20231107</hardwareLabel><bootTime>payroll</bootTime><vgpu>grid_a100-40c</vgpu><key>host-14</key></HostGraphicsInfo>";
        let value = redacted(&parse(xml).unwrap());
        assert_eq!(value["deviceName"], "NVIDIAA100-PCIE-40GB");
        assert_eq!(
            (value["is"].as_str(), value["memorySizeInKB"].as_str()),
            (Some("HostGraphicsInfo"), Some("41943040"))
        );
        let said = value.to_string();
        assert_eq!(value["vgpu"], "grid_a100-40c");
        for secret in ["vm-104", "payroll", "12345678", "20231107", "564d5e1a", "host-14"] {
            assert!(!said.contains(secret), "{secret}: {said}");
        }
        assert_eq!(value["vm"].as_array().map(Vec::len), Some(2));
    }
}
