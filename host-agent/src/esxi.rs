//! The shell of an ESXi host. Files and processes are `Posix`; what is special is the identity of a boot.
//!
//! ESXi has no boot id (facts: esxi F1). Ours is a marker in `/var/run`, which is a ramdisk, that also holds the time of
//! boot: the marker is renewed when it is gone or when the host's uptime no longer fits it.

use std::sync::Arc;
use std::time::Duration;
use vsgpu_core::{Command, Output, System, Trouble, esxcli};
use vsgpu_proto::posix::Posix;

const MARKER: &str = "/var/run/vsgpu/boot";
/// Seconds by which two readings of the boot time may differ (clock steps by NTP after boot).
const DRIFT: u64 = 120;

/// The shell around files and processes.
pub fn system(posix: Posix) -> Arc<dyn System> {
    Arc::new(Esxi(posix))
}

struct Esxi(Posix);

impl Esxi {
    /// Seconds since 1970 at which the host booted, if it says so.
    fn booted_at(&self) -> Option<u64> {
        let output = self.0.run(&Command::new("esxcli", ["--formatter=xml", "system", "stats", "uptime", "get"]).within(30));
        let text = if output.ok() { output.stdout } else { return None };
        let micros = esxcli::read(&text).ok().and_then(|r| r.first().map(|r| r.title.clone())).unwrap_or(text);
        Some(self.0.now().saturating_sub(micros.trim().parse::<u64>().ok()? / 1_000_000))
    }
}

impl System for Esxi {
    fn run(&self, command: &Command) -> Output {
        self.0.run(command)
    }
    fn read(&self, path: &str, max: usize) -> Result<Vec<u8>, Trouble> {
        self.0.read(path, max)
    }
    fn tail(&self, path: &str, max: usize) -> Result<Vec<u8>, Trouble> {
        self.0.tail(path, max)
    }
    fn hash(&self, path: &str) -> Result<String, Trouble> {
        self.0.hash(path)
    }
    fn list(&self, path: &str) -> Result<Vec<String>, Trouble> {
        self.0.list(path)
    }
    fn write(&self, path: &str, contents: &[u8], mode: u32) -> Result<(), Trouble> {
        self.0.write(path, contents, mode)
    }
    fn copy(&self, from: &str, to: &str, mode: u32) -> Result<(), Trouble> {
        self.0.copy(from, to, mode)
    }
    fn remove(&self, path: &str) -> Result<(), Trouble> {
        self.0.remove(path)
    }
    fn boot_id(&self) -> Result<String, Trouble> {
        let booted_at = self.booted_at();
        let marker = self.0.read(MARKER, 256).ok().and_then(|b| String::from_utf8(b).ok());
        let old =
            marker.as_deref().and_then(|m| m.trim().split_once(' ')).and_then(|(id, at)| Some((id.to_string(), at.parse::<u64>().ok()?)));
        if let Some((id, at)) = old
            && booted_at.is_none_or(|now| now.abs_diff(at) <= DRIFT)
        {
            return Ok(id);
        }
        // Unique enough: the boot time, the moment of the first look, and the agent's process.
        let id = format!("{:x}-{:x}-{:x}", booted_at.unwrap_or_default(), self.0.now(), std::process::id());
        let at = booted_at.unwrap_or_default();
        self.0.write(MARKER, format!("{id} {at}\n").as_bytes(), 0o600)?;
        Ok(id)
    }
    fn kernel_release(&self) -> String {
        // VMkernel's own release, `uname -r` there; only Linux guests are asked for it.
        nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default()
    }
    fn now(&self) -> u64 {
        self.0.now()
    }
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}
