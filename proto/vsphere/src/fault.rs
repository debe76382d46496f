//! Why a call failed: the fault's type, its words, and those below it, where the cause often is (facts: vsphere-api
//! 3). Types are matched, never texts: those come in the session's language.

use std::fmt;
use vsgpu_core::readers::xml::Element;
use vsgpu_core::text::piece;

/// Characters of one text of a fault.
const MOST: usize = 300;
/// Faults below a fault.
const DEEPEST: usize = 4;

/// A call's failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// `InvalidLogin`, `NoPermission`; a word of ours where no server said it.
    pub kind: String,
    /// What it says, and what the faults below it say.
    pub said: Vec<String>,
    /// The privilege that is missing, where that is what it says.
    pub privilege: Option<String>,
}

impl Fault {
    /// A failure in words of ours: the server answers, and has not what is needed, or nothing was sent.
    pub fn said(why: impl Into<String>) -> Self {
        Self { kind: OURS.into(), said: vec![why.into()], privilege: None }
    }

    /// The server was not heard.
    pub(crate) fn unheard(why: impl Into<String>) -> Self {
        Self { kind: UNHEARD.into(), said: vec![why.into()], privilege: None }
    }

    /// A session that has ended, where no fault says so.
    pub(crate) fn ended() -> Self {
        Self { kind: "NotAuthenticated".into(), said: vec![], privilege: None }
    }

    /// Whether the session has ended; whoever asks again logs in first.
    pub fn is_not_authenticated(&self) -> bool {
        self.kind == "NotAuthenticated"
    }

    /// Whether it may be of one object among those that were asked of, and not of the server or of the session.
    pub fn may_be_of_one(&self) -> bool {
        ![UNHEARD, OURS, "NotAuthenticated", "InvalidLogin", "SystemError"].contains(&self.kind.as_str())
    }

    /// Whether nothing was heard from the server: the call may have had its effect all the same.
    pub fn is_unheard(&self) -> bool {
        self.kind == UNHEARD
    }

    /// Of the body of an answer with status 500.
    pub(crate) fn of_body(fault: &Element) -> Self {
        let words = fault.child("faultstring").map(|e| piece(&e.text, MOST)).filter(|text| !text.is_empty());
        let detail = fault.child("detail").and_then(|detail| detail.children.first());
        let mut read = detail.map(Self::of).unwrap_or_default();
        if read.kind.is_empty() {
            read.kind = fault.child("faultcode").map_or("fault".into(), |code| piece(&code.text, 100));
        }
        read.said.splice(0..0, words);
        read.said.dedup();
        read
    }

    /// Of a `LocalizedMethodFault`: a missing property's, or a task's.
    pub(crate) fn localized(of: &Element) -> Self {
        let mut read = of.child("fault").map(Self::of).unwrap_or_default();
        let words =
            of.child("localizedMessage").map(|e| piece(&e.text, MOST)).filter(|text| !text.is_empty());
        read.said.splice(0..0, words);
        read.said.dedup();
        read
    }

    /// Of the fault's own element: its type, and what is below it.
    pub(crate) fn of(element: &Element) -> Self {
        let name = element.name.strip_suffix("Fault").unwrap_or(&element.name);
        let kind = element.attribute("type").map_or(name, |kind| kind.rsplit(':').next().unwrap_or(kind));
        let mut said = vec![];
        let mut next = Some(element);
        for _ in 0..DEEPEST {
            let Some(here) = next else { break };
            let messages = here.all("faultMessage").filter_map(|message| message.child("message"));
            said.extend(messages.map(|message| piece(&message.text, MOST)));
            next = here.child("faultCause").and_then(|cause| {
                said.extend(cause.child("localizedMessage").map(|words| piece(&words.text, MOST)));
                cause.child("fault")
            });
        }
        said.retain(|text| !text.is_empty());
        let privilege = element.child("privilegeId").map(|id| piece(&id.text, 100));
        Self { kind: piece(kind, 100), said, privilege: privilege.filter(|_| kind == "NoPermission") }
    }
}

const UNHEARD: &str = "no answer";
const OURS: &str = "vsgpu";

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of a failure without a server's type there are only the words.
        if [UNHEARD, OURS].contains(&self.kind.as_str()) {
            return f.write_str(&self.said.join(": "));
        }
        f.write_str(&self.kind)?;
        for text in &self.said {
            write!(f, ": {text}")?;
        }
        match &self.privilege {
            Some(privilege) => write!(f, " (the privilege {privilege} is missing)"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsgpu_core::readers::xml::parse;

    #[test]
    fn the_cause_below_is_kept() {
        let xml = r#"<Fault><faultcode>ServerFaultCode</faultcode><faultstring>A general error occurred.</faultstring><detail><InvalidVmConfigFault xmlns="urn:vim25" xmlns:i="http://www.w3.org/2001/XMLSchema-instance" i:type="InvalidVmConfig"><faultCause><fault i:type="GenericVmConfigFault"/><localizedMessage>Invalid memory setting.</localizedMessage></faultCause><faultMessage><key>k</key><message>memory reservation is not the size</message></faultMessage></InvalidVmConfigFault></detail></Fault>"#;
        let fault = Fault::of_body(&parse(xml).unwrap());
        assert_eq!(
            fault.to_string(),
            "InvalidVmConfig: A general error occurred.: memory reservation is not the size: Invalid memory setting."
        );
        let xml = r#"<Fault><faultstring>Permission to perform this operation was denied.</faultstring><detail><NoPermissionFault type="NoPermission"><object type="HostSystem">host-14</object><privilegeId>Host.Config.Image</privilegeId></NoPermissionFault></detail></Fault>"#;
        let fault = Fault::of_body(&parse(xml).unwrap());
        assert_eq!(fault.privilege.as_deref(), Some("Host.Config.Image"));
        let fault = Fault::localized(
            &parse(r#"<fault><fault type="NotAuthenticated"><privilegeId>System.View</privilegeId></fault><localizedMessage/></fault>"#)
                .unwrap(),
        );
        assert!(fault.is_not_authenticated() && fault.privilege.is_none());
    }
}
