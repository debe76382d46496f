//! A page taken apart: its outline as text, and what every page must keep to.

use std::collections::BTreeSet;

/// Elements that have no end.
const VOID: [&str; 4] = ["meta", "link", "br", "input"];

#[derive(Debug, PartialEq)]
pub enum Piece {
    /// Name and attributes, a `/` in front of an end.
    Tag(String, Vec<(String, String)>),
    Text(String),
}

fn plain(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

/// The pieces of a page, in their order.
pub fn pieces(page: &str) -> Vec<Piece> {
    let mut all = vec![];
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let text = rest[..at].trim();
        if !text.is_empty() {
            all.push(Piece::Text(plain(text)));
        }
        let end = at + rest[at..].find('>').expect("a tag ends");
        let inside = &rest[at + 1..end];
        rest = &rest[end + 1..];
        let (name, mut more) = inside.split_once(' ').unwrap_or((inside, ""));
        let mut attributes = vec![];
        while !more.trim().is_empty() {
            more = more.trim_start();
            let stop = more.find([' ', '=']).unwrap_or(more.len());
            let key = more[..stop].to_string();
            more = &more[stop..];
            let mut value = String::new();
            if let Some(after) = more.strip_prefix("=\"") {
                let close = after.find('"').expect("a value ends");
                value = plain(&after[..close]);
                more = &after[close + 1..];
            }
            attributes.push((key, value));
        }
        all.push(Piece::Tag(name.to_lowercase(), attributes));
        if name == "style" {
            rest = &rest[rest.find("</style>").expect("a style sheet ends")..];
        }
    }
    all
}

/// What it says and how that is nested, a line each: elements that mean something, and text. Colours and places are left
/// out.
pub fn outline(page: &str) -> String {
    const SHOWN: [&str; 30] = [
        "title", "header", "nav", "main", "section", "article", "footer", "h1", "h2", "h3", "p", "a",
        "table", "caption", "tr", "th", "td", "ul", "li", "details", "summary", "form", "label", "input",
        "select", "option", "button", "svg", "code", "pre",
    ];
    let (mut out, mut depth) = (String::new(), 0usize);
    let mut line = |depth: usize, text: &str| out += &format!("{}{text}\n", "  ".repeat(depth));
    for piece in pieces(page) {
        match piece {
            Piece::Text(text) => line(depth, &text),
            Piece::Tag(name, _) if name.starts_with('/') => {
                depth -= usize::from(SHOWN.contains(&&name[1..]));
            }
            Piece::Tag(name, attributes) if SHOWN.contains(&name.as_str()) => {
                let of = |key: &str| {
                    attributes.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
                };
                let mut words = name.clone();
                for key in ["href", "aria-label", "id", "open", "scope", "for"] {
                    if let Some(value) = of(key) {
                        words += &format!(" {key}={value}");
                    }
                }
                line(depth, &words);
                depth += usize::from(!VOID.contains(&name.as_str()));
            }
            Piece::Tag(..) => {}
        }
    }
    out
}

/// What holds for every page. `alone`: a file that loads nothing.
pub fn sound(name: &str, page: &str, alone: bool) {
    let mut open: Vec<String> = vec![];
    let (mut ids, mut labels, mut last) = (BTreeSet::new(), vec![], 0);
    let mut headings = 0;
    for piece in pieces(page) {
        let Piece::Tag(tag, attributes) = piece else { continue };
        if tag == "!doctype" {
            continue;
        }
        if let Some(ended) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(ended), "{name}: ends that do not fit");
            continue;
        }
        let of =
            |key: &str| attributes.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str());
        for (key, value) in &attributes {
            assert!(!key.starts_with("on") && key != "style", "{name}: {tag} has {key}");
            let leads = ["href", "src", "action"].contains(&key.as_str());
            let own = value.starts_with('/') && !value.starts_with("//") || value.starts_with(['#', '?']);
            assert!(!leads || own, "{name}: {tag} leads to {value}");
        }
        assert!(
            !["script", "iframe", "object", "embed", "img", "base"].contains(&tag.as_str()),
            "{name}: {tag}"
        );
        assert!(!alone || tag != "link" && tag != "form", "{name}: {tag} in a file");
        if let Some(id) = of("id") {
            assert!(ids.insert(id.to_string()), "{name}: two have the id {id}");
        }
        labels.extend(of("for").into_iter().chain(of("aria-labelledby")).map(String::from));
        match tag.as_str() {
            "h1" | "h2" | "h3" => {
                let level: usize = tag[1..].parse().unwrap();
                assert!(level <= last + 1, "{name}: {tag} follows h{last}");
                headings += usize::from(level == 1);
                last = level;
            }
            // A picture has words, or says that it has none to say.
            "svg" if !open.iter().any(|outer| outer == "svg") => {
                assert!(
                    of("aria-label").is_some() && of("role") == Some("img")
                        || of("aria-hidden") == Some("true"),
                    "{name}: a picture without words"
                );
            }
            "html" => assert_eq!(of("lang"), Some("en"), "{name}"),
            "th" => assert!(of("scope").is_some(), "{name}: a heading of nothing"),
            _ => {}
        }
        if !VOID.contains(&tag.as_str()) {
            open.push(tag);
        }
    }
    assert!(open.is_empty(), "{name}: never ended: {open:?}");
    assert_eq!(headings, 1, "{name}: one first heading");
    assert_eq!(
        page.matches("<table").count(),
        page.matches("<caption").count(),
        "{name}: a table without a name"
    );
    for label in labels {
        assert!(ids.contains(&label), "{name}: nothing has the id {label}");
    }
    assert!(page.contains("<title>"), "{name}");
}
