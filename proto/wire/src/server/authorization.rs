//! Authorization by certificate role. `operator`: all calls. `monitor`: Describe, Metrics and Health, with
//! almost no request body. Decided before a request is read, so that a monitor's key can neither fill memory
//! nor change anything.

use crate::refusal::Refusal;
use http_body_util::{BodyExt as _, Full, Limited};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

/// What a reader may ask. What is not named here is the operator's.
const READ: [&str; 4] = ["/vsgpu.agent.v1.Agent/Describe", "/vsgpu.agent.v1.Agent/Metrics", CHECK, WATCH];
const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
/// Connections of readers at once; they have no share in the operator's.
pub(crate) const READERS: usize = 8;
/// How long a reader's connection is served: an exporter makes a new one for each round.
pub(crate) const READING: Duration = Duration::from_secs(120);
/// What readers ask at once.
const QUESTIONS: usize = 16;

/// Of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Authorization {
    /// It is the operator.
    pub(crate) may_change: bool,
}

/// Stands before a service.
#[derive(Clone)]
pub(crate) struct Guard<S> {
    inner: S,
    questions: Arc<Semaphore>,
}

/// Places for what readers ask, shared by all services.
pub(crate) fn questions() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(QUESTIONS))
}

impl<S> Guard<S> {
    pub(crate) fn new(inner: S, questions: &Arc<Semaphore>) -> Self {
        Self { inner, questions: questions.clone() }
    }
}

impl<S: NamedService> NamedService for Guard<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Guard<S>
where
    S: Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future: Send + 'static,
        >,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // A connection without rights has none.
        if request.extensions().get::<Authorization>().is_some_and(|rights| rights.may_change) {
            return Box::pin(self.inner.call(request));
        }
        let refused = |status: Status| Box::pin(std::future::ready(Ok(status.into_http()))) as Self::Future;
        if !READ.contains(&request.uri().path()) {
            return refused(
                Refusal::not_permitted("this certificate may read metrics and health only").into(),
            );
        }
        let Ok(question) = self.questions.clone().try_acquire_owned() else {
            return refused(Refusal::exhausted("too many ask for metrics at once").into());
        };
        let watches = request.uri().path() == WATCH;
        let small = |(head, body): (http::request::Parts, Body)| match head.uri.path() {
            // Only health has a question to read.
            CHECK | WATCH => http::Request::from_parts(head, Body::new(Limited::new(body, 256))),
            _ => http::Request::from_parts(head, Body::new(Full::new(bytes::Bytes::from_static(&[0; 5])))),
        };
        let answer = self.inner.call(small(request.into_parts()));
        Box::pin(async move {
            let answer = answer.await?;
            if watches {
                return Ok(answer);
            }
            // The place is taken until the answer is: one that nobody takes off the line fills memory, too.
            Ok(answer.map(|body| Body::new(body.map_frame(move |frame| (frame, &question).0))))
        })
    }
}
