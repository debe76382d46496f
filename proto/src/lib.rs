//! The wire contract of vsgpu and everything that speaks it: generated code, server, client, TLS, metrics.
//! The only crate that names tonic, prost and rustls. Both agents are this server around their own catalogue.

mod accept;
mod activation;
pub mod agent;
mod beneath;
mod call_error;
mod child;
pub mod client;
pub mod dial;
mod lease;
pub mod life;
pub mod machine;
pub mod metrics;
pub mod offload;
mod operations;
pub mod otlp;
pub mod package;
pub mod pki;
pub mod posix;
mod receive;
pub mod remote;
mod rights;
pub mod scrape;
pub mod server;
mod service;
pub mod shell;
pub mod ssh;
mod staging;
pub mod taken;
mod tls;
pub mod traceparent;
mod work;

/// Generated from `agent.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code; agent.proto carries the documentation"
)]
pub mod v1 {
    tonic::include_proto!("vsgpu.agent.v1");
}

/// Bytes in one message of an artifact, and the windows around it: the sweet spot measured for file transfers.
pub const CHUNK: usize = 1 << 20;
pub(crate) const STREAM_WINDOW: u32 = 4 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 8 << 20;
/// Largest message either side accepts.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;
