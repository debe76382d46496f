//! A fleet file to begin with, which `vsgpu validate --no-files` accepts. Drivers and packages are the operator's own
//! files: where they go stands in a remark.

use super::kind::Kind;
use super::question::{Question, Workload};
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
    let gpu = q.model().map_or_else(|| "A100".to_string(), short);
    let vms = if q.users > 1 { format!("gpu-vm-[1-{}]", q.users.min(999)) } else { "gpu-vm".into() };
    let count = q.gpus_per_vm();
    let proof = if q.computes() { "      cuda-proof: {}\n" } else { "" };
    let list = |one: &str| vec![one; count as usize].join(", ");
    match way {
        Kind::Passthrough => format!(
            "version: 1\nhosts:\n  esx-01:\n    passthrough: [{gpu}]\nvms:\n  {vms}:\n    host: esx-01\n    firmware: efi\n    passthrough: [{}]\n    guest:\n      # driver: {{ package: files/NVIDIA-Linux-x86_64-VERSION.run }}\n      gpu-on-bus: {{ at-least: {count} }}\n{proof}",
            list(&gpu)
        ),
        Kind::VgpuTimeSliced | Kind::VgpuMig => {
            let name = profile
                .map_or(if way == Kind::VgpuMig { "nvidia_a100-1-5c" } else { "nvidia_l40s-12c" }, |p| {
                    p.profile
                });
            let mig = if way == Kind::VgpuMig { "    mig: on\n" } else { "" };
            let steady = match (way, q.workload) {
                (Kind::VgpuTimeSliced, Workload::Inference) if q.users > 1 => {
                    "    vgpu-scheduler: equal-share\n"
                }
                _ => "",
            };
            format!(
                "version: 1\nhosts:\n  esx-01:\n    # vgpu-manager: {{ package: files/NVD-VGPU-..zip, datastore: datastore1 }}\n    graphics-type: SharedPassthru\n{mig}{steady}vms:\n  {vms}:\n    host: esx-01\n    vgpu: [{}]\n    guest:\n      # driver: {{ package: files/NVIDIA-Linux-x86_64-VERSION-grid.run }}\n      # license: {{ token: files/client_configuration_token_..tok }}\n      gpu-on-bus: {{ at-least: {count} }}\n{proof}",
                list(name)
            )
        }
        Kind::Network => format!(
            "version: 1\nhosts:\n  esx-gpu:\n    passthrough: [{gpu}]\n  esx-01: {{}}\nvms:\n  gpu-server:\n    host: esx-gpu\n    firmware: efi\n    passthrough: [{gpu}]\n    guest:\n      # driver: {{ package: files/NVIDIA-Linux-x86_64-VERSION.run }}\n      gpu-server:\n        engine: {{ lupine: files/lupine-BUILD-cuda13.3-server.tar }}\n        teams: {{ all: {{ members: [gpu-vm*], gpus: 1 }} }}\n        idle-release: 15m\n  {vms}:\n    host: esx-01\n    guest:\n      network-gpu: {{ engine: {{ lupine: files/lupine-BUILD-cuda13.3-client.tar }}, servers: [gpu-server] }}\n"
        ),
    }
}
