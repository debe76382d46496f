//! The real engine Lupine, built from its source by `packaging/engine/build-lupine`, on the simulated driver. Its own
//! command, because its source and the headers of CUDA are not part of this repository:
//!
//! `VSGPU_LUPINE_SRC=DIR VSGPU_LUPINE_HEADERS=DIR VSGPU_NVCC=FILE cargo test -p vsgpu-tests --test engine -- --nocapture`
//!
//! `VSGPU_NVCC` is NVIDIA's compiler, of a toolkit or of the Python packages nvidia-cuda-nvcc, nvidia-nvvm,
//! nvidia-cuda-crt and nvidia-cuda-runtime unpacked into one folder; without it one test is left out.
//!
//! What it shows: the bundles are what our code takes them for, the server runs as `vsgpu_core::engine` says, has one
//! child for each client, and both are gone when they are ended; and our CUDA proof passes through it, straight and
//! through gateway and daemon, with every sum checked. What it does not show: a GPU. The driver behind it is simulated
//! and computes on the CPU, and knows only the functions that these programs lead to.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use vsgpu_core::engine::manifest::{self, Manifest, Side};
use vsgpu_core::engine::{Engine, lupine::LUPINE};
use vsgpu_core::readers::cuda_report;
use vsgpu_tests::fakes::units;
use vsgpu_tests::harness::nvcc;
use vsgpu_tests::lab::gpu_pool::{BUILD, GpuPool, two_teams};
use vsgpu_tests::lab::lupine::{build, bundles};
use vsgpu_tests::lab::{free_port, programs, wait_until, workspace};

fn run(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A bundle, unpacked; its files are those that it names, with the bytes that it says.
fn unpacked(bundle: &Path, to: &Path) -> (Manifest, &'static Engine) {
    std::fs::create_dir_all(to).unwrap();
    let listed = run(Command::new("tar").arg("-tf").arg(bundle));
    assert_eq!(listed.lines().next(), Some(manifest::NAME), "the manifest comes first");
    run(Command::new("tar").arg("-xf").arg(bundle).arg("-C").arg(to));
    let (manifest, engine) = manifest::read(&std::fs::read(to.join(manifest::NAME)).unwrap()).unwrap();
    let named: Vec<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(listed.lines().skip(1).collect::<Vec<_>>(), named);
    for file in &manifest.files {
        let said = run(Command::new("sha256sum").arg(to.join(&file.path)));
        assert_eq!(said.split(' ').next(), Some(file.sha256.as_str()), "{}", file.path);
    }
    (manifest, engine)
}

/// Processes whose parent this is.
fn children(of: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder with the simulated driver, and the environment of a server that uses it.
fn driver(folder: &Path) -> [(&'static str, String); 2] {
    let driver = folder.join("driver");
    std::fs::create_dir_all(&driver).unwrap();
    std::fs::copy(programs().join("libvsgpu_sim_libcuda.so"), driver.join("libcuda.so.1")).unwrap();
    // As new as the engine.
    std::fs::write(driver.join("mode"), "13.3").unwrap();
    [
        ("LD_LIBRARY_PATH", driver.display().to_string()),
        ("VSGPU_SIM_CUDA", driver.join("mode").display().to_string()),
    ]
}

fn start(folder: &Path, port: u16) -> Server {
    let mut server = Command::new(folder.join("server").join(LUPINE.server));
    for (name, value) in LUPINE.server_env {
        server.env(name, value.replace("{port}", &port.to_string()));
    }
    server.envs(driver(folder));
    let log = std::fs::File::create(folder.join("server.log")).unwrap();
    Server(server.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
}

/// Environment of a client's program.
fn client_env(libraries: &Path, address: &str) -> Vec<(&'static str, String)> {
    let libraries = libraries.display().to_string();
    let value = |value: &str| value.replace("{libraries}", &libraries).replace("{address}", address);
    LUPINE.client_env.iter().map(|(name, text)| (*name, value(text))).collect()
}

/// Our proof, as a client's program.
fn proof(libraries: &Path, address: &str) -> Command {
    let mut proof = Command::new(programs().join("vsgpu-cuda-proof"));
    proof.args(["--elements", "50000"]).envs(client_env(libraries, address));
    for name in LUPINE.client_without {
        proof.env_remove(name);
    }
    proof
}

/// Every sum was right. Gives what a launch took, its wait with it, microseconds.
fn passed(said: &str) -> f64 {
    let report = cuda_report::read(said).unwrap_or_else(|why| panic!("{why}: {said}"));
    assert!(report.passed() && report.devices[0].vector_adds[0].checked == 50_000, "{said}");
    let launch = report.devices[0].launch_us.unwrap_or_default();
    println!("through Lupine: {}, every sum of 50000 right, a launch {launch:.0} us", report.devices[0].name);
    launch
}

fn lupine_is_built_and_runs_as_it_is_described() {
    let folder = std::env::temp_dir().join(format!("vsgpu-engine-{}", std::process::id()));
    let bundles = bundles();
    let (server, engine) = unpacked(&bundles[0], &folder.join("server"));
    let dynamic = run(Command::new("readelf").arg("-d").arg(folder.join("server").join(LUPINE.server)));
    assert!(
        !dynamic.contains("RUNPATH") && !dynamic.contains("RPATH"),
        "it looks for libraries where it was built"
    );
    let (client, _) = unpacked(&bundles[1], &folder.join("client"));
    println!("Lupine {}, CUDA {}, build {}", server.commit, server.cuda, server.build);
    assert_eq!((engine.name, server.side, client.side), (LUPINE.name, Side::Server, Side::Client));
    assert_eq!(server.build, client.build);
    // The same source gives the same bytes: so a bundle can be checked by whoever builds it again.
    assert_eq!(
        build(&folder.join("again")).iter().map(|b| std::fs::read(b).unwrap()).collect::<Vec<_>>(),
        bundles.iter().map(|b| std::fs::read(b).unwrap()).collect::<Vec<_>>()
    );

    let port = free_port();
    let mut server = start(&folder, port);
    let pid = server.0.id();
    let connect = || TcpStream::connect(("127.0.0.1", port));
    let mut first = None;
    wait_until("it listens", Duration::from_secs(30), || {
        first = connect().ok();
        first.is_some()
    });
    let second = connect().unwrap();
    wait_until("a child for each client", Duration::from_secs(10), || children(pid).len() == 2);
    drop((first, second));
    wait_until("and none without a client", Duration::from_secs(10), || children(pid).is_empty());
    // Our own proof passes through it.
    let said = run(&mut proof(&folder.join("client"), &format!("127.0.0.1:{port}")));
    passed(&said);
    wait_until("no child is left", Duration::from_secs(10), || children(pid).is_empty());
    kill(Pid::from_raw(pid as i32), Signal::SIGTERM).unwrap();
    wait_until("it ends when it is asked to", Duration::from_secs(10), || {
        server.0.try_wait().unwrap().is_some()
    });
    std::fs::remove_dir_all(folder).unwrap();
}

/// A GPU server with two GPUs and two clients, with the real engine on both sides. Serves when it comes back: each GPU
/// was tried through its engine, by the real proof.
fn pool_of_lupine(name: &str) -> GpuPool {
    let pool = GpuPool::set_up(name, 2, two_teams(), &["ml-1", "ci-1"]);
    let folder = pool.lab.folder.join("lupine");
    unpacked(&bundles()[0], &folder.join("server"));
    unpacked(&bundles()[1], &folder.join("client"));
    let (server, client) = (folder.join("server"), folder.join("client"));
    let lines = |pairs: &[(&str, String)]| -> String {
        pairs.iter().map(|(name, value)| format!("Environment={name}={value}\n")).collect()
    };
    let of_server = lines(&driver(&folder));
    // The gateway's own proof is the real one, with the shim of the server's bundle.
    let of_proof = lines(&client_env(&server, &format!("127.0.0.1:{}", LUPINE.port)));
    pool.lab.change("gpu-srv-1", |m| {
        let inside = format!("/usr/lib/vsgpu/engine/{BUILD}/{}", LUPINE.server);
        std::fs::copy(server.join(LUPINE.server), m.root(&inside)).unwrap();
        for slot in 0..2 {
            let text = format!("[Service]\nExecStart=\nExecStart={inside}\n{of_server}");
            m.write(&format!("/etc/systemd/system/vsgpu-engine@{slot}.service.d/vsgpu.conf"), &text);
        }
        let text = format!("[Service]\n{of_proof}");
        m.write("/etc/systemd/system/vsgpu-engine-proof@.service.d/vsgpu.conf", &text);
    });
    let tool = pool.lab.machine("gpu-srv-1").join("tools/vsgpu-cuda-proof");
    std::fs::remove_file(&tool).unwrap();
    std::os::unix::fs::symlink(programs().join("vsgpu-cuda-proof"), tool).unwrap();
    for name in ["ml-1", "ci-1"] {
        let path = "/etc/vsgpu/network-gpu.json";
        let text = pool.lab.state(name).text(path).unwrap();
        let libraries = format!("/usr/lib/vsgpu/engine/{BUILD}");
        let text = text.replace(&libraries, &client.display().to_string());
        pool.lab.change(name, |m| m.write(path, &text));
        pool.systemctl(name, &["start", "vsgpu-gpu.service"]);
    }
    pool.systemctl("gpu-srv-1", &["start", "vsgpu-pool.service"]);
    // The CPU computes what a GPU would.
    wait_until("both GPUs were tried through their engines", Duration::from_secs(120), || {
        (0..2).all(|slot| pool.slot(slot) == "free")
    });
    pool
}

/// The real engine behind a real gateway, the real shim in front of a real daemon: a user's program computes, two at
/// once on two GPUs, and one whose engine is killed hears it as error 46.
fn a_cuda_program_runs_through_gateway_and_daemon() {
    let pool = pool_of_lupine("lupine");
    let program = programs().join("vsgpu-cuda-proof").display().to_string();
    let command = ["run", "--", &program, "--elements", "50000"];
    let both = ["ml-1", "ci-1"].map(|name| pool.command(name, &command));
    for running in both {
        let (status, said) = running.end();
        assert_eq!(status, Some(0), "{said}{}", pool.logs());
        passed(&said);
    }
    pool.all_free(2);
    assert_eq!(pool.ended(2), ["released", "released"]);
    // Under a long computation its engine is killed.
    let long = pool.command("ml-1", &["run", "--", &program, "--elements", "300000000"]);
    long.wait_for("granted:");
    wait_until("its engine computes", Duration::from_secs(30), || {
        units::processes(&pool.lab.machine("gpu-srv-1"), "vsgpu-engine@0.service").len() > 1
    });
    for pid in units::processes(&pool.lab.machine("gpu-srv-1"), "vsgpu-engine@0.service") {
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
    }
    let (status, said) = long.end();
    assert!(status != Some(0) && said.contains("CUDA_ERROR_DEVICE_UNAVAILABLE"), "{status:?} {said}");
    pool.all_free(2);
}

/// A program that NVIDIA's compiler built, with CUDA's runtime in it, as PyTorch and others have it: the runtime asks
/// for some hundred functions and for tables that nobody documents.
fn a_program_of_cudas_runtime_runs_through_gateway_and_daemon() {
    let nvcc = nvcc().unwrap();
    let toolkit = nvcc.parent().and_then(Path::parent).unwrap();
    let pool = pool_of_lupine("lupine-runtime");
    let program = pool.lab.folder.join("vector_add");
    let mut compile = Command::new(&nvcc);
    compile.args(["-arch=sm_80", "-cudart", "static", "-I"]).arg(toolkit.join("include"));
    compile.arg("-L").arg(toolkit.join("lib")).arg("-o").arg(&program);
    run(compile.arg(workspace().join("tests/data/cuda/vector_add.cu")));
    let (status, said) = pool.command("ml-1", &["run", "--", &program.display().to_string()]).end();
    assert!(status == Some(0) && said.contains("Test PASSED"), "{status:?} {said}{}", pool.logs());
    println!("through Lupine: a program of CUDA's runtime: Test PASSED");
    pool.all_free(2);
}

fn main() -> std::process::ExitCode {
    vsgpu_tests::harness::main(&[("", TESTS)])
}

const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    lupine_is_built_and_runs_as_it_is_described[Lupine],
    a_cuda_program_runs_through_gateway_and_daemon[Lupine],
    a_program_of_cudas_runtime_runs_through_gateway_and_daemon[Lupine, Nvcc]
];
