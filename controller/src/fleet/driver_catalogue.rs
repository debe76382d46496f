//! NVIDIA's machine-readable catalogue of driver pairs (`vgpuDriverCatalog.yaml` of the Licensing Portal).
//! The file is the operator's; where it knows a pair it overrides the built-in table. Its lists are read the
//! way NVIDIA's own container tooling documents them: an allow list that is there must name the other side, a
//! deny list must not.

use crate::error::{Error, Kind};
use crate::files;
use crate::fleet::yaml;
use serde::Deserialize;
use std::path::Path;
use vsgpu_core::units::DriverVersion;

const MAX_FILE: u64 = 16 << 20;

/// What the catalogue says of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says {
    /// It knows both and allows them.
    Allows,
    /// It knows both and does not.
    Denies(String),
    /// It does not know one of them.
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverCatalogue {
    /// Name of the file.
    pub file: String,
    content: Content,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Content {
    branch: Vec<Branch>,
    driver: Vec<Driver>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Branch {
    name: String,
    #[serde(rename = "type")]
    side: String,
    allow: Lists,
    deny: Lists,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Driver {
    version: String,
    branch: String,
    #[serde(rename = "type")]
    side: String,
    os: Vec<String>,
    allow: Lists,
    deny: Lists,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Lists {
    branch: Vec<String>,
    gpu: Vec<Gpu>,
    driver: Vec<Named>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Gpu {
    devid: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Named {
    version: String,
}

impl Lists {
    fn names_gpu(&self, device_id: &str) -> bool {
        let plain = |id: &str| id.trim_start_matches("0x").to_lowercase();
        self.gpu.iter().any(|g| plain(&g.devid) == plain(device_id))
    }
    fn names_driver(&self, version: &str) -> bool {
        self.driver.iter().any(|d| d.version == version)
    }
}

impl DriverCatalogue {
    /// Reads the operator's file.
    ///
    /// # Errors
    /// Where it cannot be read, or is no such catalogue.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = files::read_text(path, MAX_FILE)?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// Reads its text.
    ///
    /// # Errors
    /// Where it is no such catalogue.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let root = yaml::parse(file, text)?;
        let wrong = |why: String| {
            Error::new(Kind::Usage, format!("{file}: {why}"))
                .hint("use vgpuDriverCatalog.yaml as NVIDIA's Licensing Portal has it")
        };
        // Versions such as `535.10` are numbers to YAML and texts to NVIDIA: they are compared as they are
        // written.
        let content: Content = serde_json::from_value(texts(root.to_json()))
            .map_err(|e| wrong(format!("this is no driver catalogue: {e}")))?;
        if content.branch.is_empty() || content.driver.is_empty() {
            return Err(wrong("this is no driver catalogue: it lists no `branch` or no `driver`".into()));
        }
        Ok(Self { file: file.into(), content })
    }

    fn driver(&self, side: &str, version: &DriverVersion) -> Option<&Driver> {
        let linux = |d: &&Driver| side == "host" || d.os.is_empty() || d.os.iter().any(|os| os == "Linux");
        let same =
            |d: &&Driver| d.version == version.to_string() || d.version.parse().as_ref() == Ok(version);
        self.content.driver.iter().filter(|d| d.side == side).filter(same).find(linux)
    }

    fn branch(&self, side: &str, name: &str) -> Option<&Branch> {
        self.content.branch.iter().find(|b| b.side == side && b.name.eq_ignore_ascii_case(name))
    }

    /// What it says of a host manager and a guest driver, on a GPU where that is known.
    pub fn pair(&self, host: &DriverVersion, guest: &DriverVersion, device_id: Option<&str>) -> Says {
        let Some((host_driver, guest_driver)) = self.driver("host", host).zip(self.driver("guest", guest))
        else {
            return Says::Nothing;
        };
        let branches =
            self.branch("host", &host_driver.branch).zip(self.branch("guest", &guest_driver.branch));
        let Some((host_branch, guest_branch)) = branches else { return Says::Nothing };
        let named = |list: &[String], name: &str| list.iter().any(|n| n.eq_ignore_ascii_case(name));
        let (of_host, of_guest) = (&host_branch.name, &guest_branch.name);
        let sides = [(host_branch, "host", of_guest, "guest"), (guest_branch, "guest", of_host, "host")];
        for (branch, side, other, other_side) in sides {
            if named(&branch.deny.branch, other) {
                return Says::Denies(format!(
                    "{side} branch {} denies {other_side} branch {other}",
                    branch.name
                ));
            }
            if !branch.allow.branch.is_empty() && !named(&branch.allow.branch, other) {
                return Says::Denies(format!(
                    "{side} branch {} does not allow {other_side} branch {other}",
                    branch.name
                ));
            }
        }
        for (driver, other) in [(host_driver, &guest_driver.version), (guest_driver, &host_driver.version)] {
            if driver.deny.names_driver(other) {
                return Says::Denies(format!("{} driver {} denies {other}", driver.side, driver.version));
            }
            if !driver.allow.driver.is_empty() && !driver.allow.names_driver(other) {
                return Says::Denies(format!(
                    "{} driver {} does not allow {other}",
                    driver.side, driver.version
                ));
            }
        }
        let lists = [
            (&host_branch.allow, &host_branch.deny),
            (&guest_branch.allow, &guest_branch.deny),
            (&host_driver.allow, &host_driver.deny),
            (&guest_driver.allow, &guest_driver.deny),
        ];
        if let Some(device) = device_id
            && lists.iter().any(|(allow, deny)| {
                deny.names_gpu(device) || !allow.gpu.is_empty() && !allow.names_gpu(device)
            })
        {
            return Says::Denies(format!("not for GPU {device}"));
        }
        Says::Allows
    }
}

/// Numbers as the texts that they stand for.
fn texts(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Number(n) => Value::String(n.to_string()),
        Value::Array(items) => items.into_iter().map(texts).collect(),
        Value::Object(map) => {
            map.into_iter().map(|(k, v)| (k, texts(v))).collect::<serde_json::Map<_, _>>().into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
version: 1
date: "2026-01-01"
branch:
  - { name: R570, type: host, allow: { branch: [R570, R550] } }
  - { name: R570, type: guest, allow: { branch: [R570, R580] } }
  - { name: R550, type: guest, allow: { branch: [R570] }, deny: { gpu: [{ devid: "0x2330" }] } }
  - { name: R535, type: guest, allow: { branch: [R550] } }
driver:
  - { version: 570.158.02, branch: R570, type: host }
  - { version: 570.158.01, branch: R570, type: guest, os: [Linux, Windows] }
  - { version: 550.90.07, branch: R550, type: guest, os: [Linux] }
  - { version: 550.54.14, branch: R550, type: guest, os: [Linux], deny: { driver: [{ version: 570.158.02 }] } }
  - { version: 535.161.07, branch: R535, type: guest, os: [Linux] }
"#;

    #[test]
    fn lists_of_branches_drivers_and_gpus_count() {
        let catalogue = DriverCatalogue::parse("c.yaml", TEXT).unwrap_or_else(|e| panic!("{e}"));
        let says = |guest: &str, gpu: Option<&str>| {
            let v = |t: &str| t.parse::<DriverVersion>().unwrap_or_else(|e| panic!("{e}"));
            catalogue.pair(&v("570.158.02"), &v(guest), gpu)
        };
        assert_eq!(says("570.158.01", None), Says::Allows);
        assert_eq!(says("550.90.07", Some("20f1")), Says::Allows);
        assert!(matches!(says("550.90.07", Some("2330")), Says::Denies(why) if why.contains("2330")));
        assert!(matches!(says("550.54.14", None), Says::Denies(why) if why.contains("570.158.02")));
        assert!(matches!(says("535.161.07", None), Says::Denies(why) if why.contains("R535")));
        assert_eq!(says("525.60.13", None), Says::Nothing, "a pair that it does not know");
    }

    #[test]
    fn another_file_is_refused() {
        for text in ["version: 1\nhosts: {}\n", "[]", "branch: 3\n"] {
            assert!(DriverCatalogue::parse("c.yaml", text).is_err(), "{text}");
        }
    }
}
