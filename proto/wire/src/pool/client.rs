//! Who asks a gateway: guests for GPU leases and connections to engines, operators for the rest.

use crate::client::{CallError, Connector, Stream, Target, Trouble, answered, channel, failed};
use crate::pool::v1::pool_client::PoolClient;
use crate::pool::v1::{self, FromClient, FromGateway};
use crate::pool::{MAX_MESSAGE, MAX_STATUS, Opened, TICKET};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

/// Messages that wait to be sent.
const QUEUE: usize = 8;

/// A connection to one gateway.
#[derive(Clone)]
pub struct Gateway {
    client: PoolClient<Channel>,
    target: Target,
}

impl Gateway {
    /// Connects; both sides prove who they are. A gateway that refuses our certificate says so only at the
    /// first call.
    ///
    /// # Errors
    /// `Unreachable` or `Refused`.
    pub async fn open(connector: &Connector, target: &Target, within: Duration) -> Result<Self, CallError> {
        let client = PoolClient::new(channel(connector, target, within).await?)
            .max_decoding_message_size(MAX_STATUS)
            .max_encoding_message_size(MAX_MESSAGE);
        Ok(Self { client, target: target.clone() })
    }

    async fn call<T>(
        &self,
        within: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CallError> {
        answered(&self.target, within, call).await
    }

    /// The GPUs that there are.
    ///
    /// # Errors
    /// Where it is away or refuses.
    pub async fn list(&self, within: Duration) -> Result<v1::ListReply, CallError> {
        self.call(within, self.client.clone().list(v1::ListRequest {})).await
    }

    /// All that it knows: a `vsgpu_core::pool::PoolStatus` as JSON.
    ///
    /// # Errors
    /// As `list`.
    pub async fn status(&self, within: Duration) -> Result<String, CallError> {
        Ok(self.call(within, self.client.clone().status(v1::StatusRequest {})).await?.json)
    }

    /// No new leases, or new ones again; says how many run.
    ///
    /// # Errors
    /// As `list`.
    pub async fn drain(&self, drained: bool, within: Duration) -> Result<u32, CallError> {
        Ok(self.call(within, self.client.clone().drain(v1::DrainRequest { drained })).await?.leases)
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// As `list`; `Failed` where there is no such lease.
    pub async fn evict(&self, lease: u64, why: &str, within: Duration) -> Result<(), CallError> {
        let request = v1::EvictRequest { lease, why: why.into() };
        self.call(within, self.client.clone().evict(request)).await.map(drop)
    }

    /// Asks for GPUs.
    ///
    /// # Errors
    /// As `list`; what the pool refuses comes as a message.
    pub async fn lease(&self, ask: v1::Ask, within: Duration) -> Result<LeaseCall, CallError> {
        let (say, said) = mpsc::channel(QUEUE);
        let first = FromClient { said: Some(v1::from_client::Said::Ask(ask)) };
        let _ = say.try_send(first);
        let heard = self.call(within, self.client.clone().lease(ReceiverStream::new(said))).await?;
        Ok(LeaseCall { say, heard, target: self.target.clone() })
    }
}

/// One GPU lease, from its ask to its end. The gateway takes it for gone when this is dropped.
pub struct LeaseCall {
    say: mpsc::Sender<FromClient>,
    heard: Streaming<FromGateway>,
    target: Target,
}

impl LeaseCall {
    /// Says something, where there is room for it: a gateway that takes nothing more is not heard any more
    /// either.
    pub fn say(&self, said: v1::from_client::Said) {
        let _ = self.say.try_send(FromClient { said: Some(said) });
    }

    /// What the gateway says next; `None` at its end.
    ///
    /// # Errors
    /// Where the connection is cut.
    pub async fn next(&mut self) -> Result<Option<v1::from_gateway::Said>, CallError> {
        match self.heard.message().await {
            Ok(message) => Ok(message.and_then(|message| message.said)),
            Err(status) => Err(failed(&self.target, &status)),
        }
    }
}

/// Opens a connection to an engine. `connector`: one of [`Connector::to_engines`].
///
/// # Errors
/// `Unreachable` where the gateway is, or where it cannot reach the engine; `Refused` where the ticket opens
/// nothing, or nothing more.
pub async fn tunnel(
    connector: &Connector,
    target: &Target,
    ticket: &[u8; TICKET],
    within: Duration,
) -> Result<Box<dyn Stream>, CallError> {
    let opening = async {
        let mut stream = connector.dial(target).await?;
        stream.write_all(ticket).await?;
        stream.flush().await?;
        let answer = stream.read_u8().await?;
        Ok::<_, std::io::Error>((stream, answer))
    };
    let node = &target.node;
    let (stream, answer) = match tokio::time::timeout(within, opening).await {
        Err(_) => {
            let why = format!("it does not open its engine within {} s", within.as_secs_f32());
            return Err(CallError::away(node, why));
        }
        Ok(Err(error)) => return Err(crate::client::classify(target, &error)),
        Ok(Ok(opened)) => opened,
    };
    let refused = |why: &str, hint: &str| Err(CallError::Refused(Trouble::with(node, why, hint)));
    match Opened::of(answer) {
        Some(Opened::Open) => Ok(stream),
        Some(Opened::NoEngine) => Err(CallError::away(node, "the gateway cannot reach the engine")),
        Some(Opened::NoTicket) => refused("the GPU lease is over", "ask for another one"),
        Some(Opened::TooMany) => {
            refused("the GPU lease has as many connections as it may have", "end some of its programs")
        }
        None => refused("it does not speak this protocol", "use one version of vsgpu on both sides"),
    }
}
