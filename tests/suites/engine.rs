//! The real engine Lupine, built from its source by `packaging/engine/build-lupine`, on the simulated driver. Its own
//! command, because its source and the headers of CUDA are not part of this repository:
//!
//! `VSGPU_LUPINE_SRC=DIR VSGPU_LUPINE_HEADERS=DIR VSGPU_NVCC=FILE cargo test -p vsgpu-tests --test engine -- --nocapture`
//!
//! `VSGPU_NVCC` is NVIDIA's compiler, of a toolkit or of the Python packages nvidia-cuda-nvcc, nvidia-nvvm,
//! nvidia-cuda-crt and nvidia-cuda-runtime unpacked into one folder; without it two tests are left out. With
//! `VSGPU_CUDA_SAMPLES`, an archive of NVIDIA's own samples of the compiler's release is built and run as well.
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
use std::process::Command;
use std::time::Duration;
use vsgpu_core::engine::lupine::LUPINE;
use vsgpu_core::engine::manifest::Side;
use vsgpu_core::readers::cuda_samples::{device_query, vector_add_passed};
use vsgpu_tests::fakes::units;
use vsgpu_tests::harness::nvcc;
use vsgpu_tests::lab::lupine::{
    Server, build, bundles, passed, pool, proof, run, simulated_driver, unpacked,
};
use vsgpu_tests::lab::{cuda_toolkit, files, free_port, programs, wait_until, workspace};

/// Processes whose parent this is.
fn children(of: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
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
    let mut server = Server::start(&folder.join("server"), port, simulated_driver(&folder));
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
    let said = run(&mut proof(&folder.join("client"), &format!("127.0.0.1:{port}"), &["50000"]));
    passed(&said);
    wait_until("no child is left", Duration::from_secs(10), || children(pid).is_empty());
    kill(Pid::from_raw(pid as i32), Signal::SIGTERM).unwrap();
    wait_until("it ends when it is asked to", Duration::from_secs(10), || {
        server.0.try_wait().unwrap().is_some()
    });
    std::fs::remove_dir_all(folder).unwrap();
}

/// The real engine behind a real gateway, the real shim in front of a real daemon: a user's program computes, two at
/// once on two GPUs, and one whose engine is killed hears it as error 46.
fn a_cuda_program_runs_through_gateway_and_daemon() {
    let pool = pool("lupine", 2, simulated_driver);
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
    let pool = pool("lupine-runtime", 2, simulated_driver);
    let program = pool.lab.folder.join("vector_add");
    let mut compile = Command::new(&nvcc);
    compile.args(["-arch=sm_80", "-cudart", "static", "-I"]).arg(toolkit.join("include"));
    compile.arg("-L").arg(toolkit.join("lib")).arg("-o").arg(&program);
    run(compile.arg(workspace().join("tests/data/cuda/vectorAdd.cu")));
    let (status, said) = pool.command("ml-1", &["run", "--", &program.display().to_string()]).end();
    assert!(status == Some(0) && said.contains("Test PASSED"), "{status:?} {said}{}", pool.logs());
    println!("through Lupine: a program of CUDA's runtime: Test PASSED");
    pool.all_free(2);
}

/// deviceQuery and vectorAdd, built from source as a guest builds them, with NVIDIA's compiler and runtime, by make and
/// by CMake; what they say is judged by the proof's own reader. The runtime asks the driver for tables that nobody
/// documents, and for a proof that it is NVIDIA's: the simulated driver has neither, the engine answers for it.
fn samples_built_from_source_run_and_are_judged() {
    let pool = pool("lupine-samples", 1, simulated_driver);
    let toolkit = cuda_toolkit::whole(&pool.lab.folder.join("toolkit"));
    let brought = std::env::var_os("VSGPU_CUDA_SAMPLES").map(std::path::PathBuf::from);
    let mut archives = vec![];
    for release in ["12.5", "13.0"] {
        let archive = pool.lab.folder.join(format!("cuda-samples-{release}.zip"));
        std::fs::write(&archive, files::cuda_samples(release)).unwrap();
        archives.push(archive);
    }
    for archive in archives.into_iter().chain(brought) {
        let into = pool.lab.folder.join("built");
        let mut build = Command::new(programs().join("vsgpu-cuda-samples"));
        build.arg("--source").arg(&archive).arg("--into").arg(&into).arg("--toolkit").arg(&toolkit);
        println!("{}: {}", archive.display(), run(build.args(["--capability", "8.0"])).trim());
        let said = |program: &str| {
            let program = into.join(program).display().to_string();
            let (status, said) = pool.command("ml-1", &["run", "--", &program]).end();
            assert!(status == Some(0), "{program}: {status:?} {said}{}", pool.logs());
            said
        };
        let query = said("deviceQuery");
        let read = device_query(&query);
        assert!(read.passed() && read.devices == Some(1), "{query}");
        assert!(vector_add_passed(&said("vectorAdd")));
        println!("through Lupine: {read:?}, vectorAdd PASSED");
    }
}

fn main() -> std::process::ExitCode {
    vsgpu_tests::harness::main(&[("", TESTS)])
}

const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    lupine_is_built_and_runs_as_it_is_described[Lupine],
    a_cuda_program_runs_through_gateway_and_daemon[Lupine],
    a_program_of_cudas_runtime_runs_through_gateway_and_daemon[Bundles, Nvcc],
    samples_built_from_source_run_and_are_judged[Bundles, Nvcc, Make, Cmake]
];
