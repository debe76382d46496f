//! Errors as they are shown: cause, machines, place, details, what to do, and the page with more. What several machines
//! share is said once, with their names.

use crate::error::Error;
use crate::fleet::range::folded;
use crate::render::words::broken;
use std::collections::{BTreeMap, BTreeSet};

/// Names of machines that one error lists.
const MOST: usize = 20;

/// One error, and the machines that have it.
struct Shared<'a> {
    error: &'a Error,
    machines: Vec<&'a str>,
}

/// The same errors of several machines as one; in the order of the first of each.
fn shared(errors: &[Error]) -> Vec<Shared<'_>> {
    let mut all: Vec<Shared<'_>> = vec![];
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for error in errors {
        // Unlike texts are unlike errors; those without a machine are the same only where all of them is.
        let machine = error.machine.as_deref();
        let text = alike(&format!("{}\n{}", error.cause(), tail(error, None)), machine.unwrap_or_default());
        let key = format!("{text}\n{}\n{}", error.code, machine.is_some());
        let at = *places.entry(key).or_insert(all.len());
        match all.get_mut(at) {
            Some(known) => known.machines.extend(error.machine.as_deref()),
            None => all.push(Shared { error, machines: error.machine.as_deref().into_iter().collect() }),
        }
    }
    for one in &mut all {
        let mut seen = BTreeSet::new();
        one.machines.retain(|machine| seen.insert(*machine));
    }
    all
}

/// A text without what is only of one machine: its name, its address, what its certificate looks like.
fn alike(text: &str, machine: &str) -> String {
    let (name, address) = machine.split_once(" at ").unwrap_or((machine, ""));
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let own = [address, host, name, port].into_iter().filter(|part| part.len() > 1);
    let text = own.fold(text.to_string(), |text, part| text.replace(part, "*"));
    match text.split_once("SHA-256 ") {
        Some((before, after)) => {
            before.to_string() + after.trim_start_matches(|c: char| c.is_ascii_hexdigit() || ":.".contains(c))
        }
        None => text,
    }
}

/// All of them. `width`: of the terminal; nothing is broken where there is none.
pub fn text(errors: &[Error], width: Option<usize>) -> String {
    let all = shared(errors);
    // Each page once, behind the last error that has it.
    let last: BTreeMap<&str, usize> = all.iter().enumerate().map(|(at, one)| (one.error.code, at)).collect();
    let shown = |(at, one): (usize, &Shared<'_>)| {
        let head = match one.machines.as_slice() {
            [] | [_] => broken(&format!("error[{}]: {}", one.error.code, one.error.message), "  ", width),
            some => {
                let mut names = folded(some);
                let left = names.len().saturating_sub(MOST);
                names.truncate(MOST);
                let more = if left > 0 { format!(" and {left} more") } else { String::new() };
                let head = broken(&format!("error[{}]: {}", one.error.code, one.error.cause()), "  ", width);
                head + &broken(&format!("  {}{more}", names.join(", ")), "  ", width)
            }
        };
        let more = match last[one.error.code] == at {
            true => format!("more: vsgpu explain {}\n", one.error.code),
            false => String::new(),
        };
        // The page is something to do, too: it stands apart from what is said.
        let gap = if one.error.hints.is_empty() && !more.is_empty() { "\n" } else { "" };
        format!("{head}{}{gap}{more}", tail(one.error, width))
    };
    all.iter().enumerate().map(shown).collect::<Vec<_>>().join("\n")
}

/// One error by itself.
pub fn rendered(error: &Error) -> String {
    format!("error[{}]: {}\n{}", error.code, error.message, tail(error, None))
}

/// What stands below the first line.
fn tail(error: &Error, width: Option<usize>) -> String {
    let mut text = String::new();
    if let Some(place) = &error.place {
        text += &format!("  {place}\n");
    }
    for detail in &error.details {
        text += &broken(&format!("  {detail}"), "  ", width);
    }
    if !error.hints.is_empty() {
        text += "\n";
    }
    for hint in &error.hints {
        text += &broken(&format!("hint: {hint}"), "      ", width);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn what_machines_share_is_said_once_with_their_names() {
        let of = |machine: &str| {
            Error::new(Kind::Failed, "license: the token was not made by that server")
                .hint("make a new one")
                .with(machine)
        };
        let other = Error::new(Kind::Failed, "driver: no space").with("vm-04 (guest)");
        let errors =
            [of("vm-01 (guest)"), of("vm-02 (guest)"), other, of("vm-03 (guest)"), of("vm-03 (guest)")];
        assert_eq!(
            text(&errors, None),
            "error[failed]: license: the token was not made by that server\n  vm-[01-03] (guest)\n\nhint: make a new one\n\nerror[failed]: vm-04 (guest): driver: no space\n\nmore: vsgpu explain failed\n"
        );
        // Also where each hint names its own machine.
        let silent = |n: u32| {
            let hint = format!("`nc -vz 10.0.0.{n} 7443`");
            Error::new(Kind::Unreachable, "no answer")
                .hint(hint)
                .with(&format!("esx-0{n} at 10.0.0.{n}:7443"))
        };
        let said = text(&[silent(1), silent(2)], None);
        assert!(said.contains("no answer\n  ") && said.matches("hint: ").count() == 1, "{said}");
        let narrow = text(&errors[..1], Some(40));
        assert!(narrow.lines().all(|line| line.chars().count() <= 40), "{narrow}");
    }
}
