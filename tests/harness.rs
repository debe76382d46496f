//! Tests that need something which not every machine has: a real peer, a tool, recordings. Where it is not
//! there they are reported as ignored, with what is missing, and never as passed. `cargo xtask test` says at
//! its end how many there were and what to install.
//!
//! A function that is in no list is dead code, and the lints say so.

use libtest_mimic::{Arguments, Failed, Trial};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{PoisonError, RwLock};

/// What a test needs of the machine it runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Prometheus and its tool for rules.
    Prometheus,
    /// A client for HTTPS that is none of ours.
    Curl,
    /// System-call injection, and the build for ESXi.
    Vmkernel,
    /// sshd, ssh and busybox.
    Ssh,
    Tmux,
    /// A browser.
    Chromium,
    /// Who may become another local user.
    Root,
    /// Who may make network namespaces.
    Namespaces,
    Rpm,
    /// Debian's judge of packages.
    Lintian,
    /// systemd's own judgement of units.
    SystemdAnalyze,
    /// Recordings of real machines, which are not distributed.
    Captures,
    /// Root on Debian or Ubuntu, for real guests in containers.
    Container,
    /// The same for a full machine.
    Machine,
    Ptxas,
    /// A machine without a GPU.
    NoGpu,
    /// Source of the engine Lupine, headers of CUDA, and what builds them.
    Lupine,
    /// Bundles of that engine: brought, or what builds them.
    Bundles,
    /// NVIDIA's compiler.
    Nvcc,
    Make,
    Cmake,
    /// VMware's own simulator of vCenter.
    Vcsim,
    /// A GPU with its driver, and root, who may write records as the agent does.
    Gpu,
    /// PyTorch.
    Torch,
    /// No other test of its program at the same time: it compares times.
    Quiet,
}

fn here(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

fn tool(program: &str, package: &str) -> Option<String> {
    (!here(program)).then(|| format!("{program} (Debian's package {package})"))
}

impl Need {
    /// What is missing, if anything.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Prometheus => tool("promtool", "prometheus").or_else(|| tool("prometheus", "prometheus")),
            Self::Curl => tool("curl", "curl"),
            Self::Lintian => tool("lintian", "lintian"),
            Self::Chromium => tool("chromium", "chromium"),
            Self::Vmkernel => vmkernel(),
            Self::Ssh => crate::lab::sshd::why_not(),
            Self::Tmux => crate::lab::terminal::why_not(),
            Self::Root => {
                (!nix::unistd::geteuid().is_root()).then(|| "root, who alone can be another user".into())
            }
            Self::Namespaces => tool("ip", "iproute2").or_else(namespaces),
            Self::Rpm => tool("rpm", "rpm"),
            Self::SystemdAnalyze => tool("systemd-analyze", "systemd"),
            Self::Captures => captures()
                .is_none()
                .then(|| "recordings of real machines (VSGPU_CAPTURES names their folder; they are not distributed)".into()),
            Self::Container => crate::real::prepared("container").err(),
            Self::Machine => crate::real::prepared("machine").err(),
            Self::Ptxas => tool("ptxas", "nvidia-cuda-toolkit"),
            Self::Lupine => lupine().is_none().then(|| {
                "source of Lupine and headers of CUDA (VSGPU_LUPINE_SRC and VSGPU_LUPINE_HEADERS name their folders)".into()
            }),
            Self::Bundles => (brought_bundles().is_none() && lupine().is_none()).then(|| {
                "bundles of Lupine (VSGPU_LUPINE_BUNDLES names their folder), or its source (VSGPU_LUPINE_SRC, VSGPU_LUPINE_HEADERS)".into()
            }),
            Self::Gpu => no_gpu(),
            Self::Torch => torch().is_none().then(|| "a Python with PyTorch (VSGPU_TORCH names it)".into()),
            Self::Nvcc => nvcc().is_none().then(|| "NVIDIA's compiler (VSGPU_NVCC names it)".into()),
            Self::Vcsim => ["VSGPU_VCSIM", "VSGPU_VCSIM_TLS"].iter().any(|name| std::env::var_os(name).is_none()).then(|| {
                "VMware's simulator vcsim (VSGPU_VCSIM names it, VSGPU_VCSIM_TLS a certificate and its key)".into()
            }),
            Self::Make => tool("make", "make"),
            Self::Cmake => tool("cmake", "cmake"),
            Self::Quiet => None,
            Self::NoGpu => std::path::Path::new("/dev/nvidia0").exists().then(|| "a machine without a GPU".into()),
        }
    }
}

pub fn captures() -> Option<PathBuf> {
    let folder = std::env::var_os("VSGPU_CAPTURES")
        .map_or_else(|| crate::lab::workspace().join("../shared/captures"), PathBuf::from);
    folder.is_dir().then_some(folder)
}

/// Source of the engine Lupine, and headers of CUDA.
pub fn lupine() -> Option<(PathBuf, PathBuf)> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_dir());
    Some((folder("VSGPU_LUPINE_SRC")?, folder("VSGPU_LUPINE_HEADERS")?))
}

/// Bundles of the engine that were built elsewhere, the server's first.
pub fn brought_bundles() -> Option<Vec<PathBuf>> {
    let folder = PathBuf::from(std::env::var_os("VSGPU_LUPINE_BUNDLES")?);
    let all: Vec<PathBuf> = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    let of = |side: &str| {
        let named =
            |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains(side));
        all.iter().find(named).cloned()
    };
    Some(vec![of("server")?, of("client")?])
}

fn no_gpu() -> Option<String> {
    let answers = Command::new("nvidia-smi").arg("-L").stderr(Stdio::null()).output();
    let there = answers.is_ok_and(|output| output.status.success() && output.stdout.starts_with(b"GPU "));
    (!there || !nix::unistd::geteuid().is_root()).then(|| "an NVIDIA GPU with its driver, and root".into())
}

/// A Python that has PyTorch.
pub fn torch() -> Option<PathBuf> {
    std::env::var_os("VSGPU_TORCH").map(PathBuf::from).filter(|file| file.is_file())
}

fn namespaces() -> Option<String> {
    let ip = |verb: &str| {
        let mut ip = Command::new("ip");
        let ip = ip.args(["netns", verb, &format!("vsgpu-try-{}", std::process::id())]);
        ip.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let may = ip("add") && ip("delete");
    (!may).then(|| "a machine on which network namespaces may be made (root)".into())
}

/// NVIDIA's compiler.
pub fn nvcc() -> Option<PathBuf> {
    std::env::var_os("VSGPU_NVCC").map(PathBuf::from).filter(|file| file.is_file())
}

fn vmkernel() -> Option<String> {
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-e", "inject=membarrier:error=ENOSYS", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if !strace.status().is_ok_and(|status| status.success()) {
        return Some("strace that may trace (Debian's package strace)".into());
    }
    let built = Command::new(crate::lab::workspace().join("packaging/esxi/build-static"))
        .arg("--dev")
        .output()
        .ok()?;
    (built.status.code() == Some(3))
        .then(|| String::from_utf8_lossy(&built.stdout).lines().last().unwrap_or_default().to_string())
}

#[derive(Clone, Copy)]
pub struct Test {
    pub name: &'static str,
    pub needs: &'static [Need],
    /// Takes tens of minutes: only `--ignored` runs it.
    pub on_demand: bool,
    pub run: fn(),
}

/// A list of tests: `name`, `name [Need, ..]`.
#[macro_export]
macro_rules! tests {
    ($($name:ident $([$($need:ident),+])?),+ $(,)?) => {
        &[$($crate::harness::Test {
            name: stringify!($name),
            needs: &[$($($crate::harness::Need::$need),+)?],
            on_demand: false,
            run: $name,
        }),+]
    };
}

/// Held by each test: those that compare times hold it alone.
static BESIDE: RwLock<()> = RwLock::new(());

/// Runs what the command line asks for. `groups`: name and tests of each module; a name may be empty.
pub fn main(groups: &[(&str, &[Test])]) -> ExitCode {
    let mut args = Arguments::from_args();
    let asked = std::env::var("RUST_TEST_THREADS").ok().and_then(|n| n.parse().ok());
    args.test_threads = args.test_threads.or(asked);
    let mut not_tried = vec![];
    let mut trials = vec![];
    for (group, tests) in groups {
        for test in *tests {
            let name =
                if group.is_empty() { test.name.to_string() } else { format!("{group}::{}", test.name) };
            // What is only listed is not looked for.
            let missing = if args.list { None } else { test.needs.iter().find_map(|need| need.missing()) };
            let ignored = test.on_demand || missing.is_some();
            if let Some(missing) = missing.filter(|_| !test.on_demand && wanted(&args, &name)) {
                not_tried.push(format!("{name}: needs {missing}"));
            }
            let run = test.run;
            let quiet = test.needs.contains(&Need::Quiet);
            trials.push(
                Trial::test(name, move || {
                    let _alone = quiet.then(|| BESIDE.write().unwrap_or_else(PoisonError::into_inner));
                    let _beside = (!quiet).then(|| BESIDE.read().unwrap_or_else(PoisonError::into_inner));
                    std::panic::catch_unwind(run).map_err(|_| Failed::without_message())
                })
                .with_ignored_flag(ignored),
            );
        }
    }
    let conclusion = libtest_mimic::run(&args, trials);
    for line in &not_tried {
        println!("NOT TRIED {line}");
    }
    if let Some(file) = std::env::var_os("VSGPU_NOT_TRIED") {
        use std::io::Write as _;
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
        let text: String = not_tried.iter().map(|line| format!("{line}\n")).collect();
        opened.and_then(|mut file| file.write_all(text.as_bytes())).unwrap();
    }
    conclusion.exit_code()
}

fn wanted(args: &Arguments, name: &str) -> bool {
    let fits = |filter: &String| if args.exact { name == filter } else { name.contains(filter.as_str()) };
    args.filter.as_ref().is_none_or(fits) && !args.skip.iter().any(fits)
}
