//! `vsgpu-cuda-samples` as a program. With a stand-in for nvcc (a shell script that says of itself what it is): what it
//! takes of an archive, its limits, and that both programs come into place together or not at all. With NVIDIA's own
//! compiler, where `VSGPU_NVCC` names it: both ways of building. That what it built then runs is shown by `engine`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "test code")]

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use vsgpu_core::artifact::Kind;
use vsgpu_machine::package::inspect;
use vsgpu_tests::lab::{cuda_toolkit, files, programs};

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("vsgpu-samples-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("toolkit/bin")).unwrap();
        Self(folder)
    }

    /// A stand-in for nvcc: a script in which `$out` is the file that is to be written.
    fn nvcc(&self, script: &str) {
        let nvcc = self.0.join("toolkit/bin/nvcc");
        let head = "#!/bin/sh\n# A stand-in for NVIDIA's compiler.\nwhile [ $# -gt 0 ]; do [ \"$1\" = -o ] && out=$2; shift; done\n";
        std::fs::write(&nvcc, format!("{head}{script}\n")).unwrap();
        std::fs::set_permissions(&nvcc, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn archive(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn build(&self, source: &Path, more: &[&str]) -> (bool, String) {
        let mut command = Command::new(programs().join("vsgpu-cuda-samples"));
        command.arg("--source").arg(source).arg("--into").arg(self.0.join("built"));
        command.arg("--toolkit").arg(self.0.join("toolkit")).args(more);
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    fn built(&self) -> Vec<String> {
        let Ok(there) = std::fs::read_dir(self.0.join("built")) else { return vec![] };
        let mut names: Vec<String> =
            there.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn left_over(&self) -> bool {
        self.0.join(".building-built").exists()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const WRITES: &str = "printf '#!/bin/sh\\necho a stand-in program\\n' > $out; chmod +x $out";

fn both_come_into_place_and_the_archives_others_do_not() {
    let place = Place::new("both");
    place.nvcc(WRITES);
    let zip = place.archive("cuda-samples-12.5.zip", &files::cuda_samples("12.5"));
    let (ok, said) = place.build(&zip, &["--capability", "8.0"]);
    assert!(ok && said.starts_with("built deviceQuery and vectorAdd with make"), "{said}");
    assert_eq!(place.built(), ["deviceQuery", "vectorAdd"]);
    assert!(!place.left_over());
    // The same from a folder, as an old runfile installs it; and over what is there.
    let unpacked = place.0.join("samples");
    let unzip = |name: &str, to: &Path| {
        let mut zip = zip::ZipArchive::new(std::fs::File::open(name).unwrap()).unwrap();
        zip.extract(to).unwrap();
    };
    unzip(zip.to_str().unwrap(), &unpacked);
    let (ok, said) = place.build(&unpacked.join("cuda-samples-12.5"), &[]);
    assert!(ok, "{said}");
    // A failed build leaves the last good one.
    place.nvcc("echo 'crt/host_config.h:143:2: error: #error -- unsupported GNU version!' >&2; exit 1");
    let (ok, said) = place.build(&zip, &[]);
    assert!(
        !ok && said.contains("deviceQuery: make: exit status 2") && said.contains("unsupported GNU"),
        "{said}"
    );
    assert_eq!(place.built(), ["deviceQuery", "vectorAdd"]);
    assert!(!place.left_over());
    // A second one that cannot be built puts nothing into place.
    std::fs::remove_dir_all(place.0.join("built")).unwrap();
    place.nvcc(&format!("case $out in *vectorAdd) exit 1;; esac; {WRITES}"));
    let (ok, said) = place.build(&zip, &[]);
    assert!(!ok && said.contains("vectorAdd: make"), "{said}");
    assert_eq!(place.built(), Vec::<String>::new());
}

/// The same release as the archives that people have: all are taken for what they are, by the controller as well.
fn every_kind_of_archive_is_known() {
    let place = Place::new("kinds");
    place.nvcc(WRITES);
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(files::cuda_samples("12.5"))).unwrap();
    let mut tar = tar::Builder::new(vec![]);
    for at in 0..zip.len() {
        let mut member = zip.by_index(at).unwrap();
        let mut bytes = vec![];
        std::io::Read::read_to_end(&mut member, &mut bytes).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, member.name(), bytes.as_slice()).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    packed.write_all(&tar).unwrap();
    let packed = packed.finish().unwrap();
    for (name, bytes) in [("cuda-samples-12.5.tar", &tar), ("cuda-samples-12.5.tar.gz", &packed)] {
        let (kind, holds) = inspect(&mut std::io::Cursor::new(bytes), name, bytes.len() as u64).unwrap();
        assert_eq!((kind, holds[0].version.as_str()), (Kind::CudaSamples, "12.5"), "{name}");
        let (ok, said) = place.build(&place.archive(name, bytes), &[]);
        assert!(ok, "{name}: {said}");
    }
    // A name that promises something else is held to it.
    for (name, words) in
        [("driver.run", "not a self-extracting installer"), ("x.vib", "not a VIB"), ("x.zip", "not a zip")]
    {
        let why = inspect(&mut std::io::Cursor::new(&packed), name, packed.len() as u64).unwrap_err();
        assert!(why.contains(words), "{name}: {why}");
    }
}

/// A compiler that hangs is ended, and one that writes without end is stopped.
fn time_and_space_are_bounded() {
    let place = Place::new("bounds");
    let zip = place.archive("cuda-samples-12.5.zip", &files::cuda_samples("12.5"));
    place.nvcc("sleep 600");
    let begun = Instant::now();
    let (ok, said) = place.build(&zip, &["--within", "2"]);
    assert!(!ok && said.contains("after its deadline") && begun.elapsed().as_secs() < 60, "{said}");
    assert!(!place.left_over());
    place.nvcc("head -c 600M /dev/zero > $out || exit 1");
    let (ok, said) = place.build(&zip, &[]);
    assert!(!ok && said.contains("File"), "{said}");
    assert!(!place.left_over());
    place.nvcc("true");
    let (ok, said) = place.build(&zip, &[]);
    assert!(!ok && said.contains("make ended well, but built no deviceQuery"), "{said}");
}

fn what_is_no_archive_of_the_samples_is_said_without_quoting_it() {
    let place = Place::new("wrong");
    let plain = |name: &str, bytes: &[u8]| {
        let (ok, said) = place.build(&place.archive(name, bytes), &[]);
        assert!(!ok && place.built().is_empty() && !place.left_over(), "{name}: {said}");
        said
    };
    let secret = "root:x:0:0:secret\n".repeat(100);
    let said = plain("passwd.tar", secret.as_bytes());
    assert!(said.contains("it is no archive of the samples") && !said.contains("secret"), "{said}");
    let whole = files::cuda_samples("12.5");
    assert!(plain("cut.zip", &whole[..whole.len() / 2]).contains("broken or cut off"));
    assert!(plain("whole.zip", &whole).contains("there is no nvcc in"));
    place.nvcc(WRITES);
    // Members that would leave the folder are not taken; so nothing is there to be built.
    let zip_of = |members: &[(&str, usize)]| {
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(vec![]));
        for (path, bytes) in members {
            zip.start_file(*path, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(&vec![b'#'; *bytes]).unwrap();
        }
        zip.finish().unwrap().into_inner()
    };
    let said = plain("escape.zip", &zip_of(&[("../../deviceQuery/Makefile", 1), ("/etc/cron.d/x", 1)]));
    assert!(said.contains("deviceQuery is not among these samples"), "{said}");
    // A bomb: 65 MiB of nothing in some kilobytes.
    let said = plain("bomb.zip", &zip_of(&[("Common/helper_cuda.h", 65 << 20)]));
    assert!(said.contains("larger than NVIDIA's ever were"), "{said}");
    // A name of 256 MiB in some kilobytes: it is not read into memory.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(256 << 20);
    header.set_cksum();
    let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
    packed.write_all(header.as_bytes()).unwrap();
    let nothing = vec![b'x'; 1 << 20];
    (0..256).for_each(|_| packed.write_all(&nothing).unwrap());
    let bomb = place.archive("name.tar.gz", &packed.finish().unwrap());
    let mut command = Command::new("prlimit");
    command.arg("--as=167772160").arg(programs().join("vsgpu-cuda-samples")).arg("--source").arg(&bomb);
    let output = command
        .arg("--into")
        .arg(place.0.join("built"))
        .arg("--toolkit")
        .arg(place.0.join("toolkit"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("it is no archive of the samples") || said.contains("not among these samples"),
        "{said}"
    );
    let tar = |kind: tar::EntryType, path: &str| {
        let mut tar = tar::Builder::new(vec![]);
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o644);
        tar.append_link(&mut header, path, "/etc/passwd").unwrap();
        tar.into_inner().unwrap()
    };
    let said = plain("link.tar", &tar(tar::EntryType::Symlink, "Samples/deviceQuery/Makefile"));
    assert!(said.contains("deviceQuery is not among these samples"), "{said}");
}

/// With NVIDIA's compiler: by make and by CMake. And what it says where something is missing is what the guest agent
/// takes it for.
fn nvidias_compiler_builds_both_layouts() {
    let place = Place::new("nvcc");
    let toolkit = cuda_toolkit::whole(&place.0.join("toolkit"));
    for (release, with) in [("12.5", "make"), ("13.0", "cmake")] {
        let zip = place.archive(&format!("cuda-samples-{release}.zip"), &files::cuda_samples(release));
        let (ok, said) = place.build(&zip, &["--capability", "8.0"]);
        assert!(ok && said.contains(&format!("with {with} and")), "{said}");
        assert_eq!(place.built(), ["deviceQuery", "vectorAdd"]);
        for (more, words) in [
            (
                &["--capability", "8.0", "--compiler", "g++-99"][..],
                "Failed to preprocess host compiler properties",
            ),
            (&["--capability", "1.0"][..], "Unsupported gpu architecture"),
        ] {
            let (ok, said) = place.build(&zip, more);
            // CMake's file names its own architectures.
            let built_all_the_same = with == "cmake" && more[1] == "1.0";
            assert!(ok == built_all_the_same && (ok || said.contains(words)), "{said}");
        }
    }
    let zip = place.0.join("cuda-samples-12.5.zip");
    for (gone, words) in [
        ("include/cuda_runtime.h", "cuda_runtime.h: No such file"),
        ("lib64/libcudart_static.a", "cannot find -lcudart"),
    ] {
        let file = toolkit.join(gone);
        std::fs::rename(&file, toolkit.join("gone")).unwrap();
        let (ok, said) = place.build(&zip, &["--capability", "8.0"]);
        assert!(!ok && said.contains(words), "{said}");
        std::fs::rename(toolkit.join("gone"), &file).unwrap();
    }
}

fn main() -> std::process::ExitCode {
    vsgpu_tests::harness::main(&[("", TESTS)])
}

const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    both_come_into_place_and_the_archives_others_do_not[Make],
    every_kind_of_archive_is_known[Make],
    time_and_space_are_bounded[Make],
    what_is_no_archive_of_the_samples_is_said_without_quoting_it,
    nvidias_compiler_builds_both_layouts[Nvcc, Make, Cmake]
];
