//! A connection on which gRPC is spoken: who is reached has proved who it is.

use crate::client::connector::Connector;
use crate::client::error::{CallError, Trouble, classify, no_answer};
use crate::client::target::Target;
use crate::sizes::{CONNECTION_WINDOW, STREAM_WINDOW};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// Connects.
pub(crate) async fn channel(
    connector: &Connector,
    target: &Target,
    within: Duration,
) -> Result<Channel, CallError> {
    if target.node.is_empty()
        || target.node.contains(|c: char| !c.is_ascii_alphanumeric() && !"-._".contains(c))
    {
        return Err(CallError::Refused(Trouble::with(
            "",
            format!("`{}` cannot be a node's name in a certificate", target.node),
            "use letters, digits, `-` and `.`",
        )));
    }
    let (dials, to) = (connector.clone(), target.clone());
    let connector = tower::service_fn(move |_: tonic::codegen::http::Uri| {
        let dialing = dials.dial(&to);
        async move { dialing.await.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://agent")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    match tokio::time::timeout(within, endpoint.connect_with_connector(connector)).await {
        Err(_) => Err(no_answer(target, Some(within))),
        Ok(Err(error)) => Err(classify(target, &error)),
        Ok(Ok(channel)) => Ok(channel),
    }
}
