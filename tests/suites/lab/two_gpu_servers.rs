//! A client with two GPU servers: the one that can serve at once is asked first, and a server that is drained, full
//! or gone costs nobody anything but its GPUs.

use nix::sys::signal::Signal;
use serde_json::json;
use std::time::Duration;
use vsgpu_tests::fakes::units;
use vsgpu_tests::lab::gpu_pool::{GpuPool, two_teams};
use vsgpu_tests::lab::wait_until;

fn set_up(name: &str) -> GpuPool {
    let pool =
        GpuPool::of_servers(name, &[("gpu-srv-1", 1), ("gpu-srv-2", 1)], two_teams(), &["ml-1", "ml-2"]);
    for client in ["ml-1", "ml-2"] {
        pool.systemctl(client, &["start", "vsgpu-gpu.service"]);
    }
    for server in ["gpu-srv-1", "gpu-srv-2"] {
        pool.systemctl(server, &["start", "vsgpu-pool.service"]);
        free(&pool, server);
    }
    pool
}

fn free(pool: &GpuPool, server: &str) {
    wait_until(&format!("the GPU of {server} is free"), Duration::from_secs(20), || {
        pool.status_of(server)["slots"][0]["state"] == "free"
    });
}

fn drain(pool: &GpuPool, server: &str, verb: &str) {
    let answer = units::program(&pool.lab.machine(server), "vsgpu-pool", &[verb]);
    assert_eq!(answer.status, 0, "{}", answer.stderr);
}

#[test]
fn a_drained_or_full_server_sends_people_to_the_other() {
    let pool = set_up("two-servers");
    // Equal: the fleet file's order.
    let first = pool.run("ml-1", &[], "hold");
    first.wait_for("of gpu-srv-1");
    // It is full, the other one is not.
    let second = pool.run("ml-2", &[], "hold");
    second.wait_for("of gpu-srv-2");
    // Both are full. Who asks for nothing but a place at once is told of both.
    let (status, said) = pool.run("ml-1", &["--wait", "0s"], "echo").end();
    assert_eq!(status, Some(75), "{said}");
    // Who waits gets what comes free first where he waits.
    let third = pool.run("ml-1", &["--wait", "30s"], "echo");
    third.wait_for("waiting");
    first.signal(Signal::SIGTERM);
    first.end();
    second.signal(Signal::SIGTERM);
    second.end();
    let (status, said) = third.end();
    assert_eq!(status, Some(0), "{said}");
    free(&pool, "gpu-srv-1");
    free(&pool, "gpu-srv-2");
    drain(&pool, "gpu-srv-1", "drain");
    let (status, said) = pool.run("ml-1", &[], "echo").end();
    assert!(status == Some(0) && said.contains("of gpu-srv-2"), "{said}");
    // Both: what is so with each of them.
    drain(&pool, "gpu-srv-2", "drain");
    let (status, said) = pool.run("ml-1", &["--wait", "0s"], "echo").end();
    let both = ["gpu-srv-1: it is drained", "gpu-srv-2: it is drained"];
    assert!(status == Some(75) && both.iter().all(|text| said.contains(text)), "{status:?} {said}");
    drain(&pool, "gpu-srv-1", "undrain");
    let (status, said) = pool.run("ml-1", &[], "echo").end();
    assert!(status == Some(0) && said.contains("of gpu-srv-1"), "{said}");
}

#[test]
fn a_server_that_is_gone_leaves_the_other_one() {
    let pool = set_up("two-servers-gone");
    let held = pool.run("ml-1", &[], "hold");
    held.wait_for("of gpu-srv-1");
    pool.systemctl("gpu-srv-1", &["stop", "vsgpu-pool.service"]);
    let (status, said) = held.end();
    assert!(status == Some(46), "{status:?} {said}");
    let (status, said) = pool.run("ml-1", &[], "echo").end();
    assert!(status == Some(0) && said.contains("of gpu-srv-2"), "{said}");
    let list = pool.gpu("ml-1", &["list", "-o", "json"]).output().unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    let of = |name: &str| {
        list["servers"].as_array().unwrap().iter().find(|server| server["server"] == name).unwrap().clone()
    };
    assert!(of("gpu-srv-1")["problem"].is_string(), "{list}");
    assert_eq!(of("gpu-srv-2").get("problem").unwrap_or(&json!(null)), &json!(null), "{list}");
    // It comes back, and is the first again.
    pool.systemctl("gpu-srv-1", &["start", "vsgpu-pool.service"]);
    free(&pool, "gpu-srv-1");
    let (status, said) = pool.run("ml-1", &[], "echo").end();
    assert!(status == Some(0) && said.contains("of gpu-srv-1"), "{said}");
}
