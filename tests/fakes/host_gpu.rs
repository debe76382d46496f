//! Simulated nvidia-smi, vmkload_mod and daemons of a host.

use super::Answer;
use super::state::{Gpu, Machine};
use super::vgpu_placement::{Placed, Placement};
use std::path::Path;

pub const NO_DRIVER: &str = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.\n\n";

pub fn vmkload_mod(folder: &Path, words: &[&str]) -> Answer {
    if words != ["-l"] {
        return Answer::fail(1, "vmkload_mod: simulated: only -l\n");
    }
    let mut text =
        " Name                    Used Size (kb)\n vmkernel                  51    14544\n vmfs3                      2      764\n"
            .to_string();
    if Machine::read(folder).esxi().loaded.is_some() {
        text += " nvidia                    51    35792\n";
    }
    Answer::ok(text)
}

/// Xorg and the host engine: their start makes the configured graphics type active, if no VM holds a GPU.
pub fn daemon(folder: &Path, program: &str, words: &[&str]) -> Answer {
    let starts = matches!((program, words), ("xorg", ["start" | "restart"]) | ("nv-hostengine", ["-d"]));
    if starts {
        Machine::with(folder, |m| {
            let host = m.esxi();
            if host.loaded.is_some() && !host.vms.iter().any(|v| v.on) {
                super::state::graphics_restart(host);
            }
        });
    }
    Answer::ok(match (program, words) {
        ("xorg", ["start" | "restart"]) => {
            "Getting Exclusive access, please wait...\nExclusive access granted.\n"
        }
        ("nv-hostengine", ["-t"]) => "Host engine successfully terminated.\n",
        ("nv-hostengine", ["-d"]) => "Started host engine version (simulated)\n",
        _ => "",
    })
}

pub fn nvidia_smi(folder: &Path, words: &[&str]) -> Answer {
    let mut machine = Machine::read(folder);
    let host = machine.esxi().clone();
    let Some(driver) = host.loaded.clone() else { return Answer::fail(9, NO_DRIVER) };
    // A GPU in passthrough is none of the host driver's.
    let held: Vec<Gpu> = host.gpus.iter().filter(|g| !g.given).cloned().collect();
    if held.is_empty() {
        return Answer::fail(6, "No devices were found\n");
    }
    match words {
        ["-q", "-x"] => Answer::ok(xml(
            &driver,
            &held.iter().map(|g| gpu_xml(g, &g.graphics_type, None)).collect::<String>(),
            held.len(),
        )),
        ["vgpu", "-q"] => {
            let placement = Placement::running(&mut machine, None);
            let mut id = 3_251_634_190u64;
            let mut text = String::new();
            for (gpu, of_gpu) in host.gpus.iter().zip(&placement.on).filter(|(g, _)| !g.given) {
                text += &format!(
                    "GPU 0000{}\n    Active vGPUs                          : {}\n",
                    gpu.bdf.to_uppercase(),
                    of_gpu.len()
                );
                for vgpu in of_gpu {
                    id += 1;
                    // What the guest tells its host through the vGPU.
                    let guest = folder.with_file_name(&vgpu.vm);
                    let guest =
                        guest.join("state.json").exists().then(|| Machine::read(&guest).linux).flatten();
                    let driver = guest.as_ref().and_then(|g| g.loaded.clone()).unwrap_or("N/A".into());
                    let license = match guest.filter(|g| g.loaded.is_some()) {
                        Some(guest) if guest.licensed => "Licensed (Expiry: 2027-1-2 3:4:5 GMT)",
                        Some(_) => "Unlicensed (Unrestricted)",
                        None => "N/A (Expiry: N/A)",
                    };
                    text += &format!(
                        "    vGPU ID                               : {id}\n        VM Name                           : {}\n        vGPU Name                         : {}\n        Guest Driver Version              : {driver}\n        License Status                    : {license}\n        FB Memory Usage\n            Total                         : {size} MiB\n            Used                          : 512 MiB\n            Free                          : {} MiB\n        Utilization\n            Gpu                           : 7 %\n            Memory                        : 0 %\n",
                        vgpu.vm,
                        super::cuda::type_name(&vgpu.profile),
                        vgpu.size_mib - 512,
                        size = vgpu.size_mib,
                    );
                }
            }
            Answer::ok(text)
        }
        ["vgpu", what @ ("-s" | "-c"), "-v"] => {
            let placement = Placement::running(&mut machine, None);
            let driven = host.gpus.iter().zip(&placement.on).filter(|(g, _)| !g.given);
            Answer::ok(driven.map(|(gpu, there)| types(gpu, there, *what == "-c")).collect::<String>())
        }
        ["-i", index, "-mig", value @ ("0" | "1")] => {
            let on = *value == "1";
            let in_use = host.vms.iter().any(|v| v.on);
            let changed = Machine::with(folder, |m| {
                let gpu = index
                    .parse::<usize>()
                    .ok()
                    .and_then(|i| m.esxi().gpus.iter_mut().filter(|g| !g.given).nth(i))?;
                if !gpu.mig_capable {
                    return None;
                }
                gpu.mig_pending = on;
                let at_once = gpu.architecture.as_deref() != Some("Ampere") && !in_use;
                if at_once {
                    gpu.mig = on;
                }
                Some((gpu.bdf.to_uppercase(), at_once))
            });
            match changed {
                Some((bdf, true)) => Answer::ok(format!(
                    "{} MIG Mode for GPU 0000{bdf}\nAll done.\n",
                    if on { "Enabled" } else { "Disabled" }
                )),
                Some((bdf, false)) => Answer::ok(format!(
                    "Warning: MIG mode is in pending {} state for GPU 0000{bdf}:Not Supported\nReboot the system or try nvidia-smi --gpu-reset to make MIG mode effective on GPU 0000{bdf}\nAll done.\n",
                    if on { "enable" } else { "disable" }
                )),
                None => Answer::fail(3, "Not Supported for this GPU\n"),
            }
        }
        ["-i", index, "-e", value @ ("0" | "1")] => {
            let changed = Machine::with(folder, |m| {
                let gpu = index
                    .parse::<usize>()
                    .ok()
                    .and_then(|i| m.esxi().gpus.iter_mut().filter(|g| !g.given).nth(i))?;
                gpu.ecc?;
                gpu.ecc_pending = Some(*value == "1");
                Some(gpu.bdf.clone())
            });
            match changed {
                Some(bdf) => Answer::ok(format!(
                    "{} ECC support for GPU 0000{}.\nAll done.\nReboot required.\n",
                    if *value == "1" { "Enabled" } else { "Disabled" },
                    bdf.to_uppercase()
                )),
                None => Answer::fail(3, "Setting ECC mode is not supported for this GPU.\n"),
            }
        }
        _ => Answer::fail(
            2,
            format!(
                "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n(simulated: {})\n",
                words.join(" ")
            ),
        ),
    }
}

/// vGPU types of a GPU, all or those that still fit, as `nvidia-smi vgpu -s -v` and `-c -v` list them.
fn types(gpu: &Gpu, there: &[Placed], creatable: bool) -> String {
    let mut text = format!("GPU 0000{}\n", gpu.bdf.to_uppercase());
    let used: u64 = there.iter().map(|p| p.size_mib).sum();
    for (n, t) in
        vsgpu_core::knowledge::vgpu_types::of_token(&gpu.token).filter(|t| t.mig == gpu.mig).enumerate()
    {
        let fits = used + t.size_mib <= gpu.memory_mib
            && (gpu.mixed || there.iter().all(|p| p.size_mib == t.size_mib));
        if !creatable || fits {
            text += &format!(
                "    vGPU Type ID                          : 0x{:x}\n        Name                              : {}\n        Class                             : Compute\n        Max Instances                     : {}\n        FB Memory                         : {} MiB\n",
                0x200 + n,
                t.name,
                t.max.unwrap_or(1),
                t.size_mib
            );
        }
    }
    text
}

/// The document around GPUs, in the shape of the driver's age.
pub fn xml(driver: &str, gpus: &str, count: usize) -> String {
    let branch: u32 = driver.split('.').next().and_then(|b| b.parse().ok()).unwrap_or(0);
    let (dtd, cuda) = match branch {
        ..=399 => ("v9", String::new()),
        400..=524 => ("v11", "\t<cuda_version>11.4</cuda_version>\n".to_string()),
        _ => ("v12", "\t<cuda_version>12.2</cuda_version>\n".to_string()),
    };
    format!(
        "<?xml version=\"1.0\" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM \"nvsmi_device_{dtd}.dtd\">\n<nvidia_smi_log>\n\t<timestamp>simulated</timestamp>\n\t<driver_version>{driver}</driver_version>\n{cuda}\t<attached_gpus>{count}</attached_gpus>\n{gpus}</nvidia_smi_log>\n"
    )
}

/// One GPU; `license` is for guests.
pub fn gpu_xml(gpu: &Gpu, graphics_type: &str, license: Option<(&str, &str)>) -> String {
    let mode = match (license, graphics_type) {
        (Some(_), _) => "VGPU",
        (None, "Pass-Through") => "Pass-Through",
        (None, "SharedPassthru") => "Host VGPU",
        (None, _) => "Host VSGA",
    };
    let word = |on: Option<bool>| on.map_or("N/A", |on| if on { "Enabled" } else { "Disabled" });
    let on_off = |on: bool| if on { "Enabled" } else { "Disabled" };
    let (mig, mig_pending) =
        if gpu.mig_capable { (on_off(gpu.mig), on_off(gpu.mig_pending)) } else { ("N/A", "N/A") };
    let mixed = if mode.starts_with("Host") { on_off(gpu.mixed) } else { "N/A" };
    let licensed = license.map(|(product, status)| {
        format!("\t\t<vgpu_software_licensed_product>\n\t\t\t<licensed_product_name>{product}</licensed_product_name>\n\t\t\t<license_status>{status}</license_status>\n\t\t</vgpu_software_licensed_product>\n")
    });
    let process = |pid: &u32| {
        format!(
            "\t\t\t<process_info>\n\t\t\t\t<pid>{pid}</pid>\n\t\t\t\t<type>C</type>\n\t\t\t\t<process_name>simulated engine</process_name>\n\t\t\t</process_info>\n"
        )
    };
    let processes: String = gpu.processes.iter().map(process).collect();
    let architecture = gpu
        .architecture
        .as_ref()
        .map(|a| format!("\t\t<product_architecture>{a}</product_architecture>\n"))
        .unwrap_or_default();
    format!(
        "\t<gpu id=\"0000{}\">\n\t\t<product_name>{}</product_name>\n{architecture}\t\t<uuid>GPU-simulated-{}</uuid>\n\t\t<mig_mode>\n\t\t\t<current_mig>{mig}</current_mig>\n\t\t\t<pending_mig>{mig_pending}</pending_mig>\n\t\t</mig_mode>\n\t\t<gpu_virtualization_mode>\n\t\t\t<virtualization_mode>{mode}</virtualization_mode>\n\t\t\t<vgpu_heterogeneous_mode>{mixed}</vgpu_heterogeneous_mode>\n\t\t</gpu_virtualization_mode>\n{}\t\t<ecc_mode>\n\t\t\t<current_ecc>{}</current_ecc>\n\t\t\t<pending_ecc>{}</pending_ecc>\n\t\t</ecc_mode>\n\t\t<fb_memory_usage>\n\t\t\t<total>{} MiB</total>\n\t\t\t<used>0 MiB</used>\n\t\t</fb_memory_usage>\n\t\t<bar1_memory_usage>\n\t\t\t<total>{} MiB</total>\n\t\t</bar1_memory_usage>\n\t\t<utilization>\n\t\t\t<gpu_util>{} %</gpu_util>\n\t\t</utilization>\n\t\t<temperature>\n\t\t\t<gpu_temp>34 C</gpu_temp>\n\t\t</temperature>\n\t\t<power_readings>\n\t\t\t<power_draw>31.70 W</power_draw>\n\t\t</power_readings>\n\t\t<processes>\n{processes}\t\t</processes>\n\t</gpu>\n",
        gpu.bdf.to_uppercase(),
        gpu.name,
        gpu.bdf,
        licensed.unwrap_or_default(),
        word(gpu.ecc),
        word(gpu.ecc_pending),
        gpu.memory_mib,
        gpu.bar1_mib,
        if gpu.busy { 97 } else { 0 }
    )
}
