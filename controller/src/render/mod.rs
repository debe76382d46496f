//! The only code that prints. It decides nothing: what is shown was settled elsewhere.

pub mod advise;
pub mod colour;
pub mod diagnose;
pub mod documents;
pub mod explain;
mod fact_words;
mod failures;
pub mod fit;
mod health;
pub mod plan;
pub mod plan_summary;
pub mod pool;
mod printer;
pub mod progress;
pub mod readiness;
pub mod ready;
pub mod report;
mod run_view;
pub mod status;
mod table;
pub mod top;
mod top_screen;
pub mod upgrade;
pub mod words;

pub use failures::rendered;
pub use printer::{Answer, Format, Printer};
pub(crate) use table::columns;
