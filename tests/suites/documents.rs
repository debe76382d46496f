//! The documentation holds together: every link and every citation leads somewhere, README and CONTRIBUTING
//! stay short, fleet files that a newcomer copies pass the compatibility check, and the commands of README
//! and quick start run on the lab.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use vsgpu_tests::lab::{Lab, files, programs, workspace};

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files below a folder of the repository that end so.
fn below(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let (mut folders, mut found) = (vec![workspace().join(folder)], vec![]);
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn documents() -> Vec<PathBuf> {
    let mut all = vec![workspace().join("README.md"), workspace().join("CONTRIBUTING.md")];
    all.extend(below("packaging/docs", &["md"]));
    assert!(all.len() > 15, "{all:?}");
    all
}

fn sources() -> Vec<PathBuf> {
    let folders = ["controller", "host-agent", "guest-agent", "proto", "tests", "packaging"];
    folders
        .iter()
        .flat_map(|folder| below(folder, &["rs", "toml", "yaml", "tsv", "proto", "conf", "service"]))
        .collect()
}

/// A text without its blocks of code.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// The headings of a page.
fn headings(text: &str) -> Vec<String> {
    prose(text)
        .lines()
        .filter(|l| l.starts_with('#'))
        .map(|l| l.trim_start_matches('#').trim().to_string())
        .collect()
}

/// The anchors of a page, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for heading in headings(text) {
        let kept = heading
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .collect::<String>();
        let anchor = kept.replace(' ', "-");
        let free = (1..).map(|n| format!("{anchor}-{n}")).find(|next| !all.contains(next)).unwrap();
        let anchor = if all.contains(&anchor) { free } else { anchor };
        all.insert(anchor);
    }
    all
}

#[test]
fn every_link_leads_somewhere() {
    let (mut wrong, mut seen) = (vec![], 0);
    for page in documents() {
        for link in prose(&read(&page)).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            seen += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let to = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let there = to.exists() && (anchor.is_empty() || anchors(&read(&to)).contains(anchor));
            if !there {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(seen > 100 && wrong.is_empty(), "{seen} links, wrong are\n{}", wrong.join("\n"));
}

const FACTS: [&str; 5] = ["esxi", "nvidia", "failures", "guests", "vsphere-api"];

/// A section at the beginning of a text (`A4`, `5.3`, `F20`, or a heading in quotes), and what follows it.
fn section(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        return quoted.split_once('"').map(|(heading, rest)| (heading.to_string(), rest));
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(text.len());
    let id = text[..end].trim_end_matches('.');
    let digits = id.strip_prefix(|c: char| c.is_ascii_uppercase()).unwrap_or(id);
    let is_one = !digits.is_empty()
        && digits.split('.').all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit()));
    is_one.then(|| (id.to_string(), &text[id.len()..]))
}

/// What a citation names: pages with sections. Empty where it names none.
fn cited(text: &str) -> Vec<(&'static str, String)> {
    let (mut found, mut page, mut rest) = (vec![], None, text);
    loop {
        if let Some(next) =
            FACTS.iter().find(|name| rest.strip_prefix(**name).is_some_and(|after| after.starts_with(' ')))
        {
            page = Some(*next);
            rest = &rest[next.len() + 1..];
        }
        let (Some(page), Some((id, after))) = (page, section(rest)) else { return found };
        found.push((page, id));
        match [", ", " to ", " and "].iter().find_map(|between| after.strip_prefix(between)) {
            Some(after) => rest = after,
            None => return found,
        }
    }
}

#[test]
fn every_fact_that_a_comment_cites_is_there() {
    let pages =
        FACTS.map(|name| headings(&read(&workspace().join(format!("packaging/docs/facts/{name}.md")))));
    let (mut wrong, mut seen) = (vec![], 0);
    for path in sources().into_iter().filter(|path| !path.ends_with("suites/documents.rs")) {
        // Citations go on over the ends of comment lines.
        let comment = |line: &str| {
            let at = line.find("//").or_else(|| line.find("# ")).or_else(|| line.find("(facts: esxi"))?;
            Some(line[at..].trim_start_matches(['/', '!', '#']).trim().to_string())
        };
        let text = read(&path).lines().filter_map(comment).collect::<Vec<_>>().join(" ");
        for (before, after) in
            text.match_indices("facts: ").map(|(at, word)| (&text[..at], &text[at + word.len()..]))
        {
            let all = cited(after);
            let here =
                || format!("{}: facts: {}", path.display(), after.chars().take(40).collect::<String>());
            let names_a_page = FACTS.iter().any(|name| after.starts_with(&format!("{name} ")));
            if all.is_empty() && (names_a_page || before.ends_with('(')) {
                wrong.push(here());
            }
            for (page, id) in all {
                seen += 1;
                let at = FACTS.iter().position(|name| *name == page).unwrap();
                if !pages[at].iter().any(|heading| *heading == id || heading.starts_with(&format!("{id}. ")))
                {
                    wrong.push(format!("{} ({page} has no {id})", here()));
                }
            }
        }
    }
    assert!(seen > 60 && wrong.is_empty(), "{seen} citations, wrong are\n{}", wrong.join("\n"));
}

/// The path at the beginning of a text.
fn path_at(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !"_-./".contains(c)).unwrap_or(text.len());
    text[..end].trim_end_matches('.')
}

#[test]
fn every_page_that_a_source_names_is_there() {
    let mut wrong = vec![];
    for path in sources()
        .into_iter()
        .filter(|path| !path.ends_with("suites/documents.rs") && !path.ends_with("peers/monitoring.rs"))
    {
        let text = read(&path);
        for (prefix, folder) in
            [("packaging/docs/", "packaging/docs/"), ("runbook: docs/", "packaging/docs/")]
        {
            for after in text.split(prefix).skip(1) {
                let name = path_at(after);
                let page = workspace().join(folder).join(name);
                let anchor = after[name.len()..].strip_prefix('#').map(|anchor| path_at(anchor).to_string());
                if !page.exists() || anchor.is_some_and(|anchor| !anchors(&read(&page)).contains(&anchor)) {
                    wrong.push(format!("{}: {prefix}{name}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Files that pages speak of and that are not there: the example of CONTRIBUTING, what commands make.
const NOT_THERE: [&str; 1] = ["host-agent/src/host/ntp_running.rs"];

#[test]
fn every_file_that_a_page_names_is_there() {
    let tops =
        ["controller/", "host-agent/", "guest-agent/", "proto/", "tests/", "packaging/", ".ci/", ".cargo/"];
    let mut wrong = vec![];
    for page in documents() {
        let text = prose(&read(&page));
        for named in
            text.split('`').skip(1).step_by(2).filter(|named| tops.iter().any(|top| named.starts_with(top)))
        {
            let path = path_at(named);
            let there = workspace().join(path).exists() || NOT_THERE.contains(&path);
            if !there {
                wrong.push(format!("{}: {named}", page.display()));
            }
        }
        for foreign in ["../shared", "shared/", "/work/"] {
            assert!(!text.contains(foreign), "{}: {foreign} is nobody's who reads this", page.display());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_page_of_tables_says_every_column() {
    let page = read(&workspace().join("packaging/docs/tables.md"));
    for table in &vsgpu_core::knowledge::tables::TABLES {
        let part = page.split("\n### ").find(|part| part.starts_with(&format!("{}\n", table.name())));
        let part = part.unwrap_or_else(|| panic!("{} has no part", table.name()));
        let named = |column: &&str| part.contains(&format!("`{column}`"));
        let missing: Vec<&str> = table.columns().into_iter().filter(|column| !named(column)).collect();
        assert!(missing.is_empty(), "{}: {missing:?}", table.name());
    }
}

#[test]
fn readme_and_contributing_stay_short() {
    for (name, widest) in [("README.md", 120), ("CONTRIBUTING.md", usize::MAX)] {
        let text = read(&workspace().join(name));
        assert!(text.lines().count() <= 120, "{name} has {} lines, 120 is the most", text.lines().count());
        for line in text.lines() {
            assert!(line.chars().count() <= widest, "{name}: {line}");
        }
    }
}

fn blocks(page: &str, language: &str) -> Vec<String> {
    let text = read(&workspace().join(page));
    let parts: Vec<&str> = text.split("```").collect();
    let opening = format!("{language}\n");
    parts
        .iter()
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.strip_prefix(opening.as_str()))
        .map(String::from)
        .collect()
}

/// What a newcomer copies is a fleet file, and passes the compatibility check.
#[test]
fn the_fleet_files_are_right() {
    let (readme, quickstart) = (blocks("README.md", "yaml"), blocks("packaging/docs/quickstart.md", "yaml"));
    assert_eq!((readme.len(), quickstart.len()), (1, 4));
    for block in readme.into_iter().chain(quickstart) {
        let mut fleet = vsgpu::fleet::file::from_text(Path::new("fleet.yaml"), &block)
            .unwrap_or_else(|e| panic!("{e:?}\n{block}"));
        vsgpu::fleet::file::versions_from_file_names(&mut fleet);
        let errors = vsgpu::compat::judge(&fleet, None, &Default::default()).errors;
        assert!(errors.is_empty(), "{errors:?}\n{block}");
    }
}

/// Exit statuses of a command where a newcomer types it; none where the lab cannot run it, and why.
fn statuses(verb: &str) -> Result<&'static [i32], &'static str> {
    match verb {
        "bootstrap" => Err("it needs ssh; the suite over_ssh runs it"),
        // There are steps, or none.
        "plan" => Ok(&[0, 3]),
        // No run is unfinished.
        "resume" | "abort" => Ok(&[0, 2]),
        _ => Ok(&[0]),
    }
}

/// The demo of the README, as it goes by itself: six acts, a pulled plug and a VM that does not start, all well in the
/// end.
#[test]
fn the_demo_plays_its_acts() {
    let output = std::process::Command::new(programs().join("vsgpu-demo"))
        .arg("--no-pause")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for words in ["=== Act 6 of 6", "SIMULATED machines", "cargo demo -- --keep", "nothing is left behind"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

/// The commands of quick start and README, in their order, on one simulated host and VM.
#[test]
fn the_commands_run_on_the_lab() {
    let lab = Lab::new("documents");
    lab.host("esx-01", "8.0.2", vec![files::a100("0000:3b:00.0")]);
    lab.vm("vm-01", "esx-01");
    files::write_all(&lab.folder.join("files"));
    std::fs::copy(
        lab.folder.join("files").join(files::TOKEN_FILE),
        lab.folder.join("files/client_configuration_token.tok"),
    )
    .unwrap();
    let on_the_lab = |text: &str| {
        ["esx-01", "vm-01"].iter().fold(text.to_string(), |text, name| {
            text.replace(&format!("{name}.example.com:7443"), &lab.address(name))
        })
    };
    lab.write_fleet(&on_the_lab(&blocks("packaging/docs/quickstart.md", "yaml")[0]));
    lab.start();
    let elsewhere = lab.folder.join("new");
    std::fs::create_dir_all(&elsewhere).unwrap();
    let (mut ran, mut not) = (vec![], vec![]);
    for page in ["packaging/docs/quickstart.md", "README.md"] {
        let blocks = blocks(page, "sh");
        assert!(!blocks.is_empty(), "{page}");
        for line in blocks.iter().flat_map(|block| block.lines()) {
            let line = line.split(" #").next().unwrap().trim();
            for command in
                line.split(" && ").filter(|command| !command.is_empty() && !command.starts_with("$EDITOR"))
            {
                let command = on_the_lab(command);
                let args: Vec<&str> = command
                    .strip_prefix("vsgpu ")
                    .unwrap_or_else(|| panic!("{page}: {command}"))
                    .split_whitespace()
                    .collect();
                let Ok(allowed) = statuses(args[0]) else {
                    not.push(command.clone());
                    continue;
                };
                let mut program = lab.command(&args);
                if args[0] == "ca" {
                    program.current_dir(&elsewhere);
                }
                let output = program.stdin(std::process::Stdio::null()).output().unwrap();
                let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
                assert!(
                    output.status.code().is_some_and(|code| allowed.contains(&code)),
                    "{page}: {command}: {}\n{said}",
                    output.status
                );
                ran.push(command);
            }
        }
    }
    println!("ran {ran:?}, not {not:?}");
    assert!(ran.len() >= 14 && not.len() <= 2, "ran {ran:?}, not {not:?}");
}
