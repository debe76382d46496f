//! The catalogue, a file for each stage.

mod cuda;
mod guest;
mod host;
mod license;
mod lifecycle;
mod network;
pub(super) mod text;
mod vm;

use crate::diagnosis::cause::Cause;

const STAGES: [&[Cause]; 7] = [
    host::CAUSES,
    vm::CAUSES,
    guest::CAUSES,
    license::CAUSES,
    cuda::CAUSES,
    network::CAUSES,
    lifecycle::CAUSES,
];

/// Every cause, in the order of the stages.
pub fn all() -> impl Iterator<Item = &'static Cause> {
    STAGES.into_iter().flatten()
}

/// A cause by its id.
pub fn named(id: &str) -> Option<&'static Cause> {
    all().find(|cause| cause.id == id)
}
