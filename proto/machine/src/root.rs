//! The prefix of every path: `/` for the machine itself, a folder for a copy of one.

use std::path::{Component, Path, PathBuf};
use vsgpu_core::IoError;

/// A machine's root folder.
#[derive(Clone, Debug)]
pub(crate) struct Root(pub(crate) PathBuf);

impl Root {
    /// An absolute path of the machine, below the root. `..` is refused.
    pub(crate) fn path(&self, path: &str) -> Result<PathBuf, IoError> {
        let inner = Path::new(path);
        if !inner.is_absolute()
            || inner.components().any(|c| c == Component::ParentDir)
            || path.contains('\0')
        {
            return Err(IoError::Other {
                path: path.into(),
                why: "is not an absolute path without `..`".into(),
            });
        }
        Ok(self.0.join(path.trim_start_matches('/')))
    }
}
