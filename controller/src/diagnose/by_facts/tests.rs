//! Each sign in a host, a VM and a guest that are well but for it, and what looks like a fault and is none.

use super::*;
use serde_json::{Value, from_value, json};
use std::collections::BTreeSet;
use vsgpu_core::Fact;
use vsgpu_host_agent::facts::{VmConfig, VmDevices};

const A100: &str = "0000:3b:00.0";

fn read<F: Fact>(value: Value) -> Option<F> {
    Some(from_value(value).unwrap_or_else(|why| panic!("{}: {why}", F::NAME)))
}

/// A host with one A100 that serves vGPUs and one that is passed through, and nothing wrong.
fn host() -> HostFacts {
    let gpu = |address: &str, owner: &str| {
        json!({"address": address, "vendor_id": "10de", "device_id": "20f1", "device_name": "A100",
            "configured_owner": owner, "current_owner": owner, "module": null, "passthru_capable": true})
    };
    let devices = json!([gpu(A100, "VMkernel"), gpu("0000:5e:00.0", "VM Passthru")]);
    let offered = json!([{"bus_id": A100, "names": ["GRID A100-10C", "GRID A100-40C"]}]);
    let vib = json!({"name": "NVD-AIE", "version": "535.183.04", "vendor": "NVIDIA"});
    HostFacts {
        name: "esx-01".into(),
        vms: None,
        graphics: read(json!({"default_type": "SharedPassthru", "assignment_policy": "Performance",
            "devices": [{"bdf": A100, "vendor": null, "device": "A100", "module": "nvidia",
                "graphics_type": "SharedPassthru", "memory_kib": null, "vms": null}]})),
        passthrough: read(json!({"devices": devices, "esx_version": "8.0.2",
            "enabled": {A100: false, "0000:5e:00.0": true}})),
        manager: read(
            json!({"installed": [vib], "staged": [], "esx_version": "8.0.2", "module_loaded": true,
            "driver_version": "535.183.04", "modes": [], "smi_failure": null}),
        ),
        types: read(json!({"supported": offered, "creatable": offered})),
        mig: read(json!({"gpus": [{"bus_id": A100, "name": null, "architecture": null, "current": false,
            "pending": false}], "smi_failure": null})),
        gpus: read(json!({"gpus": [{"bus_id": A100, "remapped_rows": {"correctable": 0, "uncorrectable": 0,
            "pending": false, "failed": false}}]})),
        summary: read(json!({"reboot_required": false, "in_maintenance_mode": false, "boot_time": null})),
        maintenance: read(json!({"enabled": false, "running": []})),
    }
}

fn keys(of: &[(&str, &str)]) -> Value {
    of.iter().map(|(key, value)| (key.to_string(), json!(value))).collect()
}

fn config() -> Option<VmConfig> {
    let reserved = [("sched.mem.min", "65536"), ("sched.mem.minsize", "65536"), ("sched.mem.pin", "TRUE")];
    read(json!({"vmid": 1, "vmx": "/vmfs/volumes/ds/vm/vm.vmx", "firmware": "efi", "memory_mib": 65536,
        "keys": keys(&reserved)}))
}

fn devices(of: &[(&str, &str)]) -> Option<VmDevices> {
    let gpu = |address: &str| {
        json!({"address": address, "vendor_id": "10de", "device_id": "20f1",
        "subsystem_id": "145f", "device_name": "A100", "configured_owner": null, "current_owner": null, "module": null, "passthru_capable": true})
    };
    read(json!({"vmid": 1, "vmx": "/vmfs/volumes/ds/vm/vm.vmx", "firmware": "efi", "memory_mib": 65536,
        "keys": keys(of), "gpus": [gpu(A100), gpu("0000:5e:00.0")], "system_id": "", "held": {}}))
}

fn vgpu(profile: &str) -> Option<VmDevices> {
    devices(&[("pcipassthru0.present", "TRUE"), ("pcipassthru0.vgpu", profile)])
}

/// 0000:5e:00.0 is 94 in decimal.
const WHOLE: [(&str, &str); 6] = [
    ("pcipassthru0.present", "TRUE"),
    ("pcipassthru0.id", "00000:094:00.0"),
    ("pcipassthru0.deviceid", "0x20f1"),
    ("pcipassthru0.vendorid", "0x10de"),
    ("pcipassthru.use64bitmmio", "TRUE"),
    ("pcipassthru.64bitmmiosizegb", "256"),
];

fn whole(but: &[(&str, &str)]) -> Option<VmDevices> {
    let kept = WHOLE.iter().filter(|(key, _)| !but.iter().any(|(other, _)| other == key));
    devices(&kept.chain(but).copied().collect::<Vec<_>>())
}

fn bus(vgpu: Option<&str>) -> Value {
    json!({"address": "0000:02:00.0", "device_id": "20f1", "subsystem_id": "145f", "bar1_mib": 65536, "vgpu_type": vgpu})
}

/// A VM with a vGPU of that host, running and licensed.
fn vm() -> VmFacts {
    VmFacts {
        name: "vm-01".into(),
        guest_name: "vm-01 (guest)".into(),
        devices: vgpu("grid_a100-10c"),
        config: config(),
        running: Some(true),
        to_run: true,
        meant_off: false,
        driver: read(json!({"version": "535.183.06", "gpus": ["GRID A100-10C"], "vgpu": true,
            "smi_failure": null, "installer": null, "dkms": true, "gpu_on_bus": true,
            "on_bus": [bus(Some("GRID A100-10C"))], "kernel": "5.14.0-1", "modules": ["nvidia"],
            "module_version": "535.183.06", "gridd": true, "open_module": false, "secure_boot": true,
            "certificates": {"a.der": true}, "packages": {}})),
        health: read(json!({"worst": null, "findings": [], "loaded": true, "module": "535.183.06",
            "on_disk": "535.183.06", "xids": [], "license_expires": null, "at": 1000})),
        nouveau: read(json!({"loaded": false, "blocked_by": null, "rebuilt": false, "os_release": ""})),
        license: read(
            json!({"configured": {"FeatureType": "1"}, "template_keys": null, "tokens": {"a.tok": "0"},
            "daemon": "active", "statuses": ["Licensed (Expiry: N/A)"], "product": null, "reason": null,
            "smi_failure": null, "program": true}),
        ),
        tools: read(
            json!({"kernel": "5.14.0-1", "headers": true, "compiler": true, "dkms": true, "os_release": ""}),
        ),
        clock: read(json!({"now": 1000, "synchronized": true})),
        catalogue: None,
        at: 1010,
    }
}

fn told(host: &HostFacts, vm: &VmFacts) -> Vec<String> {
    find(&Machines { host, vm: Some(vm) }).into_iter().map(|f| f.cause).collect()
}

fn not_loaded(vm: &mut VmFacts) {
    let driver = vm.driver.as_mut().unwrap();
    (driver.version, driver.modules) = (None, vec![]);
}

fn unlicensed(vm: &mut VmFacts) -> &mut LicenseFact {
    let license = vm.license.as_mut().unwrap();
    license.statuses = vec!["Unlicensed (Restricted)".into()];
    license
}

type Break = fn(&mut HostFacts, &mut VmFacts);

/// One fault each, in a host and a VM that are well.
const BROKEN: &[(&str, Break)] = &[
    ("graphics-type-shared", |h, _| h.graphics.as_mut().unwrap().devices[0].graphics_type = "Shared".into()),
    ("passthrough-not-active", |h, v| {
        v.devices = whole(&[]);
        h.passthrough.as_mut().unwrap().devices[1].current_owner = Some("VMkernel".into());
    }),
    ("device-not-passthrough", |h, v| {
        v.devices = whole(&[]);
        let fact = h.passthrough.as_mut().unwrap();
        fact.enabled.clear();
        fact.devices[1].current_owner = Some("VMkernel".into());
    }),
    ("device-moved", |_, v| v.devices = whole(&[("pcipassthru0.id", "00000:095:00.0")])),
    ("device-not-capable", |h, v| {
        v.devices = whole(&[]);
        h.passthrough.as_mut().unwrap().devices[1].passthru_capable = Some(false);
    }),
    ("all-gpus-passthrough", |h, _| h.manager.as_mut().unwrap().all_given = true),
    ("no-host-driver", |h, _| {
        let manager = h.manager.as_mut().unwrap();
        manager.packages.installed.clear();
        manager.module_loaded = false;
    }),
    ("host-reboot-waits", |h, _| h.summary.as_mut().unwrap().reboot_required = Some(true)),
    ("host-driver-not-running", |h, _| h.manager.as_mut().unwrap().module_loaded = false),
    ("no-vgpu-mode", |h, _| h.types.as_mut().unwrap().supported.clear()),
    ("profile-not-offered", |_, v| v.devices = vgpu("grid_a100-20c")),
    ("profiles-exhausted", |h, v| {
        v.running = Some(false);
        h.types.as_mut().unwrap().creatable.clear();
    }),
    ("mig-mode-pending", |h, _| h.mig.as_mut().unwrap().gpus[0].pending = Some(true)),
    ("mig-left-on", |h, v| {
        v.running = Some(false);
        h.mig.as_mut().unwrap().gpus[0].current = Some(true);
    }),
    ("gpu-memory-remap-failed", |h, _| {
        h.gpus.as_mut().unwrap().0.gpus[0].remapped_rows.as_mut().unwrap().failed = true;
    }),
    ("gpu-memory-remap-waits", |h, _| {
        h.gpus.as_mut().unwrap().0.gpus[0].remapped_rows.as_mut().unwrap().pending = true;
    }),
    ("host-in-maintenance", |h, v| {
        v.running = Some(false);
        h.maintenance.as_mut().unwrap().enabled = true;
    }),
    ("memory-not-reserved", |_, v| {
        v.running = Some(false);
        v.config.as_mut().unwrap().keys.clear();
    }),
    ("mmio-too-small", |_, v| {
        v.running = Some(false);
        v.devices = whole(&[("pcipassthru.64bitmmiosizegb", "32")]);
    }),
    ("vgpu-window-missing", |_, v| {
        v.running = Some(false);
        v.devices = vgpu("grid_a100-40c");
    }),
    ("nested-virt-on", |_, v| v.devices = whole(&[("vhv.enable", "TRUE")])),
    ("bar1-empty", |_, v| v.driver.as_mut().unwrap().on_bus[0].bar1_mib = Some(0)),
    ("no-gpu-in-guest", |_, v| v.driver.as_mut().unwrap().gpu_on_bus = Some(false)),
    ("nouveau-loaded", |_, v| v.nouveau.as_mut().unwrap().loaded = true),
    ("api-mismatch", |_, v| v.health.as_mut().unwrap().on_disk = Some("535.216.01".into())),
    ("kernel-headers-missing", |_, v| {
        not_loaded(v);
        let driver = v.driver.as_mut().unwrap();
        (driver.module_version, driver.from_run) = (None, true);
        v.tools.as_mut().unwrap().headers = false;
    }),
    ("module-of-another-kernel", |_, v| {
        not_loaded(v);
        let driver = v.driver.as_mut().unwrap();
        (driver.module_version, driver.from_run) = (None, true);
    }),
    ("secure-boot", |_, v| {
        not_loaded(v);
        v.driver.as_mut().unwrap().certificates.clear();
    }),
    ("open-module-needed", |_, v| {
        let driver = v.driver.as_mut().unwrap();
        let needs = gpus::all().iter().find(|m| m.open_module == OpenModule::Required).unwrap();
        driver.on_bus[0].vgpu_type = None;
        driver.on_bus[0].device_id = needs.device_id.clone();
        driver.on_bus[0].subsystem_id = needs.subsystem_id.clone();
    }),
    ("open-module-on-old-gpu", |_, v| {
        let driver = v.driver.as_mut().unwrap();
        let old = gpus::all().iter().find(|m| m.open_module == OpenModule::No).unwrap();
        driver.open_module = Some(true);
        driver.on_bus[0].vgpu_type = None;
        driver.on_bus[0].device_id = old.device_id.clone();
        driver.on_bus[0].subsystem_id = old.subsystem_id.clone();
    }),
    ("guest-read-only", |_, v| v.driver.as_mut().unwrap().read_only = true),
    ("cuda-replaced-driver", |_, v| {
        let driver = v.driver.as_mut().unwrap();
        driver.gridd = Some(false);
        driver.packages.insert("nvidia-driver".into(), "560.35.03".into());
    }),
    ("guest-driver-newer", |_, v| v.driver.as_mut().unwrap().version = Some("570.148.08".into())),
    ("guest-driver-older", |_, v| v.driver.as_mut().unwrap().version = Some("430.30".into())),
    ("no-token", |_, v| unlicensed(v).tokens.clear()),
    ("gridd-missing", |_, v| unlicensed(v).program = Some(false)),
    ("gridd-ended", |_, v| unlicensed(v).daemon = "failed".into()),
    ("feature-type-wrong", |_, v| {
        unlicensed(v).configured.insert("FeatureType".into(), "0".into());
    }),
    ("license-clock", |_, v| {
        unlicensed(v);
        v.clock.as_mut().unwrap().now = 5000;
    }),
];

#[test]
fn every_sign_is_seen_in_its_fault_and_nothing_in_what_is_well() {
    assert_eq!(told(&host(), &vm()), Vec::<String>::new());
    // With a whole GPU and the driver for it, likewise.
    let mut passed = vm();
    passed.devices = whole(&[]);
    assert_eq!(told(&host(), &passed), Vec::<String>::new());
    for (cause, broken) in BROKEN {
        let (mut host, mut vm) = (host(), vm());
        broken(&mut host, &mut vm);
        assert!(told(&host, &vm).contains(&(*cause).to_string()), "{cause}: {:?}", told(&host, &vm));
    }
    let tried: BTreeSet<&str> = BROKEN.iter().map(|(cause, _)| *cause).collect();
    let signs: BTreeSet<&str> = SIGNS.iter().map(|sign| sign.cause).collect();
    assert_eq!(tried, signs);
}

/// What looks like a fault and is none.
#[test]
fn what_is_not_this_vms_fault_is_not_told() {
    let silent = |what: &str, change: Break| {
        let (mut host, mut vm) = (host(), vm());
        change(&mut host, &mut vm);
        assert_eq!(told(&host, &vm), Vec::<String>::new(), "{what}");
    };
    silent("another GPU of the host waits", |h, _| {
        h.passthrough.as_mut().unwrap().devices[1].current_owner = Some("VMkernel".into());
    });
    silent("a VM that is to be off", |h, v| {
        (v.running, v.meant_off, v.to_run) = (Some(false), true, false);
        h.manager.as_mut().unwrap().all_given = true;
        h.maintenance.as_mut().unwrap().enabled = true;
    });
    silent("a VM that runs with what its file lacks", |_, v| {
        v.devices = whole(&[("pcipassthru.64bitmmiosizegb", "32")]);
        v.config.as_mut().unwrap().keys.remove("sched.mem.pin");
    });
    silent("reserved and not pinned", |_, v| {
        v.running = Some(false);
        v.config.as_mut().unwrap().keys.remove("sched.mem.pin");
    });
    silent("a guest without a GPU has an old installer", |_, v| {
        not_loaded(v);
        v.devices = devices(&[]);
        let driver = v.driver.as_mut().unwrap();
        (driver.module_version, driver.from_run, driver.gpu_on_bus) = (None, true, Some(false));
        driver.on_bus.clear();
    });
    silent("a whole GPU needs no license", |_, v| {
        v.devices = whole(&[]);
        unlicensed(v).tokens.clear();
        let driver = v.driver.as_mut().unwrap();
        driver.vgpu = false;
        driver.on_bus[0].vgpu_type = None;
    });
    silent("an NVSwitch is no GPU", |_, v| {
        v.devices = whole(&[]);
        v.devices.as_mut().unwrap().no_gpus = vec!["0000:5e:00.0".into()];
        let driver = v.driver.as_mut().unwrap();
        (driver.gpu_on_bus, driver.vgpu) = (Some(false), false);
        driver.on_bus.clear();
    });
    let (host, mut vm) = (host(), vm());
    unlicensed(&mut vm);
    (vm.at, vm.clock.as_mut().unwrap().now) = (0, 1_790_000_000);
    assert!(!told(&host, &vm).contains(&"license-clock".to_string()), "saved facts have no time");
}

#[test]
fn every_cause_that_no_text_tells_is_told_by_facts() {
    let signs: BTreeSet<&str> = SIGNS.iter().map(|sign| sign.cause).collect();
    for cause in vsgpu_core::diagnosis::all().filter(|cause| !cause.in_texts()) {
        assert!(signs.contains(cause.id), "{}", cause.id);
    }
    for cause in signs {
        assert!(named(cause).is_some(), "{cause}");
    }
}

/// Nothing is known of anything: nothing is said.
#[test]
fn silence_is_no_sign() {
    assert!(find(&Machines { host: &HostFacts::default(), vm: Some(&VmFacts::default()) }).is_empty());
    assert!(find(&Machines { host: &HostFacts::default(), vm: None }).is_empty());
}
