//! Where this guest's package tool gets packages from: a proxy, repositories of your own (a local mirror,
//! say). With no network at all nothing is wished here; `build-tools`, `driver` and `container-toolkit` take
//! the package files themselves.
//!
//! Only added to: what the guest already knows stays. A proxy with a password is refused: it would lie in a
//! file that every user of the guest can read, and in the plan.

use crate::distro::{self, OS_RELEASE, os_release};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::collections::BTreeMap;
use vsgpu_core::artifact::Artifact;
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

/// Where keys of repositories are kept.
const KEYS: &str = "/usr/share/keyrings";

/// Package source of a guest.
pub struct PackageSource;

/// What is wanted.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "keys and values",
    try_from = "Unchecked"
)]
pub struct PackageSourceSpec {
    /// `http://proxy:3128`, for the package tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Repositories by a name of yours.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub repositories: BTreeMap<String, RepositorySpec>,
}

/// One repository.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
pub struct RepositorySpec {
    /// Its address.
    pub url: String,
    /// Suite and components, such as `bookworm main`; Debian and Ubuntu only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suite: Option<String>,
    /// Public key that signs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Artifact>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
struct Unchecked {
    /// `http://proxy:3128`, for the package tool.
    proxy: Option<String>,
    /// Repositories by a name of yours.
    #[serde(default)]
    repositories: BTreeMap<String, RepositorySpec>,
}

impl TryFrom<Unchecked> for PackageSourceSpec {
    type Error = String;
    fn try_from(raw: Unchecked) -> Result<Self, String> {
        let address = |text: &str| {
            let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-._~:/?&=%[]+".contains(c));
            plain
                && text.len() < 1024
                && ["http://", "https://", "file:/"].iter().any(|s| text.starts_with(s))
        };
        if let Some(proxy) = raw.proxy.as_ref().filter(|p| !address(p) || p.starts_with("file:")) {
            let shown =
                if proxy.contains('@') { "a proxy with a name and password is not taken" } else { proxy };
            return Err(format!("proxy: {shown}: `http://host:port` is expected"));
        }
        for (name, of) in &raw.repositories {
            if name.is_empty()
                || name.len() > 64
                || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            {
                return Err(format!("repositories: `{name}`: letters, digits and dashes are expected"));
            }
            if of.url.contains('?') {
                return Err(format!(
                    "repositories: {name}: url: a question (`?token=..`) would show a secret in every plan: it is not taken"
                ));
            }
            if !address(&of.url) {
                return Err(format!(
                    "repositories: {name}: url: `http://...`, `https://...` or `file:/...` is expected"
                ));
            }
            let plain = |text: &str| {
                text.chars().all(|c| c.is_ascii_alphanumeric() || "-._/ ".contains(c)) && text.len() < 256
            };
            if of.suite.as_deref().is_some_and(|s| !plain(s)) {
                return Err(format!("repositories: {name}: suite: `bookworm main` is expected"));
            }
        }
        Ok(Self { proxy: raw.proxy, repositories: raw.repositories })
    }
}

/// What is so.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PackageSourceFact {
    /// os-release, to choose the package tool.
    pub os_release: String,
    /// The proxy that is set; without a name and password, where it has them.
    pub proxy: Option<String>,
    /// Our repository files: path and SHA-256. Their text may hold a password that somebody put there by
    /// hand.
    pub repositories: BTreeMap<String, String>,
    /// Keys that are there: path and SHA-256.
    pub keys: BTreeMap<String, String>,
}

impl Fact for PackageSourceFact {
    const NAME: &'static str = "package-source";
    const ABOUT: &'static str =
        "Proxy and repositories of the guest's package tool, as far as vsgpu set them";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = vec![Probe::Read(OS_RELEASE.into()), Probe::List(KEYS.into())];
        if let Some(family) = distro::seen(seen) {
            let (folder, _) = family.repositories();
            probes.extend([Probe::Read(family.proxy_file().into()), Probe::List(folder.into())]);
            probes.extend(ours(seen, folder).into_iter().map(Probe::Hash));
        }
        probes.extend(ours(seen, KEYS).into_iter().map(Probe::Hash));
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let (mut proxy, mut repositories) = (None, BTreeMap::new());
        let hash = |path: String| {
            seen.text(&Probe::Hash(path.clone())).ok().flatten().map(|h| (path, h.to_string()))
        };
        if let Some(family) = distro::seen(seen) {
            proxy =
                seen.file(family.proxy_file())?.and_then(|text| family.proxy_in(text)).map(without_secret);
            repositories.extend(ours(seen, family.repositories().0).into_iter().filter_map(hash));
        }
        let keys = ours(seen, KEYS).into_iter().filter_map(hash).collect();
        Ok(Self { os_release: os_release(seen)?.into(), proxy, repositories, keys })
    }
    fn sentence(&self) -> Option<String> {
        let proxy = self.proxy.as_ref().map_or_else(|| "no proxy".into(), |proxy| format!("proxy {proxy}"));
        let ours = vsgpu_core::words::first(self.repositories.keys().cloned(), 8, "no repository of vsgpu");
        Some(format!("{proxy}, {ours}"))
    }
}

/// `http://...@proxy:3128` of `http://name:password@proxy:3128`; a scheme is not always written.
fn without_secret(proxy: String) -> String {
    let (scheme, rest) =
        proxy.split_once("://").map_or(("", proxy.as_str()), |(scheme, rest)| (scheme, rest));
    let colon = if scheme.is_empty() { "" } else { "://" };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}{colon}...@{host}"),
        None => proxy,
    }
}

fn sha256(text: &str) -> String {
    sha2::Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect()
}

fn ours(seen: &Observation, folder: &str) -> Vec<String> {
    let names = seen.names(folder).unwrap_or_default().into_iter();
    names.filter(|n| n.starts_with("vsgpu-")).take(64).map(|n| format!("{folder}/{n}")).collect()
}

impl Requirement for PackageSource {
    const NAME: &'static str = "package-source";
    const ABOUT: &'static str = "Proxy and repositories of your own for the guest's package tool";
    const AFTER: &'static [&'static str] = &[];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"proxy": "http://proxy.lab.local:3128"}"#;
    type Spec = PackageSourceSpec;
    type Fact = PackageSourceFact;

    fn check(spec: &PackageSourceSpec, fact: &PackageSourceFact) -> Verdict {
        let Some(family) = distro::of(&fact.os_release) else {
            return Verdict::blocked(
                "this distribution's package tool is not known",
                format!("{}; set the proxy yourself", distro::UNKNOWN),
            );
        };
        let (mut effects, mut lacks, mut has) = (vec![], vec![], vec![]);
        let write =
            |file: distro::File| Effect::Write { path: file.path, contents: file.contents, mode: 0o644 };
        if let Some(proxy) = &spec.proxy {
            has.push(format!("proxy {proxy}"));
            if fact.proxy.as_ref() != Some(proxy) {
                lacks.push(format!("no proxy {proxy}"));
                effects.push(family.proxy(proxy));
            }
        }
        for (name, of) in &spec.repositories {
            has.push(format!("repository {name}"));
            let key = of.key.as_ref().map(|k| {
                (
                    k,
                    format!(
                        "{KEYS}/vsgpu-{name}.{}",
                        if k.file_name().ends_with(".gpg") { "gpg" } else { "asc" }
                    ),
                )
            });
            let file = family.repository(distro::Repository {
                name,
                url: &of.url,
                suite: of.suite.as_deref(),
                key: key.as_ref().map(|(_, path)| path.as_str()),
            });
            let key_there = key.as_ref().is_none_or(|(k, path)| {
                fact.keys.get(path).is_some_and(|h| k.sha256.as_ref().is_none_or(|w| w == h))
            });
            if fact.repositories.get(&file.path) == Some(&sha256(&file.contents)) && key_there {
                continue;
            }
            lacks.push(format!("no repository {name}"));
            if let Some((key, path)) = key.filter(|_| !key_there) {
                effects.push(Effect::Copy { from: key.stored(None), to: path, mode: 0o644 });
            }
            effects.push(write(file));
        }
        let wants = if has.is_empty() { "nothing of its own".into() } else { has.join(", ") };
        if effects.is_empty() {
            Verdict::met(wants)
        } else {
            Verdict::unmet(lacks.join(", "), wants, effects)
        }
    }

    fn as_spec(fact: &PackageSourceFact) -> Option<PackageSourceSpec> {
        let proxy = fact.proxy.clone()?;
        // One that could not be wished for (with a password) is not exported either.
        PackageSourceSpec::try_from(Unchecked { proxy: Some(proxy), repositories: BTreeMap::new() }).ok()
    }

    fn artifacts_mut(spec: &mut PackageSourceSpec) -> Vec<&mut Artifact> {
        spec.repositories.values_mut().filter_map(|r| r.key.as_mut()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Result<PackageSourceSpec, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn what_could_write_other_lines_or_show_a_password_is_refused() {
        assert!(spec(r#"{"proxy": "http://proxy:3128"}"#).is_ok());
        let secret = spec(r#"{"proxy": "http://me:geheim@proxy:3128"}"#).unwrap_err();
        assert!(!secret.contains("geheim") && secret.contains("password"), "{secret}");
        for bad in [
            r#"{"proxy": "proxy:3128"}"#,
            r#"{"proxy": "http://p\";\nDPkg::Pre-Invoke {\"x\"};"}"#,
            r#"{"repositories": {"a/b": {"url": "http://m"}}}"#,
            r#"{"repositories": {"a": {"url": "http://m m"}}}"#,
            r#"{"repositories": {"a": {"url": "http://m", "suite": "x\ndeb y"}}}"#,
        ] {
            assert!(spec(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_that_somebody_else_wrote_is_not_shown() {
        for (proxy, shown) in [
            ("http://me:ge@heim@proxy:3128", "http://...@proxy:3128"),
            ("me:geheim@proxy:3128", "...@proxy:3128"),
            ("http://proxy:3128", "http://proxy:3128"),
        ] {
            assert_eq!(without_secret(proxy.into()), shown);
        }
    }

    #[test]
    fn a_repository_is_written_with_its_key_and_only_once() {
        let wish = spec(r#"{"repositories": {"mirror": {"url": "http://mirror/debian", "suite": "bookworm main", "key": {"file": "m.asc", "sha256": "aa"}}}}"#).unwrap();
        let mut fact = PackageSourceFact {
            os_release: "ID=debian".into(),
            proxy: None,
            repositories: BTreeMap::new(),
            keys: BTreeMap::new(),
        };
        let effects = match PackageSource::check(&wish, &fact) {
            Verdict::Unmet { effects, .. } => effects,
            other => panic!("{other:?}"),
        };
        assert!(effects[0].to_string().starts_with("copy "), "{effects:?}");
        let Effect::Write { path, contents, .. } = &effects[1] else { panic!("{effects:?}") };
        assert_eq!(
            contents.lines().nth(1),
            Some("deb [signed-by=/usr/share/keyrings/vsgpu-mirror.asc] http://mirror/debian bookworm main")
        );
        fact.repositories.insert(path.clone(), sha256(contents));
        assert!(!PackageSource::check(&wish, &fact).is_met(), "the key is missing");
        fact.keys.insert("/usr/share/keyrings/vsgpu-mirror.asc".into(), "aa".into());
        assert!(PackageSource::check(&wish, &fact).is_met());
    }
}
