//! Name ranges: `esx-[01-16]` stands for sixteen names, digits kept.

use std::collections::{BTreeMap, BTreeSet};

/// Names that a key of the fleet file stands for, each with its number in the range.
///
/// # Errors
/// A sentence.
pub fn expand(name: &str) -> Result<Vec<(String, String)>, String> {
    let Some((head, rest)) = name.split_once('[') else {
        return plain(name).map(|()| vec![(name.into(), String::new())]);
    };
    let wrong = || format!("`{name}` is no range like `esx-[01-16]`");
    let (range, tail) = rest.split_once(']').ok_or_else(wrong)?;
    let (first, last) = range.split_once('-').ok_or_else(wrong)?;
    if first.is_empty()
        || !first.bytes().chain(last.bytes()).all(|b| b.is_ascii_digit())
        || tail.contains(['[', ']'])
    {
        return Err(wrong());
    }
    let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
    let (from, to) = (number(first)?, number(last)?);
    if from > to || to - from >= 10_000 {
        return Err(format!("`{name}` must count upwards, over at most 10,000 names"));
    }
    let names = (from..=to).map(|n| {
        let digits = format!("{n:0width$}", width = first.len());
        (format!("{head}{digits}{tail}"), digits)
    });
    let names: Vec<_> = names.collect();
    plain(&names[0].0).map(|()| names)
}

/// Names as a fleet file would write them: `esx-01`, `esx-02` and `esx-03` are `esx-[01-03]`. In the order of the
/// names; one that is in no range stands for itself.
pub fn folded<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> Vec<String> {
    // Head, width and tail, then the number: the last digits of a name count.
    let parts = |name: &str| {
        let end = name.rfind(|c: char| c.is_ascii_digit()).map(|at| at + 1)?;
        let begin = name[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
        let digits = &name[begin..end];
        let number: u32 = digits.parse().ok()?;
        Some(((name[..begin].to_string(), digits.len(), name[end..].to_string()), number))
    };
    let (mut groups, mut single) = (BTreeMap::<_, BTreeSet<u32>>::new(), BTreeSet::new());
    for name in names {
        match parts(name.as_ref()) {
            Some((key, number)) => drop(groups.entry(key).or_default().insert(number)),
            None => drop(single.insert(name.as_ref().to_string())),
        }
    }
    let mut all: Vec<String> = single.into_iter().collect();
    for ((head, width, tail), numbers) in groups {
        let mut numbers = numbers.into_iter().peekable();
        while let Some(first) = numbers.next() {
            let mut last = first;
            while let Some(next) = numbers.next_if(|next| last.checked_add(1) == Some(*next)) {
                last = next;
            }
            all.push(match first == last {
                true => format!("{head}{first:0width$}{tail}"),
                false => format!("{head}[{first:0width$}-{last:0width$}]{tail}"),
            });
        }
    }
    all.sort();
    all
}

/// Names become parts of certificates and files.
fn plain(name: &str) -> Result<(), String> {
    let good = !name.is_empty()
        && name.len() <= 63
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if good {
        Ok(())
    } else {
        Err(format!("`{name}` is no name: letters, digits, `-`, `_` and `.`, at most 63"))
    }
}

pub use vsgpu_core::suggest::nearest;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded_as_they_are_expanded() {
        let text = |names: &[&str]| folded(names).join(", ");
        assert_eq!(text(&["vm-03", "vm-01", "vm-02", "db", "vm-9"]), "db, vm-9, vm-[01-03]");
        assert_eq!(text(&["esx-1.lab", "esx-2.lab", "esx-4.lab"]), "esx-4.lab, esx-[1-2].lab");
        assert_eq!(text(&["a9", "a10"]), "a10, a9", "another number of digits is another range");
        assert_eq!(text(&["vm-4294967295"]), "vm-4294967295");
        for range in ["esx-[08-12].lab", "vm-[001-100]", "7[1-3]"] {
            let names: Vec<String> = expand(range).unwrap_or_default().into_iter().map(|(n, _)| n).collect();
            assert!(!names.is_empty() && folded(&names).len() == 1, "{range}");
        }
    }

    #[test]
    fn ranges_keep_their_digits() {
        let names = |text| expand(text).map(|l| l.into_iter().map(|(n, _)| n).collect::<Vec<_>>());
        assert_eq!(
            names("esx-[08-10].lab"),
            Ok(vec!["esx-08.lab".into(), "esx-09.lab".into(), "esx-10.lab".into()])
        );
        assert_eq!(names("vm"), Ok(vec!["vm".into()]));
        for wrong in ["", "a[1", "a[1-]", "a[-3]", "a[3-1]", "a[1-99999999]", "a b", "../x", "a[1-2][3-4]"] {
            assert!(expand(wrong).is_err(), "{wrong}");
        }
    }
}
