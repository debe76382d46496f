//! Name ranges: `esx-[01-16]` stands for sixteen names, digits kept.

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
