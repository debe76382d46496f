//! An I/O error in core's words.

use vsgpu_core::IoError;

/// An I/O error that names its path.
pub(crate) fn io_error(path: &str, error: &std::io::Error) -> IoError {
    match error.kind() {
        std::io::ErrorKind::NotFound => IoError::NotFound(path.into()),
        _ => IoError::Other { path: path.into(), why: error.to_string() },
    }
}
