//! Containers with GPUs by the engines that Debian packages: Podman with a CDI description, as root and as a
//! user, and Docker with NVIDIA's runtime. The engines, the images and our proof are real; the driver and
//! NVIDIA's container toolkit are stand-ins (`tests/real-guest/stand-in-toolkit`), and say so.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code"
)]

use std::path::Path;
use vsgpu_tests::lab::Lab;
use vsgpu_tests::real::container::Container;
use vsgpu_tests::real::{prepared, sh, stand_in};

const DRIVER: &str = "NVIDIA-Linux-x86_64-535.183.01-grid.run";
const IMAGE: &str = "localhost/proof:1";

struct World {
    guest: Container,
    lab: Lab,
    toolkit: String,
}

impl World {
    fn wish(&self, wishes: &str) {
        let proxy = self.guest.proxy();
        let all = format!(
            "package-source: {{ proxy: \"{proxy}\" }}\ndriver: {{ package: files/{DRIVER} }}\nlicense: {{ token: files/good.tok, wait-secs: 20 }}\n{wishes}"
        );
        let indented: String = all.lines().map(|l| format!("      {l}\n")).collect();
        self.lab.write_fleet(&format!(
            "version: 1\npki: pki\ndeadlines: {{ connect-secs: 20, guest-boot-secs: 60 }}\nhosts:\n  esx-01: {{ address: \"{}\" }}\nvms:\n  vm-01:\n    host: esx-01\n    guest:\n      address: {}:7443\n{indented}",
            self.lab.address("esx-01"),
            self.guest.address()
        ));
    }

    /// The proof with these keys, and how it must end.
    fn proof(&self, engine: &str, keys: &str, status: i32) -> String {
        self.wish(&format!(
            "container-toolkit: {{ engines: [{engine}], files: [files/{}] }}\ncontainer-proof: {{ engine: {engine}, {keys} }}",
            self.toolkit
        ));
        self.lab.expect(status, &["apply", "--yes", "fleet.yaml"])
    }
}

/// An image as `docker save` writes it, of the C library of the guest and nothing else.
fn image(files: &Path, root: &Path) {
    let (work, layer) = (files.join("image"), files.join("layer"));
    for path in
        ["lib64/ld-linux-x86-64.so.2", "lib/x86_64-linux-gnu/libc.so.6", "lib/x86_64-linux-gnu/libm.so.6"]
    {
        let to = layer.join(path);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(root.join("usr").join(path), to).unwrap();
    }
    for library in ["libgcc_s.so.1", "libdl.so.2", "libpthread.so.0"] {
        let path = Path::new("lib/x86_64-linux-gnu").join(library);
        std::fs::copy(root.join("usr").join(&path), layer.join(path)).unwrap();
    }
    std::fs::create_dir_all(layer.join("usr/lib/x86_64-linux-gnu")).unwrap();
    std::fs::create_dir_all(&work).unwrap();
    let tar = |folder: &Path, into: &Path| {
        sh("tar", &["-C", &folder.display().to_string(), "-cf", &into.display().to_string(), "."])
    };
    tar(&layer, &work.join("layer.tar"));
    let sum = sh("sha256sum", &[&work.join("layer.tar").display().to_string()]);
    let sum = sum.split(' ').next().unwrap();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{sum}"]}}}}"#
    );
    std::fs::write(work.join("config.json"), config).unwrap();
    std::fs::write(
        work.join("manifest.json"),
        format!(r#"[{{"Config":"config.json","RepoTags":["{IMAGE}"],"Layers":["layer.tar"]}}]"#),
    )
    .unwrap();
    tar(&work, &files.join("proof.tar"));
}

/// A guest with the driver, and an engine of Debian's.
fn world(name: &str, packages: &[&str]) -> World {
    let cache = prepared("container").unwrap();
    let (lab, files) = vsgpu_tests::real::lab(name);
    let toolkit = stand_in::toolkit_deb(&files);
    let toolkit = toolkit.file_name().unwrap().to_string_lossy().into_owned();
    let guest = Container::boot(&cache, &lab, "vm-01");
    image(&files, &guest.root);
    lab.start();
    let world = World { guest, lab, toolkit };
    // Before there is any engine.
    let engine = if packages.contains(&"podman") { "podman" } else { "docker" };
    let said = world.proof(engine, &format!("image: {IMAGE}, archive: files/proof.tar"), 6);
    assert!(said.contains("is not installed in this guest"), "{said}");
    assert_eq!(world.guest.read("/usr/bin/nvidia-smi"), None, "said before the first change: {said}");
    world.wish("");
    world.lab.expect(0, &["apply", "--yes", "fleet.yaml"]);
    // The root of this guest is an overlay already, which holds no other.
    for folder in ["/var/lib/containers", "/var/lib/docker"] {
        world.guest.must(&["mkdir", "-p", folder]);
        world.guest.must(&["mount", "-t", "tmpfs", "none", folder]);
    }
    let install = [&["apt-get", "install", "-y", "--no-install-recommends"], packages].concat();
    world.guest.must(&install);
    world
}

fn podman_by_root_and_by_a_user() {
    let world = world("podman", &["podman", "crun", "uidmap"]);
    let guest = &world.guest;
    // Its control groups are its host's.
    guest.write(
        "etc/containers/containers.conf",
        "[containers]\ncgroups = \"disabled\"\ndefault_sysctls = []\n",
    );

    // What is not known by its short name, what no registry gives, what is not in the image.
    let said = world.proof("podman", "image: our-own-image", 5);
    assert!(said.contains("which registry a short name of an image is of"), "{said}");
    let said = world.proof("podman", "image: docker.io/library/nosuch", 5);
    assert!(said.contains("its registry is not reached") && said.contains("archive:"), "{said}");
    let right = format!("image: {IMAGE}, archive: files/proof.tar");
    world.proof("podman", &right, 0);
    assert!(world.lab.expect(0, &["verify", "-o", "wide", "fleet.yaml"]).contains("every sum right"));
    world.lab.expect(0, &["plan", "fleet.yaml"]);

    // Stale: it names a library of another driver.
    let cdi = "etc/cdi/nvidia.yaml";
    let fresh = guest.read(cdi).unwrap();
    assert!(fresh.contains("libcuda.so.535.183.01"), "{fresh}");
    guest.write(
        cdi,
        &fresh.replace(
            "hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.535.183.01",
            "hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.525.1",
        ),
    );
    guest.must(&["rm", "/var/lib/vsgpu/container-proof.json"]);
    let said = world.proof("podman", &right, 5);
    assert!(said.contains("is of another driver"), "{said}");
    // Of another driver as a whole: made again.
    guest.write(cdi, &fresh.replace("535.183.01", "525.1"));
    let said = world.proof("podman", &right, 0);
    assert!(said.contains("cdi generate"), "{said}");
    // None at all: made again, too.
    guest.must(&["rm", &format!("/{cdi}"), "/var/lib/vsgpu/container-proof.json"]);
    world.proof("podman", &right, 0);
    assert!(guest.read(cdi).is_some());

    // Without root, as a user who logged in.
    guest.must(&["useradd", "-m", "ml"]);
    world.proof("podman", &format!("user: ml, {right}"), 0);
    let verified = world.lab.expect(0, &["verify", "-o", "wide", "fleet.yaml"]);
    assert!(verified.contains("every sum right"), "{verified}");
}

fn docker_by_nvidias_runtime() {
    let world = world("docker", &["docker.io"]);
    let guest = &world.guest;
    // What this container has not: control groups of its own where the machine's are of version 1, and a network
    // that Docker may change.
    let own_groups = "for c in cpu cpuacct cpuset memory devices freezer blkio pids; do g=/sys/fs/cgroup/$c; [ -d $g ] || continue; umount $g && mount -t cgroup -o $c cgroup $g; done";
    guest.must(&["sh", "-c", own_groups]);
    let parent = guest.cgroup_parent();
    guest.write(
        "etc/systemd/system/docker.service.d/test.conf",
        &format!("[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd -H fd:// --iptables=false --ip-forward=false --bridge=none --cgroup-parent={parent}\n"),
    );
    guest.must(&["systemctl", "daemon-reload"]);
    guest.must(&["systemctl", "restart", "docker"]);

    let said = world.proof("docker", "image: nosuch", 5);
    assert!(said.contains("its registry is not reached") && said.contains("archive:"), "{said}");
    let right = format!("image: {IMAGE}, archive: files/proof.tar");
    world.proof("docker", &right, 0);
    let verified = world.lab.expect(0, &["verify", "-o", "wide", "fleet.yaml"]);
    assert!(
        verified.contains("docker in localhost/proof:1") && verified.contains("every sum right"),
        "{verified}"
    );
    world.lab.expect(0, &["plan", "fleet.yaml"]);

    // Somebody took NVIDIA's runtime out again, and Docker has read it: set up anew.
    guest.write("etc/docker/daemon.json", "{}\n");
    guest.must(&["systemctl", "restart", "docker"]);
    guest.must(&["rm", "/var/lib/vsgpu/container-proof.json"]);
    let said = world.proof("docker", &right, 0);
    assert!(said.contains("runtime configure"), "{said}");
    // Its daemon does not run: systemd's socket would start it, unless it is masked.
    guest.must(&["systemctl", "stop", "docker.socket", "docker"]);
    guest.must(&["systemctl", "mask", "--runtime", "docker"]);
    guest.must(&["rm", "/var/lib/vsgpu/container-proof.json"]);
    let said = world.proof("docker", &right, 5);
    assert!(said.contains("Docker's daemon does not run"), "{said}");
}

fn main() -> std::process::ExitCode {
    vsgpu_tests::harness::main(&[("", TESTS)])
}

const TESTS: &[vsgpu_tests::harness::Test] =
    vsgpu_tests::tests![podman_by_root_and_by_a_user[Container], docker_by_nvidias_runtime[Container]];
