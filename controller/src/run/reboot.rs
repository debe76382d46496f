//! Whether and how a node may be rebooted or restarted, and the proof that it brought what it was for. The
//! most dangerous thing that a run does has this room of its own: no reboot while everything is active
//! already, never a second one for the same thing, and done means another boot id (or active = configured)
//! and every requirement met. What the agent does for it: `server/reboot`.

use crate::error::{Error, Kind};
use crate::hold::Hold;
use crate::journal::StepState;
use crate::node::NodeKind;
use crate::run::agents::Claimed;
use crate::run::step::{Change, ChangedBy, LOOK, LOOP, OBSERVE, StepResult, StepRunner};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;
use vsgpu_core::failpoint;
use vsgpu_core::outcome::Outcome;
use vsgpu_core::requirement::Verdict;
use vsgpu_core::{Fact as _, judge};
use vsgpu_host_agent::host::MaintenanceModeFact;
use vsgpu_wire::client::{CallError, Connection};

pub(super) async fn activate(
    on: &StepRunner,
    restart: Option<&str>,
    proves: &[(String, Value)],
    once_more: &[(String, Value)],
) -> StepResult {
    // The boot in which this step was first begun: on the way back from a crash the reboot may have happened.
    let begun = match &on.was {
        StepState::Started { boot_id, .. } | StepState::Failed { boot_id, .. } if !boot_id.is_empty() => {
            Some(boot_id.as_str())
        }
        _ => None,
    };
    let end = Instant::now() + Duration::from_secs(on.plan.deadlines.reconnect_secs.into());
    let mut again = false;
    let (mut claimed, boot_now, needed) = loop {
        match before_activation(on, begun, proves, again).await {
            // It may be on its way down already.
            Err(error) if error.hold == Some(Hold::Unreachable) && Instant::now() < end => {
                tokio::time::sleep(LOOK).await
            }
            seen => break seen?,
        }
        again = true;
    };
    let before = begun.unwrap_or(&boot_now).to_string();
    on.starting(before.clone()).await?;
    if !needed {
        return Ok(("not needed".into(), ChangedBy::Already));
    }
    if before == boot_now {
        let (outcome, still_ours, _) =
            on.asked(claimed, Change::Activate { restart, before: &before }).await?;
        claimed = still_ours;
        on.judged(outcome)?;
    }
    let mut boot = before.clone();
    if restart.is_none() {
        (claimed, boot) = rebooted(on, &before).await?;
        failpoint!(RebootWithoutBootId, return Ok((String::new(), ChangedBy::Us)));
        tools_answer(on, &claimed.connection).await?;
    }
    let settle = proves
        .iter()
        .filter_map(|(name, spec)| on.entry(name).map(|e| (e.settle_secs)(spec)))
        .max()
        .unwrap_or(0);
    let proof = Duration::from_secs(u64::from(settle) + 5);
    let mut end = Instant::now() + proof;
    let (mut asked, mut tried) = (false, false);
    let (what, mut boots) = (if restart.is_some() { "restart" } else { "reboot" }, 0);
    loop {
        if boots >= LOOP {
            let why = format!("it has rebooted {boots} times since, and nobody asked for that");
            return Err(on
                .fail(Kind::Blocked, why)
                .held(Hold::BootLoop)
                .hint(Hold::BootLoop.advice_for(&on.step().node)));
        }
        let why = match unproven(on, &claimed.connection, proves).await {
            Ok((_, now)) if restart.is_none() && now != boot => {
                (boots, boot) = (boots + 1, now);
                // Another boot is another wait.
                tools_answer(on, &claimed.connection).await?;
                continue;
            }
            Ok((None, _)) if tried => {
                return Ok((format!("{what}ed, and turned off and on once"), ChangedBy::Us));
            }
            Ok((None, _)) => return Ok((format!("{what}ed"), ChangedBy::Us)),
            Ok((Some(why), _)) => Ok(why),
            Err(error) => Err(error),
        };
        match why {
            // Gone again: it is waited for as after any reboot. What answers, but wrongly, has only the time
            // of the proof.
            Err(error) if restart.is_none() && error.hold == Some(Hold::Unreachable) => {
                tokio::time::sleep(LOOK).await;
                let (again, now) = rebooted(on, &before).await?;
                boots += u32::from(now != boot);
                (claimed, boot) = (again, now);
            }
            _ if Instant::now() < end => tokio::time::sleep(LOOK).await,
            Ok(why) if !asked && once_more.iter().any(|(name, _)| is_about(&why, name)) => {
                asked = true;
                (claimed, tried) = ask_once_more(on, claimed, once_more, &why).await?;
                end = Instant::now() + proof;
            }
            Ok(why) => {
                let once = if tried { ", and turned off and on once" } else { "" };
                return Err(on
                    .fail(Kind::Failed, format!("after the {what}{once}: {why}"))
                    .held(if restart.is_some() { Hold::Failed } else { Hold::CameBackUnchanged })
                    .hint(if tried {
                        ONCE_WAS_NOT_ENOUGH.to_string()
                    } else {
                        format!("a second {what} would not help; `vsgpu facts` shows what the node says")
                    }));
            }
            Err(error) => return Err(error),
        }
    }
}

/// What is left where the second try was in vain, too.
const ONCE_WAS_NOT_ENOUGH: &str = "a second reboot would not help: look at `esxcli hardware pci pcipassthru list`, at VT-d or AMD-Vi and ACS in the BIOS";

/// What the plan has for the case that a reboot did not bring it. How it ended is seen by the proof.
async fn ask_once_more(
    on: &StepRunner,
    mut claimed: Claimed,
    once_more: &[(String, Value)],
    unproven: &str,
) -> Result<(Claimed, bool), Error> {
    let mut tried = false;
    for (requirement, spec) in once_more.iter().filter(|(name, _)| is_about(unproven, name)) {
        on.say()(format!("{requirement} is not active after the reboot: turned off and on now, once"));
        let change = Change::Meet { requirement, spec, expect: None };
        let (outcome, again, _) = on.asked_as(claimed, change, "once-more").await?;
        claimed = again;
        match outcome {
            Outcome::AlreadyMet { .. } => {}
            Outcome::Applied { .. } => tried = true,
            // What the tool said is nearer than the proof that will fail.
            Outcome::Failed { why, .. } | Outcome::Blocked { why, .. } => {
                return Err(on
                    .fail(Kind::Failed, format!("after the reboot, and turned off and on once: {why}"))
                    .held(Hold::CameBackUnchanged)
                    .hint(ONCE_WAS_NOT_ENOUGH));
            }
            other => return Err(on.refused(other)),
        }
    }
    Ok((claimed, tried))
}

/// `passthrough: is .., wanted ..` is about passthrough.
fn is_about(unproven: &str, requirement: &str) -> bool {
    unproven.strip_prefix(requirement).is_some_and(|rest| rest.starts_with(':'))
}

/// The boot the node is in, and whether anything is left to become active in it.
async fn before_activation(
    on: &StepRunner,
    begun: Option<&str>,
    proves: &[(String, Value)],
    again: bool,
) -> Result<(Claimed, String, bool), Error> {
    let claimed = on.reach(on.step().connect_secs, again).await?;
    let boot = claimed.connection.describe(OBSERVE).await.map_err(|e| on.call_failed(e))?.boot_id;
    let other = begun.is_some_and(|before| before != boot);
    let needed = other || unproven(on, &claimed.connection, proves).await?.0.is_some();
    Ok((claimed, boot, needed))
}

/// Waits until the node answers from another boot, and has proved anew who it is.
async fn rebooted(on: &StepRunner, before: &str) -> Result<(Claimed, String), Error> {
    let deadlines = &on.plan.deadlines;
    let secs = if on.step().node.kind == NodeKind::Guest {
        deadlines.guest_boot_secs
    } else {
        deadlines.host_reboot_secs
    };
    let end = Instant::now() + Duration::from_secs(secs.into());
    let mut pause = Duration::from_millis(250);
    loop {
        match on.agents.reach(&on.target()?, Duration::ZERO, true).await {
            Ok(claimed) => match claimed.connection.describe(Duration::from_secs(10)).await {
                Ok(d) if failpoint!(RebootWithoutBootId, true, d.boot_id != before) => {
                    return Ok((claimed, d.boot_id));
                }
                _ => {}
            },
            Err(error @ (CallError::Overtaken(_) | CallError::Refused(_))) => {
                return Err(on.call_failed(error));
            }
            Err(_) => {}
        }
        if Instant::now() >= end {
            let node = &on.step().node;
            return Err(on
                .fail(Kind::Failed, format!("the node did not come back within {secs} s after its reboot was started"))
                .held(Hold::RebootTimeout)
                .hint(format!(
                    "look at the console of {node}; when its agent answers again, `vsgpu apply` goes on without another reboot"
                )));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// On a host the agent is up before hostd is: the next step would fail for want of it.
async fn tools_answer(on: &StepRunner, connection: &Connection) -> Result<(), Error> {
    let end = Instant::now() + Duration::from_secs(on.plan.deadlines.host_reboot_secs.into());
    while on.step().node.kind == NodeKind::Host {
        let seen = connection.observe(None, &[MaintenanceModeFact::NAME], OBSERVE).await;
        match seen.map(|(_, facts)| facts.get(MaintenanceModeFact::NAME).cloned()) {
            Ok(Some(Err(why))) if Instant::now() >= end => {
                return Err(on.fail(
                    Kind::Failed,
                    format!("after the reboot the host's own tools do not answer: {why}"),
                ));
            }
            Ok(Some(Err(_))) => tokio::time::sleep(LOOK).await,
            // Whether it answers at all is the next question's matter.
            _ => break,
        }
    }
    Ok(())
}

/// The first requirement that is not met, and why; and the boot that was looked at.
async fn unproven(
    on: &StepRunner,
    connection: &Connection,
    proves: &[(String, Value)],
) -> Result<(Option<String>, String), Error> {
    let names: Vec<&str> = proves.iter().filter_map(|(name, _)| Some(on.entry(name)?.fact.name)).collect();
    let (boot, facts) = connection.observe(on.vm(), &names, OBSERVE).await.map_err(|e| on.call_failed(e))?;
    for (name, spec) in proves {
        let Some(entry) = on.entry(name) else { continue };
        let why = match judge(entry, spec, facts.get(entry.fact.name)) {
            Verdict::Met { .. } => continue,
            Verdict::Unmet { is, wants, .. } => format!("is {is}, wanted {wants}"),
            Verdict::Waits { on: why, .. } | Verdict::Blocked { why, .. } => why,
        };
        return Ok((Some(format!("{name}: {why}")), boot));
    }
    Ok((None, boot))
}
