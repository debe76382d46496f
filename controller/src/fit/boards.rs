//! Boards by the names that people give them.

use vsgpu_core::knowledge::gpus::{self, Model};

/// Whether a board is meant by a name: each of its words, and its memory with or without `GB`.
pub(super) fn is_named(name: &str, model: &Model) -> bool {
    let mut memory = false;
    let words: Vec<&str> = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .filter(|word| {
            let of_memory = word.to_lowercase();
            let of_memory =
                of_memory.trim_end_matches('b').trim_end_matches('g').parse() == Ok(model.memory_gib);
            memory |= of_memory;
            !of_memory
        })
        .collect();
    if words.is_empty() {
        return memory && name.trim() == model.memory_gib.to_string();
    }
    gpus::is_named(&words.join(" "), &[model.name, model.token])
}

/// Boards that a name may mean, and of those the one of which profiles are wanted, if there is one.
pub fn model(name: &str, wanted: &[&str]) -> Result<&'static Model, String> {
    let found: Vec<&'static Model> = gpus::all().iter().filter(|m| is_named(name, m)).collect();
    let exact = found.iter().find(|m| m.token.eq_ignore_ascii_case(name.trim()));
    let of_wish = found.iter().find(|m| wanted.iter().any(|token| m.token.eq_ignore_ascii_case(token)));
    exact.or(of_wish).or(found.first()).copied().ok_or_else(|| match gpus::nearest(name) {
        Some(near) => format!("no GPU of the table is called `{name}`; did you mean `{near}`?"),
        None => format!("no GPU of the table is called `{name}`; name it as A100-80, L40S, T4"),
    })
}
