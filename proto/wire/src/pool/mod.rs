//! GPUs over the network on the wire: a gateway's side, and that of guests and operators. Who gets which GPU
//! is decided behind it (`vsgpu_core::pool`).

use vsgpu_core::text::hex;

pub mod client;
pub mod server;
pub mod v1;

/// Bytes of a ticket.
pub const TICKET: usize = 32;
/// Bytes of one message, either way.
const MAX_MESSAGE: usize = 64 << 10;
/// Bytes of a status: the queue may be long.
const MAX_STATUS: usize = 4 << 20;

/// What a gateway answers to a ticket: one byte. Only behind [`Opened::Open`] the engine speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opened {
    /// What follows are the engine's bytes.
    Open = 0,
    /// No ticket of this node, or its lease is over.
    NoTicket = 1,
    /// The engine cannot be reached.
    NoEngine = 2,
    /// The lease has as many connections as it may have.
    TooMany = 3,
}

impl Opened {
    fn of(byte: u8) -> Option<Self> {
        [Self::Open, Self::NoTicket, Self::NoEngine, Self::TooMany].into_iter().find(|it| *it as u8 == byte)
    }
}

/// What tells two documents apart: a hash of their JSON. Of a gateway's configuration, to see whether the one
/// that was written is the one that holds.
pub fn fingerprint<T: serde::Serialize>(document: &T) -> String {
    use sha2::Digest as _;
    hex(&sha2::Sha256::digest(serde_json::to_vec(document).unwrap_or_default()))
}

/// A new ticket: nobody can guess it.
///
/// # Errors
/// Where the machine gives no random bytes.
pub fn new_ticket() -> Result<[u8; TICKET], String> {
    let mut ticket = [0; TICKET];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut ticket).map_err(|_| "this machine gives no random bytes".to_string())?;
    Ok(ticket)
}
