//! `vsgpu-cuda-samples`: builds NVIDIA's samples deviceQuery and vectorAdd from the operator's copy of their source,
//! in a work folder of its own, and puts both programs into place together or not at all.
//!
//! A program of its own: a compiler that hangs or fills the disk is a process with a deadline and limits, not the
//! agent.
#![expect(clippy::disallowed_methods, reason = "a program that builds: it lives on files and on time")]

mod build;
mod source;

use clap::Parser;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Builds NVIDIA's CUDA samples deviceQuery and vectorAdd from your copy of their source, with the toolkit's nvcc and
/// with make or CMake, whichever they want.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Archive (.zip, .tar, .tar.gz) or folder of NVIDIA's samples
    #[arg(long, value_name = "PATH")]
    source: PathBuf,
    /// Folder that both programs are put into
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
    /// CUDA toolkit to build with
    #[arg(long, value_name = "DIR", default_value = "/usr/local/cuda")]
    toolkit: PathBuf,
    /// C++ compiler that nvcc uses, where the system's own is too new for it
    #[arg(long, value_name = "NAME")]
    compiler: Option<String>,
    /// Compute capability to build for; can be given several times [default: those of this machine's GPUs]
    #[arg(long, value_name = "X.Y", value_parser = build::capability)]
    capability: Vec<String>,
    /// Seconds until the whole build is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=3600))]
    within: u64,
}

fn main() -> ExitCode {
    let mut cli = Cli::parse();
    // The tools run elsewhere.
    for path in [&mut cli.source, &mut cli.into, &mut cli.toolkit] {
        *path = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
    }
    let (text, status) = match run(&cli) {
        Ok(done) => (done, ExitCode::SUCCESS),
        Err(why) => (format!("error: {why}"), ExitCode::FAILURE),
    };
    let written = if status == ExitCode::SUCCESS {
        writeln!(std::io::stdout(), "{text}")
    } else {
        writeln!(std::io::stderr(), "{text}")
    };
    if written.is_ok() { status } else { ExitCode::FAILURE }
}

/// What was built, as a sentence.
fn run(cli: &Cli) -> Result<String, String> {
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_FSIZE, build::MOST_FILE, build::MOST_FILE)
        .map_err(|e| format!("the limit of files cannot be set: {e}"))?;
    let until = build::until(cli.within);
    let work = Work::new(&cli.into)?;
    let files = source::take(&cli.source, &work.0, until)?;
    let found = if cli.capability.is_empty() { build::capabilities() } else { vec![] };
    let build = build::Build {
        files: &files,
        work: &work.0,
        toolkit: &cli.toolkit,
        compiler: cli.compiler.as_deref(),
        capabilities: if cli.capability.is_empty() { &found } else { &cli.capability },
        until,
    };
    let built = build.run()?;
    let ready = work.0.join("ready");
    std::fs::create_dir(&ready).map_err(|e| format!("{}: {e}", ready.display()))?;
    for one in &built {
        let to = ready.join(one.sample);
        std::fs::rename(&one.program, &to).map_err(|e| format!("{}: {e}", to.display()))?;
    }
    // An older build goes first: a folder takes another's place only where that is empty.
    let place = |e: std::io::Error| format!("{}: {e}", cli.into.display());
    match std::fs::remove_dir_all(&cli.into) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => return Err(place(why)),
        _ => std::fs::rename(&ready, &cli.into).map_err(place)?,
    }
    let names: Vec<&str> = built.iter().map(|one| one.sample).collect();
    let with = built.first().map_or("make", |one| one.with);
    Ok(format!("built {} with {with} and {}", names.join(" and "), cli.toolkit.join("bin/nvcc").display()))
}

/// The work folder, beside the place of the programs, gone when this ends.
struct Work(PathBuf);

impl Work {
    fn new(into: &Path) -> Result<Self, String> {
        let (Some(parent), Some(name)) = (into.parent(), into.file_name()) else {
            return Err(format!("{}: a folder below another one is expected", into.display()));
        };
        let work = Self(parent.join(format!(".building-{}", name.to_string_lossy())));
        // One that was killed left it behind.
        let _ = std::fs::remove_dir_all(&work.0);
        std::fs::create_dir_all(&work.0).map_err(|e| format!("{}: {e}", work.0.display()))?;
        Ok(work)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
