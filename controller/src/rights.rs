//! Whose a file is, for who may not open it.

use std::path::Path;

/// What to do where the operator's own files are somebody else's.
pub fn hint(path: &Path) -> String {
    let owner = path.ancestors().find_map(|place| {
        use std::os::unix::fs::MetadataExt as _;
        let uid = std::fs::symlink_metadata(place).ok()?.uid();
        let name =
            nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
        Some((place, name.unwrap_or_else(|| format!("user {uid}"))))
    });
    match owner {
        Some((place, owner)) => format!(
            "{} belongs to {owner}: run vsgpu as that user; a fleet's folder, its keys and its journals belong to one user",
            place.display()
        ),
        None => "run vsgpu as the user whose files these are".into(),
    }
}
