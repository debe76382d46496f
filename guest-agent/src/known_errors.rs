//! One known failure of a tool: the words by which it is recognised, its cause and what to do.

use vsgpu_core::requirement::Explained;

pub(crate) struct Known {
    /// All words of one of these are said.
    pub said: &'static [&'static [&'static str]],
    pub cause: &'static str,
    pub fix: &'static str,
}

/// The first that fits.
pub(crate) fn explain(known: &[Known], said: &str) -> Option<Explained> {
    let fits = |known: &&Known| known.said.iter().any(|all| all.iter().all(|words| said.contains(words)));
    let known = known.iter().find(fits)?;
    Some(Explained { cause: known.cause.into(), fix: known.fix.into() })
}
