//! A fleet of simulated machines with *real* agents: real processes, real gRPC over mutual TLS on loopback,
//! real files. The lab plays the power button: a machine that reboots loses its agent and gets it back in
//! another boot.

mod build;
pub mod cuda_toolkit;
pub mod delay;
pub mod files;
pub mod gpu_pool;
pub mod lupine;
pub mod small_fleet;
pub mod sshd;
pub mod terminal;

pub use crate::fakes::read_only_calls::only_looks;
pub use build::{cargo, package, programs, programs_aloud, workspace};
pub use files::untouched_host;

use crate::fakes::state::{self, Gpu, Linux, Machine, Vm};
use crate::fakes::units;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const TOKEN: &str = "simulated client configuration token";
pub const LICENSE_SERVER: &str = "licenses.lab";
pub const HOST_TOOLS: [&str; 5] = ["esxcli", "vim-cmd", "vmkload_mod", "vmkfstools", "vsish"];
const GUEST_TOOLS: [&str; 26] = [
    "modprobe",
    "modinfo",
    "systemctl",
    "apt-get",
    "dpkg",
    "dpkg-query",
    "update-initramfs",
    "gcc",
    "make",
    "dkms",
    "journalctl",
    "timedatectl",
    "ln",
    "nvidia-installer",
    "cuda-installer",
    "mkdir",
    "stat",
    "find",
    "chmod",
    "tar",
    "vsgpu-pool",
    "vsgpu-gpu",
    "vsgpu-cuda-proof",
    "vsgpu-cuda-samples",
    "g++",
    "cmake",
];

/// How a machine comes back from a reboot.
#[derive(Clone, Debug, PartialEq)]
pub enum Boot {
    Well,
    Never,
    /// With the image it had before.
    OldImage,
    /// For so long each time, then it reboots again by itself.
    Loop(Duration),
    Late(Duration),
    /// With a clock that is wrong by this, as libfaketime writes it: `+1h`.
    WrongClock(&'static str),
}

/// What shifts the clock of an agent, where it is here (Debian's package faketime).
pub const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// A running lab. Dropping it ends every process and removes its folder.
pub struct Lab {
    pub folder: PathBuf,
    inner: Arc<Inner>,
}

struct Inner {
    folder: PathBuf,
    agents: Mutex<BTreeMap<String, Child>>,
    ports: Mutex<BTreeMap<String, (u16, u16)>>,
    /// How long a simulated boot takes.
    boot: Duration,
    /// How machines come back from their next reboots, where not as they should.
    boots: Mutex<BTreeMap<String, Boot>>,
    /// Machines whose clock is wrong.
    clocks: Mutex<BTreeMap<String, &'static str>>,
    /// Over: nothing is started any more.
    over: AtomicBool,
    /// Another program in the place of the host agent (the build for ESXi, a tracer around it).
    host_agent: Mutex<Option<Vec<String>>>,
    /// Hosts that are reached over ssh, and the agents beside them.
    sshds: Mutex<BTreeMap<String, sshd::Sshd>>,
    gateways: Mutex<BTreeMap<String, Child>>,
}

/// A port nobody listens on, below the range from which the kernel takes ports for outgoing connections: an
/// agent that comes back must find its port still free.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let port = 10_000 + (std::process::id() * 61 + NEXT.fetch_add(1, Ordering::SeqCst)) % 20_000;
        if std::net::TcpListener::bind(("127.0.0.1", port as u16)).is_ok() {
            return port as u16;
        }
    }
}

/// Waits for a condition, with a deadline.
pub fn wait_until(what: &str, within: Duration, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + within;
    while !so() {
        assert!(Instant::now() < end, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The longest that a command may take here: a test that would wait for ever says so instead.
pub const ANSWER: Duration = Duration::from_secs(300);

impl Lab {
    /// An empty lab in a folder of its own.
    pub fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("vsgpu-lab-{name}-{}-{}", std::process::id(), free_port()));
        std::fs::create_dir_all(folder.join("machines")).unwrap();
        let inner = Inner {
            folder: folder.clone(),
            agents: Mutex::default(),
            ports: Mutex::default(),
            boot: Duration::from_millis(300),
            boots: Mutex::default(),
            clocks: Mutex::default(),
            over: AtomicBool::new(false),
            host_agent: Mutex::default(),
            sshds: Mutex::default(),
            gateways: Mutex::default(),
        };
        let inner = Arc::new(inner);
        let listener = UnixListener::bind(folder.join("lab.sock")).unwrap();
        let hears = inner.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hears = hears.clone();
                std::thread::spawn(move || {
                    let mut line = String::new();
                    let _ = BufReader::new(stream).read_line(&mut line);
                    if let Some((word, name)) = line.trim().split_once(' ') {
                        hears.power(word, name);
                    }
                });
            }
        });
        vsgpu_wire::pki::init(&folder.join("pki"), std::time::SystemTime::now()).unwrap();
        Self { folder, inner }
    }

    pub fn machine(&self, name: &str) -> PathBuf {
        self.folder.join("machines").join(name)
    }

    /// Adds a host that was never touched.
    pub fn host(&self, name: &str, version: &str, gpus: Vec<Gpu>) {
        let machine = untouched_host(name, version, gpus);
        let folder = self.machine(name);
        Machine::create(&folder, &machine);
        for tool in HOST_TOOLS {
            state::link(&folder.join("tools").join(tool));
        }
        let initd = folder.join("root/etc/init.d");
        state::link(&initd.join("xorg"));
        if !version.starts_with('6') {
            state::link(&initd.join("nvdGpuMgmtDaemon"));
            state::link(&folder.join("tools/nv-hostengine"));
        }
        std::fs::create_dir_all(folder.join("root/vmfs/volumes/datastore1")).unwrap();
        std::fs::create_dir_all(folder.join("root/tmp")).unwrap();
        self.ports_of(name);
        vsgpu_wire::pki::issue_node(
            &self.folder.join("pki"),
            name,
            "host",
            365,
            std::time::SystemTime::now(),
        )
        .unwrap();
    }

    /// Adds a running VM with a fresh Debian: nouveau loaded, a display manager running.
    pub fn vm(&self, name: &str, host: &str) {
        self.vm_without_guest(name, host);
        let packages = ["nouveau", "gdm3"].map(String::from).into();
        let linux = Linux {
            kernel: "6.1.0-28-amd64".into(),
            packages,
            nouveau_loaded: true,
            display_manager: true,
            graphical: true,
            host: host.into(),
            vm_name: name.into(),
            license_server: LICENSE_SERVER.into(),
            token: TOKEN.into(),
            ..Linux::default()
        };
        let folder = self.machine(name);
        Machine::create(&folder, &Machine { linux: Some(linux), ..Machine::default() });
        units::choose_ports(&folder);
        for tool in GUEST_TOOLS {
            state::link(&folder.join("tools").join(tool));
        }
        for program in ["vsgpu-cuda-proof", "vsgpu-pool", "vsgpu-gpu"] {
            state::link(&folder.join("root/usr/bin").join(program));
        }
        std::fs::create_dir_all(folder.join("root/root")).unwrap();
        // The daemon for network GPUs asks the kernel whose a connection is.
        let table = folder.join("root/proc/net/tcp");
        std::fs::create_dir_all(table.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("/proc/net/tcp", table).unwrap();
        Machine::with(&folder, |m| {
            m.write(
                "/etc/os-release",
                "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm, simulated)\"\nID=debian\nVERSION_ID=\"12\"\n",
            )
        });
        state::boot(&folder);
        self.ports_of(name);
        vsgpu_wire::pki::issue_node(
            &self.folder.join("pki"),
            name,
            "guest",
            365,
            std::time::SystemTime::now(),
        )
        .unwrap();
    }

    /// Adds a running VM whose inside is somebody else's matter: only its host knows it.
    pub fn vm_without_guest(&self, name: &str, host: &str) {
        Machine::with(&self.machine(host), |m| {
            let file = format!("{name}/{name}.vmx");
            m.write(&format!("/vmfs/volumes/datastore1/{file}"), &format!(".encoding = \"UTF-8\"\nconfig.version = \"8\"\nvirtualHW.version = \"19\"\ndisplayName = \"{name}\"\nfirmware = \"efi\"\nmemSize = \"8192\"\nnumvcpus = \"4\"\nguestOS = \"debian11-64\"\n"));
            let vmid = m.esxi().vms.len() as u32 + 1;
            m.esxi().vms.push(Vm {
                vmid,
                name: name.into(),
                datastore: "datastore1".into(),
                file,
                on: true,
                ..Vm::default()
            });
        });
    }

    fn ports_of(&self, name: &str) -> (u16, u16) {
        *self.inner.ports.lock().unwrap().entry(name.into()).or_insert_with(|| (free_port(), free_port()))
    }

    /// A host that never has an agent of its own: its vCenter is asked.
    pub fn served_by_vcenter(&self, name: &str) {
        self.inner.ports.lock().unwrap().remove(name);
    }

    /// Address of an agent.
    pub fn address(&self, name: &str) -> String {
        format!("127.0.0.1:{}", self.ports_of(name).0)
    }

    /// Address of its metrics.
    pub fn metrics(&self, name: &str) -> String {
        format!("127.0.0.1:{}", self.ports_of(name).1)
    }

    /// Starts the agents of all machines that run.
    pub fn start(&self) {
        programs();
        for name in self.machines() {
            self.inner.start(&name);
        }
    }

    /// Names of all machines that can have an agent.
    pub fn machines(&self) -> Vec<String> {
        self.inner.ports.lock().unwrap().keys().cloned().collect()
    }

    pub fn start_agent(&self, name: &str) {
        self.inner.start(name);
    }

    pub fn stop_agent(&self, name: &str) {
        self.inner.stop(name);
    }

    /// Kills an agent and starts it again, unless its machine is down: a boot starts it then.
    pub fn restart_agent(&self, name: &str) {
        if self.agent_pid(name).is_some() {
            self.inner.stop(name);
            self.inner.start(name);
        }
    }

    /// How a machine comes back from its reboots from now on.
    pub fn boots(&self, name: &str, boot: Boot) {
        self.inner.boots.lock().unwrap().insert(name.into(), boot);
    }

    /// Runs host agents by this command line instead.
    pub fn host_agent_by(&self, command: Vec<String>) {
        *self.inner.host_agent.lock().unwrap() = Some(command);
    }

    /// Process id of an agent.
    pub fn agent_pid(&self, name: &str) -> Option<u32> {
        self.inner.agents.lock().unwrap().get(name).map(Child::id)
    }

    pub fn state(&self, name: &str) -> Machine {
        Machine::read(&self.machine(name))
    }

    pub fn change(&self, name: &str, change: impl FnOnce(&mut Machine)) {
        Machine::with(&self.machine(name), change);
    }

    /// Every call of every tool of a machine, oldest first.
    pub fn calls(&self, name: &str) -> Vec<String> {
        std::fs::read_to_string(self.machine(name).join("calls.log"))
            .unwrap_or_default()
            .lines()
            .map(String::from)
            .collect()
    }

    pub fn forget_calls(&self) {
        for name in self.machines() {
            let _ = std::fs::remove_file(self.machine(&name).join("calls.log"));
        }
    }

    /// Calls that change a machine; all other calls only look.
    pub fn changing_calls(&self, name: &str) -> Vec<String> {
        self.calls(name).into_iter().filter(|c| !only_looks(c)).collect()
    }

    /// The controller's command line in the lab's folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(programs().join("vsgpu"));
        command.args(args).current_dir(&self.folder).env_remove("RUST_BACKTRACE");
        command
    }

    pub fn vsgpu(&self, args: &[&str]) -> Output {
        let mut command = self.command(args);
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        let (tx, rx) = std::sync::mpsc::channel();
        std::thread::spawn(move || tx.send(child.wait_with_output()));
        let Ok(output) = rx.recv_timeout(ANSWER) else {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid as i32),
                nix::sys::signal::Signal::SIGKILL,
            );
            let said = rx.recv().map(|o| o.unwrap());
            panic!("vsgpu {}: no end within {ANSWER:?}: {said:#?}\n{}", args.join(" "), self.logs());
        };
        output.unwrap()
    }

    /// Runs the controller; its exit status must be this one.
    pub fn expect(&self, status: i32, args: &[&str]) -> String {
        let output = self.vsgpu(args);
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        assert_eq!(
            output.status.code(),
            Some(status),
            "vsgpu {}\n--- stdout\n{out}\n--- stderr\n{err}\n{}",
            args.join(" "),
            self.logs()
        );
        format!("{out}{err}")
    }

    /// The agents' logs, for a failing test.
    pub fn logs(&self) -> String {
        let tail = |name: &String| {
            let text = std::fs::read_to_string(self.machine(name).join("agent.log")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(12)..].join("\n"))
        };
        self.machines().iter().map(tail).collect()
    }

    /// The fleet of the demo: an A100 host on vGPU 16.6, a P100 host on vGPU 6.0, a host that gives three
    /// A100 away; five VMs.
    pub fn demo_fleet(&self) {
        self.host("esx-01", "8.0.2", vec![files::a100("0000:3b:00.0"), files::a100("0000:af:00.0")]);
        self.host("esx-02", "6.7.0", vec![files::p100("0000:3b:00.0")]);
        self.vm("vm-01", "esx-01");
        self.vm("vm-02", "esx-01");
        self.host(
            "esx-03",
            "8.0.3",
            ["0000:0d:00.0", "0000:5e:00.0", "0000:af:00.0"].map(files::a100).into(),
        );
        self.vm("vm-03", "esx-02");
        self.vm("vm-04", "esx-03");
        self.vm("vm-05", "esx-03");
        files::write_all(&self.folder.join("files"));
        self.write_fleet(&files::fleet(self));
    }

    /// The fleet of `packaging/examples/large.yaml`, on simulated hosts that fit it.
    pub fn large_fleet(&self) {
        self.host(
            "esx-01",
            "8.0.3",
            ["0000:3b:00.0", "0000:5e:00.0", "0000:af:00.0"].map(files::a100).to_vec(),
        );
        self.host("esx-02", "6.7.0", vec![files::p100("0000:3b:00.0")]);
        let newer = |gpu: Gpu| Gpu { applies_at_once: true, ..gpu };
        self.host(
            "esx-03",
            "8.0.3",
            vec![files::a100("0000:3b:00.0"), files::a100("0000:5e:00.0"), newer(files::t4("0000:af:00.0"))],
        );
        self.host("esx-04", "6.7.0", ["0000:3b:00.0", "0000:af:00.0"].map(files::t4).to_vec());
        let vms = [
            ("vm-11", 1),
            ("vm-12", 1),
            ("vm-13", 1),
            ("vm-14", 1),
            ("vm-21", 2),
            ("vm-31", 3),
            ("vm-32", 3),
            ("base", 4),
        ];
        for (vm, host) in vms {
            self.vm(vm, &format!("esx-0{host}"));
        }
        self.change("esx-04", |m| {
            m.esxi().vms[0].on = false;
            let path = "/vmfs/volumes/datastore1/base/base.vmx";
            let text =
                m.text(path).unwrap() + "scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"base.vmdk\"\n";
            m.write(path, &text);
            m.write("/vmfs/volumes/datastore1/base/base.vmdk", "simulated disk\n");
        });
        files::write_all(&self.folder.join("files"));
        let mut text = std::fs::read_to_string(workspace().join("packaging/examples/large.yaml")).unwrap();
        for name in self.machines() {
            text = text.replace(&format!("{name}.lab.local:7443"), &self.address(&name));
        }
        self.write_fleet(&text);
    }

    pub fn write_fleet(&self, text: &str) {
        std::fs::write(self.folder.join("fleet.yaml"), text).unwrap();
    }

    pub fn fleet(&self) -> String {
        std::fs::read_to_string(self.folder.join("fleet.yaml")).unwrap()
    }
}

impl Inner {
    fn start(&self, name: &str) {
        let machine = Machine::read(&self.folder.join("machines").join(name));
        let role = if machine.esxi.is_some() { "host" } else { "guest" };
        if !self.ports.lock().unwrap().contains_key(name) {
            return;
        }
        let sshd = self.sshds.lock().unwrap().get(name).cloned();
        if let Some(sshd) = sshd {
            return self.start_over_ssh(name, &sshd);
        }
        if let Some(old) = self.agents.lock().unwrap().remove(name) {
            end(old);
        }
        let child = self.spawn_agent(name, role, &[]);
        let mut agents = self.agents.lock().unwrap();
        // A machine that booted while the lab was taken down leaves nothing behind: whoever takes it down has
        // said so before.
        if self.over.load(Ordering::SeqCst) {
            return end(child);
        }
        agents.insert(name.into(), child);
    }

    /// Starts the agent of a machine and waits until it listens.
    fn spawn_agent(&self, name: &str, role: &str, more: &[String]) -> Child {
        let folder = self.folder.join("machines").join(name);
        let (port, metrics) = self.ports.lock().unwrap()[name];
        let ready = folder.join("agent.ready");
        let _ = std::fs::remove_file(&ready);
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(folder.join("agent.log")).unwrap();
        let own = if role == "host" { self.host_agent.lock().unwrap().clone() } else { None };
        let own =
            own.unwrap_or_else(|| vec![programs().join(format!("vsgpu-{role}-agent")).display().to_string()]);
        let mut command = Command::new(&own[0]);
        command
            .args(&own[1..])
            .arg("serve")
            .arg("--pki")
            .arg(self.folder.join("pki").join(format!("{name}.{role}")));
        command
            .arg("--listen")
            .arg(format!("127.0.0.1:{port}"))
            .arg("--metrics")
            .arg(format!("127.0.0.1:{metrics}"));
        command
            .arg("--tools")
            .arg(folder.join("tools"))
            .arg("--root")
            .arg(folder.join("root"))
            .arg("--ready-file")
            .arg(&ready);
        command.args(["--observe-every", "5"]).args(more).env("VSGPU_SIM", programs().join("vsgpu-sim"));
        if let Some(shift) = self.clocks.lock().unwrap().get(name) {
            // Only the date is wrong: the time since boot never is.
            command
                .env("LD_PRELOAD", FAKETIME)
                .env("FAKETIME", shift)
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        wait_until(
            &format!(
                "agent of {name} listens\n{}",
                std::fs::read_to_string(folder.join("agent.log")).unwrap_or_default()
            ),
            Duration::from_secs(60),
            || ready.exists() || self.over.load(Ordering::SeqCst),
        );
        child
    }

    fn stop(&self, name: &str) {
        let agent = self.agents.lock().unwrap().remove(name);
        agent.iter().for_each(|agent| self.cut(name, agent));
        agent.into_iter().for_each(end);
    }

    /// Its power is cut: what ran on it runs no more.
    fn power_cut(&self, name: &str) {
        self.stop(name);
        units::kill_all(&self.folder.join("machines").join(name));
    }

    fn power(&self, word: &str, name: &str) {
        let folder = self.folder.join("machines").join(name);
        match word {
            "stop" => self.power_cut(name),
            "agent" => self.start_installed(name),
            "start" | "reboot" => {
                // The tool that asked for it answers first, as `reboot` does.
                std::thread::sleep(Duration::from_millis(100));
                self.power_cut(name);
                let script = self.boots.lock().unwrap().get(name).cloned().unwrap_or(Boot::Well);
                if script == Boot::Never || self.over.load(Ordering::SeqCst) || !folder.exists() {
                    return;
                }
                std::thread::sleep(self.boot);
                match script {
                    Boot::Late(more) => std::thread::sleep(more),
                    // What was installed is on the other image.
                    Boot::OldImage => Machine::with(&folder, |m| {
                        if let Some(host) = &mut m.esxi {
                            host.staged.clear();
                            host.vibs.retain(|vib| !state::is_manager(vib));
                            host.gpus.iter_mut().for_each(|gpu| gpu.given_pending = gpu.given);
                        }
                    }),
                    Boot::WrongClock(shift) => drop(self.clocks.lock().unwrap().insert(name.into(), shift)),
                    Boot::Loop(_) | Boot::Well | Boot::Never => {}
                }
                state::boot(&folder);
                units::boot(&folder);
                self.start(name);
                if let Boot::Loop(up) = script {
                    std::thread::sleep(up);
                    self.power("reboot", name);
                }
            }
            _ => {}
        }
    }
}

/// Ends an agent with everything around it (a tracer, say).
fn end(mut agent: Child) {
    let group = nix::unistd::Pid::from_raw(agent.id() as i32);
    let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    let _ = agent.wait();
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.inner.over.store(true, Ordering::SeqCst);
        for name in self.machines() {
            self.inner.power_cut(&name);
        }
        let gateways = std::mem::take(&mut *self.inner.gateways.lock().unwrap());
        gateways.into_values().for_each(end);
        if !std::thread::panicking() || std::env::var_os("VSGPU_KEEP_LAB").is_none() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
