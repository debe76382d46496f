//! The guest journey in a full machine with a kernel of its own (qemu, software emulation): nouveau is really
//! loaded and really gone after a real reboot, DKMS builds a module that loads, the kernel is upgraded, and
//! the power is cut three times on the way.
//!
//! Minutes long, so it runs on demand only:
//!
//! ```text
//! cargo test -p vsgpu-tests --test real_machine -- --ignored --nocapture
//! ```
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr, reason = "test code")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vsgpu_tests::lab::{Lab, wait_until};
use vsgpu_tests::real::machine::Machine;
use vsgpu_tests::real::{prepared, stand_in};

const DRIVER: &str = "NVIDIA-Linux-x86_64-535.183.01-grid.run";

/// Applies while the machine is started again after each of its reboots. Gives back what was said and how
/// often it booted.
fn apply(lab: &Lab, machine: &Arc<Machine>, status: i32) -> (String, u32) {
    let done = Arc::new(AtomicBool::new(false));
    let boots = std::thread::spawn({
        let (machine, done) = (machine.clone(), done.clone());
        move || machine.keep_booting(&done)
    });
    let output = lab.vsgpu(&["apply", "--yes", "fleet.yaml"]);
    done.store(true, Ordering::SeqCst);
    let boots = boots.join().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}\n{}", machine.console());
    (said, boots)
}

/// Starts an apply, cuts the power when the journal says that a step was begun, and kills the controller with
/// it.
fn cut_during(lab: &Lab, machine: &Arc<Machine>, words: &str, more: Duration) {
    let log = std::fs::File::create(lab.folder.join("cut.log")).unwrap();
    let mut controller = lab
        .command(&["apply", "--yes", "fleet.yaml"])
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(lab.folder.join("cut.log")).unwrap_or_default();
    wait_until(&format!("`{words}` has begun"), Duration::from_secs(900), || {
        assert!(
            controller.try_wait().unwrap().is_none(),
            "the controller ended before `{words}`\n{}\n{}",
            said(),
            machine.console()
        );
        said().contains(words)
    });
    // Somewhere in the middle of it: the step is one of many seconds here.
    std::thread::sleep(more);
    machine.power_cut();
    let _ = controller.kill();
    let _ = controller.wait();
    eprintln!("power cut during `{words}`");
    machine.read_boot_files();
    machine.power_on();
}

fn a_machine_with_a_kernel_of_its_own_survives_power_cuts_and_upgrades() {
    let cache = prepared("machine").unwrap();
    let start = Instant::now();
    let say = |what: &str| eprintln!("{:4} s  {what}", start.elapsed().as_secs());
    let (lab, files) = vsgpu_tests::real::lab("real-machine");
    let machine = Arc::new(Machine::boot(&cache, &lab, "vm-01", |root| {
        // nouveau is loaded at boot until it is blacklisted: systemd heeds modprobe's blacklist here.
        std::fs::write(root.join("etc/modules-load.d/nouveau.conf"), "nouveau\n").unwrap();
        // Compressing a hundred megabytes of drivers takes minutes under emulation: only those of this
        // machine, and quickly.
        std::fs::write(
            root.join("etc/initramfs-tools/conf.d/quick"),
            "MODULES=dep\nCOMPRESS=gzip\nCOMPRESSLEVEL=1\n",
        )
        .unwrap();
    }));
    lab.start();
    say("booted");
    let fleet = |wishes: &str| {
        lab.write_fleet(&format!(
            "version: 1\npki: pki\ndeadlines: {{ connect-secs: 120, guest-boot-secs: 400 }}\nhosts:\n  esx-01: {{ address: \"{}\" }}\nvms:\n  vm-01:\n    host: esx-01\n    guest:\n      address: \"{}\"\n{wishes}",
            lab.address("esx-01"),
            machine.address()
        ));
    };
    fleet(&format!(
        "      driver: {{ package: files/{DRIVER} }}\n      license: {{ token: files/good.tok, wait-secs: 60 }}\n      cuda-proof: {{ elements: [50000, 1000000] }}\n"
    ));
    let plan = lab.expect(3, &["plan", "--commands", "fleet.yaml"]);
    assert!(
        plan.contains("loaded -> blocked") && plan.contains("reboot"),
        "nouveau is really loaded: {plan}"
    );

    cut_during(&lab, &machine, "reboot: $ systemctl reboot", Duration::from_millis(500));
    say("back after the cut in the reboot");
    cut_during(&lab, &machine, "--silent --accept-license", Duration::from_secs(10));
    say("back after the cut in the installer");
    let (said, boots) = apply(&lab, &machine, 0);
    say(&format!("applied, {boots} more boots"));
    assert!(said.contains("1000000 sums right"), "{said}");
    let facts = lab.expect(0, &["facts", "-o", "json", "fleet.yaml"]);
    assert!(facts.contains("\"module\": \"535.183.01\""), "a real module of that version is loaded: {facts}");
    assert!(
        facts.contains("\"loaded\": false") && facts.contains("vsgpu-nouveau.conf"),
        "nouveau is gone: {facts}"
    );
    let (again, boots) = apply(&lab, &machine, 0);
    assert!(again.contains("nothing to do") && boots == 0, "{again}");
    say("nothing to do");

    // Somebody takes the blacklist away; the power goes while the initramfs is rebuilt.
    machine.shell("rm /etc/modprobe.d/vsgpu-nouveau.conf");
    cut_during(&lab, &machine, "$ update-initramfs -u", Duration::from_secs(3));
    say("back after the cut in the initramfs");
    let (said, _) = apply(&lab, &machine, 0);
    assert!(said.contains("update-initramfs -u"), "what was cut off is done again: {said}");
    say("the initramfs is whole");

    // A program holds the real device: named, left alone; then ended where that is allowed, and the modules
    // really change.
    stand_in::run_file(&files, "535.216.01", true);
    // The real driver makes its device at each boot; the stand-in module does not.
    machine.shell("mknod -m 666 /dev/nvidia0 c 195 0; (exec systemd-run --scope -q sleep 100000 </dev/nvidia0 >/dev/null 2>&1) & sleep 3; test -e /dev/nvidia0");
    fleet("      driver: { package: files/NVIDIA-Linux-x86_64-535.216.01-grid.run }\n");
    let (said, _) = apply(&lab, &machine, 6);
    assert!(said.contains("the GPU is in use: sleep (process"), "{said}");
    fleet("      driver: { package: files/NVIDIA-Linux-x86_64-535.216.01-grid.run, stop-processes: true }\n");
    let (said, _) = apply(&lab, &machine, 0);
    assert!(said.contains("modprobe -r nvidia") && said.contains("kill "), "{said}");
    assert!(lab.expect(0, &["facts", "-o", "json", "fleet.yaml"]).contains("\"module\": \"535.216.01\""));
    say("upgraded under a program that was ended");

    // A newer kernel comes without its headers, as from an unattended upgrade, and is seen before it is
    // booted.
    machine.shell("apt-get install -y --no-install-recommends $(apt-cache search --names-only '^linux-image-6\\.1\\.0-[0-9]+-amd64$' | cut -d' ' -f1 | sort -V | tail -1)");
    say("a newer kernel is installed");
    let plan = lab.expect(3, &["plan", "--commands", "fleet.yaml"]);
    assert!(plan.contains("kernel-updates") && plan.contains("linux-headers-6.1.0-"), "{plan}");
    // It is booted all the same: the agent says why there is no driver, and brings it back without the
    // installer.
    machine.reboot();
    machine.read_boot_files();
    machine.power_on();
    say("booted the newer kernel");
    let said = lab.expect(3, &["verify", "fleet.yaml"]);
    assert!(
        said.contains("its module is there for 6.1.0-") && said.contains("not for the running kernel"),
        "{said}"
    );
    let (said, _) = apply(&lab, &machine, 0);
    // Debian's DKMS builds it when the headers come; where it does not, the agent calls `dkms install`. Never
    // the installer.
    assert!(
        said.contains("linux-headers-6.1.0-")
            && said.contains("driver: 535.216.01")
            && !said.contains("--accept-license"),
        "{said}"
    );
    let facts = lab.expect(0, &["facts", "-o", "json", "fleet.yaml"]);
    assert!(facts.contains("\"module\": \"535.216.01\""), "{facts}");
    say("the driver is back on the newer kernel");

    fleet("      driver: absent\n");
    apply(&lab, &machine, 0);
    let facts = lab.expect(0, &["facts", "-o", "json", "fleet.yaml"]);
    assert!(facts.contains("nvidia-smi is not installed") && facts.contains("\"modules\": []"), "{facts}");
    say("the driver is gone");
}

/// Ahead, not behind: systemd never lets the clock fall behind what it knew at the last shutdown.
fn a_machine_with_a_wrong_clock_is_told_before_anything_is_done() {
    let cache = prepared("machine").unwrap();
    let (lab, _) = vsgpu_tests::real::lab("real-clock");
    let machine = Machine::boot(&cache, &lab, "vm-01", |_| {});
    lab.start();
    machine.power_cut();
    machine.ahead.store(3 * 3600, Ordering::SeqCst);
    machine.read_boot_files();
    machine.power_on();
    lab.write_fleet(&format!(
        "version: 1\npki: pki\ndeadlines: {{ connect-secs: 120 }}\nhosts:\n  esx-01: {{ address: \"{}\" }}\nvms:\n  vm-01:\n    host: esx-01\n    guest:\n      address: \"{}\"\n      driver: {{ package: files/{DRIVER} }}\n      license: {{ token: files/good.tok }}\n",
        lab.address("esx-01"),
        machine.address()
    ));
    let plan = lab.vsgpu(&["plan", "--commands", "fleet.yaml"]);
    let said = String::from_utf8_lossy(&plan.stdout).into_owned() + &String::from_utf8_lossy(&plan.stderr);
    assert!(said.contains("hours ahead of this machine's") && said.contains("chrony"), "{said}");
}

fn main() -> std::process::ExitCode {
    // Minutes under emulation: see the head of this file.
    let on_demand: Vec<_> =
        TESTS.iter().map(|test| vsgpu_tests::harness::Test { on_demand: true, ..*test }).collect();
    vsgpu_tests::harness::main(&[("", &on_demand)])
}

const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    a_machine_with_a_kernel_of_its_own_survives_power_cuts_and_upgrades[Machine],
    a_machine_with_a_wrong_clock_is_told_before_anything_is_done[Machine]
];
