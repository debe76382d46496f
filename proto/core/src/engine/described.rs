//! What is to be known of an engine. Deliberately absent: its unit, which is ours and the same for all of them
//! (`packaging/linux/vsgpu-engine@.service`), and a question for its version: the one that is known answers none, so
//! its bundle's manifest says commit and build.

/// What is to be known of an engine to run it. Paths are names of files in its bundles.
#[derive(Clone, Copy, Debug)]
pub struct Engine {
    /// Its name in the fleet file and in manifests.
    pub name: &'static str,
    /// The server's program.
    pub server: &'static str,
    /// The TCP port that the server listens on. It must be reachable by the gateway alone: the engine asks nobody who
    /// he is.
    pub port: u16,
    /// Environment of the server; `{port}` stands for the port.
    pub server_env: &'static [(&'static str, &'static str)],
    /// Libraries that stand in front of the driver's on a client.
    pub client: &'static [&'static str],
    /// Environment of a client's program; `{libraries}` stands for the folder of the libraries, `{address}` for
    /// `HOST:PORT` of its tunnel.
    pub client_env: &'static [(&'static str, &'static str)],
    /// What a client's program must not have in its environment.
    pub client_without: &'static [&'static str],
}
