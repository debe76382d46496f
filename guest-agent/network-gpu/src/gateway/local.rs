//! What the gateway answers on its own machine, over a local socket that only root may open: the guest agent
//! looks, and makes a changed policy hold.

use crate::lines;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use vsgpu_core::pool::PoolStatus;

/// Bytes of a question.
const MAX_QUESTION: usize = 4 << 10;
/// For a question, and for an answer.
const WITHIN: Duration = Duration::from_secs(10);
/// Until a GPU is tried: what is left on it is ended, its engine started, the proof run.
const TRIED: Duration = Duration::from_secs(300);

/// Where to look next.
const SAYS_WHY: &str = "; `systemctl status vsgpu-pool` says why";

/// A question.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// All that is known.
    Status,
    /// Read the configuration again: another policy holds from now on.
    Reload,
    /// No new leases, or new ones again.
    Drain {
        /// Which.
        drained: bool,
        /// Seconds after which new ones are given again; without an end where it is left out.
        #[serde(default)]
        for_secs: Option<u64>,
    },
    /// This slot is offered again, where nothing is left on it and its proof passes.
    InService {
        /// Its number.
        slot: u32,
    },
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// All that is known.
    Status(Box<PoolStatus>),
    /// It is done.
    Done,
    /// It is not done: why, for people.
    Failed(String),
}

/// A question that waits for its answer.
pub(super) type Asked = (Request, oneshot::Sender<Answer>);

/// Listens on this path; questions come out, one at a time of each connection.
pub(super) fn listen(path: &Path) -> Result<mpsc::Receiver<Asked>, String> {
    let listener = lines::listen(path, 0o600).map_err(|e| format!("{}: {e}", path.display()))?;
    let (asked, questions) = mpsc::channel(8);
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            tokio::spawn(answer(stream, asked.clone()));
        }
    });
    Ok(questions)
}

async fn answer(stream: UnixStream, asked: mpsc::Sender<Asked>) {
    let mut stream = tokio::io::BufReader::new(stream);
    let question = tokio::time::timeout(WITHIN, lines::next(&mut stream, MAX_QUESTION)).await;
    let Ok(Ok(Some(question))) = question else { return };
    let (to, answered) = oneshot::channel();
    if asked.send((question, to)).await.is_err() {
        return;
    }
    if let Ok(answer) = answered.await {
        let _ = tokio::time::timeout(WITHIN, lines::send(&mut stream, &answer)).await;
    }
}

/// Asks the gateway of this machine.
///
/// # Errors
/// A sentence: there is none.
pub async fn ask(path: &Path, request: &Request) -> Result<Answer, String> {
    let asking = async {
        let stream = UnixStream::connect(path).await?;
        let mut stream = tokio::io::BufReader::new(stream);
        lines::send(&mut stream, request).await?;
        lines::next(&mut stream, lines::MAX_LINE).await
    };
    let shown = path.display();
    let within = match request {
        Request::InService { .. } => TRIED,
        _ => WITHIN * 2,
    };
    match tokio::time::timeout(within, asking).await {
        Err(_) if matches!(request, Request::InService { .. }) => {
            Err("the GPU was not tried to its end within 300 s: `vsgpu-pool status` shows what comes of it"
                .into())
        }
        Err(_) => Err(format!("the gateway does not answer on {shown}{SAYS_WHY}")),
        Ok(Err(why)) => Err(format!("the gateway does not serve on {shown}: {why}{SAYS_WHY}")),
        Ok(Ok(None)) => Err(format!("the gateway closed {shown} without an answer{SAYS_WHY}")),
        Ok(Ok(Some(answer))) => Ok(answer),
    }
}
