//! The wire contract of vsgpu and both of its sides: `client` (the controller's), `server` (an agent's), `pool`
//! (GPUs over the network), and what they share: TLS, certificates, refusals, metrics. The only crate that
//! names tonic, prost and rustls.
#![warn(missing_docs)]

mod accept;
pub mod acquired;
pub mod client;
pub mod life;
pub mod metrics;
pub mod otlp;
pub mod pki;
pub mod pool;
mod refusal;
pub mod server;
mod sizes;
mod strangers;
mod tls;
pub mod traceparent;
pub mod v1;

pub use refusal::Refusal;
pub use sizes::CHUNK;
