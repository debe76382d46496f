//! Which fleet is meant when the command line does not say it: named contexts, and what counts more than
//! what.
//!
//! ```text
//! FLEET and --pki  >  --context  >  VSGPU_FLEET and VSGPU_PKI  >  VSGPU_CONTEXT  >  ./fleet.yaml  >  the current context  >  fleet.yaml
//! ```
//! A context is a name for a fleet file and its certificates. They are kept in
//! `$XDG_CONFIG_HOME/vsgpu/config.yaml`, else in `~/.config/vsgpu/config.yaml`; `vsgpu config` shows what
//! counts and why. `choose` is pure; what the environment and the file say is read here and nowhere else.

use crate::error::{Error, Kind};
use crate::files;
use crate::fleet::{range, yaml};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file of contexts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The one that counts when nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Context {
    /// Absolute path of the fleet file.
    pub fleet: PathBuf,
    /// Absolute path of the certificates, where they are not where the fleet file says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pki: Option<PathBuf>,
}

impl Config {
    /// Reads the file; none is an empty one.
    ///
    /// # Errors
    /// With its place.
    pub fn read(path: &Path) -> Result<Self, Error> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = files::read_text(path, 1 << 20)?;
        let shown = path.display().to_string();
        let wrong = |why: String| Error::new(Kind::Usage, format!("{shown}: {why}")).code("config");
        let json = yaml::parse(&shown, &text).map_err(|e| Error { code: "config", ..e })?.to_json();
        serde_json::from_value(json).map_err(|e| wrong(e.to_string()))
    }

    /// Writes it, and its folder.
    ///
    /// # Errors
    /// Naming the path.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let text = yaml::write(&serde_json::to_value(self).unwrap_or_default());
        files::make_folder(path.parent().unwrap_or(path))?;
        files::write_text(path, &text)
    }

    /// A context by its name.
    ///
    /// # Errors
    /// With the nearest one.
    pub fn find(&self, name: &str) -> Result<&Context, Error> {
        self.contexts.get(name).ok_or_else(|| {
            let error = Error::new(Kind::Usage, format!("there is no context `{name}`")).code("config");
            match range::nearest(name, self.contexts.keys().map(String::as_str)) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint("`vsgpu config` lists them; `vsgpu config add NAME FLEET` makes one"),
            }
        })
    }
}

/// What the choice depends on beside the command line.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `VSGPU_FLEET`.
    pub fleet: Option<PathBuf>,
    /// `VSGPU_PKI`.
    pub pki: Option<PathBuf>,
    /// `VSGPU_CONTEXT`.
    pub context: Option<String>,
    /// Whether the working folder has a `fleet.yaml`.
    pub has_fleet_file: bool,
    /// Where the contexts are kept.
    pub file: PathBuf,
}

impl Environment {
    /// Those of this process.
    pub fn here() -> Self {
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // A unit or a cron job may have no HOME; contexts must not be looked for in whatever folder it works
        // in.
        let own = || nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.dir);
        let home = || {
            path("HOME")
                .filter(|p| p.is_absolute())
                .or_else(own)
                .unwrap_or_else(|| "/".into())
                .join(".config")
        };
        Self {
            fleet: path("VSGPU_FLEET"),
            pki: path("VSGPU_PKI"),
            context: path("VSGPU_CONTEXT").map(|name| name.to_string_lossy().into_owned()),
            has_fleet_file: Path::new("fleet.yaml").exists(),
            file: path("XDG_CONFIG_HOME")
                .filter(|p| p.is_absolute())
                .unwrap_or_else(home)
                .join("vsgpu/config.yaml"),
        }
    }
}

/// Where traces of runs go: OpenTelemetry's own variable. Nowhere, unless it is set.
pub fn trace_endpoint() -> Option<String> {
    let text =
        |name: &str| std::env::var_os(name).and_then(|v| v.into_string().ok()).filter(|v| !v.is_empty());
    let off = text("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    text("OTEL_EXPORTER_OTLP_ENDPOINT").filter(|_| !off)
}

/// A setting and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting<T> {
    pub value: T,
    pub from: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    pub fleet: Setting<PathBuf>,
    /// The folder of certificates; `None`: what the fleet file says.
    pub pki: Option<Setting<PathBuf>>,
}

/// Chooses. `fleet`, `pki`, `context`: the command line's. `config` is only read where it decides.
///
/// # Errors
/// Where a context that is named does not exist.
pub fn choose(
    fleet: Option<&Path>,
    pki: Option<&Path>,
    context: Option<&str>,
    around: &Environment,
    config: &dyn Fn() -> Result<Config, Error>,
) -> Result<Choice, Error> {
    let set = |value: &Path, from: &str| Setting { value: value.into(), from: from.into() };
    // A context's certificates go with its fleet file and with no other.
    let of_context = |context: &Context, from: &str| {
        (set(&context.fleet, from), context.pki.as_deref().map(|p| set(p, from)))
    };
    let named = |name: &str, from: String| Ok::<_, Error>(of_context(config()?.find(name)?, &from));
    let here = || (set(Path::new("fleet.yaml"), "working folder"), None);
    let (file, own_pki) = match (fleet, context, &around.fleet, &around.context) {
        (Some(file), ..) => (set(file, "command line"), None),
        (None, Some(name), ..) => named(name, format!("--context {name}"))?,
        (None, None, Some(file), _) => (set(file, "VSGPU_FLEET"), None),
        (None, None, None, Some(name)) => named(name, format!("VSGPU_CONTEXT={name}"))?,
        (None, None, None, None) if around.has_fleet_file => here(),
        (None, None, None, None) => match config()?.current {
            Some(name) => named(&name, format!("current context {name}"))?,
            None => here(),
        },
    };
    let of_env = || around.pki.as_deref().map(|p| set(p, "VSGPU_PKI"));
    // What was typed counts more than what was exported once: a context that was named brings its own
    // certificates.
    let pki = pki.map(|p| set(p, "command line"));
    let pki =
        if context.is_some() { pki.or(own_pki).or_else(of_env) } else { pki.or_else(of_env).or(own_pki) };
    Ok(Choice { fleet: file, pki })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let context = |name: &str| {
            (
                name.to_string(),
                Context {
                    fleet: format!("/{name}/fleet.yaml").into(),
                    pki: Some(format!("/{name}/pki").into()),
                },
            )
        };
        Config { current: Some("prod".into()), contexts: [context("prod"), context("lab")].into() }
    }

    #[test]
    fn what_is_said_nearer_counts_more() {
        let chosen = |fleet: Option<&str>, context: Option<&str>, around: &Environment| {
            let choice = choose(fleet.map(Path::new), None, context, around, &|| Ok(config())).unwrap();
            format!(
                "{} {} {:?}",
                choice.fleet.value.display(),
                choice.fleet.from,
                choice.pki.map(|p| p.value.display().to_string())
            )
        };
        let nothing = Environment::default();
        let here = Environment { has_fleet_file: true, ..Environment::default() };
        let env = Environment {
            fleet: Some("/e.yaml".into()),
            pki: Some("/e".into()),
            context: Some("lab".into()),
            ..here.clone()
        };
        assert_eq!(chosen(Some("a.yaml"), Some("lab"), &env), "a.yaml command line Some(\"/e\")");
        assert_eq!(chosen(None, Some("prod"), &env), "/prod/fleet.yaml --context prod Some(\"/prod/pki\")");
        assert_eq!(chosen(None, None, &env), "/e.yaml VSGPU_FLEET Some(\"/e\")");
        assert_eq!(chosen(None, Some("lab"), &here), "/lab/fleet.yaml --context lab Some(\"/lab/pki\")");
        let named = Environment { context: Some("lab".into()), ..here.clone() };
        assert_eq!(chosen(None, None, &named), "/lab/fleet.yaml VSGPU_CONTEXT=lab Some(\"/lab/pki\")");
        assert_eq!(chosen(None, None, &here), "fleet.yaml working folder None");
        assert_eq!(chosen(None, None, &nothing), "/prod/fleet.yaml current context prod Some(\"/prod/pki\")");
        let error = choose(None, None, Some("labb"), &nothing, &|| Ok(config())).unwrap_err();
        assert!(error.hints[0].contains("`lab`"), "{error:?}");
        let broken = || Err(Error::new(Kind::Usage, "broken"));
        assert!(
            choose(Some(Path::new("a.yaml")), None, None, &nothing, &broken).is_ok(),
            "contexts that nobody needs are not read"
        );
    }
}
