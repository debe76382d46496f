//! Numbers in sentences.

/// `1 host`, `3 hosts`.
pub fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// `a, b and 3 more`: the first `most` of them, or what is said of none.
pub fn first(all: impl Iterator<Item = String>, most: usize, none: &str) -> String {
    let all: Vec<String> = all.collect();
    match all.len() {
        0 => none.into(),
        n if n > most => format!("{} and {} more", all[..most].join(", "), n - most),
        _ => all.join(", "),
    }
}

/// How an agent says which task of vCenter it began: people find it there by this.
pub fn task(id: &str, host: &str) -> String {
    format!("{id}{TASK}{host})")
}

const TASK: &str = " (Recent Tasks of ";

/// Whether something that an agent said is that.
pub fn names_task(said: &str) -> bool {
    said.contains(TASK) && said.ends_with(')')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_end() {
        let names = |n: usize| (0..n).map(|i| format!("vm-{i}"));
        assert_eq!(first(names(0), 2, "none"), "none");
        assert_eq!(first(names(2), 2, "none"), "vm-0, vm-1");
        assert_eq!(first(names(5), 2, "none"), "vm-0, vm-1 and 3 more");
    }
}
