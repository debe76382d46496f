//! YAML with positions. The parser is a library; this keeps line and column beside every key and value.
//!
//! Deliberately absent: anchors, aliases, tags and merge keys (a fleet file has `defaults`), and YAML's
//! number games: only plain integers become numbers, so that a release `16.10` stays `16.10`.

use crate::error::{Error, Kind, Place};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// A value with its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    pub data: Data,
}

/// What a value is.
#[derive(Clone, Debug)]
pub enum Data {
    /// Text, number, boolean or null.
    Scalar(Value),
    List(Vec<Node>),
    /// Keys with their places, in order.
    Map(Vec<(Key, Node)>),
}

/// A key with its place.
#[derive(Clone, Debug)]
pub struct Key {
    pub name: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
}

/// Deeper than any fleet file; a bound for the stack.
const MAX_DEPTH: usize = 32;

/// Parses one document.
///
/// # Errors
/// With line and column.
pub fn parse(file: &str, text: &str) -> Result<Node, Error> {
    let mut reader = Reader { file, events: Parser::new_from_str(text), depth: 0 };
    reader.skip(|e| matches!(e, Event::StreamStart | Event::DocumentStart(_)))
}

/// Reads one document as a type.
///
/// # Errors
/// With line and column.
pub fn read<T: serde::de::DeserializeOwned>(file: &str, text: &str) -> Result<T, Error> {
    let node = parse(file, text)?;
    serde_path_to_error::deserialize(node.to_json()).map_err(|e| {
        let path: Vec<String> = e.path().iter().map(ToString::to_string).collect();
        Error::new(Kind::Usage, e.inner().to_string()).at(node.place(file, &path, false))
    })
}

struct Reader<'a> {
    file: &'a str,
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&self, at: &Marker, why: impl Into<String>) -> Error {
        Error::new(Kind::Usage, why).code("fleet-file").at(Place {
            file: self.file.into(),
            line: at.line(),
            column: at.col() + 1,
        })
    }

    fn next(&mut self) -> Result<(Event<'a>, Marker), Error> {
        match self.events.next_event() {
            Some(Ok((event, span))) => Ok((event, span.start)),
            Some(Err(e)) => Err(self.wrong(e.marker(), format!("this is not YAML: {}", e.info()))),
            None => {
                Err(Error::new(Kind::Usage, format!("{}: the file is empty", self.file)).code("fleet-file"))
            }
        }
    }

    fn skip(&mut self, over: impl Fn(&Event) -> bool) -> Result<Node, Error> {
        loop {
            let (event, at) = self.next()?;
            if !over(&event) {
                return self.node(event, at);
            }
        }
    }

    fn node(&mut self, event: Event<'a>, at: Marker) -> Result<Node, Error> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.wrong(&at, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let data = match event {
            Event::Scalar(text, style, anchor, tag) => {
                if anchor != 0 || tag.is_some() {
                    return Err(self
                        .wrong(&at, "anchors and tags are not understood here")
                        .hint("say common things once under `defaults:`"));
                }
                Data::Scalar(scalar(&text, style))
            }
            Event::SequenceStart(..) => {
                let mut items = vec![];
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break Data::List(items),
                        (event, at) => items.push(self.node(event, at)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut pairs: Vec<(Key, Node)> = vec![];
                let mut lines: HashMap<String, usize> = HashMap::new();
                loop {
                    let (event, at) = self.next()?;
                    let name = match event {
                        Event::MappingEnd => break Data::Map(pairs),
                        Event::Scalar(text, ..) => text.into_owned(),
                        _ => return Err(self.wrong(&at, "a key must be plain text")),
                    };
                    if let Some(first) = lines.insert(name.clone(), at.line()) {
                        return Err(self
                            .wrong(&at, format!("`{name}` appears twice"))
                            .detail(format!("first in line {first}")));
                    }
                    let (event, value_at) = self.next()?;
                    let value = self.node(event, value_at)?;
                    pairs.push((Key { name, line: at.line(), column: at.col() + 1 }, value));
                }
            }
            Event::Alias(_) => {
                return Err(self
                    .wrong(&at, "aliases are not understood here")
                    .hint("say common things once under `defaults:`"));
            }
            Event::StreamEnd | Event::DocumentEnd => {
                return Err(
                    Error::new(Kind::Usage, format!("{}: the file is empty", self.file)).code("fleet-file")
                );
            }
            _ => return Err(self.wrong(&at, "this is not understood here")),
        };
        self.depth -= 1;
        Ok(Node { line: at.line(), column: at.col() + 1, data })
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return text.into();
    }
    match text {
        "" | "~" | "null" => Value::Null,
        "true" | "false" => Value::Bool(text == "true"),
        _ => match text.parse::<i64>() {
            Ok(number)
                if !text.starts_with('+')
                    && (text == "0" || !text.trim_start_matches('-').starts_with('0')) =>
            {
                number.into()
            }
            _ => text.into(),
        },
    }
}

impl Node {
    /// As a JSON value.
    pub fn to_json(&self) -> Value {
        match &self.data {
            Data::Scalar(value) => value.clone(),
            Data::List(items) => items.iter().map(Self::to_json).collect(),
            Data::Map(pairs) => pairs
                .iter()
                .map(|(key, node)| (key.name.clone(), node.to_json()))
                .collect::<Map<_, _>>()
                .into(),
        }
    }

    /// The place of the first text below this one that reads so.
    pub fn find(&self, text: &str) -> Option<(usize, usize)> {
        match &self.data {
            Data::Scalar(value) => (value.as_str() == Some(text)).then_some((self.line, self.column)),
            Data::List(items) => items.iter().find_map(|item| item.find(text)),
            Data::Map(pairs) => pairs.iter().find_map(|(_, value)| value.find(text)),
        }
    }

    /// The place of a value below this one (or of its key), as near as it can be found.
    pub fn place(&self, file: &str, path: &[String], at_key: bool) -> Place {
        let mut node = self;
        let mut place = (self.line, self.column);
        for (at, step) in path.iter().enumerate() {
            match &node.data {
                Data::Map(pairs) => match pairs.iter().find(|(key, _)| key.name == *step) {
                    Some((key, value)) => {
                        place = if at_key && at + 1 == path.len() {
                            (key.line, key.column)
                        } else {
                            (value.line, value.column)
                        };
                        node = value;
                    }
                    None => break,
                },
                Data::List(items) => {
                    match step.trim_matches(['[', ']']).parse::<usize>().ok().and_then(|i| items.get(i)) {
                        Some(item) => {
                            place = (item.line, item.column);
                            node = item;
                        }
                        None => break,
                    }
                }
                Data::Scalar(_) => break,
            }
        }
        Place { file: file.into(), line: place.0, column: place.1 }
    }
}

/// Writes a JSON value as YAML, for `export`. Text that YAML could misread is quoted as JSON quotes it.
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    emit(value, 0, &mut out);
    // Inside of quotes only, where these escapes are YAML's, too.
    vsgpu_core::text::visible(&out).into_owned()
}

fn emit(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let nested = matches!(value, Value::Object(m) if !m.is_empty())
                    || matches!(value, Value::Array(a) if !a.is_empty());
                out.push_str(&format!("{pad}{}:{}", word(key), if nested { "\n" } else { " " }));
                emit(value, indent + 2, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                if matches!(item, Value::Object(m) if !m.is_empty()) {
                    let mut block = String::new();
                    emit(item, indent + 2, &mut block);
                    // The first key stands behind the dash.
                    block.replace_range(indent..indent + 1, "-");
                    out.push_str(&block);
                    continue;
                }
                // JSON is YAML: other items of lists stay on one line.
                out.push_str(&format!("{pad}- {}\n", item.as_str().map_or_else(|| item.to_string(), word)));
            }
        }
        Value::String(text) => out.push_str(&format!("{}\n", word(text))),
        other => out.push_str(&format!("{other}\n")),
    }
}

fn word(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    let special = matches!(text, "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n");
    if plain && !special { text.into() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_lines_and_columns_as_editors_count_them() {
        let node = parse("f.yaml", "a:\n  b: [1, 16.10]\n  c: 'x'\n").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(node.to_json(), serde_json::json!({"a": {"b": [1, "16.10"], "c": "x"}}));
        let path = |p: &[&str]| p.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        assert_eq!(node.place("f.yaml", &path(&["a", "c"]), false).to_string(), "f.yaml:3:6");
        assert_eq!(node.place("f.yaml", &path(&["a", "c"]), true).to_string(), "f.yaml:3:3");
        assert_eq!(node.place("f.yaml", &path(&["a", "b", "1"]), false).to_string(), "f.yaml:2:10");
    }

    #[test]
    fn what_is_no_fleet_file_is_said_with_its_place() {
        for (text, place) in
            [("a: 1\na: 2\n", "f:2:1"), ("a: [1\n", "f:2:1"), ("a: &x 1\n", "f:1:7"), ("a: *x\n", "f:1:4")]
        {
            let error = parse("f", text).err().unwrap_or_else(|| panic!("{text}"));
            assert_eq!(
                error.place.map(|p| p.to_string()).as_deref(),
                Some(place),
                "{text}: {}",
                error.message
            );
        }
        assert!(parse("f", "").is_err() && parse("f", &"[".repeat(100_000)).is_err());
    }

    #[test]
    fn what_is_written_reads_back() {
        let value = serde_json::json!({"hosts": {"esx-01": {"graphics-type": "Shared", "n": 3, "s": "16.10", "l": ["a b", "on"], "e": {}, "t": "on"}}});
        assert_eq!(parse("f", &write(&value)).map(|n| n.to_json()).ok(), Some(value));
    }
}
