//! What an agent answers: the handlers of the wire, around a catalogue and a `System`. Every change goes one road: the
//! controller's claim is checked, the operation is run once under its name, and it goes on when nobody listens any more.

use crate::agent::Agent;
use crate::lease::Lease;
use crate::metrics::{Metrics, Snapshot};
use crate::offload::Offload;
use crate::operations::{Operation, Operations};
use crate::receive;
use crate::rights::Rights;
use crate::shell::Shell;
use crate::traceparent::TraceParent;
use crate::v1::{self, agent_server};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use vsgpu_core::catalogue::Entry;
use vsgpu_core::execute::{self, Expectation, Outcome, Still, Terms};
use vsgpu_core::planted::{Bug, planted};
use vsgpu_core::{Catalogue, Ended, Scope, Subject, System, Trouble};

/// Wishes last spoken of, for the metrics: (VM or empty, requirement) -> spec.
pub(crate) type Wishes = BTreeMap<String, serde_json::Value>;
const WISHES: &str = "wishes.json";
/// On a ramdisk: gone after the reboot.
const REBOOT_ASKED: &str = "/var/run/vsgpu/reboot-asked";

/// Everything the handlers share.
pub(crate) struct Node {
    pub agent: Agent,
    pub catalogue: Catalogue,
    pub system: Arc<dyn System>,
    pub shell: Arc<dyn Shell>,
    pub name: String,
    pub metrics: Metrics,
    pub snapshot: Mutex<Snapshot>,
    pub wishes: Mutex<Wishes>,
    pub lease: Lease,
    pub operations: Operations,
    pub offload: Offload,
    /// Between two looks for the metrics.
    pub observe_every: Duration,
    /// Whether GPUs are shown under DCGM's names, too.
    pub dcgm_names: bool,
    /// When the agent's certificate ends, seconds since 1970.
    pub certificate_end: Option<u64>,
    /// One act at a time per subject: asked twice, the second waits and then finds it done.
    acting: Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

impl Node {
    pub(crate) fn new(agent: Agent, shell: Arc<dyn Shell>, system: Arc<dyn System>, name: String, offload: Offload) -> Self {
        let wishes = system
            .read(&format!("{}/{WISHES}", agent.state), 1 << 20)
            .ok()
            .and_then(|b| serde_json::from_slice(&b).ok())
            .unwrap_or_default();
        Self {
            catalogue: (agent.catalogue)(),
            metrics: Metrics::new(agent.role),
            snapshot: Mutex::default(),
            wishes: Mutex::new(wishes),
            lease: Lease::load(system.as_ref(), agent.state),
            operations: Operations::default(),
            offload,
            observe_every: Duration::from_secs(60),
            dcgm_names: false,
            certificate_end: None,
            acting: Mutex::default(),
            agent,
            shell,
            system,
            name,
        }
    }

    pub(crate) fn acting(&self, on: &Subject) -> Arc<Mutex<()>> {
        let mut all = self.acting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.entry(on.vm.clone().unwrap_or_default()).or_default().clone()
    }

    /// Scope of a subject on this agent.
    pub(crate) fn scope(&self, on: &Subject) -> Scope {
        match (self.agent.role, &on.vm) {
            (_, Some(_)) => Scope::Vm,
            ("host", None) => Scope::Host,
            _ => Scope::Guest,
        }
    }

    fn find(&self, on: &Subject, name: &str) -> Result<Entry, Status> {
        self.catalogue.find(self.scope(on), name).copied().ok_or_else(|| {
            let advice = format!(
                "{} agent {} does not know the requirement `{name}`: upgrade the agent",
                self.agent.role,
                env!("CARGO_PKG_VERSION")
            );
            Status::unimplemented(advice)
        })
    }

    fn remember(&self, on: &Subject, wishes: Vec<v1::Wish>) {
        let Ok(mut known) = self.wishes.lock() else { return };
        let before = known.clone();
        let vm = on.vm.as_deref().unwrap_or_default();
        for wish in wishes {
            if let (Some(_), Ok(spec)) = (self.catalogue.find(self.scope(on), &wish.requirement), serde_json::from_str(&wish.spec_json)) {
                known.insert(format!("{vm}/{}", wish.requirement), spec);
            }
        }
        if *known != before {
            let text = serde_json::to_vec(&*known).unwrap_or_default();
            if let Err(why) = self.system.write(&format!("{}/{WISHES}", self.agent.state), &text, 0o600) {
                tracing::warn!(%why, "wishes are not kept over a restart of the agent");
            }
        }
    }
}

pub(crate) struct Service(pub(crate) Arc<Node>);

fn subject(wire: Option<v1::Subject>) -> Subject {
    Subject { vm: wire.map(|s| s.vm).filter(|vm| !vm.is_empty()) }
}

fn parsed<T: serde::de::DeserializeOwned>(what: &str, json: &str) -> Result<T, Status> {
    serde_json::from_str(json).map_err(|e| Status::invalid_argument(format!("{what}: {e}")))
}

/// Runs blocking work beside the network thread and measures it.
async fn blocking<T: Send + 'static>(
    node: &Arc<Node>,
    rpc: &'static str,
    work: impl FnOnce(&Node) -> Result<T, Status> + Send + 'static,
) -> Result<Response<T>, Status> {
    let shared = node.clone();
    let start = node.system.elapsed();
    let result = node.offload.run(move || work(&shared)).await.and_then(|r| r);
    node.metrics.rpc(rpc, result.is_ok(), node.system.elapsed().saturating_sub(start));
    result.map(Response::new)
}

/// An agent that was killed may have left an installer running: wait for it, within the longest deadline a command has.
fn wait_for_orphans(node: &Node, say: &mut dyn FnMut(String)) {
    let start = node.system.elapsed();
    let mut said = false;
    while let Some(command) = node.shell.orphan().filter(|_| node.system.elapsed() - start < Duration::from_secs(3660)) {
        if !std::mem::replace(&mut said, true) {
            say(format!("waiting for `{command}`, which an earlier agent started"));
        }
        node.system.sleep(Duration::from_millis(500));
    }
}

/// A machine that is away is for the caller what an agent is that is away.
pub(crate) fn troubled(trouble: &Trouble) -> Status {
    match trouble {
        Trouble::Away(why) => Status::unavailable(why),
        other => Status::internal(other.to_string()),
    }
}

type Events = ReceiverStream<Result<v1::Event, Status>>;

/// One change: the claim is checked, what runs already under this name is only listened to, everything else is run in the
/// background and goes on when nobody listens any more.
fn operate(
    node: &Arc<Node>,
    rpc: &'static str,
    on: Subject,
    call: Option<v1::Call>,
    what: String,
    act: impl FnOnce(&Node, &mut dyn FnMut(String)) -> Outcome + Send + 'static,
) -> Result<Response<Events>, Status> {
    let call = call.unwrap_or_default();
    node.lease.check(node.system.as_ref(), call.fence.as_ref())?;
    if call.operation.is_empty() || call.operation.len() > 1000 {
        return Err(Status::invalid_argument("the operation has no name"));
    }
    let trace = TraceParent::parse(&call.traceparent).unwrap_or_default();
    let span = tracing::info_span!("operation", name = call.operation, trace_id = trace.trace, span_id = trace.span);
    let (operation, new) = node.operations.begin(&call.operation, call.look_again, what);
    if new || planted(Bug::AskedTwiceRunsTwice) {
        let (node, ending) = (node.clone(), operation.clone());
        tokio::spawn(async move {
            let work = {
                let (node, operation) = (node.clone(), ending.clone());
                move || span.in_scope(|| run(&node, rpc, &on, &operation, act))
            };
            let outcome =
                node.offload.run(work).await.unwrap_or_else(|bug| Outcome::failed(format!("the agent failed: {}", bug.message())));
            ending.end(serde_json::to_string(&outcome).unwrap_or_default());
        });
    }
    // What was heard of an operation that is run anew here was another agent's.
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
    wait_for_orphans(node, &mut say);
    let outcome = act(node, &mut say);
    tracing::info!(vm = on.vm, ?outcome, "ended");
    node.metrics.rpc(rpc, !matches!(outcome, Outcome::Failed { .. }), node.system.elapsed().saturating_sub(start));
    outcome
}

impl Node {
    /// What must still be so, as the wire says it.
    fn still(&self, on: &Subject, wishes: &[v1::Wish]) -> Result<Vec<Still>, Status> {
        let still = |wish: &v1::Wish| {
            let entry = self.find(on, &wish.requirement)?;
            let spec = (entry.read_spec)(&parsed("spec", &wish.spec_json)?)
                .map_err(|e| Status::invalid_argument(format!("{}: {}", entry.name, e.message)))?;
            Ok(Still { entry, spec })
        };
        wishes.iter().take(200).map(still).collect()
    }
}

#[tonic::async_trait]
impl agent_server::Agent for Service {
    type ApplyStream = Events;
    type ActivateStream = Events;

    async fn describe(&self, request: Request<v1::DescribeRequest>) -> Result<Response<v1::DescribeReply>, Status> {
        // They are large, and no reader needs them.
        let operator = request.extensions().get::<Rights>().is_some_and(|rights| rights.may_change);
        let schemas = request.into_inner().schemas && operator;
        blocking(&self.0, "Describe", move |node| {
            let known = |e: &Entry| v1::Known {
                name: e.name.into(),
                scope: serde_json::to_value(e.scope).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default(),
                schema_json: if schemas { (e.schema)().to_string() } else { String::new() },
            };
            Ok(v1::DescribeReply {
                agent_version: env!("CARGO_PKG_VERSION").into(),
                role: node.agent.role.into(),
                node: node.name.clone(),
                boot_id: node.system.boot_id().map_err(|e| troubled(&e))?,
                requirements: node.catalogue.entries.iter().map(known).collect(),
                restarts: (node.agent.restarts)().into_iter().map(|(name, _)| name.into()).collect(),
            })
        })
        .await
    }

    async fn observe(&self, request: Request<v1::ObserveRequest>) -> Result<Response<v1::ObserveReply>, Status> {
        let request = request.into_inner();
        blocking(&self.0, "Observe", move |node| {
            let on = subject(request.subject);
            let mut facts = node.catalogue.facts(node.scope(&on));
            if !request.facts.is_empty() {
                if let Some(unknown) = request.facts.iter().find(|name| facts.iter().all(|f| f.name != name.as_str())) {
                    return Err(Status::unimplemented(format!(
                        "{} agent {} does not know the fact `{unknown}`: upgrade the agent",
                        node.agent.role,
                        env!("CARGO_PKG_VERSION")
                    )));
                }
                facts.retain(|f| request.facts.iter().any(|name| name == f.name));
            }
            node.remember(&on, request.wishes);
            let seen = execute::observe(node.system.as_ref(), &on, &facts);
            let boot_id = node.system.boot_id().map_err(|e| troubled(&e))?;
            Ok(v1::ObserveReply { boot_id, facts_json: serde_json::to_string(&seen).map_err(|e| Status::internal(e.to_string()))? })
        })
        .await
    }

    async fn metrics(&self, _: Request<v1::MetricsRequest>) -> Result<Response<v1::MetricsReply>, Status> {
        // From memory: nothing is looked at for it.
        Ok(Response::new(v1::MetricsReply { text: crate::metrics::page(&self.0) }))
    }

    async fn claim(&self, request: Request<v1::ClaimRequest>) -> Result<Response<v1::ClaimReply>, Status> {
        let v1::ClaimRequest { holder, epoch, lease_secs } = request.into_inner();
        blocking(&self.0, "Claim", move |node| {
            let busy = node.operations.running();
            let epoch = node.lease.claim(node.system.as_ref(), &holder, epoch, lease_secs, busy.as_deref())?;
            Ok(v1::ClaimReply { epoch })
        })
        .await
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<Events>, Status> {
        let request = request.into_inner();
        let on = subject(request.subject);
        let entry = self.0.find(&on, &request.requirement)?;
        let wish: serde_json::Value = parsed("spec", &request.spec_json)?;
        let spec = (entry.read_spec)(&wish).map_err(|e| Status::invalid_argument(format!("{}: {}", entry.name, e.message)))?;
        let expected: Option<Expectation> = match request.expectation_json.as_str() {
            "" => None,
            json => Some(parsed("expectation", json)?),
        };
        let still = self.0.still(&on, &request.still)?;
        let secs = request.call.as_ref().map_or(0, |c| c.deadline_secs);
        let what = format!("{} {}", on.vm.as_deref().unwrap_or_default(), entry.name).trim().to_string();
        if about_to_reboot(&self.0).await? {
            return Err(Status::unavailable("the node is about to reboot"));
        }
        operate(&self.0, "Apply", on.clone(), request.call, what, move |node, say| {
            let deadline = (secs > 0).then(|| Duration::from_secs(secs.into()));
            let terms = Terms { expected: expected.as_ref(), still: &still, deadline };
            let start = node.system.elapsed();
            let outcome = execute::apply(node.system.as_ref(), &entry, &on, &spec, &terms, say);
            let result = match outcome {
                Outcome::Applied { .. } => "done",
                Outcome::AlreadyMet { .. } => "nothing",
                _ => "failed",
            };
            node.metrics.change(entry.name, result, node.system.elapsed().saturating_sub(start));
            outcome
        })
    }

    async fn activate(&self, request: Request<v1::ActivateRequest>) -> Result<Response<Events>, Status> {
        let request = request.into_inner();
        let what = request.what.ok_or_else(|| Status::invalid_argument("activate what?"))?;
        let effects = match &what {
            v1::activate_request::What::Reboot(_) => vec![(self.0.agent.reboot)()],
            v1::activate_request::What::Restart(name) => {
                let known = (self.0.agent.restarts)().into_iter().find(|(known, _)| known == name);
                known
                    .map(|(_, effects)| effects)
                    .ok_or_else(|| Status::unimplemented(format!("the agent knows no restart `{name}`: upgrade the agent")))?
            }
        };
        let still = self.0.still(&Subject::node(), &request.still)?;
        let reboot = matches!(what, v1::activate_request::What::Reboot(_));
        let named = if reboot { "reboot".to_string() } else { "restart".into() };
        operate(&self.0, "Activate", Subject::node(), request.call, named, move |node, say| {
            match node.system.boot_id() {
                Ok(now) if reboot && now != request.planned_boot_id => return Outcome::AlreadyMet { is: "rebooted since".into() },
                Err(why) => return Outcome::failed(why.to_string()),
                Ok(_) => {}
            }
            if let Some(drifted) = execute::drifted(node.system.as_ref(), &Subject::node(), &still) {
                return drifted;
            }
            if reboot && let Some(asked) = asked_before(node, &request.planned_boot_id) {
                return Outcome::Applied { is: asked, active: false };
            }
            activate_all(node, &effects, reboot, say)
        })
    }

    async fn stat_artifact(&self, request: Request<v1::ArtifactId>) -> Result<Response<v1::ArtifactState>, Status> {
        let id = request.into_inner();
        blocking(&self.0, "StatArtifact", move |node| receive::state(node.shell.as_ref(), &node.name, &id)).await
    }

    async fn put_artifact(&self, request: Request<Streaming<v1::ArtifactPart>>) -> Result<Response<v1::ArtifactState>, Status> {
        let start = self.0.system.elapsed();
        let node = self.0.clone();
        let allowed = move |fence: Option<&v1::Fence>| node.lease.check(node.system.as_ref(), fence);
        let result = receive::put(self.0.shell.clone(), self.0.name.clone(), request.into_inner(), allowed).await;
        self.0.metrics.rpc("PutArtifact", result.is_ok(), self.0.system.elapsed() - start);
        result.map(Response::new)
    }
}

fn activate_all(node: &Node, effects: &[vsgpu_core::Effect], reboot: bool, say: &mut dyn FnMut(String)) -> Outcome {
    for (at, effect) in effects.iter().enumerate() {
        // A daemon needs a moment between its stop and its start (facts: "wait 1 s").
        if at > 0 {
            node.system.sleep(Duration::from_secs(1));
        }
        say(effect.to_string());
        match activate(node.system.as_ref(), effect) {
            Err(NotActive { why, refused: true }) if reboot => {
                // A refused reboot is not on its way.
                let _ = node.system.remove(REBOOT_ASKED);
                return Outcome::failed(why);
            }
            // Stopping what does not run fails, and must not keep the rest from starting: the proof decides. So it does about a reboot
            // whose command was cut: it may well be on its way.
            Err(NotActive { why, .. }) => say(format!("went on after: {why}")),
            Ok(()) => {}
        }
    }
    Outcome::Applied { is: "started".into(), active: false }
}

/// The same, without keeping the network waiting for a host that is elsewhere.
async fn about_to_reboot(node: &Arc<Node>) -> Result<bool, Status> {
    let asked = |node: &Node| node.system.boot_id().is_ok_and(|boot| reboot_asked(node, &boot));
    if !node.shell.is_remote() {
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

/// A reboot that was asked for in this boot, minutes ago, is on its way: asking again could reboot the node twice. Told by the
/// time since boot, which no wrong clock touches.
fn asked_before(node: &Node, boot_id: &str) -> Option<String> {
    if reboot_asked(node, boot_id) {
        return Some("the reboot is on its way".into());
    }
    let now = node.system.elapsed().as_secs();
    if let Err(why) = node.system.write(REBOOT_ASKED, format!("{boot_id} {now}\n").as_bytes(), 0o600) {
        tracing::warn!(%why, "the reboot is not noted");
    }
    None
}

/// Why something was not made active, and whether that is sure.
struct NotActive {
    why: String,
    refused: bool,
}

/// A restart of something that this release does not have (Xorg on newer ESXi) is nothing to do.
fn activate(system: &dyn System, effect: &vsgpu_core::Effect) -> Result<(), NotActive> {
    if let vsgpu_core::Effect::Run { command, .. } = effect {
        let output = system.run(command);
        return match output.ended {
            Ended::Missing | Ended::Status(0) => Ok(()),
            ended => {
                let said = vsgpu_core::evidence::head(&format!("{}\n{}", output.stdout, output.stderr));
                // A tool that was killed at its deadline, or cut off, has not said no.
                let refused = matches!(ended, Ended::Status(_));
                Err(NotActive { why: format!("`{command}`: {ended}: {said}"), refused })
            }
        };
    }
    execute::act(system, effect).map_err(|broken| NotActive { why: broken.to_string(), refused: true })
}
