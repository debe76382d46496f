//! `key=value` lines of configuration files, with or without sections: set some, keep all others byte for
//! byte.

/// A text with these keys set, or dropped. In a file with sections only those of `section` are touched; it is
/// made where it is missing. Only there a line that begins with a blank goes on with the one before;
/// elsewhere it is a line as any other.
pub fn set(text: &str, section: Option<&str>, set: &[(String, Option<String>)]) -> String {
    let goes_on = |line: &str| section.is_some() && line.starts_with([' ', '\t']);
    let key_of = |line: &str| {
        let of_its_own = !goes_on(line) && !line.trim_start().starts_with(['#', ';']);
        line.split_once('=').map(|(key, _)| key.trim().to_string()).filter(|k| of_its_own && !k.is_empty())
    };
    let (mut out, mut inside, mut at, mut dropping) = (vec![], section.is_none(), None, false);
    for line in text.lines() {
        if dropping && goes_on(line) {
            continue;
        }
        dropping = false;
        if section.is_some() && line.trim_start().starts_with('[') {
            inside = section == Some(line.trim());
            out.push(line.to_string());
            if inside {
                at = Some(out.len());
            }
            continue;
        }
        if inside && key_of(line).is_some_and(|key| set.iter().any(|(k, _)| *k == key)) {
            dropping = true;
            continue;
        }
        out.push(line.to_string());
    }
    let own = set.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?)));
    match (section, at) {
        (Some(_), Some(at)) => drop(out.splice(at..at, own)),
        (Some(section), None) => {
            out.push(section.to_string());
            out.extend(own);
        }
        (None, _) => out.extend(own),
    }
    out.join("\n") + "\n"
}

/// Values of a key, continuation lines included, in a section or anywhere.
pub fn values<'a>(text: &'a str, section: Option<&str>, key: &str) -> Vec<&'a str> {
    let (mut found, mut inside, mut goes_on) = (vec![], section.is_none(), false);
    for line in text.lines() {
        if goes_on && line.starts_with([' ', '\t']) {
            found.push(line.trim());
            continue;
        }
        goes_on = false;
        if section.is_some() && line.trim_start().starts_with('[') {
            inside = section == Some(line.trim());
        } else if let Some((_, value)) =
            line.split_once('=').filter(|(k, _)| inside && k.trim() == key && !line.starts_with(['#', ';']))
        {
            found.push(value.trim());
            goes_on = true;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &str) -> Vec<(String, Option<String>)> {
        vec![(key.into(), Some(value.into()))]
    }

    #[test]
    fn a_key_is_set_in_its_section_and_the_rest_stays() {
        let text = "[main]\ngpgcheck=1\nproxy=old\n# proxy=example\n[other]\nproxy=theirs\n";
        assert_eq!(
            set(text, Some("[main]"), &one("proxy", "new")),
            "[main]\nproxy=new\ngpgcheck=1\n# proxy=example\n[other]\nproxy=theirs\n"
        );
        assert_eq!(set("", Some("[main]"), &one("proxy", "new")), "[main]\nproxy=new\n");
        assert_eq!(set("A=1\nB = 2\n", None, &one("B", "3")), "A=1\nB=3\n");
        assert_eq!(set("A=1\n  B = 2\nC=3\n", None, &[("B".into(), None)]), "A=1\nC=3\n");
        let twice =
            set(&set(text, Some("[main]"), &one("proxy", "new")), Some("[main]"), &one("proxy", "new"));
        assert_eq!(twice, set(text, Some("[main]"), &one("proxy", "new")), "twice is once");
    }

    #[test]
    fn continued_values_are_read_and_replaced_whole() {
        let text = "[main]\nexcludepkgs=a,\n  b\nkeep=1\n";
        assert_eq!(values(text, Some("[main]"), "excludepkgs"), ["a,", "b"]);
        assert_eq!(set(text, Some("[main]"), &one("excludepkgs", "c")), "[main]\nexcludepkgs=c\nkeep=1\n");
    }
}
