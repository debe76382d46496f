//! A real NVIDIA GPU with its driver: our CUDA proof, our reading of nvidia-smi, the guest agent as a whole, and the
//! engine Lupine in front of it. Its own command, on a machine that has one, as root:
//!
//! `cargo test -p vsgpu-tests --test real_gpu -- --nocapture`
//!
//! `VSGPU_LUPINE_BUNDLES` names a folder with bundles of `packaging/engine/build-lupine` of a CUDA that the driver
//! serves; `VSGPU_NVCC` NVIDIA's compiler; `VSGPU_TORCH` a Python with PyTorch. What is not there is left out, and that is
//! said. Nothing of the GPU's settings is changed. The agent keeps its records below /var/lib/vsgpu, as it always does.
//!
//! What is simulated here is said in each test: hosts always are, and systemd below the gateway.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vsgpu_core::readers::cuda_report::{CudaReport, DeviceProof};
use vsgpu_core::readers::{cuda_report, nvidia_smi};
use vsgpu_tests::harness::{nvcc, torch};
use vsgpu_tests::lab::lupine::{Env, Server, bundles, judge_the_way, pool, proof, run, unpacked};
use vsgpu_tests::lab::{Lab, free_port, programs, wait_until, workspace};

/// What nvidia-smi says of the first GPU in its other form, by the names of its columns.
fn asked(columns: &str) -> Vec<String> {
    let query = format!("--query-gpu={columns}");
    let said = run(Command::new("nvidia-smi").args([&query, "--format=csv,noheader,nounits"]));
    said.lines().next().unwrap().split(", ").map(|value| value.trim().to_string()).collect()
}

fn the_proof_checks_every_sum_and_measures_the_gpu() {
    let start = Instant::now();
    let said = run(&mut Command::new(programs().join("vsgpu-cuda-proof")));
    let took = start.elapsed();
    let report = cuda_report::read(&said).unwrap();
    assert!(report.passed(), "{said}");
    let device = &report.devices[0];
    let sums: Vec<(u64, u64, u64)> =
        device.vector_adds.iter().map(|v| (v.elements, v.checked, v.wrong)).collect();
    assert_eq!(sums, [(50_000, 50_000, 0), (100_000_000, 100_000_000, 0)]);
    let smi = asked("name,compute_cap,memory.total,pci.bus_id");
    assert_eq!((&device.name, &device.compute_capability), (&smi[0], &smi[1]));
    // CUDA sees what the driver does not keep for itself.
    let whole: u64 = smi[2].parse().unwrap();
    assert!(device.memory_mib <= whole && device.memory_mib * 100 > whole * 90, "{said}");
    assert!(smi[3].to_lowercase().ends_with(&device.pci.clone().unwrap()), "{said}");
    for figure in
        [device.device_gb_s, device.host_to_device_gb_s, device.device_to_host_gb_s, device.launch_us]
    {
        assert!(figure.is_some_and(|figure| figure > 0.0), "{said}");
    }
    println!("{said}\nwhole proof: {took:.1?}");
}

fn one_answer_of_nvidia_smi_is_read_as_its_other_form_says() {
    let command = nvidia_smi::query();
    let said = run(Command::new(&command.program).args(&command.args));
    let report = nvidia_smi::read(&said).unwrap();
    let gpu = &report.gpus[0];
    let smi = asked("driver_version,name,uuid,memory.total,pci.bus_id,ecc.mode.current,mig.mode.current");
    assert_eq!(report.driver_version.as_deref(), Some(smi[0].as_str()));
    assert_eq!(gpu.name.as_deref(), Some(smi[1].as_str()));
    assert_eq!(gpu.uuid.as_deref(), Some(smi[2].as_str()));
    assert_eq!(gpu.fb_total_mib, smi[3].parse().ok());
    assert!(smi[4].to_lowercase().ends_with(&gpu.bus_id), "{} {}", smi[4], gpu.bus_id);
    let on = |text: &str| match text {
        "Enabled" => Some(true),
        "Disabled" => Some(false),
        _ => None,
    };
    assert_eq!((gpu.ecc_current, gpu.mig_current), (on(&smi[5]), on(&smi[6])));
    for there in [gpu.bar1_total_mib.is_some(), gpu.temperature_c.is_some(), gpu.power_watts.is_some()] {
        assert!(there, "{gpu:?}");
    }
    // The text of the same question says the same.
    let text = nvidia_smi::read(&run(Command::new("nvidia-smi").arg("-q"))).unwrap();
    let other = &text.gpus[0];
    assert_eq!(text.driver_version, report.driver_version);
    assert_eq!(text.cuda_version, report.cuda_version);
    assert_eq!(
        (&other.name, &other.uuid, other.fb_total_mib, other.ecc_current, other.mig_current, &other.bus_id),
        (&gpu.name, &gpu.uuid, gpu.fb_total_mib, gpu.ecc_current, gpu.mig_current, &gpu.bus_id)
    );
    println!("{gpu:#?}");
}

/// Recorded by the first test and by hand on an H200 (driver 580.159.04, Ubuntu 24.04, passed through whole), numbers that
/// name the board made zero: read everywhere, also where there is no GPU. Expectations were written down from the
/// recordings by hand.
fn what_an_h200_said_is_read_right() {
    let folder = workspace().join("tests/data/h200");
    let text = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
    let forms = [
        ("nvidia-smi-q-x.xml", (0, 0, 39)),
        ("nvidia-smi-q-x-busy.xml", (1139, 98, 61)),
        ("nvidia-smi-q.txt", (0, 0, 40)),
    ];
    for (file, (used, busy, heat)) in forms {
        let report = nvidia_smi::read(&text(file)).unwrap();
        assert_eq!(report.driver_version.as_deref(), Some("580.159.04"), "{file}");
        assert_eq!(report.cuda_version.as_deref(), Some("13.0"), "{file}");
        let [gpu] = &report.gpus[..] else { panic!("{file}: {report:?}") };
        assert_eq!(
            (gpu.bus_id.as_str(), gpu.name.as_deref()),
            ("0000:00:06.0", Some("NVIDIA H200")),
            "{file}"
        );
        assert_eq!((gpu.architecture.as_deref(), gpu.minor_number), (Some("Hopper"), Some(0)), "{file}");
        assert_eq!(gpu.virtualization_mode.as_deref(), Some("Pass-Through"), "{file}");
        assert_eq!((gpu.fb_total_mib, gpu.bar1_total_mib), (Some(143_771), Some(262_144)), "{file}");
        assert_eq!(
            (gpu.ecc_current, gpu.mig_current, gpu.mig_pending),
            (Some(true), Some(false), Some(false)),
            "{file}"
        );
        let seen = (gpu.fb_used_mib, gpu.gpu_util_percent, gpu.temperature_c);
        assert_eq!(seen, (Some(used), Some(busy), Some(heat)), "{file}");
        assert_eq!((gpu.slowdowns.as_slice(), gpu.license_status.as_deref()), (&[][..], None), "{file}");
        let errors = gpu.ecc_errors.unwrap();
        assert_eq!((errors.corrected, errors.uncorrected, errors.uncorrected_ever), (0, 0, 0), "{file}");
        assert!(gpu.remapped_rows.is_some_and(|rows| !rows.pending && !rows.failed), "{file}");
    }
    let report = cuda_report::read(&text("cuda-proof.json")).unwrap();
    assert!(report.passed() && report.devices[0].name == "NVIDIA H200" && report.devices[0].ecc);
}

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The guest agent as it is, on this machine as it is: only the host of this VM is simulated.
fn agent(lab: &Lab, port: u16, metrics: u16) -> Agent {
    vsgpu_wire::pki::issue_node(
        &lab.folder.join("pki"),
        "gpu-vm",
        "guest",
        365,
        std::time::SystemTime::now(),
    )
    .unwrap();
    let ready = lab.folder.join("agent.ready");
    let log = std::fs::File::create(lab.folder.join("agent.log")).unwrap();
    let mut command = Command::new(programs().join("vsgpu-guest-agent"));
    command.arg("serve").arg("--pki").arg(lab.folder.join("pki/gpu-vm.guest"));
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--metrics", &format!("127.0.0.1:{metrics}")]);
    command.arg("--tools").arg(programs()).arg("--ready-file").arg(&ready).args(["--observe-every", "5"]);
    let log = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let agent = Agent(log.spawn().unwrap());
    wait_until("the agent listens", Duration::from_secs(60), || ready.exists());
    agent
}

fn the_agent_reads_this_machine_and_an_apply_proves_its_gpu() {
    let lab = Lab::new("real-gpu");
    lab.host("esx-01", "8.0.2", vec![vsgpu_tests::lab::files::a100("0000:3b:00.0")]);
    lab.vm_without_guest("gpu-vm", "esx-01");
    lab.start();
    let (port, metrics) = (free_port(), free_port());
    let _agent = agent(&lab, port, metrics);
    lab.write_fleet(&format!(
        "version: 1\npki: pki\nhosts:\n  esx-01: {{ address: \"{}\" }}\nvms:\n  gpu-vm:\n    host: esx-01\n    guest:\n      address: 127.0.0.1:{port}\n      cuda-proof: {{ elements: [50000, 100000000] }}\n",
        lab.address("esx-01")
    ));
    // A proof of an earlier run of this suite would be one already.
    let _ = std::fs::remove_file("/var/lib/vsgpu/cuda-proof.json");
    let facts = lab.expect(0, &["facts", "fleet.yaml", "-n", "gpu-vm"]);
    println!("{facts}");
    let smi = asked("name,driver_version");
    assert!(facts.contains(&smi[1]), "{facts}");
    let json: Value =
        serde_json::from_str(&lab.expect(0, &["facts", "fleet.yaml", "-n", "gpu-vm", "-o", "json"])).unwrap();
    println!("{json:#}");
    println!("{}", lab.expect(3, &["plan", "fleet.yaml"]));
    let said = lab.expect(0, &["apply", "--yes", "fleet.yaml"]);
    println!("{said}");
    let again = lab.expect(0, &["plan", "fleet.yaml"]);
    println!("{again}");
    println!("{}", lab.expect(0, &["verify", "fleet.yaml", "-o", "wide"]));
    println!("{}", lab.expect(0, &["baseline", "fleet.yaml"]));
    let address = format!("127.0.0.1:{metrics}");
    let mut page = String::new();
    wait_until("metrics name the GPU", Duration::from_secs(30), || {
        page = vsgpu_tests::http::get(&address, "/metrics", None).map(|(_, body)| body).unwrap_or_default();
        page.contains(&smi[0])
    });
    let of_gpus: Vec<&str> =
        page.lines().filter(|line| line.contains("gpu") && !line.starts_with('#')).collect();
    println!("{}", of_gpus.join("\n"));
}

/// The driver of this machine, as an engine's server gets it.
fn real_driver(_: &Path) -> Env {
    vec![("LD_LIBRARY_PATH", std::env::var("LD_LIBRARY_PATH").unwrap_or_default())]
}

/// The report among what a program and those around it said.
fn report(said: &str) -> CudaReport {
    let report =
        said.find('{').map(|at| &said[at..]).and_then(|text| text.rfind('}').map(|end| &text[..=end]));
    let report = cuda_report::read(report.unwrap_or_default()).unwrap_or_else(|why| panic!("{why}: {said}"));
    assert!(report.passed(), "{said}");
    report
}

/// The best figures of five proofs: one by itself tells as much of what else the machine did.
fn best(mut proof: impl FnMut() -> String) -> DeviceProof {
    let all: Vec<DeviceProof> = (0..5).map(|_| report(&proof()).devices.remove(0)).collect();
    let of = |figure: fn(&DeviceProof) -> Option<f64>, better: fn(f64, f64) -> f64| {
        all.iter().filter_map(figure).reduce(better)
    };
    DeviceProof {
        launch_us: of(|d| d.launch_us, f64::min),
        queued_launch_us: of(|d| d.queued_launch_us, f64::min),
        host_to_device_gb_s: of(|d| d.host_to_device_gb_s, f64::max),
        device_to_host_gb_s: of(|d| d.device_to_host_gb_s, f64::max),
        device_gb_s: of(|d| d.device_gb_s, f64::max),
        ..all[0].clone()
    }
}

/// Five proofs on the GPU itself, through the engine alone, and through gateway and daemon, all on this machine: what
/// each layer costs. The engine and the GPU are real; the GPU server's inventory and systemd are simulated.
fn our_proof_runs_through_gateway_and_daemon_on_the_gpu() {
    let numbers = ["50000", "100000000"];
    let elements = ["--elements", numbers[0], "--elements", numbers[1]];
    let mut straight = Command::new(programs().join("vsgpu-cuda-proof"));
    straight.args(elements);
    let mut rows = vec![("GPU", best(|| run(&mut straight)))];

    let folder = std::env::temp_dir().join(format!("vsgpu-real-gpu-{}", std::process::id()));
    unpacked(&bundles()[0], &folder.join("server"));
    unpacked(&bundles()[1], &folder.join("client"));
    let port = free_port();
    let server = Server::start(&folder.join("server"), port, real_driver(&folder));
    wait_until("it listens", Duration::from_secs(30), || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    let mut alone = proof(&folder.join("client"), &format!("127.0.0.1:{port}"), &numbers);
    rows.push(("engine", best(|| run(&mut alone))));
    drop(server);

    let pool = pool("real-gpu-pool", 1, real_driver);
    let program = programs().join("vsgpu-cuda-proof").display().to_string();
    let words = [&["run", "--", &program][..], &elements].concat();
    let through = || {
        let (status, said) = pool.command("ml-1", &words).end();
        assert_eq!(status, Some(0), "{said}{}", pool.logs());
        pool.all_free(1);
        said
    };
    rows.push(("gateway", best(through)));
    // The board itself each time, not a simulated driver that lies about.
    let board = &asked("name")[0];
    for (through, device) in &rows {
        assert_eq!(&device.name, board, "{through}");
    }
    std::fs::remove_dir_all(folder).unwrap();

    println!(
        "{:<9}{:>14}{:>14}{:>14}{:>14}{:>14}",
        "through", "call us", "launch us", "to GPU GB/s", "back GB/s", "memory GB/s"
    );
    for (through, device) in &rows {
        let figure = |figure: Option<f64>| figure.map_or("-".into(), |figure| format!("{figure:.1}"));
        println!(
            "{through:<9}{:>14}{:>14}{:>14}{:>14}{:>14}",
            figure(device.launch_us),
            figure(device.queued_launch_us),
            figure(device.host_to_device_gb_s),
            figure(device.device_to_host_gb_s),
            figure(device.device_gb_s)
        );
    }
    judge_the_way(&rows[1].1, &rows[2].1);
}

/// A program that NVIDIA's compiler built, with CUDA's runtime in it.
fn a_program_of_cudas_runtime_runs_through_gateway_and_daemon() {
    let nvcc = nvcc().unwrap();
    let pool = pool("real-gpu-runtime", 1, real_driver);
    let program = pool.lab.folder.join("vector_add");
    let source = workspace().join("tests/data/cuda/vectorAdd.cu");
    run(Command::new(nvcc).args(["-arch=native", "-cudart", "static", "-o"]).arg(&program).arg(source));
    let (status, said) = pool.command("ml-1", &["run", "--", &program.display().to_string()]).end();
    assert!(status == Some(0) && said.contains("Test PASSED"), "{status:?} {said}{}", pool.logs());
    println!("through Lupine, on the GPU: a program of CUDA's runtime: Test PASSED");
    pool.all_free(1);
}

/// What people run: a framework's matrix product and a training step, against the same on the CPU.
const OF_TORCH: &str = r#"
import time, torch
torch.manual_seed(1)
a = torch.randn(512, 512); b = torch.randn(512, 512)
d = torch.device("cuda")
t = time.time(); c = (a.to(d) @ b.to(d)).cpu(); first = time.time() - t
assert torch.allclose(c, a @ b, atol=1e-3), (c - a @ b).abs().max()
m = torch.nn.Linear(256, 1).to(d); o = torch.optim.SGD(m.parameters(), lr=0.01)
x = torch.randn(64, 256, device=d); y = x[:, :1] * 2
losses = []
t = time.time()
for _ in range(50):
    o.zero_grad(); l = ((m(x) - y) ** 2).mean(); l.backward(); o.step(); losses.append(l.item())
print(f"torch {torch.__version__} on {torch.cuda.get_device_name(0)}: first product {first:.2f} s, 50 training steps {time.time() - t:.2f} s, loss {losses[0]:.3f} -> {losses[-1]:.3f}")
assert losses[-1] < losses[0]
"#;

fn pytorch_runs_through_gateway_and_daemon() {
    let python = torch().unwrap().display().to_string();
    println!("straight: {}", run(Command::new(&python).args(["-c", OF_TORCH])).trim());
    let pool = pool("real-gpu-torch", 1, real_driver);
    let (status, said) = pool.command("ml-1", &["run", "--", &python, "-c", OF_TORCH]).end();
    println!("through Lupine: {}", said.trim());
    assert_eq!(status, Some(0), "{said}{}", pool.logs());
    pool.all_free(1);
}

fn main() -> std::process::ExitCode {
    vsgpu_tests::harness::main(&[("", TESTS)])
}

const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    the_proof_checks_every_sum_and_measures_the_gpu[Gpu],
    one_answer_of_nvidia_smi_is_read_as_its_other_form_says[Gpu],
    what_an_h200_said_is_read_right,
    the_agent_reads_this_machine_and_an_apply_proves_its_gpu[Gpu],
    our_proof_runs_through_gateway_and_daemon_on_the_gpu[Gpu, Bundles],
    a_program_of_cudas_runtime_runs_through_gateway_and_daemon[Gpu, Bundles, Nvcc],
    pytorch_runs_through_gateway_and_daemon[Gpu, Bundles, Torch]
];
