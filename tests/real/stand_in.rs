//! The stand-in driver's packages: a real makeself archive and a real Debian package, with nothing of
//! NVIDIA's in them.

use super::sh;
use crate::lab::{programs, workspace};
use std::path::{Path, PathBuf};

/// Configuration space of a vGPU with the capability that names its host (facts: nvidia 0.1).
pub fn configuration_space(manager: &str, branch: &str) -> Vec<u8> {
    let mut space = vec![0u8; 256];
    space[..2].copy_from_slice(&[0xde, 0x10]);
    space[0x34] = 0x60;
    let mut own = vec![0x09, 0, 27, b'V', b'F', 0, 22];
    for text in [manager, branch] {
        own.extend(text.bytes().chain(std::iter::repeat(0)).take(10));
    }
    space[0x60..0x60 + own.len()].copy_from_slice(&own);
    space
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target)
        } else {
            std::fs::copy(entry.path(), target).map(|_| ()).unwrap()
        }
    }
}

/// The stand-in driver unpacked, of that version.
fn unpacked(work: &Path, version: &str, grid: bool) {
    copy_tree(&workspace().join("tests/real-guest/stand-in"), work);
    std::fs::copy(programs().join("libvsgpu_sim_libcuda.so"), work.join("libcuda.so.1")).unwrap();
    let installer = work.join("nvidia-installer");
    let text = std::fs::read_to_string(&installer).unwrap();
    std::fs::write(
        &installer,
        text.replace("@VERSION@", version).replace("@GRID@", if grid { "yes" } else { "no" }),
    )
    .unwrap();
}

/// Makes `NVIDIA-Linux-x86_64-VERSION[-grid].run` in a folder, as NVIDIA's are made: makeself, flags passed
/// on to the installer.
pub fn run_file(into: &Path, version: &str, grid: bool) -> PathBuf {
    let work = into.join(format!("stand-in-{version}-{grid}"));
    unpacked(&work, version, grid);
    // makeself's own header refuses flags that it does not know; NVIDIA's passes them on.
    let header = std::fs::read_to_string("/usr/share/makeself/makeself-header.sh").unwrap();
    let ours = into.join("header.sh");
    std::fs::write(&ours, header.replace("echo Unrecognized flag : \"\\$1\" >&2", "break")).unwrap();
    let name = into.join(format!("NVIDIA-Linux-x86_64-{version}{}.run", if grid { "-grid" } else { "" }));
    let [header, folder, file] =
        [ours.canonicalize().unwrap(), work.clone(), name.clone()].map(|p| p.display().to_string());
    let title = "NVIDIA Accelerated Graphics Driver (SIMULATED)";
    sh(
        "makeself",
        &["--nox11", "--sha256", "--quiet", "--header", &header, &folder, &file, title, "./nvidia-installer"],
    );
    std::fs::remove_dir_all(work).unwrap();
    name
}

/// Packs a tree as a Debian package, and takes the tree away.
fn packed(work: &Path, into: &Path, name: &str, version: &str) -> PathBuf {
    let file = into.join(format!("{name}_{version}_amd64.deb"));
    sh(
        "dpkg-deb",
        &["--build", "--root-owner-group", &work.display().to_string(), &file.display().to_string()],
    );
    std::fs::remove_dir_all(work).unwrap();
    file
}

/// The same as a Debian package, `nvidia-linux-grid-BRANCH_VERSION_amd64.deb`, that installs when it is
/// configured.
pub fn driver_deb(into: &Path, version: &str) -> PathBuf {
    let name = format!("nvidia-linux-grid-{}", version.split('.').next().unwrap());
    let work = into.join(format!("deb-{version}"));
    unpacked(&work.join("opt/stand-in-driver"), version, true);
    let script = |file: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = work.join("DEBIAN").join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    script(
        "control",
        &format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: tests\nDepends: dkms\nDescription: SIMULATED\n"
        ),
    );
    script(
        "postinst",
        "#!/bin/sh\nset -e\n/opt/stand-in-driver/nvidia-installer --silent --accept-license --dkms\n",
    );
    script(
        "prerm",
        "#!/bin/sh\nrm -rf /run/vsgpu-stand-in\n[ ! -x /usr/bin/nvidia-uninstall ] || /usr/bin/nvidia-uninstall --silent\n",
    );
    packed(&work, into, &name, version)
}

/// NVIDIA's container toolkit as a Debian package: the programs of `tests/real-guest/stand-in-toolkit`.
pub fn toolkit_deb(into: &Path) -> PathBuf {
    let (name, version) = ("nvidia-container-toolkit", "1.17.8-1");
    let work = into.join(format!("deb-{name}"));
    std::fs::create_dir_all(work.join("usr")).unwrap();
    copy_tree(&workspace().join("tests/real-guest/stand-in-toolkit"), &work.join("usr/bin"));
    std::fs::create_dir_all(work.join("DEBIAN")).unwrap();
    std::fs::write(
        work.join("DEBIAN/control"),
        format!("Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: tests\nDescription: SIMULATED\n"),
    )
    .unwrap();
    packed(&work, into, name, version)
}

/// A Debian package of that name with one file in it.
pub fn deb(into: &Path, name: &str, version: &str) -> PathBuf {
    let work = into.join(format!("deb-{name}"));
    std::fs::create_dir_all(work.join("DEBIAN")).unwrap();
    std::fs::create_dir_all(work.join("usr/share/doc").join(name)).unwrap();
    std::fs::write(work.join("usr/share/doc").join(name).join("SIMULATED"), "A package of vsgpu's tests.\n")
        .unwrap();
    std::fs::write(
        work.join("DEBIAN/control"),
        format!("Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: tests\nDescription: SIMULATED\n"),
    )
    .unwrap();
    packed(&work, into, name, version)
}
