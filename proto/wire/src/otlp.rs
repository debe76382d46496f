//! Hands a trace to an OpenTelemetry collector: one POST of OTLP's JSON over plain HTTP. Deliberately absent:
//! TLS and retries. A collector belongs beside whoever sends to it, and a trace that is lost is no reason to
//! hold an operator up.

use http_body_util::Full;
use hyper_util::rt::TokioIo;
use std::time::Duration;

/// Longest time for all of it.
const WITHIN: Duration = Duration::from_secs(5);

/// Sends a document to `endpoint`, `http://host:4318`, below which it goes to `/v1/traces`.
///
/// # Errors
/// A sentence.
pub async fn send(endpoint: &str, document: String) -> Result<(), String> {
    let rest = endpoint.strip_prefix("http://").ok_or_else(|| {
        format!("{endpoint}: only http:// is understood, to a collector beside this machine")
    })?;
    let (authority, path) =
        rest.split_once('/').map_or((rest, String::new()), |(host, path)| (host, format!("/{path}")));
    let path = format!("{}/v1/traces", path.trim_end_matches('/'));
    let address = if authority.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok()) {
        authority.to_string()
    } else {
        format!("{authority}:4318")
    };
    let post = async {
        let stream = tokio::net::TcpStream::connect(&address).await.map_err(|e| format!("{address}: {e}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| format!("{address}: {e}"))?;
        tokio::spawn(connection);
        let request = hyper::Request::post(&path)
            .header("host", authority)
            .header("content-type", "application/json")
            .body(Full::new(bytes::Bytes::from(document)))
            .map_err(|e| e.to_string())?;
        let answer = sender.send_request(request).await.map_err(|e| format!("{address}: {e}"))?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(format!("{address}{path} answered {}", answer.status()))
        }
    };
    tokio::time::timeout(WITHIN, post)
        .await
        .unwrap_or_else(|_| Err(format!("{address}: no answer within {} s", WITHIN.as_secs())))
}
