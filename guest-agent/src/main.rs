//! `vsgpu-guest-agent`: wires the agent and nothing else.

fn main() -> std::process::ExitCode {
    vsgpu_wire::server::main(vsgpu_guest_agent::agent())
}
