//! What a browser gets: the fleet, one machine, a run over time, a plan; served by `vsgpu page` and the exporter, or as
//! one file to mail (`vsgpu report`). Read-only. From the same models as the screens of a terminal; nothing is decided
//! here. No script: everything works without one.
//!
//! All text is escaped by the template library; text from machines was cleaned where it came in.

mod fleet;
mod frame;
mod links;
mod machine;
mod plan;
mod report;
mod run;
mod site;

pub use report::{of_fleet, of_plan, of_run};
pub use site::{Seen, Site};
