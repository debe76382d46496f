//! GPUs over the network. On a GPU server: `vsgpu-pool`, the gateway (`gateway`). On a client: `vsgpu-gpu`, its
//! daemon and what users call (`client`). Both move bytes between programs and engines of others and never
//! look into them; who gets which GPU is decided in `vsgpu_core::pool`. Deliberately absent: CUDA.

pub mod cli;
pub mod client;
pub mod gateway;
mod lines;
mod relay;
