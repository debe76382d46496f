//! Hosts on which no program of ours runs: a real sshd stands in for the host's, its sessions see nothing but
//! busybox and the simulated tools, and the host agent beside it reaches the host through OpenSSH.

use super::{Inner, Lab, end, free_port, wait_until};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What stands for a host's sshd.
#[derive(Clone)]
pub struct Sshd {
    folder: PathBuf,
    pub port: u16,
    pub user: String,
}

/// Programs that this needs; Debian's packages openssh-server, openssh-client and busybox have them.
pub fn why_not() -> Option<String> {
    let missing = |p: &&str| !Path::new(p).exists();
    let all = ["/usr/sbin/sshd", "/usr/bin/ssh", "/usr/bin/ssh-keygen", "/usr/bin/busybox"];
    let absent: Vec<&str> = all.into_iter().filter(missing).collect();
    (!absent.is_empty()).then(|| format!("{} not here", absent.join(", ")))
}

impl Sshd {
    /// Makes keys and configuration. `sim`: the simulator, for tools that install further tools.
    pub fn prepare(folder: PathBuf, sim: &Path) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        for key in ["host-key", "client-key"] {
            let args = ["-q", "-t", "ed25519", "-N", "", "-C", "simulated", "-f"];
            let made = Command::new("ssh-keygen")
                .args(args)
                .arg(folder.join(key))
                .stdout(Stdio::null())
                .status()
                .unwrap();
            assert!(made.success(), "ssh-keygen");
        }
        let port = free_port();
        let user = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
        let text = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
        std::fs::copy(folder.join("client-key.pub"), folder.join("authorized_keys")).unwrap();
        std::fs::write(folder.join("known_hosts"), format!("[127.0.0.1]:{port} {}", text("host-key.pub")))
            .unwrap();
        // ESXi's shell and tools are busybox's: nothing else is found here.
        let applets = folder.join("busybox");
        std::fs::create_dir_all(&applets).unwrap();
        let list = Command::new("busybox").arg("--list").output().unwrap().stdout;
        for applet in String::from_utf8_lossy(&list).lines() {
            let _ = std::os::unix::fs::symlink("/usr/bin/busybox", applets.join(applet));
        }
        let session = folder.join("session");
        std::fs::write(
            &session,
            format!(
                "#!/bin/sh\nPATH={} exec /usr/bin/busybox sh -c \"$SSH_ORIGINAL_COMMAND\"\n",
                applets.display()
            ),
        )
        .unwrap();
        std::fs::set_permissions(&session, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        // SHLVL: bash as the login shell would read its start-up file for every session otherwise.
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host-key\nAuthorizedKeysFile {0}/authorized_keys\nPidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nSetEnv VSGPU_SIM={1} SHLVL=2\nForceCommand {0}/session\n",
            folder.display(),
            sim.display()
        );
        std::fs::write(folder.join("sshd_config"), config).unwrap();
        Self { folder, port, user }
    }

    pub fn start(&self) -> std::process::Child {
        if nix::unistd::geteuid().is_root() {
            // sshd's own empty folder, which its service would make.
            let _ = std::fs::create_dir_all("/run/sshd");
        }
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(self.folder.join("sshd_config")).process_group(0);
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join("sshd.log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        wait_until("sshd listens", Duration::from_secs(20), || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
        child
    }

    /// The same way, for who speaks to it without an agent.
    pub fn target(&self) -> vsgpu_machine::ssh::Target {
        vsgpu_machine::ssh::Target {
            destination: format!("{}@127.0.0.1", self.user),
            port: Some(self.port),
            identity: Some(self.folder.join("client-key")),
            known_hosts: Some(self.folder.join("known_hosts")),
        }
    }

    /// Options of an agent that goes this way.
    pub fn options(&self) -> Vec<String> {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let target = format!("{}@127.0.0.1:{}", self.user, self.port);
        ["--ssh", &target, "--ssh-identity", &file("client-key"), "--ssh-known-hosts", &file("known_hosts")]
            .map(String::from)
            .to_vec()
    }
}

impl Lab {
    /// No program of ours runs on this host any more: its agent is beside it and goes there through ssh.
    pub fn without_agent(&self, name: &str) {
        let sshd = Sshd::prepare(self.machine(name).join("ssh"), &super::programs().join("vsgpu-sim"));
        self.inner.sshds.lock().unwrap().insert(name.into(), sshd);
    }

    /// The sshd of such a host.
    pub fn sshd(&self, name: &str) -> Sshd {
        self.inner.sshds.lock().unwrap()[name].clone()
    }

    /// Ends the agent beside such a host for good: the host is nobody's then.
    pub fn stop_gateway(&self, name: &str) {
        let old = self.inner.gateways.lock().unwrap().remove(name);
        old.into_iter().for_each(end);
        let _ = std::fs::remove_file(self.machine(name).join("root/var/run/vsgpu/gateway"));
    }

    /// Kills the agent beside such a host and starts it again.
    pub fn restart_gateway(&self, name: &str) {
        let old = self.inner.gateways.lock().unwrap().remove(name);
        old.into_iter().for_each(end);
        self.inner.start_gateway(name);
    }
}

impl Inner {
    /// The init script of an agent that was installed on the host itself.
    pub(super) fn start_installed(&self, name: &str) {
        let pki = self.folder.join("machines").join(name).join("root/etc/opt/vsgpu");
        let old = self.gateways.lock().unwrap().remove(name);
        old.into_iter().for_each(end);
        let child = self.spawn_agent(name, "host", &["--pki".into(), pki.display().to_string()]);
        self.gateways.lock().unwrap().insert(name.into(), child);
    }

    /// Connections of an sshd are sessions of their own: a host without power has none.
    pub(super) fn cut(&self, name: &str, sshd: &std::process::Child) {
        if self.sshds.lock().unwrap().contains_key(name) {
            let children = format!("/proc/{0}/task/{0}/children", sshd.id());
            for pid in std::fs::read_to_string(children)
                .unwrap_or_default()
                .split_whitespace()
                .filter_map(|p| p.parse().ok())
            {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
    }

    /// Starts the host's sshd, and once the agent beside it.
    pub(super) fn start_over_ssh(&self, name: &str, sshd: &Sshd) {
        self.stop(name);
        let child = sshd.start();
        self.agents.lock().unwrap().insert(name.into(), child);
        if !self.gateways.lock().unwrap().contains_key(name) {
            self.start_gateway(name);
        }
    }

    fn start_gateway(&self, name: &str) {
        let sshd = self.sshds.lock().unwrap()[name].clone();
        // A socket's path is short.
        let state = std::env::temp_dir().join(format!("vsgpu-gw-{}-{}", std::process::id(), sshd.port));
        let more = [
            sshd.options(),
            vec!["--state".into(), state.display().to_string(), "--metrics-names=both".into()],
        ]
        .concat();
        let child = self.spawn_agent(name, "host", &more);
        self.gateways.lock().unwrap().insert(name.into(), child);
    }
}
