//! Reads `dkms status`, in the forms of DKMS 2 (`nvidia, 375.51, KERNEL, ARCH: state`) and 3 (`nvidia/375.51,
//! KERNEL, ...`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::Command;

/// One module for one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DkmsModule {
    /// `nvidia`, `nvidia-open`.
    pub name: String,
    /// Version of the module.
    pub version: String,
    /// Kernel it is for; absent where it is only added.
    pub kernel: Option<String>,
    /// `added`, `built`, `installed`, `broken`.
    pub state: String,
}

pub(crate) fn status() -> Command {
    Command::new("dkms", ["status"])
}

/// NVIDIA's modules; lines of other modules and warnings are left out.
pub fn read(text: &str) -> Vec<DkmsModule> {
    let one = |line: &str| {
        let (what, state) = line.split_once(": ")?;
        let (name, rest) = what.split_once(['/', ','])?;
        let mut parts = rest.split(',').map(str::trim);
        let version = parts.next()?.to_string();
        let state = state.split_whitespace().next()?.trim_end_matches(['.', '!']).to_string();
        let name = name.trim().to_string();
        name.starts_with("nvidia").then(|| DkmsModule {
            name,
            version,
            kernel: parts.next().map(String::from),
            state,
        })
    };
    text.lines().filter_map(|l| one(l.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let text = "nvidia, 390.116, 4.15.0-54-generic, x86_64: installed\nnvidia/470.63.01, 3.10.0-1160.el7.x86_64, x86_64: installed (original_module exists)\nnvidia/550.1: added\nvirtualbox, 4.1, 3.2.0, x86_64: installed\nWarning! Diff: x\n";
        let all = read(text);
        assert_eq!(
            all.iter().map(|m| m.version.as_str()).collect::<Vec<_>>(),
            ["390.116", "470.63.01", "550.1"]
        );
        assert_eq!(
            (all[1].kernel.as_deref(), all[1].state.as_str()),
            (Some("3.10.0-1160.el7.x86_64"), "installed")
        );
        assert_eq!((all[2].kernel.clone(), all[2].state.as_str()), (None, "added"));
    }
}
