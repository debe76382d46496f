//! No GPU of a GPU server is offered before vsgpu's own proof ran on it, through its engine, as a user's program would.

use std::time::Duration;
use vsgpu_tests::fakes::state::Fault;
use vsgpu_tests::fakes::units;
use vsgpu_tests::lab::gpu_pool::{GpuPool, two_teams};
use vsgpu_tests::lab::wait_until;

fn fault(pool: &GpuPool, call: &str, text: Option<&str>) {
    pool.lab.change("gpu-srv-1", |m| match text {
        Some(text) => drop(m.faults.insert(call.into(), Fault::Fail { text: text.into() })),
        None => drop(m.faults.remove(call)),
    });
}

fn why(pool: &GpuPool, slot: usize) -> String {
    pool.status()["slots"][slot]["why"].as_str().unwrap_or_default().into()
}

#[test]
fn a_gpu_that_fails_its_proof_is_offered_to_nobody() {
    let pool = GpuPool::set_up("slot-proof", 2, two_teams(), &["ml-1"]);
    pool.systemctl("ml-1", &["start", "vsgpu-gpu.service"]);
    let proof = "systemctl start vsgpu-engine-proof@0";
    fault(&pool, proof, Some("Job for vsgpu-engine-proof@0.service failed"));
    pool.systemctl("gpu-srv-1", &["start", "vsgpu-pool.service"]);
    let settled = |first: &str| {
        wait_until("both were tried", Duration::from_secs(20), || {
            pool.slot(0) == first && pool.slot(1) == "free"
        });
    };
    settled("out-of-service");
    assert!(
        why(&pool, 0).starts_with("the proof through its engine failed: systemctl start"),
        "{}",
        why(&pool, 0)
    );
    assert!(!pool.engine_runs(0) && !pool.engine_runs(1), "{}", pool.logs());
    // The other one serves; two are not to be had.
    let (status, said) = pool.run("ml-1", &[], "echo").end();
    assert_eq!(status, Some(0), "{said}");
    let (status, said) = pool.run("ml-1", &["-n", "2", "--wait", "0s"], "echo").end();
    assert!(status == Some(75) && said.contains("1 out of service"), "{said}");
    // A restart forgets nothing: it is tried again, and fails again. So does whoever says that it is well.
    let tries = || pool.lab.calls("gpu-srv-1").iter().filter(|call| call.starts_with(proof)).count();
    let before = tries();
    pool.systemctl("gpu-srv-1", &["restart", "vsgpu-pool.service"]);
    settled("out-of-service");
    assert!(tries() > before, "it was not tried again");
    let in_service = || units::program(&pool.lab.machine("gpu-srv-1"), "vsgpu-pool", &["in-service", "0"]);
    let answer = in_service();
    assert!(
        answer.status == 1 && answer.stderr.contains("the proof through its engine failed"),
        "{answer:?}"
    );
    assert_eq!(pool.slot(0), "out-of-service");
    fault(&pool, proof, None);
    assert_eq!(in_service().status, 0);
    settled("free");
    // What the proof itself says is the reason.
    let drop_in = "/etc/systemd/system/vsgpu-engine-proof@.service.d/vsgpu.conf";
    pool.lab.change("gpu-srv-1", |m| {
        m.write(drop_in, "[Service]\nEnvironment=LUPINE_SERVER=127.0.0.1:9\n");
    });
    let answer = in_service();
    assert_eq!(answer.status, 0, "it is in service: nothing is tried on what may be given at any moment");
    pool.systemctl("gpu-srv-1", &["restart", "vsgpu-pool.service"]);
    wait_until("both were tried", Duration::from_secs(20), || {
        (0..2).all(|slot| pool.slot(slot) == "out-of-service")
    });
    assert!(why(&pool, 1).contains("CUDA_ERROR_DEVICE_UNAVAILABLE (46)"), "{}", why(&pool, 1));
}

/// Who asks while the GPUs are tried waits for that, and is not sent away.
#[test]
fn who_asks_while_the_gpus_are_tried_waits() {
    let pool = GpuPool::set_up("slot-tried", 1, two_teams(), &["ml-1"]);
    let proof = "systemctl start vsgpu-engine-proof@0";
    pool.lab.change("gpu-srv-1", |m| drop(m.faults.insert(proof.into(), Fault::Stalled)));
    pool.systemctl("gpu-srv-1", &["start", "vsgpu-pool.service"]);
    pool.systemctl("ml-1", &["start", "vsgpu-gpu.service"]);
    wait_until("it is tried", Duration::from_secs(10), || pool.slot(0) == "testing");
    let waits = pool.run("ml-1", &[], "echo");
    waits.wait_for("waiting: 1st for 1 GPU");
    fault(&pool, proof, None);
    assert_eq!(waits.end().0, Some(0));
    pool.all_free(1);
}
