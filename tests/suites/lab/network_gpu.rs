//! GPUs over the network with real processes: gateway, daemon, users' programs; the engine is a stand-in, the
//! GPUs and systemd are simulated.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use vsgpu_core::engine::manifest::Side;
use vsgpu_tests::fakes::state::Fault;
use vsgpu_tests::fakes::units;
use vsgpu_tests::lab::gpu_pool::{BUILD, GpuPool, Running, team, two_teams};
use vsgpu_tests::lab::{Lab, files, free_port, programs, wait_until};
use vsgpu_wire::client::{CallError, Connector, Target};
use vsgpu_wire::pool::client::{Gateway, tunnel};
use vsgpu_wire::pool::v1::{self, from_gateway::Said, refusal::Why};

/// A host that gives its GPUs whole to the GPU server, and one without GPUs for the clients.
fn fleet(lab: &Lab, port: u16, build: &str, teams: &str) -> String {
    let file = |side: &str| format!("files/lupine-{build}-cuda12.2-{side}.tar");
    let client = |name: &str| {
        format!(
            "  {name}:\n    host: esx-02\n    guest:\n      address: {}\n      network-gpu: {{ engine: {{ lupine: {} }}, servers: [gpu-srv-1] }}\n",
            lab.address(name),
            file("client")
        )
    };
    format!(
        "version: 1\ndeadlines: {{ host-reboot-secs: 20, guest-boot-secs: 20 }}\nrollout: {{ canary: 1, batch: 1 }}\nhosts:\n  esx-02:\n    address: {}\n    acceptance-level: VMwareAccepted\n  esx-01:\n    address: {}\n    passthrough: [A100]\nvms:\n{}{}  gpu-srv-1:\n    host: esx-01\n    passthrough: [{{ model: A100, count: 2 }}]\n    shutdown-secs: 2\n    guest:\n      address: {}\n      driver: {{ package: files/{} }}\n      gpu-server:\n        engine: {{ lupine: {} }}\n        port: {port}\n        teams: {teams}\n        idle-release: 15m\n",
        lab.address("esx-02"),
        lab.address("esx-01"),
        client("notebook-1"),
        client("ci-1"),
        lab.address("gpu-srv-1"),
        files::DRIVER_DATA_CENTER,
        file("server"),
    )
}

const TEAMS: &str = "{ ml: { members: [notebook-*], gpus: 2, longest: 8h, weight: 2 }, ci: { members: [ci-*], gpus: 1, longest: 30m } }";

fn fleet_lab(name: &str) -> (Lab, u16) {
    let lab = Lab::new(name);
    lab.host("esx-01", "8.0.2", ["0000:3b:00.0", "0000:af:00.0"].map(files::a100).to_vec());
    lab.host("esx-02", "8.0.2", vec![]);
    lab.vm("gpu-srv-1", "esx-01");
    lab.vm("notebook-1", "esx-02");
    lab.vm("ci-1", "esx-02");
    files::write_all(&lab.folder.join("files"));
    for build in ["a", "b"] {
        for side in [Side::Server, Side::Client] {
            let file = lab.folder.join(format!("files/lupine-{build}-cuda12.2-{side}.tar"));
            std::fs::write(file, files::engine(side, build)).unwrap();
        }
    }
    let port = free_port();
    lab.write_fleet(&fleet(&lab, port, "a", TEAMS));
    lab.start();
    (lab, port)
}

/// From nothing to a proof on another machine's GPU, by the fleet file alone: plan, apply, a second plan that is
/// empty, verify; other limits, another engine, and the way back.
#[test]
fn the_fleet_file_brings_servers_and_clients() {
    let (lab, port) = fleet_lab("pool-fleet");
    let plan = lab.expect(3, &["plan", "--commands"]);
    assert!(plan.contains("vsgpu-gpu prove -n 1 --wait 10m 50000"), "{plan}");
    let plan = lab.expect(3, &["plan"]);
    assert!(
        plan.contains("network GPU  2 clients. The round trip to the GPU server is measured once"),
        "{plan}"
    );
    lab.expect(0, &["apply", "--yes"]);
    let said = lab.expect(0, &["plan", "--commands"]);
    assert!(said.contains("nothing to do") || said.contains("Nothing to do"), "{said}");
    // As somebody would have written it: what the controller fills in is left out.
    let said = lab.expect(0, &["export"]);
    assert!(said.contains("servers:") && said.contains("teams:") && !said.contains("addresses"), "{said}");
    lab.expect(0, &["verify"]);
    let said = lab.expect(0, &["verify", "-o", "json"]);
    assert!(said.contains("over the network from gpu-srv-1"), "{said}");
    wait_until("its page shows its GPUs", Duration::from_secs(20), || {
        let page = vsgpu_tests::http::get(&lab.metrics("gpu-srv-1"), "/metrics", None);
        let page = page.map(|(_, text)| text).unwrap_or_default();
        page.contains("vsgpu_pool_slots{state=\"free\"} 2") && page.contains("vsgpu_pool_granted_total 2")
    });
    // Other limits hold at once and end nothing: a lease that runs goes on.
    let gpu = |args: &[&str]| {
        let mut command = std::process::Command::new(programs().join("vsgpu-gpu"));
        command
            .arg("--socket")
            .arg(units::socket(&lab.machine("notebook-1"), "vsgpu-gpu.service"))
            .args(args);
        command
    };
    let stand_in = programs().join("vsgpu-stand-in").display().to_string();
    let mut holder = gpu(&["run", "-n", "1", "--", &stand_in, "program", "hold"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let status = || {
        let answer = units::program(&lab.machine("gpu-srv-1"), "vsgpu-pool", &["status", "-o", "json"]);
        serde_json::from_str::<Value>(&answer.stdout).unwrap_or_default()
    };
    wait_until("a lease with a connection", Duration::from_secs(20), || {
        status()["leases"][0]["connections"] == 1
    });
    let fewer = TEAMS.replace("gpus: 2", "gpus: 1");
    lab.write_fleet(&fleet(&lab, port, "a", &fewer));
    lab.expect(0, &["apply", "--yes"]);
    assert_eq!((&status()["teams"][1]["name"], &status()["teams"][1]["may"]), (&json!("ml"), &json!(1)));
    assert_eq!(status()["leases"].as_array().unwrap().len(), 1);
    // Another engine would end it: refused with the holder's name, until it has ended.
    lab.write_fleet(&fleet(&lab, port, "b", &fewer));
    let said = lab.expect(6, &["apply", "--yes"]);
    assert!(said.contains("this change would end GPU leases: lease"), "{said}");
    let said = lab.expect(0, &["pool", "status"]);
    assert!(said.contains("gpu-srv-1") && said.contains("notebook-1"), "{said}");
    as_its_schema_says(&lab);
    let said = lab.expect(0, &["status"]);
    assert!(said.contains("1 GPU server: 1 of 2 GPUs free (`vsgpu pool status`)"), "{said}");
    // From the agents' metrics, which they renew by themselves.
    wait_until("`top` shows servers and clients", Duration::from_secs(60), || {
        let said = lab.expect(0, &["top", "--once"]);
        said.contains("    GPU server: ") && said.contains("1/1 GPU servers usable")
    });
    lab.expect(0, &["pool", "drain", "gpu-srv-1"]);
    let lease = status()["leases"][0]["lease"].as_u64().unwrap().to_string();
    lab.expect(0, &["pool", "evict", "gpu-srv-1", &lease, "--why", "the engine is changed", "--yes"]);
    assert_eq!(holder.wait().unwrap().code(), Some(46));
    wait_until("no lease is left", Duration::from_secs(20), || status()["leases"] == json!([]));
    lab.expect(0, &["apply", "--yes"]);
    lab.expect(0, &["verify"]);
    assert_eq!(status()["engine"]["build"], json!("b".repeat(64)));
    // The way back.
    lab.expect(0, &["rollback", "--yes"]);
    assert_eq!(status()["engine"]["build"], json!("a".repeat(64)));
    // The way back of a client alone: its server, which that run did not touch, stays what it is.
    let now = fleet(&lab, port, "a", &fewer);
    lab.write_fleet(&now);
    lab.expect(0, &["apply", "--yes"]);
    lab.write_fleet(&now.replace("servers: [gpu-srv-1] }", "servers: [gpu-srv-1], users: [ml] }"));
    lab.expect(0, &["apply", "--yes"]);
    let groups = || lab.state("notebook-1").text("/etc/vsgpu/network-gpu.json").unwrap();
    assert!(groups().contains(r#""groups":["ml"]"#), "{}", groups());
    lab.expect(0, &["rollback", "--yes"]);
    assert!(groups().contains(r#""groups":[]"#), "{}", groups());
    // Written, but the gateway was never told: an agent died in between. It is found, and told.
    let config = "/etc/vsgpu/gpu-server.json";
    let written = lab.state("gpu-srv-1").text(config).unwrap();
    let more =
        written.replace(r#""members":["notebook-*"],"gpus":1"#, r#""members":["notebook-*"],"gpus":2"#);
    assert_ne!(written, more, "{written}");
    lab.change("gpu-srv-1", |m| m.write(config, &more));
    lab.write_fleet(&fleet(&lab, port, "a", TEAMS));
    let said = lab.expect(3, &["plan", "--commands"]);
    assert!(said.contains("the gateway goes by an older configuration"), "{said}");
    lab.expect(0, &["apply", "--yes"]);
    assert_eq!(status()["teams"][1]["may"], json!(2));
    // Whose round trip is known: what a call that waits costs there.
    lab.write_fleet(
        &fleet(&lab, port, "a", TEAMS)
            .replace("servers: [gpu-srv-1] }", "servers: [gpu-srv-1], users: [ml] }"),
    );
    let plan = lab.expect(3, &["plan"]);
    let flat = plan.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        flat.contains("2 clients. The round trip to the GPU server takes ")
            && flat.contains("a CUDA call that waits for its answer takes about "),
        "{plan}"
    );
    lab.write_fleet(&fleet(&lab, port, "a", TEAMS));
    let lease =
        || assert!(gpu(&["run", "-n", "1", "--", &stand_in, "program", "echo"]).status().unwrap().success());
    two_controllers(&lab, &fleet(&lab, port, "a", &fewer), &status, &lease);
}

/// `pool status -o json` keeps to `schema pool-status`.
fn as_its_schema_says(lab: &Lab) {
    let schema: Value = serde_json::from_str(&lab.expect(0, &["schema", "pool-status"])).unwrap();
    let document: Value = serde_json::from_str(&lab.expect(0, &["pool", "status", "-o", "json"])).unwrap();
    let status = &document["servers"][0]["status"];
    for (name, value) in
        [("PoolStatus", status), ("SlotStatus", &status["slots"][0]), ("LeaseStatus", &status["leases"][0])]
    {
        let keys = schema["$defs"][name]["properties"].as_object().unwrap();
        let unknown: Vec<&String> =
            value.as_object().unwrap().keys().filter(|key| !keys.contains_key(*key)).collect();
        assert!(unknown.is_empty(), "{name}: {unknown:?}");
    }
}

/// Two people with two fleet files, on two machines, at once: one of both policies holds, whole, and the audit says
/// which one held when.
fn two_controllers(lab: &Lab, other: &str, status: &dyn Fn() -> Value, lease: &dyn Fn()) {
    let last_policy = || {
        lease();
        let path = lab.machine("gpu-srv-1").join("root/var/lib/vsgpu-pool/audit.jsonl");
        let audit = std::fs::read_to_string(path).unwrap();
        let line: Value = serde_json::from_str(audit.lines().last().unwrap()).unwrap();
        line["policy"].as_str().unwrap().to_string()
    };
    let first_policy = last_policy();
    let folder = lab.folder.join("other");
    std::fs::create_dir_all(&folder).unwrap();
    for shared in ["pki", "files"] {
        std::os::unix::fs::symlink(lab.folder.join(shared), folder.join(shared)).unwrap();
    }
    std::fs::write(folder.join("fleet.yaml"), other).unwrap();
    lab.expect(3, &["plan", "other/fleet.yaml"]);
    // The first one's file wishes what is so: something is to do for it where the other one was before it.
    let both = ["other/fleet.yaml", "fleet.yaml"].map(|file| {
        let mut apply = lab.command(&["apply", "--yes", file]);
        apply.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    });
    let ended = both.map(|mut apply| apply.wait().unwrap());
    assert!(ended.iter().any(|status| status.success()), "{ended:?}");
    let may = status()["teams"][1]["may"].clone();
    let holds = if may == json!(2) { "fleet.yaml" } else { "other/fleet.yaml" };
    lab.expect(0, &["plan", holds]);
    assert_eq!(last_policy() == first_policy, holds == "fleet.yaml", "the audit says which one holds");
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
    runtime.block_on(work)
}

#[test]
fn a_program_runs_on_a_gpu_of_another_machine() {
    let pool = GpuPool::new("pool-run", 2, two_teams(), &["ml-1", "other-1"]);
    let (status, said) = pool.run("ml-1", &["-n", "1"], "echo").end();
    assert_eq!(status, Some(0), "{said}{}", pool.logs());
    for words in [
        "granted: A100-PCIE-40GB, 40 GiB of gpu-srv-1 (GPU lease 1, round trip ",
        "hello from a simulated engine",
        "pong",
    ] {
        assert!(said.contains(words), "{said}");
    }
    pool.all_free(2);
    let list = String::from_utf8(pool.gpu("ml-1", &["list"]).output().unwrap().stdout).unwrap();
    assert!(list.starts_with("gpu-srv-1: 2 of 2 GPUs free; team ml holds 0 of 2\n"), "{list}");
    // Who is in no team hears it from his own daemon already.
    let (status, said) = pool.run("other-1", &[], "echo").end();
    assert!(status == Some(77) && said.contains("this machine is in none of its teams"), "{status:?} {said}");
    // More than its team may have: at once, not after a wait.
    let (status, said) = pool.run("ml-1", &["-n", "3"], "echo").end();
    assert!(status == Some(77) && said.contains("team ml may have 2 at once"), "{status:?} {said}");
    pool.ended(1);
    let audit = pool.audit();
    let events: Vec<&str> = audit.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["began", "granted", "ended"], "{audit:?}");
    assert_eq!(
        (&audit[2]["node"], &audit[2]["why"], &audit[2]["team"]),
        (&json!("ml-1"), &json!("released"), &json!("ml"))
    );
    assert!(audit[2]["bytes"][0].as_u64() >= Some(5), "{}", audit[2]);
}

#[test]
fn two_slots_and_six_clients() {
    let clients = ["ml-1", "ml-2", "ml-3", "ci-1", "ci-2", "ci-3"];
    let pool = GpuPool::new("pool-six", 2, two_teams(), &clients);
    let mut holders: Vec<Running> = clients.iter().map(|client| pool.run(client, &[], "hold")).collect();
    for _ in 0..clients.len() {
        let mut at = None;
        wait_until("one has a GPU", Duration::from_secs(30), || {
            at = holders.iter().position(|running| running.said().contains("pong"));
            at.is_some()
        });
        let status = pool.status();
        let held = status["leases"].as_array().unwrap();
        let of = |team: &str| held.iter().filter(|lease| lease["team"] == team).count();
        assert!(held.len() <= 2 && of("ci") <= 1, "{status:#}");
        // No engine without a lease: none was left behind by the one before.
        let engines = (0..2).filter(|slot| pool.engine_runs(*slot)).count();
        assert!(engines <= held.len(), "{engines} engines: {status:#}");
        let done = holders.remove(at.unwrap());
        done.signal(Signal::SIGKILL);
    }
    pool.all_free(2);
    pool.ended(6);
    let audit = pool.audit();
    let ended: Vec<&Value> = audit.iter().filter(|line| line["event"] == "ended").collect();
    assert_eq!(ended.len(), 6, "{audit:?}");
    let seconds = |team: &str| -> f64 {
        ended
            .iter()
            .filter(|line| line["team"] == team)
            .map(|line| line["gpu_seconds"].as_f64().unwrap())
            .sum()
    };
    let totals = &pool.status()["totals"]["gpu-seconds"];
    for team in ["ml", "ci"] {
        let counted: f64 = totals[team].as_object().unwrap().values().map(|s| s.as_f64().unwrap()).sum();
        assert!((counted - seconds(team)).abs() < 0.001, "{totals} {}", seconds(team));
    }
    // By our own clock: two GPUs for so long.
    let began = Instant::now();
    let both = pool.run("ml-1", &["-n", "2"], "hold");
    both.wait_for("pong");
    let had = Instant::now();
    wait_until("two seconds are over", Duration::from_secs(10), || had.elapsed() > Duration::from_secs(2));
    let least = had.elapsed().as_secs_f64();
    both.signal(Signal::SIGTERM);
    both.end();
    pool.ended(7);
    let most = began.elapsed().as_secs_f64();
    let said = pool.audit().last().unwrap()["gpu_seconds"].as_f64().unwrap();
    assert!(2.0 * least <= said && said <= 2.0 * most, "{said} GPU seconds, in {least} to {most} s");
}

/// Kills one process of a unit: its leader, or a child of that.
fn kill_of(pool: &GpuPool, machine: &str, unit: &str, leader: bool) {
    let all = units::processes(&pool.lab.machine(machine), unit);
    let (first, rest) = (all[0], &all[1..]);
    let pid = if leader { first } else { rest[0] };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
}

/// Rows of the design's table of failures that a kill brings about: who dies, and what is to be seen.
#[test]
fn whoever_dies_the_slot_is_free_again_and_no_engine_is_left() {
    let pool = GpuPool::new("pool-kills", 1, two_teams(), &["ml-1"]);
    let started = |mode: &str| {
        let running = pool.run("ml-1", &[], mode);
        running.wait_for("pong");
        running
    };
    let freed = |since: Instant, what: &str| {
        wait_until(what, Duration::from_secs(20), || pool.slot(0) == "free" && !pool.engine_runs(0));
        println!("{what}: free after {:?}", since.elapsed());
    };
    // The runner: its program finds out at its next call.
    let running = started("hold");
    let since = Instant::now();
    running.signal(Signal::SIGKILL);
    freed(since, "runner killed");
    wait_until("the program ended with error 46", Duration::from_secs(5), || {
        running.said().contains("error 46")
    });
    assert_eq!(pool.ended(1), ["released"]);
    // The program, by a signal to its runner.
    let running = started("hold");
    running.signal(Signal::SIGTERM);
    let (status, said) = running.end();
    assert_eq!(status, Some(128 + 15), "{said}");
    freed(Instant::now(), "program ended");
    // The daemon.
    let running = started("hold");
    let since = Instant::now();
    kill_of(&pool, "ml-1", "vsgpu-gpu.service", true);
    freed(since, "daemon killed");
    let (status, said) = running.end();
    assert!(status == Some(46) && said.contains("the GPU lease is over"), "{status:?} {said}");
    assert_eq!(pool.ended(3)[2], "client-gone");
    pool.systemctl("ml-1", &["start", "vsgpu-gpu.service"]);
    // A child of the engine: the lease lives, its program may start anew.
    let running = started("hold");
    kill_of(&pool, "gpu-srv-1", "vsgpu-engine@0.service", false);
    let (status, said) = running.end();
    assert!(status == Some(46) && !said.contains("lease is over"), "{status:?} {said}");
    freed(Instant::now(), "engine's child killed");
    assert_eq!(pool.ended(4)[3], "released");
    assert_eq!(pool.status()["totals"]["engine-crashes"], 1);
    // The gateway: its leases are over, and the next one ends their engines before it serves.
    let running = started("hold");
    kill_of(&pool, "gpu-srv-1", "vsgpu-pool.service", true);
    let (status, said) = running.end();
    assert!(
        status == Some(46) && said.contains("the GPU lease is over: gpu-srv-1 closed the connection"),
        "{said}"
    );
    pool.serve(1);
    assert_eq!(pool.audit().last().unwrap()["event"], "began");
}

/// An engine that dies is started again for the next connection; one that does so again and again takes its
/// slot out of service, and its lease ends.
#[test]
fn an_engine_that_crashes_too_often_is_given_to_nobody() {
    let pool = GpuPool::new("pool-crash", 1, two_teams(), &["ml-1"]);
    // Crashes within two seconds are one: each connection of an engine tells of it.
    let crash = format!("{} program crash", programs().join("vsgpu-stand-in").display());
    let shell = format!("{crash}; for n in 1 2 3; do sleep 2.1; {crash}; done");
    let mut command = pool.gpu("ml-1", &["run", "--", "sh", "-c", &shell]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("its engine ended by itself too often"), "{said}\n{}", pool.logs());
    wait_until("the slot is out of service", Duration::from_secs(10), || pool.slot(0) == "out-of-service");
    let (status, said) = pool.run("ml-1", &["--wait", "0s"], "echo").end();
    assert!(
        status == Some(75) && said.contains("it has 1 of that kind, 1 out of service"),
        "{status:?} {said}"
    );
    // Nothing is left on it: it can be offered again.
    let answer = units::program(&pool.lab.machine("gpu-srv-1"), "vsgpu-pool", &["in-service", "0"]);
    assert_eq!(answer.status, 0, "{}", answer.stderr);
    assert_eq!(pool.run("ml-1", &[], "echo").end().0, Some(0));
}

#[test]
fn a_lease_ends_on_time_and_a_silent_one_when_it_is_idle() {
    let policy = json!({ "teams": [team("ml", 1, json!({})), team("ci", 1, json!({ "longest": 3_000 }))], "idle_release": 6_000 });
    let pool = GpuPool::new("pool-time", 2, policy, &["ml-1", "ci-1"]);
    let timed = pool.run("ci-1", &[], "hold");
    timed.wait_for("for 3 s at most");
    let (status, said) = timed.end();
    assert!(
        status == Some(46) && said.contains("its time is up: `longest` of its team"),
        "{status:?} {said}"
    );
    // A kernel that runs for long: no byte passes, its GPU is busy. It outlives three idle times.
    let busy = pool.run("ml-1", &[], "work");
    busy.wait_for("working");
    let idle = Instant::now();
    wait_until("three idle times are over", Duration::from_secs(30), || {
        idle.elapsed() > Duration::from_secs(18) || busy.said().contains("lease is over")
    });
    assert!(!busy.said().contains("over") && !busy.said().contains("idle:"), "{}", busy.said());
    busy.signal(Signal::SIGTERM);
    busy.end();
    pool.all_free(2);
    let silent = pool.run("ml-1", &[], "hold");
    silent.wait_for("the GPU is idle: its lease ends in");
    let (status, said) = silent.end();
    assert!(status == Some(46) && said.contains("its GPU was idle for 6 s"), "{status:?} {said}");
    assert_eq!(pool.ended(3), ["time-up", "released", "idle-too-long"]);
}

#[test]
fn who_waits_is_told_his_place_and_is_not_kept_for_longer_than_he_wants() {
    let pool = GpuPool::new("pool-wait", 1, two_teams(), &["ml-1", "ml-2", "ci-1"]);
    let first = pool.run("ml-1", &[], "hold");
    first.wait_for("pong");
    let (status, said) = pool.run("ml-2", &["--wait", "1s"], "echo").end();
    assert_eq!(status, Some(75), "{said}");
    for words in ["waiting: 1st for 1 GPU of gpu-srv-1 (team ml holds 1 of 2)", "nothing became free in time"]
    {
        assert!(said.contains(words), "{said}");
    }
    let second = pool.run("ml-2", &[], "echo");
    second.wait_for("waiting: 1st");
    let third = pool.run("ci-1", &[], "echo");
    third.wait_for("waiting: 2nd");
    // One that goes away leaves the queue.
    second.signal(Signal::SIGKILL);
    third.wait_for("waiting: 1st");
    first.signal(Signal::SIGTERM);
    assert_eq!(third.end().0, Some(0));
}

#[test]
fn what_is_wrong_is_said_before_a_program_starts() {
    let pool = GpuPool::new("pool-wrong", 1, two_teams(), &["ml-1"]);
    let started = pool.lab.folder.join("started");
    let mark = started.display().to_string();
    let refused = |status: i32, words: &[&str]| {
        let since = Instant::now();
        let output = pool.gpu("ml-1", &["run", "--", "touch", &mark]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{said}");
        words.iter().for_each(|words| assert!(said.contains(words), "{words}: {said}"));
        assert!(!started.exists(), "the program was started");
        since.elapsed()
    };
    // Another build of the engine on this side.
    let path = "/etc/vsgpu/network-gpu.json";
    let good = pool.lab.state("ml-1").text(path).unwrap();
    let other = "e".repeat(64);
    pool.lab.change("ml-1", |m| m.write(path, &good.replace(BUILD, &other)));
    refused(77, &["another build of the engine", &BUILD[..12], &other[..12]]);
    // Another machine answers there than the one that the file names.
    pool.lab.change("ml-1", |m| m.write(path, &good.replace("gpu-srv-1", "gpu-srv-9")));
    refused(69, &["gpu-srv-9", "another node answers there"]);
    pool.lab.change("ml-1", |m| m.write(path, "{"));
    refused(69, &["/etc/vsgpu/network-gpu.json", "vsgpu apply"]);
    pool.lab.change("ml-1", |m| m.write(path, &good));
    pool.systemctl("gpu-srv-1", &["stop", "vsgpu-pool.service"]);
    assert!(refused(69, &["gpu-srv-1"]) < Duration::from_secs(5));
    // Nobody answers at all: an address of a network that is documentation's.
    let port = format!("127.0.0.1:{}", pool.port);
    pool.lab.change("ml-1", |m| m.write(path, &good.replace(&port, "192.0.2.1:14843")));
    let took = refused(69, &["gpu-srv-1"]);
    assert!(took < Duration::from_secs(5), "{took:?}");
    pool.systemctl("ml-1", &["stop", "vsgpu-gpu.service"]);
    refused(69, &["the daemon of this machine does not answer", "systemctl status vsgpu-gpu"]);
    // What cannot be asked for.
    let said = |args: &[&str]| {
        let output = pool.gpu("ml-1", args).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, text) = said(&["run", "-p", "0.5", "--", "true"]);
    assert!(status == Some(2) && text.contains("a GPU is given whole"), "{text}");
    let (status, text) = said(&["run", "-m", "8GB", "--", "true"]);
    assert!(status == Some(2) && text.contains("no memory such as"), "{text}");
}

/// Certificates and tickets that must open nothing: tried by our own client, which says what it likes.
#[test]
fn nothing_reaches_an_engine_without_the_right_certificate_and_ticket() {
    let pool = GpuPool::new("pool-attack", 1, two_teams(), &["ml-1", "ml-2", "other-1"]);
    let pki = pool.lab.folder.join("pki");
    let (now, within) = (std::time::SystemTime::now(), Duration::from_secs(5));
    let target =
        Target { address: format!("127.0.0.1:{}", pool.port), node: "gpu-srv-1".into(), role: "guest" };
    let asked = |folder: &std::path::Path| -> Result<(), CallError> {
        block_on(async {
            let connector = Connector::of_guest(folder).unwrap();
            Gateway::open(&connector, &target, within).await?.list(within).await.map(drop)
        })
    };
    assert_eq!(asked(&pki.join("ml-1.guest")), Ok(()));
    // Another CA, an expired one, a host's.
    let other = pool.lab.folder.join("other-pki");
    vsgpu_wire::pki::init(&other, now).unwrap();
    let strange = vsgpu_wire::pki::issue_node(&other, "ml-1", "guest", 365, now).unwrap();
    std::fs::copy(pki.join("ca.pem"), strange.join("ca.pem")).unwrap();
    let long_ago = now - Duration::from_secs(400 * 86_400);
    let expired = vsgpu_wire::pki::issue_node(&pki, "ml-9", "guest", 365, long_ago).unwrap();
    for folder in [strange, expired, pki.join("esx-01.host")] {
        assert!(asked(&folder).is_err(), "{}", folder.display());
    }
    block_on(async {
        let rpc = |name: &str| Connector::of_guest(&pki.join(format!("{name}.guest"))).unwrap();
        let engines = |name: &str| Connector::to_engines(&pki.join(format!("{name}.guest"))).unwrap();
        let gateway = Gateway::open(&rpc("ml-1"), &target, within).await.unwrap();
        // What is the operator's.
        for refused in [
            gateway.drain(true, within).await.err(),
            gateway.evict(1, "mine", within).await.err(),
            gateway.status(within).await.err(),
        ] {
            assert!(matches!(refused, Some(CallError::Refused(_))), "{refused:?}");
        }
        // And what is not his.
        let operator = Connector::load(&pki).unwrap();
        let by_operator = Gateway::open(&operator, &target, within).await.unwrap();
        let ask =
            || v1::Ask { uid: 0, user: "root".into(), gpus: 1, build: BUILD.into(), ..v1::Ask::default() };
        let refused = by_operator.lease(ask(), within).await.err();
        assert!(matches!(refused, Some(CallError::Refused(_))), "{refused:?}");
        // What a daemon would have refused itself: who is in no team, and another build of the engine.
        let stranger = Gateway::open(&rpc("other-1"), &target, within).await.unwrap();
        let other_build = v1::Ask { build: "e".repeat(64), ..ask() };
        for (by, ask, words) in [
            (&stranger, ask(), "this node is in no team"),
            (&gateway, other_build, "the engine's build differs"),
        ] {
            let said = by.lease(ask, within).await.unwrap().next().await.unwrap();
            let Some(Said::Refused(refusal)) = said else { panic!("{said:?}") };
            assert!(refusal.why() == Why::NotAllowed && refusal.text.contains(words), "{refusal:?}");
            wait_until("it is written down", within, || {
                pool.audit().iter().any(|line| {
                    line["event"] == "refused" && line["why"].as_str().is_some_and(|why| why.contains(words))
                })
            });
        }
        // A ticket, and who may use it.
        let mut call = gateway.lease(ask(), within).await.unwrap();
        let granted = loop {
            match call.next().await.unwrap().unwrap() {
                Said::Granted(granted) => break granted,
                other => assert!(matches!(other, Said::Waiting(_)), "{other:?}"),
            }
        };
        let ticket: [u8; 32] = granted.slots[0].ticket.as_ref().try_into().unwrap();
        let log = || {
            std::fs::read_to_string(pool.lab.machine("gpu-srv-1").join("vsgpu-engine@0.service.log")).unwrap()
        };
        let sessions =
            || units::processes(&pool.lab.machine("gpu-srv-1"), "vsgpu-engine@0.service").len() - 1;
        wait_until("the look at the new engine is over", Duration::from_secs(5), || sessions() == 0);
        let mut guessed = ticket;
        guessed[31] ^= 1;
        for (who, ticket) in [("ml-2", ticket), ("ml-1", guessed), ("ml-1", [0; 32])] {
            let refused = tunnel(&engines(who), &target, &ticket, within).await.err();
            assert!(matches!(refused, Some(CallError::Refused(_))), "{who}: {refused:?}");
            assert_eq!(sessions(), 0, "{}", log());
        }
        // Cut at every byte of the preamble.
        for bytes in 0..32 {
            let mut cut = engines("ml-1").dial(&target).await.unwrap();
            cut.write_all(&ticket[..bytes]).await.unwrap();
            cut.shutdown().await.unwrap();
            // Not a byte comes back, and the gateway closes it.
            let mut rest = vec![];
            let _ = tokio::time::timeout(within, cut.read_to_end(&mut rest)).await.unwrap();
            assert_eq!(rest, b"", "after {bytes} bytes");
        }
        assert_eq!(sessions(), 0);
        let stream = tunnel(&engines("ml-1"), &target, &ticket, within).await.unwrap();
        wait_until("its session", Duration::from_secs(5), || sessions() == 1);
        drop(stream);
        // After its end it opens nothing.
        call.say(vsgpu_wire::pool::v1::from_client::Said::Release(v1::Release {}));
        while !matches!(call.next().await.unwrap(), Some(Said::Ended(_)) | None) {}
        let refused = tunnel(&engines("ml-1"), &target, &ticket, within).await.err();
        assert!(matches!(refused, Some(CallError::Refused(_))), "{refused:?}");
        // Operators: drain, and end a lease with a reason that its user reads.
        let mut call = gateway.lease(ask(), within).await.unwrap();
        let lease = loop {
            if let Said::Granted(granted) = call.next().await.unwrap().unwrap() {
                break granted.lease;
            }
        };
        assert_eq!(by_operator.drain(true, within).await, Ok(1));
        by_operator.evict(lease, "the GPU is needed\u{1b}[2J", within).await.unwrap();
        let ended = loop {
            if let Said::Ended(ended) = call.next().await.unwrap().unwrap() {
                break ended;
            }
        };
        assert_eq!(
            (ended.why.as_str(), ended.text.as_str()),
            ("evicted", "the operator ended it: the GPU is needed\\u001b[2J")
        );
        assert!(by_operator.evict(lease, "again", within).await.is_err());
    });
    let (status, said) = pool.run("ml-1", &[], "echo").end();
    assert!(
        status == Some(75) && said.contains("gpu-srv-1: it is drained: no new GPU leases"),
        "{status:?} {said}"
    );
}

fn signal_unit(pool: &GpuPool, machine: &str, unit: &str, signal: Signal) {
    let leader = units::processes(&pool.lab.machine(machine), unit)[0];
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(leader as i32), signal).unwrap();
}

/// A client that is paused, as a VM is while it moves: a short pause costs nothing. A long one ends its lease, and
/// the GPU is given on only behind that.
#[test]
fn a_paused_client_keeps_its_gpu_for_twenty_seconds() {
    let pool = GpuPool::new("pool-paused", 1, two_teams(), &["ml-1", "ci-1"]);
    let running = pool.run("ml-1", &[], "hold");
    running.wait_for("pong");
    let daemon = |signal| signal_unit(&pool, "ml-1", "vsgpu-gpu.service", signal);
    daemon(Signal::SIGSTOP);
    let since = Instant::now();
    let next = pool.run("ci-1", &[], "echo");
    next.wait_for("waiting: 1st");
    wait_until("half of the time is over", Duration::from_secs(15), || {
        since.elapsed() > Duration::from_secs(10)
    });
    daemon(Signal::SIGCONT);
    wait_until("it is heard again", Duration::from_secs(15), || since.elapsed() > Duration::from_secs(18));
    assert!(!running.said().contains("over") && pool.slot(0) == "held", "{}", running.said());
    daemon(Signal::SIGSTOP);
    let since = Instant::now();
    let (status, said) = next.end();
    let took = since.elapsed();
    assert!(status == Some(0) && took > Duration::from_secs(14), "{status:?} {said} after {took:?}");
    println!("given on {took:?} after the client was paused; it was heard at most 5 s before");
    assert_eq!(pool.ended(2)[0], "client-gone");
    daemon(Signal::SIGCONT);
    let (status, said) = running.end();
    assert!(status == Some(46) && said.contains("the GPU lease is over"), "{status:?} {said}");
}

/// The other way round: a client ends a lease whose gateway is not heard.
#[test]
fn a_gateway_that_is_not_heard_ends_the_lease_at_the_client() {
    let pool = GpuPool::new("pool-silent", 1, two_teams(), &["ml-1"]);
    let running = pool.run("ml-1", &[], "hold");
    running.wait_for("pong");
    signal_unit(&pool, "gpu-srv-1", "vsgpu-pool.service", Signal::SIGSTOP);
    let since = Instant::now();
    let (status, said) = running.end();
    let took = since.elapsed();
    assert!(status == Some(46) && said.contains("gpu-srv-1 was not heard for 20 s"), "{status:?} {said}");
    assert!(took < Duration::from_secs(31), "{took:?}");
    signal_unit(&pool, "gpu-srv-1", "vsgpu-pool.service", Signal::SIGCONT);
    pool.all_free(1);
}

/// The driver is late when the gateway starts: its GPUs are kept back, come back by themselves, and are not offered
/// by hand before that. Where one engine hangs as a lease of two GPUs ends, only its GPU goes out of service.
#[test]
fn a_late_driver_and_a_stuck_gpu_cost_nothing_else() {
    let pool = GpuPool::set_up("pool-late", 2, two_teams(), &["ml-1"]);
    let fault = |call: &'static str, text: Option<&str>| {
        let text = text.map(|text| Fault::Fail { text: text.into() });
        pool.lab.change("gpu-srv-1", move |m| match text {
            Some(fault) => drop(m.faults.insert(call.into(), fault)),
            None => drop(m.faults.remove(call)),
        });
    };
    fault("nvidia-smi", Some("Failed to initialize NVML: Driver Not Loaded"));
    pool.systemctl("ml-1", &["start", "vsgpu-gpu.service"]);
    pool.systemctl("gpu-srv-1", &["start", "vsgpu-pool.service"]);
    assert_eq!((pool.slot(0).as_str(), pool.slot(1).as_str()), ("out-of-service", "out-of-service"));
    // Which is not for a person to mend yet: `apply` waits for it.
    assert_eq!(pool.status()["slots"][0]["tried-again"], json!(true));
    let by_hand =
        |slot: &str| units::program(&pool.lab.machine("gpu-srv-1"), "vsgpu-pool", &["in-service", slot]);
    let answer = by_hand("0");
    assert!(answer.status == 1 && answer.stderr.contains("is being tried already"), "{}", answer.stderr);
    fault("nvidia-smi", None);
    pool.all_free(2);
    // Two GPUs, and the engine of one of them is not ended.
    let both = pool.run("ml-1", &["-n", "2"], "hold");
    both.wait_for("granted:");
    fault(
        "systemctl stop vsgpu-engine@0",
        Some("Failed to stop vsgpu-engine@0.service: Connection timed out"),
    );
    both.signal(Signal::SIGTERM);
    both.end();
    wait_until("the other engine is ended at once", Duration::from_secs(10), || !pool.engine_runs(1));
    assert_eq!((pool.slot(0).as_str(), pool.slot(1).as_str()), ("ending", "ending"));
    wait_until("the stuck one is out of service", Duration::from_secs(40), || {
        pool.slot(0) == "out-of-service"
    });
    assert_eq!(pool.slot(1), "ending");
    let answer = by_hand("0");
    assert!(
        answer.status == 1 && answer.stderr.contains("still belongs to GPU lease 1"),
        "{}",
        answer.stderr
    );
    fault("systemctl stop vsgpu-engine@0", None);
    wait_until("the lease is over", Duration::from_secs(30), || pool.slot(1) == "free");
    assert_eq!(pool.slot(0), "out-of-service");
    assert_eq!(pool.status()["slots"][0].get("tried-again"), None);
    assert_eq!(by_hand("0").status, 0);
    pool.all_free(2);
    assert_eq!(pool.ended(1), ["released"]);
}

/// Nobody could say later who had the GPU: nothing is granted while the audit file cannot be written.
#[test]
fn without_an_audit_file_nothing_is_granted() {
    let pool = GpuPool::set_up("pool-audit", 1, two_teams(), &["ml-1"]);
    let folder = pool.lab.machine("gpu-srv-1").join("root/var/lib/vsgpu-pool");
    std::fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.join("audit.jsonl")).unwrap();
    pool.systemctl("ml-1", &["start", "vsgpu-gpu.service"]);
    pool.systemctl("gpu-srv-1", &["start", "vsgpu-pool.service"]);
    wait_until("it says that it gives out nothing", Duration::from_secs(10), || {
        pool.status()["blocked"].as_str().is_some_and(|why| why.contains("audit.jsonl"))
    });
    let (status, said) = pool.run("ml-1", &[], "echo").end();
    assert!(
        status == Some(75) && said.contains("gives out no new GPU leases: the audit file"),
        "{status:?} {said}"
    );
    // Its GPUs are tried all the same, and nothing of that is left.
    pool.all_free(1);
    // There is room again.
    std::fs::remove_file(folder.join("audit.jsonl")).unwrap();
    wait_until("it is written again", Duration::from_secs(20), || pool.status().get("blocked").is_none());
    assert_eq!(pool.run("ml-1", &[], "echo").end().0, Some(0));
    assert_eq!(pool.ended(1), ["released"]);
}
