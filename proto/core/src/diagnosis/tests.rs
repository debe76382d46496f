//! Every record by its own sample, and what looks like it.

use super::find::{Input, diagnose};
use super::known;
use std::collections::{BTreeMap, BTreeSet};

/// Lines that show each cause (`+`), and lines that do not (`-`).
fn samples() -> BTreeMap<&'static str, (Vec<&'static str>, Vec<&'static str>)> {
    let mut all = BTreeMap::new();
    for block in include_str!("samples.txt").split("\n\n") {
        let mut lines = block.trim_end().lines();
        let id = lines.next().unwrap_or_default();
        let (mut shows, mut healthy) = (vec![], vec![]);
        for line in lines {
            match line.split_at_checked(2) {
                Some(("+ ", line)) => shows.push(line),
                Some(("- ", line)) => healthy.push(line),
                _ => panic!("{id}: {line}"),
            }
        }
        assert!(all.insert(id, (shows, healthy)).is_none(), "{id} twice");
    }
    all
}

fn found(text: &str) -> Vec<String> {
    let input = Input { name: "text".into(), text, sources: vec![] };
    diagnose(&[input]).findings.into_iter().map(|f| f.cause).collect()
}

#[test]
fn every_cause_is_found_by_its_sample_and_not_by_what_is_healthy() {
    let samples = samples();
    let mut wrong = vec![];
    let mut first = 0;
    for cause in known::all().filter(|c| c.in_texts()) {
        let (shows, healthy) = &samples[cause.id];
        let causes = found(&shows.join("\n"));
        first += usize::from(causes.first().is_some_and(|c| c == cause.id));
        if !causes.iter().any(|c| c == cause.id) {
            wrong.push(format!("{} is not found in its sample: {causes:?}", cause.id));
        }
        for line in healthy {
            let causes = found(line);
            if causes.iter().any(|c| c == cause.id) {
                wrong.push(format!("{}: healthy, and found: {line}", cause.id));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(samples.len(), known::all().filter(|c| c.in_texts()).count());
    // The rest share their text with a rival, and a fact decides.
    assert!(first * 100 >= samples.len() * 85, "{first} of {} come first", samples.len());
}

#[test]
fn records_are_whole() {
    let ids: BTreeSet<&str> = known::all().map(|c| c.id).collect();
    assert_eq!(ids.len(), known::all().count());
    for cause in known::all() {
        assert!(!cause.fix.is_empty() && !cause.source.is_empty(), "{}", cause.id);
        assert!(cause.title.len() <= 72 && cause.cause.ends_with('.'), "{}: {}", cause.id, cause.cause);
        for (rival, when) in cause.rivals {
            assert!(ids.contains(rival) && !when.is_empty(), "{}: {rival}", cause.id);
        }
    }
    assert!(ids.len() > 100);
}

#[test]
fn the_whole_value_counts() {
    let of = |value: &str| found(&format!("        License Status                    : {value}"));
    assert_eq!(of("Unlicensed")[0], "unlicensed");
    assert!(!of("Unlicensed (Restricted)").is_empty());
    assert_eq!(of("Licensed (Expiry: 2027-1-2 3:4:5 GMT)"), Vec::<String>::new());
}

#[test]
fn what_is_not_known_shows_its_last_errors() {
    let text = "one\nsomething odd failed here\nall well\n";
    let report = diagnose(&[Input { name: "a".into(), text, sources: vec![] }]);
    assert!(report.findings.is_empty());
    assert_eq!(report.unknown.iter().map(|e| e.line_number).collect::<Vec<_>>(), [2]);
    assert!(diagnose(&[]).findings.is_empty());
}

#[test]
fn xids_beside_the_catalogue_are_told_by_nvidias_list() {
    let line = "[  12.3] NVRM: Xid (PCI:0000:3b:00): 62, pid=1, name=x, 2027 4 0";
    assert_eq!(found(line), ["xid-62"]);
    assert_eq!(found("NVRM: Xid (PCI:0000:3b:00): 31, pid=1, name=x, Ch 00000008"), ["xid-program-fault"]);
    // A note alone is none.
    assert_eq!(found("NVRM: Xid (PCI:0000:3b:00): 45, pid=1, name=x"), Vec::<String>::new());
}

/// A hundred thousand lines that have nothing.
#[test]
fn a_large_healthy_log_is_read_fast_and_says_nothing() {
    let text =
        "2026-03-02T06:10:09.114Z In(182) vmkernel: cpu12:2098113)ScsiDeviceIO: 4124: nothing of interest\n"
            .repeat(100_000);
    assert!(found(&text).is_empty());
}
