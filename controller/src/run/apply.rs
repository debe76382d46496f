//! What a step does that changes nothing by a reboot: a file is sent, or a requirement is made so.

use crate::error::Kind;
use crate::hold::Hold;
use crate::journal::StepState;
use crate::run::event::Event;
use crate::run::step::{Change, ChangedBy, Message, StepResult, StepRunner};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;
use vsgpu_core::Artifact;
use vsgpu_core::failpoint;
use vsgpu_core::outcome::{Expectation, Outcome};
use vsgpu_host_agent::vm::POWER;
use vsgpu_wire::client::CallError;
use vsgpu_wire::v1::ArtifactId;

pub(super) async fn send(on: &StepRunner, artifact: &Artifact, datastore: Option<&str>) -> StepResult {
    let folder = std::path::Path::new(&on.plan.fleet_file)
        .parent()
        .map(std::path::Path::to_path_buf)
        .unwrap_or_default();
    let file = folder.join(&artifact.artifact);
    let total = artifact.size.unwrap_or_default();
    let id = ArtifactId {
        name: artifact.file_name().into(),
        sha256: artifact.sha256.clone().unwrap_or_default(),
        size: total,
        datastore: datastore.unwrap_or_default().into(),
    };
    let mut claimed = on.reach(on.step().connect_secs, false).await?;
    on.starting(String::new()).await?;
    let end = Instant::now() + Duration::from_secs(on.plan.deadlines.transfer_secs.into());
    loop {
        let (tx, step) = (on.tx.clone(), on.id);
        let mut moved = false;
        let mut progress = |bytes: u64| {
            moved |= bytes < total;
            drop(tx.try_send(Message::Event(Event::Sent { step, bytes, total })));
        };
        let left = end.saturating_duration_since(Instant::now());
        let sent = match on.agents.own(&on.target()?).await {
            Ok(own) => own.send(&file, id.clone(), &claimed.fence, &on.trace, left, &mut progress).await,
            Err(error) => Err(error),
        };
        match sent {
            Ok(state) => return Ok((state.path, if moved { ChangedBy::Us } else { ChangedBy::Already })),
            // A cut connection goes on where it was cut.
            Err(CallError::Unreachable(_) | CallError::LeaseLost(_)) if Instant::now() < end => {
                claimed = on.reach(on.plan.deadlines.reconnect_secs, true).await?;
            }
            Err(CallError::Unreachable(why)) => {
                return Err(on.call_failed(CallError::Unreachable(why)).held(Hold::StepTimeout));
            }
            Err(error) => return Err(on.call_failed(error)),
        }
    }
}

pub(super) async fn meet(
    on: &StepRunner,
    requirement: &str,
    spec: &Value,
    mut expect: Option<Expectation>,
) -> StepResult {
    if let (Some(expect), StepState::Started { .. }) = (&mut expect, &on.was) {
        expect.started = true;
    }
    let claimed = on.reach(on.step().connect_secs, false).await?;
    on.starting(String::new()).await?;
    let (outcome, _, sure) = on.asked(claimed, Change::Meet { requirement, spec, expect }).await?;
    let theirs = failpoint!(TakenByAnotherIsOurs, false, on.not_ours_yet && sure && !on.was.begun());
    match outcome {
        // Asked once and for the first time: it was not us. What somebody else changed is not ours to
        // restore.
        Outcome::AlreadyMet { is } if theirs => {
            // The host's work needs its VMs off and does not care by whom; a host in maintenance mode is
            // somebody's at work.
            if requirement == POWER {
                return Ok((format!("{is}, by somebody else: it stays theirs"), ChangedBy::Another));
            }
            let why = format!(
                "somebody else did this since the plan was made ({is}): it stays theirs; nothing was done"
            );
            Err(on.fail(Kind::Blocked, why).held(Hold::Stale).hint(Hold::Stale.advice()))
        }
        outcome => on.judged(outcome),
    }
}
