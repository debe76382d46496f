//! An ESXi host: what is special is the identity of a boot.
//!
//! ESXi has no boot id (facts: esxi F1). Ours is a marker in `/var/run`, which is a ramdisk: it is gone after
//! a reboot. Where it is not (a copy of a machine), an uptime smaller than the one last noted tells. No clock
//! has a part in it. The answer comes from memory and is looked up beside it: a hanging esxcli must not make
//! a node look unreachable. An agent that reaches its host over ssh outlives the host's boots, so there
//! memory is not asked.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use vsgpu_core::readers::esxcli;
use vsgpu_core::{BootIdentity, Command, IoError, Output, System};

const MARKER: &str = "/var/run/vsgpu/boot";
/// How old the answer in memory may be before it is looked up again.
const FRESH: Duration = Duration::from_secs(2);

/// The marker, and what is remembered of it.
#[derive(Default)]
pub struct Marker {
    boot: Arc<Mutex<Boot>>,
    first: Mutex<Option<Look>>,
}

/// What the last look from the network found, and when it was begun.
struct Look {
    begun: Duration,
    found: Result<String, IoError>,
}

/// What is known of the running boot.
#[derive(Default)]
struct Boot {
    id: Option<String>,
    looked_at: Duration,
    looking: bool,
}

/// Microseconds since boot, if the host says so.
fn uptime(host: &dyn System) -> Option<u64> {
    let ask = |form: &[&str]| {
        host.run(
            &Command::new("esxcli", form.iter().chain(&["system", "stats", "uptime", "get"]).copied())
                .within(5),
        )
    };
    let output =
        Some(ask(&["--formatter=xml"])).filter(Output::ok).or_else(|| Some(ask(&[])).filter(Output::ok))?;
    let word = esxcli::read(&output.stdout)
        .ok()
        .and_then(|r| r.first().map(|r| r.title.clone()))
        .unwrap_or(output.stdout);
    word.trim().parse().ok()
}

/// Looks at marker and uptime, and renews the marker.
fn look(host: &dyn System) -> Result<String, IoError> {
    // The marker first: an uptime that was noted after ours was read must not look like an earlier boot.
    let marker = match host.read(MARKER, 256) {
        Ok(bytes) => String::from_utf8(bytes).ok(),
        // A host that is away has not lost its marker.
        Err(away @ IoError::Unreachable(_)) => return Err(away),
        Err(IoError::NotFound(_)) => None,
        // Over ssh more can go wrong, and a new marker would look like a reboot.
        Err(other) if host.is_remote() => return Err(other),
        Err(_) => None,
    };
    let now = uptime(host);
    // Away in between: it may come back in another boot, which must not get this one's marker.
    if now.is_none() && host.is_remote() {
        host.is_folder("/")?;
    }
    let old = marker
        .as_deref()
        .and_then(|m| m.trim().split_once(' '))
        .map(|(id, at)| (id.to_string(), at.parse::<u64>().ok()));
    let same = old.filter(|(_, then)| !matches!((then, now), (Some(then), Some(now)) if now < *then));
    let (id, then) = match same {
        Some((id, then)) => (id, then),
        // Unique enough: the moment of the first look and the agent's process.
        None => (format!("{:x}-{:x}", host.now(), std::process::id()), None),
    };
    let noted = now.or(then).map_or("-".to_string(), |at| at.to_string());
    host.write(MARKER, format!("{id} {noted}\n").as_bytes(), 0o600)?;
    Ok(id)
}

impl BootIdentity for Marker {
    fn id(&self, host: &Arc<dyn System>) -> Result<String, IoError> {
        let lock = |boot: &Arc<Mutex<Boot>>| {
            boot.lock().map(|mut b| std::mem::replace(&mut b.looking, true)).unwrap_or(true)
        };
        let known = self.boot.lock().ok().and_then(|b| Some((b.id.clone()?, b.looked_at)));
        if let Some((id, at)) = known.filter(|_| !host.is_remote()) {
            if host.elapsed() - at > FRESH && !lock(&self.boot) {
                let (host, boot) = (host.clone(), self.boot.clone());
                std::thread::spawn(move || remember(&boot, look(host.as_ref()), host.elapsed()));
            }
            return Ok(id);
        }
        // One first look at a time: two would each make an identity of their own.
        let asked = host.elapsed();
        let mut last = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = self.boot.lock().ok().and_then(|b| b.id.clone()).filter(|_| !host.is_remote()) {
            return Ok(id);
        }
        // Who waited while another one looked shares what that found, if it was begun behind the question: a
        // host that is away must not be waited for by each of them, one behind the other.
        if let Some(look) = last.as_ref().filter(|look| look.begun >= asked) {
            return look.found.clone();
        }
        let begun = host.elapsed();
        let found = look(host.as_ref());
        remember(&self.boot, found.clone(), host.elapsed());
        *last = Some(Look { begun, found: found.clone() });
        found
    }
}

fn remember(boot: &Mutex<Boot>, found: Result<String, IoError>, at: Duration) {
    if let Ok(mut boot) = boot.lock() {
        *boot = Boot { id: found.ok().or(boot.id.take()), looked_at: at, looking: false };
    }
}
