//! The one reader of XML: what esxcli and nvidia-smi print, and the descriptors inside of packages. All of it
//! may be hostile, so the tree is built from a stream of tokens, without recursion, and its depth and its
//! number of elements are bounded.
//!
//! Deliberately absent: namespaces (a prefix is cut off) and entities of a document's own. No tool that we
//! read uses either, and both are how a small file becomes hours of work.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};

/// Deeper than any tool prints (nvidia-smi: 7); a bound for whoever walks the tree.
pub const MAX_DEPTH: usize = 64;
/// Elements of one document. nvidia-smi prints some thousands for each GPU.
const MAX_ELEMENTS: usize = 300_000;
/// Attributes of one element.
const MAX_ATTRIBUTES: usize = 64;

/// An element with what stands below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Its name, without a prefix.
    pub name: String,
    /// Its own text, trimmed; empty where it has none.
    pub text: String,
    /// Attributes in their order.
    pub attributes: Vec<(String, String)>,
    /// Elements below it, in their order.
    pub children: Vec<Element>,
}

impl Element {
    /// First child of this name.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|c| c.name == name)
    }

    /// Children of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |c| c.name == name)
    }

    /// An attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// This element and all below it, in the order of the document.
    pub fn descendants(&self) -> impl Iterator<Item = &Element> {
        let mut next = vec![self];
        std::iter::from_fn(move || {
            let element = next.pop()?;
            next.extend(element.children.iter().rev());
            Some(element)
        })
    }
}

/// Reads one document. A DTD that is only named (nvidia-smi does that) is passed over.
///
/// # Errors
/// In words: where it is cut off or broken, and which bound it breaks.
pub fn parse(text: &str) -> Result<Element, String> {
    let mut reader = Reader::from_str(text.trim());
    let mut open: Vec<Element> = vec![];
    let (mut root, mut elements) = (None, 0);
    loop {
        let event = reader.read_event().map_err(|e| broken(&e))?;
        match event {
            Event::Start(_) | Event::Empty(_) if root.is_some() && open.is_empty() => {
                return Err(broken(&"a second document follows"));
            }
            Event::Start(start) => {
                count(&mut elements)?;
                if open.len() >= MAX_DEPTH {
                    return Err(format!("the XML is nested deeper than {MAX_DEPTH} levels"));
                }
                open.push(element(&start)?);
            }
            Event::Empty(start) => {
                count(&mut elements)?;
                close(element(&start)?, &mut open, &mut root);
            }
            Event::End(_) => match open.pop() {
                Some(element) => close(element, &mut open, &mut root),
                None => return Err(broken(&"an element ends that did not begin")),
            },
            Event::Text(piece) => match open.last_mut() {
                Some(element) => element.text.push_str(&piece),
                None if piece.trim().is_empty() => {}
                None => return Err(broken(&"there is text outside of the document")),
            },
            Event::CData(piece) => {
                open.last_mut()
                    .ok_or_else(|| broken(&"there is text outside of the document"))?
                    .text
                    .push_str(&piece);
            }
            Event::GeneralRef(name) => {
                let character = name.resolve_char_ref().map_err(|e| broken(&e))?;
                let element =
                    open.last_mut().ok_or_else(|| broken(&"there is text outside of the document"))?;
                match (character, resolve_predefined_entity(&name)) {
                    (Some(character), _) => element.text.push(character),
                    (None, Some(text)) => element.text.push_str(text),
                    (None, None) => {
                        return Err(broken(&format_args!("the entity `{}` is not known", &*name)));
                    }
                }
            }
            Event::Decl(_) | Event::PI(_) | Event::DocType(_) | Event::Comment(_) => {}
            Event::Eof => break,
        }
    }
    match (root, open.last()) {
        (Some(root), None) => Ok(root),
        (_, Some(element)) => Err(broken(&format_args!("`{}` does not end", element.name))),
        (None, None) => Err(broken(&"there is no document")),
    }
}

/// A name in the document may be as long as the document.
fn broken(why: &dyn std::fmt::Display) -> String {
    format!("the XML is cut off or broken: {}", why.to_string().chars().take(200).collect::<String>())
}

fn count(elements: &mut usize) -> Result<(), String> {
    *elements += 1;
    if *elements > MAX_ELEMENTS {
        Err(format!("the XML has more than {MAX_ELEMENTS} elements"))
    } else {
        Ok(())
    }
}

fn element(start: &BytesStart<'_>) -> Result<Element, String> {
    let mut attributes = vec![];
    for attribute in start.attributes().with_checks(false) {
        let attribute = attribute.map_err(|e| broken(&e))?;
        if attributes.len() >= MAX_ATTRIBUTES {
            return Err(format!("an element of the XML has more than {MAX_ATTRIBUTES} attributes"));
        }
        let value = quick_xml::escape::unescape(&attribute.value).map_err(|e| broken(&e))?;
        attributes.push((attribute.key.local_name().as_ref().into(), value.into_owned()));
    }
    Ok(Element { name: start.local_name().as_ref().into(), attributes, ..Element::default() })
}

fn close(mut element: Element, open: &mut [Element], root: &mut Option<Element>) {
    let trimmed = element.text.trim();
    if trimmed.len() != element.text.len() {
        element.text = trimmed.into();
    }
    match open.last_mut() {
        Some(parent) => parent.children.push(element),
        None => *root = Some(element),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_have_names_texts_and_attributes() {
        let root =
            parse("<?xml version=\"1.0\"?><!DOCTYPE a SYSTEM \"a.dtd\"><a:a b=\"x &amp; &#65;\"> t <!-- c --><c/>&lt;<c>u</c></a:a>\n")
                .unwrap();
        assert_eq!(
            (root.name.as_str(), root.attribute("b"), root.text.as_str()),
            ("a", Some("x & A"), "t <")
        );
        assert_eq!(root.all("c").map(|c| c.text.as_str()).collect::<Vec<_>>(), ["", "u"]);
        assert_eq!(root.descendants().count(), 3);
    }

    #[test]
    fn what_is_cut_off_or_broken_is_said() {
        for text in [
            "",
            "text",
            "<a>",
            "<a><b></a></b>",
            "<a/><b/>",
            "</a>",
            "<a>&x;</a>",
            "<a",
            "<a b=>",
            "<a/>text",
            "<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    /// Each of these ended the process, or took it minutes, with a reader that recurses or resolves
    /// namespaces.
    #[test]
    fn hostile_documents_are_refused_at_once() {
        for n in [20_000, 200_000, 1_000_000] {
            let deep = "<a>".repeat(n);
            assert!(parse(&deep).unwrap_err().contains("deeper than 64"));
            assert!(parse(&format!("{deep}{}", "</a>".repeat(n))).unwrap_err().contains("deeper than 64"));
            assert!(parse(&format!("<!DOCTYPE a [<!ENTITY x \"{deep}\">]><a>&x;</a>")).is_err());
            let spaced: String = (0..n.min(50_000)).map(|n| format!("<a xmlns:a{n}=\"u{n}\">")).collect();
            assert!(parse(&spaced).unwrap_err().contains("deeper than 64"));
            let wide: String = (0..n.min(200_000)).map(|n| format!(" a{n}=\"\"")).collect();
            assert!(parse(&format!("<a{wide}/>")).unwrap_err().contains("64 attributes"));
        }
        assert!(parse(&format!("<a>{}</a>", "<b/>".repeat(400_000))).unwrap_err().contains("elements"));
    }
}
