//! What monitoring systems get: a real Prometheus scrapes the lab, its own tools judge the alerts, and every
//! query of the dashboards is asked of it.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use vsgpu_tests::http::get;
use vsgpu_tests::lab::gpu_pool::{GpuPool, two_teams};
use vsgpu_tests::lab::small_fleet::{begin, small};
use vsgpu_tests::lab::{Lab, files, free_port, programs, wait_until, workspace};
use vsgpu_wire::client::{Call, CallError, Connection, Connector, Fence, Target};
use vsgpu_wire::v1::ArtifactId;

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn monitoring() -> PathBuf {
    workspace().join("packaging/monitoring")
}

fn each_alert_fires_when_it_should_and_has_its_runbook() {
    let alerts = std::fs::read_to_string(monitoring().join("alerts.yaml")).unwrap();
    let tests = std::fs::read_to_string(monitoring().join("alerts-test.yaml")).unwrap();
    let pages = ["alerts.md", "errors.md"]
        .map(|page| std::fs::read_to_string(workspace().join("packaging/docs").join(page)).unwrap());
    let names: Vec<&str> = alerts.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 10, "{names:?}");
    for name in names {
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name} has no test");
        assert!(
            alerts.contains(&format!("runbook: docs/alerts.md#{}\n", name.to_lowercase())),
            "{name} names no section"
        );
        assert!(pages[0].contains(&format!("\n## {name}\n")), "{name} has no section");
    }
    // Every way in which a node can be held has a section, too.
    for hold in vsgpu::hold::Hold::ALL {
        assert!(pages[1].contains(&format!("\n### {hold}\n")), "a node held as {hold} has no section");
    }
    for args in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts-test.yaml"]] {
        let output = Command::new("promtool").args(args).current_dir(monitoring()).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "promtool {}: {said}", args.join(" "));
    }
}

/// Queries of the dashboards that have no answer on the lab: nothing is wrong there, no VM of it is a GPU server, or
/// the simulated GPU does not say it.
const SILENT: [&str; 6] = [
    "vsgpu_host_whole_gpu_info",
    "vsgpu_pool_",
    "vsgpu_xid_events",
    "vsgpu_requirement_met",
    "vsgpu_guest_cuda_bandwidth",
    "vsgpu_gpu_ecc_uncorrected_errors",
];

/// What is neither metrics nor who one is, the agent refuses by the certificate; and it keeps its places for
/// the operator.
fn metrics_are_all_it_opens(lab: &Lab, folder: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let within = Duration::from_secs(30);
        let target = Target { address: lab.address("esx-01"), node: "esx-01".into(), role: "host" };
        let on = Connection::open(&Connector::reading(folder).unwrap(), &target, within).await.unwrap();
        assert!(on.metrics(within).await.unwrap().contains("vsgpu_up 1"));
        let fence = Fence { holder: "a monitor".into(), epoch: 0 };
        let mut call = Call { fence: fence.clone(), operation: "a monitor's".into(), deadline_secs: 60, ..Call::default() };
        let id = ArtifactId { name: "x".into(), sha256: "0".repeat(64), size: 1, datastore: String::new() };
        let spec = serde_json::json!("Performance");
        let heard = &mut |_: String| {};
        let refused = [
            on.observe(None, &["gpus"], within).await.err(),
            on.claim(&fence, 60, within).await.err(),
            on.apply(None, "assignment-policy", &spec, None, &mut call, within, heard).await.err(),
            on.activate(None, "", &mut call, within, heard).await.err(),
            on.send(Path::new("/etc/hostname"), id, &fence, &Default::default(), within, &mut |_| {}).await.err(),
        ];
        for error in refused {
            assert!(matches!(&error, Some(CallError::Refused(what)) if what.why.contains("metrics and health only")), "{error:?}");
        }
        // Eight connections are all that readers have; the operator's places are others.
        let mut others = vec![];
        for _ in 0..20 {
            others.extend(Connection::open(&Connector::reading(folder).unwrap(), &target, Duration::from_secs(5)).await.ok());
        }
        assert_eq!(others.len() + 1, 8);
        Connection::open(&Connector::reading(&lab.folder.join("pki")).unwrap(), &target, within).await.unwrap();
    });
}

fn a_real_prometheus_scrapes_the_lab_and_answers_every_query() {
    let lab = small("prometheus");
    lab.expect(0, &["apply", "--yes"]);
    lab.expect(0, &["verify"]);
    // The page of the fleet, once behind a token and once behind certificates.
    let token = "a token of sixteen characters or more";
    std::fs::write(lab.folder.join("token"), token).unwrap();
    lab.expect(0, &["cert", "issue", "prometheus", "--role", "monitor"]);
    let addresses = [free_port(), free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let exporter = |at: &str, auth: &str| {
        begin(&lab, &["exporter", "--listen", at, "--every", "1", "--metrics-auth", auth])
    };
    let _with_token = exporter(&addresses[0], "token:token");
    let _with_tls = exporter(&addresses[1], "mtls");
    wait_until("the page is ready", Duration::from_secs(30), || {
        get(&addresses[0], "/readyz", None).is_some_and(|(s, _)| s == 200)
    });
    assert_eq!(get(&addresses[0], "/metrics", None).unwrap().0, 401);
    assert_eq!(get(&addresses[0], "/metrics", Some("another token of that length, or so")).unwrap().0, 401);
    assert_eq!(get(&addresses[0], "/livez", None).unwrap().0, 200);
    // By certificate: nobody without one, no other node's, and the monitor's own.
    let by_certificate = |folder: Option<&str>| {
        let pki = lab.folder.join("pki");
        let port = addresses[1].rsplit(':').next().unwrap();
        let mut curl = Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"]).arg(pki.join("ca.pem"));
        curl.args([
            "--resolve",
            &format!("controller.vsgpu:{port}:127.0.0.1"),
            &format!("https://controller.vsgpu:{port}/metrics"),
        ]);
        if let Some(folder) = folder {
            curl.arg("--cert")
                .arg(pki.join(folder).join("node.pem"))
                .arg("--key")
                .arg(pki.join(folder).join("node.key"));
        }
        String::from_utf8_lossy(&curl.output().unwrap().stdout).into_owned()
    };
    assert_eq!(by_certificate(Some("prometheus.monitor")), "200");
    for other in [None, Some("vm-01.guest"), Some("esx-01.host")] {
        assert_eq!(by_certificate(other), "000", "{other:?}");
    }
    // And the monitor's certificate opens nothing but metrics.
    let disguised = lab.folder.join("disguised");
    std::fs::create_dir_all(&disguised).unwrap();
    std::fs::copy(lab.folder.join("pki/ca.pem"), disguised.join("ca.pem")).unwrap();
    for kind in ["pem", "key"] {
        std::fs::copy(
            lab.folder.join(format!("pki/prometheus.monitor/node.{kind}")),
            disguised.join(format!("controller.{kind}")),
        )
        .unwrap();
    }
    let said = lab.expect(4, &["facts", "--pki", "disguised"]);
    assert!(said.contains("this certificate may read metrics and health only"), "{said}");
    lab.expect(0, &["facts"]);
    metrics_are_all_it_opens(&lab, &lab.folder.join("pki/prometheus.monitor"));
    // It is enough for the page of the fleet, as its unit asks for it, and says when it ends.
    let quiet = format!("127.0.0.1:{}", free_port());
    let unit = std::fs::read_to_string(workspace().join("packaging/linux/vsgpu-exporter@.service")).unwrap();
    let started = unit.lines().find_map(|l| l.strip_prefix("ExecStart=/usr/bin/vsgpu ")).unwrap();
    let started = started.replace("${CREDENTIALS_DIRECTORY}", "pki/prometheus.monitor");
    let started = started.replace("$OPTIONS", &format!("--listen {quiet} --every 1"));
    let _quiet = begin(&lab, &started.split(' ').collect::<Vec<_>>());
    wait_until("the page is ready", Duration::from_secs(30), || {
        get(&quiet, "/readyz", None).is_some_and(|(s, _)| s == 200)
    });
    let page = get(&quiet, "/metrics", None).unwrap().1;
    assert!(page.contains("vsgpu_node_reachable{node=\"esx-01\",role=\"host\"} 1"), "{page}");
    assert!(page.lines().any(|l| l.starts_with("vsgpu_certificate_expiry_timestamp_seconds ")), "{page}");
    assert!(lab.expect(0, &["top", "--once", "--pki", "pki/prometheus.monitor"]).contains("1 host, 1 GPU,"));
    wait_until("both agents have looked", Duration::from_secs(60), || {
        let page = get(&addresses[0], "/metrics", Some(token)).unwrap().1;
        page.contains("vsgpu_host_vgpu_licensed{node=\"esx-01\"")
            && page.contains("vsgpu_license_licensed{node=\"vm-01\"")
    });
    // The exporter looks once a second, and at one node after the other.
    for line in [
        "vsgpu_node_reachable{node=\"esx-01\",role=\"host\"} 1",
        "vsgpu_host_vgpu_info{node=\"esx-01\",role=\"host\",gpu=\"0000:3b:00.0\",guest_driver=\"535.183.01\",type=\"GRID A100-40C (simulated)\",vm=\"vm-01\"} 1",
        "vsgpu_host_vgpu_licensed{node=\"esx-01\",role=\"host\",gpu=\"0000:3b:00.0\",vm=\"vm-01\"} 1",
        "vsgpu_host_vgpu_type_fits{node=\"esx-01\",role=\"host\",type=\"GRID A100-40C (simulated)\"} 0",
        "vsgpu_run_nodes{state=\"done\"} 3",
        "vsgpu_run_unfinished 0",
        "vsgpu_changes_total{node=\"vm-01\",role=\"guest\",requirement=\"driver\",result=\"done\"} 1",
    ] {
        wait_until(line, Duration::from_secs(60), || {
            get(&addresses[0], "/metrics", Some(token)).unwrap().1.contains(line)
        });
    }
    let pki = lab.folder.join("pki");
    let config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{}]\nscrape_configs:\n- job_name: vsgpu\n  authorization: {{ credentials_file: {} }}\n  static_configs: [{{ targets: [\"{}\"] }}]\n- job_name: vsgpu-tls\n  scheme: https\n  tls_config: {{ ca_file: {ca}, cert_file: {}, key_file: {}, server_name: controller.vsgpu }}\n  static_configs: [{{ targets: [\"{}\"] }}]\n- job_name: vsgpu-agent\n  static_configs: [{{ targets: [\"{}\"] }}]\n",
        monitoring().join("alerts.yaml").display(),
        lab.folder.join("token").display(),
        addresses[0],
        pki.join("prometheus.monitor/node.pem").display(),
        pki.join("prometheus.monitor/node.key").display(),
        addresses[1],
        lab.metrics("vm-01"),
        ca = pki.join("ca.pem").display(),
    );
    let file = lab.folder.join("prometheus.yml");
    std::fs::write(&file, config).unwrap();
    let log = std::fs::File::create(lab.folder.join("prometheus.log")).unwrap();
    let prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", lab.folder.join("tsdb").display()))
        .arg(format!("--web.listen-address={}", addresses[2]))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let _prometheus = Running(prometheus);
    let ask = |query: &str| -> Value {
        let encoded: String = query.bytes().map(|b| format!("%{b:02x}")).collect();
        let body = get(&addresses[2], &format!("/api/v1/query?query={encoded}"), None).unwrap_or_default().1;
        serde_json::from_str(&body).unwrap_or_default()
    };
    wait_until("Prometheus has scraped all three ways", Duration::from_secs(60), || {
        ask("count(up == 1)")["data"]["result"][0]["value"][1] == "3"
    });
    for name in ["dashboard-fleet.json", "dashboard-gpu.json"] {
        let dashboard: Value =
            serde_json::from_str(&std::fs::read_to_string(monitoring().join(name)).unwrap()).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let query = target["expr"].as_str().unwrap().replace("$node", ".*");
                let answer = ask(&query);
                assert_eq!(answer["status"], "success", "{name}: {query}: {answer}");
                // A rate needs a second scrape.
                let some = || ask(&query)["data"]["result"].as_array().is_some_and(|r| !r.is_empty());
                if !SILENT.iter().any(|s| query.contains(s)) {
                    wait_until(&format!("{name}: {query}: an answer"), Duration::from_secs(20), some);
                }
            }
        }
    }
    // As the page on monitoring says: a guest's metrics with its host.
    let joined = "vsgpu_gpu_utilization_ratio{role=\"guest\"} * on (node) group_left (host) max by (node, host) (vsgpu_node_host_info)";
    assert_eq!(ask(joined)["data"]["result"][0]["metric"]["host"], "esx-01", "{}", ask(joined));
    let (_, rules) = get(&addresses[2], "/api/v1/rules", None).unwrap();
    let rules: Value = serde_json::from_str(&rules).unwrap();
    for rule in rules["data"]["groups"][0]["rules"].as_array().unwrap() {
        assert!(rule["health"] != "err", "{rule:#}");
        // Of a fleet that is well, only what is true of it is said: its one GPU is full.
        let quiet = rule["alerts"].as_array().is_none_or(Vec::is_empty);
        assert!(quiet || rule["name"] == "VsgpuNoCapacity", "{rule:#}");
    }
}

fn metrics_are_never_open_beyond_this_machine_without_a_key() {
    let lab = small("open");
    lab.stop_agent("vm-01");
    let serve = |more: &[&str]| {
        let mut command = Command::new(programs().join("vsgpu-guest-agent"));
        command
            .args(["serve", "--metrics", "0.0.0.0:0", "--listen", "127.0.0.1:0", "--pki"])
            .arg(lab.folder.join("pki/vm-01.guest"));
        let output = command.args(more).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, said) = serve(&[]);
    assert!(
        status == Some(1) && said.contains("would be open to everybody: add `--metrics-auth mtls`"),
        "{said}"
    );
    let short = lab.folder.join("short");
    std::fs::write(&short, "short").unwrap();
    let (status, said) = serve(&["--metrics-auth", &format!("token:{}", short.display())]);
    assert!(status == Some(1) && said.contains("a token has at least 16 characters"), "{said}");
    let (status, said) = serve(&["--metrics-auth", "please"]);
    assert!(status == Some(1) && said.contains("neither `mtls` nor `token:FILE`"), "{said}");
    let conf = lab.folder.join("agent.conf");
    std::fs::write(&conf, "# options\nlisten = 127.0.0.1:0\nlisten here\n").unwrap();
    let (status, said) = serve(&["--config", conf.to_str().unwrap()]);
    assert!(
        status == Some(2) && said.contains("agent.conf:3: `listen here` is not `name = value`"),
        "{said}"
    );
}

/// One request to a collector's place: its path and its body.
fn collect(listener: &std::net::TcpListener) -> (String, serde_json::Value) {
    use std::io::{BufRead as _, Read as _, Write as _};
    let (stream, _) = listener.accept().unwrap();
    let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (&stream)
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}")
        .unwrap();
    (first, serde_json::from_slice(&body).unwrap())
}

fn a_run_is_a_trace_where_that_was_asked_for() {
    let lab = Lab::new("trace");
    lab.host("esx-01", "8.0.2", vec![files::a100("0000:3b:00.0")]);
    let wish = |policy: &str| {
        lab.write_fleet(&format!(
            "version: 1\nhosts:\n  esx-01:\n    address: {}\n    assignment-policy: {policy}\n",
            lab.address("esx-01")
        ));
    };
    lab.start();
    wish("Consolidation");
    let said = lab.expect(0, &["apply", "--yes"]);
    assert!(!said.contains("trace"), "off unless it is asked for: {said}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let apply = |endpoint: &str| {
        let output =
            lab.command(&["apply", "--yes"]).env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    wish("Performance");
    let collected = std::thread::spawn(move || collect(&listener));
    let said = apply(&endpoint);
    let (request, document) = collected.join().unwrap();
    assert!(request.starts_with("POST /v1/traces "), "{request}");
    let status: serde_json::Value = serde_json::from_str(&lab.expect(0, &["status", "-o", "json"])).unwrap();
    let trace = status["trace"].as_str().unwrap();
    assert!(said.contains(&format!("trace {trace}")), "{said}");
    let spans = document["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    assert_eq!(spans.len(), 1 + status["steps"].as_array().unwrap().len());
    assert!(spans.iter().all(|s| s["traceId"] == trace && s["status"]["code"] == 1), "{document}");
    assert!(
        spans[1..]
            .iter()
            .all(|s| s["parentSpanId"] == spans[0]["spanId"] && s["name"] == "assignment-policy"),
        "{document}"
    );
    // The agent's log names the run's trace and the step's span.
    let log = std::fs::read_to_string(lab.machine("esx-01").join("agent.log")).unwrap();
    let marks = [format!("trace_id=\"{trace}\""), format!("span_id={}", spans[1]["spanId"])];
    assert!(log.lines().any(|l| marks.iter().all(|mark| l.contains(mark))), "{marks:?}\n{log}");
    // A collector that is away costs a word and nothing else.
    wish("Consolidation");
    let said = apply("http://127.0.0.1:9");
    assert!(said.contains("was not sent"), "{said}");
}

/// What a GPU server and its client say of themselves, by Prometheus's own judgement.
fn the_metrics_of_network_gpus_are_in_order() {
    let pool = GpuPool::new("promtool", 2, two_teams(), &["ml-1"]);
    let (status, said) = pool.run("ml-1", &[], "echo").end();
    assert_eq!(status, Some(0), "{said}");
    pool.ended(1);
    pool.lab.start();
    for (node, series) in
        [("gpu-srv-1", "vsgpu_pool_wait_seconds_bucket{le=\"1\"} 1"), ("ml-1", "vsgpu_network_gpu_up 1")]
    {
        let mut page = String::new();
        wait_until(&format!("{node} says {series}"), Duration::from_secs(60), || {
            page = get(&pool.lab.metrics(node), "/metrics", None).unwrap_or_default().1;
            page.lines().any(|line| line == series)
        });
        let mut promtool = Command::new("promtool");
        let mut promtool = promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        promtool = promtool.stderr(Stdio::piped());
        let mut child = promtool.spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), page.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        // What the dashboards ask of GPU servers is there.
        let dashboard = std::fs::read_to_string(monitoring().join("dashboard-fleet.json")).unwrap();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let asked: Vec<&str> =
            dashboard.split(|c| !is_name(c)).filter(|word| word.starts_with("vsgpu_pool_")).collect();
        assert!(asked.len() >= 4, "{asked:?}");
        for name in asked.into_iter().filter(|_| node == "gpu-srv-1") {
            assert!(
                page.lines().any(|line| line.starts_with(name)),
                "{name} is asked for, and nobody says it"
            );
        }
        // It also dislikes names that are not ours to choose.
        let ours: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("vsgpu_pool") || line.contains("vsgpu_network_gpu"))
            .collect();
        assert!(ours.is_empty() && !said.contains("error while linting"), "{node}: {said}");
    }
}

pub const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![the_metrics_of_network_gpus_are_in_order [Prometheus], each_alert_fires_when_it_should_and_has_its_runbook [Prometheus], a_real_prometheus_scrapes_the_lab_and_answers_every_query [Prometheus, Curl], metrics_are_never_open_beyond_this_machine_without_a_key, a_run_is_a_trace_where_that_was_asked_for];
