//! A session: which version both sides know, who is logged in, and the calls made in it. One that ended is begun again
//! once; a call that was not heard is not repeated.

use crate::fault::Fault;
use crate::https::Https;
use crate::sending::Sending;
use crate::soap::{Ref, answer, envelope, text};
use crate::trust::Trust;
use hyper::{Method, StatusCode, header};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vsgpu_core::readers::xml::{Element, parse};
use vsgpu_core::text::piece;

/// Bytes of a file, at most.
const MOST_FILE: u64 = 16 << 30;
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
    pub password: Box<dyn Fn() -> Result<String, String> + Send + Sync>,
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
    /// vCenter's own id; none of a host.
    pub instance: Option<String>,
}

/// A session that is logged in, and one connection in it. Several connections may share one session: each login is an
/// event in vCenter's database, and sessions are counted.
pub struct Session {
    pub(crate) https: Https,
    pub(crate) shared: Arc<Shared>,
}

/// A session without a connection, for more of them.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

pub(crate) struct Shared {
    address: String,
    trust: Option<Trust>,
    pub(crate) account: Account,
    version: &'static str,
    /// Asked again with each login: it may be upgraded meanwhile.
    about: Mutex<About>,
    /// What the server's own content names.
    content: Element,
    login: Mutex<Login>,
    /// The session of the other API, `/api`, or why there is none: nothing before it is needed.
    pub(crate) rest: Mutex<Option<Result<String, (Instant, Fault)>>>,
    connections: AtomicUsize,
}

#[derive(Default)]
struct Login {
    cookie: Option<String>,
    key: String,
    /// Logins so far.
    count: u64,
    /// The server refused user or password: they are not sent again, each try counts towards the account's lock.
    refused: Option<Fault>,
}

/// The fault of a wrong user or password.
pub const REFUSED: &str = "InvalidLogin";
/// All that a server may say of an account that it does not let in.
const REFUSALS: [&str; 5] =
    [REFUSED, "PasswordExpired", "NoPermission", "RestrictedByAdministrator", "AccountLocked"];

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
        let offered =
            https.ask(&Method::GET, "/sdk/vimServiceVersions.xml", &[], Sending::nothing(), LOOK)?;
        let version = chosen(offered.text()?);
        let (content, _) =
            send(&mut https, (version, None), "RetrieveServiceContent", &instance(), "", LOOK)?;
        let content =
            content.into_iter().next().ok_or_else(|| Fault::unheard("the server says nothing of itself"))?;
        let about = about_of(&content);
        is_expected(&about).map_err(Fault::unheard)?;
        let about = Mutex::new(about);
        let shared = Shared {
            address: address.into(),
            trust: trust.cloned(),
            account,
            version,
            about,
            content,
            login: Mutex::default(),
            rest: Mutex::default(),
            connections: AtomicUsize::new(1),
        };
        let mut session = Self { https, shared: Arc::new(shared) };
        session.log_in(0)?;
        Ok(session)
    }

    /// What more connections are made of.
    pub fn handle(&self) -> Handle {
        Handle(self.shared.clone())
    }

    /// One more connection in a session. Where all before it are gone, it logs in with its first call.
    ///
    /// # Errors
    /// Where there is no runtime for it.
    pub fn beside(handle: &Handle) -> Result<Self, Fault> {
        let shared = handle.0.clone();
        let https = Https::new(&shared.address, shared.trust.as_ref()).map_err(Fault::unheard)?;
        shared.connections.fetch_add(1, Ordering::SeqCst);
        Ok(Self { https, shared })
    }

    fn login(&self) -> MutexGuard<'_, Login> {
        self.shared.login.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs in, where nobody did since there were `before` logins.
    fn log_in(&mut self, before: u64) -> Result<(), Fault> {
        let (shared, manager) = (self.shared.clone(), self.named("sessionManager")?);
        let mut login = shared.login.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(refused) = &login.refused {
            return Err(refused.clone());
        }
        if login.count != before {
            return Ok(());
        }
        if login.count > 0 {
            let content = send(
                &mut self.https,
                (shared.version, None),
                "RetrieveServiceContent",
                &instance(),
                "",
                LOOK,
            );
            if let Some(content) = content.ok().and_then(|(content, _)| content.into_iter().next()) {
                *shared.about.lock().unwrap_or_else(PoisonError::into_inner) = about_of(&content);
            }
        }
        let password = (shared.account.password)().map_err(Fault::unheard)?;
        // In English: labels and messages come in the session's language.
        let arguments =
            text("userName", &shared.account.user) + &text("password", &password) + &text("locale", "en");
        let given = send(&mut self.https, (shared.version, None), "Login", &manager, &arguments, LOOK);
        let (given, cookie) = given.map_err(|fault| match REFUSALS.contains(&fault.kind.as_str()) {
            // A server that starts says many things.
            false => fault,
            // A password that has expired, an account that may not: it is not tried again.
            true => {
                let said = if fault.kind == REFUSED { fault.said } else { vec![fault.to_string()] };
                let refused = Fault { kind: REFUSED.into(), said, privilege: None };
                login.refused = Some(refused.clone());
                refused
            }
        })?;
        let key = given.first().and_then(|session| session.child("key")).map(|key| key.text.clone());
        (login.key, login.cookie, login.count) = (key.unwrap_or_default(), cookie, before + 1);
        Ok(())
    }

    /// What the server says of itself.
    pub fn about(&self) -> About {
        self.shared.about.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The session's own key.
    pub(crate) fn key(&self) -> String {
        self.login().key.clone()
    }

    /// One of the server's managers, or its root folder, by its place in the content: ids differ between servers, so
    /// none is ever made here.
    ///
    /// # Errors
    /// Where this server has none.
    pub(crate) fn named(&self, place: &str) -> Result<Ref, Fault> {
        let of = self.shared.content.child(place).and_then(Ref::of);
        of.ok_or_else(|| Fault::unheard(format!("this server has no {place}")))
    }

    /// Calls that only read, or one that changes something. Where the session has ended they are made again from their
    /// beginning, once: views and tokens of pages are gone with a session, its key is another one, and a call that was
    /// refused for it did nothing.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub(crate) fn within_session<T>(
        &mut self,
        calls: impl Fn(&mut Self) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let before = self.login().count;
        match calls(self) {
            Err(fault) if fault.is_not_authenticated() => {
                self.log_in(before)?;
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
        self.call(method, this, arguments, LOOK)
    }

    /// The same for one that takes its time.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub(crate) fn long(
        &mut self,
        method: &str,
        this: &Ref,
        arguments: &str,
        within: Duration,
    ) -> Result<Vec<Element>, Fault> {
        self.within_session(|session| session.call(method, this, arguments, within))
    }

    /// A file, or the part of it that `range` says. A session that has ended is begun again once.
    ///
    /// # Errors
    /// Why the server is not heard.
    pub(crate) fn file(&mut self, uri: &str, range: &str) -> Result<(StatusCode, Vec<u8>), Fault> {
        self.within_session(|session| {
            let mut headers = vec![(header::RANGE, range.to_string())];
            headers.extend(session.cookie());
            let given = session.https.ask(&Method::GET, uri, &headers, Sending::nothing(), LOOK)?;
            unless_ended(given.status).map(|status| (status, given.body))
        })
    }

    /// Puts a file; the status of the answer. A session that has ended is begun again once.
    ///
    /// # Errors
    /// Why the server is not heard, or the file cannot be read.
    pub(crate) fn put(&mut self, uri: &str, from: &Path, within: Duration) -> Result<StatusCode, Fault> {
        self.within_session(|session| {
            let unread = |e: std::io::Error| Fault::said(format!("{}: {e}", from.display()));
            #[expect(
                clippy::disallowed_methods,
                reason = "a file of the gateway's own, read while it is sent"
            )]
            let file = std::fs::File::open(from).map_err(unread)?;
            let size = file.metadata().map_err(unread)?.len();
            let mut headers = vec![(header::CONTENT_TYPE, "application/octet-stream".to_string())];
            headers.extend(session.cookie());
            let given = session.https.ask(&Method::PUT, uri, &headers, Sending::File(file, size), within)?;
            // Answered before all of it was sent, the connection takes nothing else.
            if !given.status.is_success() {
                session.https.close();
            }
            unless_ended(given.status)
        })
    }

    /// SHA-256 of a file, which is read whole and not kept.
    ///
    /// # Errors
    /// Why the server is not heard.
    pub(crate) fn hash(&mut self, uri: &str, within: Duration) -> Result<(StatusCode, [u8; 32]), Fault> {
        self.within_session(|session| {
            let headers: Vec<_> = session.cookie().into_iter().collect();
            let begun = (Sha256::new(), 0);
            let (status, _, (sum, _)) = session.https.exchange(
                &Method::GET,
                uri,
                &headers,
                Sending::nothing(),
                within,
                begun,
                |(sum, size): &mut (Sha256, u64), piece| {
                    sum.update(piece);
                    *size += piece.len() as u64;
                    *size <= MOST_FILE
                },
            )?;
            unless_ended(status).map(|status| (status, sum.finalize().into()))
        })
    }

    /// The session, as files want it.
    fn cookie(&self) -> Option<(header::HeaderName, String)> {
        self.login().cookie.clone().map(|cookie| (header::COOKIE, cookie))
    }

    fn call(
        &mut self,
        method: &str,
        this: &Ref,
        arguments: &str,
        within: Duration,
    ) -> Result<Vec<Element>, Fault> {
        let (cookie, count) = {
            let login = self.login();
            (login.cookie.clone(), login.count)
        };
        let (given, newer) =
            send(&mut self.https, (self.shared.version, cookie), method, this, arguments, within)?;
        if newer.is_some() {
            let mut login = self.login();
            if login.count == count {
                login.cookie = newer;
            }
        }
        Ok(given)
    }
}

/// How files say that the session has ended.
fn unless_ended(status: StatusCode) -> Result<StatusCode, Fault> {
    if status == StatusCode::UNAUTHORIZED { Err(Fault::ended()) } else { Ok(status) }
}

/// What a server's content says of it.
fn about_of(content: &Element) -> About {
    let about = content.child("about").cloned().unwrap_or_default();
    let word = |name: &str| about.child(name).map(|e| piece(&e.text, 120)).unwrap_or_default();
    About {
        full_name: word("fullName"),
        is_vcenter: word("apiType") == "VirtualCenter",
        api: word("apiVersion"),
        instance: Some(word("instanceUuid")).filter(|id| !id.is_empty()),
    }
}

/// The one object whose id is the same everywhere.
pub(crate) fn instance() -> Ref {
    Ref { kind: "ServiceInstance".into(), id: "ServiceInstance".into() }
}

/// One call, with the version and the cookie of its session; a new cookie, where the server gives one.
fn send(
    https: &mut Https,
    (version, cookie): (&str, Option<String>),
    method: &str,
    this: &Ref,
    arguments: &str,
    within: Duration,
) -> Result<(Vec<Element>, Option<String>), Fault> {
    let mut headers = vec![
        (header::CONTENT_TYPE, "text/xml; charset=utf-8".to_string()),
        (header::HeaderName::from_static("soapaction"), format!("urn:vim25/{version}")),
    ];
    headers.extend(cookie.map(|cookie| (header::COOKIE, cookie)));
    let given =
        https.ask(&Method::POST, "/sdk", &headers, envelope(method, this, arguments).into(), within)?;
    let answer = given.text().and_then(|body| answer(given.status, body)).map_err(|fault| {
        match fault.is_unheard() {
            true => Fault::unheard(format!("{}: {}", https.name(), fault.said.join(": "))),
            false => fault,
        }
    })?;
    Ok((answer, given.cookie))
}

/// Sessions that are left count against the server's limit: the last connection takes its session with it.
impl Drop for Session {
    fn drop(&mut self) {
        let last = self.shared.connections.fetch_sub(1, Ordering::SeqCst) == 1;
        if !last || self.key().is_empty() {
            return;
        }
        self.log_out_of_rest();
        if let Ok(manager) = self.named("sessionManager") {
            let _ = self.call("Logout", &manager, "", Duration::from_secs(5));
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
