//! The operator's program: reads a fleet file, looks at all nodes, plans, and runs the plan.
//!
//! Rooms, from the ground up; nothing names what stands below it in this list: `node`, `error`, `hold`,
//! `files`, `catalogue`; `fleet` (the fleet file), `inventory` (what was seen), `compat` (combinations across
//! nodes), `plan`, `journal`, `run`, `monitoring` and `setup`, `render` (prints, decides nothing), `web` (the same
//! for a browser), `cli` (one verb per file).

pub mod advise;
pub mod capacity;
pub mod catalogue;
pub mod cli;
pub mod compat;
pub mod diagnose;
pub mod error;
pub mod files;
pub mod fit;
pub mod fleet;
pub mod hold;
pub mod inventory;
pub mod journal;
pub mod monitoring;
pub mod node;
pub mod picture;
pub mod placing;
pub mod plan;
pub mod ready;
pub mod render;
pub mod rights;
pub mod run;
pub mod setup;
pub mod upgrade;
pub mod web;

pub use catalogue::catalogue;
