//! GPUs over the network and a network that is cut: the client is in a network namespace of its own, and its link goes
//! down under a program that runs.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vsgpu_tests::lab::gpu_pool::{GpuPool, Running, two_teams};
use vsgpu_tests::lab::{programs, wait_until};

/// A network namespace with a link to this one.
struct Away {
    name: String,
    link: String,
    /// This end's address; the other one's last part is one more.
    here: String,
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(output.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
}

impl Away {
    fn new() -> Self {
        let pid = std::process::id();
        let (name, link) = (format!("vsgpu-cut-{pid}"), format!("vc{pid}"));
        let net = format!("10.213.{}", pid % 250);
        ip(&["netns", "add", &name]);
        let away = Self { link: link.clone(), here: format!("{net}.1"), name };
        let other = format!("{link}p");
        ip(&["link", "add", &link, "type", "veth", "peer", "name", &other]);
        ip(&["link", "set", &other, "netns", &away.name]);
        ip(&["addr", "add", &format!("{net}.1/30"), "dev", &link]);
        ip(&["link", "set", &link, "up"]);
        ip(&["-netns", &away.name, "addr", "add", &format!("{net}.2/30"), "dev", &other]);
        ip(&["-netns", &away.name, "link", "set", &other, "up"]);
        ip(&["-netns", &away.name, "link", "set", "lo", "up"]);
        away
    }

    fn command(&self, program: &PathBuf) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    fn link(&self, state: &str) {
        ip(&["link", "set", &self.link, state]);
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.link]).output();
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_cut_link_ends_the_lease_on_both_sides_and_not_before() {
    let pool = GpuPool::set_up("cut-link", 1, two_teams(), &["ml-1", "ci-1"]);
    let away = Away::new();
    let path = "/etc/vsgpu/network-gpu.json";
    let text = pool.lab.state("ml-1").text(path).unwrap();
    pool.lab.change("ml-1", |m| m.write(path, &text.replace("127.0.0.1", &away.here)));
    pool.systemctl("ci-1", &["start", "vsgpu-gpu.service"]);
    pool.serve(1);
    let (machine, socket) = (pool.lab.machine("ml-1"), pool.socket("ml-1"));
    let log = std::fs::File::create(machine.join("vsgpu-gpu.service.log")).unwrap();
    let mut daemon = away.command(&programs().join("vsgpu-gpu"));
    daemon
        .arg("daemon")
        .arg("--pki")
        .arg(pool.lab.folder.join("pki/ml-1.guest"))
        .arg("--socket")
        .arg(&socket);
    daemon.arg("--root").arg(machine.join("root")).arg("--tools").arg(machine.join("tools"));
    daemon.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let _daemon = Daemon(daemon.spawn().unwrap());
    wait_until("its daemon listens", Duration::from_secs(10), || {
        std::os::unix::net::UnixStream::connect(&socket).is_ok()
    });
    let run = |mode: &str| {
        let mut command = away.command(&programs().join("vsgpu-gpu"));
        command.arg("--socket").arg(&socket).args(["run", "--"]);
        Running::begin(command.arg(programs().join("vsgpu-stand-in")).args(["program", mode]))
    };
    let running = run("hold");
    running.wait_for("pong");
    let next = pool.run("ci-1", &[], "hold");
    next.wait_for("waiting: 1st");
    // A short cut, as a switch that starts anew: it costs nothing.
    away.link("down");
    let since = Instant::now();
    wait_until("eight seconds are over", Duration::from_secs(12), || {
        since.elapsed() > Duration::from_secs(8)
    });
    away.link("up");
    wait_until("it is heard again", Duration::from_secs(20), || since.elapsed() > Duration::from_secs(24));
    assert!(pool.slot(0) == "held" && !running.said().contains("over"), "{}", running.said());
    // A long one.
    away.link("down");
    let since = Instant::now();
    let (status, said) = running.end();
    let at_the_client = since.elapsed();
    assert!(status == Some(46) && said.contains("was not heard for 20 s"), "{status:?} {said}");
    next.wait_for("pong");
    let given_on = since.elapsed();
    println!(
        "link down: the program had error 46 after {at_the_client:?}, the GPU was given on after {given_on:?}"
    );
    // Each side hears the other every 5 s: 20 s without a word are 15 to 20 s of a cut. Then the engine is ended.
    for (what, took) in [("client", at_the_client), ("server", given_on)] {
        assert!((14.0..26.0).contains(&took.as_secs_f64()), "{what}: {took:?}");
    }
    assert_eq!(pool.ended(1), ["client-gone"]);
    drop(next);
    // And the way back.
    let (status, said) = run("echo").end();
    assert!(
        status == Some(69) && said.contains("gpu-srv-1") && !said.contains("granted:"),
        "{status:?} {said}"
    );
    away.link("up");
    wait_until("it has GPUs again", Duration::from_secs(30), || run("echo").end().0 == Some(0));
}

pub const TESTS: &[vsgpu_tests::harness::Test] =
    vsgpu_tests::tests![a_cut_link_ends_the_lease_on_both_sides_and_not_before[Namespaces]];
