//! The verbs in groups, as somebody looks for them: what `vsgpu --help` and `vsgpu` alone show.

/// A heading, and its verbs. Every verb stands in one group; a test says so.
pub(super) const GROUPS: [(&str, &[&str]); 6] = [
    ("Start here", &["init", "discover", "validate", "plan", "apply", "verify"]),
    ("Look", &["status", "runs", "facts", "top", "page", "report", "diagnose", "bundle", "explain"]),
    ("Repair", &["resume", "abort", "rollback", "release", "upgrade"]),
    ("Decide", &["advise", "fit", "compat", "ready", "baseline"]),
    ("Machines", &["clone", "export", "pool"]),
    ("Set up", &["ca", "cert", "bootstrap", "config", "exporter", "schema", "completions", "man"]),
];

/// The groups as lines; verbs of the first with what they do.
pub(super) fn text(command: &clap::Command) -> String {
    let mut text = String::new();
    for (at, (title, verbs)) in GROUPS.iter().enumerate() {
        if at > 0 {
            text += &format!("{title:<11} {}\n", verbs.join("  "));
            continue;
        }
        text += &format!("{title}\n");
        for verb in *verbs {
            let about = command.find_subcommand(verb).and_then(clap::Command::get_about);
            text += &format!("  {verb:<9} {}\n", about.map(ToString::to_string).unwrap_or_default());
        }
    }
    text + "\n`vsgpu VERB --help` shows examples."
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_verb_stands_in_one_group() {
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, verbs)| verbs.iter().copied()).collect();
        let command = crate::cli::command();
        let verbs: BTreeSet<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(grouped.iter().copied().collect::<BTreeSet<_>>(), verbs);
        assert_eq!(grouped.len(), verbs.len(), "one stands twice");
    }
}
