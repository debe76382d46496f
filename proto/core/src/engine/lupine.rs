//! Lupine (github.com/lupinemachines/lupine, Apache-2.0). Names, port and variables as in its source, commit 7fbd364,
//! which was built and looked at.

use super::described::Engine;

/// The engine.
pub const LUPINE: Engine = Engine {
    name: "lupine",
    server: "lupine_driver_server",
    port: 14833,
    server_env: &[("LUPINE_PORT", "{port}")],
    client: &["libcuda.so.1", "libnvidia-ml.so.1"],
    client_env: &[
        ("LD_LIBRARY_PATH", "{libraries}"),
        ("LUPINE_SERVER", "{address}"),
        // Its library looks for a driver of the machine itself and offers those GPUs first: a program would not use the
        // GPU that it was given, and a proof on a GPU server would prove nothing of the engine.
        ("LUPINE_DISABLE_LOCAL", "1"),
    ],
    // The first one makes programs crash at their end; the other one would be of the client's own GPUs.
    client_without: &["LUPINE_RPC_STATS", "CUDA_VISIBLE_DEVICES"],
};
