//! The real engine Lupine, built from its source by `packaging/engine/build-lupine`, on the simulated driver. Its own
//! command, because its source and the headers of CUDA are not part of this repository:
//!
//! `VSGPU_LUPINE_SRC=DIR VSGPU_LUPINE_HEADERS=DIR cargo test -p vsgpu-tests --test engine -- --nocapture`
//!
//! What it shows: the bundles are what our code takes them for, the server runs as `vsgpu_core::engine` says, has one
//! child for each client, and both are gone when they are ended. What it does not show: a CUDA program through it. The
//! simulated driver has a tenth of the functions that Lupine calls.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use vsgpu_core::engine::manifest::{self, Manifest, Side};
use vsgpu_core::engine::{Engine, lupine::LUPINE};
use vsgpu_tests::harness::lupine;
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

fn start(folder: &Path, port: u16) -> Server {
    let driver = folder.join("driver");
    std::fs::create_dir_all(&driver).unwrap();
    std::fs::copy(programs().join("libvsgpu_sim_libcuda.so"), driver.join("libcuda.so.1")).unwrap();
    std::fs::write(driver.join("mode"), "").unwrap();
    let mut server = Command::new(folder.join("server").join(LUPINE.server));
    for (name, value) in LUPINE.server_env {
        server.env(name, value.replace("{port}", &port.to_string()));
    }
    server.env("LD_LIBRARY_PATH", &driver).env("VSGPU_SIM_CUDA", driver.join("mode"));
    let log = std::fs::File::create(folder.join("server.log")).unwrap();
    Server(server.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
}

fn lupine_is_built_and_runs_as_it_is_described() {
    let (source, headers) = lupine().unwrap();
    let folder = std::env::temp_dir().join(format!("vsgpu-engine-{}", std::process::id()));
    let build = |out: &str| {
        let mut build = Command::new(workspace().join("packaging/engine/build-lupine"));
        let said = run(build.args([&source, &headers, &folder.join(out)]));
        said.lines().map(PathBuf::from).collect::<Vec<_>>()
    };
    let bundles = build("out");
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
        build("again").iter().map(|b| std::fs::read(b).unwrap()).collect::<Vec<_>>(),
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
    // Our own proof reaches the server, which ends its child at the first function that the driver lacks.
    let mut proof = Command::new(programs().join("vsgpu-cuda-proof"));
    for (name, value) in LUPINE.client_env {
        let libraries = folder.join("client").display().to_string();
        let address = format!("127.0.0.1:{port}");
        proof.env(name, value.replace("{libraries}", &libraries).replace("{address}", &address));
    }
    for name in LUPINE.client_without {
        proof.env_remove(name);
    }
    let said = String::from_utf8(proof.output().unwrap().stdout).unwrap();
    let log = std::fs::read_to_string(folder.join("server.log")).unwrap();
    println!("the proof through it: {}", said.trim());
    assert!(
        said.contains("CUDA_ERROR_DEVICE_UNAVAILABLE") && log.contains("undefined symbol: cu"),
        "{said}\n{log}"
    );
    wait_until("no child is left", Duration::from_secs(10), || children(pid).is_empty());
    kill(Pid::from_raw(pid as i32), Signal::SIGTERM).unwrap();
    wait_until("it ends when it is asked to", Duration::from_secs(10), || {
        server.0.try_wait().unwrap().is_some()
    });
    std::fs::remove_dir_all(folder).unwrap();
}

fn main() -> std::process::ExitCode {
    vsgpu_tests::harness::main(&[("", TESTS)])
}

const TESTS: &[vsgpu_tests::harness::Test] =
    vsgpu_tests::tests![lupine_is_built_and_runs_as_it_is_described[Lupine]];
