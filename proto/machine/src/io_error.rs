//! An I/O error in core's words.

use vsgpu_core::Trouble;

/// An I/O error that names its path.
pub(crate) fn io_error(path: &str, error: &std::io::Error) -> Trouble {
    match error.kind() {
        std::io::ErrorKind::NotFound => Trouble::NotFound(path.into()),
        _ => Trouble::Other { path: path.into(), why: error.to_string() },
    }
}
