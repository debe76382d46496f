//! Another machine, over ssh: an ESXi host on which no program of ours may run is served by an agent
//! elsewhere.

mod blocks;
mod commands;
mod machine;

pub use machine::{OWNER, OverSsh};
