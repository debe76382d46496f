//! An agent whose machine belongs to somebody else: it has a right certificate and says what it likes. What
//! the controller takes of it is fit for people, and bounded.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "test code")]

use std::pin::Pin;
use std::time::Duration;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use vsgpu_core::outcome::Outcome;
use vsgpu_core::text::sentence;
use vsgpu_wire::client::{Call, CallError, Connection, Connector, Target};
use vsgpu_wire::v1;
use vsgpu_wire::v1::agent_server::{Agent, AgentServer};

const EVIL: &str = "a\u{1b}]0;t\u{7}\u{9b}2J\u{202e}\r\nerror[internal]: b";

struct Rogue;

type Events = Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::Event, Status>> + Send>>;

fn events() -> Response<Events> {
    let said = v1::Event { event: Some(v1::event::Event::Said(EVIL.repeat(1_000))), number: 1 };
    let outcome = serde_json::to_string(&Outcome::Blocked { why: EVIL.into(), hint: EVIL.into() }).unwrap();
    let ended = v1::Event { event: Some(v1::event::Event::OutcomeJson(outcome)), number: 2 };
    Response::new(Box::pin(tokio_stream::iter([Ok(said), Ok(ended)])))
}

#[tonic::async_trait]
impl Agent for Rogue {
    type ApplyStream = Events;
    type ActivateStream = Events;
    async fn describe(&self, _: Request<v1::DescribeRequest>) -> Result<Response<v1::DescribeReply>, Status> {
        let known = v1::Known { name: EVIL.into(), scope: EVIL.into(), schema_json: String::new() };
        Ok(Response::new(v1::DescribeReply {
            agent_version: EVIL.into(),
            boot_id: EVIL.into(),
            requirements: vec![known],
            ..Default::default()
        }))
    }
    async fn claim(&self, _: Request<v1::ClaimRequest>) -> Result<Response<v1::ClaimReply>, Status> {
        Err(Status::resource_exhausted(EVIL.repeat(100)))
    }
    async fn observe(&self, _: Request<v1::ObserveRequest>) -> Result<Response<v1::ObserveReply>, Status> {
        let unreadable =
            serde_json::json!({ "message": EVIL, "command": EVIL, "stdout": EVIL, "stderr": EVIL });
        let facts = serde_json::json!({ EVIL: { "Err": unreadable }, "large": { "Ok": "x".repeat(3 << 20) }, "small": { "Ok": 1 } });
        Ok(Response::new(v1::ObserveReply { boot_id: EVIL.into(), facts_json: facts.to_string() }))
    }
    async fn apply(&self, _: Request<v1::ApplyRequest>) -> Result<Response<Events>, Status> {
        Ok(events())
    }
    async fn activate(&self, _: Request<v1::ActivateRequest>) -> Result<Response<Events>, Status> {
        Ok(events())
    }
    async fn remember(&self, _: Request<v1::RememberRequest>) -> Result<Response<v1::RememberReply>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn metrics(&self, _: Request<v1::MetricsRequest>) -> Result<Response<v1::MetricsReply>, Status> {
        Err(Status::internal(EVIL))
    }
    async fn stat_artifact(&self, _: Request<v1::ArtifactId>) -> Result<Response<v1::ArtifactState>, Status> {
        Err(Status::internal(EVIL))
    }
    async fn put_artifact(
        &self,
        _: Request<Streaming<v1::ArtifactPart>>,
    ) -> Result<Response<v1::ArtifactState>, Status> {
        Err(Status::internal(EVIL))
    }
}

async fn connection() -> Connection {
    let (tx, rx) = tokio::sync::mpsc::channel::<std::io::Result<tokio::io::DuplexStream>>(1);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(AgentServer::new(Rogue))
            .serve_with_incoming(ReceiverStream::new(rx)),
    );
    let connector = Connector::by(move |_| {
        let tx = tx.clone();
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            tx.send(Ok(theirs)).await.map_err(std::io::Error::other)?;
            Ok(Box::new(ours) as _)
        })
    });
    let target = Target { address: "rogue:1".into(), node: "vm-01".into(), role: "guest" };
    Connection::open(&connector, &target, Duration::from_secs(5)).await.unwrap()
}

fn is_clean(text: &str) -> bool {
    sentence(text) == text
}

#[tokio::test(flavor = "current_thread")]
async fn what_a_rogue_agent_says_is_fit_for_people() {
    let connection = connection().await;
    let within = Duration::from_secs(5);
    let description = connection.describe(within).await.unwrap();
    assert!(is_clean(&description.agent_version) && is_clean(&description.boot_id), "{description:?}");
    assert!(description.known.iter().all(|(scope, name)| is_clean(scope) && is_clean(name)));
    let (boot, facts) = connection.observe(None, &[], within).await.unwrap();
    assert!(is_clean(&boot) && facts.keys().all(|name| is_clean(name)), "{facts:?}");
    let unreadable =
        facts.values().find_map(|fact| fact.as_ref().err().filter(|why| why.command.is_some())).unwrap();
    assert!(is_clean(&unreadable.to_string()), "{unreadable:?}");
    assert!(unreadable.stderr.contains("\\u001b"), "{unreadable:?}");
    let large = facts["large"].as_ref().unwrap_err().to_string();
    assert!(large.contains("larger than"), "{large}");
    assert!(facts["small"].is_ok());
    let mut said = vec![];
    let outcome = connection
        .apply(None, "driver", &serde_json::json!({}), None, &mut Call::default(), within, &mut |text| {
            said.push(text)
        })
        .await
        .unwrap();
    assert!(said.len() == 1 && is_clean(&said[0]) && said[0].chars().count() < 2_100, "{said:?}");
    assert!(
        matches!(&outcome, Outcome::Blocked { why, hint } if is_clean(why) && is_clean(hint) && why.contains("\\u001b")),
        "{outcome:?}"
    );
    let held = connection.claim(&Default::default(), 1, within).await.unwrap_err();
    assert!(matches!(&held, CallError::Failed(why) if is_clean(why)), "{held:?}");
    assert!(is_clean(&connection.metrics(within).await.unwrap_err().to_string()));
}
