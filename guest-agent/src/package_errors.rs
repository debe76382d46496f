//! Why a package tool failed, for every requirement that installs packages.

use vsgpu_core::diagnosis::{Input, Source, first_cause};
use vsgpu_core::requirement::{Explained, Failure};

/// The cause of a failed installation, where the tool's own words tell it.
pub(crate) fn explain(failure: &Failure) -> Option<Explained> {
    let said = failure.output.as_ref().map(|o| o.both()).unwrap_or_default() + "\n" + &failure.why;
    // Where nothing at all is found, the headers are only one of many: then the repositories are what is
    // missing.
    let others =
        said.contains("Unable to locate package gcc") || said.contains("has no installation candidate");
    let text: String =
        said.lines().filter(|line| !(others && line.contains("headers"))).map(|l| format!("{l}\n")).collect();
    let input = Input { name: "package tool".into(), text: &text, sources: vec![Source::Installer] };
    first_cause(&[input]).map(|(_, explained)| explained)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_that_fits_is_said() {
        let cause =
            |why: &str| explain(&Failure { why: why.into(), output: None, since: 0 }).map(|e| e.cause);
        assert!(
            cause("E: Unable to locate package linux-headers-6.1.0-9-amd64").unwrap().contains("headers")
        );
        let both = "E: Unable to locate package gcc\nE: Unable to locate package linux-headers-6.1.0-9-amd64";
        assert!(cause(both).unwrap().contains("no repository"), "{:?}", cause(both));
        assert!(cause("E: Unable to locate package gcc").unwrap().contains("no repository"));
        assert!(cause("dpkg: error: cannot write: No space left on device").unwrap().contains("full"));
        assert_eq!(cause("something else"), None);
    }
}
