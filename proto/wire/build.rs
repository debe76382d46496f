//! Compiles the wire's files without protoc.
use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let names = ["agent.proto", "pool.proto"];
    names.iter().for_each(|name| println!("cargo::rerun-if-changed=../{name}"));
    let files = protox::compile(names, [".."])?;
    // Proves that the descriptor is whole; tonic-prost-build takes prost's own type.
    let files = prost_types::FileDescriptorSet::decode(files.encode_to_vec().as_slice())?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
