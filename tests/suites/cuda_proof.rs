//! The CUDA proof as a program: against no driver at all, and against a simulated driver library that
//! computes what the kernels say and fails on demand. No GPU is touched; what it does on one is not shown
//! here.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr, reason = "test code")]

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use vsgpu_core::readers::cuda_report::{CudaReport, read};
use vsgpu_core::{ExitKind, Output as Answer, System as _};
use vsgpu_machine::local::Posix;
use vsgpu_tests::lab::programs;

/// A folder with the simulated `libcuda.so.1` in it, and the file that tells it how to fail.
fn library(name: &str, mode: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("vsgpu-cuda-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(programs().join("libvsgpu_sim_libcuda.so"), folder.join("libcuda.so.1")).unwrap();
    std::fs::write(folder.join("mode"), mode).unwrap();
    folder
}

fn prove(name: &str, mode: &str, args: &[&str]) -> (Output, CudaReport) {
    let folder = library(name, mode);
    let output = Command::new(programs().join("vsgpu-cuda-proof"))
        .args(args)
        .env("LD_LIBRARY_PATH", &folder)
        .env("VSGPU_SIM_CUDA", folder.join("mode"))
        .output()
        .unwrap();
    let report = read(&String::from_utf8_lossy(&output.stdout)).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    let _ = std::fs::remove_dir_all(folder);
    (output, report)
}

fn without_a_driver_the_answer_is_clear_and_comes_at_once() {
    let program = programs().join("vsgpu-cuda-proof");
    let start = Instant::now();
    let output = Command::new(program).env_remove("LD_LIBRARY_PATH").output().unwrap();
    let took = start.elapsed();
    let report = read(&String::from_utf8_lossy(&output.stdout)).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let failure = report.failure.unwrap();
    // A machine with a driver and no GPU says so in CUDA's own words.
    assert!(failure.text.contains("driver is not installed") || failure.code.is_some(), "{failure}");
    assert!(took < Duration::from_millis(500), "{took:?}");
}

fn fifty_thousand_and_a_hundred_million_sums_are_all_checked() {
    let (output, report) = prove("good", "", &[]);
    assert!(output.status.success() && report.passed(), "{report:?}");
    let device = &report.devices[0];
    assert_eq!(
        device.vector_adds.iter().map(|v| (v.elements, v.checked, v.wrong)).collect::<Vec<_>>(),
        [(50_000, 50_000, 0), (100_000_000, 100_000_000, 0)]
    );
    assert!(
        device.name.contains("Simulated")
            && device.compute_capability == "8.0"
            && report.cuda.as_deref() == Some("12.2")
    );
    for figure in
        [device.device_gb_s, device.host_to_device_gb_s, device.device_to_host_gb_s, device.launch_us]
    {
        assert!(figure.is_some_and(|f| f > 0.0), "{device:?}");
    }
}

fn one_wrong_sum_in_a_million_is_found_and_named() {
    let (output, report) = prove("wrong", "wrong", &["--elements", "1000000"]);
    assert_eq!(output.status.code(), Some(1));
    let failure = report.failure.unwrap();
    assert_eq!((failure.name.as_str(), report.devices[0].vector_adds[0].wrong), ("wrong-result", 1));
    assert!(failure.text.contains("element 777 is"), "{failure}");
}

fn every_failure_of_the_driver_has_its_stage_and_its_own_words() {
    for (mode, stage, words) in [
        ("none", "init", "no CUDA-capable device"),
        ("init", "init", "system not yet initialized"),
        ("lost", "device 0: launch", "unspecified launch failure"),
        ("old", "device 0: load the kernels", "unsupported toolchain"),
        ("small", "memory", "MiB are free"),
    ] {
        let elements: &[&str] =
            if mode == "small" { &["--elements", "1000000"] } else { &["--elements", "1000"] };
        let (output, report) = prove(mode, mode, elements);
        let failure = report.failure.unwrap_or_else(|| panic!("{mode} did not fail"));
        assert_eq!(output.status.code(), Some(1), "{mode}");
        assert!(failure.stage == stage && failure.text.contains(words), "{mode}: {failure}");
    }
}

fn a_wedged_driver_wedges_only_the_program() {
    let folder = library("hang", "hang");
    let posix = Posix::new(Some(programs()), "/".into());
    let command = vsgpu_core::Command::new("vsgpu-cuda-proof", [""; 0])
        .env("LD_LIBRARY_PATH", &folder.display().to_string())
        .env("VSGPU_SIM_CUDA", &folder.join("mode").display().to_string())
        .within(2);
    let Answer { ended, .. } = posix.run(&command);
    assert_eq!(ended, ExitKind::TimedOut(2));
    let _ = std::fs::remove_dir_all(folder);
}

/// The kernels compile for every GPU generation, wherever NVIDIA's assembler is.
fn the_kernels_compile_for_every_generation() {
    let ptx = vsgpu_tests::lab::workspace().join("guest-agent/cuda-proof/src/kernels.ptx");
    let version = Command::new("ptxas").arg("--version").output().unwrap();
    assert!(version.status.success());
    for generation in
        ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
    {
        let out = std::env::temp_dir().join(format!("vsgpu-{generation}-{}.cubin", std::process::id()));
        let done = Command::new("ptxas")
            .arg("-arch")
            .arg(generation)
            .arg(&ptx)
            .arg("-o")
            .arg(&out)
            .output()
            .unwrap();
        let _ = std::fs::remove_file(out);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        // A newer assembler has dropped the oldest generations, an older one does not know the newest.
        assert!(done.status.success() || said.contains("not defined for option"), "{generation}: {said}");
    }
}

fn main() -> std::process::ExitCode {
    vsgpu_tests::harness::main(&[("", TESTS)])
}

const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    without_a_driver_the_answer_is_clear_and_comes_at_once[NoGpu],
    fifty_thousand_and_a_hundred_million_sums_are_all_checked,
    one_wrong_sum_in_a_million_is_found_and_named,
    every_failure_of_the_driver_has_its_stage_and_its_own_words,
    a_wedged_driver_wedges_only_the_program,
    the_kernels_compile_for_every_generation[Ptxas]
];
