//! Scripted cases, text in and text out: `tests/plans/GROUP/NAME.txt` is a fleet with a few facts and the
//! plan that follows, what a machine says and the verdict on it, a fleet file and what is wrong with it. No
//! process, no network, no sleep. `VSGPU_ACCEPT=1 cargo test -p vsgpu-tests --test plans` writes what is said
//! now into the cases: read the difference.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "test code"
)]

mod admission;
mod answers;
mod facts;
mod machine;
mod script;

use answers::Answers;
use script::{Script, Section, Wrong, diff, wrong};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use vsgpu_core::Scope;
use vsgpu_tests::lab::workspace;

/// Folders of requirements.
const SCOPES: [(&str, Scope, &str); 3] = [
    ("host", Scope::Host, "host-agent/src/host"),
    ("vm", Scope::Vm, "host-agent/src/vm"),
    ("guest", Scope::Guest, "guest-agent/src/guest"),
];

/// All cases, by their paths below `tests/plans`.
fn cases() -> Vec<String> {
    let root = workspace().join("tests/plans");
    let (mut all, mut folders) = (vec![], vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.starts_with(root.join("base")) {
                all.push(path.strip_prefix(&root).unwrap().display().to_string());
            }
        }
    }
    all.sort();
    all
}

/// What is said to a case now.
fn answered(script: &Script) -> Result<Answers, Wrong> {
    let parts: Vec<&str> = script.file.split('/').collect();
    match parts[..] {
        ["plan", _] => answers::plan(script),
        ["rollout", _] => answers::rollout(script),
        ["spec", _] => answers::spec(script),
        ["admission", _] => answers::admission(script),
        ["compat", _, _] => answers::compat(script),
        [kind, name, _] if SCOPES.iter().any(|(k, ..)| *k == kind) => {
            let scope = SCOPES.iter().find(|(k, ..)| *k == kind).map_or(Scope::Host, |(_, scope, _)| *scope);
            answers::requirement(script, scope, name)
        }
        _ => Err(wrong(
            &script.file,
            1,
            "no group of cases: plan, rollout, spec, admission, compat/FILE, host/KEY, vm/KEY, guest/KEY",
        )),
    }
}

/// Without blanks at the ends of lines, as editors like it; what would read as the head of a section is no
/// line of an answer.
fn steady(text: &str) -> String {
    let lines: Vec<&str> = text.trim().lines().map(str::trim_end).collect();
    format!("{}\n", lines.join("\n"))
}

/// Where an answer belongs: a verdict right behind its spec, anything else under its name. `Err`: where it is
/// to be put.
fn place_of(script: &Script, name: &str, nth: usize) -> Result<usize, usize> {
    let is = |at: usize| script.sections.get(at).is_some_and(|s| s.name == name);
    if name == "verdict" {
        let specs = script.sections.iter().enumerate().filter(|(_, s)| s.name == "spec").map(|(at, _)| at);
        let place = specs.map(|at| at + 1).nth(nth).unwrap_or(script.sections.len());
        return if is(place) { Ok(place) } else { Err(place) };
    }
    script.sections.iter().position(|s| s.name == name).ok_or(script.sections.len())
}

/// Puts what is said now into a case. `Err`: what is missing or differs, as people read it.
fn compare(script: &mut Script, now: Answers) -> Result<(), String> {
    let mut wrongs = String::new();
    // By name, how many were said.
    let mut said: BTreeMap<&str, usize> = BTreeMap::new();
    let end = script.sections.last().map_or(1, |s| s.line + s.text.lines().count());
    for (name, text) in now {
        let (text, nth) = (steady(&text), said.entry(name).or_default());
        match place_of(script, name, *nth) {
            Ok(place) => {
                let section = &mut script.sections[place];
                if section.text != text {
                    wrongs += &format!(
                        "{}\n{}",
                        wrong(&script.file, section.line, format!("`{name}` differs")),
                        diff(&section.text, &text)
                    );
                    section.text = text;
                }
            }
            Err(place) => {
                wrongs += &format!(
                    "{}\n",
                    wrong(&script.file, end, format!("the section `-- {name} --` is missing"))
                );
                script.sections.insert(place, Section { name: name.into(), line: end, text });
            }
        }
        *nth += 1;
    }
    // An expectation to which nothing is said any more.
    script.sections.retain(|section| {
        let is_said = match said.get_mut(section.name.as_str()) {
            Some(0) => false,
            Some(n) => {
                *n -= 1;
                true
            }
            None => !EXPECTED.contains(&section.name.as_str()),
        };
        if !is_said {
            wrongs += &format!(
                "{}\n",
                wrong(&script.file, section.line, format!("nothing is said to `{}`", section.name))
            );
        }
        is_said
    });
    if wrongs.is_empty() { Ok(()) } else { Err(wrongs) }
}

const EXPECTED: [&str; 9] =
    ["plan", "verify", "rollout", "error", "wishes", "admission", "compat", "verdict", "fact"];

fn check(file: &str, path: &Path, accept: bool) -> Result<(), String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut script = Script::read(file, &text)?;
    let now = answered(&script)?;
    let compared = compare(&mut script, now);
    if !accept {
        return compared;
    }
    let written = script.written();
    if written != text {
        std::fs::write(path, written).unwrap();
    }
    Ok(())
}

#[test]
fn every_case_says_what_it_said() {
    let accept = std::env::var_os("VSGPU_ACCEPT").is_some();
    let all = cases();
    let wrongs: Vec<String> = all
        .iter()
        .filter_map(|file| check(file, &workspace().join("tests/plans").join(file), accept).err())
        .collect();
    assert!(
        wrongs.is_empty(),
        "{} of {} cases; VSGPU_ACCEPT=1 accepts what differs\n{}",
        wrongs.len(),
        all.len(),
        wrongs.join("\n")
    );
    let plans = all.iter().filter(|file| file.starts_with("plan/")).count();
    assert!(plans >= 40, "only {plans} cases of the planner");
}

/// Names of the files of a folder of sources.
fn stems(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(workspace().join(folder)).unwrap().flatten();
    let stem = |path: PathBuf| path.file_stem().unwrap().to_string_lossy().replace('_', "-");
    entries.map(|entry| stem(entry.path())).filter(|stem| stem != "mod").collect()
}

#[test]
fn every_file_of_a_requirement_or_a_constraint_has_a_case_of_its_own() {
    let cases = cases();
    let mut missing = vec![];
    let folders = SCOPES
        .iter()
        .map(|(kind, _, sources)| (*kind, *sources))
        .chain([("compat", "controller/src/compat")]);
    for (kind, sources) in folders {
        let stems = stems(sources);
        let lacks = |stem: &&String| !cases.iter().any(|case| case.starts_with(&format!("{kind}/{stem}/")));
        missing.extend(stems.iter().filter(lacks).map(|stem| {
            format!("{sources}: `{stem}` has no case: write tests/plans/{kind}/{stem}/NAME.txt")
        }));
        let stray = |case: &&String| {
            case.split('/').next() == Some(kind)
                && !stems.iter().any(|stem| case.starts_with(&format!("{kind}/{stem}/")))
        };
        missing.extend(
            cases
                .iter()
                .filter(stray)
                .map(|case| format!("tests/plans/{case}: there is no such file in {sources}")),
        );
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// A constraint's own case speaks of it.
#[test]
fn every_constraint_speaks_in_a_case_of_its_own() {
    let names = vsgpu::compat::ALL.iter().map(|c| c.name).chain(vsgpu::compat::ROOMS.iter().map(|c| c.name));
    let names = names.chain(vsgpu::compat::POOLS.iter().map(|c| c.name)).chain([vsgpu::compat::PACKAGE_ROLE]);
    let said = |case: &String| {
        let text = std::fs::read_to_string(workspace().join("tests/plans").join(case)).unwrap();
        let answers = Script::read(case, &text).and_then(|script| answered(&script)).unwrap_or_default();
        answers.into_iter().map(|(_, text)| text).collect::<String>()
    };
    let speaks = |name: &str| {
        let stem = if name == "withdrawn-release" { "withdrawn" } else { name };
        let cases = cases();
        let mut own = cases.iter().filter(|case| case.starts_with(&format!("compat/{stem}/"))).map(said);
        own.any(|text| text.contains(&format!("[{name}]")) || text.contains(&format!("; {name}: ")))
    };
    let silent: Vec<&str> = names.filter(|name| !speaks(name)).collect();
    assert!(silent.is_empty(), "no case shows what these say: {silent:?}");
}

/// A case with a slip of the pen says where it is.
#[test]
fn a_wrong_case_is_refused_with_its_place() {
    let fleet = "-- fleet --\nversion: 1\nhosts:\n  esx-01: { graphics-type: Shared }\n\n";
    for (text, why) in [
        (String::new(), "plan/x.txt:1: the file is empty"),
        ("nothing\n".into(), "plan/x.txt:1: before the first section stands the title"),
        (
            "# t\n\n-- flet --\nversion: 1\n".into(),
            "plan/x.txt:3: there is no section `flet`; did you mean `fleet`?",
        ),
        ("# t\n\n--plan\n".into(), "plan/x.txt:3: `--plan` is no `-- name --`"),
        ("# t\n\n-- plan --\nx\n".into(), "plan/x.txt:5: the section `-- fleet --` is missing"),
        (format!("# t\n\n{fleet}{fleet}"), "plan/x.txt:8: a second section `fleet`"),
        (
            "# t\n-- fleet --\nversion: 1\nhosts:\n  esx-01: { graphic-type: Shared }\n".into(),
            "plan/x.txt:5: esx-01: unknown key",
        ),
        (
            format!("# t\n{fleet}-- facts --\nhost esx-02: {{ away: no }}\n"),
            "plan/x.txt:8: there is no node `host esx-02` in the fleet",
        ),
        (
            format!("# t\n{fleet}-- facts --\nhost esx-01:\n  gpuss: {{}}\n"),
            "plan/x.txt:9: esx-01: there is no fact `gpuss`; did you mean `gpus`?",
        ),
        (
            format!("# t\n{fleet}-- facts --\nhost esx-01:\n  maintenance-mode: {{ enable: true }}\n"),
            "plan/x.txt:9: esx-01: the fact has no field `maintenance-mode.enable`",
        ),
        (
            format!("# t\n{fleet}-- facts --\nhost esx-01:\n  maintenance-mode: {{ enabled: 3 }}\n"),
            "plan/x.txt:9: esx-01: maintenance-mode: enabled: ",
        ),
        (
            format!("# t\n{fleet}-- facts --\nhost esx-01: {{ base: nothing }}\n"),
            "plan/x.txt:8: there is no base `nothing`",
        ),
    ] {
        let said =
            Script::read("plan/x.txt", &text).and_then(|script| answered(&script).map(drop)).unwrap_err();
        assert!(said.starts_with(why), "{text}\nsaid:     {said}\nexpected: {why}");
    }
    let mut script = Script::read("plan/x.txt", &format!("# t\n{fleet}-- plan --\na\nb\nc\n")).unwrap();
    let said = compare(&mut script, vec![("plan", "a\nx\nc".into())]).unwrap_err();
    assert_eq!(said, "plan/x.txt:8: `plan` differs\n a\n-b\n+x\n c\n");
}
