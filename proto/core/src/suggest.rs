//! "Did you mean": the nearest of a few known words.

/// The known word most like `typed`, if one is near enough to be a slip of the fingers.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = typed.to_lowercase();
    known
        .into_iter()
        .map(|word| (strsim::normalized_damerau_levenshtein(&lower, &word.to_lowercase()), word))
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_slip_is_recognised_and_a_stranger_is_not() {
        let known = ["graphics-type", "ecc", "vgpu-manager"];
        assert_eq!(crate::suggest::nearest("graphic-type", known), Some("graphics-type"));
        assert_eq!(crate::suggest::nearest("GRAPHICS-TYPE", known), Some("graphics-type"));
        assert_eq!(crate::suggest::nearest("banana", known), None);
    }
}
