//! `vsgpu-pool`: the gateway of a GPU server.
fn main() -> std::process::ExitCode {
    vsgpu_network_gpu::cli::pool::main()
}
