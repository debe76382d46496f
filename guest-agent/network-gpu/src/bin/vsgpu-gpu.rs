//! `vsgpu-gpu`: GPUs of other machines for programs of this one.
fn main() -> std::process::ExitCode {
    vsgpu_network_gpu::cli::gpu::main()
}
