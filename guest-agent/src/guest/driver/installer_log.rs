//! Reads nvidia-installer.log: which version it was about, how it ended, and the errors on the way.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::units::DriverVersion;

/// What nvidia-installer's log says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstallerLog {
    /// `success`, `failed` or `unknown`.
    pub outcome: String,
    /// Version it was about.
    pub version: Option<String>,
    /// Its ERROR sentences, the last three.
    pub errors: Vec<String>,
}

/// Reads nvidia-installer.log (also of an uninstallation). An `ERROR` line alone is no failure: some are
/// survived.
pub fn installer_log(text: &str) -> InstallerLog {
    let (mut outcome, mut version, mut errors) = ("unknown", None, vec![]);
    let find = |line: &str| {
        line.split([' ', '(', ')', ','])
            .map(|w| w.trim_end_matches('.'))
            .find(|w| w.parse::<DriverVersion>().is_ok())
            .map(String::from)
    };
    let mut lines = text.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        let line = line.trim_start_matches("-> ").trim();
        if line.contains("Installation has failed") {
            outcome = "failed";
        } else if (line.contains("Installation of") && line.contains("is now complete"))
            || (line.contains("Uninstallation of") && line.contains("is complete"))
        {
            outcome = "success";
            version = find(line).or(version);
        } else if line.starts_with("Installing NVIDIA driver version")
            || line.starts_with("Installing 'NVIDIA Accelerated Graphics Driver")
        {
            version = find(line).or(version);
        }
        if let Some(error) = line.strip_prefix("ERROR:") {
            // The sentence goes on in indented lines; the first continuation is enough to know it by.
            let more = lines
                .peek()
                .filter(|l| !l.is_empty() && !l.starts_with("ERROR") && !l.starts_with("->"))
                .copied()
                .unwrap_or_default();
            errors.push(format!("{} {more}", error.trim()).trim().to_string());
        }
    }
    let from = errors.len().saturating_sub(3);
    InstallerLog { outcome: outcome.into(), version, errors: errors.split_off(from) }
}
