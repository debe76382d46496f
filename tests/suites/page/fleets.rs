//! Fleets of any size as the metrics of their agents, and their pages at a real listener. No machine is there.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use vsgpu::web::Site;
use vsgpu_tests::lab::free_port;
use vsgpu_wire::metrics::listener::{self, Page, Pages, ScrapeAuth};

const GIB: u64 = 1 << 30;

/// Metrics that never change.
struct Told(String);

impl Pages for Told {
    fn metrics(&self) -> String {
        self.0.clone()
    }
    fn ready(&self) -> Result<String, String> {
        Ok("asked once".into())
    }
}

/// A word as metrics have it.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Hosts with two GPUs each: vGPUs on the first, one VM with the whole second. Every seventh host does not answer, every
/// fifth is in maintenance mode. `name`: what the names begin with.
pub fn metrics(name: &str, hosts: usize) -> String {
    let mut text = "vsgpu_exporter_round_age_seconds 3\n".to_string();
    let name = quoted(name);
    for n in 1..=hosts {
        let host = format!("{name}-{n:04}");
        let of = format!("node=\"{host}\",role=\"host\"");
        let mut say = |series: &str, labels: &str, value: f64| {
            let _ = writeln!(text, "vsgpu_{series}{{{of}{labels}}} {value}");
        };
        say("node_reachable", "", f64::from(u8::from(n % 7 != 0)));
        say("node_page_age_seconds", "", (n % 50) as f64);
        say("last_observation_age_seconds", "", 20.0);
        say("host_maintenance_mode", "", f64::from(u8::from(n % 5 == 0)));
        let (first, second) = (",gpu=\"0000:3b:00.0\"", ",gpu=\"0000:5e:00.0\"");
        say("gpu_info", &format!("{first},name=\"NVIDIA A100-PCIE-40GB\""), 1.0);
        say("gpu_utilization_ratio", first, (n % 100) as f64 / 100.0);
        say("gpu_memory_used_bytes", first, (3 * GIB) as f64);
        say("gpu_memory_total_bytes", first, (40 * GIB) as f64);
        say("gpu_temperature_celsius", first, 41.0);
        for vgpu in 1..=3 {
            let vm = format!("{first},vm=\"{name}-vm-{n:04}-{vgpu}\"");
            say("host_vgpu_info", &format!("{vm},type=\"grid_a100-10c\",guest_driver=\"535.183.01\""), 1.0);
            say("host_vgpu_memory_used_bytes", &vm, GIB as f64);
            say("host_vgpu_memory_total_bytes", &vm, (10 * GIB) as f64);
            say("host_vgpu_licensed", &vm, f64::from(u8::from(vgpu != 3)));
        }
        say(
            "host_gpu_owner_info",
            &format!("{second},configured=\"VM Passthru\",active=\"VM Passthru\""),
            1.0,
        );
        say("host_whole_gpu_info", &format!("{second},vm=\"{name}-whole-{n:04}\""), 1.0);
        let guest = format!("node=\"{name}-vm-{n:04}\",role=\"guest\"");
        let mut say = |series: &str, labels: &str, value: f64| {
            let _ = writeln!(text, "vsgpu_{series}{{{guest}{labels}}} {value}");
        };
        say("node_reachable", "", 1.0);
        say("node_page_age_seconds", "", 2.0);
        say("guest_driver_loaded", "", 1.0);
        say("license_licensed", ",gpu=\"x\"", f64::from(u8::from(n % 11 != 0)));
        say("guest_cuda_proof_passed", "", 1.0);
        say("guest_cuda_proof_current", "", f64::from(u8::from(n % 13 != 0)));
        say("requirement_met", ",vm=\"\",requirement=\"driver\"", 1.0);
        say("requirement_met", ",vm=\"\",requirement=\"cuda-proof\"", f64::from(u8::from(n % 13 != 0)));
    }
    text
}

/// The pages of a fleet whose agents say this.
pub struct Served {
    pub site: Arc<Site>,
    /// Where a browser finds them; absent until asked for.
    pub address: String,
    folder: PathBuf,
    /// Dropped, it serves no more.
    _end: tokio::sync::oneshot::Sender<()>,
}

/// A moment that does not move.
fn clock() -> u64 {
    1_795_733_875
}

/// Serves them; the fleet file has two guests, one of which runs elsewhere than it says.
pub fn serve(name: &str, metrics: String) -> Served {
    let folder = std::env::temp_dir().join(format!("vsgpu-page-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("fleet.yaml");
    let guest = "guest: { address: vm.lab }";
    std::fs::write(
        &file,
        format!(
            "version: 1\nhosts:\n  esx-0001: {{ address: esx.lab }}\n  esx-0002: {{ address: esx2.lab }}\nvms:\n  esx-vm-0001: {{ host: esx-0001, vm-name: esx-vm-0001-1, {guest} }}\n  esx-vm-0002: {{ host: esx-0001, vm-name: esx-vm-0002-2, {guest} }}\n"
        ),
    )
    .unwrap();
    let fleet = vsgpu::fleet::file::read(&file).unwrap_or_else(|errors| panic!("{errors:?}"));
    let site = Arc::new(Site::new(&fleet, Arc::new(Told(metrics)), clock));
    let at: SocketAddr = format!("127.0.0.1:{}", free_port()).parse().unwrap();
    let (pages, (_end, ended), (say, listens)) =
        (site.clone(), tokio::sync::oneshot::channel(), std::sync::mpsc::channel());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            listener::listen(at, ScrapeAuth::Loopback, pages).unwrap();
            say.send(()).unwrap();
            let _ = ended.await;
        });
    });
    listens.recv().unwrap();
    Served { site, address: format!("http://{at}"), folder, _end }
}

impl Served {
    pub fn page(&self, path: &str) -> Page {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        self.site.page(path, query).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
