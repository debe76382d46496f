//! Images of vSphere Lifecycle Manager: what one holds, how a host differs from it, and the way of a component into it:
//! depot, draft, validation, commit, remediation. An image is a cluster's, or from 9 on (8.0 U1 where it is wished) a
//! single host's; both have the same questions (facts: vsphere-api 9).

use crate::fault::Fault;
use crate::files::encoded;
use crate::rest::{NOT_FOUND, UNKNOWN_PATH, words};
use crate::session::{Session, instance};
use crate::soap::{Ref, text};
use crate::tasks;
use hyper::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use vsgpu_core::text::piece;

/// Components of an image, at most.
const MOST: usize = 2_000;
/// Messages that are kept of an answer.
const MESSAGES: usize = 5;
/// Packages that no image has, at most.
const ORPHANS: usize = 100;

/// What an image holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Version of ESXi: `8.0.3-0.0.24022510`.
    pub base: String,
    /// Every component, wherever it comes from, with its version.
    pub components: BTreeMap<String, String>,
}

/// How a host differs from its image, as it was last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compliance {
    /// `COMPLIANT`, `NON_COMPLIANT`, `INCOMPATIBLE`, `UNAVAILABLE`.
    pub status: String,
    /// `NO_IMPACT`, `MAINTENANCE_MODE_REQUIRED`, `REBOOT_REQUIRED`, ..
    pub impact: String,
    /// Components of the host that its image does not have, `name(version)`: somebody installed them by hand.
    pub extra: Vec<String>,
}

/// Where the image of a cluster or of a host is.
fn at(of: &Ref) -> String {
    let kind = if of.kind == "HostSystem" { "hosts" } else { "clusters" };
    format!("/api/esx/settings/{kind}/{}", encoded(&of.id, false))
}

fn word(of: &Value) -> String {
    of.as_str().map(|text| piece(text, 120)).unwrap_or_default()
}

/// Nothing where there is no such thing, or where this release does not know the question.
fn if_there(answer: Result<Value, Fault>) -> Result<Option<Value>, Fault> {
    match answer {
        Err(fault)
            if [NOT_FOUND, UNKNOWN_PATH, "UNSUPPORTED", "OPERATION_NOT_FOUND"]
                .contains(&fault.kind.as_str()) =>
        {
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// The image of a cluster or of a host; none where there is none yet.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn image(session: &mut Session, of: &Ref) -> Result<Option<Image>, Fault> {
    let path = format!("{}/software", at(of));
    let base = match session.rest(&Method::GET, &format!("{path}/base-image"), None) {
        Err(fault) if fault.kind == NOT_FOUND => return Ok(None),
        other => other?,
    };
    let all = session.rest(&Method::GET, &format!("{path}/effective-components"), None)?;
    let all = all.as_object().ok_or_else(|| Fault::said(format!("{path}: components are a list by name")))?;
    if all.len() > MOST {
        return Err(Fault::said(format!("{path}: more than {MOST} components")));
    }
    let components = all.iter().map(|(name, of)| (piece(name, 120), word(&of["version"])));
    Ok(Some(Image { base: word(&base["version"]), components: components.collect() }))
}

/// How hosts differed from their image when that was last looked at, by the hosts' ids; nothing where nobody looked.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn compliance(session: &mut Session, of: &Ref) -> Result<BTreeMap<String, Compliance>, Fault> {
    let Some(all) = if_there(session.rest(&Method::GET, &format!("{}/software/compliance", at(of)), None))?
    else {
        return Ok(BTreeMap::new());
    };
    if of.kind == "HostSystem" {
        return Ok(BTreeMap::from([(of.id.clone(), differs(&all))]));
    }
    let hosts = all["hosts"].as_object().into_iter().flatten();
    Ok(hosts.map(|(host, of_host)| (host.clone(), differs(of_host))).collect())
}

fn differs(of_host: &Value) -> Compliance {
    // What has no target is on the host, and not in its image.
    let extra = |(name, of): (&String, &Value)| {
        let is_extra = of["target"].is_null() && of["current"].is_object();
        is_extra.then(|| format!("{}({})", piece(name, 80), word(&of["current"]["version"])))
    };
    let components = of_host["components"].as_object().into_iter().flatten();
    Compliance {
        status: word(&of_host["status"]),
        impact: word(&of_host["impact"]),
        extra: components.filter_map(extra).take(ORPHANS).collect(),
    }
}

/// Packages of hosts that are in no image, `name(version)` with the ids of those hosts, as they were last extracted (8.0
/// U3). A single host's are not told.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn orphaned(session: &mut Session, of: &Ref) -> Result<BTreeMap<String, Vec<String>>, Fault> {
    if of.kind == "HostSystem" {
        return Ok(BTreeMap::new());
    }
    let found = if_there(session.rest(&Method::GET, &format!("{}/installed-images", at(of)), None))?;
    let all = found.as_ref().and_then(|found| found["orphaned_vibs"].as_object());
    let hosts = |of: &Value| of.as_array().into_iter().flatten().map(word).collect();
    Ok(all.into_iter().flatten().take(ORPHANS).map(|(vib, of)| (piece(vib, 160), hosts(of))).collect())
}

/// Whether a depot of vCenter has this version of a component.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn in_a_depot(session: &mut Session, name: &str, version: &str) -> Result<bool, Fault> {
    let path = format!(
        "/api/esx/settings/depot-content/components/{}/versions/{}",
        encoded(name, false),
        encoded(version, false)
    );
    if_there(session.rest(&Method::GET, &path, None)).map(|found| found.is_some())
}

/// Who looks after the image beside vCenter itself, where somebody does: SDDC Manager of a VCF domain. Said by the image (9.0
/// on), else by who is registered with this vCenter.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn orchestrator(session: &mut Session, of: &Ref) -> Result<Option<String>, Fault> {
    let path = format!("{}/software/software-spec-metadata", at(of));
    if let Some(about) = if_there(session.rest(&Method::GET, &path, None))? {
        let owner = word(&about["orchestrator_info"]["owner"]);
        if !owner.is_empty() {
            return Ok(Some(owner));
        }
    }
    let Ok(manager) = session.named("extensionManager") else { return Ok(None) };
    let key = text("extensionKey", SDDC_MANAGER);
    let found = session.within_session(|session| session.look("FindExtension", &manager, &key))?;
    Ok((!found.is_empty()).then(|| "SDDC Manager".into()))
}

/// What SDDC Manager registers itself as.
const SDDC_MANAGER: &str = "com.vmware.sddcManager";

fn begun(answer: &Value) -> Result<Ref, Fault> {
    let id = answer.as_str().filter(|id| !id.is_empty() && id.len() < 300);
    let id = id.ok_or_else(|| Fault::said("the server names no task"))?;
    Ok(Ref { kind: tasks::OF_REST.into(), id: id.into() })
}

/// Has vCenter fetch an offline bundle from a URL; the task. None where it has that URL's already.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn fetch_depot(session: &mut Session, url: &str, description: &str) -> Result<Option<Ref>, Fault> {
    let spec = json!({ "source_type": "PULL", "location": url, "description": description });
    match session.rest(&Method::POST, "/api/esx/settings/depots/offline?vmw-task=true", Some(&spec)) {
        Err(fault) if fault.kind == "ALREADY_EXISTS" => Ok(None),
        other => begun(&other?).map(Some),
    }
}

/// A draft of the image, which is nobody else's: each user has one at most. `ALREADY_EXISTS` where this one has.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn draft(session: &mut Session, of: &Ref) -> Result<String, Fault> {
    let made = session.rest(&Method::POST, &format!("{}/software/drafts", at(of)), None)?;
    let id = made.as_str().filter(|id| !id.is_empty() && id.len() < 300);
    id.map(String::from).ok_or_else(|| Fault::said("the server names no draft"))
}

/// Whether an owner is a user: `VSPHERE.LOCAL\svc` is `svc@vsphere.local`.
fn is_user(owner: &str, user: &str) -> bool {
    let parts = |of: &str| {
        let (domain, name) = match (of.split_once('\\'), of.split_once('@')) {
            (Some((domain, name)), _) | (None, Some((name, domain))) => (domain, name),
            (None, None) => ("", of),
        };
        (domain.to_lowercase(), name.to_lowercase())
    };
    parts(owner) == parts(user)
}

/// What vCenter's clock shows, as it writes times.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn clock(session: &mut Session) -> Result<String, Fault> {
    let said = session.within_session(|session| session.look("CurrentTime", &instance(), ""))?;
    Ok(said.first().map(|time| piece(&time.text, 60)).unwrap_or_default())
}

/// Seconds for a draft to be made.
const MADE_WITHIN: i64 = 120;

/// Drafts of an image that a user began right after a time of vCenter's clock.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn drafts_since(session: &mut Session, of: &Ref, user: &str, since: &str) -> Result<Vec<String>, Fault> {
    let all = session.rest(&Method::GET, &format!("{}/software/drafts", at(of)), None)?;
    let time = |text: &str| OffsetDateTime::parse(text, &Rfc3339).ok();
    let is_of_then = |draft: &Value| {
        let begun = draft["metadata"]["creation_time"].as_str().and_then(time);
        let passed = begun.zip(time(since)).map(|(begun, since)| (begun - since).whole_seconds());
        let owner = draft["metadata"]["owner"].as_str().unwrap_or_default();
        is_user(owner, user) && passed.is_some_and(|passed| (0..=MADE_WITHIN).contains(&passed))
    };
    let drafts = all.as_object().into_iter().flatten();
    Ok(drafts.filter(|(_, draft)| is_of_then(draft)).map(|(id, _)| id.clone()).collect())
}

fn of_draft(of: &Ref, draft: &str) -> String {
    format!("{}/software/drafts/{}", at(of), encoded(draft, false))
}

/// Throws a draft away; one that is gone is fine.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn discard(session: &mut Session, of: &Ref, draft: &str) -> Result<(), Fault> {
    if_there(session.rest(&Method::DELETE, &of_draft(of, draft), None)).map(|_| ())
}

/// Sets the version of a component in a draft.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn set_component(
    session: &mut Session,
    (of, draft): (&Ref, &str),
    name: &str,
    version: &str,
) -> Result<(), Fault> {
    let spec = json!({ "components_to_set": { name: version } });
    let path = format!("{}/software/components", of_draft(of, draft));
    session.rest(&Method::PATCH, &path, Some(&spec)).map(|_| ())
}

/// Has a draft validated; the task, whose result `refusals` reads.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn validate(session: &mut Session, of: &Ref, draft: &str) -> Result<Ref, Fault> {
    let path = format!("{}?action=validate&vmw-task=true", of_draft(of, draft));
    begun(&session.rest(&Method::POST, &path, None)?)
}

/// Has a draft compared with the hosts; the task, whose result `incompatible` reads.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn compare(session: &mut Session, of: &Ref, draft: &str) -> Result<Ref, Fault> {
    let path = format!("{}?action=scan&vmw-task=true", of_draft(of, draft));
    begun(&session.rest(&Method::POST, &path, None)?)
}

/// Hosts that cannot become what a draft says, by a comparison that has ended: their ids, their names and why.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn incompatible(
    session: &mut Session,
    task: &Ref,
    of: &Ref,
) -> Result<BTreeMap<String, (String, Vec<String>)>, Fault> {
    let result = tasks::result(session, task)?;
    if result.is_null() {
        return Err(Fault::said("the comparison of the draft with its hosts is gone"));
    }
    let one = |id: &str, of_host: &Value| {
        let parts = of_host["components"].as_object().into_iter().flat_map(|all| all.values());
        let mut said: Vec<String> = [of_host].into_iter().chain(parts).flat_map(errors).collect();
        said.extend(words(&of_host["compliance_status_details"]["message"]));
        said.dedup();
        said.truncate(MESSAGES);
        let name = word(&result["host_info"][id]["name"]);
        let name = if name.is_empty() { piece(id, 80) } else { name };
        (of_host["status"] == "INCOMPATIBLE").then(|| (id.to_string(), (name, said)))
    };
    Ok(match of.kind == "HostSystem" {
        true => one(&of.id, &result).into_iter().collect(),
        false => {
            let hosts = result["hosts"].as_object().into_iter().flatten();
            hosts.filter_map(|(id, of_host)| one(id, of_host)).collect()
        }
    })
}

/// Errors among the notifications of something, in words.
fn errors(of: &Value) -> Vec<String> {
    let all = of["notifications"]["errors"].as_array().into_iter().flatten();
    all.filter_map(|error| words(&error["message"])).collect()
}

/// Makes a draft the image; the task. The draft is gone then.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn commit(session: &mut Session, (of, draft): (&Ref, &str), message: &str) -> Result<Ref, Fault> {
    let path = format!("{}?action=commit&vmw-task=true", of_draft(of, draft));
    begun(&session.rest(&Method::POST, &path, Some(&json!({ "message": message })))?)
}

/// The body of a question about one host: a cluster's names it.
fn about(of: &Ref, host: &Ref) -> Value {
    if of == host { json!({}) } else { json!({ "hosts": [host.id] }) }
}

/// Asks whether a host can be remediated as it is; the task, whose result `refusals` reads.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn check(session: &mut Session, of: &Ref, host: &Ref) -> Result<Ref, Fault> {
    let path = format!("{}/software?action=check&vmw-task=true", at(of));
    begun(&session.rest(&Method::POST, &path, Some(&about(of, host)))?)
}

/// Makes a host what its image says: with maintenance mode and a reboot where that takes them. The task, whose result
/// `refusals` reads. It accepts VMware's license agreement, as the client's own dialog asks for it.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn remediate(session: &mut Session, of: &Ref, host: &Ref) -> Result<Ref, Fault> {
    let mut spec = about(of, host);
    spec["accept_eula"] = json!(true);
    let path = format!("{}/software?action=apply&vmw-task=true", at(of));
    begun(&session.rest(&Method::POST, &path, Some(&spec))?)
}

/// What the result of a task says against a host or an image, in its own words; none where nothing. A task may have
/// succeeded whose result is a failure.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn refusals(session: &mut Session, task: &Ref) -> Result<Vec<String>, Fault> {
    Ok(said_against(&tasks::result(session, task)?))
}

fn said_against(result: &Value) -> Vec<String> {
    let mut said = vec![];
    let each = |of: &Value| of.as_array().cloned().unwrap_or_default();
    // A validation, or the whole of a remediation.
    said.extend(errors(result));
    // A check: of the cluster, of each host.
    for entity in each(&result["entity_results"]).iter().chain(result.get("entity_result")) {
        for check in each(&entity["check_statuses"]).iter().filter(|check| check["status"] == "ERROR") {
            let mut issues: Vec<String> = each(&check["check_issues"])
                .iter()
                .filter_map(|issue| words(&issue["description"]))
                .collect();
            // As releases before 8.0 say them.
            if issues.is_empty() {
                issues = each(&check["issues"]).iter().filter_map(words).collect();
            }
            if issues.is_empty() {
                issues.extend(words(&check["check"]["name"]));
            }
            said.append(&mut issues);
        }
    }
    // A remediation: of each host.
    for status in result["host_status"].as_object().into_iter().flat_map(|all| all.values()) {
        if ["ERROR", "TIMED_OUT", "SKIPPED"].iter().any(|bad| status["status"] == **bad) {
            said.extend(errors(status));
        }
    }
    let failed = |of: &Value| ["ERROR", "TIMED_OUT", "TIMEOUT"].iter().any(|bad| of == bad);
    let any = |name: &str| result[name].as_array().is_some_and(|hosts| !hosts.is_empty());
    if said.is_empty() && any("skipped_hosts") {
        said.push("vCenter left the host out, and does not say why".into());
    }
    if said.is_empty()
        && (any("failed_hosts") || failed(&result["status"]) || failed(&result["status"]["status"]))
    {
        said.push("it failed, and does not say why".into());
    }
    said.dedup();
    said.truncate(MESSAGES);
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_known_in_both_forms() {
        assert!(is_user("VSPHERE.LOCAL\\svc-vsgpu", "svc-vsgpu@vsphere.local"));
        assert!(is_user("svc-vsgpu@vsphere.local", "vsphere.local\\svc-vsgpu"));
        assert!(!is_user("VSPHERE.LOCAL\\alice", "svc-vsgpu@vsphere.local"));
        assert!(!is_user("", "svc-vsgpu@vsphere.local"));
    }

    #[test]
    fn what_is_said_against_a_host_is_kept_in_the_servers_words() {
        let message = |text: &str| json!({ "id": "x", "default_message": text, "args": [] });
        for (result, is) in [
            (json!({ "notifications": {} }), vec![]),
            (
                json!({ "notifications": { "errors": [{ "message": message("component X is in no depot") }], "warnings": [{ "message": message("old") }] } }),
                vec!["component X is in no depot"],
            ),
            (
                json!({ "status": "ERROR", "entity_results": [{ "type": "HOST", "host": "host-1", "status": "ERROR", "check_statuses": [
                    { "status": "OK", "issues": [] },
                    { "status": "ERROR", "issues": [message("old words")], "check_issues": [{ "description": message("no disk space") }] },
                    { "status": "ERROR", "issues": [message("lockdown")] },
                    { "status": "ERROR", "check": { "name": message("VM checks") } } ] }] }),
                vec!["no disk space", "lockdown", "VM checks"],
            ),
            (
                json!({ "status": { "status": "OK" }, "host_status": { "host-1": { "status": "OK", "notifications": {} } } }),
                vec![],
            ),
            (
                json!({ "status": { "status": "ERROR" }, "host_status": { "host-1": { "status": "SKIPPED", "notifications": { "errors": [{ "message": message("cannot enter maintenance mode") }] } } } }),
                vec!["cannot enter maintenance mode"],
            ),
            (json!({ "status": { "status": "TIMED_OUT" } }), vec!["it failed, and does not say why"]),
            (
                json!({ "status": { "status": "OK" }, "skipped_hosts": ["host-1"] }),
                vec!["vCenter left the host out, and does not say why"],
            ),
            (json!(null), vec![]),
        ] {
            assert_eq!(said_against(&result), is, "{result}");
        }
    }
}
