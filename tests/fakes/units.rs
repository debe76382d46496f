//! Simulated systemd for the units of network GPUs, which run *real* processes: the real gateway, the real
//! daemon, the stand-in engine. A unit is a process group; its number is kept in the machine's folder.

use super::Answer;
use super::state::{Machine, simulator};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// As the units say: SIGKILL comes so long after SIGTERM.
const STOP: Duration = Duration::from_secs(10);
const READY: Duration = Duration::from_secs(10);

/// Whether a unit is one of these.
pub fn is_one(unit: &str) -> bool {
    matches!(unit, "vsgpu-pool.service" | "vsgpu-gpu.service")
        || engine(unit).is_some()
        || proof(unit).is_some()
}

fn proof(unit: &str) -> Option<u16> {
    unit.strip_prefix("vsgpu-engine-proof@")?.strip_suffix(".service")?.parse().ok()
}

/// The proof of a slot: a oneshot unit that is bound to the slot's engine, and leaves its report in the gateway's
/// folder.
fn prove(machine: &Path, unit: &str, slot: u16) -> Answer {
    let m = Machine::read(machine);
    let engine = start(machine, &format!("vsgpu-engine@{slot}.service"));
    if engine.status != 0 {
        return engine;
    }
    let drop_in = m.text("/etc/systemd/system/vsgpu-engine-proof@.service.d/vsgpu.conf").unwrap_or_default();
    let mut command = Command::new(machine.join("tools/vsgpu-cuda-proof"));
    command.args(["--elements", "50000"]);
    for pair in settings(&drop_in, "Environment") {
        // Simulated engines have a port each instead of a network.
        let port = (engines_from(machine) + slot).to_string();
        if let Some((name, value)) = pair.split_once('=') {
            command.env(name, value.replace("14833", &port));
        }
    }
    let Ok(output) = command.env("VSGPU_SIM", simulator()).stdin(Stdio::null()).output() else {
        return Answer::err(1, format!("Failed to start {unit}: no such program (simulated)\n"));
    };
    m.write(&format!("/run/vsgpu-pool/proof-{slot}.json"), &String::from_utf8_lossy(&output.stdout));
    match output.status.success() {
        true => Answer::ok(""),
        false => Answer::err(
            1,
            format!(
                "Job for {unit} failed because the control process exited with error code.\nSee \"systemctl status {unit}\" and \"journalctl -xeu {unit}\" for details.\n"
            ),
        ),
    }
}

fn engine(unit: &str) -> Option<u16> {
    unit.strip_prefix("vsgpu-engine@")?.strip_suffix(".service")?.parse().ok()
}

fn folder_of(machine: &Path) -> PathBuf {
    machine.join("units")
}

/// The local socket of a gateway or daemon: paths of sockets are short.
pub fn socket(machine: &Path, unit: &str) -> PathBuf {
    machine.join(if unit == "vsgpu-pool.service" { "pool.sock" } else { "gpu.sock" })
}

/// The first port of the machine's engines, one for each slot: simulated machines have no namespaces of their
/// own. Chosen when the machine is made.
pub fn engines_from(machine: &Path) -> u16 {
    let text = std::fs::read_to_string(folder_of(machine).join("engines-from"));
    text.ok().and_then(|text| text.parse().ok()).expect("the machine has ports for engines")
}

/// Ports above those of the lab and below those of the kernel: nobody else comes to listen there.
pub fn choose_ports(machine: &Path) {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const PLACES: u16 = 330;
    let start = (std::process::id() % u32::from(PLACES)) as u16;
    let free = |port: &u16| (0..8).all(|n| std::net::TcpListener::bind(("0.0.0.0", port + n)).is_ok());
    let port = (0..PLACES)
        .map(|_| 30_000 + (start + NEXT.fetch_add(1, Ordering::SeqCst)) % PLACES * 8)
        .find(free)
        .expect("eight free ports");
    std::fs::create_dir_all(folder_of(machine)).unwrap();
    std::fs::write(folder_of(machine).join("engines-from"), port.to_string()).unwrap();
}

/// Processes of a unit.
pub fn processes(machine: &Path, unit: &str) -> Vec<u32> {
    let Some(group) = group(machine, unit) else { return vec![] };
    let in_group = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Behind the name in parentheses: state, parent, group.
        let rest: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        rest.get(2).and_then(|g| g.parse().ok()) == Some(group) && rest.first() != Some(&"Z")
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(in_group).collect()
}

fn group(machine: &Path, unit: &str) -> Option<i32> {
    std::fs::read_to_string(folder_of(machine).join(unit)).ok()?.parse().ok()
}

pub fn is_active(machine: &Path, unit: &str) -> bool {
    !processes(machine, unit).is_empty()
}

/// Whether the work of an engine is on its GPU: that of a process that is gone is not.
pub fn is_busy(machine: &Path, slot: usize) -> bool {
    let pid = std::fs::read_to_string(folder_of(machine).join(format!("busy-{slot}")));
    pid.is_ok_and(|pid| !pid.is_empty() && Path::new("/proc").join(pid).exists())
}

/// The last of a setting in a drop-in, as systemd reads it: an empty one begins anew.
fn settings<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let mut all = vec![];
    for value in text.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix('=')) {
        match value {
            "" => all.clear(),
            value => all.push(value),
        }
    }
    all
}

fn command(machine: &Path, unit: &str) -> Result<Command, Answer> {
    let m = Machine::read(machine);
    let beside = |name: &str| simulator().with_file_name(name);
    if let Some(slot) = engine(unit) {
        let drop_in = m.text(&format!("/etc/systemd/system/{unit}.d/vsgpu.conf")).unwrap_or_default();
        let bad = || {
            Answer::err(
                1,
                format!(
                    "Failed to start {unit}: Unit {unit} has a bad unit file setting.\nSee system logs and 'systemctl status {unit}' for details.\n"
                ),
            )
        };
        let program = settings(&drop_in, "ExecStart").last().map(|path| m.root(path)).ok_or_else(bad)?;
        let mut command = Command::new(program);
        for pair in settings(&drop_in, "Environment") {
            let (name, value) = pair.split_once('=').ok_or_else(bad)?;
            command.env(name, value);
        }
        command.env("LUPINE_PORT", (engines_from(machine) + slot).to_string());
        command.env("VSGPU_SIM_BUSY", folder_of(machine).join(format!("busy-{slot}")));
        return Ok(command);
    }
    let name = machine.file_name().unwrap().to_string_lossy().into_owned();
    let pki = machine.parent().and_then(Path::parent).unwrap().join(format!("pki/{name}.guest"));
    let (program, verb) =
        if unit == "vsgpu-pool.service" { ("vsgpu-pool", "serve") } else { ("vsgpu-gpu", "daemon") };
    let mut command = Command::new(beside(program));
    command.arg(verb).arg("--pki").arg(pki).arg("--socket").arg(socket(machine, unit));
    command.arg("--root").arg(machine.join("root")).arg("--tools").arg(machine.join("tools"));
    if verb == "serve" {
        let state = m.root("/var/lib/vsgpu-pool");
        std::fs::create_dir_all(&state).unwrap();
        command.arg("--state").arg(state);
        command.arg("--engines-on-loopback").arg(engines_from(machine).to_string());
    }
    Ok(command)
}

fn start(machine: &Path, unit: &str) -> Answer {
    if is_active(machine, unit) {
        return Answer::ok("");
    }
    let failed = |why: &str| {
        Answer::err(
            1,
            format!(
                "Job for {unit} failed because {why}.\nSee \"systemctl status {unit}\" and \"journalctl -xeu {unit}\" for details.\n"
            ),
        )
    };
    std::fs::create_dir_all(folder_of(machine)).unwrap();
    let mut command = match command(machine, unit) {
        Ok(command) => command,
        Err(answer) => return answer,
    };
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(machine.join(format!("{unit}.log")))
        .unwrap();
    command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let socket = socket(machine, unit);
    if engine(unit).is_none() {
        let _ = std::fs::remove_file(&socket);
    }
    let Ok(mut child) = command.env("VSGPU_SIM", simulator()).spawn() else {
        return failed("the control process exited with error code");
    };
    std::fs::write(folder_of(machine).join(unit), child.id().to_string()).unwrap();
    // Type=notify for ours; an engine is started when it runs.
    let until = Instant::now() + READY;
    while engine(unit).is_none() && std::os::unix::net::UnixStream::connect(&socket).is_err() {
        if Instant::now() > until || child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return failed("the control process exited with error code");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Answer::ok("")
}

fn stop(machine: &Path, unit: &str) -> Answer {
    let Some(group) = group(machine, unit) else { return Answer::ok("") };
    let (group, until) = (Pid::from_raw(group), Instant::now() + STOP);
    let _ = killpg(group, Signal::SIGTERM);
    while is_active(machine, unit) {
        if Instant::now() > until {
            let _ = killpg(group, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = std::fs::remove_file(folder_of(machine).join(unit));
    Answer::ok("")
}

/// What `systemctl` answers about them.
pub fn systemctl(machine: &Path, words: &[&str]) -> Option<Answer> {
    let enabled = |unit: &str| folder_of(machine).join(format!("{unit}.enabled"));
    Some(match words {
        ["start", unit] if let Some(slot) = proof(unit) => prove(machine, unit, slot),
        ["start", unit] if is_one(unit) => start(machine, unit),
        ["stop", unit] if is_one(unit) => stop(machine, unit),
        ["restart", unit] if is_one(unit) => {
            stop(machine, unit);
            start(machine, unit)
        }
        ["enable", "--now", unit] if is_one(unit) => {
            std::fs::create_dir_all(folder_of(machine)).unwrap();
            std::fs::write(enabled(unit), "").unwrap();
            start(machine, unit)
        }
        ["disable", "--now", unit] if is_one(unit) => {
            let _ = std::fs::remove_file(enabled(unit));
            stop(machine, unit)
        }
        ["is-enabled", unit] if is_one(unit) => match enabled(unit).exists() {
            true => Answer::ok("enabled\n"),
            false => Answer::fail(1, "disabled\n"),
        },
        ["is-active", unit] if is_one(unit) => match is_active(machine, unit) {
            true => Answer::ok("active\n"),
            false => Answer::fail(3, "inactive\n"),
        },
        ["show", "--property=ActiveState,TasksCurrent", unit] if is_one(unit) => {
            let tasks = processes(machine, unit).len();
            Answer::ok(match tasks {
                0 => "ActiveState=inactive\nTasksCurrent=[not set]\n".into(),
                tasks => format!("ActiveState=active\nTasksCurrent={tasks}\n"),
            })
        }
        _ => return None,
    })
}

/// The machine loses its power.
pub fn kill_all(machine: &Path) {
    for entry in std::fs::read_dir(folder_of(machine)).into_iter().flatten().flatten() {
        let unit = entry.file_name().to_string_lossy().into_owned();
        if let Some(group) = group(machine, &unit).filter(|_| is_one(&unit)) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The machine starts: what is enabled runs.
pub fn boot(machine: &Path) {
    for unit in ["vsgpu-pool.service", "vsgpu-gpu.service"] {
        if folder_of(machine).join(format!("{unit}.enabled")).exists() {
            start(machine, unit);
        }
    }
}

/// `vsgpu-pool` and `vsgpu-gpu` as programs of the machine: the real ones, with the machine's own sockets.
pub fn program(machine: &Path, name: &str, words: &[&str]) -> Answer {
    let unit = format!("{name}.service");
    if Machine::in_memory(machine) || !socket(machine, &unit).exists() {
        return Answer::err(1, format!("{name}: there is nobody to answer (simulated)\n"));
    }
    let mut command = Command::new(simulator().with_file_name(name));
    // What it starts is found on the machine.
    let path = format!("{}:/usr/bin:/bin", machine.join("root/usr/bin").display());
    command.env("PATH", path).env("VSGPU_SIM_MACHINE", machine);
    command.arg("--socket").arg(socket(machine, &unit)).args(words).stdin(Stdio::null());
    match command.output() {
        Ok(output) => Answer {
            status: output.status.code().unwrap_or(70),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        },
        Err(why) => Answer::err(127, format!("{name}: {why}\n")),
    }
}
