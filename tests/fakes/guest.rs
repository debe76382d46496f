//! Simulated systemctl, apt-get, dkms and the others of a Debian guest, and the license daemon.

use super::Answer;
use super::state::Machine;
use std::path::Path;

const PERSISTENCED: &str = "nvidia-persistenced.service";

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
        "dkms" if words.first() == Some(&"status") && has("dkms") => dkms_status(folder),
        "dkms" if words.first() == Some(&"install") && has("dkms") => dkms_install(folder, words),
        "gcc" | "g++" | "make" | "cmake" | "dkms" if words == ["--version"] && has(program) => {
            Answer::ok(format!("{program} (simulated) 12.2.0\n"))
        }
        "gcc" | "g++" | "make" | "cmake" | "dkms" => {
            Answer::err(127, format!("{program}: command not found\n"))
        }
        "modinfo" => modinfo(folder, words),
        "modprobe" => modprobe(folder, words),
        "dpkg" if words == ["--configure", "-a"] => Answer::ok(""),
        "dpkg-query" => Answer::fail(1, ""),
        "timedatectl" => Answer::ok("yes\n"),
        "ln" => link(folder, words),
        "mkdir" => mkdir(folder, words),
        "tar" => tar(folder, words),
        "stat" | "find" | "chmod" => real(folder, program, words),
        "nvidia-ctk" => nvidia_ctk(folder, words),
        "docker" => super::cuda::docker(folder, words),
        "journalctl" if words.first() == Some(&"-k") => {
            Answer::ok(Machine::read(folder).linux().kernel_log.join("\n") + "\n")
        }
        "journalctl" => Answer::ok(Machine::read(folder).linux().journal.join("\n") + "\n"),
        _ => Answer::err(127, format!("simulated machine: there is no {program}\n")),
    }
}

fn blocks_nouveau(m: &Machine) -> bool {
    m.text("/etc/modprobe.d/vsgpu-nouveau.conf").is_some_and(|t| t.lines().any(|l| l == "blacklist nouveau"))
}

fn modprobe(folder: &Path, words: &[&str]) -> Answer {
    Machine::with(folder, |m| {
        match words {
            ["-r", ..] if m.linux().gridd == "active" => {
                return Answer::err(1, "modprobe: FATAL: Module nvidia is in use.\n");
            }
            ["-r", modules @ ..] => {
                if let Some(unknown) = modules
                    .iter()
                    .find(|u| !["nvidia_uvm", "nvidia_drm", "nvidia_modeset", "nvidia"].contains(u))
                {
                    return Answer::err(1, format!("modprobe: FATAL: Module {unknown} not found.\n"));
                }
                m.linux().loaded = None;
            }
            ["nvidia"] => {
                let guest = m.linux();
                let Some(version) = guest.driver.clone().filter(|_| guest.modules_of.contains(&guest.kernel))
                else {
                    return Answer::err(
                        1,
                        "modprobe: FATAL: Module nvidia not found in directory /lib/modules (simulated)\n",
                    );
                };
                guest.loaded = Some(version);
            }
            _ => return Answer::err(1, "simulated modprobe: not understood\n"),
        }
        super::state::kernel_files(m);
        Answer::ok("")
    })
}

fn modinfo(folder: &Path, words: &[&str]) -> Answer {
    let mut m = Machine::read(folder);
    let ["-k", kernel, "-F", "version", "nvidia"] = words else {
        return Answer::err(1, "simulated modinfo: not understood\n");
    };
    match m.linux().driver.clone().filter(|_| m.linux().modules_of.contains(*kernel)) {
        Some(version) => Answer::ok(format!("{version}\n")),
        None => Answer::err(1, "modinfo: ERROR: Module nvidia not found.\n"),
    }
}

fn dkms_status(folder: &Path) -> Answer {
    let mut m = Machine::read(folder);
    let guest = m.linux();
    let Some(version) = guest.driver.clone().filter(|_| guest.dkms) else { return Answer::ok("") };
    Answer::ok(
        guest
            .modules_of
            .iter()
            .map(|k| format!("nvidia/{version}, {k}, x86_64: installed\n"))
            .collect::<String>(),
    )
}

fn dkms_install(folder: &Path, words: &[&str]) -> Answer {
    let ["install", module, "-k", kernel] = words else {
        return Answer::err(1, "Error! simulated dkms: not understood\n");
    };
    Machine::with(folder, |m| {
        let guest = m.linux().clone();
        let known = guest.dkms && guest.driver.is_some_and(|v| *module == format!("nvidia/{v}"));
        if !known {
            return Answer::err(3, format!("Error! Could not find module source directory for {module}.\n"));
        }
        if m.text(&format!("/lib/modules/{kernel}/build/Makefile")).is_none() {
            return Answer::err(
                1,
                format!("Error! Your kernel headers for kernel {kernel} cannot be found.\n"),
            );
        }
        m.linux().modules_of.insert(kernel.to_string());
        Answer::ok(format!(
            "nvidia.ko: Running module version sanity check (simulated)\nInstallation to /lib/modules/{kernel}/updates/dkms/\n"
        ))
    })
}

fn link(folder: &Path, words: &[&str]) -> Answer {
    let ["-sfn", target, name] = words else {
        return Answer::err(1, "ln: simulated: only -sfn TARGET NAME\n");
    };
    let name = Machine::read(folder).root(name);
    let _ = std::fs::remove_file(&name);
    // Inside the machine's root the target is beside the link.
    std::os::unix::fs::symlink(target.rsplit('/').next().unwrap_or(target), name).unwrap();
    Answer::ok("")
}

fn nvidia_ctk(folder: &Path, words: &[&str]) -> Answer {
    let mut m = Machine::read(folder);
    if !m.linux().packages.contains("nvidia-container-toolkit") {
        return Answer::err(127, "nvidia-ctk: command not found\n");
    }
    match words {
        ["--version"] => Answer::ok(
            "NVIDIA Container Toolkit CLI version 1.17.4 (simulated)\n".replace(" (simulated)", ""),
        ),
        ["runtime", "configure", "--runtime=docker"] => {
            m.write(
                "/etc/docker/daemon.json",
                "{\"runtimes\": {\"nvidia\": {\"args\": [], \"path\": \"nvidia-container-runtime\"}}}\n",
            );
            Answer::err(0, "level=info msg=\"Wrote updated config to /etc/docker/daemon.json\" (simulated)\n")
        }
        _ => Answer::err(1, "simulated nvidia-ctk: not understood\n"),
    }
}

fn mkdir(folder: &Path, words: &[&str]) -> Answer {
    let (["-p", path] | ["-p", "-m", "700", path]) = words else {
        return Answer::err(1, "mkdir: missing operand\n");
    };
    std::fs::create_dir_all(Machine::read(folder).root(path)).unwrap();
    Answer::ok("")
}

/// The real one, on the machine's files: every path is one of the machine's.
fn real(folder: &Path, program: &str, words: &[&str]) -> Answer {
    let m = Machine::read(folder);
    let root = m.root("/").display().to_string();
    let word = |word: &&str| {
        if word.starts_with('/') { m.root(word).display().to_string() } else { (*word).to_string() }
    };
    let mut command = std::process::Command::new(format!("/usr/bin/{program}"));
    let output = command.args(words.iter().map(word)).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(root.trim_end_matches('/'), "");
    Answer {
        status: output.status.code().unwrap_or(1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// The real one, on the machine's files.
fn tar(folder: &Path, words: &[&str]) -> Answer {
    let [options @ .., "-xf", file, "-C", to] = words else {
        return Answer::err(2, "simulated tar: not understood\n");
    };
    let m = Machine::read(folder);
    let mut command = std::process::Command::new("/bin/tar");
    let output =
        command.args(options).arg("-xf").arg(m.root(file)).arg("-C").arg(m.root(to)).output().unwrap();
    Answer {
        status: output.status.code().unwrap_or(2),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn systemctl(folder: &Path, words: &[&str]) -> Answer {
    if let Some(answer) = super::units::systemctl(folder, words) {
        return answer;
    }
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
        ["is-enabled", "nvidia-gridd"] => match m.linux().grid && m.linux().driver.is_some() {
            true => Answer::ok("enabled\n"),
            false => Answer::err(
                1,
                "Failed to get unit file state for nvidia-gridd.service: No such file or directory\n",
            ),
        },
        ["is-active", PERSISTENCED] => match m.linux().persistenced {
            true => Answer::ok("active\n"),
            false => Answer::fail(3, "inactive\n"),
        },
        ["is-enabled", PERSISTENCED] => {
            match (m.linux().persistenced, m.text("/etc/systemd/system/nvidia-persistenced.service")) {
                (true, _) => Answer::ok("enabled\n"),
                (_, Some(_)) => Answer::fail(1, "disabled\n"),
                _ => Answer::err(
                    1,
                    "Failed to get unit file state for nvidia-persistenced.service: No such file or directory\n",
                ),
            }
        }
        ["enable", "--now", PERSISTENCED] => Machine::with(folder, |m| {
            if m.text("/etc/systemd/system/nvidia-persistenced.service").is_none() {
                return Answer::err(
                    1,
                    "Failed to enable unit: Unit file nvidia-persistenced.service does not exist.\n",
                );
            }
            m.linux().persistenced = true;
            Answer::ok("")
        }),
        ["disable", "--now", PERSISTENCED] => {
            Machine::with(folder, |m| m.linux().persistenced = false);
            Answer::ok("")
        }
        ["daemon-reload"] => Answer::ok(""),
        ["get-default"] => {
            Answer::ok(if m.linux().graphical { "graphical.target\n" } else { "multi-user.target\n" })
        }
        ["set-default", target @ ("multi-user.target" | "graphical.target")] => {
            Machine::with(folder, |m| m.linux().graphical = *target == "graphical.target");
            Answer::ok("")
        }
        ["stop", "display-manager.service"] => {
            Machine::with(folder, |m| m.linux().display_manager = false);
            Answer::ok("")
        }
        ["restart", "docker"] if m.linux().packages.contains("docker") => {
            m.write("/run/docker.runtimes", &m.text("/etc/docker/daemon.json").unwrap_or_default());
            Answer::ok("")
        }
        ["stop", unit @ ("nvidia-gridd" | "nvidia-persistenced")] => {
            if m.linux().driver.is_none() || (*unit == "nvidia-persistenced" && !m.linux().persistenced) {
                return Answer::err(
                    5,
                    format!("Failed to stop {unit}.service: Unit {unit}.service not loaded.\n"),
                );
            }
            Machine::with(folder, |m| {
                if *unit == "nvidia-gridd" {
                    m.linux().gridd = "inactive".into()
                } else {
                    m.linux().persistenced = false
                }
            });
            Answer::ok("")
        }
        ["restart", "nvidia-gridd"] => {
            if m.linux().driver.is_none() {
                return Answer::err(
                    5,
                    "Failed to restart nvidia-gridd.service: Unit nvidia-gridd.service not found.\n",
                );
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
            // Headers of kernels that the guest has are in its repositories; so is the container toolkit in
            // this lab's.
            let (files, packages): (Vec<&str>, Vec<&str>) =
                packages.into_iter().partition(|package| package.starts_with('/'));
            if let Some(wrong) = files.iter().find(|file| !file.contains("/bitfusion-client")) {
                return Answer::err(100, format!("E: Unsupported file {wrong} given on commandline\n"));
            }
            let known = ["gcc", "g++", "cmake", "make", "dkms", "libc6-dev", "nvidia-container-toolkit"];
            let kernels = Machine::read(folder).linux().kernels();
            let header = |p: &str| {
                p.strip_prefix("linux-headers-").filter(|k| kernels.iter().any(|x| x == k)).map(String::from)
            };
            if let Some(unknown) = packages.iter().find(|p| !known.contains(p) && header(p).is_none()) {
                return Answer::err(100, format!("E: Unable to locate package {unknown}\n"));
            }
            Machine::with(folder, |m| {
                if !files.is_empty() {
                    m.link("bitfusion");
                    m.write("/usr/bin/bitfusion", "simulated\n");
                }
                m.linux().packages.extend(packages.iter().map(|p| p.to_string()));
                for kernel in packages.iter().filter_map(|p| header(p)) {
                    m.write(&format!("/lib/modules/{kernel}/build/Makefile"), "# simulated kernel headers\n");
                }
                if packages.contains(&"nvidia-container-toolkit") {
                    m.link("nvidia-ctk");
                }
            });
            Answer::ok(
                packages.iter().map(|p| format!("Setting up {p} (simulated) ...\n")).collect::<String>(),
            )
        }
        _ => Answer::err(100, "E: Invalid operation (simulated)\n"),
    }
}

/// The license daemon starts: it reads its configuration and asks the lab's license server.
pub fn gridd(m: &mut Machine) {
    let Some(driver) = m.linux().driver.clone() else { return };
    let branch: u32 = driver.split('.').next().and_then(|b| b.parse().ok()).unwrap_or(0);
    let conf =
        vsgpu_guest_agent::readers::gridd_values(&m.text("/etc/nvidia/gridd.conf").unwrap_or_default());
    let folder = m.root("/etc/nvidia/ClientConfigToken");
    let tokens = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| std::fs::read_to_string(e.path()).ok());
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
