//! What each host answers itself: its packages, its modules, its log. One call for each host; the managers' ids are read
//! from the host, never made.

use crate::fault::Fault;
use crate::session::Session;
use crate::soap::{Ref, object, text};
use vsgpu_core::readers::xml::Element;
use vsgpu_core::text::piece;

/// Lines of one call, and of all.
const LINES: i64 = 1_000;
const MOST_LINES: i64 = 4_000;

/// The managers of a host that answer methods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managers {
    image: Option<Ref>,
    modules: Option<Ref>,
    graphics: Option<Ref>,
    passthrough: Option<Ref>,
    services: Option<Ref>,
    patch: Option<Ref>,
}

/// An installed package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Vendor.
    pub vendor: String,
}

/// A module of VMkernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Name.
    pub name: String,
    /// Whether it is loaded.
    pub loaded: bool,
    /// Who uses it.
    pub uses: u64,
}

/// Finds the managers of a host.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn managers(session: &mut Session, host: &Ref) -> Result<Managers, Fault> {
    let objects = session.of(std::slice::from_ref(host), &PATHS)?;
    let of = |path: &str| objects.first().and_then(|object| object.reference(path));
    let [image, modules, graphics, passthrough, services, patch] = PATHS.map(of);
    Ok(Managers { image, modules, graphics, passthrough, services, patch })
}

const PATHS: [&str; 6] = [
    "configManager.imageConfigManager",
    "configManager.kernelModuleSystem",
    "configManager.graphicsManager",
    "configManager.pciPassthruSystem",
    "configManager.serviceSystem",
    "configManager.patchManager",
];

fn there(manager: Option<&Ref>) -> Result<&Ref, Fault> {
    manager.ok_or_else(|| Fault::said("this host does not offer it to this account"))
}

fn ask(session: &mut Session, method: &str, of: &Ref, arguments: &str) -> Result<Vec<Element>, Fault> {
    session.within_session(|session| session.look(method, of, arguments))
}

fn word(of: &Element, name: &str) -> String {
    of.child(name).map(|child| piece(&child.text, 300)).unwrap_or_default()
}

impl Managers {
    /// Whether there are all of them: what is missing may be a privilege that comes.
    pub fn are_complete(&self) -> bool {
        [&self.image, &self.modules, &self.graphics, &self.passthrough, &self.services]
            .iter()
            .all(|manager| manager.is_some())
    }

    pub(crate) fn image(&self) -> Result<&Ref, Fault> {
        there(self.image.as_ref())
    }

    pub(crate) fn module_system(&self) -> Result<&Ref, Fault> {
        there(self.modules.as_ref())
    }

    pub(crate) fn graphics(&self) -> Result<&Ref, Fault> {
        there(self.graphics.as_ref())
    }

    pub(crate) fn passthrough(&self) -> Result<&Ref, Fault> {
        there(self.passthrough.as_ref())
    }

    pub(crate) fn patch(&self) -> Result<&Ref, Fault> {
        there(self.patch.as_ref())
    }

    pub(crate) fn services(&self) -> Result<&Ref, Fault> {
        there(self.services.as_ref())
    }

    /// Installed packages (6.5 and later).
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub fn packages(&self, session: &mut Session) -> Result<Vec<Package>, Fault> {
        let found = ask(session, "fetchSoftwarePackages", self.image()?, "")?;
        let one = |of: &Element| Package {
            name: word(of, "name"),
            version: word(of, "version"),
            vendor: word(of, "vendor"),
        };
        Ok(found.iter().map(one).collect())
    }

    /// The acceptance level: `partner`, `community`, `vmware_accepted`, `vmware_certified`.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub fn acceptance(&self, session: &mut Session) -> Result<String, Fault> {
        let found = ask(session, "HostImageConfigGetAcceptance", self.image()?, "")?;
        found.first().map(|of| piece(&of.text, 40)).ok_or_else(|| Fault::said("it says nothing"))
    }

    /// Name and vendor of the image profile.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub fn profile(&self, session: &mut Session) -> Result<(String, String), Fault> {
        let found = ask(session, "HostImageConfigGetProfile", self.image()?, "")?;
        let found = found.first().ok_or_else(|| Fault::said("it says nothing"))?;
        Ok((word(found, "name"), word(found, "vendor")))
    }

    /// Modules of VMkernel.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub fn modules(&self, session: &mut Session) -> Result<Vec<Module>, Fault> {
        let found = ask(session, "QueryModules", self.module_system()?, "")?;
        let one = |of: &Element| Module {
            name: word(of, "name"),
            loaded: word(of, "loaded") == "true",
            uses: word(of, "useCount").parse().unwrap_or_default(),
        };
        Ok(found.iter().map(one).collect())
    }

    /// The whole line of options that a module is configured with; the fault `NotFound` where there is no such module.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub fn options(&self, session: &mut Session, module: &str) -> Result<String, Fault> {
        let asked = text("name", module);
        let found = ask(session, "QueryConfiguredModuleOptionString", self.module_system()?, &asked)?;
        Ok(found.first().map(|of| of.text.clone()).unwrap_or_default())
    }
}

/// The id by which fixed devices of VMs name their host. It is none of its properties: the server says it of each device
/// that may be passed through, so it is not known where there is none.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn system_id(session: &mut Session, compute: &Ref, host: &Ref) -> Result<Option<String>, Fault> {
    let found = session.of(std::slice::from_ref(compute), &["environmentBrowser"])?;
    let browser = found.first().and_then(|of| of.reference("environmentBrowser"));
    let browser = browser.ok_or_else(|| Fault::said("the account does not see the environment browser"))?;
    let found = ask(session, "QueryConfigTarget", &browser, &object("host", host))?;
    let mut ids = found.iter().flat_map(|target| target.all("pciPassthrough")).map(|of| word(of, "systemId"));
    Ok(ids.find(|id| !id.is_empty()).map(|id| id.to_lowercase()))
}

/// Seconds since a host booted.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn uptime(session: &mut Session, host: &Ref) -> Result<u64, Fault> {
    let found = ask(session, "RetrieveHardwareUptime", host, "")?;
    let seconds = found.first().and_then(|of| of.text.trim().parse().ok());
    seconds.ok_or_else(|| Fault::said("it says no number"))
}

/// The last lines of a host's kernel log, at most so many bytes.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn kernel_log(session: &mut Session, host: &Ref, most: usize) -> Result<String, Fault> {
    let manager = session.named("diagnosticManager")?;
    let of = |start: i64, lines: i64| {
        object("host", host)
            + &text("key", "vmkernel")
            + &text("start", &start.to_string())
            + &text("lines", &lines.to_string())
    };
    // Far behind its end there is no line, but the number of the last one is said.
    let end = ask(session, "BrowseDiagnosticLog", &manager, &of(i64::from(i32::MAX), 1))?;
    let end = end.first().and_then(|of| word(of, "lineEnd").parse::<i64>().ok());
    let end = end.ok_or_else(|| Fault::said("it does not say where the log ends"))?;
    let mut at = (end - MOST_LINES + 1).max(1);
    let mut log = String::new();
    while at <= end {
        let page = ask(session, "BrowseDiagnosticLog", &manager, &of(at, LINES.min(end - at + 1)))?;
        let Some(page) = page.first() else { break };
        let lines: Vec<&Element> = page.all("lineText").collect();
        for line in &lines {
            log += &line.text;
            log.push('\n');
        }
        if lines.is_empty() {
            break;
        }
        at += i64::try_from(lines.len()).unwrap_or(LINES);
    }
    // From the beginning of a line.
    let cut = log.len().saturating_sub(most);
    let cut = (cut..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(0);
    Ok(match cut {
        0 => log,
        cut => log[cut..].split_once('\n').map(|(_, rest)| rest.to_string()).unwrap_or_default(),
    })
}
