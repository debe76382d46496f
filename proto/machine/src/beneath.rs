//! Where a root agent writes: the folder that a path really means, reached through no link that somebody else
//! could have made.
//!
//! Folders are looked at one by one. A link is followed only where it is root's or ours, in a folder in which
//! nobody else may put one (`/var/run` is such a link nearly everywhere); on a datastore, which other hosts
//! write to, only one at its top to a folder beside it (vSAN makes such). On Linux the folder is then opened
//! with openat2, which follows no link at all, and everything is done below that open folder: what is
//! exchanged on the way meanwhile changes nothing. Where there is no openat2 or no /proc (VMkernel has
//! neither, as far as known) the look is all there is, with O_NOFOLLOW for the last part.
//!
//! A file that root makes in a user's folder is that user's, and so is the last folder that it makes on the way: a token
//! in his home must be his to be read and renewed.

#![expect(clippy::disallowed_methods, reason = "a part of the shell")]

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

/// Links on one way, as many as Linux follows.
const MAX_LINKS: usize = 40;
/// Below it lie datastores, each under its name.
const DATASTORES: &str = "/vmfs/volumes";

/// A folder to write in.
pub(crate) struct Place {
    /// Leads to the folder, whatever becomes of its name.
    pub folder: PathBuf,
    /// Last part of the path.
    pub name: OsString,
    #[expect(dead_code, reason = "held open, not read")]
    open: Option<File>,
}

impl Place {
    /// A file of this place.
    pub fn file(&self, name: &std::ffi::OsStr) -> PathBuf {
        self.folder.join(name)
    }

    /// The file that the path names.
    pub fn target(&self) -> PathBuf {
        self.file(&self.name)
    }
}

/// Finds the folder of an absolute path below `root`; with `make`, missing folders are made.
pub(crate) fn place(root: &Path, path: &str, make: bool) -> Result<Place> {
    let mut parts: Vec<OsString> = Path::new(path)
        .components()
        .filter_map(|part| match part {
            Component::Normal(part) => Some(part.to_os_string()),
            _ => None,
        })
        .collect();
    let name = parts.pop().ok_or_else(|| Error::new(ErrorKind::InvalidInput, "it does not name a file"))?;
    let real = folder(root, parts)?;
    let mut of = None;
    if make && !real.exists() {
        of = real.ancestors().find_map(|above| above.metadata().ok()).and_then(|above| somebody(&above));
        std::fs::create_dir_all(&real)?;
    }
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    // The root itself is the operator's word, and may be reached through links.
    let below = if root == Path::new("/") {
        real.clone()
    } else {
        real.strip_prefix(root).map_or(real.clone(), Path::to_path_buf)
    };
    let start = File::open(root).ok().filter(|_| root != Path::new("/"));
    let below = if below.as_os_str().is_empty() { PathBuf::from(".") } else { below };
    let opened = match &start {
        Some(start) => openat2(start, &below, how),
        None => openat2(AT_FDCWD, &below, how),
    };
    let open = match opened {
        Ok(fd) => Some(File::from(fd)),
        // Not known here, or forbidden by a filter that does not know it either.
        Err(nix::errno::Errno::ENOSYS | nix::errno::Errno::EPERM | nix::errno::Errno::EOPNOTSUPP) => None,
        Err(why) => return Err(why.into()),
    };
    let by_fd = open
        .as_ref()
        .map(|fd| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())))
        .filter(|path| path.exists());
    // Only what is empty: anything else was put there meanwhile.
    if let (Some((uid, gid)), Some(made)) = (of, &by_fd)
        && std::fs::read_dir(made)?.next().is_none()
    {
        std::os::unix::fs::chown(made, Some(uid), Some(gid))?;
    }
    Ok(Place { folder: by_fd.unwrap_or(real), name, open })
}

/// Whose a folder is, user and group; `None` where it is ours, or we could give nothing away.
pub(crate) fn somebody(folder: &std::fs::Metadata) -> Option<(u32, u32)> {
    let us = nix::unistd::geteuid();
    (us.is_root() && folder.uid() != us.as_raw()).then(|| (folder.uid(), folder.gid()))
}

/// The folder without links, as far as it is there.
fn folder(root: &Path, parts: Vec<OsString>) -> Result<PathBuf> {
    let us = nix::unistd::geteuid().as_raw();
    let mut here = root.to_path_buf();
    let mut next: Vec<OsString> = parts.into_iter().rev().collect();
    let mut links = 0;
    while let Some(part) = next.pop() {
        let at = here.join(&part);
        let meta = match std::fs::symlink_metadata(&at) {
            Ok(meta) => meta,
            // It is to be made, with what is below it.
            Err(why) if why.kind() == ErrorKind::NotFound => {
                return Ok(next.into_iter().rev().fold(at, |at, part| at.join(part)));
            }
            Err(why) => return Err(why),
        };
        if !meta.is_symlink() {
            if !meta.is_dir() {
                return Err(Error::new(ErrorKind::NotADirectory, format!("{} is no folder", at.display())));
            }
            here = at;
            continue;
        }
        links += 1;
        let refused = |why: &str| {
            Err(Error::new(
                ErrorKind::PermissionDenied,
                format!("{} is a symbolic link {why}: it is not followed", at.display()),
            ))
        };
        let holder = std::fs::metadata(&here)?;
        let below = here
            .strip_prefix(root)
            .ok()
            .and_then(|here| Path::new("/").join(here).strip_prefix(DATASTORES).ok().map(Path::to_path_buf));
        let depth = below.map_or(0, |below| below.components().count());
        if depth > 0 {
            // vSAN's own: the name of a folder at the top is a link to the one with its id, beside it. It
            // leads nowhere else.
            let target = std::fs::read_link(&at)?;
            let beside = matches!(target.components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
            if depth > 1 || !beside || links > MAX_LINKS {
                return refused("on a datastore");
            }
            next.push(target.into_os_string());
            continue;
        }
        if ![0, us].contains(&meta.uid())
            || ![0, us].contains(&holder.uid())
            || (holder.mode() & 0o022 != 0 && holder.mode() & 0o1000 == 0)
        {
            return refused("that somebody else may have made");
        }
        if links > MAX_LINKS {
            return refused("in a circle");
        }
        let target = std::fs::read_link(&at)?;
        if target.is_absolute() {
            here = root.to_path_buf();
        }
        for part in target.components().rev() {
            match part {
                Component::Normal(part) => next.push(part.to_os_string()),
                Component::ParentDir => next.push("..".into()),
                _ => {}
            }
        }
        // `..` of a link is the folder above, which is no link any more.
        while next.last().is_some_and(|part| part == "..") {
            next.pop();
            here = if here == root { here } else { here.parent().unwrap_or(root).to_path_buf() };
        }
    }
    Ok(here)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn root(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("vsgpu-beneath-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        for folder in ["run/a", "var", "vmfs/volumes/5f-id/x", "open", "etc"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        symlink("../run", root.join("var/run")).unwrap();
        symlink("5f-id", root.join("vmfs/volumes/datastore1")).unwrap();
        std::fs::set_permissions(root.join("open"), std::fs::Permissions::from_mode(0o777)).unwrap();
        root
    }

    #[test]
    fn roots_own_links_are_followed_and_nobody_elses() {
        let root = root("links");
        let write =
            |path: &str| place(&root, path, true).and_then(|place| std::fs::write(place.target(), "x"));
        write("/var/run/vsgpu/boot").unwrap();
        assert!(root.join("run/vsgpu/boot").exists());
        write("/vmfs/volumes/datastore1/vsgpu/f").unwrap();
        assert!(root.join("vmfs/volumes/5f-id/vsgpu/f").exists());
        // Another host's hand on a datastore; somebody's in a folder that everybody may write to.
        symlink("../../../etc", root.join("vmfs/volumes/5f-id/planted")).unwrap();
        assert!(
            write("/vmfs/volumes/datastore1/planted/passwd")
                .unwrap_err()
                .to_string()
                .contains("on a datastore")
        );
        // What vSAN makes at the top of a datastore is followed, deeper it is not.
        symlink("x", root.join("vmfs/volumes/5f-id/vm")).unwrap();
        write("/vmfs/volumes/datastore1/vm/vm.vmx").unwrap();
        assert!(root.join("vmfs/volumes/5f-id/x/vm.vmx").exists());
        symlink("x", root.join("vmfs/volumes/5f-id/x/deep")).unwrap();
        assert!(
            write("/vmfs/volumes/datastore1/x/deep/f").unwrap_err().to_string().contains("on a datastore")
        );
        symlink("../etc", root.join("open/planted")).unwrap();
        assert!(write("/open/planted/passwd").unwrap_err().to_string().contains("somebody else"));
        symlink("circle", root.join("circle")).unwrap();
        assert!(write("/circle/x").unwrap_err().to_string().contains("in a circle"));
        assert!(!root.join("etc/passwd").exists());
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_folder_that_is_exchanged_meanwhile_changes_nothing() {
        let root = root("swap");
        let place = place(&root, "/run/a/file", true).unwrap();
        std::fs::rename(root.join("run/a"), root.join("run/b")).unwrap();
        symlink("../etc", root.join("run/a")).unwrap();
        std::fs::write(place.target(), "x").unwrap();
        assert!(!root.join("etc/file").exists() && root.join("run/b/file").exists());
        std::fs::remove_dir_all(root).unwrap();
    }
}
