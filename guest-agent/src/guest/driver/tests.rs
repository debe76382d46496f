//! Cases of the driver requirement: facts in, verdict and effects out.

use super::*;
use crate::facts::dkms::DkmsModule;
use crate::facts::pci_gpus::PciGpu;
use vsgpu_core::disk_room::Room;
use vsgpu_core::system::OpenedBy;

fn artifact(name: &str) -> Artifact {
    let held =
        PackageContent { name: "NVIDIA-Linux-x86_64".into(), version: "535.183.01".into(), acceptance: None };
    Artifact {
        artifact: format!("f/{name}"),
        sha256: Some("cd".repeat(32)),
        size: Some(1),
        kind: None,
        holds: vec![held],
    }
}

fn spec() -> PackageSpec {
    PackageSpec {
        package: artifact("NVIDIA-Linux-x86_64-535.183.01-grid.run"),
        kernel_module: KernelModule::Auto,
        signing: None,
        remove_packages: false,
        stop_processes: false,
    }
}

fn fact(version: Option<&str>, log: &str) -> DriverFact {
    DriverFact {
        version: version.map(Into::into),
        gpus: version.map(|_| "GRID P100-8Q".to_string()).into_iter().collect(),
        vgpu: true,
        smi_failure: version.is_none().then(|| "no such program".into()),
        installer: (!log.is_empty()).then(|| installer_log(log)),
        dkms: true,
        gpu_on_bus: Some(true),
        kernel: "6.1.0-28-amd64".into(),
        os_release: "ID=debian".into(),
        ..DriverFact::default()
    }
}

fn check(spec: &PackageSpec, fact: &DriverFact) -> Verdict {
    Driver::check(&DriverSpec::Map(spec.clone()), fact)
}

fn effects(verdict: Verdict) -> Vec<String> {
    match verdict {
        Verdict::Unmet { effects, .. } | Verdict::Waits { effects, .. } => {
            effects.iter().map(ToString::to_string).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn why(verdict: Verdict) -> String {
    match verdict {
        Verdict::Blocked { why, hint, .. } => format!("{why} / {hint}"),
        other => panic!("{other:?}"),
    }
}

const GOOD: &str = "Installing NVIDIA driver version 535.183.01.\n-> Installation of the NVIDIA Accelerated Graphics Driver for Linux-x86_64 (version: 535.183.01) is now complete.\n";
const RUN: &str = "/var/lib/vsgpu/artifacts/cdcdcdcdcdcdcdcd/NVIDIA-Linux-x86_64-535.183.01-grid.run --silent --accept-license --dkms";

#[test]
fn log_and_nvidia_smi_must_agree() {
    assert!(check(&spec(), &fact(Some("535.183.01"), GOOD)).is_met());
    let bad = "Installing NVIDIA driver version 535.183.01.\nERROR: Unable to load the kernel module 'nvidia.ko'.\nERROR: Installation has failed.  Please see the file\n";
    assert!(!check(&spec(), &fact(Some("535.183.01"), bad)).is_met());
    assert_eq!(effects(check(&spec(), &fact(None, ""))), [RUN]);
}

#[test]
fn a_full_disk_is_named_before_anything_is_unpacked() {
    let mut spec = spec();
    spec.package.size = Some(300);
    let room = |path: &str, disk: &str, free_bytes| Room { path: path.into(), disk: disk.into(), free_bytes };
    let mut full = fact(None, "");
    full.rooms = vec![room("/tmp", "/", 299), room("/usr", "/usr", 900)];
    assert!(
        why(check(&spec, &full))
            .starts_with("/tmp: 299 bytes are free, the driver needs at least 300 bytes / make room")
    );
    full.rooms = vec![room("/tmp", "/", 599), room("/usr", "/", 599)];
    assert!(
        why(check(&spec, &full)).starts_with("/tmp: 599 bytes are free, the driver needs at least 600 bytes")
    );
    full.rooms = vec![room("/tmp", "/", 600), room("/usr", "/", 600)];
    assert_eq!(effects(check(&spec, &full)).len(), 1);
    // An older driver frees its own room when it goes: how much is not known.
    let mut old = fact(Some("525.60.13"), "");
    old.rooms = vec![room("/tmp", "/", 300), room("/usr", "/", 300)];
    assert!(!effects(check(&spec, &old)).is_empty());
}

#[test]
fn a_vm_without_a_gpu_is_told_so() {
    let mut bare = fact(None, "");
    bare.gpu_on_bus = Some(false);
    assert!(matches!(check(&spec(), &bare), Verdict::Waits { .. }));
}

#[test]
fn only_loaded_modules_are_unloaded_in_their_order() {
    let mut old = fact(Some("525.60.13"), "");
    old.modules = ["nvidia_uvm", "nvidia_modeset", "nvidia"].map(String::from).into();
    assert_eq!(
        effects(check(&spec(), &old)),
        [
            "systemctl stop nvidia-gridd",
            "systemctl stop nvidia-persistenced",
            "modprobe -r nvidia_uvm nvidia_modeset nvidia",
            RUN
        ]
    );
}

#[test]
fn who_holds_the_gpu_is_named_and_only_ended_where_allowed() {
    let mut busy = fact(Some("525.60.13"), "");
    busy.modules = vec!["nvidia".into()];
    busy.holders = vec![
        OpenedBy { pid: 812, name: "python3".into(), service: None },
        OpenedBy { pid: 900, name: "ollama".into(), service: Some("ollama.service".into()) },
    ];
    let said = why(check(&spec(), &busy));
    assert!(
        said.contains("python3 (process 812)")
            && said.contains("ollama.service")
            && said.contains("stop-processes"),
        "{said}"
    );
    let allowed = PackageSpec { stop_processes: true, ..spec() };
    let done = effects(check(&allowed, &busy));
    assert_eq!(
        done[2..5],
        ["kill 812", "timeout 30 tail --pid 812 -f /dev/null", "systemctl stop ollama.service"]
    );
    let mut with_x = fact(None, "");
    with_x.x_server = Some(OpenedBy { pid: 7, name: "Xorg".into(), service: None });
    assert!(why(check(&spec(), &with_x)).starts_with("an X server runs: Xorg (process 7)"));
}

#[test]
fn another_driver_is_named_and_only_removed_where_allowed() {
    let mut other = fact(None, "");
    other.packages = [("nvidia-driver".to_string(), "525.1-1".to_string())].into();
    let said = why(check(&spec(), &other));
    assert!(said.contains("nvidia-driver 525.1-1") && said.contains("remove-packages"), "{said}");
    let allowed = PackageSpec { remove_packages: true, ..spec() };
    assert_eq!(
        effects(check(&allowed, &other))[0],
        "DEBIAN_FRONTEND=noninteractive apt-get remove -y nvidia-driver"
    );
}

#[test]
fn a_package_replaces_its_own_kind_and_a_run_file() {
    let deb = PackageSpec { package: artifact("nvidia-linux-grid-535_535.183.01_amd64.deb"), ..spec() };
    let mut old = fact(Some("525.60.13"), "");
    old.packages = [("nvidia-linux-grid-525".to_string(), "525.60.13".to_string())].into();
    assert!(
        effects(check(&deb, &old)).last().unwrap().ends_with("nvidia-linux-grid-535_535.183.01_amd64.deb")
    );
    let mut from_run = fact(Some("525.60.13"), "");
    from_run.from_run = true;
    assert!(effects(check(&deb, &from_run)).contains(&"/usr/bin/nvidia-uninstall --silent".to_string()));
}

#[test]
fn the_module_follows_the_gpu_and_the_installers_own_options() {
    let gpu = |device_id: &str| PciGpu {
        address: "0000:02:00.0".into(),
        device_id: device_id.into(),
        ..PciGpu::default()
    };
    let mut blackwell = fact(None, "");
    blackwell.on_bus = vec![gpu("2bb5")];
    assert!(matches!(check(&spec(), &blackwell), Verdict::Waits { .. }), "the installer is asked first");
    let folder = "/var/lib/vsgpu/artifacts/cdcdcdcdcdcdcdcd".to_string();
    let mut with = |options: &[&str]| {
        blackwell.installers.insert(folder.clone(), options.iter().map(|o| o.to_string()).collect());
        effects(check(&spec(), &blackwell)).last().unwrap().rsplit(' ').next().unwrap().to_string()
    };
    assert_eq!(with(&["--silent", "--kernel-module-type"]), "--kernel-module-type=open");
    assert_eq!(
        with(&["--silent", "--kernel-module-build-directory"]),
        "--kernel-module-build-directory=kernel-open"
    );
    blackwell.installers.insert(folder.clone(), vec!["--silent".into()]);
    assert!(why(check(&spec(), &blackwell)).contains("no open kernel module"));
    let mut pascal = fact(None, "");
    pascal.on_bus = vec![gpu("15f8")];
    pascal.installers.insert(folder, vec!["--silent".into()]);
    assert_eq!(
        effects(check(&spec(), &pascal)),
        [RUN],
        "an old installer builds the proprietary one and has no option for it"
    );
}

#[test]
fn secure_boot_is_said_before_anything_is_touched() {
    let mut secure = fact(None, "");
    secure.secure_boot = Some(true);
    assert!(why(check(&spec(), &secure)).contains("signing:"));
    let signing = Signing { key: artifact("mok.key"), certificate: artifact("mok.der") };
    let signed = PackageSpec { signing: Some(signing.clone()), ..spec() };
    secure.certificates = [(signing.certificate.stored(None), false)].into();
    assert!(
        why(check(&signed, &secure))
            .contains("mokutil --import /var/lib/vsgpu/artifacts/cdcdcdcdcdcdcdcd/mok.der")
    );
    secure.certificates = [(signing.certificate.stored(None), true)].into();
    let done = effects(check(&signed, &secure));
    assert!(done[0].contains("--module-signing-secret-key=/var/lib"), "{done:?}");
    assert_eq!(done.len(), 1, "and DKMS, which signs with a key of its own, is left out: {done:?}");
}

#[test]
fn after_a_kernel_update_the_module_is_built_and_nothing_installed_again() {
    let mut updated = fact(None, GOOD);
    updated.dkms_modules = vec![DkmsModule {
        name: "nvidia".into(),
        version: "535.183.01".into(),
        kernel: Some("6.1.0-27-amd64".into()),
        state: "installed".into(),
    }];
    match check(&spec(), &updated) {
        Verdict::Unmet { is, effects, .. } => {
            assert!(is.contains("for 6.1.0-27-amd64, not for the running kernel 6.1.0-28-amd64"), "{is}");
            let all: Vec<String> = effects.iter().map(ToString::to_string).collect();
            assert_eq!(all, ["dkms install nvidia/535.183.01 -k 6.1.0-28-amd64", "modprobe nvidia"]);
        }
        other => panic!("{other:?}"),
    }
    updated.module_version = Some("535.183.01".into());
    assert_eq!(effects(check(&spec(), &updated)), ["modprobe nvidia"]);
    // The power went while the installer ran: DKMS knows the module, and nothing else is there.
    updated.module_version = None;
    updated.installer = Some(installer_log("Installing NVIDIA driver version 535.183.01.\n"));
    assert_eq!(effects(check(&spec(), &updated)), [RUN]);
}

#[test]
fn a_driver_is_removed_by_what_installed_it() {
    let absent = DriverSpec::Word(Absent::Absent);
    assert!(Driver::check(&absent, &fact(None, "")).is_met());
    let mut there = fact(Some("535.183.01"), GOOD);
    there.modules = vec!["nvidia".into()];
    there.from_run = true;
    let done = effects(Driver::check(&absent, &there));
    assert_eq!(done[2..], ["modprobe -r nvidia", "/usr/bin/nvidia-uninstall --silent"]);
    there.read_only = false;
    there.holders = vec![OpenedBy { pid: 9, name: "train".into(), service: None }];
    assert!(why(Driver::check(&absent, &there)).contains("train"));
}

#[test]
fn a_sick_gpu_is_no_reason_to_install_again() {
    let mut sick = fact(None, GOOD);
    sick.modules = vec!["nvidia".into()];
    sick.module_version = Some("535.183.01".into());
    sick.smi_failure = Some("a GPU does not answer the driver (fallen off the bus?)".into());
    assert!(
        matches!(check(&spec(), &sick), Verdict::Waits { on, effects, .. } if on.contains("power-cycle") && effects.is_empty())
    );
}

#[test]
fn the_same_number_of_another_kind_is_another_driver() {
    let mut plain = fact(Some("535.183.01"), GOOD);
    plain.gridd = Some(false);
    assert!(matches!(check(&spec(), &plain), Verdict::Unmet { is, .. } if is.contains("data-center")));
    let open = PackageSpec { kernel_module: KernelModule::Open, ..spec() };
    let mut closed = fact(Some("535.183.01"), GOOD);
    closed.open_module = Some(false);
    closed.installers = [(
        "/var/lib/vsgpu/artifacts/cdcdcdcdcdcdcdcd".to_string(),
        vec!["--kernel-module-build-directory".to_string()],
    )]
    .into();
    assert!(
        matches!(check(&open, &closed), Verdict::Unmet { is, .. } if is.contains("proprietary kernel module"))
    );
}

#[test]
fn a_read_only_guest_is_told_so_before_anything() {
    let mut stuck = fact(None, "");
    stuck.read_only = true;
    assert!(why(check(&spec(), &stuck)).contains("read-only"));
}

#[test]
fn causes_are_named_from_what_was_said() {
    let explained = |why: &str| {
        let output = vsgpu_core::Output {
            ended: vsgpu_core::ExitKind::Status(1),
            stdout: why.into(),
            stderr: String::new(),
        };
        explain::explain(
            &Failure { why: "`x.run`: exit status 1".into(), output: Some(output), since: 0 },
            &Observation::default(),
        )
        .map(|e| e.cause)
        .unwrap_or_default()
    };
    for (said, cause) in [
        ("ERROR: The Nouveau kernel driver is currently in use by your system.", "nouveau"),
        ("modprobe: ERROR: could not insert 'nvidia': Key was rejected by service", "Secure Boot"),
        ("ERROR: You appear to be running an X server; please exit X before installing.", "X server"),
        ("ERROR: Unable to find the kernel source tree for the currently running kernel.", "headers"),
        ("tar: write error: No space left on device", "disk is full"),
        (
            "insmod: ERROR: could not insert module nvidia.ko: Operation not permitted",
            "may not load kernel modules",
        ),
        ("Error! Bad return status for module build on kernel: 6.1.0", "DKMS"),
        ("Error in MD5 checksums: 12 is different from 34", "broken or cut off"),
    ] {
        assert!(explained(said).contains(cause), "{said}: {}", explained(said));
    }
    assert_eq!(explained("ERROR: something new"), "");
}
