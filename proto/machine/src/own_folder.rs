//! Folders in which an agent keeps its memory of machines elsewhere: its user's alone, and one agent's at a time.

use std::path::Path;

/// What is held while an agent has a folder.
pub type Held = nix::fcntl::Flock<std::fs::File>;

/// Makes a folder that only this user may write into.
///
/// # Errors
/// A sentence, also where others may write into one that is there.
pub fn private(folder: &Path) -> Result<(), String> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
    let said = |e: std::io::Error| format!("{}: {e}", folder.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(said)?;
    // One that was there already: whoever may write into it could become this agent.
    let found = std::fs::metadata(folder).map_err(said)?;
    if found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(format!(
            "{}: others may write into it: `chown` it to this agent's user and `chmod 700` it",
            folder.display()
        ));
    }
    Ok(())
}

/// Whether there is such a folder.
///
/// # Errors
/// A sentence that begins with the folder.
pub fn is_folder(folder: &Path) -> Result<(), String> {
    match folder.is_dir() {
        true => Ok(()),
        false => Err(format!("{}: there is no such folder", folder.display())),
    }
}

/// Takes a folder for this process.
///
/// # Errors
/// A sentence that begins with the folder, where another process has it.
pub fn locked(folder: &Path) -> Result<Held, String> {
    #[expect(clippy::disallowed_methods, reason = "the agent's own state folder")]
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("lock"))
        .map_err(|e| format!("{}: {e}", folder.display()))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock)
        .map_err(|_| format!("{}: another agent runs with it", folder.display()))
}

/// Removes files below a folder that nobody wrote for so long, and folders that are empty then. What cannot be removed stays.
#[expect(clippy::disallowed_methods, reason = "the agent's own state folder")]
pub fn without_old_files(folder: &Path, age: std::time::Duration) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    for entry in entries.take(MOST_FILES) {
        let Ok(about) = entry.metadata() else { continue };
        if about.is_dir() {
            without_old_files(&entry.path(), age);
            // Only one that is empty.
            let _ = std::fs::remove_dir(entry.path());
        } else if about.modified().is_ok_and(|at| at.elapsed().is_ok_and(|old| old > age)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Files of one folder that are looked at.
const MOST_FILES: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn memory_that_others_may_write_is_refused() {
        let folder = std::env::temp_dir().join(format!("vsgpu-own-folder-{}", std::process::id()));
        assert_eq!(private(&folder), Ok(()));
        let held = locked(&folder).unwrap();
        assert!(locked(&folder).is_err_and(|why| why.contains("another agent runs with it")));
        drop(held);
        assert!(locked(&folder).is_ok());
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(private(&folder).unwrap_err().contains("others may write into it"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
