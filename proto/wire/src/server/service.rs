//! What an agent answers: the handlers of the wire, around a catalogue and a `System`. Every change goes one
//! road: the controller's claim is checked, the operation is run once under its name, and it goes on when
//! nobody listens any more.

use crate::acquired::TemporaryChange;
use crate::refusal::Refusal;
use crate::server::authorization::Authorization;
use crate::server::node::{Node, parsed};
use crate::server::operate::{Events, operate};
use crate::server::{reboot, upload};
use crate::v1::{self, agent_server};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status, Streaming};
use vsgpu_core::apply::{self, ApplyOptions};
use vsgpu_core::catalogue::Entry;
use vsgpu_core::outcome::{Expectation, Outcome};
use vsgpu_core::requirement::Outage;
use vsgpu_core::text::piece;
use vsgpu_core::{Subject, observe};

pub(crate) struct Service(pub(crate) Arc<Node>);

fn subject(wire: Option<v1::Subject>) -> Subject {
    Subject::named(wire.map(|s| s.vm).filter(|vm| !vm.is_empty()))
}

/// Runs blocking work beside the network thread and measures it.
async fn blocking<T: Send + 'static>(
    node: &Arc<Node>,
    rpc: &'static str,
    work: impl FnOnce(&Node) -> Result<T, Refusal> + Send + 'static,
) -> Result<Response<T>, Status> {
    let shared = node.clone();
    let start = node.system.elapsed();
    let result = node.offload.run(move || work(&shared)).await.and_then(|r| r);
    node.metrics.rpc(rpc, result.is_ok(), node.system.elapsed().saturating_sub(start));
    result.map(Response::new).map_err(Into::into)
}

#[tonic::async_trait]
impl agent_server::Agent for Service {
    type ApplyStream = Events;
    type ActivateStream = Events;

    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeReply>, Status> {
        // They are large, and no reader needs them.
        let operator = request.extensions().get::<Authorization>().is_some_and(|rights| rights.may_change);
        let schemas = request.into_inner().schemas && operator;
        blocking(&self.0, "Describe", move |node| {
            let temporary = |t: TemporaryChange| v1::TemporaryChange {
                what: t.what,
                vm: t.vm,
                run: t.run,
                holder: t.holder,
                since: t.since,
                seen: t.seen,
            };
            let (holder, ends_in_secs) = node.lease.holder(node.system.as_ref());
            let held =
                v1::Held { holder, ends_in_secs, at_work: node.operations.running().unwrap_or_default() };
            let known = |e: &Entry| v1::Known {
                name: e.name.into(),
                scope: serde_json::to_value(e.scope)
                    .ok()
                    .and_then(|v| v.as_str().map(String::from))
                    .unwrap_or_default(),
                schema_json: if schemas { (e.schema)().to_string() } else { String::new() },
            };
            Ok(v1::DescribeReply {
                agent_version: env!("CARGO_PKG_VERSION").into(),
                role: node.agent.role.into(),
                node: node.name.clone(),
                boot_id: node.system.boot_id().map_err(|e| Refusal::from(&e))?,
                requirements: node.catalogue.entries.iter().map(known).collect(),
                restarts: node.catalogue.restarts().into_iter().map(|r| r.name.into()).collect(),
                temporary: if operator {
                    node.ledger.all().into_iter().map(temporary).collect()
                } else {
                    vec![]
                },
                held: operator.then_some(held),
            })
        })
        .await
    }

    async fn observe(
        &self,
        request: Request<v1::ObserveRequest>,
    ) -> Result<Response<v1::ObserveReply>, Status> {
        let request = request.into_inner();
        let place = self.0.work.look().await?;
        blocking(&self.0, "Observe", move |node| {
            // Until the look is over, also where nobody waits for it any more.
            let _place = place;
            let looking = node.looking();
            let on = subject(request.subject);
            let mut facts = node.catalogue.facts(node.scope(&on));
            if !request.facts.is_empty() {
                if let Some(unknown) =
                    request.facts.iter().find(|name| facts.iter().all(|f| f.name != name.as_str()))
                {
                    return Err(Refusal::unknown_operation(format!(
                        "{} agent {} does not know the fact `{}`: upgrade the agent",
                        node.agent.role,
                        env!("CARGO_PKG_VERSION"),
                        piece(unknown, 100)
                    )));
                }
                facts.retain(|f| request.facts.iter().any(|name| name == f.name));
            }
            let seen = observe::observe(node.system.as_ref(), &on, &facts);
            if on.vm.is_none() {
                node.looked(&seen, looking);
            }
            let boot_id = node.system.boot_id().map_err(|e| Refusal::from(&e))?;
            Ok(v1::ObserveReply {
                boot_id,
                facts_json: serde_json::to_string(&seen).map_err(|e| Refusal::internal(e.to_string()))?,
            })
        })
        .await
    }

    async fn remember(
        &self,
        request: Request<v1::RememberRequest>,
    ) -> Result<Response<v1::RememberReply>, Status> {
        let request = request.into_inner();
        blocking(&self.0, "Remember", move |node| {
            node.remember(request.subjects.into_iter().map(|one| (subject(one.subject), one.wishes)));
            Ok(v1::RememberReply {})
        })
        .await
    }

    async fn metrics(&self, _: Request<v1::MetricsRequest>) -> Result<Response<v1::MetricsReply>, Status> {
        // From memory: nothing is looked at for it.
        Ok(Response::new(v1::MetricsReply { text: crate::server::metrics::page(&self.0, false) }))
    }

    async fn claim(&self, request: Request<v1::ClaimRequest>) -> Result<Response<v1::ClaimReply>, Status> {
        let v1::ClaimRequest { holder, epoch, lease_secs } = request.into_inner();
        blocking(&self.0, "Claim", move |node| {
            let busy = node.operations.running();
            let epoch =
                node.lease.claim(node.system.as_ref(), &holder, epoch, lease_secs, busy.as_deref())?;
            Ok(v1::ClaimReply { epoch })
        })
        .await
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<Events>, Status> {
        let request = request.into_inner();
        let on = subject(request.subject);
        let entry = self.0.find(&on, &request.requirement)?;
        let wish: serde_json::Value = parsed("spec", &request.spec_json)?;
        let spec = (entry.read_spec)(&wish)
            .map_err(|e| Refusal::invalid(piece(&format!("{}: {}", entry.name, e.message), 500)))?;
        let expected: Option<Expectation> = match request.expectation_json.as_str() {
            "" => None,
            json => Some(parsed("expectation", json)?),
        };
        let preconditions = self.0.preconditions(&on, &request.preconditions)?;
        let secs = request.call.as_ref().map_or(0, |c| c.deadline_secs);
        let temporary = request.call.as_ref().filter(|c| c.temporary).map(|c| {
            let holder = c.fence.as_ref().map(|f| f.holder.as_str()).unwrap_or_default();
            (piece(&c.run, 600), piece(holder, 400))
        });
        let what = format!("{} {}", on.vm.as_deref().unwrap_or_default(), entry.name).trim().to_string();
        if reboot::about_to_reboot(&self.0).await? {
            return Err(Refusal::away("the node is about to reboot").into());
        }
        operate(&self.0, "Apply", on.clone(), request.call, what, move |node, say| {
            let deadline = (secs > 0).then(|| Duration::from_secs(secs.into()));
            let outage = (entry.outage)(&spec);
            let allowed = |needs| {
                (node.agent.may_change)(node.system.as_ref(), &on, needs)?;
                match temporary.clone().filter(|_| outage == Some(Outage::Begins)) {
                    Some(by) => node.note(entry.name, &on, by),
                    None => Ok(()),
                }
            };
            let terms = ApplyOptions {
                expected: expected.as_ref(),
                preconditions: &preconditions,
                deadline,
                allowed: Some(&allowed),
            };
            let start = node.system.elapsed();
            let outcome = apply::apply(node.system.as_ref(), &entry, &on, &spec, &terms, say);
            let is_so = matches!(outcome, Outcome::Applied { active: true, .. } | Outcome::AlreadyMet { .. });
            let vm = on.vm.as_deref().unwrap_or_default();
            match outage.filter(|_| is_so) {
                Some(Outage::Ends) => {
                    let already = matches!(outcome, Outcome::AlreadyMet { .. });
                    node.ledger.restored(node.system.as_ref(), entry.name, vm, already);
                }
                Some(Outage::Begins) => {
                    node.ledger.looked(node.system.as_ref(), &[(entry.name, vm.into(), true)])
                }
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
        .map_err(Into::into)
    }

    async fn activate(&self, request: Request<v1::ActivateRequest>) -> Result<Response<Events>, Status> {
        reboot::activate(&self.0, request.into_inner()).map_err(Into::into)
    }

    async fn stat_artifact(
        &self,
        request: Request<v1::ArtifactId>,
    ) -> Result<Response<v1::ArtifactState>, Status> {
        let id = request.into_inner();
        blocking(&self.0, "StatArtifact", move |node| upload::state(node.system.as_ref(), &node.name, &id))
            .await
    }

    async fn put_artifact(
        &self,
        request: Request<Streaming<v1::ArtifactPart>>,
    ) -> Result<Response<v1::ArtifactState>, Status> {
        let start = self.0.system.elapsed();
        let _place = self.0.work.transfer().await?;
        let node = self.0.clone();
        let allowed = move |fence: Option<&v1::Fence>| node.lease.check(node.system.as_ref(), fence);
        let result =
            upload::put(self.0.system.clone(), self.0.name.clone(), request.into_inner(), allowed).await;
        self.0.metrics.rpc("PutArtifact", result.is_ok(), self.0.system.elapsed() - start);
        result.map(Response::new).map_err(Into::into)
    }
}
