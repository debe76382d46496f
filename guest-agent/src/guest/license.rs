//! The license of a vGPU: `gridd.conf` for a legacy server, or the client configuration token for NLS, the
//! daemon restarted, then waited for *Licensed*. Only keys that the installed driver's own template names are
//! written (facts: nvidia 3). The token is copied as a file; nobody reads it.

use crate::facts::clock::synchronized;
use crate::facts::gridd_log::{cause, gridd_outcome, is_clock, journal, stays};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::artifact::Artifact;
use vsgpu_core::knowledge::products::Product;
use vsgpu_core::readers::nvidia_smi::{self, is_licensed};
use vsgpu_core::requirement::{Explained, Implied, Needs, Stuck, TakesEffect};
use vsgpu_core::{Command, Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

const CONF: &str = "/etc/nvidia/gridd.conf";
const TEMPLATE: &str = "/etc/nvidia/gridd.conf.template";
const TOKENS: &str = "/etc/nvidia/ClientConfigToken";
/// The daemon's program; a data-center driver has none.
const PROGRAM: &str = "/usr/bin/nvidia-gridd";
const UNIT: &str = "nvidia-gridd";
const UNIT_FILE: &str = "/etc/systemd/system/nvidia-gridd.service";
/// Where the daemon's own libraries are, by distribution.
const LIBRARIES: [&str; 3] =
    ["/usr/lib/x86_64-linux-gnu/nvidia/gridd", "/usr/lib64/nvidia/gridd", "/usr/lib/nvidia/gridd"];
/// Confirmed keys (facts: guests "gridd.conf keys"). The first four are also checked against the driver's
/// template.
const KEYS: [&str; 5] =
    ["ServerAddress", "ServerPort", "BackupServerAddress", "BackupServerPort", "FeatureType"];

/// License of a guest.
pub struct License;

/// What is wanted: a legacy server, or a token.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "keys and values",
    try_from = "Unchecked"
)]
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
    /// Product that has to be licensed, under any of its names: vWS or vDWS, vCS or AI Enterprise, vPC,
    /// vApps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Seconds to wait for the license.
    pub wait_secs: u32,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
struct Unchecked {
    /// Legacy license server: name or address.
    server: Option<String>,
    /// Its port.
    port: Option<u16>,
    /// Second legacy server.
    backup_server: Option<String>,
    /// Its port.
    backup_port: Option<u16>,
    /// Client configuration token of NLS.
    token: Option<Artifact>,
    /// 1 vGPU (the type decides), 2 workstation in passthrough, 4 compute in passthrough.
    feature_type: Option<u8>,
    /// Product that has to be licensed, under any of its names: vWS or vDWS, vCS or AI Enterprise, vPC,
    /// vApps.
    product: Option<String>,
    /// Seconds to wait for the license.
    wait_secs: Option<u32>,
}

impl TryFrom<Unchecked> for LicenseSpec {
    type Error = String;
    fn try_from(raw: Unchecked) -> Result<Self, String> {
        let named = |name: &Option<String>| {
            name.as_ref().is_none_or(|n| {
                !n.is_empty()
                    && n.len() < 256
                    && n.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:[]".contains(c))
            })
        };
        match (&raw.server, &raw.token) {
            (None, None) => return Err("`server` (legacy license server) or `token` (NLS) is missing".into()),
            (Some(_), Some(_)) => {
                return Err(
                    "either `server` (legacy license server) or `token` (NLS) is needed, not both".into()
                );
            }
            _ => {}
        }
        if let Some(token) = raw.token.as_ref().filter(|t| !t.file_name().ends_with(".tok")) {
            return Err(format!(
                "token: `{}`: the license daemon reads files that end with `.tok` only",
                token.file_name()
            ));
        }
        if raw.token.is_some()
            && (raw.port.is_some() || raw.backup_server.is_some() || raw.backup_port.is_some())
        {
            return Err("`port`, `backup-server` and `backup-port` belong to `server` (legacy); a token names its own server".into());
        }
        if raw.wait_secs.is_some_and(|secs| secs > 3600) {
            return Err("wait-secs: at most 3600 seconds".into());
        }
        if !named(&raw.server) || !named(&raw.backup_server) {
            return Err("a license server is a host name or an address".into());
        }
        let feature_type = raw.feature_type.unwrap_or(1);
        if ![0, 1, 2, 4].contains(&feature_type) {
            return Err(format!("feature-type {feature_type} is none of 0, 1, 2, 4"));
        }
        if let Some(unknown) = raw.product.as_ref().filter(|p| Product::named(p).is_none()) {
            return Err(format!(
                "`{unknown}` is no licensed product: vWS (vDWS), vCS (AI Enterprise), vPC or vApps is expected"
            ));
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
            wait_secs: raw.wait_secs.unwrap_or(License::SETTLE_SECS),
        })
    }
}

/// What is so.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LicenseFact {
    /// Our keys in `gridd.conf`, those with a value. What else stands in it (the password of a proxy, say) is
    /// not looked at.
    #[serde(default)]
    pub configured: BTreeMap<String, String>,
    /// Keys that the driver's template names; absent without a template.
    pub template_keys: Option<Vec<String>>,
    /// Tokens that are there: name and SHA-256.
    pub tokens: BTreeMap<String, String>,
    /// `active`, `inactive`, `failed`, ...
    pub daemon: String,
    /// `enabled`, `disabled`, ...; empty without a unit.
    #[serde(default)]
    pub enabled: String,
    /// The daemon's program is installed; absent where that was not looked at.
    #[serde(default)]
    pub program: Option<bool>,
    /// Folder of the daemon's own libraries.
    #[serde(default)]
    pub libraries: Option<String>,
    /// Whether the guest's clock is kept by NTP; absent where systemd does not say.
    #[serde(default)]
    pub clock_synchronized: Option<bool>,
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

fn enabled() -> Command {
    Command::new("systemctl", ["is-enabled", UNIT])
}

/// A unit of ours, for the drivers of branch 550 that leave their own out of its place (facts: nvidia 3).
fn own_unit(libraries: Option<&str>) -> String {
    let libraries = libraries.map(|l| format!("Environment=LD_LIBRARY_PATH={l}\n")).unwrap_or_default();
    format!(
        "# Written by vsgpu: this driver left the unit of its own daemon out of its place.\n[Unit]\nDescription=NVIDIA Grid Daemon\nWants=network-online.target\nAfter=network-online.target\n\n[Service]\nType=forking\n{libraries}ExecStart={PROGRAM}\nExecStopPost=/bin/rm -rf /var/run/nvidia-gridd\n\n[Install]\nWantedBy=multi-user.target\n"
    )
}

/// Active keys of a `gridd.conf`.
pub fn gridd_values(text: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| {
        let (key, value) = line.trim().split_once('=')?;
        let plain = key.trim().chars().all(|c| c.is_ascii_alphanumeric());
        (plain && !key.trim().is_empty())
            .then(|| (key.trim().to_string(), value.trim().trim_matches('"').to_string()))
    };
    text.lines().filter(|l| !l.trim_start().starts_with('#')).filter_map(pair).collect()
}

/// Of them those that are ours to set.
fn ours(text: &str) -> BTreeMap<String, String> {
    gridd_values(text)
        .into_iter()
        .filter(|(key, value)| KEYS.contains(&key.as_str()) && !value.is_empty())
        .collect()
}

impl Fact for LicenseFact {
    const NAME: &'static str = "license";
    const ABOUT: &'static str = "License: state, configuration, token, daemon";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes =
            vec![Probe::Read(CONF.into()), Probe::Read(TEMPLATE.into()), Probe::List(TOKENS.into())];
        probes.extend([daemon(), enabled(), synchronized(), journal(), nvidia_smi::query()].map(Probe::Run));
        probes.push(Probe::Hash(PROGRAM.into()));
        probes.extend(LIBRARIES.map(|folder| Probe::List(folder.into())));
        let tokens =
            seen.names(TOKENS).unwrap_or_default().into_iter().filter(|n| n.ends_with(".tok")).take(16);
        probes.extend(tokens.map(|name| Probe::Hash(format!("{TOKENS}/{name}"))));
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let report = nvidia_smi::report(seen);
        let gpus = report.as_ref().map(|r| r.gpus.as_slice()).unwrap_or_default();
        let hash = |name: &str| {
            seen.text(&Probe::Hash(format!("{TOKENS}/{name}")))
                .ok()
                .flatten()
                .map(|h| (name.to_string(), h.to_string()))
        };
        let mentioned = |text: &str| {
            text.lines()
                .filter_map(|l| l.trim().trim_start_matches('#').trim().split_once('='))
                .map(|(key, _)| key.trim().to_string())
                .collect()
        };
        let said = gridd_outcome(seen.stdout_if_ok(&journal()).unwrap_or_default());
        Ok(Self {
            configured: ours(seen.file(CONF)?.unwrap_or_default()),
            template_keys: seen.file(TEMPLATE)?.map(mentioned),
            tokens: seen.names(TOKENS)?.into_iter().filter_map(hash).collect(),
            daemon: seen.output(&daemon())?.stdout.trim().to_string(),
            enabled: seen.output(&enabled())?.stdout.trim().to_string(),
            program: seen.text(&Probe::Hash(PROGRAM.into())).ok().map(|hash| hash.is_some()),
            libraries: LIBRARIES
                .iter()
                .find(|f| seen.text(&Probe::List((**f).into())).is_ok_and(|l| l.is_some()))
                .map(|f| f.to_string()),
            clock_synchronized: seen.stdout_if_ok(&synchronized()).map(|t| t.trim() == "yes"),
            statuses: gpus.iter().filter_map(|g| g.license_status.clone()).collect(),
            product: gpus.iter().find_map(|g| g.license_product.clone()),
            reason: said.reason,
            smi_failure: report.err().map(|e| e.message),
        })
    }
    fn sentence(&self) -> Option<String> {
        // Of a licensed driver the requirement knows more.
        let nothing = self.statuses.is_empty() && self.program != Some(true);
        nothing.then(|| "no license daemon is installed, and no driver says anything of a license".into())
    }
}

impl LicenseSpec {
    /// Keys and values that `gridd.conf` must have; an absent key is `None`.
    fn values(&self) -> Vec<(&'static str, Option<String>)> {
        let server = self.server.clone();
        let port = server.as_ref().map(|_| self.port.unwrap_or(7070).to_string());
        let backup_port = self.backup_server.as_ref().map(|_| self.backup_port.unwrap_or(7070).to_string());
        KEYS.into_iter()
            .zip([server, port, self.backup_server.clone(), backup_port, Some(self.feature_type.to_string())])
            .collect()
    }

    fn token_name(&self) -> Option<&str> {
        self.token.as_ref().map(Artifact::file_name)
    }
}

/// Configuration, token, the unit that a driver may have left out, and the daemon's restart.
fn effects(
    spec: &LicenseSpec,
    fact: &LicenseFact,
    values: &[(&str, Option<String>)],
    configured: bool,
    token_there: bool,
    has_unit: bool,
) -> Vec<Effect> {
    let run = |args: &[&str]| Effect::run(Command::new("systemctl", args.iter().copied()));
    let mut effects = vec![];
    if !configured {
        // What is not there need not go.
        let said = values.iter().filter(|(key, value)| value.is_some() || fact.configured.contains_key(*key));
        let set = said.map(|(key, value)| (key.to_string(), value.clone())).collect();
        effects.push(Effect::EditLines { path: CONF.into(), section: None, set });
    }
    if let (Some(token), false) = (&spec.token, token_there) {
        effects.push(Effect::Copy {
            from: token.stored(None),
            to: format!("{TOKENS}/{}", token.file_name()),
            mode: 0o744,
        });
    }
    if fact.program == Some(true) && !has_unit {
        effects.push(Effect::Write {
            path: UNIT_FILE.into(),
            contents: own_unit(fact.libraries.as_deref()),
            mode: 0o644,
        });
        effects.push(run(&["daemon-reload"]));
    }
    if fact.enabled == "masked" {
        effects.push(run(&["unmask", UNIT]));
    }
    if (fact.program == Some(true) && !has_unit)
        || matches!(fact.enabled.as_str(), "disabled" | "masked" | "indirect")
    {
        effects.push(run(&["enable", UNIT]));
    }
    effects.push(run(&["restart", UNIT]));
    effects
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
        let missing = fact.template_keys.as_ref().and_then(|known| {
            values.iter().take(4).find(|(key, value)| value.is_some() && !known.iter().any(|k| k == key))
        });
        if let Some((key, _)) = missing {
            return Verdict::blocked(
                format!("this driver's {TEMPLATE} does not know `{key}`"),
                "drivers from release 15 on need `token:` (NLS) instead of a legacy server",
            );
        }
        let configured = values.iter().all(|(key, value)| fact.configured.get(*key) == value.as_ref());
        let wished_hash = spec.token.as_ref().and_then(|t| t.sha256.as_deref());
        let token_there = spec.token_name().is_none_or(|name| {
            fact.tokens.get(name).is_some_and(|hash| wished_hash.is_none_or(|w| w == hash))
        });
        let licensed = !fact.statuses.is_empty() && fact.statuses.iter().all(|s| is_licensed(s));
        let wanted = spec.product.as_deref().and_then(Product::named);
        let as_other = fact
            .product
            .as_deref()
            .filter(|p| wanted.is_some() && Product::named(p).is_some_and(|is| Some(is) != wanted));
        if let Some((other, wanted)) = as_other.zip(wanted).filter(|_| configured && token_there && licensed)
        {
            return Verdict::blocked(
                format!("licensed as {other}, wanted is {}", wanted.shown()),
                "the vGPU type (its series) or `feature-type` decides the product: change that, or `product`",
            );
        }
        // Facts of an agent that did not look at the unit have no word for it.
        let at_boot = fact.program.is_none()
            || matches!(
                fact.enabled.as_str(),
                "enabled" | "enabled-runtime" | "static" | "alias" | "generated"
            );
        if configured && token_there && licensed && at_boot && fact.daemon == "active" {
            return Verdict::met(format!(
                "{}{}",
                fact.statuses[0],
                fact.product.as_ref().map(|p| format!(", {p}")).unwrap_or_default()
            ));
        }
        let has_unit = !matches!(fact.enabled.as_str(), "" | "not-found");
        // Only where the driver runs can it be said that it brought no daemon; a unit may be left of an
        // earlier one.
        if fact.program == Some(false) && fact.smi_failure.is_none() {
            return Verdict::blocked(
                "nvidia-gridd is not installed: this is the data-center driver, which takes no license",
                "use the `-grid` driver of the host's vGPU release; a whole GPU without a licensed product needs no `license`",
            );
        }
        let reason = fact.reason.as_deref().filter(|_| !licensed);
        // A restart brings nothing while the clock is wrong: that is said first.
        if let Some(Explained { cause, fix }) = reason
            .filter(|r| is_clock(r) && fact.clock_synchronized == Some(false) && configured && token_there)
            .and_then(cause)
        {
            return Verdict::blocked(format!("{cause}; NTP does not keep this guest's clock"), fix);
        }
        let effects = effects(spec, fact, &values, configured, token_there, has_unit);
        if let Some(why) = fact.smi_failure.as_ref().filter(|_| fact.statuses.is_empty()) {
            return Verdict::waits_for(why, "Licensed", effects);
        }
        let mut is = fact.statuses.first().cloned().unwrap_or_else(|| "no license status".into());
        if fact.daemon != "active" {
            is += &format!(
                ", nvidia-gridd {}",
                if fact.daemon.is_empty() { "not installed" } else { &fact.daemon }
            );
        } else if !at_boot {
            is += ", nvidia-gridd does not start at boot";
        }
        if let Some(reason) = reason {
            is += &match cause(reason) {
                Some(Explained { cause, .. }) => format!(": {cause} ({reason})"),
                None => format!(" ({reason})"),
            };
        }
        Verdict::unmet(is, "Licensed", effects)
    }

    fn as_spec(fact: &LicenseFact) -> Option<LicenseSpec> {
        let text = |key: &str| fact.configured.get(key).cloned();
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

    fn artifacts_mut(spec: &mut LicenseSpec) -> Vec<&mut Artifact> {
        spec.token.iter_mut().collect()
    }

    fn stuck(_: &LicenseSpec, fact: &LicenseFact) -> Option<Stuck> {
        let reason = fact.reason.as_deref().filter(|_| !fact.statuses.iter().any(|s| is_licensed(s)))?;
        let Explained { cause, fix } = cause(reason)?;
        let explained = Explained { cause: format!("{cause} ({reason})"), fix };
        Some(Stuck { explained, for_good: stays(reason) })
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
            configured: ours(conf),
            template_keys: Some(KEYS.iter().map(|k| k.to_string()).collect()),
            tokens: BTreeMap::new(),
            daemon: "active".into(),
            enabled: "enabled".into(),
            program: Some(true),
            libraries: None,
            clock_synchronized: Some(true),
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
        let conf =
            "# ours\nEnableUI=TRUE\nServerAddress=old\n ServerPort=1\nProxyPassword=geheim\nFeatureType=0\n";
        let seen = fact(conf, "Unlicensed");
        assert!(!serde_json::to_string(&seen).unwrap().contains("geheim"), "it is not looked at");
        match License::check(&wish, &seen) {
            Verdict::Unmet { effects, .. } => match &effects[0] {
                Effect::EditLines { set, section: None, .. } => {
                    let after = vsgpu_core::readers::key_value::set(conf, None, set);
                    let wanted = "# ours\nEnableUI=TRUE\nProxyPassword=geheim\nServerAddress=lic2\nServerPort=7070\nFeatureType=1\n";
                    assert_eq!(after, wanted);
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
        assert!(
            spec(r#"{"server": "a b"}"#).is_err(),
            "a line break or blank in a name would write other keys"
        );
        assert!(spec(r#"{"token": "t.tok"}"#).is_ok());
    }

    #[test]
    fn a_driver_that_knows_no_server_is_not_given_one() {
        let mut newer = fact("", "Unlicensed");
        newer.template_keys = Some(vec!["FeatureType".into()]);
        assert!(matches!(
            License::check(&spec(r#"{"server": "a"}"#).unwrap(), &newer),
            Verdict::Blocked { .. }
        ));
    }

    #[test]
    fn a_unit_that_the_driver_left_out_is_made() {
        let mut trapped = fact("FeatureType=1\n", "Unlicensed");
        trapped.enabled = String::new();
        trapped.daemon = "inactive".into();
        trapped.libraries = Some(LIBRARIES[0].into());
        let lines = match License::check(&spec(r#"{"token": "t.tok"}"#).unwrap(), &trapped) {
            Verdict::Unmet { effects, .. } => effects.iter().map(ToString::to_string).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert!(lines.iter().any(|l| l.starts_with("write /etc/systemd/system/nvidia-gridd.service")
            && l.contains("LD_LIBRARY_PATH=/usr/lib/x86_64")));
        assert_eq!(
            lines[lines.len() - 3..],
            ["systemctl daemon-reload", "systemctl enable nvidia-gridd", "systemctl restart nvidia-gridd"]
        );
    }

    #[test]
    fn a_driver_without_the_daemon_and_a_wrong_clock_are_said_first() {
        let wish = spec(r#"{"server": "lic"}"#).unwrap();
        let mut plain = fact("", "Unlicensed");
        (plain.program, plain.enabled) = (Some(false), String::new());
        assert!(
            matches!(License::check(&wish, &plain), Verdict::Blocked { why, .. } if why.contains("data-center driver"))
        );
        let mut late = fact("ServerAddress=lic\nServerPort=7070\nFeatureType=1\n", "Unlicensed");
        late.reason = Some(
            "Failed to acquire license from X (Info: X - Error: Clock windback has been detected)".into(),
        );
        assert!(
            matches!(License::check(&wish, &late), Verdict::Unmet { is, .. } if is.contains("went back")),
            "NTP keeps the clock now: tried again"
        );
        late.clock_synchronized = Some(false);
        assert!(matches!(License::check(&wish, &late), Verdict::Blocked { why, .. } if why.contains("NTP")));
    }
}
