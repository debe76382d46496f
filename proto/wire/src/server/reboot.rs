//! What makes changes active: a reboot of the node, or a restart of something on it. A reboot that was asked
//! for is never asked for again: neither by another call nor in the boot in which it is on its way.

use crate::refusal::Refusal;
use crate::server::node::Node;
use crate::server::operate::{Events, operate};
use crate::v1;
use std::sync::Arc;
use std::time::Duration;
use tonic::Response;
use vsgpu_core::outcome::Outcome;
use vsgpu_core::requirement::Needs;
use vsgpu_core::{ExitKind, Subject, System, apply, effects};

/// On a ramdisk: gone after the reboot.
const REBOOT_ASKED: &str = "/var/run/vsgpu/reboot-asked";

/// Starts a reboot or a restart.
pub(crate) fn activate(node: &Arc<Node>, request: v1::ActivateRequest) -> Result<Response<Events>, Refusal> {
    let what = request.what.ok_or_else(|| Refusal::invalid("activate what?"))?;
    let effects = match &what {
        v1::activate_request::What::Reboot(_) => vec![(node.agent.reboot)()],
        v1::activate_request::What::Restart(name) => {
            let known = node.catalogue.restarts().into_iter().find(|known| known.name == name);
            known.map(|restart| (restart.effects)()).ok_or_else(|| {
                Refusal::unknown_operation(format!("the agent knows no restart `{name}`: upgrade the agent"))
            })?
        }
    };
    let preconditions = node.preconditions(&Subject::node(), &request.preconditions)?;
    let reboot = matches!(what, v1::activate_request::What::Reboot(_));
    let named = if reboot { "reboot".to_string() } else { "restart".into() };
    operate(node, "Activate", Subject::node(), request.call, named, move |node, say| {
        match node.system.boot_id() {
            Ok(now) if reboot && now != request.planned_boot_id => {
                return Outcome::AlreadyMet { is: "rebooted since".into() };
            }
            Err(why) => return Outcome::failed(why.to_string()),
            Ok(_) => {}
        }
        // A host on its way down answers nothing any more, and need not.
        if reboot && reboot_asked(node, &request.planned_boot_id) {
            return Outcome::Applied { is: "the reboot is on its way".into(), active: false };
        }
        if let Some(drifted) = apply::drifted(node.system.as_ref(), &Subject::node(), &preconditions) {
            return drifted;
        }
        // Whoever asks: VMs must not lose their host, nor what they hold of its GPUs.
        let needs = if reboot { Needs::MaintenanceMode } else { Needs::VmsOff };
        if let Err(refused) = (node.agent.may_change)(node.system.as_ref(), &Subject::node(), needs) {
            return refused;
        }
        if reboot {
            note_reboot(node, &request.planned_boot_id);
        }
        activate_all(node, &effects, reboot, say)
    })
}

fn activate_all(
    node: &Node,
    effects: &[vsgpu_core::Effect],
    reboot: bool,
    say: &mut dyn FnMut(String),
) -> Outcome {
    for (at, effect) in effects.iter().enumerate() {
        // A daemon needs a moment between its stop and its start (facts: esxi F3).
        if at > 0 {
            node.system.sleep(Duration::from_secs(1));
        }
        node.system.shown(effect).into_iter().for_each(&mut *say);
        let started = start(node.system.as_ref(), effect);
        node.system.told(std::thread::current().id()).into_iter().for_each(&mut *say);
        match started {
            Err(NotActive { why, refused: true }) if reboot => {
                // A refused reboot is not on its way.
                let _ = node.system.remove(REBOOT_ASKED);
                return Outcome::failed(why);
            }
            // Stopping what does not run fails, and must not keep the rest from starting: the proof decides.
            // So it does about a reboot whose command was cut: it may well be on its way.
            Err(NotActive { why, .. }) => say(format!("went on after: {why}")),
            Ok(()) => {}
        }
    }
    Outcome::Applied { is: "started".into(), active: false }
}

/// The same, without keeping the network waiting for a host that is elsewhere.
pub(crate) async fn about_to_reboot(node: &Arc<Node>) -> Result<bool, Refusal> {
    let asked = |node: &Node| node.system.boot_id().is_ok_and(|boot| reboot_asked(node, &boot));
    if !node.system.is_remote() {
        return Ok(asked(node));
    }
    let shared = node.clone();
    node.offload.run(move || asked(&shared)).await
}

/// Whether a reboot was asked for in this boot, minutes ago.
fn reboot_asked(node: &Node, boot_id: &str) -> bool {
    let noted = node.system.read(REBOOT_ASKED, 256).ok().and_then(|b| String::from_utf8(b).ok());
    let Some((asked_in, at)) = noted.as_deref().and_then(|n| n.trim().rsplit_once(' ')) else { return false };
    let age = at.parse::<u64>().ok().and_then(|at| node.system.elapsed().as_secs().checked_sub(at));
    asked_in == boot_id && age.is_some_and(|age| age < 300)
}

/// A reboot that was asked for in this boot, minutes ago, is on its way: asking again could reboot the node
/// twice. Told by the time since boot, which no wrong clock touches.
fn note_reboot(node: &Node, boot_id: &str) {
    let now = node.system.elapsed().as_secs();
    if let Err(why) = node.system.write(REBOOT_ASKED, format!("{boot_id} {now}\n").as_bytes(), 0o600) {
        tracing::warn!(%why, "the reboot is not noted");
    }
}

/// Why something was not made active, and whether that is sure.
struct NotActive {
    why: String,
    refused: bool,
}

/// A restart of something that this release does not have (Xorg on newer ESXi) is nothing to do.
fn start(system: &dyn System, effect: &vsgpu_core::Effect) -> Result<(), NotActive> {
    if let vsgpu_core::Effect::Run { command, .. } = effect {
        let output = system.run(command);
        return match output.ended {
            ExitKind::Missing | ExitKind::Status(0) => Ok(()),
            ended => {
                let said = vsgpu_core::observation::head(&format!("{}\n{}", output.stdout, output.stderr));
                // A tool that was killed at its deadline, or cut off, has not said no.
                let refused = matches!(ended, ExitKind::Status(_) | ExitKind::ByApi(_));
                Err(NotActive { why: format!("`{command}`: {ended}: {said}"), refused })
            }
        };
    }
    effects::act(system, effect).map_err(|broken| NotActive { why: broken.to_string(), refused: true })
}
