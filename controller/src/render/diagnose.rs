//! The answer of `diagnose`: the cause first, the lines that speak for it, what to do.

use crate::diagnose::{Diagnosis, State};
use crate::render::documents::{NoFault, Texts, Ways, value};
use crate::render::words::{width, wrapped};
use crate::render::{Answer, columns};
use vsgpu_core::diagnosis::{Confidence, Evidence, Finding, Report};
use vsgpu_core::words::counted;

/// Causes that are shown whole.
const WHOLE: usize = 3;

fn line(evidence: &Evidence) -> String {
    let times = if evidence.times > 1 { format!(", {} times", evidence.times) } else { String::new() };
    let text: String = evidence.line.chars().take(width() * 2).collect();
    if evidence.line_number == 0 {
        return format!("    {}\n{}", evidence.text, wrapped(&text, "      "));
    }
    format!("    {}, line {}{times}\n      {text}", evidence.text, evidence.line_number)
}

fn sure(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::High => "",
        Confidence::Medium => "  (likely)",
        Confidence::Low => "  (possible)",
    }
}

fn one(finding: &Finding, wide: bool) -> String {
    let mut text = format!("{}: {}{}", finding.cause, finding.title, sure(finding.confidence));
    text += &format!("\n{}", wrapped(&finding.because, "  "));
    for evidence in finding.evidence.iter().take(if wide { 8 } else { 2 }) {
        text += &format!("\n{}", line(evidence));
    }
    text += "\n  do";
    for (at, step) in finding.fix.iter().enumerate() {
        let step = wrapped(&format!("{}. {step}", at + 1), "    ");
        // Further lines of a step stand below its words.
        text += &format!("\n{}", step.replacen("\n    ", "\n       ", 9));
    }
    if !finding.or.is_empty() {
        text += "\n  or";
        for (cause, when) in &finding.or {
            text += &format!("\n{}", wrapped(&format!("{cause}, if {when}"), "    "));
        }
    }
    if wide {
        text += &format!("\n{}", wrapped(&format!("source: {}", finding.source), "  "));
    }
    text
}

fn list(findings: &[Finding], wide: bool) -> String {
    let shown = if wide { findings.len() } else { WHOLE.min(findings.len()) };
    let mut text: Vec<String> = findings[..shown].iter().map(|f| one(f, wide)).collect();
    if findings.len() > shown {
        let rest: Vec<&str> = findings[shown..].iter().map(|f| f.cause.as_str()).collect();
        text.push(wrapped(&format!("Less likely: {} (`-o wide` shows them).", rest.join(", ")), ""));
    }
    text.join("\n\n")
}

/// Of texts.
pub fn text_answer(report: &Report, texts: usize) -> Answer {
    let compose = |wide: bool| {
        let mut text = match report.findings.len() {
            0 => format!("Nothing is known to be wrong in {}.", counted(texts, "text")),
            _ => list(&report.findings, wide),
        };
        if !report.no_faults.is_empty() {
            text += "\n\nNo fault:";
            for (line, why) in &report.no_faults {
                let line: String = line.chars().take(width() - 4).collect();
                text += &format!("\n  {line}\n{}", wrapped(why, "    "));
            }
        }
        if report.findings.is_empty() && !report.unknown.is_empty() {
            text += "\n\nThe last lines that speak of an error, none of them known:";
            for evidence in &report.unknown {
                text += &format!("\n{}", line(evidence));
            }
        }
        text
    };
    let no_fault = |(line, why): &(String, String)| NoFault { line: line.clone(), why: why.clone() };
    let document = value(&Texts {
        findings: &report.findings,
        no_faults: report.no_faults.iter().map(no_fault).collect(),
        unknown: &report.unknown,
    });
    let names = report.findings.iter().map(|f| f.cause.clone()).collect();
    Answer { wide: Some(compose(true)), names, ..Answer::new(document, compose(false)) }
}

fn word(state: State) -> &'static str {
    match state {
        State::Good => "ok",
        State::Broken => "BROKEN",
        State::Unknown => "not known",
        State::NotAsked => "-",
    }
}

fn of_one(diagnosis: &Diagnosis, wide: bool) -> String {
    let rows: Vec<Vec<String>> = diagnosis
        .links
        .iter()
        .map(|l| {
            let is: String = l.is.chars().take(if wide { 400 } else { 50 }).collect();
            vec![format!("  {}", l.stage.word()), word(l.state).into(), is]
        })
        .collect();
    let mut text = format!("{}\n{}", diagnosis.about, columns(&rows));
    if !diagnosis.findings.is_empty() {
        text += &format!("\n\n{}", list(&diagnosis.findings, wide));
        if !diagnosis.together.is_empty() {
            text += "\n\n  At one time, by one clock:";
        }
        for one in diagnosis.together.iter().take(if wide { 8 } else { 3 }) {
            let said = format!(
                "{} ({}), {:.1} s later {} ({})",
                one.first, one.first_in, one.seconds, one.then, one.then_in
            );
            text += &format!("\n{}", wrapped(&said, "    "));
        }
    } else if diagnosis.red().is_some_and(|l| l.state == State::Broken) {
        text += "\n  No cause is known from the logs. `vsgpu plan` shows what would mend it.";
    }
    text
}

/// Of a fleet.
pub fn fleet_answer(all: &[Diagnosis]) -> Answer {
    let bad: Vec<&Diagnosis> = all.iter().filter(|d| d.red().is_some()).collect();
    let noted: Vec<&Diagnosis> = all.iter().filter(|d| d.red().is_none() && !d.findings.is_empty()).collect();
    let compose = |wide: bool| {
        let empty: Vec<&str> = all.iter().filter(|d| !d.judged()).map(|d| d.about.as_str()).collect();
        let mut text = match bad.len() {
            0 if empty.len() == all.len() => "No fault was found, and nothing is proven.".into(),
            0 => format!("All good: {} from host to CUDA.", counted(all.len() - empty.len(), "way")),
            n => format!("{n} of {} broken or not known.", counted(all.len(), "way")),
        };
        if !empty.is_empty() {
            let names = vsgpu_core::words::first(empty.iter().map(ToString::to_string), 4, "");
            let said = format!(
                "The fleet file wishes nothing of {names}: nothing of it is proven. `vsgpu facts` shows how it is."
            );
            text += &format!("\n{}", wrapped(&said, ""));
        }
        for diagnosis in &bad {
            text += &format!("\n\n{}", of_one(diagnosis, wide));
        }
        for diagnosis in &noted {
            let causes: Vec<&str> = diagnosis.findings.iter().map(|f| f.cause.as_str()).collect();
            text += &format!("\n\n{}: all links good; but look at {}", diagnosis.about, causes.join(", "));
        }
        if wide {
            for diagnosis in all.iter().filter(|d| d.red().is_none() && d.findings.is_empty()) {
                text += &format!("\n\n{}", of_one(diagnosis, true));
            }
        }
        text
    };
    let findings: Vec<&Finding> = all.iter().flat_map(|d| &d.findings).collect();
    let names = bad.iter().map(|d| d.about.clone()).collect();
    let document = value(&Ways { findings, ways: all });
    Answer { wide: Some(compose(true)), names, ..Answer::new(document, compose(false)) }
}
