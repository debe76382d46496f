//! Every benchmark, in its short form: none of them rots. What it prints are times of a debug build on a busy
//! machine; only ratios (a host of a large fleet costs what one of a small fleet costs) can fail.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

use std::process::Command;
use vsgpu_tests::lab::cargo;

fn short_form(package: &str, bin: &str) {
    let mut run: Command = cargo();
    let output =
        run.args(["run", "--quiet", "--package", package, "--bin", bin, "--", "--short"]).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    assert!(output.status.success(), "{bin}: {said}");
}

#[test]
fn programs_plans_and_transfers() {
    short_form("vsgpu-tests", "vsgpu-bench");
}

#[test]
fn runs() {
    short_form("vsgpu-deterministic", "vsgpu-run-bench");
}
