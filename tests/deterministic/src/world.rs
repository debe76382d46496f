//! Machines in memory, an agent on each, controllers: real client, server, engine and journal on a simulated
//! network.

use crate::Rng;
use crate::disk::{EPOCH, MemoryDisk};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use vsgpu::error::Error;
use vsgpu::fleet::Fleet;
use vsgpu::journal::{Purpose, Status};
use vsgpu::node::NodeKind;
use vsgpu::plan::{Plan, Planned, Work};
use vsgpu::run::{Control, Event, Request, RunObserver, Summary, Unfinished};
use vsgpu_core::Output;
use vsgpu_tests::fakes::in_process::InProcess;
use vsgpu_tests::fakes::state::{self, Machine, Vm};
use vsgpu_tests::lab::{HOST_TOOLS, files, untouched_host};
use vsgpu_wire::client::{Connector, Stream};
use vsgpu_wire::server::{Blocking, simulated};

pub const PORT: u16 = 7443;
pub const TICK: Duration = Duration::from_millis(100);
pub const LEASE: Duration = Duration::from_secs(vsgpu::run::LEASE_SECS as u64);

/// A call that was to change a machine.
#[derive(Clone, Debug)]
pub struct Act {
    pub host: String,
    pub at: Duration,
    pub call: String,
    /// Whether the tool said yes.
    pub ok: bool,
    /// Whether the machine was another one afterwards.
    pub changed: bool,
}

pub type Acts = Arc<Mutex<Vec<Act>>>;

/// Time that has passed since the simulation began.
pub fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// What a call may change of a machine, as far as it can be seen.
fn picture(folder: &Path) -> String {
    Machine::with(folder, |m| serde_json::to_string(&(&m.esxi, &m.linux, m.power.len())).unwrap())
}

/// The machines of one simulation. Dropping it forgets them.
pub struct World {
    pub hosts: Vec<String>,
    /// VMs with an agent in their guest.
    pub guests: Vec<String>,
    pub acts: Acts,
    pub(crate) folder: PathBuf,
    pub(crate) seed: u64,
}

/// A folder that no other simulation has.
pub(crate) fn own_folder() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    shared_memory().join(format!(
        "vsgpu-deterministic-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::SeqCst)
    ))
}

fn shared_memory() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() { shm } else { std::env::temp_dir() }
}

impl World {
    /// So many hosts, each with a running VM and a GPU to give away. On ESXi 6.7 that takes a reboot.
    pub fn new(seed: u64, hosts: usize) -> Self {
        let folder = own_folder();
        let hosts: Vec<String> = (1..=hosts).map(|n| format!("esx-{n:02}")).collect();
        for name in &hosts {
            let at = folder.join(name);
            let mut machine =
                untouched_host(name, "6.7.0", vec![files::a100("0000:3b:00.0"), files::a100("0000:af:00.0")]);
            let file = format!("vm-{name}/vm.vmx");
            let vm = Vm {
                vmid: 1,
                name: format!("vm-{name}"),
                datastore: "datastore1".into(),
                file: file.clone(),
                on: true,
                ..Vm::default()
            };
            machine.esxi().vms.push(vm);
            machine.folder = at.clone();
            machine.write(
                &format!("/vmfs/volumes/datastore1/{file}"),
                &format!("displayName = \"vm-{name}\"\nmemSize = \"8192\"\n"),
            );
            for tool in HOST_TOOLS {
                let tool = at.join("tools").join(tool);
                std::fs::create_dir_all(tool.parent().unwrap()).unwrap();
                std::fs::write(tool, "").unwrap();
            }
            Machine::keep_in_memory(&at, machine);
        }
        Self { hosts, guests: vec![], acts: Acts::default(), folder, seed }
    }

    pub fn folder(&self, host: &str) -> PathBuf {
        self.folder.join(host)
    }

    pub fn machine<T>(&self, host: &str, look: impl FnOnce(&mut Machine) -> T) -> T {
        Machine::with(&self.folder(host), look)
    }

    pub fn acts(&self) -> Vec<Act> {
        self.acts.lock().unwrap().clone()
    }

    pub fn machines(&self) -> impl Iterator<Item = &String> {
        self.hosts.iter().chain(&self.guests)
    }

    /// An agent on a machine of the simulation.
    pub fn agent(&self, sim: &mut turmoil::Sim<'_>, host: &str, slow: u64) {
        let make = if self.guests.iter().any(|g| g == host) {
            vsgpu_guest_agent::agent
        } else {
            vsgpu_host_agent::agent
        };
        let (name, folder, acts, seed) = (host.to_string(), self.folder(host), self.acts.clone(), self.seed);
        let lives = Arc::new(AtomicU64::new(0));
        sim.host(host, move || {
            let life = lives.fetch_add(1, Ordering::SeqCst);
            let rng = Mutex::new(Rng::new(
                seed ^ (life << 32) ^ name.bytes().fold(7, |sum, b| sum * 31 + u64::from(b)),
            ));
            let times = move || {
                let mut rng = rng.lock().unwrap();
                let mut time =
                    || Duration::from_millis(if rng.one_in(12) { rng.below(slow) } else { rng.below(120) });
                (time(), time())
            };
            let (host, at, acts) = (name.clone(), folder.clone(), acts.clone());
            let watch = move |call: &str, run: &mut dyn FnMut() -> Output| {
                let before = picture(&at);
                let output = run();
                let act = Act {
                    host: host.clone(),
                    at: now(),
                    call: call.into(),
                    ok: output.ok(),
                    changed: picture(&at) != before,
                };
                acts.lock().unwrap().push(act);
                output
            };
            let system = Arc::new(InProcess::new(folder.clone(), None).by_clock(now).watched(watch));
            let name = name.clone();
            async move {
                let listener = turmoil::net::TcpListener::bind(("0.0.0.0", PORT)).await?;
                let (tx, rx) = mpsc::channel(16);
                tokio::spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        if tx.send(stream).await.is_err() {
                            return;
                        }
                    }
                });
                let offload = Blocking::InPlace(Arc::new(times));
                simulated(make(), system, &name, offload, rx).await.map_err(Into::into)
            }
        });
    }

    /// Machines that were told to reboot go down some seconds later, as ESXi does, and are back after a
    /// while; VMs start and stop at once, and all of a host stop with it.
    pub fn power(&self, sim: &mut turmoil::Sim<'_>, rng: &mut Rng, power: &mut Power) {
        let now = sim.elapsed();
        for name in self.machines() {
            for control in self.machine(name, |m| std::mem::take(&mut m.power)) {
                match control.as_str() {
                    "reboot" if !power.down.contains_key(name) && !power.off.contains(name) => {
                        power
                            .going
                            .entry(name.clone())
                            .or_insert(now + Duration::from_millis(rng.below(10_000)));
                    }
                    "stop" => self.stop(sim, name, power),
                    "start" => {
                        power.off.remove(name);
                        power.down.insert(name.clone(), now + Duration::from_millis(500 + rng.below(3000)));
                    }
                    _ => {}
                }
            }
        }
        for name in due(&mut power.going, now) {
            sim.crash(name.as_str());
            if self.hosts.contains(&name) {
                let vms = self.machine(&name, |m| {
                    let vms = m.esxi().vms.iter_mut();
                    vms.filter_map(|vm| std::mem::take(&mut vm.on).then(|| vm.name.clone()))
                        .collect::<Vec<_>>()
                });
                vms.iter().filter(|vm| self.guests.contains(vm)).for_each(|vm| self.stop(sim, vm, power));
            }
            power.down.insert(name, now + Duration::from_millis(2000 + rng.below(15_000)));
        }
        for name in due(&mut power.down, now) {
            state::boot(&self.folder(&name));
            sim.bounce(name.as_str());
        }
    }

    fn stop(&self, sim: &mut turmoil::Sim<'_>, vm: &str, power: &mut Power) {
        power.going.remove(vm);
        power.down.remove(vm);
        power.off.insert(vm.into());
        sim.crash(vm);
    }

    /// Hosts that no VM could use just now.
    pub fn away(&self, power: &Power) -> Vec<String> {
        let away =
            |host: &&String| power.down.contains_key(*host) || self.machine(host, |m| m.esxi().maintenance);
        self.hosts.iter().filter(away).cloned().collect()
    }
}

/// Machines that are about to go down, that are down, until when, and that are off.
#[derive(Default)]
pub struct Power {
    going: BTreeMap<String, Duration>,
    pub down: BTreeMap<String, Duration>,
    pub off: BTreeSet<String>,
}

fn due(all: &mut BTreeMap<String, Duration>, now: Duration) -> Vec<String> {
    let due: Vec<String> = all.iter().filter(|(_, at)| now >= **at).map(|(host, _)| host.clone()).collect();
    for host in &due {
        all.remove(host);
    }
    due
}

impl Drop for World {
    fn drop(&mut self) {
        self.machines().for_each(|name| Machine::forget(&self.folder.join(name)));
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The fleet file of such a world; it is read once.
pub fn fleet(hosts: usize, policy: &str, rollout: &str) -> Fleet {
    static READ: OnceLock<Mutex<BTreeMap<String, Fleet>>> = OnceLock::new();
    let names: Vec<String> = (1..=hosts).map(|n| format!("esx-{n:02}")).collect();
    let of_host = |name: &String| {
        format!(
            "  {name}: {{ cluster: c, address: \"{name}:{PORT}\", acceptance-level: VMwareAccepted, assignment-policy: {policy}, passthrough: [\"0000:af:00.0\"] }}\n"
        )
    };
    let of_vm = |name: &String| format!("  vm-{name}: {{ host: {name}, shutdown-secs: 5 }}\n");
    let text = format!(
        "version: 1\nrollout: {rollout}\ndeadlines: {{ connect-secs: 60, reconnect-secs: 150, host-reboot-secs: 300, step-secs: 300 }}\nhosts:\n{}vms:\n{}",
        names.iter().map(of_host).collect::<String>(),
        names.iter().map(of_vm).collect::<String>()
    );
    let mut read = READ.get_or_init(Mutex::default).lock().unwrap();
    read.entry(text.clone())
        .or_insert_with(|| {
            let path = shared_memory().join(format!("vsgpu-deterministic-fleet-{}.yaml", std::process::id()));
            std::fs::write(&path, &text).unwrap();
            let fleet = vsgpu::fleet::file::read(Path::new(&path)).unwrap();
            let _ = std::fs::remove_file(path);
            fleet
        })
        .clone()
}

/// How one call of the controller ended.
#[derive(Clone, Debug)]
pub struct Report {
    pub steps: usize,
    pub summary: Summary,
    pub problems: Vec<Error>,
    /// Nothing to do, and nothing in the way.
    pub settled: bool,
}

/// How all its calls ended.
pub type Reports = Vec<Result<Report, Vec<Error>>>;

/// A controller: where it keeps its runs, what it wishes, and what it has reported.
#[derive(Clone)]
pub struct Controller {
    pub name: String,
    pub disk: MemoryDisk,
    pub fleet: Arc<Fleet>,
    pub reports: Arc<Mutex<Reports>>,
    /// Calls after which it stops even if something is left to do.
    pub calls: usize,
    /// It begins at this time.
    pub starts: Duration,
    pub heard: Arc<Mutex<Vec<String>>>,
    /// Promises that were broken when it heard of something.
    pub broken: Arc<Mutex<Vec<String>>>,
    pub folder: PathBuf,
}

/// Hears a run, and looks at the machines when something is said to be done.
struct Listener {
    heard: Arc<Mutex<Vec<String>>>,
    broken: Arc<Mutex<Vec<String>>>,
    folder: PathBuf,
    /// Hosts by the step that reboots them.
    reboots: BTreeMap<usize, String>,
}

impl RunObserver for Listener {
    fn note(&mut self, text: &str) {
        self.heard.lock().unwrap().push(format!("{:?} {text}", now()));
    }
    fn planned(&mut self, _: &Planned) -> Result<(), Error> {
        Ok(())
    }
    fn going_on(&mut self, _: u32, _: &Status) -> Result<(), Error> {
        Ok(())
    }
    fn running(&mut self, plan: &Plan) {
        let reboots = plan.steps.iter().filter(|s| {
            s.node.kind == NodeKind::Host && matches!(s.work, Work::Activate { restart: None, .. })
        });
        self.reboots = reboots.map(|s| (s.id, s.host.clone())).collect();
    }
    fn on_event(&mut self, event: &Event) {
        if let Event::Done { step, changed: true, .. } = event
            && let Some(host) = self.reboots.get(step)
            && Machine::with(&self.folder.join(host), |m| m.boots) < 2
        {
            self.broken.lock().unwrap().push(format!("I5: {host} was said to be rebooted, and was not"));
        }
        self.heard.lock().unwrap().push(format!("{:?} {}", now(), serde_json::to_string(event).unwrap()));
    }
}

impl Controller {
    pub fn new(world: &World, name: &str, fleet: Fleet) -> Self {
        Self {
            name: name.into(),
            disk: MemoryDisk::default(),
            fleet: Arc::new(fleet),
            reports: Arc::default(),
            calls: 20,
            starts: Duration::ZERO,
            heard: Arc::default(),
            broken: Arc::default(),
            folder: world.folder.clone(),
        }
    }

    /// Types `vsgpu apply` until nothing is to do.
    pub fn start(&self, sim: &mut turmoil::Sim<'_>) {
        let this = self.clone();
        sim.host(self.name.as_str(), move || {
            let this = this.clone();
            async move {
                tokio::time::sleep(this.starts.saturating_sub(now())).await;
                while this.reports.lock().unwrap().len() < this.calls {
                    let report = this.call().await;
                    let settled = report.as_ref().is_ok_and(|r| r.settled);
                    this.reports.lock().unwrap().push(report);
                    if settled {
                        break;
                    }
                    tokio::time::sleep(Duration::from_secs(3)).await;
                }
                Ok(())
            }
        });
    }

    async fn call(&self) -> Result<Report, Vec<Error>> {
        let connector = Connector::by(|target| {
            let address = target.address.clone();
            Box::pin(async move {
                let stream = turmoil::net::TcpStream::connect(address).await?;
                Ok(Box::new(stream) as Box<dyn Stream>)
            })
        });
        let (_tx, control) = watch::channel(Control::Continue);
        let request = Request {
            fleet: &self.fleet,
            connector: &connector,
            disk: &self.disk,
            threaded: false,
            holder: self.name.clone(),
            saved: None,
            adoption: None,
            purpose: Purpose::Apply,
            counted: true,
            unfinished: Unfinished::GoOnIfSame,
            pause: false,
            control,
            now: || EPOCH + now().as_secs(),
        };
        let ended = request
            .run(&mut Listener {
                heard: self.heard.clone(),
                broken: self.broken.clone(),
                folder: self.folder.clone(),
                reboots: BTreeMap::new(),
            })
            .await?;
        let problems: Vec<Error> = ended.problems.into_iter().map(|p| p.error).chain(ended.behind).collect();
        let settled = ended.plan.steps.is_empty() && problems.is_empty();
        Ok(Report { steps: ended.plan.steps.len(), summary: ended.summary, problems, settled })
    }

    pub fn done(&self) -> bool {
        let reports = self.reports.lock().unwrap();
        reports.len() >= self.calls || reports.last().is_some_and(|r| r.as_ref().is_ok_and(|r| r.settled))
    }

    pub fn reports(&self) -> Reports {
        self.reports.lock().unwrap().clone()
    }

    /// What it heard, for a failure.
    pub fn heard(&self) -> String {
        let heard = self.heard.lock().unwrap();
        heard[heard.len().saturating_sub(60)..].join("\n")
    }
}
