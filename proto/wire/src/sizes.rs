//! Sizes on the wire that both sides must agree on.

/// Bytes in one message of an artifact, and the windows around it: the sweet spot measured for file
/// transfers.
pub const CHUNK: usize = 1 << 20;
pub(crate) const STREAM_WINDOW: u32 = 4 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 8 << 20;
/// Largest message either side accepts.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;
