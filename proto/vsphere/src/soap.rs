//! Envelopes: a call is written element by element in the order of the schema, an answer is read into a tree. The
//! reader is core's: no entities of a document's own, bounded depth and number of elements.

use crate::fault::Fault;
use hyper::StatusCode;
use vsgpu_core::readers::xml::{Element, parse};
use vsgpu_core::text::piece;

/// A managed object: its type, and its id, which only the server makes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ref {
    /// `HostSystem`.
    pub kind: String,
    /// `host-14`.
    pub id: String,
}

impl Ref {
    /// Of an element that names one. Where it stands as a value of any type, it says that it is a reference first, and
    /// whose behind it.
    pub(crate) fn of(element: &Element) -> Option<Self> {
        let types = element.attributes.iter().filter(|(name, _)| name == "type").map(|(_, value)| value);
        let kind = types.rev().find(|kind| !kind.ends_with("ManagedObjectReference"))?;
        Some(Self { kind: kind.clone(), id: element.text.clone() })
    }
}

/// `<name>text</name>`.
pub(crate) fn text(name: &str, text: &str) -> String {
    format!("<{name}>{}</{name}>", escaped(text))
}

/// `<name>..</name>` around elements that are there already.
pub(crate) fn around(name: &str, inside: &str) -> String {
    format!("<{name}>{inside}</{name}>")
}

/// The same with the type that the schema leaves open.
pub(crate) fn typed(name: &str, kind: &str, inside: &str) -> String {
    format!("<{name} xsi:type=\"{}\">{inside}</{name}>", escaped(kind))
}

/// A managed object as an argument.
pub(crate) fn object(name: &str, of: &Ref) -> String {
    format!("<{name} type=\"{}\">{}</{name}>", escaped(&of.kind), escaped(&of.id))
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML has no way to write the others.
            c if c < ' ' && !matches!(c, '\t' | '\n') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// The whole of a call.
pub(crate) fn envelope(method: &str, this: &Ref, arguments: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body><{method} xmlns=\"urn:vim25\">{}{arguments}</{method}></soapenv:Body></soapenv:Envelope>",
        object("_this", this)
    )
}

/// What a call gave: the elements `returnval`, or its fault.
pub(crate) fn answer(status: StatusCode, body: &str) -> Result<Vec<Element>, Fault> {
    if status != StatusCode::OK && status != StatusCode::INTERNAL_SERVER_ERROR {
        return Err(Fault::unheard(match status.as_u16() {
            503 => "the server answers 503: it starts, or has too many sessions (see its list of sessions)"
                .into(),
            301..=308 => {
                "the server sends us elsewhere: `vcenter` must be the name of vCenter itself".to_string()
            }
            code => format!("this is no vCenter or ESXi: /sdk answers with HTTP status {code}"),
        }));
    }
    let root = parse(body).map_err(|why| Fault::unheard(format!("no answer of the API: {why}")))?;
    let content = root.child("Body").and_then(|body| body.children.first());
    match content {
        Some(fault) if fault.name == "Fault" => Err(Fault::of_body(fault)),
        Some(_) if status != StatusCode::OK => Err(Fault::unheard("status 500 without a fault")),
        Some(response) => Ok(response.all("returnval").cloned().collect()),
        None => Err(Fault::unheard(format!("no answer of the API, but `{}`", piece(&root.name, 60)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_escaped_and_what_comes_is_read() {
        let login = envelope(
            "Login",
            &Ref { kind: "SessionManager".into(), id: "SessionManager".into() },
            &(text("userName", "a<b&\"c\"") + &text("password", "]]>\u{1}")),
        );
        assert!(
            login
                .contains("<userName>a&lt;b&amp;&quot;c&quot;</userName><password>]]&gt;\u{fffd}</password>")
        );
        assert!(parse(&login).is_ok());
        // A reference as a value of any type, with any prefix.
        let value = parse("<val xmlns:q=\"http://www.w3.org/2001/XMLSchema-instance\" q:type=\"ManagedObjectReference\" type=\"Folder\">group-d1</val>").unwrap();
        assert_eq!(Ref::of(&value), Some(Ref { kind: "Folder".into(), id: "group-d1".into() }));
        for (status, body, words) in [
            (StatusCode::SERVICE_UNAVAILABLE, "", "503"),
            (StatusCode::FOUND, "", "elsewhere"),
            (StatusCode::OK, "<html><body>login</body></html>", "no answer of the API"),
            (StatusCode::OK, "<a", "cut off or broken"),
        ] {
            assert!(answer(status, body).unwrap_err().to_string().contains(words), "{body}");
        }
    }
}
