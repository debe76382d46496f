//! What becomes of a host's running VMs when it enters maintenance mode, as vCenter forecasts it: DRS is asked, and moves
//! nothing. Whether VMs with vGPUs may move at all, how long one stands still meanwhile, and how much memory other hosts
//! have left to promise.

use crate::fault::Fault;
use crate::host_methods::Managers;
use crate::inventory::name;
use crate::session::Session;
use crate::soap::{Ref, object};
use std::collections::BTreeMap;
use vsgpu_core::readers::xml::Element;
use vsgpu_core::text::piece;

/// VMs of one call.
const AT_ONCE: usize = 200;
/// VMs of other hosts that are looked at.
const MOST_VMS: usize = 10_000;

/// What DRS says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// VMs that it would move, and where to.
    pub moves: BTreeMap<Ref, Option<Ref>>,
    /// VMs that it cannot move, and why.
    pub faults: BTreeMap<Ref, String>,
    /// What it says of no VM.
    pub general: Vec<String>,
}

/// Asks DRS what it would do; nothing moves.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn forecast(session: &mut Session, cluster: &Ref, host: &Ref) -> Result<Forecast, Fault> {
    let arguments = object("host", host);
    let found = session.within_session(|s| s.look("ClusterEnterMaintenanceMode", cluster, &arguments))?;
    Ok(found.first().map(read).unwrap_or_default())
}

fn read(result: &Element) -> Forecast {
    let mut forecast = Forecast::default();
    for action in result.all("recommendations").flat_map(|of| of.all("action")) {
        let of_migration = action.child("drsMigration");
        let part = |name: &str| of_migration.and_then(|of| of.child(name)).and_then(Ref::of);
        let vm = part("vm").or_else(|| action.child("target").and_then(Ref::of));
        if let Some(vm) = vm.filter(|vm| vm.kind == "VirtualMachine") {
            forecast.moves.insert(vm, part("destination"));
        }
    }
    for faults in result.child("fault").into_iter().flat_map(|of| of.all("faultsByVm")) {
        // A fault itself, or with its words around it.
        let words = |fault: &Element| {
            let read =
                if fault.child("fault").is_some() { Fault::localized(fault) } else { Fault::of(fault) };
            if read.said.is_empty() { in_words(&read.kind) } else { read.said.join(": ") }
        };
        let all: Vec<String> = faults.all("fault").map(words).collect();
        match faults.child("vm").and_then(Ref::of) {
            Some(vm) => drop(forecast.faults.insert(vm, all.join("; "))),
            None => forecast.general.extend(all),
        }
    }
    // What it would move it can move.
    forecast.faults.retain(|vm, _| !forecast.moves.contains_key(vm));
    forecast
}

/// A fault without words of its own, by its type.
fn in_words(kind: &str) -> String {
    match kind {
        "InsufficientMemoryResourcesFault" => "no other host has enough memory that is not reserved".into(),
        "InsufficientCpuResourcesFault" => "no other host has enough CPU that is not reserved".into(),
        "InsufficientGraphicsResourcesFault" => "no other host has such a GPU or vGPU free".into(),
        "InsufficientFailoverResourcesFault" => "admission control of HA does not allow it".into(),
        "NoCompatibleHost" => "no other host can run it".into(),
        "VMotionNotSupported" | "DisallowedMigrationDeviceAttached" => "a device of it cannot move".into(),
        other => piece(other, 100),
    }
}

/// Seconds that a VM with each profile stands still, at the slowest network that the host gives an estimate for; none where
/// this release gives none.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn stuns(session: &mut Session, managers: &Managers) -> Result<BTreeMap<String, u64>, Fault> {
    let found = session.within_session(|s| s.look("RetrieveVgpuProfileInfo", managers.graphics()?, ""));
    let found = match found {
        Ok(found) => found,
        // Before 7.0.3.
        Err(fault) if ["MethodNotFound", "NotSupported"].contains(&fault.kind.as_str()) => vec![],
        Err(fault) => return Err(fault),
    };
    let one = |info: &Element| {
        let longest = info
            .all("stunTimeEstimates")
            .filter_map(|of| of.child("stunTime")?.text.parse::<u64>().ok())
            .max()?;
        Some((piece(&info.child("profileName")?.text, 100), longest))
    };
    Ok(found.iter().filter_map(one).collect())
}

/// vCenter's setting without which no VM with a vGPU moves.
pub const HOT_MIGRATE: &str = "vgpu.hotmigrate.enabled";

/// Whether vCenter lets VMs with vGPUs move at all; none where it has no such setting. It takes `System.Read` at the top of
/// the inventory.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn vgpus_may_move(session: &mut Session) -> Result<Option<bool>, Fault> {
    let options = session.named("setting")?;
    let name = format!("<name>{HOT_MIGRATE}</name>");
    let found = session.within_session(|s| s.look("QueryOptions", &options, &name));
    let found = match found {
        Err(fault) if fault.kind == "InvalidName" => return Ok(None),
        found => found?,
    };
    let of = found.iter().find(|option| option.child("key").is_some_and(|key| key.text == HOT_MIGRATE));
    // Somebody may have written it as words.
    let value =
        of.and_then(|option| option.child("value")).map(|value| value.text.trim().to_ascii_lowercase());
    Ok(value.and_then(|value| value.parse().ok()))
}

/// Memory that each host of a cluster can still promise, MiB: of those that are connected and not in maintenance mode.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn unreserved(session: &mut Session, cluster: &Ref) -> Result<BTreeMap<Ref, u64>, Fault> {
    let of_cluster = session.of(std::slice::from_ref(cluster), &["host"])?;
    let all: Vec<Ref> = of_cluster.iter().flat_map(|of| of.references("host")).collect();
    let paths = ["runtime.connectionState", "runtime.inMaintenanceMode", "summary.hardware.memorySize", "vm"];
    let hosts = session.of_some(&all, &paths, 20)?;
    let serves = |host: &&crate::properties::Object| {
        host.text(paths[0]) == Some("connected") && host.text(paths[1]) != Some("true")
    };
    let hosts: Vec<_> = hosts.iter().filter(serves).collect();
    let all: Vec<Ref> = hosts.iter().flat_map(|host| host.references("vm")).take(MOST_VMS).collect();
    let vms = session.of_some(&all, &["runtime.powerState", "config.memoryAllocation"], AT_ONCE)?;
    let reserved: BTreeMap<&Ref, u64> = vms
        .iter()
        .filter(|vm| vm.text("runtime.powerState") == Some("poweredOn"))
        .filter_map(|vm| {
            let of = vm.values.get("config.memoryAllocation")?.child("reservation")?;
            Some((&vm.of, of.text.parse().ok()?))
        })
        .collect();
    let left = |host: &&crate::properties::Object| {
        let total = host.text("summary.hardware.memorySize")?.parse::<u64>().ok()? >> 20;
        let promised: u64 = host.references("vm").iter().filter_map(|vm| reserved.get(vm)).sum();
        Some((host.of.clone(), total.saturating_sub(promised)))
    };
    Ok(hosts.iter().filter_map(left).collect())
}

/// Names of VMs that run on a host.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn running_on(session: &mut Session, host: &Ref) -> Result<Vec<(Ref, String)>, Fault> {
    let of_host = session.of(std::slice::from_ref(host), &["vm"])?;
    let all: Vec<Ref> = of_host.iter().flat_map(|host| host.references("vm")).collect();
    let vms = session.of_some(&all, &["name", "runtime.powerState"], AT_ONCE)?;
    let running = vms.iter().filter(|vm| vm.text("runtime.powerState") == Some("poweredOn"));
    Ok(running.map(|vm| (vm.of.clone(), vm.text("name").map(name).unwrap_or_default())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsgpu_core::readers::xml::parse;

    #[test]
    fn what_drs_would_do_and_what_it_cannot() {
        let xml = r#"<returnval xmlns:i="x"><recommendations><key>1</key><action i:type="ClusterHostMaintenanceAction" ><type>HostMaintenanceV1</type><target type="HostSystem">host-1</target></action><action i:type="ClusterMigrationAction"><type>MigrationV1</type><target type="VirtualMachine">vm-1</target><drsMigration><key>1</key><vm type="VirtualMachine">vm-1</vm><source type="HostSystem">host-1</source><destination type="HostSystem">host-2</destination></drsMigration></action></recommendations><fault><reason>x</reason><faultsByVm i:type="ClusterDrsFaultsFaultsByVirtualDisk"><vm type="VirtualMachine">vm-2</vm><fault i:type="InsufficientMemoryResourcesFault"><unreserved>1</unreserved></fault></faultsByVm><faultsByVm><vm type="VirtualMachine">vm-3</vm><fault><fault i:type="NoCompatibleHost"/><localizedMessage>No host is compatible with the virtual machine.</localizedMessage></fault></faultsByVm></fault></returnval>"#;
        let forecast = read(&parse(xml).unwrap());
        let vm = |id: &str| Ref { kind: "VirtualMachine".into(), id: id.into() };
        assert_eq!(forecast.moves.len(), 1);
        assert_eq!(forecast.moves[&vm("vm-1")].as_ref().map(|host| host.id.as_str()), Some("host-2"));
        assert_eq!(forecast.faults[&vm("vm-2")], "no other host has enough memory that is not reserved");
        assert_eq!(forecast.faults[&vm("vm-3")], "No host is compatible with the virtual machine.");
    }
}
