//! What an operator would have downloaded: packages in the shape NVIDIA ships them, made here, with nothing
//! of NVIDIA in them. The fleet file of the demo, and a host as it comes.

use super::{LICENSE_SERVER, Lab, TOKEN, workspace};
use crate::fakes::state::{self, Esxi, Gpu, Machine};
use std::io::Write as _;
use std::path::Path;

pub const MANAGER_16_6: &str = "NVD-VGPU-800_535.183.04-1OEM.800.1.0.20613240_23958333.zip";
pub const DAEMON_16_6: &str = "nvd-gpu-mgmt-daemon_535.183.04-0.0.0000_23959104.zip";
pub const DRIVER_16_6: &str = "NVIDIA-Linux-x86_64-535.183.01-grid.run";
pub const CUDA_12_2: &str = "cuda_12.2.2_535.104.05_linux.run";
pub const MANAGER_17_4: &str = "NVD-VGPU-800_550.127.06-1OEM.800.1.0.20613240_24331532.zip";
pub const DAEMON_17_4: &str = "nvd-gpu-mgmt-daemon_550.127.06-0.0.0000_24331717.zip";
pub const DRIVER_17_4: &str = "NVIDIA-Linux-x86_64-550.127.05-grid.run";
/// For whole GPUs: the data-center driver.
pub const DRIVER_DATA_CENTER: &str = "NVIDIA-Linux-x86_64-550.127.05.run";
pub const MANAGER_6_0: &str = "NVIDIA-VMware_ESXi_6.7_Host_Driver_390.42-1OEM.670.0.0.7535516.vib";
pub const DRIVER_6_0: &str = "NVIDIA-Linux-x86_64-390.42-grid.run";
pub const CUDA_9_1: &str = "cuda_9.1.85_387.26_linux.run";
pub const TOKEN_FILE: &str = "client_configuration_token_01-15-2026-10-00-00.tok";

pub fn a100(bdf: &str) -> Gpu {
    Gpu {
        bdf: bdf.into(),
        name: "NVIDIA A100-PCIE-40GB".into(),
        device_name: "GA100 [A100 PCIe 40GB]".into(),
        device_id: "0x20f1".into(),
        subsystem_id: "0x145f".into(),
        applies_at_once: true,
        architecture: Some("Ampere".into()),
        memory_mib: 40_960,
        bar1_mib: 65_536,
        ecc: Some(true),
        ecc_pending: Some(true),
        graphics_type: "Basic".into(),
        token: "A100".into(),
        mig_capable: true,
        virtual_functions: 16,
        ..Gpu::default()
    }
}

pub fn p100(bdf: &str) -> Gpu {
    Gpu {
        bdf: bdf.into(),
        name: "Tesla P100-PCIE-16GB".into(),
        device_name: "GP100GL [Tesla P100 PCIe 16GB]".into(),
        device_id: "0x15f8".into(),
        subsystem_id: "0x118f".into(),
        architecture: None,
        memory_mib: 16_384,
        bar1_mib: 16_384,
        ecc: Some(true),
        ecc_pending: Some(true),
        graphics_type: "Basic".into(),
        token: "P100".into(),
        ..Gpu::default()
    }
}

pub fn t4(bdf: &str) -> Gpu {
    Gpu {
        bdf: bdf.into(),
        name: "Tesla T4".into(),
        device_name: "TU104GL [Tesla T4]".into(),
        device_id: "0x1eb8".into(),
        subsystem_id: "0x12a2".into(),
        architecture: Some("Turing".into()),
        memory_mib: 16_384,
        bar1_mib: 256,
        ecc: Some(true),
        ecc_pending: Some(true),
        graphics_type: "Basic".into(),
        token: "T4".into(),
        ..Gpu::default()
    }
}

/// Bytes that do not compress, always the same.
pub fn noise(len: usize) -> Vec<u8> {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        out.extend_from_slice(&seed.to_le_bytes());
    }
    out.truncate(len);
    out
}

fn descriptor(name: &str, version: &str) -> String {
    format!(
        "<vib version=\"5.0\"><type>bootbank</type><name>{name}</name><version>{version}</version><vendor>NVIDIA</vendor><summary>simulated</summary><acceptance-level>accepted</acceptance-level></vib>"
    )
}

fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(vec![]));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in files {
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// An offline bundle; with a component in its bulletin, as ESXi 7 and later take it.
pub fn bundle(vib: &str, version: &str, component: bool, payload: usize) -> Vec<u8> {
    let spec = if component {
        format!(
            "<componentNameSpec name=\"{vib}\" uiString=\"simulated\"/><componentVersionSpec version=\"{version}\" uiString=\"simulated\"/>"
        )
    } else {
        String::new()
    };
    let bulletin = format!("<bulletin><id>{vib}-{version}</id>{spec}</bulletin>");
    let metadata = zip_of(&[
        ("vmware.xml", b"<metadataResponse/>"),
        ("bulletins/b.xml", bulletin.as_bytes()),
        ("vibs/v-1.xml", descriptor(vib, version).as_bytes()),
    ]);
    zip_of(&[
        ("index.xml", b"<vendorList/>"),
        ("vendor-index.xml", b"<metaList/>"),
        ("NVD-metadata.zip", &metadata),
        ("vib20/v.vib", &noise(payload)),
    ])
}

/// A VIB: ar archive with descriptor, simulated signature, payload.
pub fn vib(name: &str, version: &str, payload: usize) -> Vec<u8> {
    let mut out = b"!<arch>\n".to_vec();
    for (member, bytes) in [
        ("descriptor.xml", descriptor(name, version).into_bytes()),
        ("sig.pkcs7", b"simulated signature".to_vec()),
        ("nvidia", noise(payload)),
    ] {
        out.extend_from_slice(
            format!("{member:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 0, bytes.len()).as_bytes(),
        );
        out.extend_from_slice(&bytes);
        if bytes.len() % 2 == 1 {
            out.push(b'\n');
        }
    }
    out
}

/// A `.run` that hands itself to the simulated installer of the machine it is started on.
pub fn run_file(installer: &str, payload: usize) -> Vec<u8> {
    let mut out = format!("#!/bin/sh\n# Simulated installer of the vsgpu lab: installs nothing real.\nexec \"$(command -v {installer})\" \"$0\" \"$@\"\nexit 1\n").into_bytes();
    out.extend(noise(payload));
    out
}

use vsgpu_core::engine::manifest::{self, File, Manifest, Side};

pub const ENGINE_SERVER: &str = "lupine-simulated-cuda12.2-server.tar";
pub const ENGINE_CLIENT: &str = "lupine-simulated-cuda12.2-client.tar";

/// One half of the stand-in engine's bundle; `build` is any letter.
pub fn engine(side: Side, build: &str) -> Vec<u8> {
    let server = format!(
        "#!/bin/sh\n# Stands in for an engine: carries no CUDA.\nexec {} engine\n",
        super::programs().join("vsgpu-stand-in").display()
    );
    let libraries = ["libcuda.so.1", "libnvidia-ml.so.1"].map(|name| (name, b"simulated\n".to_vec()));
    let server = (side == Side::Server).then(|| ("lupine_driver_server", server.into_bytes()));
    engine_of(side, build, server.into_iter().chain(libraries).collect())
}

/// Package of a Bitfusion client.
pub const BITFUSION: &str = "bitfusion-client-ubuntu2004_4.5.0-4_amd64.deb";

/// The same for a machine of its own: with the stand-in itself, and with the simulated driver as the shim.
pub fn whole_engine(side: Side, build: &str) -> Vec<u8> {
    let read = |name: &str| std::fs::read(super::programs().join(name)).unwrap();
    let server = (side == Side::Server).then(|| ("lupine_driver_server", read("vsgpu-stand-in")));
    let libraries =
        [("libcuda.so.1", read("libvsgpu_sim_libcuda.so")), ("libnvidia-ml.so.1", b"simulated\n".to_vec())];
    engine_of(side, build, server.into_iter().chain(libraries).collect())
}

fn engine_of(side: Side, build: &str, files: Vec<(&str, Vec<u8>)>) -> Vec<u8> {
    let sha256 = |bytes: &[u8]| vsgpu_core::text::hex(&<sha2::Sha256 as sha2::Digest>::digest(bytes));
    let manifest = Manifest {
        version: manifest::VERSION,
        engine: "lupine".into(),
        side,
        cuda: "12.2".into(),
        commit: "unknown".into(),
        build: build.repeat(64),
        files: files
            .iter()
            .map(|(name, bytes)| File { path: (*name).into(), sha256: sha256(bytes) })
            .collect(),
    };
    let mut tar = tar::Builder::new(vec![]);
    let text = serde_json::to_vec(&manifest).unwrap();
    for (name, bytes) in std::iter::once((manifest::NAME, text)).chain(files) {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Everything the demo's fleet file names.
pub fn write_all(folder: &Path) {
    write_sized(folder, |size| size);
}

/// The same with payloads of other sizes.
pub fn write_sized(folder: &Path, sized: impl Fn(usize) -> usize) {
    std::fs::create_dir_all(folder).unwrap();
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(folder.join(name), bytes).unwrap();
    write(
        MANAGER_16_6,
        bundle("NVD-VMware_ESXi_8.0.0_Driver", "535.183.04-1OEM.800.1.0.20613240", true, sized(24 << 20)),
    );
    write(DAEMON_16_6, bundle("nvdgpumgmtdaemon", "535.183.04-1OEM.700.1.0.15843807", true, sized(2 << 20)));
    write(DRIVER_16_6, run_file("nvidia-installer", sized(16 << 20)));
    write(CUDA_12_2, run_file("cuda-installer", sized(32 << 20)));
    write(
        MANAGER_6_0,
        vib("NVIDIA-VMware_ESXi_6.7_Host_Driver", "390.42-1OEM.670.0.0.7535516", sized(8 << 20)),
    );
    write(DRIVER_6_0, run_file("nvidia-installer", sized(8 << 20)));
    write(CUDA_9_1, run_file("cuda-installer", sized(8 << 20)));
    write(
        MANAGER_17_4,
        bundle("NVD-VMware_ESXi_8.0.0_Driver", "550.127.06-1OEM.800.1.0.20613240", true, sized(4 << 20)),
    );
    write(DAEMON_17_4, bundle("nvdgpumgmtdaemon", "550.127.06-1OEM.700.1.0.15843807", true, sized(1 << 20)));
    write(DRIVER_17_4, run_file("nvidia-installer", sized(4 << 20)));
    write(DRIVER_DATA_CENTER, run_file("nvidia-installer", sized(16 << 20)));
    write(TOKEN_FILE, TOKEN.as_bytes().to_vec());
}

/// An archive in the shape of NVIDIA's samples of a release, with source of ours: a Makefile before 12.8, CMake since.
pub fn cuda_samples(release: &str) -> Vec<u8> {
    let (makefile, root) = match release {
        "13.0" => ("CMakeLists.txt", workspace().join("tests/data/cuda/samples-cmake")),
        _ => ("Makefile", workspace().join("tests/data/cuda/samples-make")),
    };
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(vec![]));
    let plain = zip::write::SimpleFileOptions::default();
    let mut put = |path: &str, bytes: &[u8]| {
        zip.start_file(format!("cuda-samples-{release}/{path}"), plain).unwrap();
        zip.write_all(bytes).unwrap();
    };
    let shared = workspace().join("tests/data/cuda");
    put("Common/helper_cuda.h", &std::fs::read(shared.join("helper_cuda.h")).unwrap());
    for (sample, source) in
        [("1_Utilities/deviceQuery", "deviceQuery.cpp"), ("0_Introduction/vectorAdd", "vectorAdd.cu")]
    {
        let folder = format!("Samples/{sample}");
        put(&format!("{folder}/{source}"), &std::fs::read(shared.join(source)).unwrap());
        let name = sample.rsplit('/').next().unwrap_or(sample);
        let text = std::fs::read_to_string(root.join(makefile)).unwrap();
        let text = text.replace("SAMPLE", name).replace("SOURCE", source);
        put(&format!("{folder}/{makefile}"), text.as_bytes());
    }
    // What nobody needs for these two.
    put("Samples/0_Introduction/matrixMul/matrixMul.cu", b"not needed");
    put("README.md", b"Source of ours, in the shape of NVIDIA's CUDA samples.");
    zip.finish().unwrap().into_inner()
}

/// The demo's fleet file.
pub fn fleet(lab: &Lab) -> String {
    let at = |name: &str| lab.address(name);
    format!(
        "# The fleet of the vsgpu demo: simulated hosts and guests, real agents.\n\
version: 1\n\
pki: pki\n\
rollout:                         # three hosts that share no cluster; the default is one at a time\n\
\x20 max-unavailable: 3\n\
\x20 stop-at-failed: 3\n\
defaults:\n\
\x20 host:\n\
\x20   graphics-type: SharedPassthru\n\
\x20   assignment-policy: Consolidation\n\
\x20 vm:\n\
\x20   firmware: efi\n\
hosts:\n\
\x20 esx-01:                      # ESXi 8.0.2, two A100: vGPU 16.6\n\
\x20   address: {}\n\
\x20   vgpu-manager: {{ package: files/{MANAGER_16_6}, datastore: datastore1 }}\n\
\x20   gpu-management-daemon: {{ package: files/{DAEMON_16_6}, datastore: datastore1 }}\n\
\x20 esx-02:                      # ESXi 6.7, one P100: vGPU 6.0, where ECC has to be off\n\
\x20   address: {}\n\
\x20   vgpu-manager: {{ package: files/{MANAGER_6_0}, datastore: datastore1 }}\n\
\x20 esx-03:                      # ESXi 8.0.3, three A100 given to VMs whole (DirectPath I/O)\n\
\x20   address: {}\n\
\x20   graphics-type: null\n\
\x20   assignment-policy: null\n\
\x20   passthrough: [A100]\n\
vms:\n\
\x20 vm-01:\n\
\x20   host: esx-01\n\
\x20   vgpu: [grid_a100-40c]\n\
\x20   guest:\n\
\x20     address: {}\n\
\x20     driver: {{ package: files/{DRIVER_16_6} }}\n\
\x20     license: {{ token: files/{TOKEN_FILE} }}\n\
\x20     cuda-toolkit: {{ package: files/{CUDA_12_2} }}\n\
\x20 vm-02:\n\
\x20   host: esx-01\n\
\x20   vgpu: [grid_a100-20c]\n\
\x20   guest:\n\
\x20     address: {}\n\
\x20     driver: {{ package: files/{DRIVER_16_6} }}\n\
\x20     license: {{ token: files/{TOKEN_FILE} }}\n\
\x20     cuda-toolkit: {{ package: files/{CUDA_12_2} }}\n\
\x20 vm-03:\n\
\x20   host: esx-02\n\
\x20   vgpu: [grid_p100-8q]\n\
\x20   guest:\n\
\x20     address: {}\n\
\x20     driver: {{ package: files/{DRIVER_6_0} }}\n\
\x20     license: {{ server: {LICENSE_SERVER}, feature-type: 1 }}\n\
\x20     cuda-toolkit: {{ package: files/{CUDA_9_1} }}\n\
\x20 vm-04:                       # two whole GPUs\n\
\x20   host: esx-03\n\
\x20   passthrough: [{{ model: A100, count: 2 }}]\n\
\x20   guest:\n\
\x20     address: {}\n\
\x20     driver: {{ package: files/{DRIVER_DATA_CENTER} }}\n\
\x20     cuda-toolkit: {{ package: files/{CUDA_12_2} }}\n\
\x20 vm-05:\n\
\x20   host: esx-03\n\
\x20   passthrough: [A100]\n\
\x20   guest:\n\
\x20     address: {}\n\
\x20     driver: {{ package: files/{DRIVER_DATA_CENTER} }}\n\
\x20     cuda-toolkit: {{ package: files/{CUDA_12_2} }}\n",
        at("esx-01"),
        at("esx-02"),
        at("esx-03"),
        at("vm-01"),
        at("vm-02"),
        at("vm-03"),
        at("vm-04"),
        at("vm-05"),
    )
}

/// A host that was never touched: no NVIDIA package, default graphics type Shared.
pub fn untouched_host(name: &str, version: &str, gpus: Vec<Gpu>) -> Machine {
    let build = format!("Releasebuild-{}", if version.starts_with('6') { "14320388" } else { "22380479" });
    let base = state::Vib {
        name: "esx-base".into(),
        version: format!("{version}-0.40.22380479"),
        vendor: "VMware".into(),
    };
    let esxi = Esxi {
        version: version.into(),
        build,
        default_type: "Shared".into(),
        policy: "Performance".into(),
        gpus,
        vibs: vec![base],
        says_no_reboot: true,
        uuid: format!(
            "5cf50c99-bcb9-376f-cf64-{:012x}",
            name.bytes().fold(7u64, |sum, b| sum * 31 + u64::from(b)) & 0xffff_ffff_ffff
        ),
        acceptance: "PartnerSupported".into(),
        profile: format!("(Updated) ESXi-{version}-standard"),
        ..Esxi::default()
    };
    Machine { esxi: Some(esxi), boots: 1, booted_at_ms: state::now_ms() - 86_400_000, ..Machine::default() }
}
