//! `gateway probe`: what this server says about GPUs, with everything of the site hidden, for whoever builds vsgpu.

use super::config::Config;
use super::login::{AskedWith, begin, told, whole_hosts};
use vsgpu_core::text::visible;
use vsgpu_vsphere::report::about_gpus;

pub(super) fn run(config: &Config) -> Result<(), String> {
    let mut session = begin(config, &AskedWith::default()).map_err(|fault| told(config, &fault))?;
    let hosts = whole_hosts(config, &mut session)?;
    let hosts: Vec<_> = hosts.iter().collect();
    if hosts.is_empty() {
        return Err("none of the file's hosts is in the inventory: `gateway check` says more".into());
    }
    let report = about_gpus(&mut session, &hosts).map_err(|fault| told(config, &fault))?;
    drop(session);
    let text = serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?;
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{}", visible(&text)).map_err(|e| e.to_string())
}
