//! The real engine Lupine: its bundles (built from its source where this machine has that, or brought), our proof as a
//! program of its clients, and a GPU server that offers GPUs through it.

use crate::harness::{brought_bundles, lupine};
use crate::lab::gpu_pool::{BUILD, GpuPool, two_teams};
use crate::lab::{programs, wait_until, workspace};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use vsgpu_core::engine::lupine::LUPINE;
use vsgpu_core::engine::{Engine, manifest, manifest::Manifest};
use vsgpu_core::readers::cuda_report::{self, DeviceProof};

/// Both bundles, the server's first: those that were brought, else built once.
pub fn bundles() -> &'static [PathBuf] {
    static BUILT: OnceLock<Vec<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| brought_bundles().unwrap_or_else(|| build(&workspace().join("target/engine-test"))))
}

/// Variables of a process.
pub type Env = Vec<(&'static str, String)>;

/// Builds them into this folder.
pub fn build(out: &Path) -> Vec<PathBuf> {
    let (source, headers) = lupine().expect("source and headers are there");
    let mut build = Command::new(workspace().join("packaging/engine/build-lupine"));
    let output = build.args([&source, &headers]).arg(out).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "build-lupine: {}", output.status);
    String::from_utf8(output.stdout).unwrap().lines().map(PathBuf::from).collect()
}

/// The same bundle, said to be of another CUDA version: the drivers that stand in are older than its headers.
pub fn said_to_be_of(cuda: &str, bundle: &Path) -> Vec<u8> {
    let bytes = std::fs::read(bundle).unwrap();
    let mut tar = tar::Builder::new(vec![]);
    for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let (path, mut content) = (entry.path().unwrap().into_owned(), vec![]);
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        if path == Path::new(vsgpu_core::engine::manifest::NAME) {
            let mut manifest: serde_json::Value = serde_json::from_slice(&content).unwrap();
            manifest["cuda"] = cuda.into();
            content = serde_json::to_vec(&manifest).unwrap();
        }
        let mut header = entry.header().clone();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// What a program says that has to succeed.
pub fn run(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A bundle, unpacked; its files are those that it names, with the bytes that it says.
pub fn unpacked(bundle: &Path, to: &Path) -> (Manifest, &'static Engine) {
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

/// Environment of a client's program.
pub fn client_env(libraries: &Path, address: &str) -> Env {
    let libraries = libraries.display().to_string();
    let value = |value: &str| value.replace("{libraries}", &libraries).replace("{address}", address);
    LUPINE.client_env.iter().map(|(name, text)| (*name, value(text))).collect()
}

/// The engine's server by itself: nothing of ours around it.
pub struct Server(pub Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Starts the one of an unpacked bundle; what it says goes into a log beside it.
    pub fn start(bundle: &Path, port: u16, driver: Env) -> Self {
        let mut server = Command::new(bundle.join(LUPINE.server));
        for (name, value) in LUPINE.server_env {
            server.env(name, value.replace("{port}", &port.to_string()));
        }
        let log = std::fs::File::create(bundle.with_extension("log")).unwrap();
        Self(server.envs(driver).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }
}

/// Our proof, as a client's program.
pub fn proof(libraries: &Path, address: &str, elements: &[&str]) -> Command {
    let mut proof = Command::new(programs().join("vsgpu-cuda-proof"));
    proof.args(elements.iter().flat_map(|n| ["--elements", n])).envs(client_env(libraries, address));
    for name in LUPINE.client_without {
        proof.env_remove(name);
    }
    proof
}

/// Every sum was right. Gives what a launch took, its wait with it, microseconds.
pub fn passed(said: &str) -> f64 {
    let report = cuda_report::read(said).unwrap_or_else(|why| panic!("{why}: {said}"));
    assert!(report.passed() && report.devices[0].vector_adds[0].checked == 50_000, "{said}");
    let launch = report.devices[0].launch_us.unwrap_or_default();
    println!("through Lupine: {}, every sum of 50000 right, a launch {launch:.0} us", report.devices[0].name);
    launch
}

/// What the way through daemon, TLS and gateway costs beside the engine alone, as one proof saw it on both; judged
/// where the programs are optimised.
pub fn judge_the_way(alone: &DeviceProof, through: &DeviceProof) {
    let ratio = |of: fn(&DeviceProof) -> Option<f64>| of(through).unwrap() / of(alone).unwrap();
    let mut missed = vec![];
    for (what, times, most) in [
        ("a launch and its wait", ratio(|d| d.launch_us), 3.0),
        ("a launch among 10,000", ratio(|d| d.queued_launch_us), 1.2),
        ("a copy to the GPU", 1.0 / ratio(|d| d.host_to_device_gb_s), 1.0 / 0.6),
        ("a copy back", 1.0 / ratio(|d| d.device_to_host_gb_s), 1.0 / 0.6),
    ] {
        println!("{what:<22} {times:.2} times the engine alone   target at most {most:.2}");
        if times > most {
            missed.push(what);
        }
    }
    assert!(missed.is_empty() || cfg!(debug_assertions), "not met: {missed:?}");
}

/// A folder with the simulated driver, and the environment of a server that uses it.
pub fn simulated_driver(folder: &Path) -> Env {
    let driver = folder.join("driver");
    std::fs::create_dir_all(&driver).unwrap();
    std::fs::copy(programs().join("libvsgpu_sim_libcuda.so"), driver.join("libcuda.so.1")).unwrap();
    // As new as the engine.
    std::fs::write(driver.join("mode"), "13.3").unwrap();
    vec![
        ("LD_LIBRARY_PATH", driver.display().to_string()),
        ("VSGPU_SIM_CUDA", driver.join("mode").display().to_string()),
    ]
}

/// A GPU server with so many GPUs and two clients, with the real engine on both sides; `driver` makes the environment of
/// its engines. Serves when it comes back: each GPU was tried through its engine, by the real proof.
pub fn pool(name: &str, gpus: usize, driver: impl Fn(&Path) -> Env) -> GpuPool {
    let pool = GpuPool::set_up(name, gpus, two_teams(), &["ml-1", "ci-1"]);
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
        for slot in 0..gpus {
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
    wait_until("each GPU was tried through its engine", Duration::from_secs(120), || {
        (0..gpus).all(|slot| pool.slot(slot) == "free")
    });
    pool
}
