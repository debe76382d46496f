//! The whole fleet for monitoring systems (`exporter`) and for people who watch (`top`).

pub mod exporter;
pub mod pools;
pub mod top;
