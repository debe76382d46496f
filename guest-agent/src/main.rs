//! `vsgpu-guest-agent`: wires the agent and nothing else.

fn main() -> std::process::ExitCode {
    vsgpu_proto::agent::main(vsgpu_guest_agent::agent())
}
