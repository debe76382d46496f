//! Starts the gateway: its configuration, its listeners, its loop.

use crate::gateway::actor::Actor;
use crate::gateway::audit::Audit;
use crate::gateway::configuration::configuration;
use crate::gateway::engines::{Engines, Place};
use crate::gateway::local;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use vsgpu_core::System;
use vsgpu_wire::pool::server;

/// How it is started.
pub struct Options {
    /// The machine: its systemd, its driver, its configuration.
    pub system: Arc<dyn System>,
    /// Folder with `ca.pem`, `node.pem`, `node.key`.
    pub pki: PathBuf,
    /// Folder of the audit file.
    pub state: PathBuf,
    /// The local socket.
    pub socket: PathBuf,
    /// Where engines listen.
    pub place: Place,
}

/// Serves until killed. `ready` is called when it listens.
///
/// # Errors
/// A sentence: configuration, certificates, addresses.
pub async fn serve(options: Options, ready: impl FnOnce()) -> Result<(), String> {
    let (config, engine) = configuration(options.system.as_ref())?;
    let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, config.port));
    let engines = Engines::of(options.system.clone(), engine, options.place, config.slots.clone());
    // Before anybody can ask: what an earlier gateway gave away is over.
    let engines = Arc::new(engines);
    let stopping = engines.clone();
    let stopped =
        tokio::task::spawn_blocking(move || stopping.stop_all()).await.map_err(|e| e.to_string())?;
    let mut actor = Actor::new(config, engines, Audit::of(&options.state), stopped)?;
    // In this order: whoever finds the local socket finds the port open.
    let calls = server::listen(listen, &options.pki)?;
    let local = local::listen(&options.socket)?;
    tracing::info!(%listen, version = env!("CARGO_PKG_VERSION"), "serving");
    ready();
    actor.run(calls, local).await;
    Err("it stopped by itself".into())
}
