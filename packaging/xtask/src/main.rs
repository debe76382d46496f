//! `cargo xtask test` runs the tests; `cargo xtask package` makes everything that is installed; `cargo xtask
//! verify-vib` checks a VIB as esxcli would; `cargo xtask docs` writes the references.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a tool of the developers'"
)]

mod bundle;
mod contents;
mod docs;
mod files;
mod linux;
mod suites;
#[cfg(test)]
mod tests;
mod verify;
mod vib;

use clap::{Parser, Subcommand};
use sha2::Digest as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Makes and checks the packages of vsgpu",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make the packages: VIB and offline bundle, deb, rpm, tarball
    Package {
        /// Where they go
        #[arg(long, value_name = "DIR", default_value = "target/packages")]
        out: PathBuf,
        /// Only these
        #[arg(long, value_name = "KIND", value_enum, value_delimiter = ',', default_values = ["esxi", "linux"])]
        only: Vec<Kind>,
        /// Who makes them, for deb and rpm
        #[arg(long, value_name = "NAME <MAIL>", default_value = "vsgpu packagers <packagers@example.com>")]
        maintainer: String,
        /// Unoptimised, for tests
        #[arg(long)]
        dev: bool,
    },
    /// Run the tests, and say at the end which could not be tried and why
    Test {
        /// Arguments of `cargo test`, instead of --workspace --no-fail-fast
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Write the pages and pictures that follow from the code
    Docs,
    /// Check a VIB as esxcli's installer does
    VerifyVib {
        /// The file
        file: PathBuf,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// VIB and offline bundle
    Esxi,
    /// deb, rpm and tarball
    Linux,
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Package { out, only, maintainer, dev } => package(&out, &only, &maintainer, dev),
        Verb::Docs => {
            let write = |(name, text): &(&str, String)| {
                files::write(&root().join("packaging/docs").join(name), text.as_bytes())
            };
            docs::all().and_then(|all| all.iter().try_for_each(write))
        }
        Verb::Test { args } => suites::run(&args),
        Verb::VerifyVib { file } => verify_vib(&file),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default()
}

/// Runs a command; its last line of output, where it succeeds.
fn run(command: &mut Command) -> Result<String, String> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stderr(std::process::Stdio::inherit()).output().map_err(|e| format!("{shown}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default().to_string();
    if output.status.success() { Ok(last) } else { Err(format!("{shown}: {}: {last}", output.status)) }
}

/// When the source was written: times of packages are those of the source, so that the same source gives the
/// same bytes.
fn seconds(root: &Path) -> Result<u64, String> {
    let stamp = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(stamp) => stamp,
        Err(_) => run(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root))
            .map_err(|why| format!("{why}; outside a git checkout say SOURCE_DATE_EPOCH"))?,
    };
    stamp.trim().parse().map_err(|_| format!("SOURCE_DATE_EPOCH: `{stamp}` is no number of seconds"))
}

fn date(seconds: u64) -> Result<String, String> {
    let at = i64::try_from(seconds).map_err(|e| e.to_string())?;
    let at = time::OffsetDateTime::from_unix_timestamp(at).map_err(|e| e.to_string())?;
    let (day, clock) = (at.date(), at.time());
    let month = u8::from(day.month());
    Ok(format!(
        "{}-{month:02}-{:02}T{:02}:{:02}:{:02}+00:00",
        day.year(),
        day.day(),
        clock.hour(),
        clock.minute(),
        clock.second()
    ))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn package(out: &Path, only: &[Kind], maintainer: &str, dev: bool) -> Result<(), String> {
    let (root, version) = (root(), env!("CARGO_PKG_VERSION"));
    let mut made = vec![];
    let mut put = |name: String, bytes: Vec<u8>| {
        let path = out.join(name);
        files::write(&path, &bytes)?;
        let sum: String = sha2::Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        made.push((path, bytes.len(), sum));
        Ok::<_, String>(())
    };
    if only.contains(&Kind::Esxi) {
        let mut build = at_a_prompt(root.join("packaging/esxi/build-static"));
        build.args(dev.then_some("--dev"));
        let agent =
            run(&mut build).map_err(|why| format!("{why}; the packages for Linux alone: --only linux"))?;
        let agent = root.join(agent);
        let date = date(seconds(&root)?)?;
        let vib = vib::build(&contents::esxi(&root, files::read(&agent)?)?, version, &date)?;
        let found = verify::verify(&vib.bytes);
        if !found.errors.is_empty() {
            return Err(format!("the VIB that was made is not right: {}", found.errors.join("; ")));
        }
        put(format!("{}-{}.vib", vib::NAME, vib.descriptor.version), vib.bytes.clone())?;
        put(
            format!("{}-{}-offline_bundle.zip", vib::NAME, vib.descriptor.version),
            bundle::build(&vib, &date)?,
        )?;
    }
    if only.contains(&Kind::Linux) {
        let mut cargo = at_a_prompt(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--locked"]).args((!dev).then_some("--release")).current_dir(&root);
        cargo.args([
            "-p",
            "vsgpu",
            "-p",
            "vsgpu-host-agent",
            "-p",
            "vsgpu-guest-agent",
            "-p",
            "vsgpu-network-gpu",
            "-p",
            "vsgpu-cuda-proof",
            "-p",
            "vsgpu-cuda-samples",
        ]);
        run(&mut cargo)?;
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
        let built = target.join(if dev { "debug" } else { "release" });
        // Unoptimised programs are mostly notes for debuggers; the shipped ones have none.
        let built = if dev { stripped(&built, &out.join("stripped"))? } else { built };
        let packages = [
            contents::controller(&root, &built)?,
            contents::host(&root, &built)?,
            contents::guest(&root, &built)?,
        ];
        let list = files::read(&root.join("packaging/docs/changelog.md"))?;
        let release = linux::Release {
            version,
            seconds: seconds(&root)?,
            maintainer: maintainer.into(),
            changes: linux::changes(&String::from_utf8_lossy(&list)),
        };
        for package in &packages {
            put(format!("{}_{version}_amd64.deb", package.name), package.deb(&release)?)?;
            // Sums of an rpm take long unoptimised: one is enough for the tests.
            if !dev || package.name == "vsgpu-guest-agent" {
                put(format!("{}-{version}-1.x86_64.rpm", package.name), package.rpm(&release)?)?;
            }
        }
        let folder = format!("vsgpu-{version}-linux-x86_64");
        put(format!("{folder}.tar.gz"), linux::tarball(&packages, &folder, release.seconds)?)?;
    }
    // As `sha256sum -c SHA256SUMS` reads it.
    let sums: String = made.iter().map(|(path, _, sum)| format!("{sum}  {}\n", name_of(path))).collect();
    files::write(&out.join("SHA256SUMS"), sums.as_bytes())?;
    for (path, bytes, _) in made {
        println!("{:>8.1} MiB  {}", bytes as f64 / f64::from(1 << 20), path.display());
    }
    Ok(())
}

/// A program as one calls it at a prompt: what `cargo xtask` says about this package would make build scripts
/// of others run anew.
fn at_a_prompt(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    let ours =
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_", "CARGO_RUSTC_"];
    for (name, _) in std::env::vars_os() {
        if ours.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

fn stripped(from: &Path, to: &Path) -> Result<PathBuf, String> {
    std::fs::create_dir_all(to).map_err(|e| format!("{}: {e}", to.display()))?;
    let programs = [
        "vsgpu",
        "vsgpu-host-agent",
        "vsgpu-guest-agent",
        "vsgpu-pool",
        "vsgpu-gpu",
        "vsgpu-cuda-proof",
        "vsgpu-cuda-samples",
    ];
    for program in programs {
        run(Command::new("strip").arg("-o").arg(to.join(program)).arg(from.join(program)))?;
    }
    Ok(to.to_path_buf())
}

fn verify_vib(file: &Path) -> Result<(), String> {
    let found = verify::verify(&files::read(file)?);
    found.remarks.iter().for_each(|remark| println!("remark: {remark}"));
    found.errors.iter().for_each(|error| println!("refused: {error}"));
    match found.errors.len() {
        0 => {
            println!("{}: {}", file.display(), found.what.unwrap_or_default());
            Ok(())
        }
        n => Err(format!("{}: esxcli would refuse it for {n} reasons", file.display())),
    }
}
