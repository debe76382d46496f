//! Which calls of the tools only look: everything else may change a machine.

/// Whether a call of a tool only looks.
pub fn only_looks(call: &str) -> bool {
    let call = call.replace("--formatter=xml ", "");
    let words: Vec<&str> = call.split(' ').collect();
    match words.as_slice() {
        // With a number and a choice behind it, it answers.
        ["vim-cmd", "vmsvc/message", _] => true,
        ["esxcli", rest @ ..] => rest.iter().any(|w| *w == "get" || *w == "list"),
        ["vim-cmd", verb, ..] => {
            matches!(
                *verb,
                "vmsvc/getallvms" | "vmsvc/power.getstate" | "vmsvc/snapshot.get" | "hostsvc/hostsummary"
            )
        }
        ["nvidia-smi", "-q", ..]
        | ["nvidia-smi", "vgpu", "-q" | "-s" | "-c", ..]
        | ["vmkload_mod", "-l"]
        | ["journalctl", ..]
        | ["vsish", "-e", "get", _]
        | ["stat", "-c", ..] => true,
        ["systemctl", verb, ..] => matches!(*verb, "is-active" | "is-enabled" | "get-default" | "show"),
        ["vsgpu-pool", "status", ..] | ["vsgpu-gpu", "list" | "status", ..] => true,
        [
            "gcc" | "g++" | "make" | "cmake" | "dkms" | "nvcc" | "nvidia-ctk" | "docker" | "podman"
            | "containerd",
            "--version",
        ] => true,
        ["docker", "info", ..]
        | ["dkms", "status"]
        | ["modinfo", ..]
        | ["dpkg-query", ..]
        | ["timedatectl", "show", ..]
        | ["mokutil", "--test-key", _] => true,
        _ => false,
    }
}
