//! The page of every code that an error can have: what it means and what to do. Codes are stable; scripts
//! name them. For a code that is also a hold, what to do is the advice of `hold.rs`.

use crate::hold::Hold;
use vsgpu_core::diagnosis::{self, Cause};
use vsgpu_core::knowledge::xids;

const PAGES: &str = include_str!("explain.md");

/// All codes with their pages, in their order.
pub fn pages() -> Vec<(&'static str, String)> {
    let page = |section: &'static str| {
        let (code, text) = section.split_once('\n')?;
        let (code, text) = (code.trim(), text.trim());
        Some((
            code,
            hold(code).map_or_else(|| text.to_string(), |hold| format!("{text}\nDo: {}.", hold.advice())),
        ))
    };
    PAGES.split("\n## ").flat_map(|s| s.strip_prefix("## ").or(Some(s))).filter_map(page).collect()
}

/// The hold that has this word.
pub fn hold(code: &str) -> Option<Hold> {
    Hold::ALL.into_iter().find(|hold| hold.word() == code)
}

/// Causes that `diagnose` knows, with their pages, in the order of the stages.
pub fn causes() -> impl Iterator<Item = (&'static Cause, String)> {
    diagnosis::all().map(|cause| (cause, cause_page(cause)))
}

fn cause_page(cause: &Cause) -> String {
    let mut text = format!("{} ({}).\n{}", cause.title, cause.stage.word(), cause.cause);
    for step in cause.fix {
        text += &format!("\nDo: {}.", step.shown());
    }
    for (rival, when) in cause.rivals {
        text += &format!("\nOr `{rival}`, if {when}.");
    }
    format!("{text}\nSource: {}.", cause.source)
}

/// An Xid of NVIDIA's list: `xid-79`.
fn xid_page(code: &str) -> Option<String> {
    let known = xids::of_code(code.strip_prefix("xid-")?.parse().ok()?)?;
    let meaning = if known.meaning.is_empty() { known.mnemonic } else { known.meaning };
    Some(format!(
        "{}: {meaning}.\nDo: {}.\nSource: {}.",
        known.mnemonic,
        xids::advice(known.action),
        known.basis
    ))
}

/// The page of a code: of an error, or of a cause.
pub fn page(code: &str) -> Option<String> {
    let error = pages().into_iter().find(|(name, _)| *name == code).map(|(_, text)| text);
    error.or_else(|| diagnosis::named(code).map(cause_page)).or_else(|| xid_page(code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compat;
    use crate::error::Kind;

    #[test]
    fn every_code_has_a_page_that_says_what_to_do() {
        let kinds =
            [Kind::Internal, Kind::Usage, Kind::Differs, Kind::Unreachable, Kind::Failed, Kind::Blocked]
                .map(Kind::code);
        let all = kinds.into_iter().chain(Hold::ALL.map(Hold::word)).chain(compat::ALL.map(|c| c.name));
        for code in all
            .chain(compat::ROOMS.map(|c| c.name))
            .chain(compat::POOLS.map(|c| c.name))
            .chain([compat::PACKAGE_ROLE])
        {
            assert!(page(code).is_some_and(|text| text.matches("\nDo: ").count() == 1), "{code}");
        }
    }

    #[test]
    fn a_cause_is_no_error_and_has_a_page() {
        let errors: Vec<&str> = pages().into_iter().map(|(code, _)| code).collect();
        for (cause, page) in causes() {
            assert!(!errors.contains(&cause.id), "{} is an error's code, too", cause.id);
            assert!(page.contains("\nDo: ") && page.contains("\nSource: "), "{}", cause.id);
        }
        assert!(page("xid-79").is_some_and(|text| text.contains("Do: ")) && page("xid-9999").is_none());
    }

    /// Every literal code in the sources.
    #[test]
    fn no_source_names_a_code_without_a_page() {
        let mut folders = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()) {
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|e| e == "rs") {
                    #[expect(clippy::disallowed_methods, reason = "a test that reads the sources")]
                    let text = std::fs::read_to_string(&path).unwrap();
                    for code in text.split(".code(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
                        seen += 1;
                        assert!(page(code).is_some(), "{}: {code}", path.display());
                    }
                }
            }
        }
        assert!(seen > 20);
    }
}
