//! The whole fleet for monitoring systems (`exporter`) and for people who watch (`top`); what
//! GPU servers say of themselves (`pools`).

pub mod exporter;
pub mod pools;
mod runs;
pub mod top;
