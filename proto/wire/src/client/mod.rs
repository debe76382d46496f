//! The controller's side of the wire.

mod connection;
mod connector;
mod error;
mod target;

pub use connection::{Call, Connection, Description, Fence, Holder};
pub use connector::{Connector, Dialing, Stream};
pub use error::CallError;
pub use target::Target;
