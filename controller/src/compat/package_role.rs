//! Packages and the keys that they stand at: the GPU management daemon where the vGPU manager belongs, a
//! repository where a driver is wanted. Such a plan costs a maintenance window and cannot succeed, so it is
//! refused before there is one.

use crate::compat::combination::Finding;
use crate::fleet::Fleet;
use crate::node::{NodeId, NodeKind};
use vsgpu_core::knowledge::Basis;
use vsgpu_core::package_role::Role;
use vsgpu_core::units::DriverVersion;
use vsgpu_core::{Artifact, Requirement, WordOr};
use vsgpu_guest_agent::guest::{CudaProof, CudaToolkit, Driver, DriverSpec};
use vsgpu_host_agent::host::VgpuManager;
use vsgpu_host_agent::host::gpu_management_daemon::GpuManagementDaemon;

/// What is wrong at the keys of a fleet file that name a package.
pub(super) fn findings(fleet: &Fleet) -> Vec<Finding> {
    let mut all = vec![];
    for host in &fleet.hosts {
        let node = NodeId::new(NodeKind::Host, &host.name);
        let package = |spec| if let Some(WordOr::Map(spec)) = spec { Some(spec) } else { None };
        let manager = package(host.spec::<VgpuManager>()).map(|spec| spec.package);
        let daemon = package(host.spec::<GpuManagementDaemon>()).map(|spec| spec.package);
        let at_manager = manager.as_ref().and_then(|p| wrong(&node, VgpuManager::NAME, Role::Manager, p));
        let at_daemon =
            daemon.as_ref().and_then(|p| wrong(&node, GpuManagementDaemon::NAME, Role::Daemon, p));
        match (at_manager, at_daemon) {
            (None, None) => all.extend(manager.zip(daemon).and_then(|(m, d)| apart(&node, &m, &d))),
            (one, other) => all.extend(one.into_iter().chain(other)),
        }
    }
    for (vm, guest) in fleet.vms.iter().filter_map(|vm| Some((vm, vm.guest.as_ref()?))) {
        let node = NodeId::new(NodeKind::Guest, &vm.name);
        if let Some(DriverSpec::Map(spec)) = guest.spec::<Driver>() {
            all.extend(wrong(&node, Driver::NAME, Role::Driver, &spec.package));
        }
        let toolkits = guest.spec::<CudaToolkit>().into_iter().flatten();
        let packages = toolkits.filter_map(|toolkit| toolkit.package);
        all.extend(
            packages.filter_map(|package| wrong(&node, CudaToolkit::NAME, Role::CudaToolkit, &package)),
        );
        if let Some(WordOr::Map(samples)) = guest.spec::<CudaProof>().map(|proof| proof.samples) {
            let archive = samples.source.as_ref();
            all.extend(archive.and_then(|file| wrong(&node, CudaProof::NAME, Role::CudaSamples, file)));
        }
    }
    all
}

fn wrong(node: &NodeId, key: &str, wanted: Role, package: &Artifact) -> Option<Finding> {
    let role = Role::of(package).filter(|role| *role != wanted)?;
    Some(Finding {
        constraint: "",
        nodes: vec![node.clone()],
        what: format!("{node}: `{key}` names {}, which is {}", package.file_name(), role.shown()),
        basis: Basis::document("what the package holds, or its name of NVIDIA's", true),
        nearest: Some(way_out(role, wanted, package)),
        certain: true,
    })
}

/// Where the file belongs, and what belongs here.
fn way_out(role: Role, wanted: Role, package: &Artifact) -> String {
    let version =
        package.version().and_then(DriverVersion::leading).map_or("VERSION".into(), |v| v.to_string());
    let belongs = match role {
        Role::Manager => format!("it belongs to `{}` of a host; ", VgpuManager::NAME),
        Role::Daemon => format!("it belongs to `{}` of the host; ", GpuManagementDaemon::NAME),
        Role::Driver => format!("it belongs to `{}` of a guest; ", Driver::NAME),
        Role::CudaToolkit => format!("it belongs to `{}` of a guest; ", CudaToolkit::NAME),
        Role::CudaSamples => {
            format!("it belongs to `{}: {{ samples: {{ source: .. }} }}`; ", CudaProof::NAME)
        }
        Role::Download => "unpack it first; ".into(),
        _ => String::new(),
    };
    let here = match wanted {
        Role::Manager => format!("the vGPU manager is the zip NVD-VGPU-..._{version}-... of Host_Drivers"),
        Role::Daemon => format!("the daemon is the zip nvd-gpu-mgmt-daemon_{version}-... of Host_Drivers"),
        Role::CudaToolkit => "the toolkit is cuda_VERSION_linux.run".into(),
        Role::CudaSamples => "the samples are cuda-samples-VERSION.zip, of the toolkit's own release".into(),
        _ => "take NVIDIA-Linux-x86_64-VERSION-grid.run of Guest_Drivers for a vGPU, without -grid for a whole GPU"
            .into(),
    };
    format!("{belongs}{here}")
}

/// The two are shipped together.
fn apart(node: &NodeId, manager: &Artifact, daemon: &Artifact) -> Option<Finding> {
    let version = |package: &Artifact| DriverVersion::leading(package.version()?);
    let (of_manager, of_daemon) = (version(manager)?, version(daemon)?);
    if of_manager == of_daemon {
        return None;
    }
    Some(Finding {
        constraint: "",
        nodes: vec![node.clone()],
        what: format!(
            "{node}: `{}` is {of_manager}, `{}` is {of_daemon}: they are of different releases",
            VgpuManager::NAME,
            GpuManagementDaemon::NAME
        ),
        basis: Basis::document("NVIDIA ships the two side by side in Host_Drivers", false),
        nearest: Some(format!("take the daemon's zip of the release that has the manager {of_manager}")),
        certain: false,
    })
}
