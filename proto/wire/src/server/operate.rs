//! One change: the claim is checked, the operation is run once under its name, and it goes on when nobody
//! listens any more.

use crate::refusal::Refusal;
use crate::server::limits::CHANGES_WAITING;
use crate::server::node::Node;
use crate::server::operations::Operation;
use crate::traceparent::TraceParent;
use crate::v1;
use std::sync::Arc;
use std::time::Duration;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Response;
use vsgpu_core::Subject;
use vsgpu_core::failpoint;
use vsgpu_core::outcome::Outcome;

pub(crate) type Events = ReceiverStream<Result<v1::Event, tonic::Status>>;

/// One change: the claim is checked, what runs already under this name is only listened to, everything else
/// is run in the background and goes on when nobody listens any more.
pub(crate) fn operate(
    node: &Arc<Node>,
    rpc: &'static str,
    on: Subject,
    call: Option<v1::Call>,
    what: String,
    act: impl FnOnce(&Node, &mut dyn FnMut(String)) -> Outcome + Send + 'static,
) -> Result<Response<Events>, Refusal> {
    let call = call.unwrap_or_default();
    node.lease.check(node.system.as_ref(), call.fence.as_ref())?;
    if call.operation.is_empty() || call.operation.len() > 1000 {
        return Err(Refusal::invalid("the operation has no name"));
    }
    let trace = TraceParent::parse(&call.traceparent).unwrap_or_default();
    let span =
        tracing::info_span!("operation", name = call.operation, trace_id = trace.trace, span_id = trace.span);
    let (operation, new) = node.operations.begin(&call.operation, call.look_again, what, CHANGES_WAITING)?;
    if failpoint!(AskedTwiceRunsTwice, true, new) {
        let (node, ending) = (node.clone(), operation.clone());
        tokio::spawn(async move {
            let work = {
                let (node, operation) = (node.clone(), ending.clone());
                move || span.in_scope(|| run(&node, rpc, &on, &operation, act))
            };
            let _place = node.work.change().await;
            let outcome = node
                .offload
                .run(work)
                .await
                .unwrap_or_else(|bug| Outcome::failed(format!("the agent failed: {}", bug.message())));
            ending.end(serde_json::to_string(&outcome).unwrap_or_default());
        });
    }
    // After a restart the caller's event numbers belong to the old process: start from 0.
    Ok(Response::new(ReceiverStream::new(operation.listen(if new { 0 } else { call.events_heard }))))
}

fn run(
    node: &Node,
    rpc: &'static str,
    on: &Subject,
    operation: &Operation,
    act: impl FnOnce(&Node, &mut dyn FnMut(String)) -> Outcome,
) -> Outcome {
    let turn = node.acting(on);
    let _turn = turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let start = node.system.elapsed();
    let mut say = |said: String| {
        tracing::info!(vm = on.vm, "{said}");
        operation.say(said);
    };
    let outcome = match wait_for_orphans(node, &mut say) {
        None => act(node, &mut say),
        // To go on beside it would be a second one of it, or one against it.
        Some(command) => Outcome::Blocked {
            why: format!("`{command}`, which an earlier agent started, still runs; nothing was done"),
            hint: "wait until it has ended, then `vsgpu apply` (through vCenter: look in Recent Tasks)"
                .into(),
        },
    };
    tracing::info!(vm = on.vm, ?outcome, "ended");
    node.metrics.rpc(
        rpc,
        !matches!(outcome, Outcome::Failed { .. }),
        node.system.elapsed().saturating_sub(start),
    );
    outcome
}

/// Longer than any command may take.
const ORPHAN: Duration = Duration::from_secs(7_300);

/// An agent that was killed may have left an installer or a task running: waits for it. What still runs then.
fn wait_for_orphans(node: &Node, say: &mut dyn FnMut(String)) -> Option<String> {
    let start = node.system.elapsed();
    let mut said = false;
    while let Some(command) = node.system.orphan() {
        if node.system.elapsed() - start >= ORPHAN {
            return Some(command);
        }
        if !std::mem::replace(&mut said, true) {
            say(format!("waiting for `{command}`, which an earlier agent started"));
        }
        node.system.sleep(Duration::from_millis(500));
    }
    None
}
