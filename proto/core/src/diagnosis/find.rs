//! The search for causes in texts. Every line is looked at once: pieces of all patterns are searched together
//! (Aho-Corasick), and only lines that have one are compared whole.

use super::cause::{Cause, Confidence, Fix, Pattern, Sign, Source, Stage};
use super::known;
use super::known::text::{HINTS, NOT_FAULTS};
use crate::knowledge::xids::{self, Severity};
use crate::requirement::Explained;
use aho_corasick::AhoCorasick;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;

/// Characters of a line that are looked at.
const LINE: usize = 4096;
/// Lines of one text.
const LINES: usize = 2_000_000;
/// Lines that are kept of one pattern in one text: the newest ones.
const KEPT: usize = 200;
/// Characters of a line that is shown.
const SHOWN: usize = 300;
/// Lines that are shown where nothing is known.
const UNKNOWN: usize = 5;

/// A text.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// Where it is from, for people: `vmware.log of vm-01`.
    pub name: String,
    /// The text itself.
    pub text: &'a str,
    /// What it is; empty where that is to be found out.
    pub sources: Vec<Source>,
}

/// A line that speaks for a cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Evidence {
    /// The text it stands in.
    pub text: String,
    /// Its number, from 1; 0 where it is no line of a text but what facts say.
    pub line_number: usize,
    /// The line.
    pub line: String,
    /// How often there is one like it.
    pub times: usize,
}

/// A cause that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// Its code.
    pub cause: String,
    /// Where it is.
    pub stage: Stage,
    /// In one line.
    pub title: String,
    /// How sure it is.
    pub confidence: Confidence,
    /// What is wrong.
    pub because: String,
    /// What to do, in this order.
    pub fix: Vec<String>,
    /// Lines that say so.
    pub evidence: Vec<Evidence>,
    /// Other causes with the same text, and what would decide for them.
    #[serde(default)]
    pub or: Vec<(String, String)>,
    /// Where this comes from.
    pub source: String,
    /// It says that something is wrong, and not what.
    #[serde(default)]
    pub symptom: bool,
}

/// All that was found in texts.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Causes, the most likely first.
    pub findings: Vec<Finding>,
    /// What looks like a fault and is none: the line, and why.
    pub no_faults: Vec<(String, String)>,
    /// Where nothing is known: the last lines that speak of an error.
    pub unknown: Vec<Evidence>,
}

/// Patterns, numbered.
struct Patterns {
    search: AhoCorasick,
    /// The pattern that each piece belongs to.
    of_piece: Vec<usize>,
    all: Vec<Pattern>,
    numbers: HashMap<Pattern, usize>,
}

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let mut all: Vec<Pattern> = vec![];
    let mut numbers = HashMap::new();
    let of_causes = known::all().flat_map(|cause| {
        cause.signs.iter().flat_map(|s| s.lines.iter()).chain(cause.unless.iter().map(|u| &u.line))
    });
    let others = NOT_FAULTS.iter().map(|n| &n.line).chain(HINTS.iter().map(|h| &h.line));
    for pattern in of_causes.chain(others) {
        numbers.entry(*pattern).or_insert_with(|| {
            all.push(*pattern);
            all.len() - 1
        });
    }
    let (mut pieces, mut of_piece) = (vec![], vec![]);
    for (number, pattern) in all.iter().enumerate() {
        let words = match pattern {
            Pattern::Line(text) => {
                vec![
                    text.split('*')
                        .max_by_key(|piece| piece.trim().len())
                        .unwrap_or_default()
                        .trim()
                        .to_string(),
                ]
            }
            Pattern::Value(name, _) => vec![(*name).to_string(), name.replace(' ', "_")],
        };
        for word in words {
            pieces.push(word);
            of_piece.push(number);
        }
    }
    let search = AhoCorasick::builder().ascii_case_insensitive(true).build(&pieces);
    #[expect(clippy::unwrap_used, reason = "the pieces are ours; a test builds them")]
    let search = search.unwrap();
    Patterns { search, of_piece, all, numbers }
});

fn matches(pattern: &Pattern, lower: &str) -> bool {
    match pattern {
        Pattern::Line(text) => {
            let mut rest = lower;
            text.to_lowercase().split('*').all(|piece| match rest.find(piece) {
                Some(at) => {
                    rest = &rest[at + piece.len()..];
                    true
                }
                None => false,
            })
        }
        Pattern::Value(name, value) => {
            let (name, value) = (name.to_lowercase(), value.to_lowercase());
            let plain =
                lower.trim().split_once(':').is_some_and(|(n, v)| n.trim() == name && v.trim() == value);
            let tag = name.replace(' ', "_");
            let inside = || {
                let (_, rest) = lower.split_once(&format!("<{tag}>"))?;
                let (found, _) = rest.split_once(&format!("</{tag}>"))?;
                Some(found.trim() == value)
            };
            plain || inside().unwrap_or(false)
        }
    }
}

/// What one text has of all patterns: their lines, counted from 0.
struct Looked<'a> {
    input: &'a Input<'a>,
    lines: Vec<&'a str>,
    hits: BTreeMap<usize, Vec<usize>>,
    counts: BTreeMap<usize, usize>,
    /// What it may be; all where nothing tells.
    sources: BTreeSet<Source>,
    /// It was said, or a line leaves no doubt.
    sure: bool,
}

fn look<'a>(input: &'a Input<'a>) -> Looked<'a> {
    let patterns = &*PATTERNS;
    let mut hits: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    let lines: Vec<&str> = input.text.lines().take(LINES).collect();
    let mut candidates = vec![];
    for (number, line) in lines.iter().enumerate() {
        let line = line.get(..line.floor_char_boundary(LINE)).unwrap_or(line);
        candidates.clear();
        candidates.extend(patterns.search.find_overlapping_iter_or(line).map(|at| patterns.of_piece[at]));
        if candidates.is_empty() {
            continue;
        }
        candidates.sort_unstable();
        candidates.dedup();
        let lower = line.to_lowercase();
        for pattern in candidates.iter().filter(|p| matches(&patterns.all[**p], &lower)) {
            *counts.entry(*pattern).or_default() += 1;
            let kept = hits.entry(*pattern).or_default();
            if kept.len() == KEPT {
                kept.remove(0);
            }
            kept.push(number);
        }
    }
    let mut sources: BTreeSet<Source> = input.sources.iter().copied().collect();
    let mut sure = !sources.is_empty();
    if sources.is_empty() {
        let has = |line: &Pattern| patterns.numbers.get(line).is_some_and(|n| hits.contains_key(n));
        let found: Vec<_> = HINTS.iter().filter(|hint| has(&hint.line)).collect();
        sure = found.iter().any(|hint| hint.strong);
        sources.extend(found.iter().filter(|hint| hint.strong || !sure).map(|hint| hint.source));
    }
    Looked { input, lines, hits, counts, sources, sure }
}

/// Overlapping matches; patterns share pieces.
trait Overlapping {
    fn find_overlapping_iter_or<'h>(&'h self, line: &'h str) -> impl Iterator<Item = usize> + 'h;
}

impl Overlapping for AhoCorasick {
    fn find_overlapping_iter_or<'h>(&'h self, line: &'h str) -> impl Iterator<Item = usize> + 'h {
        self.find_overlapping_iter(line).map(|found| found.pattern().as_usize())
    }
}

impl Looked<'_> {
    fn has(&self, pattern: &Pattern) -> Option<&Vec<usize>> {
        // Most texts have nothing at all.
        if self.hits.is_empty() {
            return None;
        }
        self.hits.get(PATTERNS.numbers.get(pattern)?)
    }

    /// Last line at which a sign is complete.
    fn complete(&self, sign: &Sign) -> Option<usize> {
        let (first, rest) = sign.lines.split_first()?;
        let starts = self.has(first)?;
        if rest.is_empty() {
            return starts.last().copied();
        }
        starts.iter().rev().find_map(|start| {
            let end = if sign.within == 0 { usize::MAX } else { start + sign.within };
            rest.iter().try_fold(*start, |at, pattern| {
                self.has(pattern)?.iter().copied().find(|line| *line > at && *line < end)
            })
        })
    }

    fn evidence(&self, sign: &Sign, at: usize) -> Evidence {
        let number = sign.lines.last().and_then(|p| PATTERNS.numbers.get(p));
        let line = self.lines.get(at).copied().unwrap_or_default().trim();
        Evidence {
            text: self.input.name.clone(),
            line_number: at + 1,
            line: line.chars().take(SHOWN).collect(),
            times: number.and_then(|n| self.counts.get(n)).copied().unwrap_or(1),
        }
    }

    /// Whether a sign is looked for in this text: what it is may only be guessed.
    fn is_for(&self, sign: &Sign) -> bool {
        !self.sure
            || sign.found_in.contains(&Source::Any)
            || self.sources.is_empty()
            || sign.found_in.iter().any(|s| self.sources.contains(s))
            // Several tools in one paste: only what was said outright is taken at its word.
            || self.input.sources.is_empty()
    }

    /// Whether it is one of those that the text seems to be.
    fn is_likely(&self, sign: &Sign) -> bool {
        sign.found_in.iter().any(|s| *s == Source::Any || self.sources.contains(s))
    }

    /// The text and the sign are of different machines.
    fn is_of_other_side(&self, sign: &Sign) -> bool {
        let sides: BTreeSet<bool> = self.sources.iter().filter_map(|s| s.of_host()).collect();
        let of_sign: BTreeSet<bool> = sign.found_in.iter().filter_map(|s| s.of_host()).collect();
        self.sure && !sides.is_empty() && !of_sign.is_empty() && sides.is_disjoint(&of_sign)
    }
}

struct Candidate {
    cause: &'static Cause,
    confidence: Confidence,
    evidence: Vec<Evidence>,
    likely: bool,
    other_side: bool,
    order: usize,
}

/// What is wrong, as far as these texts say. All of them are of one case: what takes a sign back may stand in another.
pub fn diagnose(inputs: &[Input<'_>]) -> Report {
    let looked: Vec<Looked<'_>> = inputs.iter().map(look).collect();
    let mut found: Vec<Candidate> = vec![];
    for (order, cause) in known::all().enumerate() {
        if let Some(candidate) = candidate(cause, order, &looked) {
            found.push(candidate);
        }
    }
    settle(&mut found);
    found.sort_by_key(|c| {
        (c.other_side, c.cause.symptom, std::cmp::Reverse(c.confidence), !c.likely, c.order)
    });
    let ids: BTreeSet<&str> = found.iter().map(|c| c.cause.id).collect();
    let mut findings: Vec<Finding> = found.iter().map(|c| finding(c, &ids)).collect();
    findings.extend(other_xids(&looked, &findings));
    let no_faults = no_faults(&looked);
    let unknown = if findings.is_empty() { unknown(&looked) } else { vec![] };
    Report { findings, no_faults, unknown }
}

fn candidate(cause: &'static Cause, order: usize, looked: &[Looked<'_>]) -> Option<Candidate> {
    let mut best: Option<Candidate> = None;
    for text in looked {
        for sign in cause.signs.iter().filter(|sign| text.is_for(sign)) {
            let Some(at) = text.complete(sign) else { continue };
            let taken_back = cause.unless.iter().any(|unless| match unless.later {
                true => text.has(&unless.line).is_some_and(|lines| lines.iter().any(|line| *line > at)),
                false => looked.iter().any(|other| other.has(&unless.line).is_some()),
            });
            if taken_back {
                continue;
            }
            let (likely, other_side) = (text.is_likely(sign), text.is_of_other_side(sign));
            let evidence = text.evidence(sign, at);
            let candidate = best.get_or_insert_with(|| Candidate {
                cause,
                confidence: sign.confidence,
                evidence: vec![],
                likely,
                other_side,
                order,
            });
            candidate.confidence = candidate.confidence.max(sign.confidence);
            candidate.likely |= likely;
            candidate.other_side &= other_side;
            if candidate.evidence.len() < 4 && !candidate.evidence.contains(&evidence) {
                candidate.evidence.push(evidence);
            }
        }
    }
    best
}

/// Causes with the same line: who is of the other machine gives way.
fn settle(found: &mut Vec<Candidate>) {
    if found.iter().all(|c| !c.other_side) {
        return;
    }
    let right: BTreeSet<&str> = found.iter().filter(|c| !c.other_side).map(|c| c.cause.id).collect();
    let is_rival = |one: &Cause, other: &str| one.rivals.iter().any(|(rival, _)| *rival == other);
    let gives_way = |cause: &Cause| {
        right.iter().any(|id| is_rival(cause, id) || known::named(id).is_some_and(|c| is_rival(c, cause.id)))
    };
    found.retain(|c| !c.other_side || !gives_way(c.cause));
}

fn finding(candidate: &Candidate, ids: &BTreeSet<&str>) -> Finding {
    let mut finding = Finding::of(candidate.cause, candidate.confidence, candidate.evidence.clone());
    // Those that were found, too, stand in the list themselves.
    finding.or.retain(|(id, _)| !ids.contains(id.as_str()));
    finding
}

/// Xids that no record of the catalogue has, by NVIDIA's own list; what is only a note is none.
fn other_xids(looked: &[Looked<'_>], findings: &[Finding]) -> Vec<Finding> {
    let told: BTreeSet<(String, usize)> =
        findings.iter().flat_map(|f| f.evidence.iter().map(|e| (e.text.clone(), e.line_number))).collect();
    let mut codes: BTreeMap<u32, Evidence> = BTreeMap::new();
    for text in looked {
        for (number, line) in text.lines.iter().enumerate() {
            if !line.contains("Xid (") || told.contains(&(text.input.name.clone(), number + 1)) {
                continue;
            }
            let Some((_, code, _)) = xids::read(line) else { continue };
            let line: String = line.trim().chars().take(SHOWN).collect();
            codes.entry(code).and_modify(|e| e.times += 1).or_insert(Evidence {
                text: text.input.name.clone(),
                line_number: number + 1,
                line,
                times: 1,
            });
        }
    }
    let of_record = |code: u32| {
        let sign = format!("): {code},");
        findings.iter().any(|f| f.evidence.iter().any(|e| e.line.contains(&sign)))
    };
    let finding = |(code, evidence): (u32, Evidence)| {
        let known = xids::of_code(code)?;
        if known.severity == Severity::Info || of_record(code) {
            return None;
        }
        Some(Finding {
            cause: format!("xid-{code}"),
            stage: Stage::Guest,
            title: format!(
                "Xid {code}: {}",
                if known.meaning.is_empty() { known.mnemonic } else { known.meaning }
            ),
            confidence: if known.severity == Severity::Critical { Confidence::High } else { Confidence::Low },
            because: format!(
                "The driver reports {} of the GPU ({}).",
                known.mnemonic,
                match known.severity {
                    Severity::Critical => "it does not work as it should",
                    Severity::Application => "mostly one program is to blame",
                    _ => "to be looked into",
                }
            ),
            fix: vec![match known.action {
                "" => "look at the lines of NVRM around it".to_string(),
                action => xids::advice(action).to_string(),
            }],
            evidence: vec![evidence],
            or: vec![],
            source: known.basis.to_string(),
            symptom: false,
        })
    };
    codes.into_iter().filter_map(finding).collect()
}

fn no_faults(looked: &[Looked<'_>]) -> Vec<(String, String)> {
    let mut all = vec![];
    for fault in NOT_FAULTS {
        for text in looked {
            let of_text = fault.found_in.iter().any(|s| *s == Source::Any || text.sources.contains(s));
            if let Some(at) = text.has(&fault.line).and_then(|lines| lines.last()).filter(|_| of_text) {
                let line: String = text.lines[*at].trim().chars().take(SHOWN).collect();
                all.push((line, fault.why.to_string()));
                break;
            }
        }
    }
    all
}

/// The last lines that speak of an error, where nobody knows what they mean.
fn unknown(looked: &[Looked<'_>]) -> Vec<Evidence> {
    let known: BTreeSet<usize> =
        NOT_FAULTS.iter().filter_map(|n| PATTERNS.numbers.get(&n.line).copied()).collect();
    let mut all = vec![];
    for text in looked {
        let told: BTreeSet<usize> = text
            .hits
            .iter()
            .filter(|(p, _)| known.contains(p))
            .flat_map(|(_, lines)| lines.clone())
            .collect();
        let says = |line: &str| {
            let lower = line.to_lowercase();
            ["error", "fail", "fatal", "denied", "not supported", "refused"].iter().any(|w| lower.contains(w))
                && !["0 error", "no error", "error: 0", "errors: 0", "without error"]
                    .iter()
                    .any(|w| lower.contains(w))
        };
        let lines = text.lines.iter().enumerate().rev();
        let found = lines.filter(|(number, line)| !told.contains(number) && says(line)).take(UNKNOWN);
        all.extend(found.map(|(number, line)| Evidence {
            text: text.input.name.clone(),
            line_number: number + 1,
            line: line.trim().chars().take(SHOWN).collect(),
            times: 1,
        }));
    }
    all.truncate(UNKNOWN);
    all
}

impl Finding {
    /// A cause of the catalogue with what speaks for it.
    pub fn of(cause: &Cause, confidence: Confidence, evidence: Vec<Evidence>) -> Self {
        Self {
            cause: cause.id.into(),
            stage: cause.stage,
            title: cause.title.into(),
            confidence,
            because: cause.cause.into(),
            fix: cause.fix.iter().copied().map(Fix::shown).collect(),
            evidence,
            or: cause.rivals.iter().map(|(id, when)| ((*id).to_string(), (*when).to_string())).collect(),
            source: cause.source.into(),
            symptom: cause.symptom,
        }
    }

    /// As the end of a sentence that says what failed, and what to do; where another cause has the same line, it is
    /// named.
    pub fn explained(&self, others: &[Self]) -> Explained {
        let line = self.evidence.first().map(|e| e.line.as_str());
        let or = others
            .iter()
            .find(|o| {
                o.cause != self.cause && !o.symptom && o.evidence.first().map(|e| e.line.as_str()) == line
            })
            .map(|o| format!("; or: {}", begun_small(&o.title)))
            .unwrap_or_default();
        Explained {
            cause: format!(
                "{}: {}{or}",
                begun_small(&self.title),
                begun_small(self.because.trim_end_matches('.'))
            ),
            fix: format!(
                "{}{PAGE}{}`",
                self.fix.iter().take(STEPS).map(|step| begun_small(step)).collect::<Vec<_>>().join("; "),
                self.cause
            ),
        }
    }
}

/// What stands before the page of a cause at the end of a way out.
const PAGE: &str = "; more: `vsgpu explain ";

/// A way out without the page that [`Finding::explained`] names at its end, and the cause of that page; `None` of any
/// other text.
pub fn split_page(fix: &str) -> Option<(&str, &'static str)> {
    let (todo, id) = fix.strip_suffix('`')?.split_once(PAGE)?;
    Some((todo, super::named(id)?.id))
}

/// Steps of a way out that one line can hold.
const STEPS: usize = 3;

/// Without the capital of a sentence's beginning; `GPU` and `Secure Boot` keep their own.
fn begun_small(text: &str) -> String {
    if text.split(' ').nth(1).is_some_and(|word| word.starts_with(char::is_uppercase)) {
        return text.into();
    }
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().collect::<String>() + &text[first.len_utf8()..]
        }
        _ => text.into(),
    }
}

/// The first cause in texts of a known kind, for who explains a failure of its own: symptoms are none.
pub fn first_cause(inputs: &[Input<'_>]) -> Option<(Finding, Explained)> {
    let findings = diagnose(inputs).findings;
    let first = findings.iter().find(|f| !f.symptom)?;
    let explained = first.explained(&findings);
    Some((first.clone(), explained))
}
