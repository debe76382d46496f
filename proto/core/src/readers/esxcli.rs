//! Reader of esxcli's answers. The XML form (`--formatter=xml`) is asked for, the plain one is accepted as
//! well: headings with `Label: value` lines, or a table with a line of dashes. Field names are compared
//! without case and blanks, because the XML says `AdminStatus` and the plain form `Admin Status`. In core and
//! not in the host agent: the lab's tests and the planner's tests read the same answers.

use crate::readers::smi_tree::{Node, from_xml, squeezed, usable};

/// One block, row or structure: squeezed field names with their values in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The heading above a plain block (a PCI address, a NIC); empty otherwise.
    pub title: String,
    /// Fields. A list field has one entry per element.
    pub fields: Vec<(String, String)>,
}

impl Record {
    /// First usable value of a field; the name may be written any way.
    pub fn get(&self, name: &str) -> Option<&str> {
        let name = squeezed(name);
        self.fields.iter().find(|(field, _)| *field == name).and_then(|(_, value)| usable(value))
    }

    /// The field, or a sentence that it was missing.
    pub fn need(&self, name: &str) -> Result<&str, String> {
        self.get(name).ok_or_else(|| format!("the answer has no `{name}`"))
    }

    /// All values of a list field; the plain form separates them by `, `.
    pub fn list(&self, name: &str) -> Vec<String> {
        let name = squeezed(name);
        let values = self.fields.iter().filter(|(field, _)| *field == name);
        values
            .flat_map(|(_, value)| value.split(", "))
            .map(|v| v.trim().to_string())
            .filter(|v| !v.is_empty())
            .collect()
    }

    /// `true` or `false`.
    pub fn flag(&self, name: &str) -> Option<bool> {
        match self.get(name)?.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }
}

/// What esxcli says when it refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `AcceptanceConfigError` and the like, where it names one.
    pub class: Option<String>,
    /// Its words, blanks squeezed.
    pub text: String,
}

/// Recognises a refusal, in the shapes that were captured.
pub fn refusal(text: &str) -> Option<Refusal> {
    let squeezed_text = |t: &str| t.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    for (at, line) in lines.iter().enumerate() {
        let class = line.strip_prefix('[').and_then(|l| l.split_once(']'));
        if let Some((class, rest)) =
            class.filter(|(c, _)| c.ends_with("Error") && c.chars().all(|c| c.is_ascii_alphanumeric()))
        {
            let body: Vec<&str> = std::iter::once(rest)
                .chain(lines[at + 1..].iter().copied())
                .filter(|l| !l.starts_with("Please refer to the log"))
                .collect();
            return Some(Refusal { class: Some(class.into()), text: squeezed_text(&body.join(" ")) });
        }
        if let Some(rest) = line.strip_prefix("Error:") {
            let rest = rest.trim();
            // VxRail and scripts put the class behind the word: `Error: [DependencyError] ...` is handled
            // above, on its own line.
            let class = rest.strip_prefix('[').and_then(|l| l.split_once(']')).map(|(c, _)| c.to_string());
            return Some(Refusal {
                class,
                text: squeezed_text(&lines[at..].join(" ").replacen("Error:", "", 1)),
            });
        }
    }
    let known =
        ["Unable to find", "Connect to localhost failed", "Operation timed out", "Connection failure"];
    lines
        .iter()
        .find(|l| known.iter().any(|k| l.starts_with(k)))
        .map(|_| Refusal { class: None, text: squeezed_text(&lines.join(" ")) })
}

/// Reads an answer in either form.
///
/// # Errors
/// A sentence, where there is nothing to read or esxcli refused.
pub fn read(text: &str) -> Result<Vec<Record>, String> {
    if text.contains("<output") {
        return Ok(from_structures(&from_xml(text, "<output")?));
    }
    if let Some(refusal) = refusal(text) {
        return Err(refusal.text);
    }
    let lines: Vec<&str> = text.lines().collect();
    match lines.iter().position(|l| is_ruler(l)) {
        Some(at) if at > 0 => Ok(table(lines[at - 1], lines[at], &lines[at + 1..])),
        _ => match lines.iter().position(|l| l.starts_with("Name  ")) {
            // A table whose ruler was cut away (by grep, say): its header says where the columns are.
            Some(at) => Ok(table(lines[at], &ruler_of(lines[at]), &lines[at + 1..])),
            None => blocks(&lines),
        },
    }
}

fn from_structures(root: &Node) -> Vec<Record> {
    let mut records = vec![];
    fn walk(node: &Node, records: &mut Vec<Record>) {
        if node.name == "structure" {
            let mut record = Record::default();
            for field in node.children.iter().filter(|c| c.name == "field") {
                let name = squeezed(field.get(&[&["name"]]).unwrap_or_default());
                for value in field.children.iter().filter(|c| c.name != "name") {
                    let elements: Vec<&Node> = value.children.iter().filter(|c| c.name != "type").collect();
                    if value.name == "list" {
                        record.fields.extend(elements.iter().map(|e| (name.clone(), e.value.clone())));
                    } else {
                        record.fields.push((name.clone(), value.value.clone()));
                    }
                }
            }
            records.push(record);
            return;
        }
        // A bare value (`<root><string>..`) is a record of one nameless field: `system stats uptime get`
        // answers so.
        if ["string", "integer", "long", "boolean"].contains(&node.name.as_str()) && !node.value.is_empty() {
            records.push(Record { title: node.value.clone(), fields: vec![] });
        }
        node.children.iter().for_each(|c| walk(c, records));
    }
    walk(root, &mut records);
    records
}

fn is_ruler(line: &str) -> bool {
    let line = line.trim();
    line.starts_with("--") && line.chars().all(|c| c == '-' || c == ' ')
}

/// The ruler that would stand below a header whose names are two blanks apart.
fn ruler_of(header: &str) -> String {
    let bytes = header.as_bytes();
    let gap =
        |i: usize| bytes[i] == b' ' && (bytes.get(i + 1) == Some(&b' ') || i > 0 && bytes[i - 1] == b' ');
    (0..bytes.len()).map(|i| if gap(i) { ' ' } else { '-' }).collect()
}

/// Columns begin where the dashes begin; the last one takes the rest of the line.
fn table(header: &str, ruler: &str, rows: &[&str]) -> Vec<Record> {
    let bytes = ruler.as_bytes();
    let starts: Vec<usize> =
        (0..bytes.len()).filter(|&i| bytes[i] == b'-' && (i == 0 || bytes[i - 1] == b' ')).collect();
    let cells = |line: &str| -> Vec<String> {
        let chars: Vec<char> = line.chars().collect();
        let cell = |i: usize| {
            let end = starts.get(i + 1).copied().unwrap_or(chars.len()).min(chars.len());
            chars
                .get(starts[i].min(end)..end)
                .unwrap_or_default()
                .iter()
                .collect::<String>()
                .trim()
                .to_string()
        };
        (0..starts.len()).map(cell).collect()
    };
    let names: Vec<String> = cells(header).iter().map(|n| squeezed(n)).collect();
    let rows = rows.iter().filter(|l| !l.trim().is_empty());
    rows.map(|row| Record { title: String::new(), fields: names.iter().cloned().zip(cells(row)).collect() })
        .collect()
}

/// Blocks of `Label: value` below an optional heading; a heading or a repeated first label begins the next
/// one.
fn blocks(lines: &[&str]) -> Result<Vec<Record>, String> {
    let mut records: Vec<Record> = vec![];
    for line in lines.iter().filter(|l| !l.trim().is_empty()) {
        let indented = line.starts_with([' ', '\t']);
        let pair =
            line.trim().split_once(':').filter(|(_, value)| value.is_empty() || value.starts_with(' '));
        match pair {
            Some((label, value)) if indented || !records.is_empty() || !value.is_empty() => {
                let name = squeezed(label);
                let again =
                    records.last().is_none_or(|r| r.fields.first().is_some_and(|(first, _)| *first == name));
                if again {
                    records.push(Record::default());
                }
                if let Some(record) = records.last_mut() {
                    record.fields.push((name, value.trim().to_string()));
                }
            }
            _ => records.push(Record { title: line.trim().to_string(), fields: vec![] }),
        }
    }
    if records.is_empty() { Err("the answer is empty".into()) } else { Ok(records) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xml_and_plain_are_one_answer() {
        let xml = r#"<?xml version="1.0"?><output xmlns="http://www.vmware.com/Products/ESX/5.0/esxcli"><root>
            <structure typeName="HostGraphics"><field name="DefaultGraphicsType"><string>SharedPassthru</string></field></structure></root></output>"#;
        let plain =
            "   Default Graphics Type: SharedPassthru\n   Shared Passthru Assignment Policy: Performance\n";
        for text in [xml, plain] {
            assert_eq!(
                read(text).map(|r| r[0].get("Default Graphics Type").map(String::from)),
                Ok(Some("SharedPassthru".into()))
            );
        }
    }

    #[test]
    fn tables_follow_their_ruler() {
        let text = "Name        Version    Vendor\n----------  ---------  ------\nNVIDIA x    390.42-1   NVIDIA\nesx-base    8.0.2      VMware\n";
        let rows = read(text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            (rows.len(), rows[0].get("name"), rows[1].get("vendor")),
            (2, Some("NVIDIA x"), Some("VMware"))
        );
    }

    #[test]
    fn refusals_are_said_in_esxcli_words() {
        let text = " [MaintenanceModeError]\n MaintenanceMode is required to install.\n Please refer to the log file for more details.\n";
        let refusal = refusal(text).unwrap_or_else(|| panic!("not seen"));
        assert_eq!(
            (refusal.class.as_deref(), refusal.text.as_str()),
            (Some("MaintenanceModeError"), "MaintenanceMode is required to install.")
        );
        assert!(read("Error: Invalid option --device\n").is_err());
    }
}
