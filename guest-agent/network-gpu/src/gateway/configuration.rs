//! The gateway's configuration, read at its start and when a changed one is to hold.

use vsgpu_core::System;
use vsgpu_core::engine::Engine;
use vsgpu_core::pool::config::{MAX_CONFIG, SERVER_CONFIG, ServerConfig};

/// What the configuration says now.
pub(super) fn configuration(system: &dyn System) -> Result<(ServerConfig, &'static Engine), String> {
    let bytes = system.read(SERVER_CONFIG, MAX_CONFIG).map_err(|e| e.to_string())?;
    ServerConfig::read(&bytes).map_err(|why| format!("{SERVER_CONFIG}: {why}"))
}
