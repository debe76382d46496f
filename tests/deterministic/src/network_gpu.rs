//! Faults of the programs for GPUs over the network: a gateway and a daemon in this process, so that a failpoint
//! reaches them, with real sockets, TLS and users' programs. Real time: what they decide is simulated elsewhere
//! (`pool`).

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vsgpu_core::System;
use vsgpu_machine::Posix;
use vsgpu_network_gpu::{client, gateway};
use vsgpu_tests::fakes::units;
use vsgpu_tests::lab::gpu_pool::{BUILD, GpuPool, read_as_nobody, team};
use vsgpu_wire::client::{Connector, Target};
use vsgpu_wire::pool::client::{Gateway, tunnel};
use vsgpu_wire::pool::v1::{self, from_gateway::Said};

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// Another node shows a ticket.
    Ticket,
    /// A program is silent while its GPU works.
    Idle,
    /// Another local user comes to a lease's port.
    Port,
}

const WITHIN: Duration = Duration::from_secs(30);

fn policy() -> Value {
    json!({ "teams": [team("ml", 1, json!({}))], "idle_release": 4_000 })
}

/// Tries it.
///
/// # Errors
/// What went wrong.
pub fn live(trial: Trial) -> Result<(), String> {
    let name = format!("faults-{trial:?}").to_lowercase();
    let pool = GpuPool::set_up(&name, 1, policy(), &["ml-1", "ml-2"]);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let result = runtime.block_on(async {
        serve(&pool);
        match trial {
            Trial::Ticket => ticket(&pool).await,
            Trial::Idle => idle(&pool).await,
            Trial::Port => port(&pool).await,
        }
    });
    runtime.shutdown_background();
    units::kill_all(&pool.lab.machine("gpu-srv-1"));
    result
}

fn system(machine: &Path) -> Arc<dyn System> {
    Arc::new(Posix::new(Some(machine.join("tools")), machine.join("root")))
}

fn serve(pool: &GpuPool) {
    let machine = pool.lab.machine("gpu-srv-1");
    let state = machine.join("root/var/lib/vsgpu-pool");
    std::fs::create_dir_all(&state).unwrap();
    let options = gateway::Options {
        system: system(&machine),
        pki: pool.lab.folder.join("pki/gpu-srv-1.guest"),
        state,
        socket: units::socket(&machine, "vsgpu-pool.service"),
        place: gateway::Place::Loopback(units::engines_from(&machine)),
    };
    tokio::spawn(gateway::serve(options, || {}));
    let machine = pool.lab.machine("ml-1");
    let options = client::Options {
        system: system(&machine),
        pki: pool.lab.folder.join("pki/ml-1.guest"),
        socket: units::socket(&machine, "vsgpu-gpu.service"),
    };
    tokio::spawn(client::serve(options, || {}));
}

async fn until(what: &str, mut so: impl FnMut() -> bool) -> Result<(), String> {
    let end = Instant::now() + WITHIN;
    while !so() {
        if Instant::now() > end {
            return Err(format!("not within {WITHIN:?}: {what}"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn ticket(pool: &GpuPool) -> Result<(), String> {
    let pki = |name: &str| pool.lab.folder.join(format!("pki/{name}.guest"));
    let target =
        Target { address: format!("127.0.0.1:{}", pool.port), node: "gpu-srv-1".into(), role: "guest" };
    let connector = Connector::of_guest(&pki("ml-1")).map_err(|e| e.to_string())?;
    let end = Instant::now() + WITHIN;
    let gateway = loop {
        match Gateway::open(&connector, &target, WITHIN).await {
            Ok(gateway) => break gateway,
            Err(why) if Instant::now() > end => return Err(why.to_string()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let ask = v1::Ask { gpus: 1, build: BUILD.into(), ..v1::Ask::default() };
    let mut call = gateway.lease(ask, WITHIN).await.map_err(|e| e.to_string())?;
    let granted = loop {
        match call.next().await.map_err(|e| e.to_string())? {
            Some(Said::Granted(granted)) => break granted,
            Some(_) => {}
            None => return Err("nothing is granted".into()),
        }
    };
    let ticket: [u8; 32] = granted.slots[0].ticket.as_ref().try_into().map_err(|_| "no ticket")?;
    let open = async |name: &str| {
        let connector = Connector::to_engines(&pki(name)).unwrap();
        tunnel(&connector, &target, &ticket, WITHIN).await.map(drop).map_err(|e| e.to_string())
    };
    open("ml-1").await?;
    match open("ml-2").await {
        Err(_) => Ok(()),
        Ok(()) => Err("another node's ticket opens an engine".into()),
    }
}

/// A user's program; killed when it is dropped.
struct Program(Child, std::path::PathBuf);

impl Program {
    fn said(&self) -> String {
        std::fs::read_to_string(&self.1).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn program(pool: &GpuPool, mode: &str) -> Result<Program, String> {
    let socket = pool.socket("ml-1");
    until("the daemon listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await?;
    let gateway = format!("127.0.0.1:{}", pool.port);
    until("the gateway listens", || std::net::TcpStream::connect(&gateway).is_ok()).await?;
    let stand_in = vsgpu_tests::lab::programs().join("vsgpu-stand-in");
    let shell = format!("echo at $LUPINE_SERVER; exec {} program {mode}", stand_in.display());
    let log = pool.lab.folder.join("program.log");
    let file = std::fs::File::create(&log).unwrap();
    let mut command: Command = pool.gpu("ml-1", &["run", "--", "sh", "-c", &shell]);
    command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    let program = Program(command.spawn().unwrap(), log);
    let word = if mode == "work" { "working" } else { "pong" };
    until("it has a GPU", || program.said().contains(word)).await?;
    Ok(program)
}

async fn idle(pool: &GpuPool) -> Result<(), String> {
    let program = program(pool, "work").await?;
    let end = Instant::now() + Duration::from_secs(12);
    while Instant::now() < end {
        if program.said().contains("the GPU is idle") {
            return Err(format!("a GPU that works counts as idle: {}", program.said()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn port(pool: &GpuPool) -> Result<(), String> {
    let program = program(pool, "hold").await?;
    let said = program.said();
    let address = said.lines().find_map(|line| line.strip_prefix("at ")).ok_or("no port")?.to_string();
    let read =
        tokio::task::spawn_blocking(move || read_as_nobody(&address)).await.map_err(|e| e.to_string())?;
    if read.is_empty() { Ok(()) } else { Err(format!("another user reads `{read}`")) }
}
