//! A Debian in a full machine (qemu, software emulation): a kernel of its own that loads modules, reboots and
//! is upgraded, and power that can be cut.

use super::{furnish, sh};
use crate::lab::{Lab, free_port, wait_until};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A running machine. Dropping it ends it and removes its disk.
pub struct Machine {
    work: PathBuf,
    port: u16,
    child: Mutex<Option<Child>>,
    /// Seconds that its clock is ahead at the next start.
    pub ahead: AtomicU64,
}

impl Machine {
    /// Makes its disk from the prepared tree. `change` is given the tree before, for what is to be there from
    /// the start.
    pub fn boot(cache: &Path, lab: &Lab, name: &str, change: impl FnOnce(&Path)) -> Self {
        let work = cache.join(format!("machine-run-{}", std::process::id()));
        let root = work.join("root");
        for folder in ["root", "upper", "work"] {
            std::fs::create_dir_all(work.join(folder)).unwrap();
        }
        let tree = cache.join("machine").canonicalize().unwrap();
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            tree.display(),
            work.join("upper").display(),
            work.join("work").display()
        );
        sh("mount", &["-t", "overlay", "vsgpu-test", "-o", &layers, &root.display().to_string()]);
        furnish(&root, lab, name, None, true);
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("etc/fstab", "/dev/vda / ext4 defaults 0 1\n");
        put("etc/resolv.conf", "nameserver 10.0.2.3\n");
        put("etc/systemd/network/10-all.network", "[Match]\nName=e*\n[Network]\nDHCP=yes\n");
        let wants = root.join("etc/systemd/system/multi-user.target.wants");
        let _ = std::os::unix::fs::symlink(
            "/lib/systemd/system/systemd-networkd.service",
            wants.join("systemd-networkd.service"),
        );
        // A shell on the second serial port, for what an administrator does by hand.
        put(
            "etc/systemd/system/stand-in-shell.service",
            "[Unit]\nDescription=Shell of vsgpu's tests\n[Service]\nEnvironment=DEBIAN_FRONTEND=noninteractive\nExecStart=/bin/sh\nStandardInput=tty-force\nStandardOutput=tty\nTTYPath=/dev/ttyS1\nTTYReset=yes\nRestart=always\n[Install]\nWantedBy=multi-user.target\n",
        );
        let _ = std::os::unix::fs::symlink(
            "/etc/systemd/system/stand-in-shell.service",
            wants.join("stand-in-shell.service"),
        );
        // The daily work of apt would fight for its lock.
        for unit in ["apt-daily.timer", "apt-daily-upgrade.timer", "man-db.timer"] {
            let _ = std::os::unix::fs::symlink("/dev/null", root.join("etc/systemd/system").join(unit));
        }
        change(&root);
        let disk = work.join("disk.img");
        sh(
            "mke2fs",
            &["-q", "-t", "ext4", "-d", &root.display().to_string(), &disk.display().to_string(), "6G"],
        );
        sh("umount", &["-l", &root.display().to_string()]);
        let mut this = Self { work, port: free_port(), child: Mutex::default(), ahead: AtomicU64::new(0) };
        this.take_kernel(&tree);
        this.power_on();
        this
    }

    /// qemu starts a kernel by itself, so it has to be handed the one that the machine would boot: the newest
    /// one on its disk.
    fn take_kernel(&mut self, tree: &Path) {
        for entry in std::fs::read_dir(tree.join("boot")).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("vmlinuz-") || name.starts_with("initrd.img-") {
                std::fs::copy(entry.path(), self.work.join(name)).unwrap();
            }
        }
    }

    /// What a boot loader does: the newest kernel and its initramfs are read off the (stopped) disk.
    pub fn read_boot_files(&self) {
        let disk = self.work.join("disk.img").display().to_string();
        // The journal of a disk whose power was cut is replayed first, as a boot loader's reader would have
        // to.
        let _ = Command::new("e2fsck").args(["-p", &disk]).stdout(Stdio::null()).status();
        let names = sh("debugfs", &["-R", "ls -p /boot", &disk]);
        for name in names
            .lines()
            .filter_map(|l| l.split('/').nth(5))
            .filter(|n| n.starts_with("vmlinuz-") || n.starts_with("initrd.img-"))
        {
            let to = self.work.join(name).display().to_string();
            sh("debugfs", &["-R", &format!("dump /boot/{name} {to}"), &disk]);
        }
    }

    fn newest(&self) -> (PathBuf, PathBuf) {
        let order = |name: &str| {
            name.split(|c: char| !c.is_ascii_digit())
                .filter_map(|n| n.parse::<u64>().ok())
                .collect::<Vec<_>>()
        };
        let names = std::fs::read_dir(&self.work)
            .unwrap()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned());
        let newest = names
            .filter_map(|n| n.strip_prefix("vmlinuz-").map(String::from))
            .filter(|k| self.work.join(format!("initrd.img-{k}")).exists())
            .max_by_key(|k| order(k))
            .unwrap();
        (self.work.join(format!("vmlinuz-{newest}")), self.work.join(format!("initrd.img-{newest}")))
    }

    /// Where its agent answers.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it and waits for its agent.
    pub fn power_on(&self) {
        self.start();
        let address = self.address().parse().unwrap();
        // qemu takes the connection itself: only an answer to a hello says that the agent is there.
        let up = || {
            use std::io::{Read as _, Write as _};
            let Ok(mut stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500))
            else {
                return false;
            };
            stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            let _ = stream.write_all(b"hello\n");
            stream.read(&mut [0; 8]).is_ok_and(|n| n > 0)
        };
        wait_until(&format!("the machine's agent answers\n{}", self.console()), Duration::from_secs(400), up);
    }

    fn start(&self) {
        let (kernel, initrd) = self.newest();
        let console = self.work.join("serial.log");
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-M",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "2048",
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
        ]);
        qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
        qemu.args([
            "-append",
            "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet systemd.show_status=false panic=0",
        ]);
        qemu.arg("-drive").arg(format!(
            "file={},if=none,id=d0,format=raw,cache=writeback",
            self.work.join("disk.img").display()
        ));
        qemu.args([
            "-device",
            "virtio-blk-pci,drive=d0",
            "-netdev",
            &format!("user,id=n0,hostfwd=tcp:127.0.0.1:{}-:7443", self.port),
        ]);
        qemu.args(["-device", "virtio-net-pci,netdev=n0", "-device", "virtio-rng-pci"]);
        let ahead = self.ahead.load(Ordering::SeqCst);
        if ahead > 0 {
            let at =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + ahead;
            let at = time::OffsetDateTime::from_unix_timestamp(at as i64).unwrap();
            let text = format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
                at.year(),
                u8::from(at.month()),
                at.day(),
                at.hour(),
                at.minute(),
                at.second()
            );
            qemu.args(["-rtc", &format!("base={text}")]);
        }
        qemu.arg("-serial").arg(format!("file:{}", console.display()));
        let shell = self.work.join("shell.sock");
        let _ = std::fs::remove_file(&shell);
        qemu.arg("-serial").arg(format!("unix:{},server=on,wait=off", shell.display()));
        let words =
            std::fs::OpenOptions::new().create(true).append(true).open(self.work.join("qemu.log")).unwrap();
        let child = qemu
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(words)
            .spawn()
            .expect("qemu-system-x86_64");
        *self.child.lock().unwrap() = Some(child);
    }

    /// Whether it runs. A machine that reboots ends here, because the kernel is handed to it from outside.
    pub fn is_off(&self) -> bool {
        self.child.lock().unwrap().as_mut().is_none_or(|c| c.try_wait().ok().flatten().is_some())
    }

    /// Goes on after each reboot with what is on the disk, until told to stop; to be run beside the
    /// controller.
    pub fn keep_booting(&self, done: &std::sync::atomic::AtomicBool) -> u32 {
        let mut boots = 0;
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            if self.is_off() {
                self.read_boot_files();
                self.start();
                boots += 1;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        boots
    }

    /// The plug is pulled. What the guest had not written is gone.
    pub fn power_cut(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Runs a line of shell in the machine, over its second serial port, and waits for its end.
    pub fn shell(&self, line: &str) {
        use std::io::{BufRead as _, BufReader, Write as _};
        let socket = self.work.join("shell.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("the machine's shell");
        stream.set_read_timeout(Some(Duration::from_secs(600))).unwrap();
        writeln!(stream, "{line}; echo END-$?").unwrap();
        let lines = BufReader::new(stream).lines();
        let ended = lines.map_while(Result::ok).find(|l| l.trim().starts_with("END-")).unwrap_or_default();
        assert_eq!(ended.trim(), "END-0", "{line}\n{}", self.console());
    }

    /// An administrator reboots it; returns when it is off. The line is held until then: what was not read of
    /// it when it is dropped is lost.
    pub fn reboot(&self) {
        use std::io::Write as _;
        let mut stream = std::os::unix::net::UnixStream::connect(self.work.join("shell.sock"))
            .expect("the machine's shell");
        writeln!(stream, "sync; systemctl reboot").unwrap();
        wait_until("the machine is off", Duration::from_secs(500), || self.is_off());
    }

    /// A file on the disk of the stopped machine.
    pub fn read_stopped(&self, path: &str) -> String {
        sh("debugfs", &["-R", &format!("cat {path}"), &self.work.join("disk.img").display().to_string()])
    }

    /// The last lines of its console.
    pub fn console(&self) -> String {
        let text = std::fs::read(self.work.join("serial.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let qemu = std::fs::read_to_string(self.work.join("qemu.log")).unwrap_or_default();
        lines[lines.len().saturating_sub(30)..].join("\n") + "\n" + &qemu
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- console of the machine\n{}", self.console());
        }
        self.power_cut();
        let _ =
            Command::new("umount").args(["-l"]).arg(self.work.join("root")).stderr(Stdio::null()).status();
        let _ = std::fs::remove_dir_all(&self.work);
    }
}
