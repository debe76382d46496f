//! What people see at a terminal: help that fits a screen, colour and its rules, formats, and a real
//! pseudo-terminal with Ctrl-C and a change of its size.

use std::process::{Command, Output, Stdio};
use std::time::Duration;
use vsgpu_tests::lab::small_fleet::{begin, clear_faults, small, stall};
use vsgpu_tests::lab::terminal::Terminal;
use vsgpu_tests::lab::{Lab, files, programs, wait_until};

/// Without `ESC [ .. m`.
fn strip(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |all, part| all + part.split_once('m').map_or("", |(_, rest)| rest))
}

fn vsgpu(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(programs().join("vsgpu"));
    command.args(args).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").current_dir(std::env::temp_dir());
    command.envs(env.iter().copied()).output().unwrap()
}

fn help_fits_a_screen_and_shows_examples() {
    fn verbs(command: &clap::Command, path: &[String], all: &mut Vec<Vec<String>>) {
        all.push(path.to_vec());
        for verb in command.get_subcommands() {
            verbs(verb, &[path, &[verb.get_name().to_string()]].concat(), all);
        }
    }
    let mut all = vec![];
    verbs(&vsgpu::cli::command(), &[], &mut all);
    assert!(all.len() > 20);
    for path in all {
        let words: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let output = vsgpu(&words, &[]);
        let text = String::from_utf8(output.stdout).unwrap();
        // Verbs with a dozen questions take a taller screen.
        let long = ["compat", "fit", "advise", "upgrade"].map(String::from);
        let rows = match path.first() {
            None => 24,
            Some(verb) if long.contains(verb) => 36,
            Some(_) => 24,
        };
        assert!(
            output.status.success() && text.lines().count() <= rows,
            "{path:?}: {} lines\n{text}",
            text.lines().count()
        );
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{path:?}\n{text}");
        let leaf = vsgpu::cli::command()
            .find_subcommand(path.first().map_or("", String::as_str))
            .is_some_and(|c| !c.has_subcommands());
        assert!(!leaf || path == ["schema"] || text.contains("Example"), "{path:?} has no example\n{text}");
    }
}

fn colour_is_only_for_terminals_and_obeys() {
    let wrong = ["explain", "driver-pear"];
    let stderr = |env: &[(&str, &str)]| String::from_utf8(vsgpu(&wrong, env).stderr).unwrap();
    let plain = stderr(&[]);
    assert!(plain.starts_with("error[usage]: ") && !plain.contains('\x1b'), "{plain:?}");
    let forced = stderr(&[("CLICOLOR_FORCE", "1")]);
    assert!(forced.contains("\x1b["), "{forced:?}");
    assert_eq!(strip(&forced), plain, "colour adds nothing but colour");
    let at = |env: &[(&str, &str)]| {
        let mut command = Command::new(programs().join("vsgpu"));
        command
            .args(wrong)
            .env_remove("NO_COLOR")
            .env_remove("CLICOLOR_FORCE")
            .env("TERM", "xterm")
            .envs(env.iter().copied());
        Terminal::start(&command, 24, 80).end().1
    };
    assert!(at(&[]).contains("\x1b["), "a terminal has colour");
    assert!(!at(&[("NO_COLOR", "1")]).contains("\x1b["), "NO_COLOR");
    assert!(!at(&[("TERM", "dumb")]).contains("\x1b["), "a dumb terminal");
    assert!(!at(&[("TERM", "dumb"), ("CI", "true")]).contains("\x1b["), "a dumb terminal of a build machine");
}

/// `advise` asks; a wrong answer is asked again, nothing is lost, and one can go back.
fn advise_asks_at_a_terminal() {
    let mut command = Command::new(programs().join("vsgpu"));
    command.arg("advise").env("TERM", "xterm").current_dir(std::env::temp_dir());
    let terminal = Terminal::start(&command, 40, 100);
    let answer = |question: &str, keys: &[&str]| {
        terminal.wait_for(question);
        terminal.keys(keys);
    };
    answer("What do the VMs do?", &["Enter"]);
    answer("VMs that use one GPU", &["abc", "Enter"]);
    answer("`abc` is no number from 1 to 1000", &["4", "Enter"]);
    answer("What do they need?", &["Enter"]);
    answer("GPU, such as A100-80", &["A100-80", "Enter"]);
    // Back to it, and on again with what was said.
    answer("GPU memory of each VM", &["<", "Enter"]);
    terminal.keys(&["Enter"]);
    terminal.keys(&["Enter"]);
    answer("ESXi, such as 8.0U3", &["rubbish", "Enter"]);
    answer("is no release of ESXi", &["8.0U3", "Enter"]);
    answer("Guests", &["Enter"]);
    answer("NVIDIA license that is there", &["Down", "Down", "Enter"]);
    answer("Loss against bare metal", &["Enter"]);
    terminal.wait_for("Take vGPU, time-sliced: A100D-20C.");
    assert_eq!(terminal.end().0, Some(0));
}

fn every_reading_verb_has_every_format() {
    let lab = small("formats");
    for verb in [
        vec!["validate"],
        vec!["schema"],
        vec!["facts"],
        vec!["export"],
        vec!["plan"],
        vec!["verify"],
        vec!["status"],
        vec!["runs"],
        vec!["man", "plan"],
        vec!["completions", "bash"],
        vec!["config"],
        vec!["explain"],
        vec!["compat", "16.6"],
    ] {
        let run = |format: &str| {
            let output = lab.vsgpu(&[&verb[..], &["-o", format]].concat());
            assert!(matches!(output.status.code(), Some(0 | 3)), "{verb:?} -o {format}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let json: serde_json::Value = serde_json::from_str(&run("json")).unwrap();
        let yaml = vsgpu::fleet::yaml::parse("out", &run("yaml")).unwrap().to_json();
        // Observations of two moments; the shape is the same. Large numbers of YAML stay text in our reader.
        let keys = |v: &serde_json::Value| v.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>());
        assert_eq!(keys(&json), keys(&yaml), "{verb:?}");
        assert!(!run("wide").trim().is_empty() && !run("table").trim().is_empty(), "{verb:?}");
        // A script for a shell has no names.
        for name in run("name").lines().filter(|_| verb[0] != "completions") {
            assert!(!name.is_empty() && !name.contains('{'), "{verb:?}: {name}");
        }
    }
    assert_eq!(lab.expect(0, &["facts", "-o", "name"]), "host/esx-01\nvm/vm-01\nguest/vm-01\n");
    assert_eq!(
        lab.expect(2, &["facts", "-n", "nobody", "-o", "yaml"]).lines().take(2).collect::<Vec<_>>(),
        ["---", "errors:"]
    );
}

fn an_operator_at_a_terminal_is_asked_and_can_stop_it() {
    let lab = small("pty");
    // Nobody says yes.
    let terminal = Terminal::start(&lab.command(&["apply"]), 24, 80);
    terminal.wait_for("[y/N]");
    terminal.keys(&["n", "Enter"]);
    let (status, text) = terminal.end();
    assert!(status == Some(2) && text.contains("nothing was changed") && !text.contains("error["), "{text}");
    assert!(text.contains("reboot 1 host and shut down 1 VM of "), "the question says the cost: {text}");
    assert!(lab.changing_calls("esx-01").is_empty());
    let kept = lab.machine("esx-01").join("root/etc/opt/vsgpu/wishes.json");
    assert!(!kept.exists(), "a declined plan leaves nothing in the metrics");
    // Ctrl-C is an answer, too.
    let terminal = Terminal::start(&lab.command(&["apply"]), 24, 80);
    terminal.wait_for("[y/N]");
    terminal.keys(&["C-c"]);
    assert_eq!(terminal.end().0, Some(2));
    // Somebody does, makes the window smaller, and stops it under way.
    stall(&lab, "esx-01", "esxcli software");
    let terminal = Terminal::start(&lab.command(&["apply"]), 24, 120);
    terminal.wait_for("[y/N]");
    terminal.keys(&["y", "Enter"]);
    let installs = || lab.changing_calls("esx-01").iter().any(|c| c.contains("software component apply"));
    wait_until("the installation runs", Duration::from_secs(60), installs);
    terminal.resize(24, 60);
    terminal.keys(&["C-c"]);
    terminal.wait_for("Ctrl-C again");
    clear_faults(&lab, "esx-01");
    let (status, text) = terminal.end();
    assert!(status == Some(5) && text.contains("vsgpu resume"), "{text}");
    // One block: what is away, and both ways on.
    let block = "  IS STILL IN MAINTENANCE MODE: esx-01\n  shut down: vm-01\n\nhint: `vsgpu resume` goes on from here; `vsgpu abort`\n      restores maintenance mode and VM power\nmore: vsgpu explain interrupted";
    assert!(strip(&text).contains(block) && text.matches("error[").count() == 1, "{text}");
    // What stands below each other on a screen of sixty columns is no torn line.
    // `apply` would go on with it: what is left is shown first. `resume` says so itself.
    let calls = lab.changing_calls("esx-01").len();
    let terminal = Terminal::start(&lab.command(&["apply"]), 60, 120);
    // Its VM is off already.
    terminal.wait_for(": reboot 1 host? [y/N]");
    terminal.keys(&["n", "Enter"]);
    let (status, text) = terminal.end();
    assert!(
        status == Some(2)
            && text.contains("go on with run 1 of")
            && text.contains("Run 1 was not finished: ")
            && strip(&text).contains("comes back   esx-01: leaves maintenance mode")
            && text.contains("steps are left"),
        "{text}"
    );
    assert_eq!(lab.changing_calls("esx-01").len(), calls);
    lab.expect(0, &["resume"]);
    lab.expect(0, &["verify", "--wait", "--timeout", "60"]);
}

/// However wide the terminal is: lines end between words, and none is left for the terminal to break.
fn lines_end_between_words_at_any_width() {
    let lab = small("widths");
    lab.expect(0, &["apply", "--yes"]);
    lab.change("vm-01", |m| std::fs::remove_dir_all(m.root("/etc/nvidia/ClientConfigToken")).unwrap());
    lab.write_fleet(
        &std::fs::read_to_string(lab.folder.join("fleet.yaml")).unwrap().replace("a100-40c", "a100-20c"),
    );
    let mut wide = vec![];
    for columns in [60, 80, 120] {
        for words in [
            &["plan"][..],
            &["verify"],
            &["status"],
            &["status", "1"],
            &["runs"],
            &["facts"],
            &["diagnose"],
            &["ready"],
            &["facts", "-n", "esx-1"],
            &["explain", "unreachable"],
            &["advise", "--workload", "training", "--gpu", "A100", "--esxi", "8.0.2"],
            &["fit", "--hosts", "4 x 2 A100-80", "--want", "20 x a100d-8c, 6 x a100d-20c, 90 x passthrough"],
        ] {
            let terminal = Terminal::start(&lab.command(words), 60, columns);
            let (status, _) = terminal.end();
            // tmux may not have read it yet when the program is over.
            let mut said = String::new();
            wait_until(&format!("{words:?} has answered"), Duration::from_secs(20), || {
                said = strip(&terminal.all());
                said.lines().filter(|line| !line.trim().is_empty()).count() > 2
            });
            assert!(status.is_some(), "{words:?}: {said}");
            // A word that is too long by itself stays whole.
            let too_long = |line: &&str| line.chars().count() > columns.into() && line.trim().contains(' ');
            let lines = said.lines().map(str::trim_end).filter(too_long);
            wide.extend(lines.map(|line| format!("{columns} {}: {line}", words.join(" "))));
        }
    }
    assert!(wide.is_empty(), "{}", wide.join("\n"));
}

fn progress_is_a_line_per_node_and_totals_beyond_twenty() {
    let lab = Lab::new("fold");
    let names: Vec<String> = (1..=24).map(|n| format!("esx-{n:02}")).collect();
    let mut fleet = "version: 1\nrollout: { max-unavailable: 24 }\nhosts:\n".to_string();
    for name in &names {
        lab.host(name, "8.0.2", vec![files::a100("0000:3b:00.0")]);
        fleet +=
            &format!("  {name}:\n    address: {}\n    assignment-policy: Consolidation\n", lab.address(name));
    }
    lab.write_fleet(&fleet);
    lab.start();
    for name in &names {
        stall(&lab, name, "esxcli graphics host set");
    }
    let terminal = Terminal::start(&lab.command(&["apply", "--yes"]), 24, 80);
    terminal.wait_for(" of 24 nodes done, ");
    names.iter().for_each(|name| clear_faults(&lab, name));
    let (status, text) = terminal.end();
    assert_eq!(status, Some(0), "{text}");
    assert!(
        text.contains("24 of 24 steps done") && !text.contains("[24/24]"),
        "beyond twenty nodes no step has a line\n{text}"
    );
    // While it runs: one line for each of a few nodes, and what is left after runs that took as long.
    names[..3].iter().for_each(|name| stall(&lab, name, "esxcli graphics host set"));
    let few: String = fleet.split("  esx-04").next().unwrap().replace("Consolidation", "Performance");
    lab.write_fleet(&few);
    let terminal = Terminal::start(&lab.command(&["apply", "--yes"]), 24, 80);
    terminal.wait_for("0 of 3 nodes done, ");
    let screen = terminal.screen();
    names.iter().for_each(|name| clear_faults(&lab, name));
    assert!(names[..3].iter().all(|name| screen.contains(&format!("{name}   0/1"))), "{screen}");
    let (status, text) = terminal.end();
    assert!(status == Some(0) && text.contains("[3/3]"), "{text}");
}

fn top_shows_the_fleet_and_obeys_keys() {
    let lab = small("top");
    lab.expect(0, &["apply", "--yes"]);
    let terminal = Terminal::start(&lab.command(&["top", "--every", "1"]), 24, 80);
    for text in [
        "1 host, 1 GPU, 1 vGPU, 1 guest",
        "VGPU TYPE",
        "esx-01",
        "NVIDIA A100",
        "A100-40C",
        "licensed",
        "proof right",
        "run 1: ended, 26 of 26 steps done",
    ] {
        terminal.wait_for(text);
    }
    assert!(terminal.screen().lines().all(|l| l.chars().count() <= 80));
    // A node's line is opened, a filter keeps what has its text, help lists the keys; Esc goes back from each.
    terminal.keys(&["Enter"]);
    terminal.wait_for("as the fleet file says: all");
    terminal.keys(&["Escape"]);
    terminal.wait_for("? keys");
    terminal.keys(&["/", "v", "m", "-", "0", "1", "Enter"]);
    terminal.wait_for("only `vm-01`");
    // Escape by itself: with a key right behind it, a terminal means Alt.
    let is_gone = |text: &str| {
        wait_until(text, Duration::from_secs(20), || !terminal.screen().contains(text));
    };
    terminal.keys(&["Escape"]);
    is_gone("only `vm-01`");
    terminal.keys(&["?"]);
    terminal.wait_for("trouble first");
    terminal.keys(&["Escape"]);
    is_gone("trouble first");
    terminal.keys(&["s"]);
    terminal.wait_for("busiest first");
    terminal.resize(24, 120);
    terminal.wait_for("GRID A100-40C (simulated)");
    // A smaller window is drawn anew; what is away is said within its deadline, and found among what needs a
    // person.
    terminal.resize(8, 60);
    terminal.keys(&["p"]);
    lab.stop_agent("vm-01");
    terminal.wait_for("AWAY");
    let screen = terminal.screen();
    assert!(
        screen.lines().any(|l| l.starts_with("  vm-01 ") && l.contains("AWAY"))
            && !screen.contains("A100-40C"),
        "{screen}"
    );
    terminal.keys(&["q"]);
    assert_eq!(terminal.end().0, Some(0));
    // Without a terminal it is text, and ends.
    let text = lab.expect(0, &["top"]);
    assert!(text.contains("AWAY") && !text.contains('\x1b'), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&lab.expect(0, &["top", "--once", "-o", "json"])).unwrap();
    assert_eq!(json["guests"][0]["reachable"], false, "{json}");
    let vgpu = &json["hosts"][0]["gpus"][0]["vgpus"][0];
    assert!(vgpu["vm"] == "vm-01" && vgpu["licensed"] == true && vgpu["guest_driver"].is_string(), "{json}");
}

fn a_run_outlives_whoever_listened_and_a_lost_session_stops_it_politely() {
    let lab = small("deaf");
    // `vsgpu apply 2>&1 | head -1`: nobody hears it any more, and it goes on to its end.
    let mut child = lab
        .command(&["apply", "--yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    lab.expect(0, &["verify"]);
    // An answer that cannot be written is no success.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let cut = lab.command(&["schema"]).stdout(full).stderr(Stdio::null()).status().unwrap();
    assert_eq!(cut.code(), Some(1));
    // The ssh session is lost under a run: what runs is finished, nothing is begun, and it can be gone on
    // with.
    let lab = small("hangup");
    stall(&lab, "esx-01", "esxcli software");
    let mut child = begin(&lab, &["apply", "--yes"]);
    let installs = || lab.changing_calls("esx-01").iter().any(|c| c.contains("software component apply"));
    wait_until("the installation runs", Duration::from_secs(60), installs);
    child.signal(nix::sys::signal::Signal::SIGHUP);
    child.wait_for("stopping: what runs is finished");
    clear_faults(&lab, "esx-01");
    assert_eq!(child.end().0, Some(5));
    lab.expect(0, &["resume"]);
    lab.expect(0, &["verify"]);
}

pub const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    help_fits_a_screen_and_shows_examples,
    colour_is_only_for_terminals_and_obeys[Tmux],
    lines_end_between_words_at_any_width[Tmux],
    advise_asks_at_a_terminal[Tmux],
    every_reading_verb_has_every_format,
    an_operator_at_a_terminal_is_asked_and_can_stop_it[Tmux],
    progress_is_a_line_per_node_and_totals_beyond_twenty[Tmux],
    top_shows_the_fleet_and_obeys_keys[Tmux],
    a_run_outlives_whoever_listened_and_a_lost_session_stops_it_politely
];
