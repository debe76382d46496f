//! The pages for a browser. Everywhere: what they say (golden outlines), what every page keeps to, who gets in, how they
//! grow with the fleet, names that would be more than names. In a real Chromium, where there is one: what it loads, what
//! can be read in which colours, what keys reach, what is left in a narrow window and on paper.
//!
//! `cargo test -p vsgpu-tests --test page` (Debian's package chromium; without it those tests are left out, and that is
//! said).
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

mod browsed;
mod fleets;
mod outline;

use fleets::{metrics, serve};
use outline::{outline, sound};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use vsgpu_tests::lab::small_fleet::small;
use vsgpu_tests::lab::{free_port, wait_until, workspace};

fn golden(name: &str, text: &str) {
    let path = workspace().join("tests/data/golden").join(name);
    if std::env::var_os("VSGPU_ACCEPT").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(stored == text, "{} differs; VSGPU_ACCEPT=1 accepts\n--- now\n{text}", path.display());
}

const PATHS: [&str; 10] = [
    "/",
    "/needs",
    "/host/esx-0001",
    "/host/esx-0007",
    "/guest/esx-vm-0001",
    "/guest/esx-vm-0002",
    "/vm/esx-vm-0001-1",
    "/vm/esx-whole-0003",
    "/runs",
    "/run/1",
];

fn pages_say_what_is_so() {
    let served = serve("golden", metrics("esx", 8));
    let mut text = String::new();
    for path in PATHS.into_iter().chain(["/?q=0003&order=busy", "/host/gone"]) {
        let page = served.page(path);
        sound(path, &page.body, false);
        text += &format!("=== {path}: {}\n{}", page.status, outline(&page.body));
    }
    golden("page.txt", &text);
}

/// What a page says to type can be typed: the program takes it, and no machine stands where a fleet file is expected.
fn what_it_says_to_type_can_be_typed() {
    let served = serve("typed", metrics("esx", 20));
    let page = served.page("/needs").body;
    let mut seen = std::collections::BTreeSet::new();
    for code in page.split("<code>").skip(1).filter_map(|rest| rest.split("</code>").next()) {
        let words: Vec<&str> = code.split(' ').collect();
        if words[0] != "vsgpu" {
            continue;
        }
        let typed =
            vsgpu::cli::command().try_get_matches_from(&words).unwrap_or_else(|why| panic!("{code}: {why}"));
        let (verb, of_verb) = typed.subcommand().unwrap();
        let fleet = of_verb.try_get_one::<std::path::PathBuf>("fleet").ok().flatten();
        assert!(fleet.is_none(), "{code}: {fleet:?} is no fleet file");
        seen.insert(verb.to_string());
    }
    assert!(["diagnose", "facts", "plan"].iter().all(|verb| seen.contains(*verb)), "{seen:?}");
}

/// Names come from whoever is root in a VM.
fn a_name_is_only_a_name() {
    let hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> \u{202e}%2e%2e/..";
    let served = serve("hostile", metrics(hostile, 3));
    let page = served.page("/");
    sound("/", &page.body, false);
    assert!(page.body.contains("&lt;script&gt;alert(1)") && !page.body.contains('\u{202e}'));
    // Every link on it leads to a page that is there.
    let mut followed = 0;
    for link in page.body.split("href=\"").skip(1) {
        let path = link.split('"').next().unwrap().replace("&amp;", "&");
        if path.starts_with("/host/") || path.starts_with("/guest/") {
            let there = served.page(&path);
            assert_eq!(there.status, 200, "{path}");
            sound(&path, &there.body, false);
            followed += 1;
        }
    }
    assert!(followed >= 6, "{followed}");
    for path in [
        "/host/%00",
        "/host/..%2f..%2fetc",
        "/run/99999999999",
        "/run/-1",
        "/guest/",
        "//",
        "/?q=%3Cscript%3E",
    ] {
        let page = served.page(path);
        sound(path, &page.body, false);
        assert!(!page.body.contains("<script"), "{path}");
    }
}

/// A page of 10,000 hosts is as long as one of 100, and its making grows no more than the fleet.
fn a_large_fleet_is_paged() {
    let mut seen = vec![];
    for hosts in [100, 1_000, 10_000] {
        // The better of two: other programs of this machine take their share of one.
        let round = || {
            let served = serve(&format!("large-{hosts}"), metrics("esx", hosts));
            let begun = Instant::now();
            let page = served.page("/");
            (begun.elapsed(), page, served)
        };
        let (other, ..) = round();
        let (first, page, served) = round();
        let first = first.min(other);
        let begun = Instant::now();
        let again = served.page("/?page=2&order=busy");
        println!(
            "{hosts} hosts: {first:.1?} after a round, {:.1?} after that, {} bytes",
            begun.elapsed(),
            page.body.len()
        );
        assert_eq!(again.status, 200);
        assert!(outline(&page.body).matches("article").count() <= 50);
        seen.push((hosts as f64, first.as_secs_f64(), page.body.len() as f64));
    }
    let (small, large) = (seen[1], seen[2]);
    assert!(large.2 / small.2 < 1.1, "the page grows with the fleet: {seen:?}");
    assert!(large.1 / small.1 < 2.0 * large.0 / small.0, "its making grows faster than the fleet: {seen:?}");
}

/// Status and head of an answer.
fn ask(address: &str, line: &str, head: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(socket, "{line} HTTP/1.1\r\nConnection: close\r\n{head}\r\n").unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    (text.split(' ').nth(1).unwrap().parse().unwrap(), text)
}

/// The real program with real agents behind it, before and behind its gate; and its files.
fn the_program_shows_a_fleet_and_its_run_and_writes_them_as_files() {
    let lab = small("page");
    lab.expect(3, &["plan", "--html", "plan.html"]);
    lab.expect(0, &["apply", "--yes"]);
    // Agents look again every five seconds here; until then they say what was so before.
    wait_until("the agents have seen what became of it", Duration::from_secs(60), || {
        lab.expect(0, &["top", "--once"]).contains("proof right")
    });
    lab.expect(0, &["report", "--html", "fleet.html"]);
    lab.expect(0, &["report", "1", "--html", "run.html"]);
    let said = lab.expect(2, &["report", "7", "--html", "none.html"]);
    assert!(said.contains("this fleet has no run 7") && !lab.folder.join("none.html").exists(), "{said}");
    let file = |name: &str| std::fs::read_to_string(lab.folder.join(name)).unwrap();
    for (name, words) in [
        ("plan.html", ["This reboots 1 host and shuts down 1 VM.", "Nothing has been changed."]),
        ("fleet.html", ["Nothing needs anybody.", "1 host, 1 GPU, 1 vGPU, 1 guest"]),
        ("run.html", ["Run 1: done", "Over time"]),
    ] {
        let page = file(name);
        sound(name, &page, true);
        for words in words {
            assert!(page.contains(words), "{name}: {words}\n{}", outline(&page));
        }
    }
    // Steps, what was waited for, and the plan.
    let run = outline(&file("run.html"));
    for words in ["vgpu-manager", "reboot", "waited", "What was planned", "+0:0"] {
        assert!(run.contains(words), "{words}\n{run}");
    }

    std::fs::write(lab.folder.join("token"), "0123456789abcdef0123").unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let open = ["page", "--listen", &address, "--every", "1"];
    let mut page = lab
        .command(&open)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_until("it shows the fleet", Duration::from_secs(30), || {
        vsgpu_tests::http::get(&address, "/", None).is_some_and(|(_, body)| body.contains("esx-01"))
    });
    let local = format!("Host: {address}\r\n");
    let (status, head) = ask(&address, "GET /run/1", &local);
    assert_eq!(status, 200);
    for words in ["content-security-policy: default-src 'none'", "nosniff", "no-store", "text/html"] {
        assert!(head.contains(words), "{words}: {head}");
    }
    assert!(ask(&address, "GET /metrics", &local).1.contains("vsgpu_node_reachable"));
    assert!(ask(&address, "GET /?again=30", &local).1.contains("refresh: 30"));
    assert_eq!(ask(&address, "POST /", &format!("{local}Content-Length: 0\r\n")).0, 405);
    assert_eq!(ask(&address, "GET /", "Host: evil.example\r\n").0, 421, "a name that the web gave it");
    assert_eq!(ask(&address, &format!("GET /{}", "x".repeat(3_000)), &local).0, 404);
    let _ = page.kill();
    let _ = page.wait();

    let address = format!("127.0.0.1:{}", free_port());
    let gated = ["exporter", "--listen", &address, "--metrics-auth", "token:token"];
    let mut page = lab
        .command(&gated)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_until("it listens", Duration::from_secs(30), || TcpStream::connect(&address).is_ok());
    let (status, head) = ask(&address, "GET /", "Host: x\r\n");
    assert!(status == 401 && head.contains("www-authenticate: Basic"), "{head}");
    // `anybody:0123456789abcdef0123`, and the same with another token.
    let with =
        |login: &str| ask(&address, "GET /", &format!("Host: x\r\nAuthorization: Basic {login}\r\n")).0;
    assert_eq!(with("YW55Ym9keTowMTIzNDU2Nzg5YWJjZGVmMDEyMw=="), 200);
    assert_eq!(with("YW55Ym9keTowMTIzNDU2Nzg5YWJjZGVmMDEyNA=="), 401);
    let _ = page.kill();
    let _ = page.wait();
    // An agent has no pages.
    assert_eq!(ask(&lab.metrics("esx-01"), "GET /", &local).0, 404);
}

fn the_style_sheet_is_small_and_loads_nothing() {
    let css = serve("css", String::new()).page("/page.css");
    assert!(css.body.len() < 30_000 && css.kind.starts_with("text/css"), "{}", css.body.len());
    assert!(!css.body.contains("url(") && !css.body.contains("@import"));
}

fn main() -> std::process::ExitCode {
    vsgpu_tests::harness::main(&[("", TESTS), ("browsed", browsed::TESTS)])
}

const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    pages_say_what_is_so,
    what_it_says_to_type_can_be_typed,
    a_name_is_only_a_name,
    a_large_fleet_is_paged[Quiet],
    the_program_shows_a_fleet_and_its_run_and_writes_them_as_files,
    the_style_sheet_is_small_and_loads_nothing
];
