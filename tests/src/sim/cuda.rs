//! Simulated nvidia-smi, deviceQuery and vectorAdd of a guest: they see a GPU only where the host really gives one and
//! host and guest driver fit each other.

use super::Answer;
use super::host_gpu::{NO_DRIVER, gpu_xml, xml};
use super::state::{Gpu, Machine};
use std::path::Path;

/// The vGPU of this guest's VM, by its host.
pub struct Profile {
    pub name: String,
    pub device_id: String,
    pub memory_mib: u64,
    pub host_driver: String,
    pub architecture: Option<String>,
}

/// `grid_p100-8q` is the type `GRID P100-8Q`; it says that it is none.
pub fn type_name(profile: &str) -> String {
    let (family, rest) = profile.split_once('_').unwrap_or(("nvidia", profile));
    format!("{} {} (simulated)", family.to_uppercase(), rest.to_uppercase())
}

pub fn profile(m: &mut Machine) -> Option<Profile> {
    let guest = m.linux().clone();
    let mut host = Machine::read(&m.folder.with_file_name(&guest.host));
    let vm = host.esxi().vms.iter().find(|v| v.name == guest.vm_name && v.on).cloned()?;
    let text = host.text(&format!("/vmfs/volumes/{}/{}", vm.datastore, vm.file))?;
    let profile = super::vim_cmd::profiles(&vsgpu_core::vmx::read(text.as_bytes())).into_iter().next()?;
    let (token, memory_mib) = super::vim_cmd::parts(&profile)?;
    let gpu = host.esxi().gpus.iter().find(|g| g.token == token).cloned()?;
    let host_driver = host.esxi().loaded.clone()?;
    Some(Profile { name: type_name(&profile), device_id: gpu.device_id, memory_mib, host_driver, architecture: gpu.architecture })
}

/// A guest is never newer than its host, and at most one branch behind (facts: nvidia 2).
fn fits(host: &str, guest: &str) -> bool {
    let branches = [367, 384, 390, 410, 418, 430, 440, 450, 460, 470, 510, 525, 535, 550, 570, 580, 595];
    let at = |v: &str| v.split('.').next().and_then(|b| b.parse::<u32>().ok()).and_then(|b| branches.iter().position(|x| *x == b));
    matches!((at(host), at(guest)), (Some(h), Some(g)) if h == g || h == g + 1)
}

/// The GPU as the guest's driver sees it, or what nvidia-smi says instead.
fn gpu(m: &mut Machine) -> Result<(String, Profile), Answer> {
    let Some(driver) = m.linux().loaded.clone() else { return Err(Answer::fail(9, NO_DRIVER)) };
    let Some(profile) = profile(m) else { return Err(Answer::fail(6, "No devices were found\n")) };
    if fits(&profile.host_driver, &driver) { Ok((driver, profile)) } else { Err(Answer::fail(6, "No devices were found\n")) }
}

pub fn nvidia_smi(folder: &Path, words: &[&str]) -> Answer {
    let mut m = Machine::read(folder);
    let (driver, profile) = match gpu(&mut m) {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    if words != ["-q", "-x"] {
        return Answer::fail(2, "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n");
    }
    let branch: u32 = driver.split('.').next().and_then(|b| b.parse().ok()).unwrap_or(0);
    let status = match (m.linux().licensed, branch) {
        (true, ..=469) => "Licensed",
        (true, _) => "Licensed (Expiry: 2027-1-2 3:4:5 GMT)",
        (false, ..=469) => "Unlicensed",
        (false, _) => "Unlicensed (Unrestricted)",
    };
    let shown = Gpu {
        bdf: "0000:02:01.0".into(),
        name: profile.name,
        memory_mib: profile.memory_mib,
        bar1_mib: 256,
        architecture: profile.architecture,
        ..Gpu::default()
    };
    Answer::ok(xml(&driver, &gpu_xml(&shown, "", Some(("NVIDIA Virtual Compute Server", status))), 1))
}

pub fn device_query(folder: &Path) -> Answer {
    let mut m = Machine::read(folder);
    let head = "deviceQuery Starting... (simulated)\n\n CUDA Device Query (Runtime API) version (CUDART static linking)\n\n";
    match gpu(&mut m) {
        Ok((driver, profile)) => {
            let cuda = if driver.starts_with("390") { "9.1" } else { "12.2" };
            Answer::ok(format!(
                "{head}Detected 1 CUDA Capable device(s)\n\nDevice 0: \"{}\"\n  CUDA Driver Version / Runtime Version          {cuda} / {cuda}\n  Total amount of global memory:                 {} MBytes\n\ndeviceQuery, CUDA Driver = CUDART, CUDA Driver Version = {cuda}, CUDA Runtime Version = {cuda}, NumDevs = 1\nResult = PASS\n",
                profile.name, profile.memory_mib
            ))
        }
        Err(_) => Answer::fail(1, format!("{head}cudaGetDeviceCount returned 100\n-> no CUDA-capable device is detected\nResult = FAIL\n")),
    }
}

pub fn vector_add(folder: &Path) -> Answer {
    let head = "[Vector addition of 50000 elements]\n";
    match gpu(&mut Machine::read(folder)) {
        Ok(_) => Answer::ok(format!(
            "{head}Copy input data from the host memory to the CUDA device\nCUDA kernel launch with 196 blocks of 256 threads\nCopy output data from the CUDA device to the host memory\nTest PASSED\nDone\n"
        )),
        Err(_) => Answer {
            status: 1,
            stdout: head.into(),
            stderr: "Failed to allocate device vector A (error code no CUDA-capable device is detected)!\n".into(),
        },
    }
}
