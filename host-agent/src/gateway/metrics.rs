//! `gateway metrics`: the GPU counters that vCenter measures, as Prometheus reads them, with nothing on any host. Once on
//! standard output, or served: then what is shown comes from memory, and a vCenter that hangs makes values old and at last
//! absent, never a scrape slow.

use super::config::Config;
use super::login::{begin, named_hosts, told};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vsgpu_core::text::visible;
use vsgpu_vsphere::Session;
use vsgpu_vsphere::counters::{Counter, Known, Reading, known, read};
use vsgpu_vsphere::inventory::Host;
use vsgpu_wire::metrics::listener::{Pages, ScrapeAuth, serve};
use vsgpu_wire::metrics::{Sample, text};
use vsgpu_wire::server::log_to_stderr;

/// vCenter's own interval of real-time samples.
const EVERY: Duration = Duration::from_secs(20);
/// Rounds until the hosts are listed anew.
const LIST_AFTER: u32 = 15;
/// How long the last values are shown where no new ones come.
const SHOWN: Duration = Duration::from_secs(90);
/// After a refused login: each try counts towards the account's lock.
const REFUSED: Duration = Duration::from_secs(15 * 60);
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
    let Some(address) = served.listen else {
        let page = Reader::begin(&config)?.page(&config)?;
        use std::io::Write as _;
        return write!(std::io::stdout(), "{}", visible(&page)).map_err(|e| e.to_string());
    };
    log_to_stderr();
    let auth = ScrapeAuth::of(address, served.metrics_auth.as_deref(), &served.pki, &served.name)?;
    let shown = Arc::new(Shown::default());
    let of_reader = shown.clone();
    std::thread::Builder::new()
        .name("vcenter".into())
        .spawn(move || keep_reading(&config, &of_reader))
        .map_err(|e| format!("no thread: {e}"))?;
    serve(address, auth, shown)
}

/// The last page, and when it was made.
#[derive(Default)]
struct Shown(Mutex<State>);

#[derive(Default)]
struct State {
    page: Option<(Instant, String)>,
    why: String,
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
            _ => Err(state.why.clone()),
        }
    }
}

/// For ever; a session that failed is begun anew, more and more slowly.
fn keep_reading(config: &Config, shown: &Shown) {
    let mut pause = AGAIN.0;
    let mut reader = None;
    loop {
        let page = match reader.take() {
            Some(reader) => Ok(reader),
            None => Reader::begin(config),
        }
        .and_then(|mut of: Reader| {
            let page = of.page(config)?;
            reader = Some(of);
            Ok(page)
        });
        let wait = match &page {
            Ok(_) => {
                pause = AGAIN.0;
                EVERY
            }
            Err(why) if why.contains("refuses") => REFUSED,
            Err(_) => {
                pause = (pause * 2).min(AGAIN.1);
                pause
            }
        };
        if let Ok(mut state) = shown.0.lock() {
            match page {
                Ok(page) => state.page = Some((now(), page)),
                Err(why) => {
                    tracing::warn!("{}", why.replace('\n', " "));
                    state.why = why;
                }
            }
        }
        std::thread::sleep(wait);
    }
}

/// A session, and what was listed in it.
struct Reader {
    session: Session,
    known: Known,
    hosts: Vec<Host>,
    rounds: u32,
}

impl Reader {
    fn begin(config: &Config) -> Result<Self, String> {
        let mut session = begin(config)?;
        let hosts = named_hosts(config, &mut session)?;
        let known = known(&mut session).map_err(|fault| told(config, &fault))?;
        if known.is_empty() {
            return Err(format!("{}: this server has no counters of GPUs", config.address));
        }
        Ok(Self { session, known, hosts, rounds: 0 })
    }

    fn page(&mut self, config: &Config) -> Result<String, String> {
        self.rounds += 1;
        if self.rounds.is_multiple_of(LIST_AFTER) {
            self.hosts = named_hosts(config, &mut self.session)?;
        }
        let connected: Vec<&Host> = self.hosts.iter().filter(|host| host.state == "connected").collect();
        let readings =
            read(&mut self.session, &self.known, &connected).map_err(|fault| told(config, &fault))?;
        let mut samples = vec![up(1.0)];
        for host in &self.hosts {
            let of = |name: &'static str, help: &'static str, value: bool| {
                Sample::for_alert(name, help, vec![("node", host.name.clone())], f64::from(value))
            };
            samples.push(of(
                "vcenter_host_connected",
                "1: vCenter reaches the host",
                host.state == "connected",
            ));
            samples.push(of(
                "host_maintenance_mode",
                "1: the host is in maintenance mode",
                host.in_maintenance,
            ));
        }
        samples.extend(readings.iter().map(sample));
        Ok(text(samples))
    }
}

fn up(value: f64) -> Sample {
    Sample::for_alert("vcenter_up", "1: vCenter (or the host) answers", vec![], value)
}

/// Under the names that agents use for the same.
fn sample(of: &Reading) -> Sample {
    let value = of.value as f64;
    let (name, help, value) = match of.counter {
        Counter::Utilization => {
            ("gpu_utilization_ratio", "Share of time in which the GPU worked", value / 10_000.0)
        }
        Counter::MemoryUsed => ("gpu_memory_used_bytes", "Frame buffer in use", value * 1024.0),
        Counter::MemoryReserved => {
            ("gpu_memory_reserved_bytes", "Frame buffer that VMs have reserved", value * 1024.0)
        }
        Counter::MemoryTotal => ("gpu_memory_total_bytes", "Frame buffer of the GPU", value * 1024.0),
        Counter::Power => ("gpu_power_watts", "Power drawn by the GPU", value),
        Counter::Temperature => ("gpu_temperature_celsius", "Temperature of the GPU", value),
        Counter::EccCorrected => {
            ("gpu_ecc_corrected_errors", "Errors of the memory that were corrected", value)
        }
        Counter::EccUncorrected => {
            ("gpu_ecc_uncorrected_errors", "Errors of the memory that were not corrected", value)
        }
    };
    let labels = vec![("node", of.host.clone()), ("gpu", of.gpu.clone()), ("source", "vsphere".to_string())];
    Sample::new(name, help, labels, value)
}

#[cfg(test)]
mod tests {
    use super::*;

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
