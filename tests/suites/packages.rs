//! The packages on the tools they are for: Debian's, rpm's, systemd's, and the init script of ESXi under
//! busybox.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use vsgpu_tests::lab::{package, workspace};
use vsgpu_tests::real::{prepared, sh};

/// A copy-on-write layer over a clean Debian; nothing of it stays.
struct Tree(PathBuf);

impl Tree {
    fn new(lower: &Path) -> Self {
        let work = std::env::temp_dir().join(format!("vsgpu-packages-{}", std::process::id()));
        for folder in ["root", "upper", "work"] {
            std::fs::create_dir_all(work.join(folder)).unwrap();
        }
        // An overlay cannot lie on an overlay everywhere: its upper part is a memory file system.
        sh("mount", &["-t", "tmpfs", "tmpfs", &work.join("upper").display().to_string()]);
        let upper = work.join("upper");
        std::fs::create_dir_all(upper.join("up")).unwrap();
        std::fs::create_dir_all(upper.join("work")).unwrap();
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.join("up").display(),
            upper.join("work").display()
        );
        sh(
            "mount",
            &["-t", "overlay", "vsgpu-test", "-o", &layers, &work.join("root").display().to_string()],
        );
        Self(work)
    }

    fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    fn run(&self, args: &[&str]) -> String {
        sh("chroot", &[&[self.root().to_str().unwrap()], args].concat())
    }

    fn has(&self, path: &str) -> bool {
        self.root().join(path).symlink_metadata().is_ok()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for folder in ["root", "upper"] {
            let _ = Command::new("umount").arg("-l").arg(self.0.join(folder)).status();
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn debian_installs_upgrades_removes_and_purges_them() {
    let cache = prepared("container").unwrap();
    let tree = Tree::new(&cache.join("container").canonicalize().unwrap());
    let names = ["vsgpu", "vsgpu-host-agent", "vsgpu-guest-agent"];
    for name in names {
        std::fs::copy(package(name, ".deb"), tree.root().join(format!("root/{name}.deb"))).unwrap();
    }
    // The ssh client that the host agent asks for is not in this small tree; apt would bring it.
    let install = || {
        names.iter().for_each(|name| {
            drop(tree.run(&[
                "dpkg",
                "--ignore-depends=openssh-client,libnss-systemd",
                "-i",
                &format!("/root/{name}.deb"),
            ]))
        })
    };
    install();
    // What was installed runs there, and is there to be read.
    assert!(tree.run(&["vsgpu", "--version"]).starts_with("vsgpu "));
    assert!(tree.run(&["vsgpu-guest-agent", "serve", "--help"]).contains("--config"));
    for path in [
        "usr/lib/vsgpu/vsgpu-cuda-proof",
        "usr/lib/vsgpu/vsgpu-cuda-samples",
        "usr/share/man/man1/vsgpu.1.gz",
        "usr/share/man/man1/vsgpu-apply.1.gz",
        "usr/share/man/man1/vsgpu-guest-agent-serve.1.gz",
        "usr/lib/systemd/system/vsgpu-host-agent@.service",
        "usr/lib/systemd/system/vsgpu-host-agent-vcenter@.service",
        "usr/lib/systemd/system/vsgpu-exporter@.service",
        "usr/share/man/man1/vsgpu-host-agent-serve.1.gz",
        "usr/share/bash-completion/completions/vsgpu",
        "usr/share/zsh/vendor-completions/_vsgpu",
        "usr/share/fish/vendor_completions.d/vsgpu.fish",
        "etc/systemd/system/multi-user.target.wants/vsgpu-guest-agent.service",
    ] {
        assert!(tree.has(path), "{path}");
    }
    // A unit names a page of its own package: another one may have a page of that name in another section.
    for name in names {
        let files = tree.run(&["dpkg", "-L", name]);
        for unit in files.lines().filter(|path| path.starts_with("/usr/lib/systemd/system/vsgpu")) {
            let text = std::fs::read_to_string(tree.root().join(&unit[1..])).unwrap();
            let pages = text.lines().filter_map(|line| line.strip_prefix("Documentation=man:"));
            for (page, section) in pages.filter_map(|page| page.trim_end_matches(')').split_once('(')) {
                let path = format!("/usr/share/man/man{section}/{page}.{section}.gz");
                assert!(files.lines().any(|file| file == path), "{unit}: {path}");
            }
        }
    }
    let page = tree.run(&["gzip", "-dc", "/usr/share/man/man1/vsgpu-apply.1.gz"]);
    assert!(page.contains(".TH") && page.contains("tonight.plan"), "{page}");
    tree.run(&["bash", "-n", "/usr/share/bash-completion/completions/vsgpu"]);
    // The bash completion, asked as bash asks it.
    let ask = "source /usr/share/bash-completion/completions/vsgpu; COMP_WORDS=(vsgpu ap); COMP_CWORD=1; _vsgpu vsgpu ap vsgpu; echo ${COMPREPLY[@]}";
    assert_eq!(tree.run(&["bash", "-c", ask]).trim(), "apply");
    // An upgrade keeps what the operator wrote.
    let conf = tree.root().join("etc/vsgpu/guest-agent.conf");
    let mine = std::fs::read_to_string(&conf).unwrap() + "observe-every = 30\n";
    std::fs::write(&conf, &mine).unwrap();
    std::fs::write(tree.root().join("etc/vsgpu/node.pem"), "mine").unwrap();
    install();
    assert_eq!(std::fs::read_to_string(&conf).unwrap(), mine);
    // Removed, the operator's own stays; purged, nothing does.
    std::fs::create_dir_all(tree.root().join("var/lib/vsgpu")).unwrap();
    std::fs::create_dir_all(tree.root().join("etc/vsgpu-host-agent/esx-01")).unwrap();
    std::fs::create_dir_all(tree.root().join("etc/vsgpu-exporter/ops")).unwrap();
    tree.run(&["dpkg", "-r", "vsgpu-guest-agent", "vsgpu-host-agent", "vsgpu"]);
    assert!(!tree.has("usr/bin/vsgpu-guest-agent") && !tree.has("usr/bin/vsgpu"));
    assert!(tree.has("etc/vsgpu/guest-agent.conf") && tree.has("etc/vsgpu/node.pem"));
    assert!(tree.has("etc/vsgpu-host-agent/esx-01") && tree.has("etc/vsgpu-exporter/ops"));
    tree.run(&["dpkg", "-P", "vsgpu-guest-agent", "vsgpu-host-agent", "vsgpu"]);
    assert!(!tree.has("etc/vsgpu") && !tree.has("var/lib/vsgpu"));
    let left = tree.run(&[
        "sh",
        "-c",
        "find / -xdev -name '*vsgpu*' -not -path '/proc/*' -not -path '/root/*' -not -path '/tmp/*' | grep -v -e /var/log/ || true",
    ]);
    assert_eq!(left.trim(), "", "left behind");
}

fn debians_judge_finds_no_error() {
    for name in ["vsgpu", "vsgpu-host-agent", "vsgpu-guest-agent"] {
        let file = package(name, ".deb");
        let output = Command::new("lintian").args(["--fail-on", "error"]).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && !said.lines().any(|l| l.starts_with("E: ")), "{name}:\n{said}");
        // It has judged this package: it knows of the one thing that it warns of.
        assert!(said.contains("maintainer-script-calls-systemctl"), "{name}:\n{said}");
    }
    let sums = package("vsgpu", ".deb").with_file_name("SHA256SUMS");
    let listed = std::fs::read_to_string(&sums).unwrap();
    assert!(listed.lines().count() >= 5, "{listed}");
    let mut check = Command::new("sha256sum");
    check.args(["-c", "--quiet", "SHA256SUMS"]).current_dir(sums.parent().unwrap());
    assert!(check.status().unwrap().success());
}

fn rpm_takes_them() {
    let file = package("vsgpu-guest-agent", ".rpm").display().to_string();
    sh("rpm", &["-K", "--nosignature", &file]);
    let files = sh("rpm", &["-qp", "--queryformat", "[%{FILENAMES} %{FILEFLAGS:fflags}\\n]", &file]);
    // Kept over an upgrade: `c` configuration, `n` not replaced.
    assert!(files.lines().any(|l| l == "/etc/vsgpu/guest-agent.conf cn"), "{files}");
    assert!(sh("rpm", &["-qp", "--requires", &file]).contains("libc.so.6(GLIBC_"), "{files}");
    let root = std::env::temp_dir().join(format!("vsgpu-rpm-{}", std::process::id()));
    std::fs::create_dir_all(&root).unwrap();
    if nix::unistd::geteuid().is_root() {
        // On a Debian the rest of the system is not in rpm's books.
        let at = root.display().to_string();
        sh("rpm", &["--root", &at, "--nodeps", "--noscripts", "-i", &file]);
        assert!(root.join("usr/bin/vsgpu-guest-agent").exists());
        sh("rpm", &["--root", &at, "--nodeps", "--noscripts", "-e", "vsgpu-guest-agent"]);
        assert!(!root.join("usr/bin/vsgpu-guest-agent").exists());
    }
    std::fs::remove_dir_all(root).unwrap();
}

fn systemd_understands_the_units() {
    let folder = std::env::temp_dir().join(format!("vsgpu-units-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (file, unit) in [
        ("vsgpu-guest-agent.service", "vsgpu-guest-agent.service"),
        ("vsgpu-host-agent@.service", "vsgpu-host-agent@esx-01.service"),
        ("vsgpu-host-agent-vcenter@.service", "vsgpu-host-agent-vcenter@vc.service"),
        ("vsgpu-exporter@.service", "vsgpu-exporter@root.service"),
        ("vsgpu-pool.service", "vsgpu-pool.service"),
        ("vsgpu-gpu.service", "vsgpu-gpu.service"),
        ("vsgpu-netns@.service", "vsgpu-netns@0.service"),
        ("vsgpu-engine@.service", "vsgpu-engine@0.service"),
        ("vsgpu-engine-proof@.service", "vsgpu-engine-proof@0.service"),
    ] {
        let text = std::fs::read_to_string(workspace().join("packaging/linux").join(file)).unwrap();
        // The program is looked for as well; the manual page is in the package.
        let text = ["vsgpu-guest-agent", "vsgpu-host-agent", "vsgpu-pool", "vsgpu-gpu", "vsgpu"]
            .iter()
            .fold(text, |text, program| text.replace(&format!("/usr/bin/{program} "), "/bin/true "))
            .replace("/usr/lib/vsgpu/vsgpu-cuda-proof ", "/bin/true ");
        let text: String =
            text.lines().filter(|l| !l.starts_with("Documentation=")).map(|l| format!("{l}\n")).collect();
        // An engine's program is written beside it, by the agent.
        let text = match unit {
            "vsgpu-engine@0.service" => text + "ExecStart=/bin/true\n",
            _ => text,
        };
        let path = folder.join(unit);
        std::fs::write(&path, text).unwrap();
        let output = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let ours: Vec<&str> = said.lines().filter(|l| l.contains("vsgpu")).collect();
        assert!(ours.is_empty() && output.status.success(), "{unit}: {said}");
        // systemd's own judgement of what an attacker gets who takes such a program over: 10 is everything. The
        // gateway enters namespaces and speaks to the driver; engine and daemon are what strangers' bytes reach.
        let most = match unit {
            "vsgpu-engine@0.service" | "vsgpu-engine-proof@0.service" | "vsgpu-gpu.service" => 2.5,
            "vsgpu-pool.service" => 5.0,
            _ => continue,
        };
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let exposure = said
            .lines()
            .rev()
            .find_map(|line| line.split_once(": ")?.1.split(' ').next()?.parse::<f64>().ok());
        println!("{unit}: exposure {exposure:?}");
        assert!(exposure.is_some_and(|exposure| exposure <= most), "{unit}: {said}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// The init script under a POSIX shell (busybox's own where it is), with stand-ins of ESXi's commands that
/// write down how they were called; watchdog.sh's options and the group's are those of scripts that run on
/// ESXi (facts: esxi A4).
fn the_init_script_starts_stops_and_says_how_it_is() {
    let folder = std::env::temp_dir().join(format!("vsgpu-init-{}", std::process::id()));
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let log = folder.join("calls");
    let tool = |name: &str, body: &str| {
        let path = bin.join(name);
        std::fs::write(&path, format!("#!/bin/sh\necho \"{name} $*\" >>{}\n{body}\n", log.display()))
            .unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let running = folder.join("running");
    tool(
        "watchdog.sh",
        &format!(
            "case $1 in -r) [ -f {0} ] && echo 77;; -s) touch {0}; exec sleep 60;; -k) rm -f {0};; esac; exit 0",
            running.display()
        ),
    );
    tool("localcli", "case \"$*\" in *list*) exit 1;; esac");
    tool("pidof", &format!("[ -f {} ] && echo 4711", running.display()));
    tool("kill", "");
    tool("esxcli", "");
    tool("setsid", "exec \"$@\"");
    tool("logger", "cat >/dev/null");
    let script =
        std::fs::read_to_string(workspace().join("packaging/esxi/root/etc/init.d/vsgpu-host-agent")).unwrap();
    let pem = folder.join("node.pem");
    std::fs::write(&pem, "").unwrap();
    let script = script
        .replace("PATH=/sbin:/bin:/usr/sbin:/usr/bin", &format!("PATH={}:/bin:/usr/bin", bin.display()))
        .replace("/sbin/watchdog.sh", &bin.join("watchdog.sh").display().to_string())
        .replace("/etc/opt/vsgpu/node.pem", &pem.display().to_string())
        .replace("kill ", &format!("{} ", bin.join("kill").display()));
    let path = folder.join("vsgpu-host-agent");
    std::fs::write(&path, script).unwrap();
    let shell: &[&str] =
        if Path::new("/bin/busybox").exists() { &["/bin/busybox", "sh"] } else { &["/bin/sh"] };
    let call = |verb: &str| {
        let output = Command::new(shell[0]).args(&shell[1..]).arg(&path).arg(verb).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let calls = std::fs::read_to_string(&log).unwrap_or_default();
        let _ = std::fs::remove_file(&log);
        (output.status.code().unwrap(), said, calls)
    };
    let (status, said, calls) = call("start");
    assert!(
        status == 0 && said.contains("not enrolled") && !calls.contains("watchdog.sh -s"),
        "{said}{calls}"
    );
    assert_eq!(call("status").0, 3);
    std::fs::write(&pem, "a certificate").unwrap();
    // It ends at once, although the watchdog goes on: nobody who reads its output must wait for the agent.
    let begun = std::time::Instant::now();
    let (status, said, calls) = call("install");
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "it kept its caller's output");
    assert!(status == 0 && said.contains("started"), "{said}");
    assert!(calls.contains("esxcli network firewall refresh"), "{calls}");
    assert!(
        calls.contains(
            "localcli --plugin-dir=/usr/lib/vmware/esxcli/int sched group add -g host/vim/vimuser -n vsgpu"
        ),
        "{calls}"
    );
    assert!(
        calls.contains("sched group setmemconfig -g host/vim/vimuser/vsgpu -m 256 -i 0 -l -1 -u mb"),
        "{calls}"
    );
    vsgpu_tests::lab::wait_until("the watchdog was started", std::time::Duration::from_secs(10), || {
        running.exists()
    });
    let late = std::fs::read_to_string(&log).unwrap_or_default();
    let wanted = "-s vsgpu-host-agent -q 100 -t 1000000 /opt/vsgpu/bin/vsgpu-host-agent ++group=host/vim/vimuser/vsgpu serve --config /etc/opt/vsgpu/agent.conf";
    assert!(format!("{calls}{late}").contains(wanted), "{calls}{late}");
    assert_eq!(call("status").0, 0);
    let (_, said, calls) = call("start");
    assert!(
        said.contains("already running") && !calls.contains("watchdog.sh -s"),
        "a second start is no second agent: {calls}"
    );
    let (status, said, calls) = call("remove");
    assert!(status == 0 && said.contains("stopped"), "{said}");
    assert!(
        calls.contains("watchdog.sh -k vsgpu-host-agent")
            && calls.contains("sched group delete -g host/vim/vimuser/vsgpu"),
        "{calls}"
    );
    assert_eq!(call("status").0, 3);
    assert_eq!(call("nonsense").0, 1);
    std::fs::remove_dir_all(folder).unwrap();
}

fn main() -> std::process::ExitCode {
    vsgpu_tests::harness::main(&[("", TESTS)])
}

const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    debian_installs_upgrades_removes_and_purges_them[Container],
    debians_judge_finds_no_error[Lintian],
    rpm_takes_them[Rpm],
    systemd_understands_the_units[SystemdAnalyze],
    the_init_script_starts_stops_and_says_how_it_is
];
