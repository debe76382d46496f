//! NVIDIA's samples built in the guest, for `cuda-proof`: what is said of them in a fleet file, the command that builds
//! them, where the programs are, and why a build failed. The words are those of make, CMake 3.25, g++ 12 and nvcc 13.5
//! on NVIDIA's own samples 11.4, 12.5 and 13.0.

use crate::distro::Distro;
use crate::known_errors::{self, Known};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use vsgpu_core::Command;
use vsgpu_core::artifact::{Artifact, Kind};
use vsgpu_core::requirement::Explained;

/// Each build has a folder of its own below it.
pub(crate) const FOLDER: &str = "/var/lib/vsgpu/cuda-samples";
/// What builds them, beside the agent.
pub(crate) const PROGRAM: &str = "vsgpu-cuda-samples";
/// What builds call.
const COMPILER: &str = "g++";
const MAKE: &str = "make";
const CMAKE: &str = "cmake";
pub(crate) const TOOLS: [&str; 3] = [COMPILER, MAKE, CMAKE];
/// Seconds for a build: both samples are small, a busy guest is slow.
const BUILD_SECS: u32 = 600;

/// Where the source is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "keys and values",
    try_from = "Unchecked"
)]
pub struct SourceSpec {
    /// Your archive of NVIDIA's samples, of the toolkit's own release: `files/cuda-samples-12.5.zip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Artifact>,
    /// Instead: a folder of the guest with them, as old runfiles install it (`/usr/local/cuda-11.4/samples`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// C++ compiler for nvcc where the system's own is too new for it: `g++-12`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiler: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
struct Unchecked {
    /// Your archive of NVIDIA's samples, of the toolkit's own release: `files/cuda-samples-12.5.zip`.
    source: Option<Artifact>,
    /// Instead: a folder of the guest with them, as old runfiles install it (`/usr/local/cuda-11.4/samples`).
    folder: Option<String>,
    /// C++ compiler for nvcc where the system's own is too new for it: `g++-12`.
    compiler: Option<String>,
}

impl TryFrom<Unchecked> for SourceSpec {
    type Error = String;
    fn try_from(raw: Unchecked) -> Result<Self, String> {
        match (&raw.source, raw.folder.as_deref()) {
            (Some(_), None) => {}
            (None, Some(folder)) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || "-._/+".contains(c);
                let is_plain = folder.chars().all(plain) && !folder.split('/').any(|part| part == "..");
                if !folder.starts_with('/')
                    || folder.trim_matches('/').is_empty()
                    || !is_plain
                    || folder.len() > 200
                {
                    return Err(format!("folder: `{folder}`: a whole path in the guest is expected"));
                }
            }
            (Some(_), Some(_)) => return Err("`source` and `folder` are both there: keep one".into()),
            (None, None) => {
                return Err("`source` (your archive) or `folder` (of the guest) is missing".into());
            }
        }
        if let Some(compiler) = &raw.compiler {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-._/+".contains(c);
            let first = compiler.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
            if !first || !compiler.chars().all(plain) || compiler.len() > 100 {
                return Err(format!("compiler: `{compiler}` is no name of a compiler such as `g++-12`"));
            }
        }
        Ok(Self { source: raw.source, folder: raw.folder, compiler: raw.compiler })
    }
}

impl SourceSpec {
    /// Name of its build: another archive, folder or compiler is another build.
    pub(crate) fn id(&self) -> String {
        let archive = self.source.as_ref().map(|archive| archive.sha256.clone().unwrap_or_default());
        let all = serde_json::json!([archive, self.folder, self.compiler]).to_string();
        let sum = sha2::Sha256::digest(all.as_bytes());
        sum.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Where a program of it is once it is built.
    pub(crate) fn program(&self, name: &str) -> String {
        format!("{FOLDER}/{}/{name}", self.id())
    }

    /// Builds both.
    pub(crate) fn build(&self, beside_the_agent: &str) -> Command {
        let source = match (&self.source, &self.folder) {
            (Some(archive), _) => archive.stored(None),
            (None, folder) => folder.clone().unwrap_or_default(),
        };
        let mut args = vec!["--source".to_string(), source, "--into".into()];
        args.push(format!("{FOLDER}/{}", self.id()));
        if let Some(compiler) = &self.compiler {
            args.extend(["--compiler".into(), compiler.clone()]);
        }
        args.extend(["--within".into(), BUILD_SECS.to_string()]);
        Command::new(PROGRAM, args).also_in(beside_the_agent).within(BUILD_SECS + 30)
    }

    /// Programs that the build calls: CMake from release 12.8 on, make before; only a compiler where the release is
    /// not known.
    pub(crate) fn tools(&self) -> Vec<&'static str> {
        let held = self.source.as_ref().and_then(|archive| archive.version());
        let number = |text: &str| text.parse::<u32>().ok();
        let release = held
            .and_then(|version| version.split_once('.'))
            .and_then(|(major, rest)| Some((number(major)?, number(rest.split('.').next()?)?)));
        let with = release.map(|release| if release >= (12, 8) { CMAKE } else { MAKE });
        let compiler = self.compiler.is_none().then_some(COMPILER);
        compiler.into_iter().chain(with).collect()
    }

    /// What is wrong with the archive, as far as its contents are known.
    pub(crate) fn wrong(&self) -> Option<String> {
        let archive = self.source.as_ref()?;
        let other = archive.kind.is_some_and(|kind| kind != Kind::CudaSamples);
        other.then(|| {
            format!(
                "{} holds no deviceQuery and vectorAdd: it is no archive of NVIDIA's samples",
                archive.file_name()
            )
        })
    }
}

/// Package of a distribution that brings a tool.
pub(crate) fn package(tool: &str, family: &dyn Distro) -> String {
    if tool == COMPILER { family.cpp_compiler().into() } else { tool.into() }
}

const OTHER_RELEASE: &str =
    "take the archive cuda-samples of the toolkit's own release: its number is in `nvcc --version`";

const KNOWN: [Known; 14] = [
    Known {
        said: &[&["there is no nvcc"]],
        cause: "the guest has no CUDA toolkit",
        fix: "`cuda-toolkit:` of the guest installs one",
    },
    Known {
        said: &[&["built with make, which is not installed"]],
        cause: "there is no make in the guest",
        fix: "`build-tools: present` installs it",
    },
    Known {
        said: &[&["built with cmake, which is not installed"]],
        cause: "there is no CMake in the guest: samples from 12.8 on need it",
        fix: "install cmake 3.20 or newer in the guest; where that cannot be, take a toolkit up to 12.6 with the samples of its release, or `samples: off`",
    },
    Known {
        said: &[&["or higher is required.  You are running version"], &["CMake", "or higher is required"]],
        cause: "the guest's CMake is too old: samples from 12.8 on need 3.20",
        fix: "install a newer cmake in the guest; where that cannot be, take a toolkit up to 12.6 with the samples of its release, or `samples: off`",
    },
    Known {
        said: &[&["unsupported GNU version"], &["unsupported clang version"]],
        cause: "the guest's C++ compiler is too new for this toolkit's nvcc",
        fix: "install an older one beside it and name it: `cuda-proof: { samples: { .., compiler: g++-12 } }`",
    },
    Known {
        said: &[
            &["Failed to preprocess host compiler properties"],
            &["g++: not found"],
            &["g++: No such file or directory"],
            &["gcc: No such file or directory"],
            &["No CMAKE_CXX_COMPILER could be found"],
            &["cannot execute", "cc1plus"],
        ],
        cause: "nvcc finds no C++ compiler in the guest",
        fix: "install g++ (Debian, Ubuntu: `apt-get install g++`; Red Hat: `dnf install gcc-c++`); `compiler:` of the samples names another one",
    },
    Known {
        said: &[&["Unsupported gpu architecture"]],
        cause: "this toolkit knows no such GPU: it is older than the GPU, or the samples are of another release",
        fix: "take a toolkit that has the GPU (Blackwell: 12.8, Hopper: 11.8, Ada: 11.8), and the samples of its release",
    },
    Known {
        said: &[&["has no member named"], &["was not declared in this scope"], &["is undefined"]],
        cause: "the samples are of another release than the toolkit",
        fix: OTHER_RELEASE,
    },
    Known {
        said: &[&["helper_cuda.h: No such file"], &["helper_string.h: No such file"]],
        cause: "the samples are not whole: their folder Common is missing",
        fix: "take NVIDIA's archive as it is",
    },
    Known {
        said: &[
            &["cuda_runtime.h: No such file"],
            &["cannot find -lcudart"],
            &["cannot find -lcudadevrt"],
            &["Could NOT find CUDAToolkit"],
        ],
        cause: "the CUDA toolkit is not whole: headers or libraries of it are missing",
        fix: "install the whole toolkit: `cuda-toolkit:` with NVIDIA's runfile, or the package cuda-toolkit-X-Y",
    },
    Known {
        said: &[&[".h: No such file or directory"]],
        cause: "headers of the system are missing",
        fix: "install the C library's headers (Debian, Ubuntu: libc6-dev; Red Hat: glibc-devel)",
    },
    Known {
        said: &[&["File too large"], &["File size limit exceeded"]],
        cause: "a file of the build became larger than 512 MiB: these are not NVIDIA's samples, or the compiler is at fault",
        fix: "take NVIDIA's archive as it is; `vsgpu-cuda-samples` in the guest, run by hand, shows the whole output",
    },
    Known {
        said: &[&["No space left on device"]],
        cause: "the guest's disk is full",
        fix: "make room below /var/lib/vsgpu (`df -h /var/lib/vsgpu`)",
    },
    Known {
        said: &[&["no time is left for"], &["after its deadline"]],
        cause: "the build was not done within 10 minutes",
        fix: "look at the guest's load and memory (`top`); the next `vsgpu apply` begins anew",
    },
];

/// The cause of a failed build, if it is a known one.
pub(crate) fn explain(said: &str) -> Option<Explained> {
    known_errors::explain(&KNOWN, said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failed_build_says_is_told_by_its_own_words() {
        for (said, cause) in [
            ("error: there is no nvcc in /usr/local/cuda/bin", "no CUDA toolkit"),
            ("error: deviceQuery: these samples are built with cmake, which is not installed", "no CMake"),
            (
                "CMake Error at CMakeLists.txt:1 (cmake_minimum_required):\n  CMake 3.20 or higher is required.  You are running version 3.18.4",
                "too old",
            ),
            (
                "crt/host_config.h:143:2: error: #error -- unsupported GNU version! gcc versions later than 12 are not supported!",
                "too new",
            ),
            (
                "  g++-99: No such file or directory\n  nvcc fatal : Failed to preprocess host compiler properties.",
                "no C++ compiler",
            ),
            ("nvcc fatal   : Unsupported gpu architecture 'compute_50'", "knows no such GPU"),
            (
                "deviceQuery.cpp:136:20: error: 'struct cudaDeviceProp' has no member named 'clockRate'",
                "another release",
            ),
            ("deviceQuery.cpp:34:10: fatal error: helper_cuda.h: No such file or directory", "folder Common"),
            (
                "  <command-line>: fatal error: cuda_runtime.h: No such file or directory",
                "toolkit is not whole",
            ),
            ("  /bin/ld: cannot find -lcudart_static: No such file or directory", "toolkit is not whole"),
            (
                "/usr/include/features.h:1:1: fatal error: sys/cdefs.h: No such file or directory",
                "headers of the system",
            ),
        ] {
            let explained = explain(said).unwrap_or_else(|| panic!("{said}"));
            assert!(explained.cause.contains(cause), "{said}: {}", explained.cause);
        }
        assert!(explain("error: something else").is_none());
    }

    #[test]
    fn a_source_is_one_of_two_and_each_is_a_build_of_its_own() {
        let spec = |json: &str| serde_json::from_str::<SourceSpec>(json);
        let folder = spec(r#"{"folder": "/usr/local/cuda-11.4/samples", "compiler": "g++-10"}"#).unwrap();
        let other = spec(r#"{"folder": "/usr/local/cuda-11.4/samples"}"#).unwrap();
        let same = spec(r#"{"folder": "/usr/local/cuda-11/4/samples"}"#).unwrap();
        assert!(folder.id() != other.id() && other.id() != same.id());
        assert_eq!(folder.program("vectorAdd"), format!("{FOLDER}/{}/vectorAdd", folder.id()));
        assert!(folder.build("/usr/lib/vsgpu").to_string().contains("--source /usr/local/cuda-11.4/samples"));
        for bad in [
            "{}",
            r#"{"folder": "samples"}"#,
            r#"{"folder": "//"}"#,
            r#"{"folder": "/usr/../etc"}"#,
            r#"{"source": "a.zip", "folder": "/a"}"#,
            r#"{"folder": "/a", "compiler": "-x"}"#,
            r#"{"folder": "/a", "compiler": "g++ -fplugin=x"}"#,
        ] {
            assert!(spec(bad).is_err(), "{bad}");
        }
    }
}
