//! Simulated systemctl, apt-get, dkms and the others of a Debian guest, and the license daemon.

use super::Answer;
use super::state::Machine;
use std::path::Path;

pub fn run(folder: &Path, program: &str, words: &[&str]) -> Answer {
    let has = |package: &str| Machine::read(folder).linux().packages.contains(package);
    match program {
        "systemctl" => systemctl(folder, words),
        "apt-get" => apt_get(folder, words),
        "update-initramfs" if words == ["-u"] => {
            Machine::with(folder, |m| {
                let blocked = blocks_nouveau(m);
                m.linux().initramfs_blocks_nouveau = blocked;
            });
            Answer::ok("update-initramfs: Generating /boot/initrd.img (simulated)\n")
        }
        "gcc" | "make" | "dkms" if words == ["--version"] && has(program) => Answer::ok(format!("{program} (simulated) 12.2.0\n")),
        "gcc" | "make" | "dkms" => Answer::err(127, format!("{program}: command not found\n")),
        "modprobe" if words.first() == Some(&"-r") => Machine::with(folder, |m| {
            if m.linux().gridd == "active" {
                return Answer::err(1, "modprobe: FATAL: Module nvidia is in use.\n");
            }
            m.linux().loaded = None;
            super::state::kernel_files(m);
            Answer::ok("")
        }),
        "journalctl" => Answer::ok(Machine::read(folder).linux().journal.join("\n") + "\n"),
        _ => Answer::err(127, format!("simulated machine: there is no {program}\n")),
    }
}

fn blocks_nouveau(m: &Machine) -> bool {
    m.text("/etc/modprobe.d/blacklist-nouveau.conf").is_some_and(|t| t.lines().any(|l| l == "blacklist nouveau"))
}

fn systemctl(folder: &Path, words: &[&str]) -> Answer {
    let mut m = Machine::read(folder);
    match words {
        ["is-active", "display-manager.service"] => match m.linux().display_manager {
            true => Answer::ok("active\n"),
            false => Answer::fail(3, "inactive\n"),
        },
        ["is-active", "nvidia-gridd"] => match m.linux().gridd.clone().as_str() {
            "active" => Answer::ok("active\n"),
            "" => Answer::fail(4, "inactive\n"),
            other => Answer::fail(3, format!("{other}\n")),
        },
        ["get-default"] => Answer::ok(if m.linux().graphical { "graphical.target\n" } else { "multi-user.target\n" }),
        ["set-default", target @ ("multi-user.target" | "graphical.target")] => {
            Machine::with(folder, |m| m.linux().graphical = *target == "graphical.target");
            Answer::ok("")
        }
        ["stop", "display-manager.service"] => {
            Machine::with(folder, |m| m.linux().display_manager = false);
            Answer::ok("")
        }
        ["stop", unit @ ("nvidia-gridd" | "nvidia-persistenced")] => {
            if m.linux().driver.is_none() || *unit == "nvidia-persistenced" {
                return Answer::err(5, format!("Failed to stop {unit}.service: Unit {unit}.service not loaded.\n"));
            }
            Machine::with(folder, |m| m.linux().gridd = "inactive".into());
            Answer::ok("")
        }
        ["restart", "nvidia-gridd"] => {
            if m.linux().driver.is_none() {
                return Answer::err(5, "Failed to restart nvidia-gridd.service: Unit nvidia-gridd.service not found.\n");
            }
            Machine::with(folder, gridd);
            Answer::ok("")
        }
        ["reboot"] => {
            super::power_event(folder, "reboot");
            Answer::ok("")
        }
        _ => Answer::err(1, format!("simulated systemctl: not understood: {}\n", words.join(" "))),
    }
}

fn apt_get(folder: &Path, words: &[&str]) -> Answer {
    match words {
        ["update"] => Answer::ok("Reading package lists... (simulated)\n"),
        ["install", rest @ ..] => {
            let packages: Vec<&str> = rest.iter().copied().filter(|w| !w.starts_with('-')).collect();
            if !rest.contains(&"-y") {
                return Answer::fail(1, "Do you want to continue? [Y/n] Abort.\n");
            }
            let kernel = Machine::read(folder).linux().kernel.clone();
            if let Some(unknown) =
                packages.iter().find(|p| !["gcc", "make", "dkms", "libc6-dev"].contains(p) && **p != format!("linux-headers-{kernel}"))
            {
                return Answer::err(100, format!("E: Unable to locate package {unknown}\n"));
            }
            Machine::with(folder, |m| {
                m.linux().packages.extend(packages.iter().map(|p| p.to_string()));
                m.write(&format!("/lib/modules/{kernel}/build/Makefile"), "# simulated kernel headers\n");
            });
            Answer::ok(packages.iter().map(|p| format!("Setting up {p} (simulated) ...\n")).collect::<String>())
        }
        _ => Answer::err(100, "E: Invalid operation (simulated)\n"),
    }
}

/// The license daemon starts: it reads its configuration and asks the lab's license server.
pub fn gridd(m: &mut Machine) {
    let Some(driver) = m.linux().driver.clone() else { return };
    let branch: u32 = driver.split('.').next().and_then(|b| b.parse().ok()).unwrap_or(0);
    let conf = vsgpu_guest_agent::guest::gridd_values(&m.text("/etc/nvidia/gridd.conf").unwrap_or_default());
    let folder = m.root("/etc/nvidia/ClientConfigToken");
    let tokens = std::fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|e| std::fs::read_to_string(e.path()).ok());
    let good_token = tokens.into_iter().any(|t| t == m.linux().token);
    let guest = m.linux();
    let feature = conf.get("FeatureType").map(String::as_str) == Some("1");
    // Legacy servers serve drivers up to R510, NLS those from R470 on (facts: nvidia 2).
    let legacy = branch <= 510 && conf.get("ServerAddress") == Some(&guest.license_server) && feature;
    let nls = branch >= 470 && good_token;
    guest.gridd = "active".into();
    guest.licensed = guest.loaded.is_some() && (legacy || nls);
    let say = |text: &str| format!("vsgpu-lab nvidia-gridd[812]: {text}");
    guest.journal.push(say("Started (812) (simulated)"));
    guest.journal.push(say("Acquiring license. (Info: licenses.lab; NVIDIA Virtual Compute Server)"));
    guest.journal.push(match (guest.licensed, good_token || branch < 470) {
        (true, _) => say("License acquired successfully. (Info: licenses.lab, NVIDIA Virtual Compute Server; Expiry: 2027-1-2 3:4:5 GMT)"),
        (false, true) => say("Failed to acquire license from licenses.lab (Info: NVIDIA Virtual Compute Server - Error: Generic network communication failure)"),
        (false, false) => say("Failed to decode signature from token received"),
    });
}
