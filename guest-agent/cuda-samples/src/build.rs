//! Builds the samples with the toolkit's nvcc: by make where they have a Makefile, by CMake where they have
//! CMakeLists.txt. Every tool has a deadline, and no file becomes larger than [`MOST_FILE`].

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vsgpu_core::cuda_samples::{SAMPLES, folder_of};
use vsgpu_core::{Command, ExitKind, System as _};
use vsgpu_machine::local::Posix;

/// Bytes of one file that a tool writes.
pub const MOST_FILE: u64 = 512 << 20;
/// Lines of a tool's output that are shown where it failed.
const LINES: usize = 25;

/// What is built, and with what.
pub struct Build<'a> {
    /// The samples' files, as they were taken.
    pub files: &'a std::collections::BTreeSet<String>,
    /// The folder they were copied into.
    pub work: &'a Path,
    pub toolkit: &'a Path,
    /// Host compiler; the toolkit's own choice where it is left out.
    pub compiler: Option<&'a str>,
    /// Compute capabilities to build for, `8.0`; all that the samples name where it is empty.
    pub capabilities: &'a [String],
    /// When everything must be done.
    pub until: Instant,
}

/// One built program.
pub struct Built {
    pub sample: &'static str,
    pub program: PathBuf,
    /// `make` or `cmake`.
    pub with: &'static str,
}

impl Build<'_> {
    /// Both samples.
    ///
    /// # Errors
    /// What failed, with the tool's last lines.
    pub fn run(&self) -> Result<Vec<Built>, String> {
        let nvcc = self.toolkit.join("bin/nvcc");
        if !nvcc.is_file() {
            let at = nvcc.parent().unwrap_or(self.toolkit).display();
            return Err(format!("there is no nvcc in {at}: `--toolkit` names another toolkit"));
        }
        let folders = SAMPLES.map(|sample| {
            let folder = folder_of(self.files.iter().map(String::as_str), sample);
            folder.ok_or_else(|| format!("{sample} is not among these samples, with a Makefile or for CMake"))
        });
        SAMPLES.into_iter().zip(folders).map(|(sample, folder)| self.one(sample, &folder?, &nvcc)).collect()
    }

    fn one(&self, sample: &'static str, folder: &str, nvcc: &Path) -> Result<Built, String> {
        let at = self.work.join(folder);
        let (at_text, nvcc, toolkit) =
            (at.display().to_string(), nvcc.display().to_string(), self.toolkit.display().to_string());
        let (program, with) = if self.files.contains(&format!("{folder}/Makefile")) {
            let mut make = vec!["-C".to_string(), at_text, format!("CUDA_PATH={toolkit}")];
            make.extend(self.compiler.map(|compiler| format!("HOST_COMPILER={compiler}")));
            // Fewer take less time, and those that the toolkit does not know any more do not matter then.
            let all: Vec<String> = self.capabilities.iter().map(|text| text.replace('.', "")).collect();
            if !all.is_empty() {
                make.push(format!("SMS={}", all.join(" ")));
            }
            make.push("build".into());
            self.tool(sample, Command::new("make", make))?;
            (at.join(sample), "make")
        } else {
            let out = format!("{at_text}/build");
            let mut configure = vec![
                "-S".to_string(),
                at_text,
                "-B".into(),
                out.clone(),
                "-DCMAKE_BUILD_TYPE=Release".into(),
                format!("-DCMAKE_CUDA_COMPILER={nvcc}"),
                format!("-DCUDAToolkit_ROOT={toolkit}"),
            ];
            configure.extend(self.compiler.map(|compiler| format!("-DCMAKE_CUDA_HOST_COMPILER={compiler}")));
            self.tool(sample, Command::new("cmake", configure))?;
            self.tool(sample, Command::new("cmake", ["--build", &out]))?;
            (at.join("build").join(sample), "cmake")
        };
        // NVIDIA's makefiles leave a sample out, with success, where they miss something.
        if !program.is_file() {
            return Err(format!("{with} ended well, but built no {sample}"));
        }
        Ok(Built { sample, program, with })
    }

    /// One tool, within what is left of the time.
    fn tool(&self, sample: &str, command: Command) -> Result<(), String> {
        let left = self.until.saturating_duration_since(Instant::now());
        let secs = u32::try_from(left.as_secs()).unwrap_or(u32::MAX);
        let name = command.program.clone();
        if secs == 0 {
            return Err(format!("{sample}: no time is left for {name}"));
        }
        let output = Posix::new(None, "/".into()).without_notes().run(&command.within(secs));
        match &output.ended {
            ExitKind::Status(0) => Ok(()),
            ExitKind::Missing => {
                Err(format!("{sample}: these samples are built with {name}, which is not installed"))
            }
            ended => {
                let text = output.both();
                let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
                let last = lines[lines.len().saturating_sub(LINES)..].join("\n");
                Err(format!("{sample}: {name}: {ended}\n{last}"))
            }
        }
    }
}

/// Compute capabilities of this machine's GPUs, as the driver says them; none where it does not.
pub fn capabilities() -> Vec<String> {
    let ask = Command::new("nvidia-smi", ["--query-gpu=compute_cap", "--format=csv,noheader"]).within(60);
    let output = Posix::new(None, "/".into()).without_notes().run(&ask);
    let mut all: Vec<String> = output.stdout.lines().filter_map(|line| capability(line).ok()).collect();
    all.sort();
    all.dedup();
    if output.ok() { all } else { vec![] }
}

/// `8.0`: two numbers.
pub fn capability(text: &str) -> Result<String, String> {
    let digits = |part: &str| !part.is_empty() && part.len() < 3 && part.bytes().all(|b| b.is_ascii_digit());
    match text.trim().split_once('.') {
        Some((major, minor)) if digits(major) && digits(minor) => Ok(text.trim().to_string()),
        _ => Err("a compute capability such as `8.0` is expected".into()),
    }
}

/// When a build that begins now must be done.
pub fn until(secs: u64) -> Instant {
    Instant::now() + Duration::from_secs(secs)
}
