//! Simulated `vsgpu-cuda-samples`: builds only what a guest with this toolkit and these tools could build, with the words
//! of the real one. The real one is tried by the suite `cuda_samples`.

use super::Answer;
use super::state::Machine;
use std::path::Path;

pub fn build(folder: &Path, words: &[&str]) -> Answer {
    let ["--source", source, "--into", into, rest @ ..] = words else {
        return Answer::err(2, "error: unexpected argument (simulated)\n");
    };
    let mut m = Machine::read(folder);
    let compiler = rest.windows(2).find(|pair| pair[0] == "--compiler").map(|pair| pair[1]);
    let fail = |why: &str| Answer::err(1, format!("error: {why} (simulated)\n"));
    if !m.root(source).exists() {
        return fail(&format!("{source}: No such file or directory (os error 2)"));
    }
    let Some(toolkit) = m.text("/usr/local/cuda/version.json") else {
        return fail("there is no nvcc in /usr/local/cuda/bin");
    };
    let of_12_8 = source.contains("cuda-samples-13") || source.contains("cuda-samples-12.8");
    let tool = if of_12_8 { "cmake" } else { "make" };
    let packages = m.linux().packages.clone();
    if !packages.contains(tool) {
        return fail(&format!("deviceQuery: these samples are built with {tool}, which is not installed"));
    }
    if !packages.contains(compiler.unwrap_or("g++")) {
        let name = compiler.unwrap_or("g++");
        return fail(&format!(
            "deviceQuery: {tool}: exit status 2\n{name}: No such file or directory\nnvcc fatal   : Failed to preprocess host compiler properties."
        ));
    }
    if toolkit.contains("\"13.") && !of_12_8 {
        return fail(
            "deviceQuery: make: exit status 2\ndeviceQuery.cpp:136:20: error: 'struct cudaDeviceProp' has no member named 'clockRate'",
        );
    }
    for sample in ["deviceQuery", "vectorAdd"] {
        super::state::link(&m.root(&format!("{into}/{sample}")));
    }
    Answer::ok(format!(
        "built deviceQuery and vectorAdd with {tool} and /usr/local/cuda/bin/nvcc (simulated)\n"
    ))
}
