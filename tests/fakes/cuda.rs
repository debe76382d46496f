//! Simulated nvidia-smi, deviceQuery and vectorAdd of a guest: they see a GPU only where the host really
//! gives one and host and guest driver fit each other.

use super::Answer;
use super::host_gpu::{NO_DRIVER, gpu_xml, xml};
use super::state::{Gpu, Machine};
use std::path::Path;

/// One GPU that this guest's VM has, by its host.
pub struct Given {
    pub name: String,
    pub device_id: String,
    pub subsystem_id: String,
    pub memory_mib: u64,
    pub bar1_mib: u64,
    pub architecture: Option<String>,
    /// Driver of the host, for a vGPU; a GPU passed through has none.
    pub host_driver: Option<String>,
}

impl Given {
    /// A vGPU takes only the `-grid` driver of a fitting release; a whole GPU takes any driver.
    pub fn driven_by(&self, driver: &str, grid: bool) -> bool {
        match &self.host_driver {
            Some(host) => grid && fits(host, driver),
            None => self.bar1_mib > 0,
        }
    }
}

/// `grid_p100-8q` is the type `GRID P100-8Q`; it says that it is none.
pub fn type_name(profile: &str) -> String {
    let (family, rest) = profile.split_once('_').unwrap_or(("nvidia", profile));
    format!("{} {} (simulated)", family.to_uppercase(), rest.to_uppercase())
}

/// GPUs of this guest, and whether EFI booted it.
pub fn given(m: &mut Machine) -> (Vec<Given>, bool) {
    let guest = m.linux().clone();
    let host_folder = m.folder.with_file_name(&guest.host);
    if !host_folder.join("state.json").exists() {
        return (vec![], true);
    }
    let mut host = Machine::read(&host_folder);
    let Some(vm) = host.esxi().vms.iter().find(|v| v.name == guest.vm_name && v.on).cloned() else {
        return (vec![], true);
    };
    let text = host.text(&format!("/vmfs/volumes/{}/{}", vm.datastore, vm.file)).unwrap_or_default();
    let keys = vsgpu_core::readers::vmx::read(text.as_bytes());
    let efi = keys.get("firmware").is_some_and(|f| f == "efi");
    let esxi = host.esxi().clone();
    let mut gpus = vec![];
    for profile in super::vim_cmd::profiles(&keys) {
        let Some((token, memory_mib)) = super::vim_cmd::parts(&profile) else { continue };
        let Some((gpu, driver)) = esxi.gpus.iter().find(|g| g.token == token).zip(esxi.loaded.clone()) else {
            continue;
        };
        gpus.push(Given {
            name: type_name(&profile),
            device_id: gpu.device_id.clone(),
            subsystem_id: "0x1396".into(),
            memory_mib,
            bar1_mib: 256,
            architecture: gpu.architecture.clone(),
            host_driver: Some(driver),
        });
    }
    for gpu in super::passthrough::of_vm(&esxi, &keys) {
        // Firmware that finds no room leaves the BAR empty: BIOS for every large one.
        let room = efi || gpu.bar1_mib <= 256;
        gpus.push(Given {
            name: format!("{} (simulated)", gpu.name),
            device_id: gpu.device_id.clone(),
            subsystem_id: gpu.subsystem_id.clone(),
            memory_mib: gpu.memory_mib,
            bar1_mib: if room { gpu.bar1_mib } else { 0 },
            architecture: gpu.architecture.clone(),
            host_driver: None,
        });
    }
    (gpus, efi)
}

/// A guest is never newer than its host, and at most one branch behind (facts: nvidia 2).
fn fits(host: &str, guest: &str) -> bool {
    let branches = [367, 384, 390, 410, 418, 430, 440, 450, 460, 470, 510, 525, 535, 550, 570, 580, 595];
    let at = |v: &str| {
        v.split('.')
            .next()
            .and_then(|b| b.parse::<u32>().ok())
            .and_then(|b| branches.iter().position(|x| *x == b))
    };
    matches!((at(host), at(guest)), (Some(h), Some(g)) if h == g || h == g + 1)
}

/// GPUs as the guest's driver sees them, or what nvidia-smi says instead.
fn driven(m: &mut Machine) -> Result<(String, Vec<Given>), Answer> {
    let Some(driver) = m.linux().loaded.clone() else { return Err(Answer::fail(9, NO_DRIVER)) };
    let grid = m.linux().grid;
    let gpus: Vec<Given> = given(m).0.into_iter().filter(|gpu| gpu.driven_by(&driver, grid)).collect();
    if gpus.is_empty() { Err(Answer::fail(6, "No devices were found\n")) } else { Ok((driver, gpus)) }
}

pub fn nvidia_smi(folder: &Path, words: &[&str]) -> Answer {
    let mut m = Machine::read(folder);
    let (driver, gpus) = match driven(&mut m) {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    if words != ["-q", "-x"] {
        return Answer::fail(
            2,
            "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n",
        );
    }
    let branch: u32 = driver.split('.').next().and_then(|b| b.parse().ok()).unwrap_or(0);
    let status = match (m.linux().licensed, branch) {
        (true, ..=469) => "Licensed",
        (true, _) => "Licensed (Expiry: 2027-1-2 3:4:5 GMT)",
        (false, ..=469) => "Unlicensed",
        (false, _) => "Unlicensed (Unrestricted)",
    };
    let one = |(n, gpu): (usize, &Given)| {
        let engine = format!("vsgpu-engine@{n}.service");
        let shown = Gpu {
            processes: super::units::processes(folder, &engine),
            busy: super::units::is_busy(folder, n),
            bdf: format!("0000:02:0{}.0", n + 1),
            name: gpu.name.clone(),
            memory_mib: gpu.memory_mib,
            bar1_mib: gpu.bar1_mib,
            architecture: gpu.architecture.clone(),
            ..Gpu::default()
        };
        match gpu.host_driver {
            Some(_) => gpu_xml(&shown, "VGPU", Some(("NVIDIA Virtual Compute Server", status))),
            None => gpu_xml(&shown, "Pass-Through", None),
        }
    };
    Answer::ok(xml(&driver, &gpus.iter().enumerate().map(one).collect::<String>(), gpus.len()))
}

pub fn device_query(folder: &Path) -> Answer {
    let mut m = Machine::read(folder);
    let head = "deviceQuery Starting... (simulated)\n\n CUDA Device Query (Runtime API) version (CUDART static linking)\n\n";
    match driven(&mut m) {
        Ok((driver, gpus)) => {
            let cuda = if driver.starts_with("390") { "9.1" } else { "12.2" };
            let device = |(n, gpu): (usize, &Given)| {
                format!(
                    "Device {n}: \"{}\"\n  CUDA Driver Version / Runtime Version          {cuda} / {cuda}\n  Total amount of global memory:                 {} MBytes\n\n",
                    gpu.name, gpu.memory_mib
                )
            };
            let devices: String = gpus.iter().enumerate().map(device).collect();
            let n = gpus.len();
            Answer::ok(format!(
                "{head}Detected {n} CUDA Capable device(s)\n\n{devices}deviceQuery, CUDA Driver = CUDART, CUDA Driver Version = {cuda}, CUDA Runtime Version = {cuda}, NumDevs = {n}\nResult = PASS\n"
            ))
        }
        Err(_) => Answer::fail(
            1,
            format!(
                "{head}cudaGetDeviceCount returned 100\n-> no CUDA-capable device is detected\nResult = FAIL\n"
            ),
        ),
    }
}

pub fn vector_add(folder: &Path) -> Answer {
    let head = "[Vector addition of 50000 elements]\n";
    match driven(&mut Machine::read(folder)) {
        Ok(_) => Answer::ok(format!(
            "{head}Copy input data from the host memory to the CUDA device\nCUDA kernel launch with 196 blocks of 256 threads\nCopy output data from the CUDA device to the host memory\nTest PASSED\nDone\n"
        )),
        Err(_) => Answer {
            status: 1,
            stdout: head.into(),
            stderr: "Failed to allocate device vector A (error code no CUDA-capable device is detected)!\n"
                .into(),
        },
    }
}

/// The GPU that the stand-in engine names, when bytes go there and come back.
fn over_the_network(server: &str) -> Option<String> {
    use std::io::{BufRead as _, Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(server).ok()?;
    let mut reader = std::io::BufReader::new(stream.try_clone().ok()?);
    let mut hello = String::new();
    reader.read_line(&mut hello).ok()?;
    stream.write_all(b"eping").ok()?;
    let mut back = [0; 4];
    reader.read_exact(&mut back).ok()?;
    (back == *b"ping").then(|| format!("{} (simulated)", hello.trim().rsplit(' ').next().unwrap_or_default()))
}

/// It takes numbers of elements, and nothing else.
pub fn wrong_arguments(words: &[&str]) -> Option<Answer> {
    let right = words.chunks(2).all(|pair| matches!(pair, ["--elements", n] if n.parse::<u64>().is_ok()));
    (!right).then(|| {
        Answer::err(2, format!("error: unexpected argument found: {} (simulated)\n", words.join(" ")))
    })
}

/// What `vsgpu-cuda-proof` finds on one GPU that another machine lends.
pub fn proof_on(name: &str, memory_mib: u64) -> Answer {
    use vsgpu_core::readers::cuda_report::{CudaReport, DeviceProof, VERSION, VectorAdd};
    let add = VectorAdd { elements: 50_000, checked: 50_000, kernel_ms: 1.0, ..VectorAdd::default() };
    let device =
        DeviceProof { name: name.into(), memory_mib, vector_adds: vec![add], ..DeviceProof::default() };
    let report = CudaReport { version: VERSION, devices: vec![device], ..CudaReport::default() };
    Answer::ok(serde_json::to_string(&report).unwrap() + "\n")
}

/// What `vsgpu-cuda-proof` finds on these GPUs. The program itself is tested against a simulated driver
/// library instead.
pub fn proof(folder: &Path, words: &[&str]) -> Answer {
    if let Some(answer) = wrong_arguments(words) {
        return answer;
    }
    use vsgpu_core::readers::cuda_report::{CudaFailure, CudaReport, DeviceProof, VERSION, VectorAdd};
    let mut report = CudaReport { version: VERSION, ..CudaReport::default() };
    if let Some(server) = std::env::var("LUPINE_SERVER").ok().filter(|_| !Machine::in_memory(folder)) {
        match over_the_network(&server) {
            Some(gpu) => return proof_on(&gpu, 0),
            None => {
                report.failure = Some(CudaFailure {
                    stage: "init".into(),
                    code: Some(46),
                    name: "CUDA_ERROR_DEVICE_UNAVAILABLE".into(),
                    text: "the engine does not answer (simulated)".into(),
                })
            }
        }
        let line = serde_json::to_string(&report).unwrap() + "\n";
        return if report.passed() { Answer::ok(line) } else { Answer::fail(1, line) };
    }
    let mut machine = Machine::read(folder);
    let slow = machine.linux.as_ref().is_some_and(|l| l.slow_with.is_some() && l.slow_with == l.loaded);
    match driven(&mut machine) {
        Ok((_, gpus)) => {
            let add =
                |elements| VectorAdd { elements, checked: elements, kernel_ms: 1.0, ..VectorAdd::default() };
            let device = |(n, gpu): (usize, &Given)| DeviceProof {
                name: gpu.name.clone(),
                part: vsgpu_core::readers::cuda_report::Part::of(&gpu.name),
                pci: Some(format!("0000:02:0{}.0", n + 1)),
                compute_capability: "8.0".into(),
                memory_mib: gpu.memory_mib,
                vector_adds: vec![add(50_000), add(100_000_000)],
                device_gb_s: Some(if slow { 650.0 } else { 1300.0 }),
                host_to_device_gb_s: Some(24.0),
                device_to_host_gb_s: Some(25.0),
                launch_us: Some(5.0),
                ..DeviceProof::default()
            };
            report.devices = gpus.iter().enumerate().map(device).collect();
        }
        Err(_) => {
            let text = "no CUDA-capable device is detected (simulated)".into();
            report.failure = Some(CudaFailure {
                stage: "init".into(),
                code: Some(100),
                name: "CUDA_ERROR_NO_DEVICE".into(),
                text,
            });
        }
    }
    let line = serde_json::to_string(&report).unwrap() + "\n";
    if report.passed() { Answer::ok(line) } else { Answer::fail(1, line) }
}

/// A container engine that passes the GPUs in where its runtime is set up, and starts the one program that is
/// mounted.
pub fn docker(folder: &Path, words: &[&str]) -> Answer {
    let m = Machine::read(folder);
    match words {
        ["--version"] => Answer::ok("Docker version 28.2.2 (simulated)\n"),
        ["info", "--format", _] => {
            Answer::ok(m.text("/run/docker.runtimes").unwrap_or_else(|| "{\"runc\":{}}\n".into()))
        }
        ["run", rest @ ..] if rest.contains(&"--runtime=nvidia") => {
            if !m.text("/run/docker.runtimes").is_some_and(|t| t.contains("nvidia")) {
                return Answer::err(
                    125,
                    "docker: Error response from daemon: unknown or invalid runtime name: nvidia (simulated)\n",
                );
            }
            proof(folder, &[])
        }
        _ => Answer::err(125, "simulated docker: not understood\n"),
    }
}
