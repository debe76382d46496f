//! Reader of vim-cmd (in core beside esxcli, because failures of both are put into words here): the table of
//! `vmsvc/getallvms`, power states, questions, and the text dump of hostd's objects. Names hold blanks, brackets
//! and parentheses; annotations hold line breaks: nothing here splits on columns. They only tell a row from a line
//! of an annotation that looks like one.

use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// One registered VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedVm {
    /// hostd's number.
    pub vmid: u32,
    /// Display name.
    pub name: String,
    /// Datastore; empty for infrastructure VMs.
    pub datastore: String,
    /// Path on the datastore.
    pub file: String,
    /// Guest OS id.
    pub guest_os: Option<String>,
    /// Hardware version, `vmx-19`.
    pub version: Option<String>,
}

/// Reads `vmsvc/getallvms`.
///
/// # Errors
/// Where the heading is missing.
pub fn all_vms(text: &str) -> Result<Vec<ListedVm>, String> {
    let mut lines = text.lines().skip_while(|l| !l.trim_start().starts_with("Vmid"));
    let heading = lines.next().ok_or("the answer has no `Vmid` heading")?;
    let mut all: Vec<Row> = vec![];
    // Whether what comes next may be the rest of an annotation: annotations hold lines, and lines that look like
    // rows. They do not keep to the columns; where the first row does not either, nothing can be told.
    let (mut annotated, mut columns) = (false, false);
    let mut places: HashMap<u32, usize> = HashMap::new();
    for line in lines {
        let row = listed(line).map(|mut row| {
            row.stands = stands_under(heading, line, &row);
            row
        });
        let Some(row) = row.filter(|row| !annotated || !columns || row.stands != Stands::Elsewhere) else {
            annotated = annotated || !line.trim().is_empty();
            continue;
        };
        columns = columns || (all.is_empty() && row.stands != Stands::Elsewhere);
        annotated = row.annotated;
        match places.get(&row.vm.vmid) {
            // One of two is none: the one that surely keeps to the columns stays.
            Some(at) if row.stands == Stands::Surely && all[*at].stands != Stands::Surely => all[*at] = row,
            Some(_) => {}
            None => {
                places.insert(row.vm.vmid, all.len());
                all.push(row);
            }
        }
    }
    Ok(all.into_iter().map(|row| row.vm).collect())
}

/// One line that reads as a row.
struct Row {
    vm: ListedVm,
    /// Where the hardware version begins, in bytes of the line.
    version_at: Option<usize>,
    /// Something is behind the version; or nobody knows, where there is no version.
    annotated: bool,
    stands: Stands,
}

/// Whether a row keeps to the columns of the heading.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    Surely,
    /// How names that are not ASCII are padded is not known.
    Perhaps,
    Elsewhere,
}

/// Columns are padded: the number stands under `Vmid` and the version under `Version`.
fn stands_under(heading: &str, line: &str, row: &Row) -> Stands {
    let (Some(column), Some(at)) = (heading.find("Version"), row.version_at) else {
        return Stands::Elsewhere;
    };
    let indent = |text: &str| text.len() - text.trim_start().len();
    if indent(heading) != indent(line) {
        Stands::Elsewhere
    } else if at == column {
        Stands::Surely
    } else if line.get(..at).is_none_or(|before| !before.is_ascii()) {
        Stands::Perhaps
    } else {
        Stands::Elsewhere
    }
}

/// Numbers of VMs that hostd leaves out of `vmsvc/getallvms` because it cannot read their `.vmx`: `Skipping
/// invalid VM '2'`, on either stream.
pub fn invalid_vms(text: &str) -> Vec<u32> {
    let number =
        |line: &str| line.trim().strip_prefix("Skipping invalid VM '")?.split('\'').next()?.parse().ok();
    text.lines().filter_map(number).collect()
}

/// A line that does not begin with a number and hold a `.vmx` is the rest of an annotation.
fn listed(line: &str) -> Option<Row> {
    let line = line.trim_end();
    let (vmid, rest) = line.trim_start().split_once(char::is_whitespace)?;
    let vmid = vmid.parse().ok()?;
    // The `.vmx` that counts is the one followed by the guest id; an annotation behind it may name others.
    let end = [".vmx ", ".vmtx ", ".vmx"]
        .iter()
        .filter_map(|ending| rest.find(ending).map(|at| at + ending.trim_end().len()))
        .min()?;
    // Names and folders may hold brackets: the file begins at the first `[` after two blanks; where a release
    // puts only one blank between columns, at the last `[..] ` that a path follows.
    let begins_file = |at: &usize| {
        rest[*at..end].split_once("] ").is_some_and(|(_, file)| file.contains('/') && !file.contains("] "))
    };
    let brackets = || rest[..end].match_indices('[').map(|(at, _)| at);
    let open = brackets()
        .find(|at| rest[..*at].ends_with("  ") && rest[*at..end].contains("] "))
        .or_else(|| brackets().rfind(begins_file))?;
    let (datastore, file) = rest[open + 1..end].split_once(']')?;
    // What is behind the file: guest id, version, annotation.
    let behind = &rest[end..];
    let from = line.len() - behind.len();
    let mut words = behind.split_whitespace();
    let guest_os = words.next();
    let version = words.next().filter(|v| v.starts_with("vmx-"));
    // Both are parts of `behind`, which ends where the line does.
    let place = |word: &str| word.as_ptr() as usize - behind.as_ptr() as usize;
    let ends = version.map(|v| place(v) + v.len());
    Some(Row {
        version_at: version.map(|v| from + place(v)),
        annotated: ends.is_none_or(|at| behind.get(at..).is_none_or(|rest| !rest.trim().is_empty())),
        stands: Stands::Elsewhere,
        vm: ListedVm {
            vmid,
            name: rest[..open].trim().into(),
            datastore: datastore.into(),
            file: file.trim().into(),
            guest_os: guest_os.map(String::from),
            version: version.map(String::from),
        },
    })
}

/// Longest part of a question that is quoted.
const QUESTION: usize = 240;

/// The question that a VM waits with, from `vmsvc/message`: its number and text. `No message.` is none.
pub fn question(text: &str) -> Option<(String, String)> {
    let rest = text.split_once("Virtual machine message ")?.1;
    let (number, rest) = rest.split_once(':')?;
    let words = rest.split_whitespace().collect::<Vec<_>>().join(" ");
    // `msg.uuid.altered:This virtual machine might ..`
    let said = match words.split_once(':') {
        Some((id, said)) if !id.contains(' ') && !said.is_empty() => said.trim().to_string(),
        _ => words,
    };
    let number = number.trim();
    let plain = !number.is_empty()
        && number.len() <= 16
        && number.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (plain && !said.is_empty()).then(|| (number.to_string(), said.chars().take(QUESTION).collect()))
}

/// Reads `vmsvc/power.getstate`: `on`, `off` or `suspended`.
///
/// # Errors
/// Where none of the three was printed.
pub fn power_state(text: &str) -> Result<&'static str, String> {
    let known = [("Powered on", "on"), ("Powered off", "off"), ("Suspended", "suspended")];
    let found = text.lines().rev().find_map(|line| known.iter().find(|(words, _)| line.trim() == *words));
    found
        .map(|(_, state)| *state)
        .ok_or_else(|| "the answer is none of `Powered on`, `Powered off`, `Suspended`".into())
}

/// Counts the snapshots of `vmsvc/snapshot.get`.
pub fn snapshots(text: &str) -> usize {
    text.lines().filter(|line| line.trim_start_matches(['-', '|', ' ']).starts_with("Snapshot Name")).count()
}

/// A failed task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// `InvalidPowerState` and the like.
    pub fault: Option<String>,
    /// hostd's sentence.
    pub text: String,
}

/// Recognises a failure.
pub fn fault(text: &str) -> Option<Fault> {
    let name = text
        .find("fault.")
        .map(|at| text[at + 6..].chars().take_while(char::is_ascii_alphanumeric).collect::<String>());
    let message = text
        .lines()
        .rev()
        .find_map(|l| l.trim().strip_prefix("msg = \""))
        .map(|m| m.trim_end_matches(['"', ',', ' ']).to_string());
    let plain = text
        .lines()
        .map(str::trim)
        .find(|l| l.contains("failed") || l.starts_with("Failed") || l.starts_with("Operation timed out"));
    match (&name, &message, plain) {
        (None, None, None) => None,
        _ => Some(Fault {
            fault: name.filter(|n| !n.is_empty()),
            text: message.filter(|m| !m.is_empty()).or(plain.map(String::from)).unwrap_or_default(),
        }),
    }
}

/// Reads a dump such as `vmsvc/get.config` prints: type names dropped, `<unset>` and `null` as null, morefs
/// as text. Tolerates missing indentation and an end that was cut off.
///
/// # Errors
/// Where there is no `{` or `[` to begin with.
pub fn dump(text: &str) -> Result<Value, String> {
    let start = text.find(['{', '[']).ok_or("the answer holds no `{`")?;
    if text[..start].contains(" = ") {
        return Err("the answer begins in the middle of an object".into());
    }
    let mut reader = Dump { rest: &text[start..], depth: 0 };
    Ok(reader.value())
}

struct Dump<'a> {
    rest: &'a str,
    depth: usize,
}

impl Dump<'_> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
    }

    fn value(&mut self) -> Value {
        self.skip();
        // `(type)` before a value says nothing we need.
        while self.rest.starts_with('(') {
            self.rest = self.rest.split_once(')').map_or("", |(_, rest)| rest);
            self.skip();
        }
        match self.rest.chars().next() {
            Some('{') => self.object(),
            Some('[') => self.list(),
            Some(quote @ ('"' | '\'')) => {
                let inner = &self.rest[1..];
                let end = inner.find(quote).unwrap_or(inner.len());
                self.rest = inner.get(end + 1..).unwrap_or_default();
                Value::String(inner[..end].into())
            }
            Some(_) => {
                let end = self.rest.find([',', '\n', '}', ']']).unwrap_or(self.rest.len());
                let word = self.rest[..end].trim();
                self.rest = &self.rest[end..];
                match word {
                    "<unset>" | "null" | "" => Value::Null,
                    "true" => Value::Bool(true),
                    "false" => Value::Bool(false),
                    number => number
                        .parse::<i64>()
                        .map(Value::from)
                        .unwrap_or_else(|_| Value::String(number.into())),
                }
            }
            None => Value::Null,
        }
    }

    fn enter(&mut self) -> bool {
        self.depth += 1;
        self.rest = &self.rest[1..];
        // Deeper than any object of hostd: stop reading rather than overflow the stack.
        if self.depth > 64 {
            self.rest = "";
        }
        self.depth <= 64
    }

    fn object(&mut self) -> Value {
        let mut map = Map::new();
        if self.enter() {
            loop {
                self.skip();
                if let Some(rest) = self.rest.strip_prefix('}') {
                    self.rest = rest;
                    break;
                }
                let Some((key, rest)) = self.rest.split_once('=') else {
                    self.rest = "";
                    break;
                };
                self.rest = rest;
                let value = self.value();
                map.insert(key.trim().into(), value);
            }
        }
        self.depth -= 1;
        map.into()
    }

    fn list(&mut self) -> Value {
        let mut items = vec![];
        if self.enter() {
            loop {
                self.skip();
                if let Some(rest) = self.rest.strip_prefix(']') {
                    self.rest = rest;
                    break;
                }
                if self.rest.is_empty() || self.rest.starts_with('}') {
                    break;
                }
                items.push(self.value());
            }
        }
        self.depth -= 1;
        items.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_everything_in_them() {
        let text = "Vmid   Name   File   Guest OS   Version   Annotation\n\
            12     My [old] VM (2)   [ds 1] my/my vm.vmx   ubuntu64Guest   vmx-19   see\nold.vmx autostart\n\
            7 x [] /var/run/crx/x.vmx crxSys1Guest vmx-21\n\
            2      web [old]     [ds1] web [old]/web [old].vmx   ubuntu64Guest   vmx-19\n";
        let vms = all_vms(text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(vms.len(), 3);
        assert_eq!((vms[2].name.as_str(), vms[2].file.as_str()), ("web [old]", "web [old]/web [old].vmx"));
        assert_eq!(
            (vms[0].name.as_str(), vms[0].datastore.as_str(), vms[0].file.as_str()),
            ("My [old] VM (2)", "ds 1", "my/my vm.vmx")
        );
        assert_eq!(
            (vms[1].name.as_str(), vms[1].datastore.as_str(), vms[1].version.as_deref()),
            ("x", "", Some("vmx-21"))
        );
        assert!(all_vms("Failed to login").is_err());
    }

    #[test]
    fn an_annotation_that_looks_like_a_row_is_no_vm() {
        let text = "Vmid   Name             File              Guest OS      Version   Annotation\n\
            1      db      [ds1] db/db.vmx     ubuntu64Guest   vmx-19    copy of\n\
            9      old-db  [ds9] old-db/old-db.vmx  ubuntu64Guest  vmx-13\n\
            \n   8      lost   [ds1] lost/lost.vmx          ubuntu64Guest   vmx-19\n\
            2      web     [ds1] web/web.vmx        debian11_64Guest   vmx-20\n";
        // As hostd pads: every column as wide as its widest cell.
        let padded = |rows: &[[&str; 6]]| {
            let width = |n: usize| rows.iter().map(|row| row[n].len()).max().unwrap_or_default();
            let line = |row: &[&str; 6]| {
                let cells: Vec<String> =
                    row.iter().enumerate().map(|(n, c)| format!("{c:w$}", w = width(n))).collect();
                cells.join("   ").trim_end().to_string() + "\n"
            };
            rows.iter().map(line).collect::<String>()
        };
        let heading = ["Vmid", "Name", "File", "Guest OS", "Version", "Annotation"];
        let pasted = "was\n9      old-db   [ds9] old-db/old-db.vmx   ubuntu64Guest   vmx-13\n 8 x [ds1] x/x.vmx ubuntu64Guest vmx-19";
        let table = padded(&[
            heading,
            ["1", "db", "[ds1] db/db.vmx", "ubuntu64Guest", "vmx-19", pasted],
            ["2", "webserver", "[ds1] webserver/webserver.vmx", "debian11_64Guest", "vmx-20", ""],
            ["3", "größe", "[ds1] größe/größe.vmx", "debian11_64Guest", "vmx-20", "x"],
            ["2", "webserver", "[ds1] webserver/webserver.vmx", "debian11_64Guest", "vmx-20", ""],
        ]);
        let names = |text: &str| all_vms(text).unwrap().into_iter().map(|vm| vm.name).collect::<Vec<_>>();
        assert_eq!(names(&table), ["db", "webserver", "größe"], "{table}");
        // A template whose annotation names a file and a version; a line that is not ASCII does not take a VM's place.
        let hostile = padded(&[
            heading,
            [
                "1",
                "tpl",
                "[ds1] tpl/tpl.vmtx",
                "ubuntu64Guest",
                "vmx-19",
                "old.vmx vmx-9é\n2      web   [ds9] é/web.vmx  x  vmx-1",
            ],
            ["2", "web", "[ds1] web/web.vmx", "debian11_64Guest", "vmx-20", ""],
        ]);
        let vms = all_vms(&hostile).unwrap();
        assert_eq!(
            vms.iter().map(|vm| vm.file.as_str()).collect::<Vec<_>>(),
            ["tpl/tpl.vmtx", "web/web.vmx"]
        );
        // Where nothing keeps to the columns, every line that reads as a row is one.
        assert_eq!(names(text).len(), 4);
    }

    #[test]
    fn a_question_has_a_number_and_a_text() {
        let text = "Virtual machine message 12:\nmsg.uuid.altered:This virtual machine might have been moved or copied.\n\n   0. Cancel (Cancel)\n   1. I Moved It\n";
        let (number, said) = question(text).unwrap();
        assert_eq!(number, "12");
        assert!(said.starts_with("This virtual machine might") && said.contains("1. I Moved It"), "{said}");
        assert_eq!(question("Virtual machine message _vmx1: is it so?").unwrap().0, "_vmx1");
        assert_eq!(question("No message.\n"), None);
        assert_eq!(question("Virtual machine message 1; rm -rf /: x"), None);
    }

    #[test]
    fn faults_and_states() {
        let text = "Powering on VM:\nPower on failed: (vim.fault.InvalidPowerState) {\n   existingState = \"poweredOn\"\n   msg = \"Wrong state.\"\n}\n";
        assert_eq!(
            fault(text),
            Some(Fault { fault: Some("InvalidPowerState".into()), text: "Wrong state.".into() })
        );
        assert_eq!(power_state("Retrieved runtime info\nPowered off\n"), Ok("off"));
        assert!(power_state("Powered").is_err());
    }

    #[test]
    fn dumps_keep_values_and_drop_types() {
        let text = "Config:\n\n(vim.vm.ConfigInfo) {\n   name = \"a, b = c\", \n   firmware = \"efi\", \n   x = <unset>, \n   n = -3, \n   list = (int) [\n      1,\n      2\n   ],\n   ref = 'vim.VirtualMachine:4'\n   last = true\n}\n";
        assert_eq!(
            dump(text),
            Ok(
                serde_json::json!({"name": "a, b = c", "firmware": "efi", "x": null, "n": -3, "list": [1, 2], "ref": "vim.VirtualMachine:4", "last": true})
            )
        );
        assert!(dump("no braces").is_err());
        assert_eq!(dump("{ a = (t) { b = 1"), Ok(serde_json::json!({"a": {"b": 1}})));
    }
}
