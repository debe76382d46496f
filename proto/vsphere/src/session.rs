//! A session: which version both sides know, who is logged in, and the calls made in it. One that ended is begun again
//! once, and only a call that reads is repeated.

use crate::fault::Fault;
use crate::https::Https;
use crate::soap::{Ref, answer, envelope, text};
use crate::trust::Trust;
use hyper::{Method, header};
use std::time::Duration;
use vsgpu_core::readers::xml::{Element, parse};
use vsgpu_core::text::piece;

/// For calls that only look.
pub(crate) const LOOK: Duration = Duration::from_secs(60);

/// Versions that this client knows, newest first: an answer's types depend on the one that is asked for (facts:
/// vsphere-api 1).
const VERSIONS: [&str; 21] = [
    "9.1.0.0", "9.0.0.0", "8.0.3.0", "8.0.2.0", "8.0.1.0", "8.0.0.2", "8.0.0.1", "8.0.0.0", "7.0.3.2",
    "7.0.3.1", "7.0.3.0", "7.0.2.1", "7.0.2.0", "7.0.1.1", "7.0.1.0", "7.0.0.2", "7.0.0.0", "6.7.3", "6.7.1",
    "6.7", "6.5",
];

/// Who logs in.
pub struct Account {
    /// `svc-vsgpu@vsphere.local`; always with its domain.
    pub user: String,
    /// Where the password is asked for when it is needed: it is kept nowhere.
    pub password: Box<dyn Fn() -> Result<String, String> + Send>,
}

/// What the server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// `VMware vCenter Server 8.0.3 build-69507950`.
    pub full_name: String,
    /// Whether it is vCenter; else a host.
    pub is_vcenter: bool,
    /// Newest version of the API that it has.
    pub api: String,
}

/// A session that is logged in.
pub struct Session {
    https: Https,
    account: Account,
    version: &'static str,
    cookie: Option<String>,
    key: String,
    about: About,
    /// What the server's own content names.
    content: Element,
}

impl Session {
    /// Connects, and logs in where the server is what `is_expected` takes it for: no password goes to any other.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub fn begin(
        address: &str,
        trust: Option<&Trust>,
        account: Account,
        is_expected: impl FnOnce(&About) -> Result<(), String>,
    ) -> Result<Self, Fault> {
        let mut https = Https::new(address, trust).map_err(Fault::unheard)?;
        let offered = https.ask(&Method::GET, "/sdk/vimServiceVersions.xml", &[], String::new(), LOOK)?;
        let version = chosen(&offered.body);
        let mut session = Self {
            https,
            account,
            version,
            cookie: None,
            key: String::new(),
            about: About::default(),
            content: Element::default(),
        };
        let instance = session.instance();
        session.content = session
            .send("RetrieveServiceContent", &instance, "", LOOK)?
            .into_iter()
            .next()
            .ok_or_else(|| Fault::unheard("the server says nothing of itself"))?;
        let about = session.content.child("about").cloned().unwrap_or_default();
        let word = |name: &str| about.child(name).map(|e| piece(&e.text, 120)).unwrap_or_default();
        session.about = About {
            full_name: word("fullName"),
            is_vcenter: word("apiType") == "VirtualCenter",
            api: word("apiVersion"),
        };
        is_expected(&session.about).map_err(Fault::unheard)?;
        session.log_in()?;
        Ok(session)
    }

    fn log_in(&mut self) -> Result<(), Fault> {
        let manager = self.named("sessionManager")?;
        let password = (self.account.password)().map_err(Fault::unheard)?;
        // In English: labels and messages come in the session's language.
        let arguments =
            text("userName", &self.account.user) + &text("password", &password) + &text("locale", "en");
        self.cookie = None;
        let given = self.send("Login", &manager, &arguments, LOOK)?;
        let key = given.first().and_then(|session| session.child("key")).map(|key| key.text.clone());
        self.key = key.unwrap_or_default();
        Ok(())
    }

    /// What the server says of itself.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The one object whose id is the same everywhere.
    pub(crate) fn instance(&self) -> Ref {
        Ref { kind: "ServiceInstance".into(), id: "ServiceInstance".into() }
    }

    /// The session's own key.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// One of the server's managers, or its root folder, by its place in the content: ids differ between servers, so
    /// none is ever made here.
    ///
    /// # Errors
    /// Where this server has none.
    pub(crate) fn named(&self, place: &str) -> Result<Ref, Fault> {
        let of = self.content.child(place).and_then(Ref::of);
        of.ok_or_else(|| Fault::unheard(format!("this server has no {place}")))
    }

    /// Calls that only read. Where the session has ended they are made again from their beginning, once: views and
    /// tokens of pages are gone with a session, and its key is another one.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub(crate) fn reading<T>(&mut self, calls: impl Fn(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        match calls(self) {
            Err(fault) if fault.is_not_authenticated() => {
                self.log_in()?;
                calls(self)
            }
            other => other,
        }
    }

    /// One call that only reads.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub(crate) fn look(&mut self, method: &str, this: &Ref, arguments: &str) -> Result<Vec<Element>, Fault> {
        self.send(method, this, arguments, LOOK)
    }

    fn send(
        &mut self,
        method: &str,
        this: &Ref,
        arguments: &str,
        within: Duration,
    ) -> Result<Vec<Element>, Fault> {
        let mut headers = vec![
            (header::CONTENT_TYPE, "text/xml; charset=utf-8".to_string()),
            (header::HeaderName::from_static("soapaction"), format!("urn:vim25/{}", self.version)),
        ];
        headers.extend(self.cookie.clone().map(|cookie| (header::COOKIE, cookie)));
        let body = envelope(method, this, arguments);
        let given = self.https.ask(&Method::POST, "/sdk", &headers, body, within)?;
        if let Some(cookie) = given.cookie {
            self.cookie = Some(cookie);
        }
        answer(given.status, &given.body).map_err(|fault| match fault.is_unheard() {
            true => Fault::unheard(format!("{}: {}", self.https.name(), fault.said.join(": "))),
            false => fault,
        })
    }
}

/// Sessions that are left count against the server's limit.
impl Drop for Session {
    fn drop(&mut self) {
        if self.key.is_empty() {
            return;
        }
        if let Ok(manager) = self.named("sessionManager") {
            let _ = self.send("Logout", &manager, "", Duration::from_secs(5));
        }
    }
}

/// The newest version that both know. The list is open to everybody; a server without one is old.
fn chosen(offered: &str) -> &'static str {
    let Ok(root) = parse(offered) else { return VERSIONS[VERSIONS.len() - 1] };
    let of_vim = |space: &&Element| space.child("name").is_some_and(|name| name.text == "urn:vim25");
    let Some(space) = root.all("namespace").find(of_vim) else { return VERSIONS[VERSIONS.len() - 1] };
    let versions: Vec<&str> = space
        .descendants()
        .filter(|element| element.name == "version")
        .map(|element| element.text.as_str())
        .collect();
    let known = VERSIONS.iter().find(|version| versions.contains(version));
    known.unwrap_or(&VERSIONS[VERSIONS.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_both_know_is_spoken() {
        let list = "<namespaces version=\"1.0\"><namespace><name>urn:vim25</name><version>uA046D008</version><priorVersions><version>8.0.2.0</version><version>7.0.3.0</version></priorVersions></namespace></namespaces>";
        assert_eq!(chosen(list), "8.0.2.0");
        assert_eq!(chosen("<html>"), "6.5");
        assert_eq!(chosen("<namespaces/>"), "6.5");
    }
}
