//! One tree for the two shapes of `nvidia-smi -q`: the XML of `-x` and the indented text. Names are compared
//! without case, blanks and underscores, so `<fb_memory_usage>` and `FB Memory Usage` are one name and every
//! reader is written once.

/// A named value with what stands below it.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub name: String,
    pub value: String,
    pub children: Vec<Node>,
}

pub(crate) fn squeezed(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

impl Node {
    /// First child of one of these names (written squeezed).
    pub fn child(&self, names: &[&str]) -> Option<&Node> {
        names.iter().find_map(|name| self.children.iter().find(|c| c.name == *name))
    }

    /// Usable value found along a path; the words for "not available" are no value.
    pub fn get(&self, path: &[&[&str]]) -> Option<&str> {
        let mut node = self;
        for names in path {
            node = node.child(names)?;
        }
        usable(&node.value)
    }
}

/// `None` for what the tool prints where it knows nothing.
pub(crate) fn usable(value: &str) -> Option<&str> {
    let value = value.trim();
    let inner = value.trim_start_matches('[').trim_end_matches(']');
    let nothing = [
        "",
        "N/A",
        "ERR!",
        "Unknown Error",
        "Not Found",
        "Not Supported",
        "Insufficient Permissions",
        "GPU requires reset",
    ];
    (!nothing.contains(&inner) && !inner.starts_with("Requested functionality")).then_some(value)
}

/// Reads XML. A DTD is allowed (the tool prints one); text before the document (a prompt, a command line) is
/// skipped.
pub(crate) fn from_xml(text: &str, root: &str) -> Result<Node, String> {
    let start = ["<?xml", "<!DOCTYPE", root]
        .iter()
        .filter_map(|mark| text.find(mark))
        .min()
        .ok_or(format!("there is no {root}> document"))?;
    // Warnings may follow the document on the same stream.
    let close = format!("</{}>", root.trim_start_matches('<'));
    let end = text.rfind(&close).map_or(text.len(), |at| at + close.len());
    if end <= start {
        return Err(format!("there is no {root}> document"));
    }
    let document = crate::readers::xml::parse(&text[start..end])?;
    fn node(element: crate::readers::xml::Element) -> Node {
        let crate::readers::xml::Element { name, text, attributes, children } = element;
        // Attributes are children too: `<gpu id="..">`, `<field name="..">`.
        let attributes = attributes.into_iter().map(|(name, value)| Node {
            name: squeezed(&name),
            value,
            children: vec![],
        });
        // The reader bounds the depth.
        Node {
            name: squeezed(&name),
            value: text,
            children: attributes.chain(children.into_iter().map(node)).collect(),
        }
    }
    Ok(node(document))
}

/// Reads indented `Key : value` text. Deeper lines belong to the nearest line above that is less deep.
pub(crate) fn from_text(text: &str) -> Node {
    let mut stack: Vec<(isize, Node)> = vec![(-1, Node::default())];
    let close = |stack: &mut Vec<(isize, Node)>, indent: isize| {
        while stack.len() > 1 && stack.last().is_some_and(|(i, _)| *i >= indent) {
            if let (Some((_, node)), Some((_, parent))) = (stack.pop(), stack.last_mut()) {
                parent.children.push(node);
            }
        }
    };
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        let line = line.replace('\t', "    ");
        let indent = (line.len() - line.trim_start().len()) as isize;
        let (key, value) = match line.find(" :") {
            Some(at) if line[at + 2..].is_empty() || line[at + 2..].starts_with(' ') => {
                (&line[..at], line[at + 2..].trim())
            }
            _ => (line.trim_end(), ""),
        };
        close(&mut stack, indent);
        // Bound on depth: nothing that is indented 64 levels deep was printed by the tool.
        if stack.len() < 64 {
            let name = if key.trim_start().starts_with("GPU ") && value.is_empty() && key.contains('.') {
                key.trim().into()
            } else {
                squeezed(key)
            };
            stack.push((indent, Node { name, value: value.into(), children: vec![] }));
        }
    }
    close(&mut stack, 0);
    stack.swap_remove(0).1
}
