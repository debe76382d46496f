//! The NVIDIA kernel module of a kernel, as modinfo says it.

use vsgpu_core::Command;

pub(crate) fn module_version(kernel: &str) -> Command {
    Command::new("modinfo", ["-k", kernel, "-F", "version", "nvidia"])
}
