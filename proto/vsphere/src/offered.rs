//! One file that is offered over HTTP while somebody waits for it: vCenter fetches offline bundles itself, and takes them
//! from nowhere else. Without TLS on purpose: vCenter would have to trust a certificate of ours for it, and it verifies the
//! signatures of what it fetched. Nothing else is served, and nothing once it was fetched.

use crate::sending::Sending;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

/// Connections at once: vCenter needs one or two.
const AT_ONCE: usize = 4;
/// For all of one connection.
const LONGEST: Duration = Duration::from_secs(1_800);
/// Until a connection has asked.
const ASKS_WITHIN: Duration = Duration::from_secs(20);

/// A file that is offered. It ends with this.
pub struct Offered {
    /// Where it is.
    pub url: String,
    _until: oneshot::Sender<()>,
}

impl Offered {
    /// Offers a file at an address, under a path that begins with `key`.
    ///
    /// # Errors
    /// A sentence: the address is not this machine's, or in use.
    pub fn file(address: SocketAddr, file: &Path, key: &str, name: &str) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| format!("no runtime: {e}"))?;
        let listener = runtime
            .block_on(TcpListener::bind(address))
            .map_err(|e| format!("{address} cannot be listened on: {e}"))?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        let path = format!("/{key}/{}", crate::files::encoded(name, false));
        let url = format!("http://{address}{path}");
        let (until, over) = oneshot::channel();
        let what = Arc::new((path, file.to_path_buf()));
        let serves = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(&listener, &what) => {}
                    // Given or dropped: nobody waits for it any more.
                    _ = over => {}
                }
            });
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("offers".into());
        thread.spawn(serves).map_err(|e| format!("no thread: {e}"))?;
        Ok(Self { url, _until: until })
    }
}

async fn accept(listener: &TcpListener, what: &Arc<(String, PathBuf)>) {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: others end meanwhile.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let what = what.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let what = what.clone();
                async move { Ok::<_, Infallible>(answer(&request, &what)) }
            });
            let mut connection = Builder::new();
            connection.timer(TokioTimer::new()).header_read_timeout(ASKS_WITHIN).keep_alive(false);
            let serving = connection.serve_connection(TokioIo::new(stream), answer);
            let _ = tokio::time::timeout(LONGEST, serving).await;
            drop(turn);
        });
    }
}

fn answer<B>(request: &Request<B>, (path, file): &(String, PathBuf)) -> Response<Sending> {
    let status = |status: StatusCode| {
        let mut answer = Response::new(Sending::nothing());
        *answer.status_mut() = status;
        answer
    };
    if request.uri().path() != path {
        return status(StatusCode::NOT_FOUND);
    }
    let with_body = match *request.method() {
        Method::GET => true,
        Method::HEAD => false,
        _ => return status(StatusCode::METHOD_NOT_ALLOWED),
    };
    #[expect(clippy::disallowed_methods, reason = "a file of the gateway's own, read while it is sent")]
    let opened = std::fs::File::open(file).and_then(|file| Ok((file.metadata()?.len(), file)));
    let Ok((size, file)) = opened else { return status(StatusCode::NOT_FOUND) };
    let body = if with_body { Sending::File(file, size) } else { Sending::nothing() };
    let mut answer = Response::new(body);
    answer.headers_mut().insert(header::CONTENT_LENGTH, size.into());
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/zip"));
    answer
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a file of the test's own")]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    fn asked(address: &str, what: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(what.as_bytes()).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    }

    #[test]
    fn one_file_is_there_and_nothing_else_and_not_for_ever() {
        let file = std::env::temp_dir().join(format!("vsgpu-offered-{}", std::process::id()));
        std::fs::write(&file, "PK all of it").unwrap();
        let offered = Offered::file("127.0.0.1:0".parse().unwrap(), &file, "abab", "a b.zip").unwrap();
        let (address, path) = offered.url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        assert_eq!(path, "abab/a%20b.zip");
        let ask = |method: &str, path: &str| {
            asked(address, &format!("{method} /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
        };
        assert!(ask("GET", path).ends_with("PK all of it"));
        let head = ask("HEAD", path).to_lowercase();
        assert!(head.contains("content-length: 12\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        for (method, path, status) in [
            ("GET", "", "404"),
            ("GET", "abab/../../etc/passwd", "404"),
            ("GET", "abab/", "404"),
            ("PUT", path, "405"),
        ] {
            assert!(ask(method, path).starts_with(&format!("HTTP/1.1 {status}")), "{method} {path}");
        }
        let address = address.to_string();
        drop(offered);
        // The thread ends by itself.
        while std::net::TcpStream::connect(&address).is_ok() {
            std::thread::yield_now();
        }
        std::fs::remove_file(file).unwrap();
    }
}
