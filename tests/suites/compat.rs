//! The compatibility check against what the tables say: expected answers written down by reading the tables,
//! not the code (`tests/data/expected/compat.json`), each asked of the real program.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code"
)]

use serde::Deserialize;
use std::process::Command;
use vsgpu_tests::lab::{programs, workspace};

#[derive(Deserialize)]
struct Case {
    args: Vec<String>,
    outcome: String,
    by: Vec<String>,
    why: String,
}

#[test]
fn every_pair_is_judged_as_the_tables_say() {
    let text = std::fs::read_to_string(workspace().join("tests/data/expected/compat.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
    let mut wrong = vec![];
    for case in &cases {
        let output = Command::new(programs().join("vsgpu"))
            .args(["compat", "-o", "json"])
            .args(&case.args)
            .output()
            .unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let names = |key: &str| -> Vec<String> {
            answer[key]
                .as_array()
                .into_iter()
                .flatten()
                .map(|f| f["constraint"].as_str().unwrap().to_string())
                .collect()
        };
        let (refused, warned) = (names("refused"), names("warnings"));
        let outcome = match (output.status.code(), warned.is_empty()) {
            (Some(0), true) => "works",
            (Some(0), false) => "warns",
            (Some(3), _) if answer["works"] == "unknown" => "unknown",
            (Some(6), _) => "refused",
            _ => "an error",
        };
        let fired = match outcome {
            "refused" => &refused,
            _ => &warned,
        };
        // An error that ends the verb early carries its constraint in its details.
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let named =
            case.by.iter().all(|by| fired.contains(by) || answer.is_null() && said.contains(by.as_str()));
        if outcome != case.outcome || !named {
            wrong.push(format!(
                "{:?}: {outcome} by {fired:?}, expected {} by {:?}: {}\n{said}",
                case.args, case.outcome, case.by, case.why
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert_eq!(cases.len(), 127, "packaging/docs/evidence.md counts them");
    assert!(
        cases.iter().all(|c| c.outcome == "works" || !c.by.is_empty()),
        "a refusal or warning without its constraint"
    );
}
