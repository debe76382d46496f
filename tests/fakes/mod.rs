//! Simulated tools over one state per machine. They behave: set changes configured, restart changes active, a
//! reboot changes the boot; and they refuse what the real tools refuse, in their words.
//!
//! A machine is a folder: `state.json`, `tools/` (links to this program), `root/` (its files), `calls.log`
//! (every call).

pub mod bitfusion;
pub mod cuda;
pub mod cuda_samples;
pub mod esxcli;
pub mod esxcli_gpu;
pub mod guest;
pub mod host_gpu;
pub mod in_process;
pub mod installers;
pub mod passthrough;
pub mod read_only_calls;
pub mod state;
pub mod units;
pub mod vgpu_placement;
pub mod vim_cmd;
pub mod vmkfstools;

use state::{Fault, Machine};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What a tool answers.
#[derive(Debug, Default, Clone)]
pub struct Answer {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    pub fn ok(text: impl Into<String>) -> Self {
        Self { status: 0, stdout: text.into(), stderr: String::new() }
    }
    pub fn fail(status: i32, stdout: impl Into<String>) -> Self {
        Self { status, stdout: stdout.into(), stderr: String::new() }
    }
    pub fn err(status: i32, stderr: impl Into<String>) -> Self {
        Self { status, stdout: String::new(), stderr: stderr.into() }
    }
}

/// The program: finds its machine above the path it was called by.
pub fn main() {
    let mut args = std::env::args();
    let called = PathBuf::from(args.next().unwrap_or_default());
    let args: Vec<String> = args.collect();
    let called = if called.is_absolute() { called } else { std::env::current_dir().unwrap().join(called) };
    let machine = called
        .ancestors()
        .find(|a| a.join("state.json").is_file())
        .map(Path::to_path_buf)
        .or_else(|| std::env::var_os("VSGPU_SIM_MACHINE").map(PathBuf::from));
    let Some(machine) = machine else {
        eprintln!("simulated tool: no machine above {}", called.display());
        std::process::exit(70);
    };
    let name = called.file_name().unwrap().to_string_lossy().into_owned();
    let answer = run(&machine, &name, &args);
    let _ = std::io::stdout().write_all(answer.stdout.as_bytes());
    let _ = std::io::stderr().write_all(answer.stderr.as_bytes());
    std::process::exit(answer.status);
}

/// One call of one tool on one machine.
pub fn run(folder: &Path, program: &str, args: &[String]) -> Answer {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let call = std::iter::once(program).chain(words.iter().copied()).collect::<Vec<_>>().join(" ");
    let fault = Machine::with(folder, |m| {
        m.log(&call);
        m.fault(&call)
    });
    match fault {
        Some(Fault::Fail { text }) => return Answer::fail(1, text),
        // As long as anybody could wait for it, but not longer than its machine is there.
        Some(Fault::Hang) => {
            while folder.join("state.json").exists() {
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
        }
        Some(Fault::Stalled) => {
            let stalled = || {
                folder.join("state.json").exists()
                    && matches!(Machine::read(folder).fault(&call), Some(Fault::Stalled))
            };
            while stalled() {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
        Some(Fault::Slow { ms }) => std::thread::sleep(std::time::Duration::from_millis(ms)),
        Some(Fault::Garbage) => return Answer::ok("\u{1}\u{2}%%%<<<>>>}}}\n\n\n:::"),
        Some(Fault::Flood) => {
            let line = "garbage ".repeat(8192);
            for _ in 0..1600 {
                if std::io::stdout().write_all(line.as_bytes()).is_err() {
                    break;
                }
            }
            return Answer::ok("");
        }
        None => {}
    }
    // Programs of a folder such as /etc/init.d are called by their bare name here as well.
    match program {
        "esxcli" => esxcli::run(folder, &words),
        "vim-cmd" => vim_cmd::run(folder, &words),
        "vmkfstools" => vmkfstools::run(folder, &words),
        "vsish" => esxcli_gpu::vsish(folder, &words),
        "vmkload_mod" => host_gpu::vmkload_mod(folder, &words),
        "xorg" | "nv-hostengine" | "nvdGpuMgmtDaemon" => host_gpu::daemon(folder, program, &words),
        "vsgpu-host-agent" => {
            power_event(folder, "agent");
            Answer::ok("vsgpu-host-agent started\n")
        }
        "auto-backup.sh" => Answer::ok("--- simulated backup of /etc ---\n"),
        "nvidia-smi" if Machine::read(folder).esxi.is_some() => host_gpu::nvidia_smi(folder, &words),
        "nvidia-smi" => cuda::nvidia_smi(folder, &words),
        "deviceQuery" => cuda::device_query(folder),
        "vectorAdd" => cuda::vector_add(folder),
        "vsgpu-cuda-proof" => cuda::proof(folder, &words),
        "vsgpu-cuda-samples" => cuda_samples::build(folder, &words),
        "bitfusion" => bitfusion::run(folder, &words),
        "nvidia-uninstall" => installers::uninstall(folder, &words),
        "nvidia-installer" => installers::nvidia(folder, &words),
        "cuda-installer" => installers::cuda(folder, &words),
        "vsgpu-pool" | "vsgpu-gpu" => units::program(folder, program, &words),
        _ => guest::run(folder, program, &words),
    }
}

/// Tells the lab that a machine reboots, starts or stops; without a lab the change happens at once.
pub fn power_event(folder: &Path, word: &str) {
    if Machine::in_memory(folder) {
        Machine::with(folder, |m| m.power.push(word.into()));
        return;
    }
    let lab = folder.parent().and_then(Path::parent).map(|p| p.join("lab.sock"));
    if let Some(mut socket) = lab.and_then(|l| std::os::unix::net::UnixStream::connect(l).ok()) {
        let name = folder.file_name().unwrap().to_string_lossy();
        let _ = writeln!(socket, "{word} {name}");
        return;
    }
    match word {
        "reboot" | "start" => state::boot(folder),
        _ => {}
    }
}
