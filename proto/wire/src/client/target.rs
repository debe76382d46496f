//! Whom a connection is for.

/// Who is to be reached and as whom.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    /// Name of the node in the fleet file.
    pub node: String,
    /// `host` or `guest`.
    pub role: &'static str,
}
