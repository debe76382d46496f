//! What vsgpu says to each kind of case, through its own pure functions and its own renderers.

use crate::admission;
use crate::facts;
use crate::machine::Machine;
use crate::script::{Script, Wrong, wrong};
use serde::Deserialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use vsgpu::error::Error;
use vsgpu::fleet::{self, Fleet, yaml};
use vsgpu::hold::Held;
use vsgpu::inventory::Inventory;
use vsgpu::node::NodeId;
use vsgpu::plan::{self, Leftovers, Planned, RebootedFor};
use vsgpu::render::rendered;
use vsgpu::{compat, journal, render};
use vsgpu_core::artifact::Kind;
use vsgpu_core::requirement::{Needs, TakesEffect, Verdict};
use vsgpu_core::{Artifact, Entry, Scope, Subject};

/// Names of expected sections with what is said now, in the order of the file.
pub type Answers = Vec<(&'static str, String)>;

/// What earlier runs left, as a case writes it.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Left {
    in_maintenance: BTreeSet<String>,
    stopped: BTreeSet<String>,
    unsettled: BTreeSet<NodeId>,
    rebooted: BTreeMap<NodeId, RebootedFor>,
    held: BTreeMap<NodeId, Held>,
}

/// A file of the operator as the controller would have found it; what it holds is taken from its name.
fn as_found(artifact: &Artifact) -> Artifact {
    let name = artifact.file_name();
    let kind = match name.rsplit('.').next() {
        Some("zip") => Kind::Component,
        Some("vib") => Kind::Vib,
        Some("run") => Kind::Run,
        Some("deb") => Kind::Deb,
        Some("rpm") => Kind::Rpm,
        _ => Kind::Other,
    };
    let mut holds = fleet::package::from_name(name);
    if matches!(kind, Kind::Component | Kind::Vib) {
        let daemon = name.contains("mgmt");
        holds.iter_mut().for_each(|held| {
            let (name, build) = if daemon {
                ("nvdgpumgmtdaemon", "700.1.0.15843807")
            } else {
                ("NVD-VMware_ESXi_8.0.0_Driver", "800.1.0.20613240")
            };
            (held.name, held.version) = (name.into(), format!("{}-1OEM.{build}", held.version));
        });
    }
    let sha256 = artifact.sha256.clone().unwrap_or_else(|| "ab".repeat(32));
    // `lupine-BUILD-cuda13.3-server.tar`; the build is one letter here.
    let parts: Vec<&str> = name.strip_suffix(".tar").unwrap_or_default().split('-').collect();
    if let ["lupine", build, cuda, side] = parts[..] {
        let held = |name: String, version: String| vsgpu_core::artifact::PackageContent {
            name,
            version,
            acceptance: None,
        };
        let cuda = cuda.trim_start_matches("cuda").to_string();
        return Artifact {
            artifact: artifact.artifact.clone(),
            sha256: Some(sha256),
            size: Some(1_500_000),
            kind: Some(Kind::Engine),
            holds: vec![held(format!("lupine-{side}"), build.repeat(64)), held("cuda".into(), cuda)],
        };
    }
    let (kind, holds) = match name {
        "tokens.tar" => {
            let held = |(name, version): (&str, String)| vsgpu_core::artifact::PackageContent {
                name: name.into(),
                version,
                acceptance: None,
            };
            let holds = [
                ("ca.crt", "cd".repeat(32)),
                ("server", "10.0.0.5:56001".into()),
                ("made", "1764547200".into()),
            ];
            (Kind::BitfusionTokens, holds.map(held).into())
        }
        _ => (kind, holds),
    };
    Artifact {
        artifact: artifact.artifact.clone(),
        sha256: Some(sha256),
        size: Some(if kind == Kind::Other { 2_000 } else { 1_500_000 }),
        kind: Some(kind),
        holds,
    }
}

fn read_fleet(script: &Script) -> Result<Result<Fleet, Vec<Error>>, Wrong> {
    let section = script.need("fleet")?;
    Ok(fleet::file::from_text(Path::new("fleet.yaml"), &section.text).map(|mut fleet| {
        for (kind, specs) in fleet.specs_mut() {
            for spec in specs.iter_mut() {
                let entry = vsgpu::catalogue().find(kind.scope(), spec.requirement);
                let other =
                    entry.and_then(|entry| (entry.with_artifacts)(&spec.value, &mut |a| Some(as_found(a))));
                spec.value = other.map_or_else(|| spec.value.clone(), Into::into);
            }
        }
        fleet
    }))
}

/// Fleet and facts of a case whose fleet file must be right.
fn world(script: &Script) -> Result<(Fleet, Inventory), Wrong> {
    let fleet = read_fleet(script)?.map_err(|errors| {
        let error = &errors[0];
        let line = error.place.as_ref().map_or(1, |place| place.line)
            + script.find("fleet").map_or(1, |s| s.line)
            - 1;
        wrong(&script.file, line, error)
    })?;
    let inventory = facts::inventory(&script.file, &fleet, script.find("facts"))?;
    Ok((fleet, inventory))
}

fn leftovers(script: &Script) -> Result<Leftovers, Wrong> {
    let Some(section) = script.find("left") else { return Ok(Leftovers::default()) };
    let at = |why: String| wrong(&script.file, section.line, why);
    let value = yaml::parse(&script.file, &section.text).map_err(|e| at(e.message))?.to_json();
    let Left { in_maintenance, stopped, unsettled, rebooted, held } =
        serde_json::from_value(value).map_err(|e| at(e.to_string()))?;
    Ok(Leftovers { in_maintenance, stopped, unsettled, rebooted, held })
}

/// The text of `vsgpu plan` with what it says beside it.
fn plan_text(planned: &Planned) -> String {
    let text = match (planned.plan.steps.is_empty(), planned.problems.is_empty()) {
        (true, false) => "nothing was planned: see the errors".into(),
        _ => render::plan::commands(&planned.plan),
    };
    let warnings = planned.warnings.iter().map(compat::warning);
    let taken = planned.left_by_others(None).into_iter().map(|told| format!("warning: {told}"));
    let errors = planned.problems.iter().map(|p| rendered(&p.error));
    let all: Vec<String> = std::iter::once(text).chain(warnings).chain(taken).chain(errors).collect();
    all.join("\n\n")
}

/// `plan`: fleet and facts, and what earlier runs left.
pub fn plan(script: &Script) -> Result<Answers, Wrong> {
    script.only(&["fleet", "facts", "left", "adopt", "plan", "summary", "verify"])?;
    let (fleet, inventory) = world(script)?;
    if let Some(section) = script.find("adopt") {
        let adoption = plan::adopt::adopt(&fleet, &inventory, section.text.trim());
        let question = if adoption.plan.steps.is_empty() {
            String::new()
        } else {
            format!("{}\n\n", adoption.question())
        };
        return Ok(vec![("plan", question + &render::plan::commands(&adoption.plan))]);
    }
    let left = plan::still_outstanding(&fleet, &inventory, leftovers(script)?);
    let planned = plan::plan(&fleet, &inventory, &left);
    // A case of the short form alone need not say every command.
    let mut answers = match script.find("plan").is_some() || script.find("summary").is_none() {
        true => vec![("plan", plan_text(&planned))],
        false => vec![],
    };
    if script.find("summary").is_some() {
        let plan = &planned.plan;
        let text = render::plan_summary::text(plan, &journal::History::default(), planned.warnings.len());
        let question = render::plan_summary::question(plan, "fleet.yaml");
        answers.push(("summary", format!("{text}\n{}\n\n{question}", render::plan_summary::next(plan))));
    }
    if script.find("verify").is_some() {
        let line = |c: plan::verify::Check| {
            let wants = c.wants.map(|wants| format!(", wanted: {wants}")).unwrap_or_default();
            format!(
                "{} {}: {}: {}{wants}\n",
                if c.met { "met   " } else { "differs" },
                c.node,
                c.requirement,
                c.is
            )
        };
        answers.push(("verify", plan::verify::checks(&fleet, &inventory).into_iter().map(line).collect()));
    }
    Ok(answers)
}

/// `rollout`: only what a plan says of order and cost.
pub fn rollout(script: &Script) -> Result<Answers, Wrong> {
    script.only(&["fleet", "facts", "rollout"])?;
    let (fleet, inventory) = world(script)?;
    let planned = plan::plan(&fleet, &inventory, &Leftovers::default());
    let errors: String = planned.problems.iter().map(|p| format!("\n\n{}", rendered(&p.error))).collect();
    Ok(vec![("rollout", render::plan::costs(&planned.plan) + &errors)])
}

/// `spec`: a fleet file alone: what is wrong with it, or every wish in its full form.
pub fn spec(script: &Script) -> Result<Answers, Wrong> {
    script.only(&["fleet", "error", "wishes"])?;
    let section = script.need("fleet")?;
    Ok(match fleet::file::from_text(Path::new("fleet.yaml"), &section.text) {
        Err(errors) => vec![("error", errors.iter().map(rendered).collect::<Vec<_>>().join("\n"))],
        Ok(fleet) => {
            let specs = fleet.specs();
            let of = |specs: &fleet::Specs| {
                specs
                    .iter()
                    .map(|s| (s.requirement.to_string(), (*s.value).clone()))
                    .collect::<serde_json::Map<_, _>>()
            };
            let all: serde_json::Map<_, _> =
                specs.into_iter().map(|(id, specs)| (String::from(id), json!(of(specs)))).collect();
            vec![("wishes", yaml::write(&json!(all)))]
        }
    })
}

/// `compat`: what the gate says of a fleet, with facts where the case has any.
pub fn compat(script: &Script) -> Result<Answers, Wrong> {
    script.only(&["fleet", "facts", "compat"])?;
    let (fleet, inventory) = world(script)?;
    let none = std::collections::BTreeSet::new();
    let judgement = match script.find("facts") {
        Some(_) => compat::judge(&plan::settled(&fleet, &inventory), Some(&inventory), &none),
        None => compat::judge(&fleet, None, &none),
    };
    let mut parts: Vec<String> = judgement.errors.iter().map(rendered).collect();
    parts.extend(judgement.warnings.iter().map(compat::warning));
    if !judgement.refused.is_empty() {
        let stopped: Vec<String> = judgement.refused.keys().map(|id| String::from(id.clone())).collect();
        parts.push(format!("nothing is done on: {}", stopped.join(", ")));
    }
    Ok(vec![("compat", if parts.is_empty() { "nothing to say".into() } else { parts.join("\n\n") })])
}

/// `admission`: a plan, and what may begin after each event of its run.
pub fn admission(script: &Script) -> Result<Answers, Wrong> {
    script.only(&["fleet", "facts", "events", "admission"])?;
    let (fleet, inventory) = world(script)?;
    let planned = plan::plan(&fleet, &inventory, &Leftovers::default());
    Ok(vec![("admission", admission::told(&script.file, script.need("events")?, planned.plan)?)])
}

fn verdict_text(
    entry: &Entry,
    spec: &serde_json::Value,
    fact: &Result<serde_json::Value, vsgpu_core::Unreadable>,
) -> String {
    let commands =
        |effects: &[vsgpu_core::Effect]| effects.iter().map(|e| format!("\n  $ {e}")).collect::<String>();
    let unmet = |text: String| {
        let cost = (entry.cost)(spec, fact.as_ref().unwrap_or(&serde_json::Value::Null));
        let needs = match cost.needs {
            Needs::Nothing => "needs nothing",
            Needs::VmsOff => "needs VMs off",
            Needs::MaintenanceMode => "needs maintenance mode",
        };
        let sure = if cost.sure { "" } else { ", if it asks for it" };
        let active = match cost.takes_effect {
            TakesEffect::AtOnce => "at once".into(),
            TakesEffect::AfterRestart(name) => format!("after a restart of {name}{sure}"),
            TakesEffect::AfterReboot => format!("after a reboot{sure}"),
        };
        format!("{text}\n  {needs}; active {active}")
    };
    match vsgpu_core::judge(entry, spec, Some(fact)) {
        Verdict::Met { is } => format!("met: {is}"),
        Verdict::Unmet { is, wants, effects } if effects.is_empty() => {
            unmet(format!("set, not active yet: {is} -> {wants}"))
        }
        Verdict::Unmet { is, wants, effects } => {
            unmet(format!("unmet: {is} -> {wants}{}", commands(&effects)))
        }
        Verdict::Waits { on, wants, effects } => {
            unmet(format!("waits: {on}; wanted: {wants}{}", commands(&effects)))
        }
        Verdict::Blocked { why, hint, .. } => format!("blocked: {why}\n  hint: {hint}"),
    }
}

/// `host/KEY`, `vm/KEY`, `guest/KEY`: a machine, and what a requirement says of it for one spec after the
/// other.
pub fn requirement(script: &Script, scope: Scope, name: &str) -> Result<Answers, Wrong> {
    script.only(&["machine", "fact", "spec+", "verdict+"])?;
    let section = script.need("machine")?;
    let entry = vsgpu::catalogue()
        .find(scope, name)
        .ok_or_else(|| wrong(&script.file, 1, format!("`{name}` is no requirement")))?;
    let on = if scope == Scope::Vm { Subject::vm("vm-01") } else { Subject::node() };
    let machine = Machine::read(&script.file, section)?;
    let fact = machine.fact(&entry.fact, &on);
    machine.all_asked()?;
    script.need("spec")?;
    let mut answers = vec![];
    if script.find("fact").is_some() {
        answers.push(("fact", fact.as_ref().map_or_else(|why| format!("unreadable: {why}"), yaml::write)));
    }
    for spec in script.sections.iter().filter(|s| s.name == "spec") {
        let at = |why: String| wrong(&script.file, spec.line, why);
        let value = yaml::parse(&script.file, &spec.text).map_err(|e| at(e.message))?.to_json();
        let read = (entry.read_spec)(&value).map_err(|e| at(format!("{name}: {}", e.message)))?;
        let read = (entry.with_artifacts)(&read, &mut |a| Some(as_found(a))).unwrap_or(read);
        let mut text = verdict_text(entry, &read, &fact);
        if let Ok(Some(wish)) = fact.as_ref().map_or(Ok(None), |fact| (entry.as_spec)(fact)) {
            text += &format!("\n  as a wish: {wish}");
        }
        answers.push(("verdict", text));
    }
    Ok(answers)
}
