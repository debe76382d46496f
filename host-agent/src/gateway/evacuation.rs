//! The forecast of an evacuation: DRS's own, and what it does not say. A VM with a device that is bound to its host cannot
//! move; whether DRS moves VMs with vGPUs at all is an option of its cluster; where DRS is off, somebody has to.

use super::asked::{Asked, refused};
use crate::facts::evacuation::{Forecast, Leaving, Way};
use crate::facts::virtual_machines::is_infrastructure;
use std::collections::BTreeMap;
use vsgpu_vsphere::cluster::Cluster;
use vsgpu_vsphere::evacuation::{self, HOT_MIGRATE, forecast, stuns};
use vsgpu_vsphere::host::HostDetails;
use vsgpu_vsphere::vm::{Backing, Device, Vm};
use vsgpu_vsphere::{Fault, Ref};

/// Options of DRS that let it move VMs with vGPUs: from 8.0 U2, and from 7.0 U3f.
const VGPU_OPTIONS: [(&str, &str); 2] =
    [("PassthroughDrsAutomation", "1"), ("VgpuMMAutomationTimeoutSecs", "-1")];

/// What is known beside DRS's own words.
#[derive(Default)]
struct Around {
    cluster: Option<Cluster>,
    /// DRS's answer, or why there is none.
    drs: Option<Result<evacuation::Forecast, Fault>>,
    stuns: BTreeMap<String, u64>,
    /// Whether vCenter lets VMs with vGPUs move.
    vgpus_may_move: Option<bool>,
    /// Names of hosts.
    hosts: BTreeMap<Ref, String>,
    /// The most memory that another host can still promise, MiB.
    unreserved: Option<u64>,
}

/// Asks vCenter. Nothing is moved.
pub(super) fn of_host(asked: &Asked<'_>) -> Result<Forecast, String> {
    let details = asked.details()?;
    let said = |fault: Fault| refused(&fault);
    let vms = details.vms.as_ref().map_err(refused)?;
    let running: Vec<&Vm> = vms
        .iter()
        .filter(|vm| vm.power == "poweredOn" && !is_infrastructure(&vm.name, "a datastore"))
        .collect();
    let of = details.parent.as_ref().filter(|parent| parent.kind == "ClusterComputeResource");
    let mut around = Around::default();
    if let Some(of) = of {
        // As it is now: somebody may have set DRS to manual a moment ago.
        asked.site.clusters_changed();
        around.cluster = asked.site.cluster(of).map_err(said)?;
    }
    let drs_is_on = around.cluster.as_ref().is_some_and(|of| of.drs.as_ref().is_some_and(|(on, _)| *on));
    if let Some(cluster) = of.filter(|_| !running.is_empty()) {
        if drs_is_on {
            let answer = asked.site.with(|session| forecast(session, cluster, &details.of));
            if let Ok(forecast) = &answer {
                let to: Vec<Ref> = forecast.moves.values().flatten().cloned().collect();
                let names = asked.site.with(|session| vsgpu_vsphere::clone::host_names(session, &to));
                around.hosts = names.unwrap_or_default();
            }
            around.drs = Some(answer);
        }
        // No plan rests on these: without them the rest is there.
        if running.iter().any(|vm| !profiles(vm).is_empty()) {
            let stuns = asked.site.with(|session| {
                let managers = asked.site.managers(session, &details.of)?;
                stuns(session, &managers)
            });
            around.stuns = stuns.unwrap_or_default();
            around.vgpus_may_move = asked.site.with(evacuation::vgpus_may_move).unwrap_or_default();
        }
        if running.iter().any(|vm| locked(vm) > 0) {
            let room = asked.site.unreserved(cluster).unwrap_or_default();
            let others = room.iter().filter(|(host, _)| **host != details.of);
            around.unreserved = others.map(|(_, left)| *left).max();
        }
    }
    Ok(judged(&details, &running, &around))
}

fn profiles(vm: &Vm) -> Vec<&str> {
    fn profile(device: &Device) -> Option<&str> {
        if let Backing::Vgpu(profile) = &device.backing { Some(profile) } else { None }
    }
    vm.devices.iter().filter_map(profile).collect()
}

/// Memory that another host must promise, MiB.
fn locked(vm: &Vm) -> u64 {
    match vm.memory_locked {
        Some(true) => vm.memory_mib.unwrap_or_default(),
        _ => u64::try_from(vm.memory_reserved.unwrap_or_default()).unwrap_or_default(),
    }
}

/// Pure.
fn judged(details: &HostDetails, running: &[&Vm], around: &Around) -> Forecast {
    let vms = running.iter().map(|vm| judged_one(details, vm, around)).collect();
    let cluster = around.cluster.as_ref();
    let mut warnings = vec![];
    let spare =
        |of: &&Cluster| of.ha == Some((true, true)) && of.failover_level.is_some_and(|n| (0..2).contains(&n));
    if let Some(of) = cluster.filter(spare) {
        warnings.push(format!(
            "when this host is away, HA of {} has no host left to spare: DRS may then refuse to move VMs, and HA to start them",
            of.name
        ));
    }
    if let Some(of) = cluster.filter(|of| of.config_managed == Some(true)) {
        warnings.push(format!(
            "{} has one configuration for its hosts (vSphere Configuration Profiles): a setting made on one host may be undone by the next remediation",
            of.name
        ));
    }
    if let Some(Ok(drs)) = &around.drs {
        warnings.extend(drs.general.iter().map(|said| format!("DRS says: {said}")));
    }
    Forecast { cluster: cluster.map(|of| of.name.clone()), vms, warnings }
}

fn judged_one(details: &HostDetails, vm: &Vm, around: &Around) -> Leaving {
    let profiles = profiles(vm);
    let stun_secs = profiles.iter().filter_map(|profile| around.stuns.get(*profile)).sum::<u64>();
    let leaving = |way, why: String, to: Option<String>| Leaving {
        name: vm.name.clone(),
        way,
        why,
        to,
        stun_secs: (stun_secs > 0 && way != Way::Off).then_some(stun_secs),
    };
    let off = |why: &str| leaving(Way::Off, why.into(), None);
    let by_hand = |why: String| leaving(Way::ByHand, why, None);
    let whole =
        vm.devices.iter().any(|device| matches!(device.backing, Backing::Fixed { .. } | Backing::Dynamic(_)));
    let stays = profiles.iter().find(|profile| details.profiles.get(**profile) == Some(&false));
    let by_drs = around.drs.as_ref().and_then(|drs| drs.as_ref().ok());
    let would_move = by_drs.and_then(|drs| drs.moves.get(&vm.of));
    // What DRS would do counts most: a device of a newer kind may well move.
    if whole && would_move.is_none() && !devices_move(details, vm) {
        return off("it has a whole GPU");
    }
    if let Some(profile) = stays.filter(|_| would_move.is_none()) {
        return off(&format!("{profile} cannot move on this host"));
    }
    if !profiles.is_empty() && around.vgpus_may_move == Some(false) && would_move.is_none() {
        return off(&format!("{HOT_MIGRATE} is false in vCenter: no VM with a vGPU moves"));
    }
    let Some(cluster) = &around.cluster else {
        return by_hand("its host is in no cluster: no DRS moves it".into());
    };
    let name = &cluster.name;
    let own = cluster.overrides.get(&vm.of);
    let level = own.and_then(|(_, level)| level.as_deref());
    let level = level.or(cluster.drs.as_ref().map(|(_, level)| level.as_str())).unwrap_or_default();
    if own.is_some_and(|(enabled, _)| !enabled) {
        return by_hand(format!("it is excluded from DRS of {name}"));
    }
    if let Some(to) = would_move {
        let to = to.as_ref().and_then(|host| around.hosts.get(host)).cloned();
        let whose = if own.is_some() { "its own level of DRS".to_string() } else { format!("DRS of {name}") };
        return match level {
            "fullyAutomated" => leaving(Way::Drs, String::new(), to),
            _ => leaving(
                Way::ByHand,
                format!("{whose} only recommends: apply the recommendation, or move it"),
                to,
            ),
        };
    }
    let no_room = around.unreserved.filter(|most| locked(vm) > *most).map(|most| {
        format!("{} GiB of it are reserved, most free elsewhere {} GiB", locked(vm) >> 10, most >> 10)
    });
    if let Some(words) = by_drs.and_then(|drs| drs.faults.get(&vm.of)) {
        return off(&no_room.unwrap_or_else(|| format!("DRS: {words}")));
    }
    if let Some(no_room) = no_room {
        return off(&no_room);
    }
    match (&around.drs, cluster.drs.as_ref()) {
        (Some(Err(fault)), _) => {
            leaving(Way::Unknown, format!("DRS cannot be asked: {}", refused(fault)), None)
        }
        (None, Some((false, _))) => by_hand(format!("DRS of {name} is off")),
        (None, _) => leaving(Way::Unknown, format!("whether DRS of {name} is on may not be read"), None),
        (Some(Ok(_)), _) if !profiles.is_empty() && !moves_vgpus(cluster) => by_hand(format!(
            "DRS of {name} does not move VMs with vGPUs: see `drs-options` in the documentation"
        )),
        (Some(Ok(_)), _) if !profiles.is_empty() => by_hand(match around.vgpus_may_move {
            Some(_) => "DRS says nothing of it: is vCenter's stun limit above the estimate?".into(),
            None => format!(
                "DRS says nothing of it: is `{HOT_MIGRATE}` true in vCenter, and its stun limit above the estimate?"
            ),
        }),
        (Some(Ok(_)), _) => by_hand("DRS says nothing of it".into()),
    }
}

/// Whether every whole GPU of a VM is one that moves with it: what the host says of each (9.1), never assumed. Of a VM that
/// takes any of a kind nobody says which it has.
fn devices_move(details: &HostDetails, vm: &Vm) -> bool {
    let passthrough = details.passthrough.as_ref().ok();
    let moves = |address: &str| {
        let of = passthrough.and_then(|all| all.iter().find(|of| of.address == address));
        of.is_some_and(|of| of.mode.as_deref() == Some("enhancedDirectPath"))
    };
    vm.devices.iter().all(|device| match &device.backing {
        Backing::Fixed { id, .. } => moves(id),
        Backing::Dynamic(_) => false,
        Backing::Vgpu(_) | Backing::Other => true,
    })
}

fn moves_vgpus(cluster: &Cluster) -> bool {
    let is_set =
        |(name, value): &(&str, &str)| cluster.drs_options.iter().any(|(k, v)| k == name && v == value);
    VGPU_OPTIONS.iter().any(is_set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(level: &str, options: &[(&str, &str)]) -> Around {
        Around {
            cluster: Some(Cluster {
                of: Ref { kind: "ClusterComputeResource".into(), id: "domain-c1".into() },
                name: "GPU-A".into(),
                hosts: 3,
                drs: Some((level != "off", level.into())),
                overrides: BTreeMap::new(),
                options_are_complete: true,
                drs_options: options.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
                ha: Some((true, true)),
                image_managed: None,
                config_managed: Some(true),
                failover_level: Some(0),
            }),
            drs: (level != "off").then(|| Ok(evacuation::Forecast::default())),
            ..Around::default()
        }
    }

    fn vm(id: &str, backing: Option<Backing>) -> Vm {
        let mut vm = super::super::vmx::tests::vm();
        vm.of.id = id.into();
        vm.name = id.into();
        vm.devices =
            backing.map(|backing| vsgpu_vsphere::vm::Device { key: 13_000, backing }).into_iter().collect();
        vm
    }

    #[test]
    fn each_vm_leaves_in_its_way_and_says_why() {
        let details = HostDetails {
            of: Ref { kind: "HostSystem".into(), id: "host-1".into() },
            parent: None,
            connection: "connected".into(),
            in_maintenance: Some(false),
            boot_time: None,
            reboot_required: None,
            product: None,
            lockdown: None,
            cpu_mhz: None,
            cores: None,
            numa: BTreeMap::new(),
            devices: Ok(vec![]),
            passthrough: Ok(vec![]),
            graphics: Ok(None),
            gpus: vec![],
            profiles: [("stays".to_string(), false), ("moves".to_string(), true)].into(),
            vms: Ok(vec![]),
        };
        let vgpu = |profile: &str| Some(Backing::Vgpu(profile.into()));
        let plain = vm("plain", None);
        let whole = vm("whole", Some(Backing::Dynamic(vec![])));
        let (stays, moves) = (vm("fixed", vgpu("stays")), vm("vgpu", vgpu("moves")));
        let all = [&plain, &whole, &stays, &moves];
        let said = |around: &Around| {
            let forecast = judged(&details, &all, around);
            let one = |vm: &Leaving| format!("{:?} {}", vm.way, vm.why);
            forecast.vms.iter().map(one).collect::<Vec<_>>()
        };
        // DRS moves what it says; of a vGPU it says nothing.
        let mut on = around("fullyAutomated", &[]);
        on.drs = Some(Ok(evacuation::Forecast {
            moves: [(plain.of.clone(), None)].into(),
            ..evacuation::Forecast::default()
        }));
        on.stuns.insert("moves".into(), 9);
        let forecast = judged(&details, &all, &on);
        assert_eq!(forecast.vms[3].stun_secs, Some(9));
        assert_eq!(forecast.warnings.len(), 2, "{:?}", forecast.warnings);
        assert_eq!(
            said(&on),
            [
                "Drs ",
                "Off it has a whole GPU",
                "Off stays cannot move on this host",
                "ByHand DRS of GPU-A does not move VMs with vGPUs: see `drs-options` in the documentation",
            ]
        );
        // A whole GPU that moves with its VM, as the host says of it: then it is DRS's to say.
        let mut newer = vm("newer", None);
        let backing = Backing::Fixed {
            id: "0000:3b:00.0".into(),
            device: "0x20f1".into(),
            system: "s".into(),
            vendor: 4318,
        };
        newer.devices = vec![vsgpu_vsphere::vm::Device { key: 13_000, backing }];
        let of_mode = |mode: &str| {
            let mut details = details.clone();
            details.passthrough = Ok(vec![vsgpu_vsphere::host::Passthrough {
                address: "0000:3b:00.0".into(),
                dependent: String::new(),
                enabled: true,
                active: true,
                capable: true,
                mode: Some(mode.into()),
            }]);
            judged(&details, &[&newer], &on).vms[0].why.clone()
        };
        assert_eq!(of_mode("enhancedDirectPath"), "DRS says nothing of it");
        assert_eq!(of_mode("directPath"), "it has a whole GPU");
        // Its own words, and the numbers behind them.
        let mut full = around("fullyAutomated", &[("PassthroughDrsAutomation", "1")]);
        full.drs = Some(Ok(evacuation::Forecast {
            faults: [(plain.of.clone(), "no room".to_string()), (moves.of.clone(), "no GPU".to_string())]
                .into(),
            ..evacuation::Forecast::default()
        }));
        assert_eq!(
            (said(&full)[0].as_str(), said(&full)[3].as_str()),
            ("Off DRS: no room", "Off DRS: no GPU")
        );
        full.unreserved = Some(4096);
        assert_eq!(said(&full)[0], "Off 8 GiB of it are reserved, most free elsewhere 4 GiB");
        // Switched off for the whole of vCenter; where DRS would move it all the same, that counts.
        let mut forbidden = around("fullyAutomated", &[("PassthroughDrsAutomation", "1")]);
        forbidden.vgpus_may_move = Some(false);
        let nothing = "vgpu.hotmigrate.enabled is false in vCenter: no VM with a vGPU moves";
        assert_eq!(said(&forbidden)[3], format!("Off {nothing}"));
        assert_eq!(said(&forbidden)[0], "ByHand DRS says nothing of it");
        forbidden.drs = Some(Ok(evacuation::Forecast {
            moves: [(moves.of.clone(), None)].into(),
            ..evacuation::Forecast::default()
        }));
        assert_eq!(said(&forbidden)[3], "Drs ");
        let mut manual = around("manual", &[]);
        manual.drs = Some(Ok(evacuation::Forecast {
            moves: [(plain.of.clone(), None)].into(),
            ..evacuation::Forecast::default()
        }));
        assert!(said(&manual)[0].starts_with("ByHand DRS of GPU-A only recommends"), "{:?}", said(&manual));
        assert_eq!(said(&around("off", &[]))[0], "ByHand DRS of GPU-A is off");
        assert_eq!(said(&Around::default())[0], "ByHand its host is in no cluster: no DRS moves it");
        // Not asked is not "cannot": nobody is shut down for it.
        let mut unheard = around("fullyAutomated", &[]);
        unheard.drs = Some(Err(Fault::said("vCenter was busy")));
        assert_eq!(said(&unheard)[0], "Unknown DRS cannot be asked: vCenter was busy");
        assert_eq!(said(&unheard)[1], "Off it has a whole GPU");
        // A level of its own counts more than the cluster's.
        let mut own = around("fullyAutomated", &[]);
        let moves =
            || evacuation::Forecast { moves: [(plain.of.clone(), None)].into(), ..Default::default() };
        own.drs = Some(Ok(moves()));
        let of_vm =
            |enabled, level: Option<&str>| [(plain.of.clone(), (enabled, level.map(String::from)))].into();
        own.cluster.as_mut().unwrap().overrides = of_vm(true, Some("manual"));
        assert!(said(&own)[0].starts_with("ByHand its own level of DRS only recommends"), "{:?}", said(&own));
        own.cluster.as_mut().unwrap().overrides = of_vm(false, None);
        assert_eq!(said(&own)[0], "ByHand it is excluded from DRS of GPU-A");
        let mut manual = around("manual", &[]);
        manual.drs = Some(Ok(moves()));
        manual.cluster.as_mut().unwrap().overrides = of_vm(true, Some("fullyAutomated"));
        assert_eq!(said(&manual)[0], "Drs ");
    }
}
