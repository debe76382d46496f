//! `vsgpu-host-agent`: wires the agent and nothing else.

fn main() -> std::process::ExitCode {
    vsgpu_wire::server::main(vsgpu_host_agent::agent())
}
