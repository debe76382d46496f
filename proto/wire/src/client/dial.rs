//! A connection to `host:port`. A name that no DNS knows is kept as a value, so that it can be told in words.

/// A name that cannot be resolved.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{name}: {said}")]
pub(crate) struct NoSuchName {
    pub(crate) name: String,
    /// What the resolver said.
    pub(crate) said: String,
}

/// Connects to `host:port`; the first of the name's addresses that answers.
pub(crate) async fn connect(address: &str) -> std::io::Result<tokio::net::TcpStream> {
    // An address needs no resolver, and what is wrong with a port is no matter of names.
    let resolved = tokio::net::lookup_host(address).await;
    let addresses: Vec<std::net::SocketAddr> = resolved
        .map_err(|why| {
            if why.kind() == std::io::ErrorKind::InvalidInput {
                return why;
            }
            let name = address.rsplit_once(':').map_or(address, |(name, _)| name).to_string();
            let said = why.to_string();
            let said = said.rsplit(": ").next().unwrap_or(&said).to_string();
            std::io::Error::new(why.kind(), NoSuchName { name, said })
        })?
        .collect();
    tokio::net::TcpStream::connect(addresses.as_slice()).await
}
