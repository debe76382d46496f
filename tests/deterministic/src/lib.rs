//! Controllers and agents under simulated time, networks and disks: the real engine, journal, gRPC client and
//! server, the real requirements, on machines kept in memory. Every run follows from its seed; a failure
//! prints it.
//!
//! `world` makes machines, agents and controllers; `disk` a disk that loses power; `scenario` what is played
//! and what must hold all the same, `faults` what goes wrong; `lab_fleets` the fleets of the lab; `every_cut`
//! cuts at every place of a plan; `real_time_agents` agents in real time; `pool` lives of a pool of leases;
//! `network_gpu` its programs, in real time.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stdout, reason = "test code")]

pub mod disk;
pub mod every_cut;
mod faults;
pub mod lab_fleets;
pub mod network_gpu;
pub mod pool;
pub mod real_time_agents;
pub mod scenario;
pub mod store;
pub mod world;

/// Numbers that follow from a seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not begin alike.
        let mut rng = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            rng.draw();
        }
        rng
    }

    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From `0` to `below - 1`.
    pub fn below(&mut self, below: u64) -> u64 {
        (self.draw() >> 11) % below.max(1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
