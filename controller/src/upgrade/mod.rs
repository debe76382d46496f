//! From the vGPU release that runs to another one: which hosts and guests change, in which order, and whether every
//! pair of host and guest goes together at every moment. Pure, except for the folder of packages.
//!
//! Rules (NVIDIA's release notes): the host first, then its guests; a guest is never newer than its host; a newer host
//! takes guests of some older releases only. Where one step is too long, releases in between are found.

mod edit;
mod hosts;
mod packages;
mod path;
mod rounds;

pub use edit::{Replaced, Which, replaced};
pub use hosts::{GuestUpgrade, HostUpgrade, Runs, Upgrade, release, upgrade};
pub use packages::{Found, Packages};
pub use path::{ONE_RELEASE, Pair, Stage};
pub use rounds::{Round, fleet_of, rounds, way_back};
