//! A requirement with its types erased, and the list of them. This is what lets the wire, the planner, the
//! CLI and the metrics work for every requirement without naming one.

use crate::artifact::{Artifact, StagedFile};
use crate::effect::Probe;
use crate::observation::{Observation, Unreadable};
use crate::requirement::{
    Cost, Deadline, Explained, Fact, Failure, Implied, Needs, OnceMore, Outage, Requirement, Restart, Scope,
    Stuck, Subject, TakesEffect, Verdict,
};
use crate::suggest::nearest;
use crate::text::without_passwords_in;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A fact with its type erased.
#[derive(Clone, Copy, Debug)]
pub struct FactEntry {
    /// Its name.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// What it is about.
    pub scope: Scope,
    /// See `Requirement::VMX_KEYS`.
    pub vmx_keys: &'static [&'static str],
    /// `Fact::probes`.
    pub probes: fn(&Subject, &Observation) -> Vec<Probe>,
    /// `Fact::parse`, as JSON.
    pub parse: fn(&Subject, &Observation) -> Result<Value, Unreadable>,
    /// The fact as its type reads it, written again: what the type does not know is lost on the way.
    pub reread: fn(&Value) -> Result<Value, String>,
    /// `Fact::sentence`, of a fact as JSON; `None` also where that cannot be read.
    pub sentence: fn(&Value) -> Option<String>,
}

impl FactEntry {
    /// Erases `F`.
    pub const fn of<F: Fact>(scope: Scope) -> Self {
        fn parse<F: Fact>(on: &Subject, seen: &Observation) -> Result<Value, Unreadable> {
            let fact = F::parse(on, seen).map_err(Unreadable::for_people)?;
            let mut fact = serde_json::to_value(fact)
                .map_err(|e| Unreadable::new(format!("cannot be written as JSON: {e}")))?;
            // On the node itself, so that a password never leaves it, and what is compared with a plan is the
            // same on both sides.
            without_passwords_in(&mut fact);
            Ok(fact)
        }
        fn reread<F: Fact>(fact: &Value) -> Result<Value, String> {
            let fact: F =
                serde_path_to_error::deserialize(fact).map_err(|e| format!("{}: {}", e.path(), e.inner()))?;
            serde_json::to_value(fact).map_err(|e| e.to_string())
        }
        fn sentence<F: Fact>(fact: &Value) -> Option<String> {
            F::deserialize(fact).ok()?.sentence().map(|text| crate::text::sentence(&text))
        }
        Self {
            name: F::NAME,
            about: F::ABOUT,
            scope,
            vmx_keys: &[],
            probes: F::probes,
            parse: parse::<F>,
            reread: reread::<F>,
            sentence: sentence::<F>,
        }
    }
}

/// Why a value cannot be a spec, and where inside the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecError {
    /// Keys and indexes down to the place.
    pub path: Vec<String>,
    /// Whether the key itself (not its value) is wrong.
    pub at_key: bool,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What would be right, where that is a short list.
    pub expected: Vec<String>,
    /// The nearest of these.
    pub suggestion: Option<String>,
}

/// Gives the artifact that takes another one's place, if there is one.
pub type Replacement<'a> = dyn FnMut(&Artifact) -> Option<Artifact> + 'a;

/// A requirement with its types erased.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Key in the fleet file.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// What it is about.
    pub scope: Scope,
    /// Names that must be active before.
    pub after: &'static [&'static str],
    /// The most that a change needs.
    pub needs: Needs,
    /// The latest that a change is active.
    pub takes_effect: TakesEffect,
    /// What a change costs as things are: spec, fact.
    pub cost: fn(&Value, &Value) -> Cost,
    /// `Requirement::outage`.
    pub outage: fn(&Value) -> Option<Outage>,
    /// `Requirement::why_stuck`.
    pub why_stuck: fn() -> &'static str,
    /// `Requirement::once_more`: spec, fact.
    pub once_more: fn(&Value, &Value) -> OnceMore<Value>,
    /// `Requirement::probes_after_failure`.
    pub probes_after_failure: fn(&Subject, &Observation) -> Vec<Probe>,
    /// `Requirement::explain`.
    pub explain: fn(&Failure, &Subject, &Observation) -> Option<Explained>,
    /// `Requirement::stuck`: spec, fact.
    pub stuck: fn(&Value, &Value) -> Option<Stuck>,
    /// Seconds until `Met` after the effects, for a spec.
    pub settle_secs: fn(&Value) -> u32,
    /// See `Requirement::IMPLIED_BY`.
    pub implied_by: &'static [Implied],
    /// A spec, as JSON.
    pub example: &'static str,
    /// See `Requirement::UNTOUCHED`.
    pub untouched: Option<&'static str>,
    /// See `Requirement::FILLED_IN`.
    pub filled_in: &'static [&'static str],
    /// Its fact.
    pub fact: FactEntry,
    /// See `Requirement::IS_KEY`.
    pub is_key: bool,
    /// See `Requirement::RESTARTS`.
    pub restarts: &'static [Restart],
    /// JSON Schema of the spec.
    pub schema: fn() -> Value,
    /// Reads a spec and gives it back in its full form.
    pub read_spec: fn(&Value) -> Result<Value, SpecError>,
    /// `Requirement::check` on JSON.
    pub check: fn(&Value, &Value) -> Result<Verdict, String>,
    /// `Requirement::as_spec` on JSON.
    pub as_spec: fn(&Value) -> Result<Option<Value>, String>,
    /// The way back from a wish: spec and fact.
    pub way_back: fn(&Value, &Value) -> Result<Option<Value>, String>,
    /// A spec in a few words, where nothing is known of its fact.
    pub shown: fn(&Value) -> String,
    /// `Requirement::deadline` on JSON.
    pub deadline: fn(&Value) -> Deadline,
    /// The files of a spec, and where they are kept.
    pub files: fn(&Value) -> Vec<StagedFile>,
    /// The spec with another artifact in the place of each for which there is one; `None` where nothing
    /// changes.
    pub with_artifacts: fn(&Value, &mut Replacement<'_>) -> Option<Value>,
    /// `Requirement::gpus_named` on JSON.
    pub gpus_named: fn(&Value) -> Vec<String>,
    /// `Requirement::gpus_given` on JSON.
    pub gpus_given: fn(&Value) -> usize,
    /// `Requirement::expect_gpus` on JSON; `None` where nothing changes.
    pub expecting_gpus: fn(&Value, u32) -> Option<Value>,
}

impl Entry {
    /// Erases `R`.
    pub const fn of<R: Requirement>(scope: Scope) -> Self {
        fn typed<T: DeserializeOwned>(what: &str, value: &Value) -> Result<T, String> {
            // Where a value is wrong is only looked for when it is.
            T::deserialize(value)
                .or_else(|_| serde_path_to_error::deserialize(value))
                .map_err(|e| format!("{what}: {}: {}", e.path(), e.inner()))
        }
        fn schema<R: Requirement>() -> Value {
            let settings =
                schemars::generate::SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
            settings.into_generator().into_root_schema_for::<R::Spec>().to_value()
        }
        fn read_spec<R: Requirement>(value: &Value) -> Result<Value, SpecError> {
            let spec: R::Spec = serde_path_to_error::deserialize(value).map_err(|e| explain(value, &e))?;
            let unwritable = |e: serde_json::Error| SpecError {
                path: vec![],
                at_key: false,
                message: e.to_string(),
                expected: vec![],
                suggestion: None,
            };
            serde_json::to_value(spec).map_err(unwritable)
        }
        fn check<R: Requirement>(spec: &Value, fact: &Value) -> Result<Verdict, String> {
            Ok(R::check(&typed("spec", spec)?, &typed("fact", fact)?).for_people())
        }
        fn as_spec<R: Requirement>(fact: &Value) -> Result<Option<Value>, String> {
            let spec = R::as_spec(&typed("fact", fact)?);
            spec.map(|s| serde_json::to_value(s).map_err(|e| e.to_string())).transpose()
        }
        fn way_back<R: Requirement>(spec: &Value, fact: &Value) -> Result<Option<Value>, String> {
            let Some(before) = R::as_spec(&typed("fact", fact)?) else { return Ok(None) };
            let back = R::way_back(&typed("spec", spec)?, before);
            back.map(|s| serde_json::to_value(s).map_err(|e| e.to_string())).transpose()
        }
        fn files<R: Requirement>(spec: &Value) -> Vec<StagedFile> {
            let Ok(mut spec) = typed::<R::Spec>("spec", spec) else { return vec![] };
            let datastore = R::datastore(&spec);
            let placed = |artifact: &mut Artifact| StagedFile {
                artifact: artifact.clone(),
                datastore: datastore.clone(),
            };
            R::artifacts_mut(&mut spec).into_iter().map(placed).collect()
        }
        fn with_artifacts<R: Requirement>(spec: &Value, with: &mut Replacement<'_>) -> Option<Value> {
            let mut spec = typed::<R::Spec>("spec", spec).ok()?;
            let mut changed = false;
            for artifact in R::artifacts_mut(&mut spec) {
                if let Some(other) = with(artifact) {
                    *artifact = other;
                    changed = true;
                }
            }
            serde_json::to_value(spec).ok().filter(|_| changed)
        }
        fn gpus_named<R: Requirement>(spec: &Value) -> Vec<String> {
            typed::<R::Spec>("spec", spec).map(|s| R::gpus_named(&s)).unwrap_or_default()
        }
        fn gpus_given<R: Requirement>(spec: &Value) -> usize {
            typed::<R::Spec>("spec", spec).map_or(0, |s| R::gpus_given(&s))
        }
        fn expecting_gpus<R: Requirement>(spec: &Value, count: u32) -> Option<Value> {
            let mut other = typed::<R::Spec>("spec", spec).ok()?;
            R::expect_gpus(&mut other, count);
            serde_json::to_value(other).ok().filter(|other| other != spec)
        }
        fn shown<R: Requirement>(spec: &Value) -> String {
            let version =
                files::<R>(spec).iter().find_map(|placed| placed.artifact.version().map(String::from));
            match (spec, version) {
                (Value::String(text), _) => text.clone(),
                (_, Some(version)) => version,
                _ => "as set".into(),
            }
        }
        fn deadline<R: Requirement>(spec: &Value) -> Deadline {
            typed::<R::Spec>("spec", spec).map_or(Deadline::Step, |s| R::deadline(&s))
        }
        fn settle_secs<R: Requirement>(spec: &Value) -> u32 {
            typed::<R::Spec>("spec", spec).map_or(R::SETTLE_SECS, |s| R::settle_secs(&s))
        }
        fn outage<R: Requirement>(spec: &Value) -> Option<Outage> {
            typed::<R::Spec>("spec", spec).ok().and_then(|spec| R::outage(&spec))
        }
        fn cost<R: Requirement>(spec: &Value, fact: &Value) -> Cost {
            match (typed::<R::Spec>("spec", spec), typed::<R::Fact>("fact", fact)) {
                (Ok(spec), Ok(fact)) => R::cost(&spec, &fact),
                _ => Cost { needs: R::NEEDS, takes_effect: R::TAKES_EFFECT, sure: true },
            }
        }
        fn stuck<R: Requirement>(spec: &Value, fact: &Value) -> Option<Stuck> {
            R::stuck(&typed("spec", spec).ok()?, &typed("fact", fact).ok()?)
        }
        fn once_more<R: Requirement>(spec: &Value, fact: &Value) -> OnceMore<Value> {
            let (spec, effects) = R::once_more(&typed("spec", spec).ok()?, &typed("fact", fact).ok()?)?;
            Some((serde_json::to_value(spec).ok()?, effects))
        }
        Self {
            name: R::NAME,
            about: R::ABOUT,
            scope,
            after: R::AFTER,
            needs: R::NEEDS,
            takes_effect: R::TAKES_EFFECT,
            cost: cost::<R>,
            outage: outage::<R>,
            why_stuck: R::why_stuck,
            once_more: once_more::<R>,
            probes_after_failure: R::probes_after_failure,
            explain: R::explain,
            stuck: stuck::<R>,
            settle_secs: settle_secs::<R>,
            implied_by: R::IMPLIED_BY,
            example: R::EXAMPLE,
            untouched: R::UNTOUCHED,
            filled_in: R::FILLED_IN,
            fact: FactEntry { vmx_keys: R::VMX_KEYS, ..FactEntry::of::<R::Fact>(scope) },
            is_key: R::IS_KEY,
            restarts: R::RESTARTS,
            schema: schema::<R>,
            read_spec: read_spec::<R>,
            check: check::<R>,
            as_spec: as_spec::<R>,
            way_back: way_back::<R>,
            shown: shown::<R>,
            deadline: deadline::<R>,
            files: files::<R>,
            with_artifacts: with_artifacts::<R>,
            gpus_named: gpus_named::<R>,
            gpus_given: gpus_given::<R>,
            expecting_gpus: expecting_gpus::<R>,
        }
    }
}

/// Judges a spec by its fact, as it was observed: the one wording for a fact that is not there or cannot be
/// read.
pub fn judge<V: std::borrow::Borrow<Value>>(
    entry: &Entry,
    spec: &Value,
    fact: Option<&Result<V, Unreadable>>,
) -> Verdict {
    match fact {
        Some(Ok(fact)) => {
            (entry.check)(spec, fact.borrow()).unwrap_or_else(|why| Verdict::blocked(why, ONE_VERSION))
        }
        Some(Err(unreadable)) => {
            Verdict::blocked(unreadable.to_string(), "mend that first; `vsgpu facts` shows what was printed")
        }
        None => Verdict::blocked(format!("the agent did not answer for `{}`", entry.fact.name), ONE_VERSION),
    }
}

const ONE_VERSION: &str = "controller and agent should be of one version";

/// Turns serde's words into ours: what was found, what would be right, and the nearest of it.
fn explain(root: &Value, error: &serde_path_to_error::Error<serde_json::Error>) -> SpecError {
    let mut path: Vec<String> = error.path().iter().map(|s| s.to_string()).filter(|s| s != "?").collect();
    let text = error.inner().to_string();
    let words = |part: &str| part.split('`').skip(1).step_by(2).map(String::from).collect::<Vec<_>>();
    let (said, right) = text.split_once(", expected ").unwrap_or((&text, ""));
    let expected = words(right);
    let found = words(said).into_iter().next();
    let kind = ["unknown variant", "unknown field"].into_iter().find(|k| said.starts_with(k));
    let suggestion = found
        .as_deref()
        .filter(|_| kind.is_some())
        .and_then(|f| nearest(f, expected.iter().map(String::as_str)))
        .map(String::from);
    let message = match (kind, &found) {
        (Some("unknown variant"), Some(found)) => format!("unknown value `{found}`"),
        (Some(_), Some(found)) => format!("unknown key `{found}`"),
        _ => text.clone(),
    };
    let at_key = kind == Some("unknown field");
    // The path of an unknown field may or may not end with its name already.
    if let (true, Some(found)) = (at_key, &found)
        && path.last() != Some(found)
    {
        path.push(found.clone());
    }
    let mut place = root;
    path.retain(|step| {
        let next = place
            .get(step.as_str())
            .or_else(|| place.get(step.trim_matches(['[', ']']).parse::<usize>().ok()?));
        next.inspect(|n| place = n).is_some()
    });
    SpecError { path, at_key, message, expected, suggestion }
}

/// Everything one kind of agent knows.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// Requirements.
    pub entries: Vec<Entry>,
    /// Facts that belong to no requirement.
    pub extra_facts: Vec<FactEntry>,
}

impl Catalogue {
    /// The requirement of this name.
    pub fn find(&self, scope: Scope, name: &str) -> Option<&Entry> {
        self.of(scope).find(|e| e.name == name)
    }

    /// All requirements of one scope, in the order of the list.
    pub fn of(&self, scope: Scope) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |e| e.scope == scope)
    }

    /// All facts of one scope. One that several requirements read is there for each of them:
    /// `execute::observe` reads it once.
    pub fn facts(&self, scope: Scope) -> Vec<FactEntry> {
        let own = self.entries.iter().map(|e| e.fact).chain(self.extra_facts.iter().copied());
        own.filter(|f| f.scope == scope).collect()
    }

    /// All restarts, each once.
    pub fn restarts(&self) -> Vec<Restart> {
        let mut all: Vec<Restart> = vec![];
        for restart in self.entries.iter().flat_map(|e| e.restarts) {
            if all.iter().all(|known| known.name != restart.name) {
                all.push(*restart);
            }
        }
        all
    }
}
