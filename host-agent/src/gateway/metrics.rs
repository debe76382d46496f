//! `gateway metrics`: the GPU counters that vCenter measures, as Prometheus reads them, with nothing on any host. Once on
//! standard output, or served: then what is shown comes from memory, and a vCenter that hangs makes values old and at last
//! absent, never a scrape slow.

use super::config::Config;
use super::login::told;
use super::site::Site;
use crate::metrics::COUNTERS;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vsgpu_core::text::visible;
use vsgpu_vsphere::Fault;
use vsgpu_vsphere::counters::{Known, Reading, known, read};
use vsgpu_vsphere::inventory::{Host, refresh};
use vsgpu_vsphere::session::REFUSED;
use vsgpu_wire::metrics::listener::{Pages, ScrapeAuth, serve};
use vsgpu_wire::metrics::{Sample, text};
use vsgpu_wire::server::log_to_stderr;

/// vCenter's own interval of real-time samples.
const EVERY: Duration = Duration::from_secs(20);
/// Rounds until the hosts are listed anew.
const LIST_AFTER: u32 = 15;
/// How long the last values are shown where no new ones come.
const SHOWN: Duration = Duration::from_secs(90);
/// After any other failure, first and longest.
const AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// Where it is served, and to whom.
#[derive(clap::Args)]
pub(super) struct Served {
    /// Serve on this address until killed, rather than print once
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Who may scrape beyond this machine: `mtls`, or `token:FILE`
    #[arg(long, value_name = "HOW", requires = "listen")]
    metrics_auth: Option<String>,
    /// Folder with the certificate for `mtls`: NAME.pem, NAME.key, ca.pem
    #[arg(long, value_name = "DIR", default_value = "/etc/vsgpu-host-agent")]
    pki: PathBuf,
    /// Its name
    #[arg(long, value_name = "NAME", default_value = "node")]
    name: String,
}

pub(super) fn run(config: Config, served: &Served) -> Result<(), String> {
    let site = Arc::new(Site::new(config, vec![], None));
    let Some(address) = served.listen else {
        let page = Reader::default().page(&site);
        let page = page.map_err(|fault| told(&site.config, &fault))?;
        use std::io::Write as _;
        return write!(std::io::stdout(), "{}", visible(&page)).map_err(|e| e.to_string());
    };
    log_to_stderr();
    let auth = ScrapeAuth::of(address, served.metrics_auth.as_deref(), &served.pki, &served.name)?;
    let shown = Arc::new(Shown::default());
    let of_reader = shown.clone();
    // Nobody is asked before the address is ours: who starts this again and again must not log in each time.
    serve(address, auth, shown, move || read_on(&site, &of_reader))
}

/// Reads in a thread of its own.
pub(super) fn read_on(site: &Arc<Site>, shown: &Arc<Shown>) -> Result<(), String> {
    let (site, shown) = (site.clone(), shown.clone());
    let reader = std::thread::Builder::new().name("vcenter".into());
    let reader = reader.spawn(move || keep_reading(&site, &shown));
    reader.map(|_| ()).map_err(|e| format!("no thread: {e}"))
}

/// The last page, and when it was made.
#[derive(Default)]
pub(super) struct Shown(Mutex<State>);

#[derive(Default)]
struct State {
    page: Option<(Instant, String)>,
    /// In words for everybody: `/readyz` asks nobody who he is. The log has the details.
    why: &'static str,
}

#[expect(clippy::disallowed_methods, reason = "how old a page is")]
fn now() -> Instant {
    Instant::now()
}

impl Pages for Shown {
    fn metrics(&self) -> String {
        let Ok(state) = self.0.lock() else { return String::new() };
        match &state.page {
            Some((at, page)) if now() - *at < SHOWN => page.clone(),
            _ => text(vec![up(0.0)]),
        }
    }
    fn ready(&self) -> Result<String, String> {
        let Ok(state) = self.0.lock() else { return Err("its reader has ended".into()) };
        match &state.page {
            Some((at, _)) if now() - *at < SHOWN => Ok("vCenter answers".into()),
            _ if state.why.is_empty() => Err("vCenter has not answered yet".into()),
            _ => Err(state.why.into()),
        }
    }
}

/// For ever; a server that failed is asked anew, more and more slowly. A refused login is not tried again before the
/// password file has changed: `Site` sees to it.
fn keep_reading(site: &Site, shown: &Shown) {
    let mut pause = AGAIN.0;
    let mut reader = Reader::default();
    let mut last = None;
    loop {
        // What is shown is as old as its question.
        let begun = now();
        let page = reader.page(site);
        let (why, wait) = match &page {
            Ok(_) => ("", EVERY),
            Err(fault) if fault.kind == REFUSED => ("vCenter refuses the login: the log says more", AGAIN.0),
            Err(_) => {
                pause = (pause * 2).min(AGAIN.1);
                ("vCenter is not heard: the log says more", pause)
            }
        };
        if page.is_ok() {
            pause = AGAIN.0;
        } else {
            reader = Reader::default();
        }
        if let Ok(mut state) = shown.0.lock() {
            state.why = why;
            match page {
                Ok(page) => {
                    state.page = Some((begun, page));
                    last = None;
                }
                Err(fault) if last.as_ref() == Some(&fault) => {}
                Err(fault) => {
                    tracing::warn!("{}", told(&site.config, &fault).replace('\n', " "));
                    last = Some(fault);
                }
            }
        }
        std::thread::sleep(wait);
    }
}

/// What was listed.
#[derive(Default)]
struct Reader {
    known: Known,
    hosts: Vec<Host>,
    rounds: u32,
}

impl Reader {
    fn page(&mut self, site: &Site) -> Result<String, Fault> {
        if self.known.is_empty() {
            self.known = site.with(known)?;
            if self.known.is_empty() {
                return Err(Fault::said(format!(
                    "{}: this server has no counters of GPUs",
                    site.config.address
                )));
            }
        }
        match self.rounds.is_multiple_of(LIST_AFTER) {
            true => self.hosts = site.hosts()?,
            false => site.with(|session| refresh(session, &mut self.hosts))?,
        }
        self.rounds += 1;
        if self.hosts.is_empty() {
            return Err(Fault::said(
                "none of the file's hosts is in the inventory: `gateway check` says more",
            ));
        }
        let connected: Vec<&Host> = self.hosts.iter().filter(|host| host.state == "connected").collect();
        let readings = site.with(|session| read(session, &self.known, &connected))?;
        let mut samples = vec![up(1.0)];
        let of = |name: &'static str, help: &'static str, node: &str, value: bool| {
            Sample::for_alert(name, help, vec![("node", node.to_string())], f64::from(value))
        };
        let help = "1: vCenter reaches the host";
        for host in &self.hosts {
            samples.push(of("vcenter_host_connected", help, &host.name, host.state == "connected"));
            let maintenance = "1: the host is in maintenance mode";
            samples.push(of("host_maintenance_mode", maintenance, &host.name, host.in_maintenance));
        }
        // A name of the file that nobody has: else an alert could never see it.
        let names = site.config.hosts.iter();
        for name in names.filter(|name| self.hosts.iter().all(|host| host.name != **name)) {
            samples.push(of("vcenter_host_connected", help, name, false));
        }
        samples.extend(readings.iter().map(sample));
        Ok(text(samples))
    }
}

fn up(value: f64) -> Sample {
    Sample::for_alert("vcenter_up", "1: vCenter (or the host) answers", vec![], value)
}

/// A reading under the name that agents use for the same, in its unit.
pub(super) fn in_units(of: &Reading) -> (&'static str, &'static str, f64) {
    let (_, name, help, unit) =
        COUNTERS.into_iter().find(|(counter, ..)| *counter == of.counter).unwrap_or(COUNTERS[0]);
    (name, help, of.value as f64 * unit)
}

fn sample(of: &Reading) -> Sample {
    let (name, help, value) = in_units(of);
    let labels = vec![("node", of.host.clone()), ("gpu", of.gpu.clone()), ("source", "vsphere".to_string())];
    Sample::new(name, help, labels, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsgpu_vsphere::counters::Counter;

    #[test]
    fn values_are_in_the_units_that_agents_use() {
        let value = |counter, value| {
            let of = Reading { host: "esx-01".into(), gpu: "0000:3b:00.0".into(), counter, value };
            sample(&of).value
        };
        assert!((value(Counter::Utilization, 4250) - 0.425).abs() < 1e-9);
        assert_eq!(value(Counter::MemoryTotal, 41_943_040) as u64, 40 << 30);
        let page = Shown::default();
        assert!(page.metrics().contains("vsgpu_vcenter_up 0") && page.ready().is_err());
        page.0.lock().unwrap().page = Some((now(), text(vec![up(1.0)])));
        assert!(page.metrics().contains("vsgpu_vcenter_up 1") && page.ready().is_ok());
    }
}
