//! A simulated machine linked into this process, as the agents' `System`: no process is started, and time is
//! counted.

use super::read_only_calls::only_looks;
use super::state;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use vsgpu_core::machine::{Disk, Machine, PATHS};
use vsgpu_core::{
    Command, Effect, ExitKind, InVcenter, Incoming, IoError, OpenedBy, Output, Staged, System, UploadError,
};
use vsgpu_machine::local::Posix;

/// Stands around every call of a tool that may change the machine: the call in words, and what makes it.
type Watch = Box<dyn Fn(&str, &mut dyn FnMut() -> Output) -> Output + Send + Sync>;

/// A simulated machine as a `System`: files are real, tools are called in this process, time is counted, and
/// the machine can lose its power at the n-th change.
pub struct InProcess {
    folder: PathBuf,
    posix: Posix,
    changes: AtomicUsize,
    /// At which change the power is cut: before it when even, after it when odd.
    cut_at: Option<usize>,
    time: Mutex<Duration>,
    clock: Option<Box<dyn Fn() -> Duration + Send + Sync>>,
    watch: Option<Watch>,
}

impl InProcess {
    pub fn new(folder: PathBuf, cut_at: Option<usize>) -> Self {
        let posix = Posix::new(Some(folder.join("tools")), folder.join("root"));
        Self {
            folder,
            posix,
            changes: AtomicUsize::new(0),
            cut_at,
            time: Mutex::default(),
            clock: None,
            watch: None,
        }
    }

    /// With a clock of somebody else's: simulated time.
    pub fn by_clock(mut self, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        self.clock = Some(Box::new(clock));
        self
    }

    /// With somebody who sees what is done to it.
    pub fn watched(
        mut self,
        watch: impl Fn(&str, &mut dyn FnMut() -> Output) -> Output + Send + Sync + 'static,
    ) -> Self {
        self.watch = Some(Box::new(watch));
        self
    }

    /// Changes that were tried.
    pub fn changes(&self) -> usize {
        self.changes.load(Ordering::SeqCst)
    }

    fn change<T>(&self, act: impl FnOnce() -> T, cut: impl FnOnce() -> T) -> T {
        let at = self.changes.fetch_add(1, Ordering::SeqCst);
        match self.cut_at {
            Some(n) if n / 2 < at || n == 2 * at => cut(),
            Some(n) if n == 2 * at + 1 => {
                act();
                cut()
            }
            _ => act(),
        }
    }
}

impl System for InProcess {
    /// Nothing here takes any time, and simulated time knows no threads.
    fn probes_at_once(&self) -> usize {
        1
    }
    fn run(&self, command: &Command) -> Output {
        let program = command.program.rsplit('/').next().unwrap().to_string();
        // A link to the simulator's program counts, also where that was never built: it is not started here.
        let there = |path: std::path::PathBuf| path.symlink_metadata().is_ok();
        let known = there(self.folder.join("tools").join(&program))
            || self.posix.path(&command.program).is_ok_and(there)
            || there(self.folder.join("root/usr/bin").join(&program))
            || command.also.iter().any(|f| self.posix.path(&format!("{f}/{program}")).is_ok_and(there));
        if !known {
            return Output { ended: ExitKind::Missing, stdout: String::new(), stderr: String::new() };
        }
        let run = || {
            let (name, args) = match program.as_str() {
                p if p.ends_with(".run") => (
                    if p.starts_with("cuda") { "cuda-installer" } else { "nvidia-installer" },
                    [vec![p.to_string()], command.args.clone()].concat(),
                ),
                p => (p, command.args.clone()),
            };
            let answer = super::run(&self.folder, name, &args);
            Output { ended: ExitKind::Status(answer.status), stdout: answer.stdout, stderr: answer.stderr }
        };
        let call = format!("{program} {}", command.args.join(" "));
        if only_looks(call.trim())
            || ["deviceQuery", "vectorAdd", "vsgpu-cuda-proof", "docker"].contains(&program.as_str())
            || command.args.last().is_some_and(|a| a == "--check" || a == "--advanced-options")
        {
            return run();
        }
        let mut run = || {
            self.change(run, || Output {
                ended: ExitKind::Broken("power cut".into()),
                stdout: String::new(),
                stderr: String::new(),
            })
        };
        match &self.watch {
            Some(watch) => watch(call.trim(), &mut run),
            None => run(),
        }
    }
    fn read(&self, path: &str, max: usize) -> Result<Vec<u8>, IoError> {
        self.posix.read(path, max)
    }
    fn tail(&self, path: &str, max: usize) -> Result<Vec<u8>, IoError> {
        self.posix.tail(path, max)
    }
    fn head(&self, path: &str, max: usize) -> Result<Vec<u8>, IoError> {
        self.posix.head(path, max)
    }
    fn holders(&self, prefix: &str) -> Result<Vec<OpenedBy>, IoError> {
        self.posix.holders(prefix)
    }
    fn hash(&self, path: &str) -> Result<String, IoError> {
        self.posix.hash(path)
    }
    fn list(&self, path: &str) -> Result<Vec<String>, IoError> {
        self.posix.list(path)
    }
    fn write(&self, path: &str, contents: &[u8], mode: u32) -> Result<(), IoError> {
        self.change(
            || self.posix.write(path, contents, mode),
            || Err(IoError::Other { path: path.into(), why: "power cut".into() }),
        )
    }
    fn copy(&self, from: &str, to: &str, mode: u32) -> Result<(), IoError> {
        self.change(
            || self.posix.copy(from, to, mode),
            || Err(IoError::Other { path: to.into(), why: "power cut".into() }),
        )
    }
    fn remove(&self, path: &str) -> Result<(), IoError> {
        self.change(
            || self.posix.remove(path),
            || Err(IoError::Other { path: path.into(), why: "power cut".into() }),
        )
    }
    fn stage(&self, path: &str, sha256: &str) -> Result<Staged, IoError> {
        self.posix.stage(path, sha256)
    }
    fn unstage(&self, path: &str, instead: &str) {
        self.posix.unstage(path, instead);
    }
    fn orphan(&self) -> Option<String> {
        None
    }
    fn size(&self, path: &str) -> Result<Option<u64>, IoError> {
        self.posix.size(path)
    }
    fn is_folder(&self, path: &str) -> Result<bool, IoError> {
        self.posix.is_folder(path)
    }
    fn upload(&self, file: &Incoming, next: &mut dyn FnMut() -> Option<Vec<u8>>) -> Result<(), UploadError> {
        self.posix.upload(file, next)
    }
    fn is_real(&self) -> bool {
        false
    }
    fn is_remote(&self) -> bool {
        false
    }
    fn boot_id(&self) -> Result<String, IoError> {
        Ok(state::Machine::read(&self.folder).boots.to_string())
    }
    fn machine(&self) -> Result<Machine, IoError> {
        const GIB: u64 = 1 << 30;
        let free_bytes = state::Machine::read(&self.folder).disk_free_bytes.unwrap_or(40 * GIB);
        let disk =
            |path: &str| Disk { path: path.into(), disk: "/".into(), size_bytes: 60 * GIB, free_bytes };
        let disks = PATHS.map(disk).to_vec();
        let load = [0.5, 0.25, 0.1];
        Ok(Machine {
            cpus: 8,
            memory_bytes: 64 * GIB,
            memory_available_bytes: 60 * GIB,
            load,
            uptime_secs: 60,
            processes: 120,
            disks,
        })
    }

    fn by_api(&self, _: &Effect) -> Option<Result<(), String>> {
        None
    }
    fn shown(&self, effect: &Effect) -> Option<String> {
        Some(effect.to_string())
    }
    fn told(&self, _: std::thread::ThreadId) -> Vec<String> {
        vec![]
    }
    fn inventory(&self, _: &InVcenter) -> Result<String, IoError> {
        Err(IoError::NotFound("vCenter's inventory".into()))
    }
    fn kernel_release(&self) -> String {
        "6.1.0-28-amd64".into()
    }
    fn now(&self) -> u64 {
        // In simulated time controllers compare it with their own clock, which is this machine's.
        if self.clock.is_some() { state::now_ms() / 1000 } else { 1_800_000_000 }
    }
    fn elapsed(&self) -> Duration {
        *self.time.lock().unwrap() + self.clock.as_ref().map_or(Duration::ZERO, |clock| clock())
    }
    fn sleep(&self, time: Duration) {
        *self.time.lock().unwrap() += time;
    }
}
