//! A file that is on its way when its sender is paused past its lease and somebody else takes the node.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "test code")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use vsgpu_core::System as _;
use vsgpu_deterministic::real_time_agents::agents;
use vsgpu_deterministic::world::World;
use vsgpu_machine::local::Posix;
use vsgpu_wire::client::{CallError, Connection, Connector, Fence, Target};
use vsgpu_wire::traceparent::TraceParent;
use vsgpu_wire::v1::ArtifactId;

/// More than all windows and buffers on the way together.
const SIZE: u64 = 64 << 20;
const WITHIN: Duration = Duration::from_secs(60);

/// The same in a runtime of its own: while the other one stands still.
fn alone<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Claims the node as somebody else, again and again: each try is a lease later.
fn overtake(connector: &Connector, target: &Target, clock: &AtomicU64) -> u64 {
    alone(async {
        let connection = Connection::open(connector, target, WITHIN).await.unwrap();
        let other = Fence { holder: "other".into(), epoch: 0 };
        for _ in 0..1000 {
            clock.fetch_add(61, Ordering::SeqCst);
            match connection.claim(&other, 60, WITHIN).await {
                Ok(epoch) => return epoch,
                Err(CallError::Held(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        panic!("the node was never free");
    })
}

#[test]
fn a_sender_that_was_overtaken_in_the_middle_of_a_file_is_refused() {
    let world = World::new(1, 1);
    let clock = Arc::new(AtomicU64::new(0));
    let reads = clock.clone();
    let connector = agents(&world, Duration::ZERO, move || Duration::from_secs(reads.load(Ordering::SeqCst)));
    let target = Target { address: world.hosts[0].clone(), node: world.hosts[0].clone(), role: "host" };
    let folder = world.folder(&world.hosts[0]);
    std::fs::create_dir_all(folder.join("root/vmfs/volumes/datastore1")).unwrap();
    let file = folder.join("image.zip");
    std::fs::File::create(&file).unwrap().set_len(SIZE).unwrap();
    let sha256 = Posix::new(None, "/".into()).hash(file.to_str().unwrap()).unwrap();
    let id = ArtifactId { name: "image.zip".into(), sha256, size: SIZE, datastore: "datastore1".into() };
    let mut taken = None;
    let (sent, state) = alone(async {
        let connection = Connection::open(&connector, &target, WITHIN).await.unwrap();
        let mut ours = Fence { holder: "ours".into(), epoch: 0 };
        ours.epoch = connection.claim(&ours, 60, WITHIN).await.unwrap();
        let mut progress = |bytes: u64| {
            // Paused here: nothing more of this sender is on its way while the other one acts.
            if bytes > 0 && taken.is_none() {
                taken = Some(std::thread::scope(|s| {
                    s.spawn(|| overtake(&connector, &target, &clock)).join().unwrap()
                }));
            }
        };
        let sent =
            connection.send(&file, id.clone(), &ours, &TraceParent::default(), WITHIN, &mut progress).await;
        // Whoever has the node now finds what had arrived, and may go on from there.
        let next = Fence { holder: "other".into(), epoch: taken.unwrap() };
        let state = connection
            .send(&file, id.clone(), &next, &TraceParent::default(), WITHIN, &mut |_| {})
            .await
            .unwrap();
        (sent, state)
    });
    assert!(matches!(sent, Err(CallError::Overtaken(_))), "{sent:?}");
    assert!(state.complete, "{state:?}");
}
