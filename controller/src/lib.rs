//! The operator's program: reads a fleet file, looks at all nodes, plans, and walks the plan.
//!
//! Decisions are pure (`spec`, `planner`, `order`, `journal::Status`); `inventory` and `engine` talk to agents; only `render`
//! prints; only `cli::main` exits.

pub mod assign;
pub mod bootstrap;
pub mod certificates;
pub mod cli;
pub mod constraints;
pub mod context;
pub mod discover;
pub mod engine;
pub mod error;
pub mod event;
pub mod explain;
pub mod exporter;
pub mod files;
pub mod fleet;
pub mod hold;
pub mod inventory;
pub mod journal;
pub mod order;
pub mod package;
pub mod plan;
pub mod planner;
pub mod range;
pub mod readiness;
pub mod render;
pub mod rollout;
pub mod run;
pub mod schema;
pub mod shared;
pub mod spec;
pub mod top;
pub mod trace;
pub mod yaml;

use std::sync::LazyLock;
use vsgpu_core::Catalogue;

/// Everything all agents know, for checking and planning without them.
pub fn catalogue() -> &'static Catalogue {
    static ALL: LazyLock<Catalogue> = LazyLock::new(|| {
        let mut all = vsgpu_host_agent::catalogue();
        let guest = vsgpu_guest_agent::catalogue();
        all.entries.extend(guest.entries);
        all.extra_facts.extend(guest.extra_facts);
        all
    });
    &ALL
}
