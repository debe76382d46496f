//! The controller's side of the wire: a connection that knows whom it talks to, deadlines on every call, and
//! errors that say whether the node is away, is somebody else, or refuses us.

use crate::acquired::TemporaryChange;
use crate::client::channel::channel;
pub use crate::client::connector::Connector;
pub use crate::client::error::CallError;
use crate::client::error::{answered, classify, failed};
use crate::client::target::Target;
use crate::refusal::Refusal;
use crate::sizes::{CHUNK, MAX_MESSAGE};
use crate::traceparent::TraceParent;
use crate::v1;
use crate::v1::agent_client::AgentClient;
use crate::v1::artifact_part::Part;
use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;
use vsgpu_core::Unreadable;
use vsgpu_core::observe::Facts;
use vsgpu_core::outcome::{Expectation, Outcome};
use vsgpu_core::text::sentence;

/// Bytes of one fact. The largest there are (the vGPU types of a host with sixteen GPUs, a thousand VMs) have
/// some hundred KiB.
const MAX_FACT: usize = 512 << 10;

/// Who changes a node, and in which claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    /// Who.
    pub holder: String,
    /// What `claim` gave.
    pub epoch: u64,
}

impl From<&Fence> for v1::Fence {
    fn from(fence: &Fence) -> Self {
        Self { holder: fence.holder.clone(), epoch: fence.epoch }
    }
}

/// What a change says about itself. It is asked again under the same name after a cut, and only the rest is
/// heard.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// Who changes.
    pub fence: Fence,
    /// Name of the operation.
    pub operation: String,
    /// Events of it that were heard.
    pub heard: u64,
    /// One that has ended is not believed: the machine is looked at again.
    pub look_again: bool,
    /// Seconds for all of it; 0: each command has only its own deadline.
    pub deadline_secs: u32,
    /// Name of the run.
    pub run: String,
    /// A later step of the run restores what this changes.
    pub temporary: bool,
    /// Where it belongs in the run's trace.
    pub trace: TraceParent,
    /// Requirements of the node, with their specs, that must still be met.
    pub preconditions: Vec<(String, serde_json::Value)>,
}

impl Call {
    fn wire(&self) -> v1::Call {
        v1::Call {
            fence: Some((&self.fence).into()),
            operation: self.operation.clone(),
            events_heard: self.heard,
            look_again: self.look_again,
            deadline_secs: self.deadline_secs,
            traceparent: self.trace.to_string(),
            run: self.run.clone(),
            temporary: self.temporary,
        }
    }
    fn preconditions(&self) -> Vec<v1::Wish> {
        self.preconditions.iter().map(wish).collect()
    }
}

fn wish((name, spec): &(String, serde_json::Value)) -> v1::Wish {
    v1::Wish { requirement: name.clone(), spec_json: spec.to_string() }
}

/// What the fleet file says of a node, or of one of its VMs: requirements by name, with their specs.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// Display name of the VM; `None`: the node itself.
    pub vm: Option<String>,
    /// The requirements.
    pub wishes: Vec<(String, serde_json::Value)>,
}

/// A connection to one agent.
#[derive(Clone)]
pub struct Connection {
    client: AgentClient<Channel>,
    target: Target,
    said: Arc<Option<Description>>,
}

/// What an agent says about itself.
#[derive(Clone, Debug)]
pub struct Description {
    /// Its version.
    pub agent_version: String,
    /// The running boot.
    pub boot_id: String,
    /// (scope, requirement) pairs it knows.
    pub known: Vec<(String, String)>,
    /// What runs changed on the node temporarily and have not restored.
    pub temporary: Vec<TemporaryChange>,
    /// Who claimed it last.
    pub holder: Option<Holder>,
}

/// Who has claimed a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub name: String,
    /// Seconds until its lease ends; 0 where it has.
    pub ends_in_secs: u32,
    /// What runs for it now.
    pub at_work: Option<String>,
}

impl Holder {
    /// Whether somebody may still be at work.
    pub fn is_live(&self) -> bool {
        self.ends_in_secs > 0 || self.at_work.is_some()
    }
}

/// How long a refusal of our certificate is waited for: it is there already when the handshake is done.
const REFUSAL: Duration = Duration::from_secs(1);

/// Whether the other side refuses our certificate: a connection on which nothing is said, so that nothing can hide why
/// it is closed.
async fn refused(connector: &Connector, target: &Target, within: Duration) -> Option<CallError> {
    use tokio::io::AsyncReadExt as _;
    let mut stream = tokio::time::timeout(within, connector.dial(target)).await.ok()?.ok()?;
    let read = tokio::time::timeout(within.min(REFUSAL), stream.read_u8()).await.ok()?;
    let why = classify(target, &read.err()?);
    matches!(why, CallError::Refused(_)).then_some(why)
}

impl Connection {
    /// Connects and proves both identities.
    ///
    /// # Errors
    /// `Unreachable` or `Refused`.
    pub async fn open(connector: &Connector, target: &Target, within: Duration) -> Result<Self, CallError> {
        let channel = channel(connector, target, within).await?;
        let client = AgentClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let connection = Self { client, target: target.clone(), said: Arc::default() };
        // With TLS 1.3 a server's refusal of our certificate arrives only with the first call, and is lost where the
        // connection is closed under what we were sending.
        let said = match connection.describe(within).await {
            Err(CallError::Unreachable(why)) => {
                return Err(refused(connector, target, within).await.unwrap_or(CallError::Unreachable(why)));
            }
            said => said?,
        };
        Ok(Self { said: Arc::new(Some(said)), ..connection })
    }

    /// What the agent said of itself when the connection was made.
    pub fn description(&self) -> Option<&Description> {
        self.said.as_ref().as_ref()
    }

    async fn call<T>(
        &self,
        within: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, CallError> {
        answered(&self.target, within, call).await
    }

    /// Asks who it is.
    pub async fn describe(&self, within: Duration) -> Result<Description, CallError> {
        let reply =
            self.call(within, self.client.clone().describe(v1::DescribeRequest { schemas: false })).await?;
        let known = reply.requirements.into_iter().map(|k| (sentence(&k.scope), sentence(&k.name))).collect();
        // Names of VMs stay as they are: a VM is found by its name.
        let temporary = |t: v1::TemporaryChange| TemporaryChange {
            what: sentence(&t.what),
            vm: t.vm,
            run: sentence(&t.run),
            holder: sentence(&t.holder),
            since: t.since,
            seen: t.seen,
            gone: 0,
        };
        let holder = |h: v1::Held| Holder {
            name: sentence(&h.holder),
            ends_in_secs: h.ends_in_secs,
            at_work: Some(sentence(&h.at_work)).filter(|work| !work.is_empty()),
        };
        Ok(Description {
            agent_version: sentence(&reply.agent_version),
            boot_id: sentence(&reply.boot_id),
            known,
            temporary: reply.temporary.into_iter().take(2_000).map(temporary).collect(),
            holder: reply.held.map(holder).filter(|h| !h.name.is_empty()),
        })
    }

    /// JSON Schema of the spec of every requirement that the agent knows, by scope and name.
    ///
    /// # Errors
    /// Where it is away, or what it says is no JSON.
    pub async fn schemas(
        &self,
        within: Duration,
    ) -> Result<BTreeMap<(String, String), serde_json::Value>, CallError> {
        let reply =
            self.call(within, self.client.clone().describe(v1::DescribeRequest { schemas: true })).await?;
        let read = |known: v1::Known| {
            let schema = serde_json::from_str(&known.schema_json).map_err(|e| {
                CallError::Failed(format!(
                    "{}: its schema of `{}` cannot be read: {e}",
                    self.target.node, known.name
                ))
            })?;
            Ok(((known.scope, known.name), schema))
        };
        reply.requirements.into_iter().map(read).collect()
    }

    /// The agent's page of metrics.
    ///
    /// # Errors
    /// Where it is away, or too old to know the question.
    pub async fn metrics(&self, within: Duration) -> Result<String, CallError> {
        Ok(self.call(within, self.client.clone().metrics(v1::MetricsRequest {})).await?.text)
    }

    /// Takes the node, renews that (`epoch` as it was given), or gives it back (`lease_secs` 0). Gives the
    /// epoch.
    pub async fn claim(&self, fence: &Fence, lease_secs: u32, within: Duration) -> Result<u64, CallError> {
        let request = v1::ClaimRequest { holder: fence.holder.clone(), epoch: fence.epoch, lease_secs };
        Ok(self.call(within, self.client.clone().claim(request)).await?.epoch)
    }

    /// What the agent counts in its metrics from now on, in place of what it counted before.
    ///
    /// # Errors
    /// Where it is away, or too old to know the call.
    pub async fn remember(&self, all: &[Wishes], within: Duration) -> Result<(), CallError> {
        let of_subject = |one: &Wishes| v1::SubjectWishes {
            subject: subject(one.vm.as_deref()),
            wishes: one.wishes.iter().map(wish).collect(),
        };
        let request = v1::RememberRequest { subjects: all.iter().map(of_subject).collect() };
        self.call(within, self.client.clone().remember(request)).await.map(drop)
    }

    /// Looks at the node, or at one of its VMs.
    pub async fn observe(
        &self,
        vm: Option<&str>,
        facts: &[&str],
        within: Duration,
    ) -> Result<(String, Facts), CallError> {
        let request =
            v1::ObserveRequest { subject: subject(vm), facts: facts.iter().map(|f| f.to_string()).collect() };
        let reply = self.call(within, self.client.clone().observe(request)).await?;
        let facts: Facts = serde_json::from_str(&reply.facts_json)
            .map_err(|e| CallError::Failed(format!("{}: its facts cannot be read: {e}", self.target.node)))?;
        Ok((
            sentence(&reply.boot_id),
            facts.into_iter().map(|(name, fact)| (sentence(&name), believed(fact))).collect(),
        ))
    }

    /// Makes one requirement so; `said` hears what the agent does.
    #[expect(clippy::too_many_arguments, reason = "the wire message has as many fields")]
    pub async fn apply(
        &self,
        vm: Option<&str>,
        requirement: &str,
        spec: &serde_json::Value,
        expected: Option<&Expectation>,
        call: &mut Call,
        within: Duration,
        said: &mut (dyn FnMut(String) + Send),
    ) -> Result<Outcome, CallError> {
        let request = v1::ApplyRequest {
            subject: subject(vm),
            requirement: requirement.into(),
            spec_json: spec.to_string(),
            expectation_json: expected.and_then(|e| serde_json::to_string(e).ok()).unwrap_or_default(),
            call: Some(call.wire()),
            preconditions: call.preconditions(),
        };
        if vsgpu_core::failpoint::duplicated() {
            let (mut client, request) = (self.client.clone(), request.clone());
            tokio::spawn(async move { drop(client.apply(request).await) });
        }
        let work = async {
            let stream =
                self.client.clone().apply(request).await.map_err(|s| failed(&self.target, &s))?.into_inner();
            self.outcome(stream, &mut call.heard, said).await
        };
        self.within(within, work).await
    }

    /// Reboots the node unless it has rebooted since `planned_boot_id`, or restarts something on it.
    pub async fn activate(
        &self,
        restart: Option<&str>,
        planned_boot_id: &str,
        call: &mut Call,
        within: Duration,
        said: &mut (dyn FnMut(String) + Send),
    ) -> Result<Outcome, CallError> {
        let what = restart.map_or(v1::activate_request::What::Reboot(true), |name| {
            v1::activate_request::What::Restart(name.into())
        });
        let request = v1::ActivateRequest {
            planned_boot_id: planned_boot_id.into(),
            what: Some(what),
            call: Some(call.wire()),
            preconditions: call.preconditions(),
        };
        let work = async {
            let stream = self
                .client
                .clone()
                .activate(request)
                .await
                .map_err(|s| failed(&self.target, &s))?
                .into_inner();
            self.outcome(stream, &mut call.heard, said).await
        };
        self.within(within, work).await
    }

    async fn within(
        &self,
        within: Duration,
        work: impl Future<Output = Result<Outcome, CallError>>,
    ) -> Result<Outcome, CallError> {
        let late = |_| {
            let why = format!("it did not finish within {} s", within.as_secs());
            CallError::away(&self.target.node, why)
        };
        tokio::time::timeout(within, work).await.map_err(late)?
    }

    async fn outcome(
        &self,
        mut stream: tonic::Streaming<v1::Event>,
        heard: &mut u64,
        said: &mut (dyn FnMut(String) + Send),
    ) -> Result<Outcome, CallError> {
        while let Some(event) = stream.message().await.map_err(|s| failed(&self.target, &s))? {
            *heard = event.number;
            match event.event {
                Some(v1::event::Event::Said(text)) => said(sentence(&text)),
                Some(v1::event::Event::OutcomeJson(json)) => {
                    let outcome = serde_json::from_str(&json).and_then(|mut outcome| {
                        vsgpu_core::text::sentences(&mut outcome);
                        serde_json::from_value(outcome)
                    });
                    return outcome.map_err(|e| {
                        CallError::Unknown(format!(
                            "{}: its answer cannot be read ({e}): upgrade the controller",
                            self.target.node
                        ))
                    });
                }
                None => {}
            }
        }
        Err(CallError::away(&self.target.node, "the connection ended before the outcome was known"))
    }

    /// Sends a file, going on where an earlier attempt ended. `progress` hears how many bytes are there.
    pub async fn send(
        &self,
        file: &Path,
        id: v1::ArtifactId,
        fence: &Fence,
        trace: &TraceParent,
        within: Duration,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<v1::ArtifactState, CallError> {
        let state = self.call(within, self.client.clone().stat_artifact(id.clone())).await?;
        progress(state.offset);
        if state.complete {
            return Ok(state);
        }
        let (tx, rx) = tokio::sync::mpsc::channel(4);
        let (seen_tx, mut seen) = tokio::sync::watch::channel(state.offset);
        let header = v1::ArtifactPart {
            part: Some(Part::Header(id)),
            offset: state.offset,
            fence: Some(fence.into()),
            traceparent: trace.to_string(),
        };
        let path: PathBuf = file.into();
        let reader = tokio::task::spawn_blocking(move || read_parts(&path, header, &tx, &seen_tx));
        let mut client = self.client.clone();
        let mut sent = Box::pin(async move { client.put_artifact(ReceiverStream::new(rx)).await });
        let late = tokio::time::sleep(within);
        tokio::pin!(late);
        let answer = loop {
            tokio::select! {
                answer = &mut sent => break answer,
                changed = seen.changed() => match changed {
                    Ok(()) => progress(*seen.borrow_and_update()),
                    // All is read; only the answer is still to come.
                    Err(_) => break tokio::time::timeout(within, &mut sent).await.unwrap_or_else(|_| Err(Refusal::too_late("no answer after the last byte").into())),
                },
                () = &mut late => break Err(Refusal::too_late(format!("the transfer took longer than {} s", within.as_secs())).into()),
            }
        };
        // Ends the stream: a reader that waits for room in it would wait for ever.
        drop(sent);
        if let Ok(Err(why)) = reader.await {
            return Err(CallError::Failed(format!("{}: {why}", file.display())));
        }
        answer.map(tonic::Response::into_inner).map_err(|s| failed(&self.target, &s))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "streams the operator's own file; the caller names it in the error"
)]
fn read_parts(
    path: &Path,
    header: v1::ArtifactPart,
    tx: &tokio::sync::mpsc::Sender<v1::ArtifactPart>,
    seen: &tokio::sync::watch::Sender<u64>,
) -> std::io::Result<()> {
    let mut at = header.offset;
    let mut file = std::fs::File::open(path)?;
    file.seek(std::io::SeekFrom::Start(at))?;
    if tx.blocking_send(header).is_err() {
        return Ok(());
    }
    loop {
        let mut data = bytes::BytesMut::zeroed(CHUNK);
        let n = file.read(&mut data)?;
        if n == 0 {
            return Ok(());
        }
        data.truncate(n);
        at += n as u64;
        if tx
            .blocking_send(v1::ArtifactPart { part: Some(Part::Data(data.freeze())), ..Default::default() })
            .is_err()
        {
            return Ok(());
        }
        let _ = seen.send(at);
    }
}

/// A fact as it is believed: what a machine says of why it cannot be read is text for people, and what is
/// larger than any machine's is not read at all. The rest stays as it is: files are made from facts, and
/// those are judged by their own checks.
fn believed(fact: Result<serde_json::Value, Unreadable>) -> Result<serde_json::Value, Unreadable> {
    let value = fact.map_err(Unreadable::for_people)?;
    if weight(&value) > MAX_FACT {
        Err(Unreadable::new(format!("the agent's answer is larger than {} KiB", MAX_FACT >> 10)))
    } else {
        Ok(value)
    }
}

/// About as many bytes as it has as text.
fn weight(value: &serde_json::Value) -> usize {
    use serde_json::Value;
    match value {
        Value::String(text) => text.len() + 3,
        Value::Array(items) => items.iter().map(|item| weight(item) + 1).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + weight(value) + 4).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 5,
    }
}

fn subject(vm: Option<&str>) -> Option<v1::Subject> {
    Some(v1::Subject { vm: vm.unwrap_or_default().into() })
}
