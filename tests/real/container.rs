//! A Debian that boots systemd in a container of systemd-nspawn, on a copy-on-write layer over the prepared
//! tree, in a network namespace of its own with nothing but its host in reach: packages come through a real
//! proxy there.

use super::{furnish, sh};
use crate::lab::{Lab, wait_until};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Enters the groups that are its name, by the shell's own words alone: a child of it would be taken for the
/// container's systemd.
const INTO_ITS_GROUP: &str =
    r#"for group in $0; do echo $$ >$group/cgroup.procs || exit 1; done; exec systemd-nspawn "$@""#;

/// The trees of control groups that there are.
fn trees() -> impl Iterator<Item = PathBuf> {
    let all = ["systemd", "unified", "."].into_iter().map(|tree| Path::new("/sys/fs/cgroup").join(tree));
    all.filter(|tree| tree.join("cgroup.procs").exists())
}

/// Two systemds in one control group would stop each other's services: each boot gets a group of its own, in
/// every tree that can be written. (Of its own because one that was used hands its controllers on, and takes
/// no process any more.)
fn own_groups(namespace: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("{namespace}-{}", NEXT.fetch_add(1, Ordering::SeqCst));
    let made = trees().map(|tree| tree.join(&name)).filter(|group| std::fs::create_dir_all(group).is_ok());
    made.map(|group| group.display().to_string()).collect::<Vec<_>>().join(" ")
}

/// Trees of control groups of version 1, one for each kind.
fn kinds() -> impl Iterator<Item = PathBuf> {
    let kinds = ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"];
    kinds.into_iter().map(|kind| Path::new("/sys/fs/cgroup").join(kind)).filter(|tree| tree.is_dir())
}

/// All that were made for it, which are free once its last process is gone.
fn remove_groups(namespace: &str) {
    let named = |path: &PathBuf| {
        path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&format!("{namespace}-")))
    };
    let left = || {
        trees()
            .chain(kinds())
            .flat_map(|tree| std::fs::read_dir(tree).into_iter().flatten().flatten())
            .map(|e| e.path())
            .filter(named)
    };
    let end = Instant::now() + Duration::from_secs(5);
    while left().next().is_some() && Instant::now() < end {
        let _ = Command::new("find")
            .args(left())
            .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", "+"])
            .stderr(Stdio::null())
            .status();
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A running container. Dropping it ends everything and gives back mounts and namespaces.
pub struct Container {
    pub name: String,
    /// Its file system, as the host sees it.
    pub root: PathBuf,
    /// What tells that it is up: its agent's port, or its sshd's.
    port: u16,
    work: PathBuf,
    number: u8,
    child: Arc<Mutex<Option<Child>>>,
    /// Counts starts and ends: what watches an earlier start stops watching.
    turn: Arc<AtomicU64>,
    proxy: Child,
}

impl Container {
    /// Boots one whose guest agent belongs to `lab`. The running kernel is said to be the tree's own, so that
    /// its headers fit.
    pub fn boot(cache: &Path, lab: &Lab, name: &str) -> Self {
        Self::boot_as(cache, lab, name, true)
    }

    /// The same without an agent: `vsgpu bootstrap` brings it.
    pub fn boot_bare(cache: &Path, lab: &Lab, name: &str) -> Self {
        Self::boot_as(cache, lab, name, false)
    }

    fn boot_as(cache: &Path, lab: &Lab, name: &str, enrolled: bool) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let work = cache.join(format!("run-{}-{number}", std::process::id()));
        let root = work.join("root");
        for folder in ["root", "upper", "work"] {
            std::fs::create_dir_all(work.join(folder)).unwrap();
        }
        let tree = cache.join("container").canonicalize().unwrap();
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            tree.display(),
            work.join("upper").display(),
            work.join("work").display()
        );
        sh("mount", &["-t", "overlay", "vsgpu-test", "-o", &layers, &root.display().to_string()]);
        let modules = std::fs::read_dir(tree.join("lib/modules"))
            .unwrap()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned());
        let kernel = modules.max().expect("the tree has a kernel");
        furnish(&root, lab, name, Some(&kernel), enrolled);
        std::fs::write(root.join("etc/vsgpu-stand-in/container"), "").unwrap();
        std::fs::write(root.join("etc/resolv.conf"), "").unwrap();
        let this = Self {
            name: name.into(),
            root,
            port: if enrolled { 7443 } else { 22 },
            work,
            number,
            child: Arc::default(),
            turn: Arc::default(),
            proxy: Command::new("true").spawn().unwrap(),
        };
        this.with_network().start()
    }

    fn namespace(&self) -> String {
        format!("vsgpu-{}-{}", std::process::id(), self.number)
    }

    fn host_address(&self) -> String {
        format!("10.{}.{}.1", 100 + std::process::id() % 100, self.number)
    }

    /// Its own address.
    pub fn address(&self) -> String {
        format!("10.{}.{}.2", 100 + std::process::id() % 100, self.number)
    }

    /// A name for control groups of a container engine in it: they go with it.
    pub fn cgroup_parent(&self) -> String {
        format!("{}-engine", self.namespace())
    }

    /// The proxy that it reaches packages through.
    pub fn proxy(&self) -> String {
        format!("http://{}:3128", self.host_address())
    }

    fn with_network(mut self) -> Self {
        let (ns, link) = (self.namespace(), format!("vsgpu{}-{}", std::process::id() % 10_000, self.number));
        // A run that was killed has left its link: with the same addresses nothing would reach this one.
        let network = format!("10.{}.{}.0/24", 100 + std::process::id() % 100, self.number);
        for left in sh("ip", &["-o", "route", "show", &network]).lines() {
            let device = left.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap_or_default();
            if device.starts_with("vsgpu") {
                sh("ip", &["link", "del", device]);
            }
        }
        sh("ip", &["netns", "add", &ns]);
        sh("ip", &["link", "add", &link, "type", "veth", "peer", "name", "host0", "netns", &ns]);
        sh("ip", &["addr", "add", &format!("{}/24", self.host_address()), "dev", &link]);
        sh("ip", &["link", "set", &link, "up"]);
        for args in [
            vec!["addr", "add", &format!("{}/24", self.address()), "dev", "host0"],
            vec!["link", "set", "host0", "up"],
            vec!["link", "set", "lo", "up"],
        ] {
            sh("ip", &[vec!["-n", ns.as_str()], args].concat());
        }
        let conf = self.work.join("tinyproxy.conf");
        let text = format!(
            "Port 3128\nListen {0}\nTimeout 600\nAllow {0}/24\nLogFile \"{1}\"\nConnectPort 443\n",
            self.host_address(),
            self.work.join("proxy.log").display()
        );
        std::fs::write(&conf, text).unwrap();
        let _ = self.proxy.wait();
        self.proxy = Command::new("tinyproxy")
            .arg("-d")
            .arg("-c")
            .arg(conf)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self
    }

    /// Everything that went through the proxy.
    pub fn proxied(&self) -> String {
        std::fs::read_to_string(self.work.join("proxy.log")).unwrap_or_default()
    }

    fn spawn(name: &str, root: &Path, namespace: &str, console: &Path) -> Child {
        let console = std::fs::OpenOptions::new().create(true).append(true).open(console).unwrap();
        let mut nspawn = Command::new("sh");
        nspawn.args(["-c", INTO_ITS_GROUP, &own_groups(namespace)]);
        nspawn.args([
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--boot",
            "--console=pipe",
            "--resolv-conf=off",
            "--timezone=off",
            // A VM's root sets up namespaces of its own.
            "--capability=CAP_NET_ADMIN",
            // A VM's kernel has these calls; container engines need them.
            "--system-call-filter=add_key keyctl bpf",
        ]);
        nspawn
            .arg("--directory")
            .arg(root)
            .args(["--machine", namespace])
            .args(["--hostname", name])
            .arg(format!("--network-namespace-path=/run/netns/{namespace}"));
        nspawn
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .expect("systemd-nspawn")
    }

    fn start(self) -> Self {
        self.power_on();
        self
    }

    /// Starts it; a reboot from inside ends nspawn, and it is started again.
    pub fn power_on(&self) {
        let (name, root, namespace, console) =
            (self.name.clone(), self.root.clone(), self.namespace(), self.work.join("console.log"));
        let own = self.turn.fetch_add(1, Ordering::SeqCst) + 1;
        *self.child.lock().unwrap() = Some(Self::spawn(&name, &root, &namespace, &console));
        let (child, turn) = (self.child.clone(), self.turn.clone());
        std::thread::spawn(move || {
            loop {
                let mut child = child.lock().unwrap();
                if turn.load(Ordering::SeqCst) != own {
                    break;
                }
                if child.as_mut().is_some_and(|c| c.try_wait().ok().flatten().is_some()) {
                    *child = Some(Self::spawn(&name, &root, &namespace, &console));
                }
                drop(child);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        self.answers();
    }

    fn listens(&self) -> bool {
        let address = format!("{}:{}", self.address(), self.port).parse().unwrap();
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
    }

    fn answers(&self) {
        wait_until(
            &format!("what answers in {} listens\n{}", self.name, self.console()),
            Duration::from_secs(60),
            || self.listens(),
        );
        wait_until(
            &format!("the simulated silicon of {} is in place", self.name),
            Duration::from_secs(30),
            || self.silicon().0,
        );
    }

    /// Whether what stands for the GPU, and for the kernel that is said to run, is where programs look for
    /// it; and what is there.
    fn silicon(&self) -> (bool, String) {
        let Some(init) = self.init().map(|pid| pid.to_string()) else {
            return (false, "it does not run".into());
        };
        let look = |args: &[&str]| {
            let output = Command::new("timeout")
                .args(["20", "nsenter", "-t", &init, "-a"])
                .args(args)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let (active, status) = look(&["systemctl", "status", "--no-pager", "--full", "stand-in-silicon"]);
        let (_, mounts) = look(&["grep", "stand-in", "/proc/self/mountinfo"]);
        (active && ["pci", "osrelease"].iter().all(|what| mounts.contains(what)), status + &mounts)
    }

    /// Process id of its systemd.
    fn init(&self) -> Option<u32> {
        let nspawn = self.child.lock().unwrap().as_ref()?.id();
        let children = std::fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Runs a program inside; its output and whether it succeeded.
    pub fn run(&self, args: &[&str]) -> (bool, String) {
        let init = self.init().expect("a running container").to_string();
        let output = Command::new("nsenter")
            .args(["-t", &init, "-a"])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    /// The same, and it must succeed.
    pub fn must(&self, args: &[&str]) -> String {
        let (good, text) = self.run(args);
        assert!(good, "{}: {text}", args.join(" "));
        text
    }

    /// A program that keeps running inside.
    pub fn background(&self, args: &[&str]) -> Child {
        let init = self.init().expect("a running container").to_string();
        Command::new("nsenter")
            .args(["-t", &init, "-a"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// The kernel's id of the running boot, as the guest sees it; nothing while it is down. Read from
    /// outside: a program that is sent into a machine that goes down keeps it from doing so.
    pub fn boot_id(&self) -> Option<String> {
        std::fs::read_to_string(format!("/proc/{}/root/proc/sys/kernel/random/boot_id", self.init()?)).ok()
    }

    /// The plug is pulled: every process of it ends at once, nothing is told.
    pub fn power_cut(&self) {
        self.turn.fetch_add(1, Ordering::SeqCst);
        if let Some(init) = self.init() {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(init as i32),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
            // The kernel ends a whole namespace in its own time; a listener of the old boot must not be taken
            // for one of the next.
            wait_until("the container is off", Duration::from_secs(20), || !self.listens());
        }
    }

    /// Writes a file inside.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Reads a file inside; nothing where it is not there.
    pub fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(path.trim_start_matches('/'))).ok()
    }

    pub fn remove(&self, path: &str) {
        let path = self.root.join(path.trim_start_matches('/'));
        let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(path));
    }

    /// The last lines of its console, for a failing test.
    pub fn console(&self) -> String {
        let text = std::fs::read_to_string(self.work.join("console.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- console of {}\n{}\n--- its silicon\n{}",
                self.name,
                self.console(),
                self.silicon().1
            );
        }
        self.power_cut();
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
        remove_groups(&self.namespace());
        let _ = Command::new("ip").args(["netns", "del", &self.namespace()]).status();
        let _ = Command::new("umount").args(["-R", "-l"]).arg(&self.root).status();
        if !std::thread::panicking() || std::env::var_os("VSGPU_KEEP_LAB").is_none() {
            let _ = std::fs::remove_dir_all(&self.work);
        }
    }
}
