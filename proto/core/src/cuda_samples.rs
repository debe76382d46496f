//! NVIDIA's CUDA samples, as an archive or as a folder: which of their files it takes to build deviceQuery and
//! vectorAdd, and which release they are of. Three layouts: `1_Utilities/deviceQuery` of toolkits up to 11.5,
//! `Samples/deviceQuery` of the archives of that time, `Samples/1_Utilities/deviceQuery` since (facts: nvidia 7).

/// The two that are built, by the names of their folders and programs.
pub const SAMPLES: [&str; 2] = ["deviceQuery", "vectorAdd"];

/// Name under which a package states that it holds them.
pub const PACKAGE: &str = "cuda-samples";

/// Files of the shared folder that a build may read.
const SHARED: [&str; 8] = ["h", "hpp", "hxx", "inl", "cuh", "mk", "cmake", "txt"];

/// Path below the samples' own top folder, for a file that building both takes; `None` for any other. An archive
/// of a release has one folder around everything (`cuda-samples-12.5/`), which is left out.
pub fn needed(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") || path.contains('\\') {
        return None;
    }
    if parts.first().is_some_and(|top| top.starts_with(PACKAGE)) {
        parts.remove(0);
    }
    let (file, folders) = parts.split_last()?;
    let extension = file.rsplit_once('.').map(|(_, extension)| extension).unwrap_or_default();
    let is_needed = match folders {
        ["Common" | "common", ..] => SHARED.contains(&extension),
        ["cmake", ..] => true,
        _ => folders.iter().skip(1).take(2).any(|folder| SAMPLES.contains(folder)),
    };
    is_needed.then(|| parts.join("/"))
}

/// The folder of a sample among files as [`needed`] says them.
pub fn folder_of<'a>(files: impl IntoIterator<Item = &'a str>, sample: &str) -> Option<String> {
    let makes = ["Makefile", "CMakeLists.txt"];
    files.into_iter().find_map(|path| {
        let (folder, file) = path.rsplit_once('/')?;
        let named = folder.rsplit('/').next() == Some(sample);
        (named && makes.contains(&file)).then(|| folder.to_string())
    })
}

/// The release in the name of the top folder: `12.5` of `cuda-samples-12.5/Samples/..`.
pub fn release(path: &str) -> Option<&str> {
    let top = path.split('/').next()?.strip_prefix(PACKAGE)?.strip_prefix('-')?;
    let digits = top.strip_prefix('v').unwrap_or(top);
    digits.starts_with(|c: char| c.is_ascii_digit()).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_every_layout_only_what_both_samples_take() {
        for (path, below) in [
            (
                "cuda-samples-12.5/Samples/1_Utilities/deviceQuery/Makefile",
                Some("Samples/1_Utilities/deviceQuery/Makefile"),
            ),
            ("cuda-samples-11.4/Samples/vectorAdd/vectorAdd.cu", Some("Samples/vectorAdd/vectorAdd.cu")),
            ("1_Utilities/deviceQuery/deviceQuery.cpp", Some("1_Utilities/deviceQuery/deviceQuery.cpp")),
            ("common/inc/helper_cuda.h", Some("common/inc/helper_cuda.h")),
            ("cuda-samples-13.0/Common/helper_cuda.h", Some("Common/helper_cuda.h")),
            ("cuda-samples-13.0/cmake/Modules/FindNvSci.cmake", Some("cmake/Modules/FindNvSci.cmake")),
            ("cuda-samples-13.0/Common/data/image.ppm", None),
            ("cuda-samples-13.0/Samples/0_Introduction/vectorAddDrv/vectorAddDrv.cpp", None),
            ("cuda-samples-13.0/../Common/helper_cuda.h", None),
            ("Common/..\\x.h", None),
            ("deviceQuery", None),
        ] {
            assert_eq!(needed(path).as_deref(), below, "{path}");
        }
    }

    #[test]
    fn a_release_is_in_the_name_of_the_folder_around_it() {
        assert_eq!(release("cuda-samples-12.4.1/Common/x.h"), Some("12.4.1"));
        assert_eq!(release("cuda-samples-v11.0/Common/x.h"), Some("11.0"));
        assert_eq!(release("cuda-samples-master/Common/x.h"), None);
        let files = ["Samples/1_Utilities/deviceQuery/CMakeLists.txt", "Common/Makefile"];
        assert_eq!(folder_of(files, "deviceQuery").as_deref(), Some("Samples/1_Utilities/deviceQuery"));
        assert_eq!(folder_of(files, "vectorAdd"), None);
    }
}
