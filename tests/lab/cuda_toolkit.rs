//! NVIDIA's CUDA toolkit, made whole from what `VSGPU_NVCC` names: the Python packages leave out the name without a
//! version of the runtime's library, and the folder `lib64`.

use crate::harness::nvcc;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Links to every file of it, in a folder that a test may change.
pub fn whole(to: &Path) -> PathBuf {
    let nvcc = nvcc().unwrap().canonicalize().unwrap();
    let from = nvcc.parent().and_then(Path::parent).unwrap();
    std::fs::create_dir_all(to).unwrap();
    let copied = Command::new("cp").arg("-as").arg(from.join(".")).arg(to).status().unwrap();
    assert!(copied.success());
    let link = |target: &str, name: &str| {
        if !to.join(name).exists() {
            std::os::unix::fs::symlink(target, to.join(name)).unwrap();
        }
    };
    if to.join("lib").is_dir() {
        link("lib", "lib64");
    }
    let versioned = std::fs::read_dir(to.join("lib64")).unwrap().flatten().find_map(|entry| {
        entry.file_name().into_string().ok().filter(|name| name.starts_with("libcudart.so."))
    });
    if let Some(versioned) = versioned {
        link(&versioned, "lib64/libcudart.so");
    }
    to.to_path_buf()
}
