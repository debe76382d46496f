//! The engines of the slots: units of systemd, one for each slot, in a network namespace of their own. Started
//! for a lease, ended after it, and looked for until they are gone.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use vsgpu_core::engine::Engine;
use vsgpu_core::pool::{Slot, SlotId, SlotKind};
use vsgpu_core::readers::cuda_report::{self, CudaReport};
use vsgpu_core::readers::gpu_work::{self, GpuWork};
use vsgpu_core::{Command, System};

/// For a start; a unit is ready when its program runs.
const START: u32 = 15;
/// For a stop: the unit's own limits are 10 s for it to end and 5 s behind SIGKILL.
const STOP: u32 = 25;
/// For a look at a unit or at the GPUs.
const LOOK: u32 = 10;
/// Between two tries to start one.
const START_AGAIN: Duration = Duration::from_millis(500);
/// Until an engine that was started listens.
const LISTENS: Duration = Duration::from_secs(10);
/// For a connection inside of this machine.
const CONNECT: Duration = Duration::from_secs(2);
/// For the proof on a GPU: the first CUDA call behind a boot may take long.
const PROOF: u32 = 150;
/// Longest report of it that is read.
const MAX_REPORT: usize = 1 << 20;
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(10);

/// Where engines listen.
#[derive(Clone, Debug)]
pub enum Place {
    /// Each in its own network namespace, `/run/netns/vsgpu-SLOT`, on the engine's port. Nobody but root
    /// gets in.
    Namespaces,
    /// On loopback, from this port on, one for each slot. Every local user reaches them: for simulated
    /// machines only.
    Loopback(u16),
}

/// All engines of a server.
pub(super) struct Engines {
    pub system: Arc<dyn System>,
    pub engine: &'static Engine,
    pub place: Place,
    pub slots: Vec<Slot>,
    /// Slots with a GPU lease or a proof under way: only their engines may be started.
    may_run: Vec<AtomicBool>,
    /// Held by whoever looks whose the open port is.
    whose: Mutex<()>,
}

/// Why a slot is not offered.
pub(super) enum NotProved {
    /// It is not given to anybody.
    Failed(String),
    /// Its proof passed, and its engine is not gone yet.
    NotGone(String),
}

/// Name of a slot's unit.
fn unit(slot: SlotId) -> String {
    format!("vsgpu-engine@{}.service", slot.0)
}

/// The unit that runs our proof through a slot's engine, as one of its users would.
fn proof_unit(slot: SlotId) -> String {
    format!("vsgpu-engine-proof@{}.service", slot.0)
}

/// Where that unit leaves the proof's report.
fn report_of(slot: SlotId) -> String {
    format!("/run/vsgpu-pool/proof-{}.json", slot.0)
}

impl Engines {
    pub(super) fn of(
        system: Arc<dyn System>,
        engine: &'static Engine,
        place: Place,
        slots: Vec<Slot>,
    ) -> Self {
        let may_run = slots.iter().map(|_| AtomicBool::new(false)).collect();
        Self { system, engine, place, slots, may_run, whose: Mutex::default() }
    }

    /// Says of slots whether their engines may be started. Said before they are ended: a start that is under way
    /// beside that must not bring one back.
    pub(super) fn may_run(&self, slots: &[SlotId], may: bool) {
        for flag in slots.iter().filter_map(|slot| self.may_run.get(slot.0 as usize)) {
            flag.store(may, Ordering::SeqCst);
        }
    }

    fn may(&self, slot: SlotId) -> bool {
        self.may_run.get(slot.0 as usize).is_some_and(|flag| flag.load(Ordering::SeqCst))
    }

    fn systemctl(&self, args: &[&str], within: u32) -> Result<String, String> {
        let command = Command::new("systemctl", args.iter().copied()).within(within);
        let output = self.system.run(&command);
        if output.ok() {
            return Ok(output.stdout);
        }
        let said = output.both();
        let said = said.lines().next().unwrap_or_default();
        Err(format!("systemctl {}: {} {said}", args.join(" "), output.ended))
    }

    /// Starts a slot's engine and waits until it listens. One that does not start is tried once more: what was in
    /// the way may only have been going.
    pub(super) fn start(&self, slot: SlotId) -> Result<(), String> {
        if !self.may(slot) {
            return Err("its GPU lease is over".into());
        }
        let open_before = self.is_open();
        let start = || self.systemctl(&["start", &unit(slot)], START);
        start().or_else(|_| {
            self.system.sleep(START_AGAIN);
            start()
        })?;
        if !self.may(slot) {
            let _ = self.systemctl(&["stop", &unit(slot)], STOP);
            return Err("its GPU lease is over".into());
        }
        let until = self.system.elapsed() + LISTENS;
        loop {
            if !open_before && self.is_open() && self.is_open_by(slot, &start)? {
                return Err(format!(
                    "{0} listens on TCP port {1} outside of its network namespace, where nobody has to show a certificate: look for `NetworkNamespacePath` in `systemctl cat {0}`",
                    unit(slot),
                    self.engine.port
                ));
            }
            match self.connect(slot) {
                Ok(_) => return Ok(()),
                Err(why) if self.system.elapsed() > until => {
                    return Err(format!("{} runs, but does not listen: {why}", unit(slot)));
                }
                Err(_) => self.system.sleep(AGAIN),
            }
        }
    }

    /// Tries a slot on which nothing is left, as a user's program would: our proof, through its engine. Ends that engine
    /// behind it. `Ok`: it passed, and nothing of it is left.
    ///
    /// # Errors
    /// A sentence for people: why this slot is given to nobody.
    pub(super) fn prove(&self, slot: SlotId) -> Result<(), NotProved> {
        self.may_run(&[slot], true);
        let proved = self.start(slot).and_then(|()| {
            let path = report_of(slot);
            // An old one must not count for this one.
            self.system.remove(&path).map_err(|e| e.to_string())?;
            let ran = self.systemctl(&["start", &proof_unit(slot)], PROOF);
            let said = self.system.read(&path, MAX_REPORT).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            match (ran, cuda_report::read(&said)) {
                (Ok(_), Ok(report)) if report.passed() => Ok(()),
                (_, Ok(CudaReport { failure: Some(why), .. })) => Err(why.to_string()),
                // What a program says that does not come so far.
                (Err(why), Err(_)) => Err(format!("{why} {}", said.lines().next().unwrap_or_default())),
                (Err(why), Ok(_)) => Err(why),
                (Ok(_), _) => Err("it did not say that it passed".into()),
            }
        });
        self.may_run(&[slot], false);
        let stopped = self.stop(slot);
        if let Err(why) = proved {
            return Err(NotProved::Failed(format!("the proof through its engine failed: {why}")));
        }
        match stopped {
            Ok(None) => Ok(()),
            Ok(Some(stranger)) => Err(NotProved::Failed(stranger)),
            Err(why) => Err(NotProved::NotGone(why)),
        }
    }

    /// Ends a slot's engine. `Ok` is the proof that it is gone: the unit is over, and no process is left in its
    /// control group. Who else is on its GPU is given, where anybody is: the GPU is not given on then.
    pub(super) fn stop(&self, slot: SlotId) -> Result<Option<String>, String> {
        self.systemctl(&["stop", &unit(slot)], STOP)?;
        self.is_over(slot)?;
        let Some(of) = self.slots.get(slot.0 as usize).filter(|slot| slot.kind == SlotKind::Whole) else {
            // Processes of other MIG devices stand under the same GPU.
            return Ok(None);
        };
        let work = self.work()?;
        // Looked at last: nothing may have come back meanwhile.
        self.is_over(slot)?;
        let gpu = work.iter().find(|gpu| gpu.uuid.eq_ignore_ascii_case(&of.uuid));
        match gpu.ok_or_else(|| format!("{} is not there any more", of.uuid))?.processes.as_deref() {
            Some([first, ..]) => {
                Ok(Some(format!("process {} ({}) is on {}", first.pid, first.name, of.uuid)))
            }
            // Where the driver does not say who is on it, the unit is the proof.
            _ => Ok(None),
        }
    }

    /// Whether a unit is over. `failed` alone is no end: systemd says so, too, of one whose processes it could not
    /// kill.
    fn is_over(&self, slot: SlotId) -> Result<(), String> {
        let show = ["show", "--property=ActiveState,TasksCurrent", &unit(slot)];
        let said = self.systemctl(&show, LOOK)?;
        let value = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let state = value("ActiveState").unwrap_or_default();
        let tasks = value("TasksCurrent").and_then(|tasks| tasks.parse::<u64>().ok()).unwrap_or(0);
        match (state, tasks) {
            ("inactive" | "failed", 0) => Ok(()),
            (state, 0) => Err(format!("{} is {state}", unit(slot))),
            (state, tasks) => {
                Err(format!("{} is {state}, with {tasks} processes or threads left", unit(slot)))
            }
        }
    }

    /// What goes on on the GPUs.
    pub(super) fn work(&self) -> Result<Vec<GpuWork>, String> {
        let output = self.system.run(&vsgpu_core::readers::nvidia_smi::query().within(LOOK));
        gpu_work::read(&output.stdout).map_err(|why| format!("nvidia-smi: {why} ({})", output.ended))
    }

    /// A connection to a slot's engine.
    pub(super) fn connect(&self, slot: SlotId) -> std::io::Result<TcpStream> {
        let stream = match self.place {
            Place::Loopback(first) => {
                let port = first + slot.0 as u16;
                TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), CONNECT)?
            }
            Place::Namespaces => inside(slot, self.engine.port)?,
        };
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// Whether an engine's port is open in the gateway's own network: then whoever reaches this machine reaches a GPU.
    fn is_open(&self) -> bool {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, self.engine.port));
        matches!(self.place, Place::Namespaces) && TcpStream::connect_timeout(&here, CONNECT).is_ok()
    }

    /// Whether that is this slot's engine: without it the port is closed. Another one's is started again.
    fn is_open_by(&self, slot: SlotId, start: &dyn Fn() -> Result<String, String>) -> Result<bool, String> {
        let _one_at_a_time = self.whose.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_open() {
            return Ok(false);
        }
        self.systemctl(&["stop", &unit(slot)], STOP)?;
        if self.is_open() {
            return start().map(|_| false);
        }
        Ok(true)
    }

    /// Connections to it, started again where it has ended; whether it had.
    pub(super) fn reach(&self, slot: SlotId) -> Result<(TcpStream, bool), String> {
        match self.connect(slot) {
            Ok(stream) => Ok((stream, false)),
            Err(_) => {
                self.start(slot)?;
                let stream = self.connect(slot).map_err(|e| e.to_string())?;
                Ok((stream, true))
            }
        }
    }

    /// Ends all of them beside each other, as at a start: what an earlier gateway gave away is over.
    pub(super) fn stop_all(&self) -> Vec<(SlotId, Result<Option<String>, String>)> {
        let ended = |_| Err("it was not looked at".into());
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..self.slots.len() as u32)
                .map(SlotId)
                .map(|slot| (slot, scope.spawn(move || self.stop(slot))))
                .collect();
            all.into_iter().map(|(slot, stop)| (slot, stop.join().unwrap_or_else(ended))).collect()
        })
    }

    /// Whether something goes on on any of their GPUs, or that is not known.
    pub(super) fn any_busy(&self, work: &[GpuWork], slots: &[SlotId]) -> bool {
        let is_busy = |slot: &SlotId| {
            let of = self.slots.get(slot.0 as usize);
            let gpu = of.and_then(|of| work.iter().find(|gpu| gpu.uuid.eq_ignore_ascii_case(&of.uuid)));
            gpu.and_then(|gpu| gpu.busy_percent) != Some(0)
        };
        slots.iter().any(is_busy)
    }
}

/// A connection made in a slot's network namespace. The thread that enters it ends with that; the socket
/// stays good.
fn inside(slot: SlotId, port: u16) -> std::io::Result<TcpStream> {
    let path = PathBuf::from(format!("/run/netns/vsgpu-{}", slot.0));
    let enter = move || {
        #[expect(clippy::disallowed_methods, reason = "a namespace is no file of the machine")]
        let namespace = std::fs::File::open(path)?;
        nix::sched::setns(namespace.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET)?;
        TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), CONNECT)
    };
    let thread = std::thread::Builder::new().spawn(enter)?;
    thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the thread that enters it ended")))
}
