//! Real Debian guests: a container that boots systemd (systemd-nspawn) and a full machine (qemu). The
//! operating system, its package tool, DKMS, the initramfs, systemd and the reboots are real; only NVIDIA's
//! silicon is simulated: a PCI device in a bind mount, a stand-in driver (`tests/real-guest/stand-in`) and a
//! driver library that computes on the CPU.

pub mod browser;
pub mod container;
pub mod machine;
pub mod mirror;
pub mod stand_in;

use crate::lab::{Lab, package, workspace};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Runs a program that has to succeed.
pub fn sh(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {}: {}\n{text}{said}", args.join(" "), output.status);
    text
}

/// The folder with the prepared trees, or why this machine cannot run real guests.
pub fn prepared(what: &str) -> Result<PathBuf, String> {
    static CONTAINER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    static MACHINE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let (once, args): (_, &[&str]) =
        if what == "machine" { (&MACHINE, &["machine"]) } else { (&CONTAINER, &[]) };
    once.get_or_init(|| {
        let setup = workspace().join("tests/real-guest/setup");
        let output =
            Command::new(setup).args(args).stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let last = said.lines().last().unwrap_or_default().to_string();
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
        match output.status.code() {
            Some(0) => Ok(target.join("real-guest")),
            Some(3) => Err(last),
            _ => Err(format!(
                "tests/real-guest/setup failed: {last} {}",
                String::from_utf8_lossy(&output.stderr)
            )),
        }
    })
    .clone()
}

/// A lab with a simulated host whose one VM is a real guest, and the folder of files beside its fleet file:
/// the stand-in driver and the license server's own token.
pub fn lab(name: &str) -> (Lab, PathBuf) {
    let lab = Lab::new(name);
    lab.host("esx-01", "8.0.2", vec![crate::lab::files::a100("0000:3b:00.0")]);
    lab.vm_without_guest("vm-01", "esx-01");
    let files = lab.folder.join("files");
    std::fs::create_dir_all(&files).unwrap();
    stand_in::run_file(&files, "535.183.01", true);
    std::fs::write(files.join("good.tok"), crate::lab::TOKEN).unwrap();
    (lab, files)
}

/// As an operator would: Debian's own tool installs the package that is shipped, and the certificates are
/// copied.
fn enrol(root: &Path, lab: &Lab, name: &str) {
    let deb = root.join("var/cache/vsgpu-guest-agent.deb");
    std::fs::copy(package("vsgpu-guest-agent", ".deb"), &deb).unwrap();
    sh("chroot", &[&root.display().to_string(), "dpkg", "-i", "/var/cache/vsgpu-guest-agent.deb"]);
    vsgpu_wire::pki::issue_node(&lab.folder.join("pki"), name, "guest", 365, std::time::SystemTime::now())
        .unwrap();
    for file in ["ca.pem", "node.pem", "node.key"] {
        std::fs::copy(
            lab.folder.join("pki").join(format!("{name}.guest")).join(file),
            root.join("etc/vsgpu").join(file),
        )
        .unwrap();
    }
    let conf = root.join("etc/vsgpu/guest-agent.conf");
    let options = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(conf, format!("{options}observe-every = 600\n")).unwrap();
}

/// An administrator with a key and `sudo`, as images have one; the key lies in the lab's folder.
fn open_to(root: &Path, lab: &Lab) {
    let key = lab.folder.join("admin-key");
    sh("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &key.display().to_string()]);
    let tree = root.display().to_string();
    sh("chroot", &[&tree, "useradd", "--create-home", "--shell", "/bin/bash", "admin"]);
    sh("chroot", &[&tree, "install", "-d", "-o", "admin", "-g", "admin", "-m", "700", "/home/admin/.ssh"]);
    std::fs::copy(key.with_extension("pub"), root.join("home/admin/.ssh/authorized_keys")).unwrap();
    sh("chroot", &[&tree, "chown", "admin:admin", "/home/admin/.ssh/authorized_keys"]);
    std::fs::write(root.join("etc/sudoers.d/admin"), "admin ALL=(ALL) NOPASSWD: ALL\n").unwrap();
}

/// What a guest gets before its first boot: the agent as a service, its certificate, the simulated silicon.
/// `enrolled`: or it is an ordinary Debian that only its sshd answers for.
pub fn furnish(root: &Path, lab: &Lab, name: &str, kernel: Option<&str>, enrolled: bool) {
    let put = |path: &str, text: &str| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    if enrolled {
        enrol(root, lab, name);
    } else {
        open_to(root, lab);
    }
    // Its unit as it is shipped, behind the simulated silicon.
    put(
        "etc/systemd/system/vsgpu-guest-agent.service.d/test.conf",
        "[Unit]\nAfter=stand-in-silicon.service\n[Service]\nRestartSec=200ms\n",
    );
    // A PCI device that is not there: an A100-40C of a host with vGPU manager 535.183.04, by its ids and its
    // capability.
    let silicon = "opt/vsgpu-stand-in/pci/0000:02:00.0";
    for (file, text) in [
        ("vendor", "0x10de\n"),
        ("device", "0x20f1\n"),
        ("class", "0x030200\n"),
        ("subsystem_device", "0x149d\n"),
        (
            "resource",
            "0x00000000fc000000 0x00000000fcffffff 0x0000000000040200\n0x00000000e0000000 0x00000000efffffff 0x000000000014220c\n",
        ),
    ] {
        put(&format!("{silicon}/{file}"), text);
    }
    std::fs::write(root.join(silicon).join("config"), stand_in::configuration_space("535.183.04", "r538_67"))
        .unwrap();
    let kernel_line = match kernel {
        Some(kernel) => {
            put("opt/vsgpu-stand-in/osrelease", &format!("{kernel}\n"));
            "ExecStart=/bin/mount --bind /opt/vsgpu-stand-in/osrelease /proc/sys/kernel/osrelease\n"
        }
        None => "",
    };
    put(
        "etc/systemd/system/stand-in-silicon.service",
        &format!(
            "[Unit]\nDescription=Simulated silicon of vsgpu's tests\nBefore=vsgpu-guest-agent.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/mount --bind /opt/vsgpu-stand-in/pci /sys/bus/pci/devices\n{kernel_line}[Install]\nWantedBy=multi-user.target\n"
        ),
    );
    // A real service behind the alias of every display manager, started with the graphical target.
    put(
        "etc/systemd/system/stand-in-display.service",
        "[Unit]\nDescription=Display manager of vsgpu's tests (no X in it)\n[Service]\nExecStart=/bin/sleep infinity\n[Install]\nAlias=display-manager.service\nWantedBy=graphical.target\n",
    );
    let wants = |target: &str, unit: &str| {
        let folder = root.join(format!("etc/systemd/system/{target}.wants"));
        std::fs::create_dir_all(&folder).unwrap();
        let _ = std::os::unix::fs::symlink(format!("/etc/systemd/system/{unit}"), folder.join(unit));
    };
    wants("multi-user.target", "stand-in-silicon.service");
    wants("graphical.target", "stand-in-display.service");
    let link = |to: &str, at: &str| {
        let _ = std::fs::remove_file(root.join(at));
        std::os::unix::fs::symlink(to, root.join(at)).unwrap();
    };
    link("/etc/systemd/system/stand-in-display.service", "etc/systemd/system/display-manager.service");
    link("/lib/systemd/system/graphical.target", "etc/systemd/system/default.target");
    put("etc/hostname", &format!("{name}\n"));
    put("etc/vsgpu-stand-in/good-token", crate::lab::TOKEN);
}
