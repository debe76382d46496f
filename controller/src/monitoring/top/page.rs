//! A page of metrics as the exporter serves it, read back.

use std::collections::BTreeMap;

pub(super) type Labels = BTreeMap<String, String>;

/// All series of a page, by name and by the node they are of (none: the fleet's), so that a look at one node
/// is one at its own.
pub(super) struct Page(BTreeMap<String, BTreeMap<String, Vec<(Labels, f64)>>>);

impl Page {
    pub(super) fn read(text: &str) -> Self {
        let mut all: BTreeMap<String, BTreeMap<String, Vec<(Labels, f64)>>> = BTreeMap::new();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let name = name.strip_prefix("vsgpu_").unwrap_or(name);
            let labels = labels_of(labels.trim_end_matches('}'));
            let node = labels.get("node").cloned().unwrap_or_default();
            all.entry(name.into()).or_default().entry(node).or_default().push((labels, value));
        }
        Self(all)
    }

    pub(super) fn of(&self, name: &str) -> impl Iterator<Item = &(Labels, f64)> {
        self.0.get(name).into_iter().flat_map(|nodes| nodes.values().flatten())
    }

    /// Those of one node.
    pub(super) fn of_node(&self, name: &str, node: &str) -> impl Iterator<Item = &(Labels, f64)> {
        self.0.get(name).and_then(|nodes| nodes.get(node)).into_iter().flatten()
    }

    /// The first value whose labels are these.
    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.all(name, labels)?.first().copied()
    }

    /// All of them, if there are any.
    pub(super) fn all(&self, name: &str, labels: &[(&str, &str)]) -> Option<Vec<f64>> {
        let fits = |l: &Labels| labels.iter().all(|(key, value)| l.get(*key).is_some_and(|v| v == value));
        let node = labels.iter().find(|(key, _)| *key == "node").map_or("", |(_, node)| node);
        let all: Vec<f64> =
            self.of_node(name, node).filter(|(l, _)| fits(l)).map(|(_, value)| *value).collect();
        (!all.is_empty()).then_some(all)
    }
}

/// `a="x",b="y"`, with `\"`, `\\` and `\n` inside.
fn labels_of(text: &str) -> Labels {
    let mut labels = Labels::new();
    let mut chars = text.chars().peekable();
    loop {
        let name: String = chars.by_ref().take_while(|c| *c != '=').collect();
        if name.is_empty() || chars.next() != Some('"') {
            return labels;
        }
        let mut value = String::new();
        while let Some(c) = chars.next() {
            match c {
                '"' => break,
                '\\' => value.extend(chars.next().map(|c| if c == 'n' { ' ' } else { c })),
                c => value.push(if c.is_control() { ' ' } else { c }),
            }
        }
        labels.insert(name, vsgpu_core::text::piece(&value, 200));
        if chars.peek() == Some(&',') {
            chars.next();
        }
    }
}
