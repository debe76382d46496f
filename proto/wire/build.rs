//! Compiles `agent.proto` without protoc.
use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../agent.proto");
    let files = protox::compile(["agent.proto"], [".."])?;
    // Proves that the descriptor is whole; tonic-prost-build takes prost's own type.
    let files = prost_types::FileDescriptorSet::decode(files.encode_to_vec().as_slice())?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
