//! What an agent answers: the handlers of the wire, around a catalogue and a `System`. Every change goes one road: the
//! controller's claim is checked, the operation is run once under its name, and it goes on when nobody listens any more.

use crate::activation;
use crate::agent::Agent;
use crate::lease::Lease;
use crate::metrics::{Metrics, Snapshot};
use crate::offload::Offload;
use crate::operations::{Operation, Operations};
use crate::receive;
use crate::rights::Rights;
use crate::shell::Shell;
use crate::taken::{Ledger, Taken};
use crate::traceparent::TraceParent;
use crate::v1::{self, agent_server};
use crate::work::{CHANGES_WAITING, Work};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use vsgpu_core::catalogue::Entry;
use vsgpu_core::execute::{self, Expectation, Outcome, Still, Terms};
use vsgpu_core::planted::{Bug, planted};
use vsgpu_core::requirement::Taking;
use vsgpu_core::text::piece;
use vsgpu_core::{Catalogue, Scope, Subject, System, Trouble};

/// Wishes last spoken of, for the metrics: (VM or empty, requirement) -> spec.
pub(crate) type Wishes = BTreeMap<String, serde_json::Value>;
const WISHES: &str = "wishes.json";
/// Of one node or VM; there are some dozens of requirements.
const MAX_WISHES: usize = 100;
/// Bytes of one wish, and of all that are kept: on ESXi they lie on a ramdisk.
const MAX_WISH: usize = 64 << 10;
const MAX_KEPT: usize = 1 << 20;

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
    pub taken: Ledger,
    pub operations: Operations,
    pub offload: Offload,
    /// Between two looks for the metrics.
    pub observe_every: Duration,
    /// Whether GPUs are shown under DCGM's names, too.
    pub dcgm_names: bool,
    /// When the agent's certificate ends, seconds since 1970.
    pub certificate_end: Option<u64>,
    pub work: Work,
    /// One act at a time per subject: asked twice, the second waits and then finds it done.
    acting: Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

impl Node {
    pub(crate) fn new(agent: Agent, shell: Arc<dyn Shell>, system: Arc<dyn System>, name: String, offload: Offload) -> Self {
        let wishes = system
            .read(&format!("{}/{WISHES}", agent.state), MAX_KEPT)
            .ok()
            .and_then(|b| serde_json::from_slice(&b).ok())
            .unwrap_or_default();
        Self {
            catalogue: (agent.catalogue)(),
            metrics: Metrics::new(agent.role),
            snapshot: Mutex::default(),
            wishes: Mutex::new(wishes),
            lease: Lease::load(system.as_ref(), agent.state),
            taken: Ledger::load(system.as_ref(), agent.state),
            operations: Operations::default(),
            offload,
            observe_every: Duration::from_secs(60),
            dcgm_names: false,
            certificate_end: None,
            work: Work::default(),
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
                "{} agent {} does not know the requirement `{}`: upgrade the agent",
                self.agent.role,
                env!("CARGO_PKG_VERSION"),
                piece(name, 100)
            );
            Status::unimplemented(advice)
        })
    }

    /// Notes that a run is about to take something.
    fn take(&self, what: &str, on: &Subject, (run, holder): (String, String)) -> Result<(), Outcome> {
        let vm = on.vm.clone().unwrap_or_default();
        let taken = Taken { what: what.into(), vm, run, holder, since: self.system.now(), seen: false, gone: 0 };
        self.taken.note(self.system.as_ref(), taken).map_err(|why| {
            Outcome::failed(format!("the agent cannot write its record ({why}), so nothing was taken; make room where it keeps its state"))
        })
    }

    /// Begins a look: how many changes there were before it; none where one is under way.
    pub(crate) fn looking(&self) -> Option<u64> {
        let begun = self.operations.begun();
        self.operations.running().is_none().then_some(begun)
    }

    /// What a look at the node says of what was taken; not where a change was under way meanwhile, and not while something is being taken.
    pub(crate) fn looked(&self, facts: &execute::Facts, since: Option<u64>) {
        let looks = (self.agent.looks)(facts);
        if !looks.is_empty() && since.is_some() && self.looking() == since {
            self.taken.looked(self.system.as_ref(), &looks);
        }
    }

    /// Keeps what a node or a VM is wished to be; what was known of it before is forgotten, so that keys that were taken out of a fleet
    /// file are.
    fn remember(&self, on: &Subject, wishes: Vec<v1::Wish>) {
        let Ok(mut known) = self.wishes.lock() else { return };
        if wishes.is_empty() {
            return;
        }
        let of_subject = format!("{}/", on.vm.as_deref().unwrap_or_default());
        let mut next: Wishes = known.iter().filter(|(key, _)| !is_of(key, &of_subject)).map(|(k, v)| (k.clone(), v.clone())).collect();
        for wish in wishes.into_iter().take(MAX_WISHES).filter(|wish| wish.spec_json.len() <= MAX_WISH) {
            if let (Some(entry), Ok(spec)) = (self.catalogue.find(self.scope(on), &wish.requirement), serde_json::from_str(&wish.spec_json))
            {
                next.insert(format!("{of_subject}{}", entry.name), spec);
            }
        }
        if *known == next {
            return;
        }
        let text = serde_json::to_vec(&next).unwrap_or_default();
        if text.len() > MAX_KEPT {
            return tracing::warn!(
                bytes = text.len(),
                "wishes are not remembered: they are larger than those of any host with all its VMs"
            );
        }
        *known = next;
        if let Err(why) = self.system.write(&format!("{}/{WISHES}", self.agent.state), &text, 0o600) {
            tracing::warn!(%why, "wishes are not kept over a restart of the agent");
        }
    }
}

/// Whether a wish is of this subject: `esx.vm-01/vgpu` is of `esx.vm-01/`.
fn is_of(key: &str, subject: &str) -> bool {
    key.rsplit_once('/').is_some_and(|(vm, _)| vm == subject.trim_end_matches('/'))
}

pub(crate) struct Service(pub(crate) Arc<Node>);

fn subject(wire: Option<v1::Subject>) -> Subject {
    Subject::named(wire.map(|s| s.vm).filter(|vm| !vm.is_empty()))
}

fn parsed<T: serde::de::DeserializeOwned>(what: &str, json: &str) -> Result<T, Status> {
    // An answer's words travel as metadata, which is small: what was sent must not come back in them.
    serde_json::from_str(json).map_err(|e| Status::invalid_argument(piece(&format!("{what}: {e}"), 500)))
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

pub(crate) type Events = ReceiverStream<Result<v1::Event, Status>>;

/// One change: the claim is checked, what runs already under this name is only listened to, everything else is run in the
/// background and goes on when nobody listens any more.
pub(crate) fn operate(
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
    let (operation, new) = node.operations.begin(&call.operation, call.look_again, what, CHANGES_WAITING)?;
    if new || planted(Bug::AskedTwiceRunsTwice) {
        let (node, ending) = (node.clone(), operation.clone());
        tokio::spawn(async move {
            let work = {
                let (node, operation) = (node.clone(), ending.clone());
                move || span.in_scope(|| run(&node, rpc, &on, &operation, act))
            };
            let _place = node.work.change().await;
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
    pub(crate) fn still(&self, on: &Subject, wishes: &[v1::Wish]) -> Result<Vec<Still>, Status> {
        let still = |wish: &v1::Wish| {
            let entry = self.find(on, &wish.requirement)?;
            let spec = (entry.read_spec)(&parsed("spec", &wish.spec_json)?)
                .map_err(|e| Status::invalid_argument(piece(&format!("{}: {}", entry.name, e.message), 500)))?;
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
            let taken = |t: Taken| v1::Taken { what: t.what, vm: t.vm, run: t.run, holder: t.holder, since: t.since, seen: t.seen };
            let (holder, ends_in_secs) = node.lease.holder(node.system.as_ref());
            let held = v1::Held { holder, ends_in_secs, at_work: node.operations.running().unwrap_or_default() };
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
                restarts: node.catalogue.restarts().into_iter().map(|r| r.name.into()).collect(),
                taken: if operator { node.taken.all().into_iter().map(taken).collect() } else { vec![] },
                held: operator.then_some(held),
            })
        })
        .await
    }

    async fn observe(&self, request: Request<v1::ObserveRequest>) -> Result<Response<v1::ObserveReply>, Status> {
        let request = request.into_inner();
        let place = self.0.work.look().await?;
        blocking(&self.0, "Observe", move |node| {
            // Until the look is over, also where nobody waits for it any more.
            let _place = place;
            let looking = node.looking();
            let on = subject(request.subject);
            let mut facts = node.catalogue.facts(node.scope(&on));
            if !request.facts.is_empty() {
                if let Some(unknown) = request.facts.iter().find(|name| facts.iter().all(|f| f.name != name.as_str())) {
                    return Err(Status::unimplemented(format!(
                        "{} agent {} does not know the fact `{}`: upgrade the agent",
                        node.agent.role,
                        env!("CARGO_PKG_VERSION"),
                        piece(unknown, 100)
                    )));
                }
                facts.retain(|f| request.facts.iter().any(|name| name == f.name));
            }
            node.remember(&on, request.wishes);
            let seen = execute::observe(node.system.as_ref(), &on, &facts);
            if on.vm.is_none() {
                node.looked(&seen, looking);
            }
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
        let spec = (entry.read_spec)(&wish).map_err(|e| Status::invalid_argument(piece(&format!("{}: {}", entry.name, e.message), 500)))?;
        let expected: Option<Expectation> = match request.expectation_json.as_str() {
            "" => None,
            json => Some(parsed("expectation", json)?),
        };
        let still = self.0.still(&on, &request.still)?;
        let secs = request.call.as_ref().map_or(0, |c| c.deadline_secs);
        let borrower = request.call.as_ref().filter(|c| c.borrows).map(|c| {
            let holder = c.fence.as_ref().map(|f| f.holder.as_str()).unwrap_or_default();
            (piece(&c.run, 600), piece(holder, 400))
        });
        let what = format!("{} {}", on.vm.as_deref().unwrap_or_default(), entry.name).trim().to_string();
        if activation::about_to_reboot(&self.0).await? {
            return Err(Status::unavailable("the node is about to reboot"));
        }
        operate(&self.0, "Apply", on.clone(), request.call, what, move |node, say| {
            let deadline = (secs > 0).then(|| Duration::from_secs(secs.into()));
            let taking = (entry.taking)(&spec);
            let gate = |needs| {
                (node.agent.gate)(node.system.as_ref(), &on, needs)?;
                match borrower.clone().filter(|_| taking == Some(Taking::Takes)) {
                    Some(by) => node.take(entry.name, &on, by),
                    None => Ok(()),
                }
            };
            let terms = Terms { expected: expected.as_ref(), still: &still, deadline, gate: Some(&gate) };
            let start = node.system.elapsed();
            let outcome = execute::apply(node.system.as_ref(), &entry, &on, &spec, &terms, say);
            let is_so = matches!(outcome, Outcome::Applied { active: true, .. } | Outcome::AlreadyMet { .. });
            let vm = on.vm.as_deref().unwrap_or_default();
            match taking.filter(|_| is_so) {
                Some(Taking::GivesBack) => {
                    let already = matches!(outcome, Outcome::AlreadyMet { .. });
                    node.taken.given_back(node.system.as_ref(), entry.name, vm, already);
                }
                Some(Taking::Takes) => node.taken.looked(node.system.as_ref(), &[(entry.name, vm.into(), true)]),
                None => {}
            }
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
        activation::activate(&self.0, request.into_inner())
    }

    async fn stat_artifact(&self, request: Request<v1::ArtifactId>) -> Result<Response<v1::ArtifactState>, Status> {
        let id = request.into_inner();
        blocking(&self.0, "StatArtifact", move |node| receive::state(node.shell.as_ref(), &node.name, &id)).await
    }

    async fn put_artifact(&self, request: Request<Streaming<v1::ArtifactPart>>) -> Result<Response<v1::ArtifactState>, Status> {
        let start = self.0.system.elapsed();
        let _place = self.0.work.transfer().await?;
        let node = self.0.clone();
        let allowed = move |fence: Option<&v1::Fence>| node.lease.check(node.system.as_ref(), fence);
        let result = receive::put(self.0.shell.clone(), self.0.name.clone(), request.into_inner(), allowed).await;
        self.0.metrics.rpc("PutArtifact", result.is_ok(), self.0.system.elapsed() - start);
        result.map(Response::new)
    }
}
