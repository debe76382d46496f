//! A fleet file to begin with, which `vsgpu validate --no-files` accepts. Drivers and packages are the operator's own
//! files: where they go stands in a remark.

use super::kind::Kind;
use super::question::{Guest, Need, Question, Workload};
use vsgpu_core::knowledge::gpus::Model;
use vsgpu_core::knowledge::vgpu_types::VgpuType;

/// As people and selectors name a board: `Tesla V100 PCIe 32GB` is a V100.
fn short(model: &Model) -> String {
    let stop = |word: &&str| {
        word.ends_with("GB")
            || ["PCIe", "FHHL", "NVL", "Server", "passive", "(active)", "Blackwell"].contains(word)
            || word.starts_with("SXM")
    };
    let words: Vec<&str> = model.name.split(' ').filter(|w| !["Tesla", "Quadro"].contains(w)).collect();
    let end = words.iter().position(stop).unwrap_or(words.len()).max(1);
    words[..end].join(" ")
}

pub(super) fn of(q: &Question, way: Kind, profile: Option<&VgpuType>) -> String {
    // What is in no table is named as it was typed.
    let typed = q.gpu.as_deref().map(|name| format!("{name:?}"));
    let gpu = q.model().map(short).or(typed).unwrap_or_else(|| "A100".into());
    let vms = if q.users > 1 { format!("gpu-vm-[1-{}]", q.users.min(999)) } else { "gpu-vm".into() };
    let count = q.gpus_per_vm().min(16);
    let guest = guest(q, count, if way == Kind::Passthrough { "" } else { "-grid" });
    let list = |one: &str| vec![one; count as usize].join(", ");
    match way {
        Kind::Passthrough => {
            // HA starts it on another host only where no address is named.
            let one = match q.model().filter(|_| q.needs(Need::Ha)) {
                Some(model) => format!("{{ dynamic: \"10de:{}\" }}", model.device_id),
                None => gpu.clone(),
            };
            format!(
                "version: 1\nhosts:\n  esx-01:\n    passthrough: [{gpu}]\nvms:\n  {vms}:\n    host: esx-01\n    firmware: efi\n    passthrough: [{}]\n{guest}",
                list(&one)
            )
        }
        Kind::VgpuTimeSliced | Kind::VgpuMig => {
            let mig = if way == Kind::VgpuMig { "    mig: on\n" } else { "" };
            let steady = match (way, q.workload) {
                (Kind::VgpuTimeSliced, Workload::Inference) if q.users > 1 => {
                    "    vgpu-scheduler: equal-share\n"
                }
                _ => "",
            };
            let name = profile.map_or("nvidia_l40s-12c", |p| p.profile);
            format!(
                "version: 1\nhosts:\n  esx-01:\n    # vgpu-manager: {{ package: files/NVD-VGPU-..zip, datastore: datastore1 }}\n    graphics-type: SharedPassthru\n{mig}{steady}vms:\n  {vms}:\n    host: esx-01\n    vgpu: [{}]\n{guest}",
                list(name)
            )
        }
        Kind::Network => network(q, profile, &gpu, &vms),
    }
}

/// Wishes of the guest; Windows guests are not set up by vsgpu.
fn guest(q: &Question, count: u64, kind: &str) -> String {
    if q.guest == Guest::Windows {
        return "    # a Windows guest: install its driver by hand, vsgpu sets up Linux guests only\n".into();
    }
    let license = match kind {
        "" => "",
        _ => "      # license: { token: files/client_configuration_token_..tok }\n",
    };
    let proof = if q.computes() { "      cuda-proof: {}\n" } else { "" };
    format!(
        "    guest:\n      # driver: {{ package: files/NVIDIA-Linux-x86_64-VERSION{kind}.run }}\n{license}      gpu-on-bus: {{ at-least: {count} }}\n{proof}"
    )
}

/// A GPU server with a whole GPU, or with a vGPU for each VM that works at the same time.
fn network(q: &Question, profile: Option<&VgpuType>, gpu: &str, vms: &str) -> String {
    let (host, server, gpus) = match profile.filter(|_| q.users > 1) {
        Some(vgpu) => {
            let mig = if vgpu.mig { "    mig: on\n" } else { "" };
            let each = vec![vgpu.profile; q.users.min(16) as usize].join(", ");
            let host = format!("    graphics-type: SharedPassthru\n{mig}");
            (host, format!("    vgpu: [{each}]\n"), q.users.min(16))
        }
        None => (
            format!("    passthrough: [{gpu}]\n"),
            format!("    firmware: efi\n    passthrough: [{gpu}]\n"),
            1,
        ),
    };
    format!(
        "version: 1\nhosts:\n  esx-gpu:\n{host}  esx-01: {{}}\nvms:\n  gpu-server:\n    host: esx-gpu\n{server}    guest:\n      # driver: {{ package: files/NVIDIA-Linux-x86_64-VERSION.run }}\n      gpu-server:\n        engine: {{ lupine: files/lupine-BUILD-cuda13.3-server.tar }}\n        teams: {{ all: {{ members: [gpu-vm*], gpus: {gpus}, per-lease: 1 }} }}\n        idle-release: 15m\n  {vms}:\n    host: esx-01\n    guest:\n      network-gpu:\n        engine: {{ lupine: files/lupine-BUILD-cuda13.3-client.tar }}\n        servers: [gpu-server]\n"
    )
}
