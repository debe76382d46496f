//! A GPU server and clients with real gateways, daemons and users' programs; the engine is a stand-in, the GPUs
//! and systemd are simulated. Set up by hand: the requirements that do so are tried elsewhere.

use crate::fakes::units;
use crate::lab::{Lab, files, free_port, programs, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Build of the engine on both sides.
pub const BUILD: &str = "5f0c3bd6a5b0fd2d2c6a6cf0ab6f3dd0c1ba6d2f25b0eb1d7ad9d6b2a3f1c4e5";

/// A GPU server with so many GPUs, and clients of these teams.
pub struct GpuPool {
    pub lab: Lab,
    pub port: u16,
}

pub fn team(name: &str, gpus: u32, more: Value) -> Value {
    let mut team = json!({ "name": name, "members": [format!("{name}-*")], "gpus": gpus, "weight": 1 });
    team.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    team
}

fn engine() -> Value {
    json!({ "name": "lupine", "build": BUILD, "cuda": "13.3" })
}

fn bundle() -> Value {
    json!({ "file": "by-hand.tar", "sha256": BUILD, "size": 1 })
}

impl GpuPool {
    /// Set up, and started.
    pub fn new(name: &str, gpus: usize, policy: Value, clients: &[&str]) -> Self {
        let pool = Self::set_up(name, gpus, policy, clients);
        for client in clients {
            pool.systemctl(client, &["start", "vsgpu-gpu.service"]);
        }
        pool.serve(gpus);
        pool
    }

    /// Starts the gateway, and waits until it offers all GPUs.
    pub fn serve(&self, gpus: usize) {
        self.systemctl("gpu-srv-1", &["start", "vsgpu-pool.service"]);
        self.all_free(gpus);
    }

    /// Set up only.
    pub fn set_up(name: &str, gpus: usize, policy: Value, clients: &[&str]) -> Self {
        Self::of_servers(name, &[("gpu-srv-1", gpus)], policy, clients)
    }

    /// Several GPU servers, set up only, each with so many GPUs on a host of its own. Questions and the port of this
    /// pool are the first one's.
    pub fn of_servers(name: &str, servers: &[(&str, usize)], policy: Value, clients: &[&str]) -> Self {
        programs();
        let pool = Self { lab: Lab::new(name), port: free_port() };
        let mut asked = vec![];
        for (n, (server, gpus)) in servers.iter().enumerate() {
            let port = if n == 0 { pool.port } else { free_port() };
            pool.server(server, &format!("esx-0{}", n + 1), *gpus, port, &policy);
            asked.push(json!({ "node": server, "address": format!("127.0.0.1:{port}") }));
        }
        for client in clients {
            pool.lab.vm(client, "esx-01");
            pool.write(
                client,
                "/etc/vsgpu/network-gpu.json",
                &json!({ "version": 1, "engine": engine(), "bundle": bundle(), "libraries": format!("/usr/lib/vsgpu/engine/{BUILD}"),
                    "servers": asked, "groups": [] }),
            );
        }
        pool
    }

    fn server(&self, name: &str, host: &str, gpus: usize, port: u16, policy: &Value) {
        let lab = &self.lab;
        let boards = ["0000:3b:00.0", "0000:5e:00.0", "0000:af:00.0", "0000:d8:00.0"];
        lab.host(host, "8.0.2", boards[..gpus].iter().map(|at| files::a100(at)).collect());
        lab.vm(name, host);
        lab.change(host, |m| {
            let given: Vec<String> = m.esxi().gpus.iter().map(|gpu| gpu.bdf.clone()).collect();
            m.esxi().gpus.iter_mut().for_each(|gpu| (gpu.given, gpu.given_pending) = (true, true));
            let path = format!("/vmfs/volumes/datastore1/{name}/{name}.vmx");
            let mut text = m.text(&path).unwrap();
            for (n, bdf) in given.iter().enumerate() {
                let id = bdf.parse::<vsgpu_core::units::Bdf>().unwrap().vmx_id();
                text += &format!("pciPassthru{n}.present = \"TRUE\"\npciPassthru{n}.id = \"{id}\"\npciPassthru{n}.deviceId = \"0x20f1\"\npciPassthru{n}.vendorId = \"0x10de\"\n");
            }
            text += "pciPassthru.use64bitMMIO = \"TRUE\"\npciPassthru.64bitMMIOSizeGB = \"256\"\n";
            m.write(&path, &text);
        });
        lab.change(name, |m| {
            let linux = m.linux();
            linux.driver = Some("580.65.06".into());
            linux.loaded = Some("580.65.06".into());
            linux.nouveau_loaded = false;
            m.link("nvidia-smi");
            for slot in 0..gpus {
                let drop_in = format!("[Service]\nExecStart=\nExecStart=/usr/lib/vsgpu/engine/{BUILD}/lupine_driver_server\nEnvironment=LUPINE_PORT=14833\nEnvironment=CUDA_VISIBLE_DEVICES=GPU-{slot}\n");
                m.write(&format!("/etc/systemd/system/vsgpu-engine@{slot}.service.d/vsgpu.conf"), &drop_in);
            }
            let proof = "[Service]\nEnvironment=LUPINE_SERVER=127.0.0.1:14833\n";
            m.write("/etc/systemd/system/vsgpu-engine-proof@.service.d/vsgpu.conf", proof);
            let engine = m.root(&format!("/usr/lib/vsgpu/engine/{BUILD}/lupine_driver_server"));
            std::fs::create_dir_all(engine.parent().unwrap()).unwrap();
            std::fs::copy(programs().join("vsgpu-stand-in"), engine).unwrap();
        });
        let slots: Vec<Value> = (0..gpus)
            .map(|slot| {
                json!({ "uuid": format!("GPU-simulated-0000:02:0{}.0", slot + 1), "kind": "whole", "memory_mib": 40_960,
                    "name": "NVIDIA A100-PCIE-40GB" })
            })
            .collect();
        self.write(
            name,
            "/etc/vsgpu/gpu-server.json",
            &json!({ "version": 1, "port": port, "engine": engine(), "bundle": bundle(), "policy": policy, "slots": slots }),
        );
    }

    pub fn write(&self, machine: &str, path: &str, document: &Value) {
        self.lab.change(machine, |m| m.write(path, &document.to_string()));
    }

    pub fn systemctl(&self, machine: &str, words: &[&str]) {
        let answer = units::systemctl(&self.lab.machine(machine), words).unwrap();
        assert_eq!(answer.status, 0, "{machine}: {words:?}: {}\n{}", answer.stderr, self.logs());
    }

    pub fn logs(&self) -> String {
        let mut text = String::new();
        for machine in self.lab.machines() {
            for entry in std::fs::read_dir(self.lab.machine(&machine)).unwrap().flatten() {
                let path = entry.path();
                if path.extension().is_some_and(|e| e == "log") && path.to_string_lossy().contains(".service")
                {
                    text += &format!("--- {}\n{}", path.display(), std::fs::read_to_string(&path).unwrap());
                }
            }
        }
        text
    }

    pub fn socket(&self, client: &str) -> PathBuf {
        units::socket(&self.lab.machine(client), "vsgpu-gpu.service")
    }

    /// A user's command.
    pub fn gpu(&self, client: &str, args: &[&str]) -> Command {
        let mut command = Command::new(programs().join("vsgpu-gpu"));
        command.arg("--socket").arg(self.socket(client)).args(args);
        command
    }

    /// A stand-in program with GPUs of another machine.
    pub fn run(&self, client: &str, args: &[&str], mode: &str) -> Running {
        let program = programs().join("vsgpu-stand-in").display().to_string();
        self.command(client, &[&["run"], args, &["--", &program, "program", mode]].concat())
    }

    /// A user's command, begun.
    pub fn command(&self, client: &str, args: &[&str]) -> Running {
        Running::begin(&mut self.gpu(client, args))
    }

    /// What another local user gets who runs a program with a GPU.
    pub fn run_as_nobody(&self, client: &str) -> (Option<i32>, String) {
        // Where that user can read it.
        let program = self.lab.folder.join("vsgpu-gpu");
        std::fs::copy(programs().join("vsgpu-gpu"), &program).unwrap();
        let mut command = Command::new(program);
        command.arg("--socket").arg(self.socket(client)).args(["run", "--", "true"]);
        let output = command.current_dir("/").uid(65_534).gid(65_534).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// What the gateway says of itself.
    pub fn status(&self) -> Value {
        self.status_of("gpu-srv-1")
    }

    pub fn status_of(&self, server: &str) -> Value {
        let answer = units::program(&self.lab.machine(server), "vsgpu-pool", &["status", "-o", "json"]);
        assert_eq!(answer.status, 0, "{}{}", answer.stderr, self.logs());
        serde_json::from_str(&answer.stdout).unwrap()
    }

    pub fn slot(&self, slot: usize) -> String {
        self.status()["slots"][slot]["state"].as_str().unwrap().to_string()
    }

    pub fn audit(&self) -> Vec<Value> {
        let path = self.lab.machine("gpu-srv-1").join("root/var/lib/vsgpu-pool/audit.jsonl");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Why the leases so far ended, when so many are over and written down.
    pub fn ended(&self, count: usize) -> Vec<String> {
        let mut why = vec![];
        wait_until("the ends are written down", Duration::from_secs(20), || {
            let over = self.audit().into_iter().filter(|line| line["event"] == "ended");
            why = over.map(|line| line["why"].as_str().unwrap().to_string()).collect();
            why.len() >= count
        });
        why
    }

    pub fn engine_runs(&self, slot: usize) -> bool {
        units::is_active(&self.lab.machine("gpu-srv-1"), &format!("vsgpu-engine@{slot}.service"))
    }

    pub fn all_free(&self, slots: usize) {
        wait_until("all slots are free", Duration::from_secs(20), || {
            (0..slots).all(|slot| self.slot(slot) == "free")
        });
        (0..slots).for_each(|slot| assert!(!self.engine_runs(slot), "{}", self.logs()));
    }
}

/// What another local user gets from a loopback port: the first line, or nothing. Only root can ask this.
pub fn read_as_nobody(address: &str) -> String {
    let (host, port) = address.split_once(':').unwrap();
    let script = format!("exec 3<>/dev/tcp/{host}/{port}; read -r -t 10 line <&3; printf %s \"$line\"");
    let output = Command::new("bash").args(["-c", &script]).uid(65_534).gid(65_534).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A user's program.
pub struct Running {
    child: Child,
    text: std::sync::Arc<std::sync::Mutex<String>>,
}

impl Running {
    /// Starts it; what it says is kept.
    pub fn begin(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let text = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let pipes: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for mut pipe in pipes {
            let text = text.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                    text.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
                }
            });
        }
        Self { child, text }
    }

    pub fn said(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    pub fn wait_for(&self, words: &str) {
        let end = Instant::now() + Duration::from_secs(30);
        while !self.said().contains(words) {
            assert!(Instant::now() < end, "`{words}` was not said:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn end(mut self) -> (Option<i32>, String) {
        let mut status = None;
        wait_until(&format!("it ends: {}", self.said()), Duration::from_secs(60), || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        // What is still in its pipes.
        wait_until("its pipes close", Duration::from_secs(5), || {
            std::sync::Arc::strong_count(&self.text) == 1
        });
        (status.unwrap().code(), self.said())
    }

    pub fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn two_teams() -> Value {
    json!({ "teams": [team("ml", 2, json!({})), team("ci", 1, json!({}))] })
}
