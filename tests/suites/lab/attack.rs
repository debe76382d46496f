//! Attacks on an agent: on who gets in, on what it is made to do at once, and on the file between its check
//! and its installation. Each of these succeeded once.

use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vsgpu_core::outcome::Outcome;
use vsgpu_tests::lab::small_fleet::{count, small};
use vsgpu_tests::lab::{Lab, files, wait_until};
use vsgpu_wire::client::{Call, CallError, Connection, Connector, Fence, Target, Wishes};
use vsgpu_wire::v1::ArtifactId;

const WITHIN: Duration = Duration::from_secs(60);

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap().block_on(work)
}

fn target(lab: &Lab, node: &str) -> Target {
    Target {
        address: lab.address(node),
        node: node.into(),
        role: if node.starts_with("esx") { "host" } else { "guest" },
    }
}

fn connector(lab: &Lab) -> Connector {
    Connector::load(&lab.folder.join("pki")).unwrap()
}

async fn open(lab: &Lab, node: &str) -> Connection {
    Connection::open(&connector(lab), &target(lab, node), WITHIN).await.unwrap()
}

/// The controller's own words for a claimed node.
async fn claimed(lab: &Lab, node: &str) -> (Connection, Fence) {
    let connection = open(lab, node).await;
    let fence = Fence { holder: "attacker".into(), epoch: 0 };
    let epoch = connection.claim(&fence, 600, WITHIN).await.unwrap();
    (connection, Fence { epoch, ..fence })
}

async fn apply(
    connection: &Connection,
    fence: &Fence,
    requirement: &str,
    spec: &Value,
    name: &str,
) -> Outcome {
    let mut call = Call { fence: fence.clone(), operation: name.into(), ..Call::default() };
    connection.apply(None, requirement, spec, None, &mut call, WITHIN, &mut |_| {}).await.unwrap()
}

fn refused(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Blocked { why, .. } | Outcome::Failed { why, .. } => why.clone(),
        other => panic!("not refused: {other:?}"),
    }
}

/// A manager as the controller states it, and what is needed to send it.
fn manager(lab: &Lab) -> (Value, ArtifactId, PathBuf) {
    let name = files::MANAGER_16_6;
    let stated = serde_json::from_value(json!(format!("files/{name}"))).unwrap();
    let artifact = vsgpu::fleet::package::resolve(&lab.folder, &stated).unwrap();
    let (sha256, size) = (artifact.sha256.clone().unwrap(), artifact.size.unwrap());
    let id = ArtifactId { name: name.into(), sha256, size, datastore: "datastore1".into() };
    (json!({ "package": artifact, "datastore": "datastore1" }), id, lab.folder.join("files").join(name))
}

#[test]
fn what_was_checked_is_what_is_installed() {
    let lab = small("swap");
    let (spec, id, file) = manager(&lab);
    let on_host = |path: &str| lab.machine("esx-01").join("root").join(path.trim_start_matches('/'));
    let installs = || count(&lab.changing_calls("esx-01"), "software");
    lab.change("esx-01", |m| m.esxi().vms.iter_mut().for_each(|vm| vm.on = false));
    block_on(async {
        let (connection, fence) = claimed(&lab, "esx-01").await;
        let state = connection
            .send(&file, id.clone(), &fence, &Default::default(), WITHIN, &mut |_| {})
            .await
            .unwrap();
        // Whoever asks: a host that serves its VMs is not touched.
        lab.forget_calls();
        let why = refused(&apply(&connection, &fence, "vgpu-manager", &spec, "1").await);
        assert!(why.contains("not in maintenance mode"), "{why}");
        let mut call = Call { fence: fence.clone(), operation: "2".into(), ..Call::default() };
        let boot = connection.describe(WITHIN).await.unwrap().boot_id;
        let reboot = connection.activate(None, &boot, &mut call, WITHIN, &mut |_| {}).await.unwrap();
        assert!(refused(&reboot).contains("not in maintenance mode"), "{reboot:?}");
        assert!(lab.changing_calls("esx-01").is_empty(), "{:?}", lab.changing_calls("esx-01"));
        lab.change("esx-01", |m| m.esxi().maintenance = true);
        // Another host's hand on a shared datastore.
        let there = on_host(&state.path);
        let good = std::fs::read(&there).unwrap();
        std::fs::write(
            &there,
            files::bundle("NVD-VMware_ESXi_8.0.0_Driver", "535.183.04-1OEM.800.1.0.20613240", true, 999),
        )
        .unwrap();
        let why = refused(&apply(&connection, &fence, "vgpu-manager", &spec, "3").await);
        assert!(why.contains("was changed after it was sent"), "{why}");
        // A link to a file with the right content is no file of ours either.
        std::fs::rename(&there, there.with_extension("aside")).unwrap();
        std::fs::write(there.with_extension("good"), &good).unwrap();
        std::os::unix::fs::symlink(there.with_extension("good"), &there).unwrap();
        let why = refused(&apply(&connection, &fence, "vgpu-manager", &spec, "4").await);
        assert!(why.contains("symbolic link") || why.contains("symbolic links"), "{why}");
        std::fs::remove_file(&there).unwrap();
        let why = refused(&apply(&connection, &fence, "vgpu-manager", &spec, "5").await);
        assert!(why.contains("is not there"), "{why}");
        std::fs::write(&there, &good).unwrap();
        // What it is is not taken from whoever asks.
        for (key, lie) in [
            ("kind", json!("vib")),
            (
                "holds",
                json!([{ "name": "NVD-VMware_ESXi_8.0.0_Driver", "version": "999.0-1OEM", "acceptance": "accepted" }]),
            ),
            (
                "holds",
                json!([{ "name": "NVD-VMware_ESXi_8.0.0_Driver", "version": "535.183.04-1OEM.800.1.0.20613240", "acceptance": "partner" }]),
            ),
        ] {
            let mut lying = spec.clone();
            lying["package"][key] = lie;
            let why =
                refused(&apply(&connection, &fence, "vgpu-manager", &lying, &format!("lie {lying}")).await);
            assert!(why.contains("differently"), "{why}");
        }
        let mut outside = spec.clone();
        outside["package"]["sha256"] = json!("../../../../tmp");
        assert!(
            refused(&apply(&connection, &fence, "vgpu-manager", &outside, "6").await)
                .contains("64 hexadecimal")
        );
        assert_eq!(installs(), 0, "{:?}", lab.calls("esx-01"));
        // The right one goes to the tool under a name that only this host writes.
        let done = apply(&connection, &fence, "vgpu-manager", &spec, "7").await;
        assert!(matches!(done, Outcome::Applied { .. }), "{done:?}");
        let calls = lab.calls("esx-01");
        assert!(
            calls.iter().any(|c| c.contains("software component apply -d /tmp/vsgpu-staged/")),
            "{calls:?}"
        );
        let left = std::fs::read_dir(on_host("/tmp/vsgpu-staged")).unwrap().count();
        assert_eq!(left, 0, "nothing is left on the ramdisk");
    });
}

#[test]
fn nothing_is_received_through_a_link() {
    let lab = small("links");
    let (_, id, file) = manager(&lab);
    let victim = lab.folder.join("victim");
    std::fs::write(&victim, "precious").unwrap();
    let folder = lab.machine("esx-01").join("root/vmfs/volumes/datastore1/vsgpu");
    let short: String = id.sha256.chars().take(16).collect();
    let partial = format!("{}.esx-01.partial", id.name);
    block_on(async {
        let (connection, fence) = claimed(&lab, "esx-01").await;
        let send = || async {
            connection.send(&file, id.clone(), &fence, &Default::default(), WITHIN, &mut |_| {}).await
        };
        std::fs::create_dir_all(folder.join(&short)).unwrap();
        std::os::unix::fs::symlink(&victim, folder.join(&short).join(&partial)).unwrap();
        assert!(send().await.unwrap_err().to_string().contains("symbolic link"));
        std::fs::remove_file(folder.join(&short).join(&partial)).unwrap();
        // A second name of a file that is somebody's.
        std::fs::hard_link(&victim, folder.join(&short).join(&partial)).unwrap();
        assert!(send().await.unwrap_err().to_string().contains("second name"));
        std::fs::remove_dir_all(folder.join(&short)).unwrap();
        // The folder itself.
        std::fs::create_dir(lab.folder.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(lab.folder.join("elsewhere"), folder.join(&short)).unwrap();
        assert!(send().await.unwrap_err().to_string().contains("symbolic link"));
        std::fs::remove_file(folder.join(&short)).unwrap();
        send().await.unwrap();
        connection.claim(&fence, 0, WITHIN).await.unwrap();
    });
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(lab.folder.join("elsewhere")).unwrap().count(), 0);
    // And nothing of a guest is written through one: the file that the license needs.
    let conf = lab.machine("vm-01").join("root/etc/modprobe.d");
    std::fs::create_dir_all(&conf).unwrap();
    std::os::unix::fs::symlink(&victim, conf.join("vsgpu-nouveau.conf")).unwrap();
    let said = lab.expect(5, &["apply"]);
    assert!(said.contains("vsgpu-nouveau.conf") && said.contains("symbolic link"), "{said}");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
}

/// Connections that say `words` and no more, renewed as soon as the agent cuts one.
fn crowd(
    address: &str,
    words: &'static [u8],
    size: usize,
    over: &Arc<AtomicBool>,
) -> std::thread::JoinHandle<u64> {
    let (address, over) = (address.to_string(), over.clone());
    std::thread::spawn(move || {
        let mut renewed = 0;
        let connect = || -> Option<TcpStream> {
            let mut socket = TcpStream::connect(&address).ok()?;
            socket.write_all(words).ok()?;
            socket.set_nonblocking(true).ok()?;
            Some(socket)
        };
        let mut crowd: Vec<Option<TcpStream>> = (0..size).map(|_| connect()).collect();
        while !over.load(Ordering::SeqCst) {
            for place in &mut crowd {
                let gone = place
                    .as_mut()
                    .is_none_or(|socket| !matches!(socket.read(&mut [0; 64]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock));
                if gone {
                    *place = connect();
                    renewed += 1;
                }
            }
            // As fast as an attacker who leaves the machine something to answer with.
            std::thread::sleep(Duration::from_millis(20));
        }
        renewed
    })
}

#[test]
fn silent_connections_keep_no_operator_out() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(8_192.min(hard)), hard).unwrap();
    let lab = small("crowd");
    // Nothing; the beginning of a handshake and no more; something that is none.
    for (words, size) in [
        (b"".as_slice(), 1_200),
        (b"\x16\x03\x01\x02\x00\x01".as_slice(), 600),
        (b"GET / HTTP/1.1\r\n".as_slice(), 200),
    ] {
        let over = Arc::new(AtomicBool::new(false));
        let crowd = crowd(&lab.address("esx-01"), words, size, &over);
        let begun = Instant::now();
        let mut slowest = Duration::ZERO;
        while begun.elapsed() < Duration::from_secs(5) {
            let asked = Instant::now();
            block_on(async { open(&lab, "esx-01").await.describe(WITHIN).await.unwrap() });
            slowest = slowest.max(asked.elapsed());
        }
        over.store(true, Ordering::SeqCst);
        let renewed = crowd.join().unwrap();
        println!(
            "{size} connections that say {} bytes, {renewed} renewed: slowest honest answer {slowest:.2?}",
            words.len()
        );
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    }
    // The metrics' listener as well.
    let over = Arc::new(AtomicBool::new(false));
    let waiting = crowd(&lab.metrics("esx-01"), b"", 600, &over);
    wait_until("metrics beside silent connections", Duration::from_secs(2), || {
        vsgpu_tests::http::get(&lab.metrics("esx-01"), "/livez", None)
            .is_some_and(|(status, _)| status == 200)
    });
    over.store(true, Ordering::SeqCst);
    waiting.join().unwrap();
    let log = std::fs::read_to_string(lab.machine("esx-01").join("agent.log")).unwrap();
    let lines = log.lines().filter(|l| l.contains("refused")).count();
    assert!((1..12).contains(&lines), "{lines} lines of the log about who was turned away");
}

fn threads(lab: &Lab, node: &str) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", lab.agent_pid(node).unwrap())).map_or(0, Iterator::count)
}

#[test]
fn what_an_operator_asks_is_bounded() {
    let lab = small("bounds");
    block_on(async {
        let (connection, fence) = claimed(&lab, "esx-01").await;
        // A number that could not grow any more.
        for epoch in [u64::MAX, u64::MAX - 1, 1 << 60] {
            let wild = Fence { epoch, ..fence.clone() };
            assert!(
                matches!(connection.claim(&wild, 60, WITHIN).await, Err(CallError::Failed(why)) if why.contains("never given"))
            );
        }
        assert_eq!(
            connection.claim(&fence, 60, WITHIN).await.unwrap(),
            fence.epoch,
            "the claim is as it was"
        );
        // Wishes: one of megabytes, and more than there are requirements.
        let large = json!({ "policy": "x".repeat(3 << 20) });
        let of_node = |wishes: Vec<(String, Value)>| [Wishes { vm: None, wishes }];
        let _ = connection.remember(&of_node(vec![("assignment-policy".into(), large)]), WITHIN).await;
        let many: Vec<(String, Value)> = (0..2_000)
            .map(|n| ("assignment-policy".into(), json!(format!("{n}{}", "y".repeat(300)))))
            .collect();
        let _ = connection.remember(&of_node(many), WITHIN).await;
        let kept = std::fs::read(lab.machine("esx-01").join("root/etc/opt/vsgpu/wishes.json"))
            .map_or(0, |bytes| bytes.len());
        assert!(kept < 10_000, "{kept} bytes of wishes are kept");
        // Words come back cut.
        let name = "f".repeat(1 << 20);
        let said = connection.observe(None, &[&name], WITHIN).await.unwrap_err().to_string();
        assert!(said.contains("does not know the fact") && said.len() < 1_000, "{}", said.len());
    });
    let most = Arc::new(std::sync::Mutex::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let pid = lab.agent_pid("esx-01").unwrap();
    let watcher = {
        let (most, over) = (most.clone(), over.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::SeqCst) {
                let now = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
                let mut most = most.lock().unwrap();
                *most = now.max(*most);
                drop(most);
                std::thread::sleep(Duration::from_millis(5));
            }
        })
    };
    block_on(async {
        let looking = open(&lab, "esx-01").await;
        let mut looks = tokio::task::JoinSet::new();
        for _ in 0..512 {
            let connection = looking.clone();
            looks.spawn(
                async move { connection.observe(None, &[], Duration::from_secs(120)).await.map(|_| ()) },
            );
        }
        // Meanwhile an honest operator.
        let honest = open(&lab, "esx-01").await;
        for _ in 0..5 {
            let asked = Instant::now();
            honest.describe(WITHIN).await.unwrap();
            assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // Some are answered, and those beyond the bound are refused; none hangs.
        let (mut answered, mut turned_away) = (0, 0);
        while answered < 20 || turned_away < 100 {
            match looks.join_next().await.unwrap().unwrap() {
                Ok(()) => answered += 1,
                Err(why) => {
                    assert!(why.to_string().contains("others wait"), "{why}");
                    turned_away += 1;
                }
            }
        }
        looks.abort_all();
    });
    over.store(true, Ordering::SeqCst);
    watcher.join().unwrap();
    let most = *most.lock().unwrap();
    println!("512 looks at once: at most {most} threads, now {}", threads(&lab, "esx-01"));
    assert!(most < 700, "{most} threads");
}
