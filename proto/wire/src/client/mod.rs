//! Who calls: controllers call agents and gateways, clients of network GPUs call gateways.

mod channel;
mod connection;
mod connector;
mod dial;
mod error;
mod target;

pub(crate) use channel::channel;
pub use connection::{Call, Connection, Description, Fence, Holder, Wishes};
pub use connector::{Connector, Dialing, Stream};
pub use error::{CallError, Trouble};
pub(crate) use error::{answered, classify, failed};
pub use target::Target;
