//! The shell of an ESXi host. Files and processes are `Posix`; what is special is the identity of a boot.
//!
//! ESXi has no boot id (facts: esxi F1). Ours is a marker in `/var/run`, which is a ramdisk: it is gone after a reboot.
//! Where it is not (a copy of a machine), an uptime smaller than the one last noted tells. No clock has a part in it.
//! The answer comes from memory and is looked up beside it: a hanging esxcli must not make a node look unreachable.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use vsgpu_core::{Command, Holder, Output, System, Trouble, esxcli};
use vsgpu_proto::posix::Posix;

const MARKER: &str = "/var/run/vsgpu/boot";
/// How old the answer in memory may be before it is looked up again.
const FRESH: Duration = Duration::from_secs(2);

/// The shell around files and processes.
pub fn system(posix: Posix) -> Arc<dyn System> {
    Arc::new(Esxi { posix, boot: Arc::default(), first: Mutex::default() })
}

struct Esxi {
    posix: Posix,
    boot: Arc<Mutex<Boot>>,
    first: Mutex<()>,
}

/// What is known of the running boot.
#[derive(Default)]
struct Boot {
    id: Option<String>,
    looked_at: Duration,
    looking: bool,
}

/// Microseconds since boot, if the host says so.
fn uptime(posix: &Posix) -> Option<u64> {
    let ask =
        |form: &[&str]| posix.run(&Command::new("esxcli", form.iter().chain(&["system", "stats", "uptime", "get"]).copied()).within(5));
    let output = Some(ask(&["--formatter=xml"])).filter(Output::ok).or_else(|| Some(ask(&[])).filter(Output::ok))?;
    let word = esxcli::read(&output.stdout).ok().and_then(|r| r.first().map(|r| r.title.clone())).unwrap_or(output.stdout);
    word.trim().parse().ok()
}

/// Looks at marker and uptime, and renews the marker.
fn look(posix: &Posix) -> Result<String, Trouble> {
    // The marker first: an uptime that was noted after ours was read must not look like an earlier boot.
    let marker = posix.read(MARKER, 256).ok().and_then(|b| String::from_utf8(b).ok());
    let now = uptime(posix);
    let old = marker.as_deref().and_then(|m| m.trim().split_once(' ')).map(|(id, at)| (id.to_string(), at.parse::<u64>().ok()));
    let same = old.filter(|(_, then)| !matches!((then, now), (Some(then), Some(now)) if now < *then));
    let (id, then) = match same {
        Some((id, then)) => (id, then),
        // Unique enough: the moment of the first look and the agent's process.
        None => (format!("{:x}-{:x}", posix.now(), std::process::id()), None),
    };
    let noted = now.or(then).map_or("-".to_string(), |at| at.to_string());
    posix.write(MARKER, format!("{id} {noted}\n").as_bytes(), 0o600)?;
    Ok(id)
}

impl System for Esxi {
    fn run(&self, command: &Command) -> Output {
        self.posix.run(command)
    }
    fn read(&self, path: &str, max: usize) -> Result<Vec<u8>, Trouble> {
        self.posix.read(path, max)
    }
    fn tail(&self, path: &str, max: usize) -> Result<Vec<u8>, Trouble> {
        self.posix.tail(path, max)
    }
    fn head(&self, path: &str, max: usize) -> Result<Vec<u8>, Trouble> {
        self.posix.head(path, max)
    }
    fn holders(&self, prefix: &str) -> Result<Vec<Holder>, Trouble> {
        self.posix.holders(prefix)
    }
    fn hash(&self, path: &str) -> Result<String, Trouble> {
        self.posix.hash(path)
    }
    fn list(&self, path: &str) -> Result<Vec<String>, Trouble> {
        self.posix.list(path)
    }
    fn write(&self, path: &str, contents: &[u8], mode: u32) -> Result<(), Trouble> {
        self.posix.write(path, contents, mode)
    }
    fn copy(&self, from: &str, to: &str, mode: u32) -> Result<(), Trouble> {
        self.posix.copy(from, to, mode)
    }
    fn remove(&self, path: &str) -> Result<(), Trouble> {
        self.posix.remove(path)
    }
    fn boot_id(&self) -> Result<String, Trouble> {
        let lock = |boot: &Arc<Mutex<Boot>>| boot.lock().map(|mut b| std::mem::replace(&mut b.looking, true)).unwrap_or(true);
        let known = self.boot.lock().ok().and_then(|b| Some((b.id.clone()?, b.looked_at)));
        if let Some((id, at)) = known {
            if self.posix.elapsed() - at > FRESH && !lock(&self.boot) {
                let (posix, boot) = (self.posix.clone(), self.boot.clone());
                std::thread::spawn(move || remember(&boot, look(&posix), posix.elapsed()));
            }
            return Ok(id);
        }
        // One first look at a time: two would each make an identity of their own.
        let _first = self.first.lock();
        if let Some(id) = self.boot.lock().ok().and_then(|b| b.id.clone()) {
            return Ok(id);
        }
        let id = look(&self.posix);
        remember(&self.boot, id.clone(), self.posix.elapsed());
        id
    }
    fn kernel_release(&self) -> String {
        // VMkernel's own release, `uname -r` there; only Linux guests are asked for it.
        nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default()
    }
    fn now(&self) -> u64 {
        self.posix.now()
    }
    fn elapsed(&self) -> Duration {
        self.posix.elapsed()
    }
    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

fn remember(boot: &Mutex<Boot>, found: Result<String, Trouble>, at: Duration) {
    if let Ok(mut boot) = boot.lock() {
        *boot = Boot { id: found.ok().or(boot.id.take()), looked_at: at, looking: false };
    }
}
