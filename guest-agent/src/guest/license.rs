//! The license of a vGPU: `gridd.conf` for a legacy server, or the client configuration token for NLS, the daemon
//! restarted, then waited for *Licensed*. Only keys that the installed driver's own template names are written
//! (facts: nvidia 3). The token is copied as a file; nobody reads it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::artifact::{Artifact, Placed};
use vsgpu_core::knowledge::products::Product;
use vsgpu_core::nvidia_smi::{self, is_licensed};
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{Command, Effect, Evidence, Fact, Probe, Requirement, Subject, Unreadable, Verdict};

const CONF: &str = "/etc/nvidia/gridd.conf";
const TEMPLATE: &str = "/etc/nvidia/gridd.conf.template";
const TOKENS: &str = "/etc/nvidia/ClientConfigToken";
/// Confirmed keys (data/gridd_conf_keys.tsv). The first four are also checked against the driver's template.
const KEYS: [&str; 5] = ["ServerAddress", "ServerPort", "BackupServerAddress", "BackupServerPort", "FeatureType"];

/// License of a guest.
pub struct License;

/// What is wanted: a legacy server, or a token.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, try_from = "Unchecked")]
pub struct LicenseSpec {
    /// Legacy license server: name or address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Second legacy server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_server: Option<String>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_port: Option<u16>,
    /// Client configuration token of NLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Artifact>,
    /// 1 vGPU (the type decides), 2 workstation in passthrough, 4 compute in passthrough.
    pub feature_type: u8,
    /// Product that has to be licensed, under any of its names: vWS or vDWS, vCS or AI Enterprise, vPC, vApps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Seconds to wait for the license.
    pub wait_secs: u32,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Unchecked {
    server: Option<String>,
    port: Option<u16>,
    backup_server: Option<String>,
    backup_port: Option<u16>,
    token: Option<Artifact>,
    feature_type: Option<u8>,
    product: Option<String>,
    wait_secs: Option<u32>,
}

impl TryFrom<Unchecked> for LicenseSpec {
    type Error = String;
    fn try_from(raw: Unchecked) -> Result<Self, String> {
        let named = |name: &Option<String>| {
            name.as_ref()
                .is_none_or(|n| !n.is_empty() && n.len() < 256 && n.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:[]".contains(c)))
        };
        match (&raw.server, &raw.token) {
            (None, None) => return Err("`server` (legacy license server) or `token` (NLS) is missing".into()),
            (Some(_), Some(_)) => return Err("either `server` (legacy license server) or `token` (NLS) is needed, not both".into()),
            _ => {}
        }
        if !named(&raw.server) || !named(&raw.backup_server) {
            return Err("a license server is a host name or an address".into());
        }
        let feature_type = raw.feature_type.unwrap_or(1);
        if ![0, 1, 2, 4].contains(&feature_type) {
            return Err(format!("feature-type {feature_type} is none of 0, 1, 2, 4"));
        }
        if let Some(unknown) = raw.product.as_ref().filter(|p| Product::named(p).is_none()) {
            return Err(format!("`{unknown}` is no licensed product: vWS (vDWS), vCS (AI Enterprise), vPC or vApps is expected"));
        }
        let Unchecked { server, port, backup_server, backup_port, token, product, .. } = raw;
        Ok(Self {
            server,
            port,
            backup_server,
            backup_port,
            token,
            feature_type,
            product,
            wait_secs: raw.wait_secs.unwrap_or(License::SETTLE_SECS).min(3600),
        })
    }
}

/// What is so.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LicenseFact {
    /// Text of `gridd.conf`.
    pub conf: Option<String>,
    /// Keys that the driver's template names; absent without a template.
    pub template_keys: Option<Vec<String>>,
    /// Tokens that are there: name and SHA-256.
    pub tokens: BTreeMap<String, String>,
    /// `active`, `inactive`, `failed`, ...
    pub daemon: String,
    /// Whole license status of each GPU.
    pub statuses: Vec<String>,
    /// Licensed product.
    pub product: Option<String>,
    /// What the daemon said last about it.
    pub reason: Option<String>,
    /// Why nvidia-smi has no answer.
    pub smi_failure: Option<String>,
}

fn daemon() -> Command {
    Command::new("systemctl", ["is-active", "nvidia-gridd"])
}

fn journal() -> Command {
    Command::new("journalctl", ["-u", "nvidia-gridd", "-n", "50", "--no-pager", "-o", "cat"])
}

/// What the license daemon's log ends with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GriddOutcome {
    /// `licensed`, `failed`, `returned`, `acquiring` or `unknown`: the last decisive line wins.
    pub outcome: &'static str,
    /// Product it was about.
    pub product: Option<String>,
    /// The decisive line of a failure.
    pub reason: Option<String>,
}

/// Reads nvidia-gridd's lines.
pub fn gridd_outcome(text: &str) -> GriddOutcome {
    let mut last = GriddOutcome { outcome: "unknown", product: None, reason: None };
    // A missing gridd.conf is harmless with NLS, so `Failed to open` decides nothing.
    let failures = [
        "Failed to acquire license",
        "Failed to return license",
        "Failed to setup",
        "Failed to decode",
        "Failed to read configurations",
        "Failed to register client",
        "Unable to fetch the client configuration token",
        "Invalid feature type",
        "Failed to update local trusted store",
        "clock windback",
    ];
    for line in text.lines() {
        let outcome = if line.contains("License acquired successfully") {
            "licensed"
        } else if line.contains("License returned successfully") {
            "returned"
        } else if line.contains("Acquiring license") {
            "acquiring"
        } else if failures.iter().any(|f| line.contains(f)) {
            "failed"
        } else {
            continue;
        };
        let said = line.split("nvidia-gridd[").last().and_then(|l| l.split_once("]: ")).map_or(line, |(_, said)| said).trim();
        // `(Info: SERVER, PRODUCT; Expiry: ...)` or `(Info: SERVER; PRODUCT)`.
        let info = line.split_once("(Info: ").map(|(_, info)| info.trim_end_matches(')'));
        let product = info.filter(|_| outcome != "returned").and_then(|info| {
            info.split([';', ',']).map(str::trim).find(|part| {
                let part = part.split(" - Error").next().unwrap_or_default();
                (part.starts_with("NVIDIA") || part.starts_with("GRID") || part.starts_with("Quadro")) && !part.contains("://")
            })
        });
        let product = product.map(|p| p.split(" - Error").next().unwrap_or(p).to_string());
        last = GriddOutcome { outcome, product, reason: (outcome == "failed").then(|| said.to_string()) };
    }
    last
}

/// Active keys of a `gridd.conf`.
pub fn gridd_values(text: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| {
        let (key, value) = line.trim().split_once('=')?;
        let plain = key.trim().chars().all(|c| c.is_ascii_alphanumeric());
        (plain && !key.trim().is_empty()).then(|| (key.trim().to_string(), value.trim().trim_matches('"').to_string()))
    };
    text.lines().filter(|l| !l.trim_start().starts_with('#')).filter_map(pair).collect()
}

impl Fact for LicenseFact {
    const NAME: &'static str = "license";
    const ABOUT: &'static str = "License: state, configuration, token, daemon";
    fn probes(_: &Subject, seen: &Evidence) -> Vec<Probe> {
        let mut probes = vec![Probe::Read(CONF.into()), Probe::Read(TEMPLATE.into()), Probe::List(TOKENS.into())];
        probes.extend([Probe::Run(daemon()), Probe::Run(journal()), Probe::Run(nvidia_smi::query())]);
        let tokens = seen.names(TOKENS).unwrap_or_default().into_iter().filter(|n| n.ends_with(".tok")).take(16);
        probes.extend(tokens.map(|name| Probe::Hash(format!("{TOKENS}/{name}"))));
        probes
    }
    fn parse(_: &Subject, seen: &Evidence) -> Result<Self, Unreadable> {
        let report = nvidia_smi::report(seen);
        let gpus = report.as_ref().map(|r| r.gpus.as_slice()).unwrap_or_default();
        let hash =
            |name: &str| seen.text(&Probe::Hash(format!("{TOKENS}/{name}"))).ok().flatten().map(|h| (name.to_string(), h.to_string()));
        let mentioned = |text: &str| {
            text.lines()
                .filter_map(|l| l.trim().trim_start_matches('#').trim().split_once('='))
                .map(|(key, _)| key.trim().to_string())
                .collect()
        };
        let said = gridd_outcome(seen.stdout_if_ok(&journal()).unwrap_or_default());
        Ok(Self {
            conf: seen.file(CONF)?.map(String::from),
            template_keys: seen.file(TEMPLATE)?.map(mentioned),
            tokens: seen.names(TOKENS)?.into_iter().filter_map(hash).collect(),
            daemon: seen.output(&daemon())?.stdout.trim().to_string(),
            statuses: gpus.iter().filter_map(|g| g.license_status.clone()).collect(),
            product: gpus.iter().find_map(|g| g.license_product.clone()),
            reason: said.reason,
            smi_failure: report.err().map(|e| e.message),
        })
    }
}

impl LicenseSpec {
    /// Keys and values that `gridd.conf` must have; an absent key is `None`.
    fn values(&self) -> Vec<(&'static str, Option<String>)> {
        let server = self.server.clone();
        let port = server.as_ref().map(|_| self.port.unwrap_or(7070).to_string());
        let backup_port = self.backup_server.as_ref().map(|_| self.backup_port.unwrap_or(7070).to_string());
        KEYS.into_iter().zip([server, port, self.backup_server.clone(), backup_port, Some(self.feature_type.to_string())]).collect()
    }

    fn token_name(&self) -> Option<&str> {
        self.token.as_ref().map(Artifact::file_name)
    }
}

/// The file with our keys set and everything else as it was.
fn edited(conf: &str, values: &[(&str, Option<String>)]) -> String {
    let key_of = |line: &str| gridd_values(line).into_keys().next();
    let mut out: Vec<String> =
        conf.lines().filter(|l| key_of(l).is_none_or(|key| values.iter().all(|(k, _)| *k != key))).map(String::from).collect();
    out.extend(values.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?))));
    out.join("\n") + "\n"
}

impl Requirement for License {
    const NAME: &'static str = "license";
    const ABOUT: &'static str = "vGPU license: legacy server or NLS token, waited for until Licensed";
    const AFTER: &'static [&'static str] = &["driver"];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 180;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"server": "licenses.lab.local", "port": 7070, "feature-type": 1}"#;
    type Spec = LicenseSpec;
    type Fact = LicenseFact;

    fn check(spec: &LicenseSpec, fact: &LicenseFact) -> Verdict {
        let values = spec.values();
        let missing = fact
            .template_keys
            .as_ref()
            .and_then(|known| values.iter().take(4).find(|(key, value)| value.is_some() && !known.iter().any(|k| k == key)));
        if let Some((key, _)) = missing {
            return Verdict::blocked(
                format!("this driver's {TEMPLATE} does not know `{key}`"),
                "drivers from release 15 on need `token:` (NLS) instead of a legacy server",
            );
        }
        let has = gridd_values(fact.conf.as_deref().unwrap_or_default());
        let configured = values.iter().all(|(key, value)| has.get(*key).filter(|v| !v.is_empty()) == value.as_ref());
        let wished_hash = spec.token.as_ref().and_then(|t| t.sha256.as_deref());
        let token_there =
            spec.token_name().is_none_or(|name| fact.tokens.get(name).is_some_and(|hash| wished_hash.is_none_or(|w| w == hash)));
        let licensed = !fact.statuses.is_empty() && fact.statuses.iter().all(|s| is_licensed(s));
        let wanted = spec.product.as_deref().and_then(Product::named);
        let as_other = fact.product.as_deref().filter(|p| wanted.is_some() && Product::named(p).is_some_and(|is| Some(is) != wanted));
        if let Some((other, wanted)) = as_other.zip(wanted).filter(|_| configured && token_there && licensed) {
            return Verdict::blocked(
                format!("licensed as {other}, wanted is {}", wanted.shown()),
                "the vGPU type (its series) or `feature-type` decides the product: change that, or `product`",
            );
        }
        if configured && token_there && licensed {
            return Verdict::met(format!("{}{}", fact.statuses[0], fact.product.as_ref().map(|p| format!(", {p}")).unwrap_or_default()));
        }
        let mut effects = vec![];
        if !configured {
            effects.push(Effect::Write {
                path: CONF.into(),
                contents: edited(fact.conf.as_deref().unwrap_or_default(), &values),
                mode: 0o644,
            });
        }
        if let (Some(token), false) = (&spec.token, token_there) {
            effects.push(Effect::Copy { from: token.stored(None), to: format!("{TOKENS}/{}", token.file_name()), mode: 0o744 });
        }
        effects.push(Effect::run(Command::new("systemctl", ["restart", "nvidia-gridd"])));
        if let Some(why) = fact.smi_failure.as_ref().filter(|_| fact.statuses.is_empty()) {
            return Verdict::waits_for(why, "Licensed", effects);
        }
        let mut is = fact.statuses.first().cloned().unwrap_or_else(|| "no license status".into());
        if fact.daemon != "active" {
            is += &format!(", nvidia-gridd {}", if fact.daemon.is_empty() { "not installed" } else { &fact.daemon });
        }
        if let Some(reason) = fact.reason.as_ref().filter(|_| !licensed) {
            is += &format!(" ({reason})");
        }
        Verdict::unmet(is, "Licensed", effects)
    }

    fn as_spec(fact: &LicenseFact) -> Option<LicenseSpec> {
        let has = gridd_values(fact.conf.as_deref().unwrap_or_default());
        let text = |key: &str| has.get(key).filter(|v| !v.is_empty()).cloned();
        let token = fact.tokens.iter().next().filter(|_| text("ServerAddress").is_none());
        let token = token.map(|(name, hash)| Artifact {
            artifact: name.clone(),
            sha256: Some(hash.clone()),
            size: None,
            kind: None,
            holds: vec![],
        });
        let raw = Unchecked {
            server: text("ServerAddress"),
            port: text("ServerPort").and_then(|p| p.parse().ok()),
            backup_server: text("BackupServerAddress"),
            backup_port: text("BackupServerPort").and_then(|p| p.parse().ok()),
            feature_type: text("FeatureType").and_then(|p| p.parse().ok()),
            token,
            product: None,
            wait_secs: None,
        };
        LicenseSpec::try_from(raw).ok()
    }

    fn files(spec: &LicenseSpec) -> Vec<Placed> {
        spec.token.iter().map(|token| Placed { artifact: token.clone(), datastore: None }).collect()
    }

    fn settle_secs(spec: &LicenseSpec) -> u32 {
        spec.wait_secs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Result<LicenseSpec, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    fn fact(conf: &str, status: &str) -> LicenseFact {
        LicenseFact {
            conf: Some(conf.into()),
            template_keys: Some(KEYS.iter().map(|k| k.to_string()).collect()),
            tokens: BTreeMap::new(),
            daemon: "active".into(),
            statuses: vec![status.into()],
            product: None,
            reason: None,
            smi_failure: None,
        }
    }

    #[test]
    fn unlicensed_never_counts() {
        let wish = spec(r#"{"server": "lic", "feature-type": 1}"#).unwrap();
        let conf = "ServerAddress=lic\nServerPort=7070\nFeatureType=1\n";
        assert!(License::check(&wish, &fact(conf, "Licensed (Expiry: N/A)")).is_met());
        for no in ["Unlicensed", "Unlicensed (Unrestricted)", "Unlicensed (Restricted)"] {
            assert!(!License::check(&wish, &fact(conf, no)).is_met(), "{no}");
        }
    }

    #[test]
    fn other_lines_of_the_configuration_stay() {
        let wish = spec(r#"{"server": "lic2"}"#).unwrap();
        let conf = "# ours\nEnableUI=TRUE\nServerAddress=old\nFeatureType=0\n";
        match License::check(&wish, &fact(conf, "Unlicensed")) {
            Verdict::Unmet { effects, .. } => match &effects[0] {
                Effect::Write { contents, .. } => {
                    assert_eq!(contents, "# ours\nEnableUI=TRUE\nServerAddress=lic2\nServerPort=7070\nFeatureType=1\n")
                }
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_server_or_a_token_but_one_of_them() {
        assert!(
            spec("{}").is_err()
                && spec(r#"{"server": "a", "token": "b.tok"}"#).is_err()
                && spec(r#"{"server": "a", "feature-type": 3}"#).is_err()
        );
        assert!(spec(r#"{"server": "a b"}"#).is_err(), "a line break or blank in a name would write other keys");
        assert!(spec(r#"{"token": "t.tok"}"#).is_ok());
    }

    #[test]
    fn a_driver_that_knows_no_server_is_not_given_one() {
        let mut newer = fact("", "Unlicensed");
        newer.template_keys = Some(vec!["FeatureType".into()]);
        assert!(matches!(License::check(&spec(r#"{"server": "a"}"#).unwrap(), &newer), Verdict::Blocked { .. }));
    }
}
