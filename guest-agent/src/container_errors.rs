//! Why a container did not start, or saw no GPU: what the engine said, with its cause and what to do. The words
//! are those of Podman 4.3 and Docker 20.10 as Debian 12 packages them, and of NVIDIA's own hook.

use crate::known_errors::{self, Known};
use vsgpu_core::requirement::Explained;

const KNOWN: [Known; 14] = [
    Known {
        said: &[&["unresolvable CDI devices"], &["CDI device injection failed"]],
        cause: "no CDI description tells the engine of the GPUs (/etc/cdi)",
        fix: "`container-toolkit: { engines: [podman] }` has it made; by hand: `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`",
    },
    Known {
        said: &[
            &["stat'ing file", "libcuda"],
            &["stat'ing file", "libnvidia"],
            &["stat'ing file", "/dev/nvidia"],
            &["bind mount source path does not exist", "nvidia"],
        ],
        cause: "the CDI description is of another driver: it names files that are gone",
        fix: "`container-toolkit` of the guest makes it again at the next `vsgpu apply`; by hand: `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`",
    },
    Known {
        said: &[&["could not select device driver", "gpu"]],
        cause: "Docker has no NVIDIA hook: the container toolkit is not installed, or Docker was not restarted since",
        fix: "`container-toolkit: { engines: [docker] }` installs it and restarts Docker",
    },
    Known {
        said: &[&["unknown or invalid runtime name"], &["Unknown runtime specified"]],
        cause: "Docker knows no runtime `nvidia`",
        fix: "`container-toolkit: { engines: [docker] }` sets it up and restarts Docker",
    },
    Known {
        said: &[&["Cannot connect to the Docker daemon"], &["Is the docker daemon running"]],
        cause: "Docker's daemon does not run",
        fix: "`systemctl status docker` in the guest says why; then `systemctl start docker`",
    },
    Known {
        said: &[&["did not resolve to an alias", "unqualified-search registries"]],
        cause: "Podman does not know which registry a short name of an image is of",
        fix: "write the whole name, such as `image: docker.io/library/debian`, or give the image as a file (`archive:`)",
    },
    Known {
        said: &[
            &["pinging container registry"],
            &["dial tcp", "lookup"],
            &["dial tcp", "connection refused"],
            &["dial tcp", "i/o timeout"],
            &["net/http: request canceled"],
            &["proxyconnect tcp"],
        ],
        cause: "the image is not in this guest, and its registry is not reached",
        fix: "give the image as a file: `archive: files/image.tar` (made with `docker save` or `podman save`), or set the engine's proxy or mirror",
    },
    Known {
        said: &[&["manifest unknown"], &["repository does not exist"], &["name unknown"]],
        cause: "the registry has no such image",
        fix: "correct `image:` (name and tag)",
    },
    Known {
        said: &[
            &["bpf_prog_query", "cgroup"],
            &["failed to add device rules"],
            &["cgroup subsystem devices not found"],
        ],
        cause: "NVIDIA's hook may not open the device rules of the container's cgroup",
        fix: "Docker: update the container toolkit, then `systemctl restart docker`; Podman: use CDI (`container-toolkit: { engines: [podman] }`); without root set `no-cgroups = true` in /etc/nvidia-container-runtime/config.toml",
    },
    Known {
        said: &[
            &["SELinux"],
            &["relabel"],
            &["libcuda", "Permission denied"],
            &["/dev/nvidia", "Permission denied"],
        ],
        cause: "SELinux or the devices' rights keep the container from the driver",
        fix: "look at `ls -l /dev/nvidia*` (they are 0666 by default); with SELinux at `ausearch -m avc -ts recent`: `setsebool -P container_use_devices on` allows devices in containers",
    },
    Known {
        said: &[&["apparmor"], &["AppArmor"]],
        cause: "AppArmor refuses the container",
        fix: "look at `journalctl -k` for `apparmor=\"DENIED\"`; `apparmor_parser` must be there where AppArmor is on (package apparmor)",
    },
    Known {
        said: &[&["newuidmap"], &["no subuid ranges"], &["cannot find UID/GID for user"]],
        cause: "this user has no ids of its own for containers without root",
        fix: "install `uidmap`, give the user ranges in /etc/subuid and /etc/subgid (`usermod --add-subuids`), then `podman system migrate`",
    },
    Known {
        said: &[
            &["exec", "vsgpu-cuda-proof", "no such file or directory"],
            &["vsgpu-cuda-proof", "No such file or directory"],
        ],
        cause: "the image has no glibc, which vsgpu-cuda-proof needs",
        fix: "take an image with glibc: debian, ubuntu, ubi; not alpine or busybox",
    },
    Known {
        said: &[&["no space left on device"], &["No space left on device"]],
        cause: "the disk of the container engine is full",
        fix: "look at `df -h`; `docker system prune`, or `podman system prune` as the user who runs it, deletes stopped containers and unused images",
    },
];

/// The cause, if it is a known one.
pub(crate) fn explain(said: &str) -> Option<Explained> {
    known_errors::explain(&KNOWN, said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_failure_has_its_cause_and_ours_alone() {
        for (said, cause) in [
            (
                "Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all",
                "no CDI description",
            ),
            (
                "Error: crun: error stat'ing file `/usr/lib/x86_64-linux-gnu/libcuda.so.535.1`: No such file or directory: OCI runtime attempted to invoke a command that was not found",
                "of another driver",
            ),
            (
                "docker: Error response from daemon: could not select device driver \"\" with capabilities: [[gpu]].",
                "no NVIDIA hook",
            ),
            (
                "docker: Error response from daemon: unknown or invalid runtime name: nvidia.",
                "no runtime `nvidia`",
            ),
            ("docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", "does not run"),
            (
                "Error: short-name \"ubuntu\" did not resolve to an alias and no unqualified-search registries are defined in \"/etc/containers/registries.conf\"",
                "short name",
            ),
            (
                "Error: initializing source docker://nosuch:1: pinging container registry registry-1.docker.io: Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io: no such host",
                "registry is not reached",
            ),
            (
                "nvidia-container-cli: mount error: failed to add device rules: unable to find any existing device filters attached to the cgroup: bpf_prog_query(BPF_CGROUP_DEVICE) failed: operation not permitted",
                "cgroup",
            ),
            (
                "AppArmor enabled on system but the docker-default profile could not be loaded",
                "AppArmor refuses",
            ),
            (
                "cannot set up namespace using \"/usr/bin/newuidmap\": exec: \"newuidmap\": executable file not found in $PATH",
                "no ids of its own",
            ),
            (
                "libcuda.so.1: cannot open shared object file: Permission denied",
                "SELinux or the devices' rights",
            ),
            ("exec /vsgpu-cuda-proof: no such file or directory", "no glibc"),
        ] {
            let explained = explain(said).unwrap_or_else(|| panic!("{said}"));
            assert!(explained.cause.contains(cause), "{said}: {}", explained.cause);
        }
        assert!(explain("Error: something else").is_none());
    }
}
