//! A relay that makes a network longer: every byte arrives so much later, in order. It spins for the last part:
//! timers here are as coarse as what is measured.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Listens, and says where. `one_way`: what each direction takes longer.
pub fn relay(to: String, one_way: Duration) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(&to) else { continue };
            for stream in [&near, &far] {
                let _ = stream.set_nodelay(true);
            }
            let ends = (near.try_clone().unwrap(), far.try_clone().unwrap());
            delayed(near, far, one_way);
            delayed(ends.1, ends.0, one_way);
        }
    });
    port
}

fn delayed(mut from: TcpStream, mut to: TcpStream, by: Duration) {
    let (tx, rx) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if tx.send((Instant::now() + by, buffer[..n].to_vec())).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        for (due, bytes) in rx {
            let left = due.saturating_duration_since(Instant::now());
            std::thread::sleep(left.saturating_sub(Duration::from_micros(200)));
            while Instant::now() < due {
                std::hint::spin_loop();
            }
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
