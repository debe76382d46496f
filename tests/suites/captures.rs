//! Our readers over everything real machines printed: never a panic, never a hang, and for the files in
//! `tests/data/expected/` exactly the facts that were written down by reading the file with one's eyes.
//!
//! The captures are not part of this repository: where they are not beside it, this is not tried, and that is
//! said.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr, reason = "test code")]

use serde_json::{Value, json};
use vsgpu_core::diagnosis::{Input, diagnose};
use vsgpu_core::knowledge::xids;
use vsgpu_core::readers::{bitfusion, cuda_samples, esxcli, nvidia_smi, vim_cmd, vmx};
use vsgpu_guest_agent::readers as guest;
use vsgpu_host_agent::readers as host;
use vsgpu_tests::harness::captures;

fn read(reader: &str, text: &str) -> Result<Value, String> {
    let of = |value: Result<Value, serde_json::Error>| value.map_err(|e| e.to_string());
    match reader {
        "nvidia-smi" => of(serde_json::to_value(nvidia_smi::read(text)?)),
        "nvidia-smi-vgpu" => of(serde_json::to_value(nvidia_smi::read_vgpus(text)?)),
        "nvidia-smi-error" => {
            nvidia_smi::failure(text).map(|f| json!({ "cause": f })).ok_or_else(|| "no failure".into())
        }
        "esxcli-graphics-host" => {
            let (default_type, policy) = host::host(
                &esxcli::read(text)?
                    .into_iter()
                    .find(|r| r.get("Default Graphics Type").is_some())
                    .ok_or("no `Default Graphics Type`")?,
            )?;
            Ok(json!({ "default_type": default_type, "assignment_policy": policy }))
        }
        "esxcli-graphics-devices" => of(serde_json::to_value(host::devices(&esxcli::read(text)?)?)),
        "esxcli-vibs" => of(serde_json::to_value(host::vibs(&esxcli::read(text)?)?)),
        "esxcli-install" => {
            let record =
                esxcli::read(text)?.into_iter().find(|r| r.get("Message").is_some()).ok_or("no `Message`")?;
            let list = |what: &str| {
                [record.list(&format!("VIBs {what}")), record.list(&format!("Components {what}"))].concat()
            };
            Ok(
                json!({ "message": record.need("Message")?, "reboot_required": record.flag("Reboot Required"), "installed": list("Installed"), "removed": list("Removed"), "skipped": list("Skipped") }),
            )
        }
        "esxcli-error" => esxcli::refusal(text)
            .map(|r| json!({ "class": r.class, "text": r.text }))
            .ok_or_else(|| "no refusal".into()),
        "esxcli-maintenance" => Ok(json!({ "enabled": host::enabled(&esxcli::read(text)?)? })),
        "esxcli-version" => {
            let record =
                esxcli::read(text)?.into_iter().find(|r| r.get("Product").is_some()).ok_or("no `Product`")?;
            Ok(
                json!({ "product": record.need("Product")?, "version": record.need("Version")?, "build": record.need("Build")?, "update": record.get("Update"), "patch": record.get("Patch") }),
            )
        }
        "esxcli-pci" => of(serde_json::to_value(host::pci_devices(&esxcli::read(text)?)?)),
        "esxcli-vm-processes" => {
            let vm = |r: &esxcli::Record| json!({ "display_name": r.get("Display Name"), "world_id": r.get("World ID").and_then(|n| n.parse::<u64>().ok()), "config_file": r.get("Config File") });
            Ok(esxcli::read(text)?.iter().map(vm).collect())
        }
        "vmkload-mod" => Ok(host::modules_loaded(text)
            .into_iter()
            .map(|(name, used, size)| json!({ "name": name, "used": used, "size_kb": size }))
            .collect()),
        "vim-getallvms" => of(serde_json::to_value(vim_cmd::all_vms(text)?)),
        "vim-power" => Ok(json!({ "state": vim_cmd::power_state(text)? })),
        "vim-error" => vim_cmd::fault(text)
            .map(|f| json!({ "fault": f.fault, "text": f.text }))
            .ok_or_else(|| "no fault".into()),
        "vim-dump" => vim_cmd::dump(text),
        "vmx" => Ok(json!({ "keys": vmx::read(text.as_bytes()) })),
        "gridd-log" => of(serde_json::to_value(guest::gridd_outcome(text))),
        "gridd-conf" => Ok(json!({ "values": guest::gridd_values(text) })),
        "dkms-status" => Ok(json!({ "modules": guest::dkms_status(text) })),
        "xids" => {
            let one = |line: &str| {
                let (gpu, code, said) = xids::read(line)?;
                Some(
                    json!({ "gpu": gpu, "code": code, "text": said, "severity": xids::of_code(code).map(|x| x.severity) }),
                )
            };
            Ok(json!({ "xids": text.lines().filter_map(one).collect::<Vec<_>>() }))
        }
        "loaded-version" => Ok(json!({ "version": guest::loaded_version(text) })),
        "host-view" => Ok(json!({ "view": guest::host_view(text) })),
        "cuda-report" => of(serde_json::to_value(vsgpu_core::readers::cuda_report::read(text)?)),
        "installer-log" => of(serde_json::to_value(guest::installer_log(text))),
        "devicequery" => of(serde_json::to_value(cuda_samples::device_query(text))),
        "bitfusion" => of(serde_json::to_value(bitfusion::read(text))),
        "bitfusion-servers" => of(serde_json::to_value(bitfusion::servers(text)?)),
        "vectoradd" => Ok(json!({ "passed": cuda_samples::vector_add_passed(text) })),
        other => panic!("no reader {other}"),
    }
}

const READERS: [&str; 29] = [
    "bitfusion",
    "bitfusion-servers",
    "dkms-status",
    "xids",
    "loaded-version",
    "host-view",
    "cuda-report",
    "nvidia-smi",
    "nvidia-smi-vgpu",
    "nvidia-smi-error",
    "esxcli-graphics-host",
    "esxcli-graphics-devices",
    "esxcli-vibs",
    "esxcli-install",
    "esxcli-error",
    "esxcli-maintenance",
    "esxcli-version",
    "esxcli-pci",
    "esxcli-vm-processes",
    "vmkload-mod",
    "vim-getallvms",
    "vim-power",
    "vim-error",
    "vim-dump",
    "vmx",
    "gridd-log",
    "gridd-conf",
    "installer-log",
    "devicequery",
];

/// `#/a` is the length of a list, `text` and `reason` and `errors` are contained, everything else is equal.
fn differs(value: &Value, pointer: &str, expected: &Value) -> Option<String> {
    let (at, length) = pointer.strip_prefix('#').map_or((pointer, false), |p| (p, true));
    let found = value.pointer(at).cloned().unwrap_or(Value::Null);
    if length {
        let count = found.as_array().map(Vec::len);
        return (count.map(|n| json!(n)).as_ref() != Some(expected))
            .then(|| format!("{pointer}: {count:?}, expected {expected}"));
    }
    let contained = ["/text", "/reason"].contains(&pointer) || pointer.starts_with("/errors");
    let squeezed = |t: &str| t.split_whitespace().collect::<Vec<_>>().join(" ");
    let same = match (&found, expected) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::String(a), Value::String(b)) if contained => squeezed(a).contains(&squeezed(b)),
        (a, Value::Array(wanted)) if pointer == "/errors" => wanted
            .iter()
            .all(|w| squeezed(&a.to_string()).contains(&squeezed(w.as_str().unwrap_or_default()))),
        (a, b) => a == b,
    };
    (!same).then(|| format!("{pointer}: {found}, expected {expected}"))
}

fn expected(file: &str) -> serde_json::Map<String, Value> {
    let path = vsgpu_tests::lab::workspace().join("tests/data/expected").join(file);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn check(file: &str, reader_of: impl Fn(&Value) -> (String, Value)) {
    let folder = captures().unwrap();
    let (mut wrong, mut facts, mut files) = (vec![], 0, 0);
    for (path, entry) in expected(file) {
        let text = String::from_utf8_lossy(&std::fs::read(folder.join(&path)).unwrap()).into_owned();
        let (reader, wanted) = reader_of(&entry);
        let read = read(&reader, &text);
        files += 1;
        match (read, wanted.get("refused").is_some()) {
            (Err(_), true) => facts += 1,
            (Ok(value), true) => wrong
                .push(format!("{path} ({reader}): should be refused ({}), was read: {value}", wanted["why"])),
            (Err(why), false) => wrong.push(format!("{path} ({reader}): refused: {why}")),
            (Ok(value), false) => {
                for (pointer, expected) in wanted.as_object().unwrap() {
                    facts += 1;
                    wrong.extend(
                        differs(&value, pointer, expected).map(|d| format!("{path} ({reader}): {d}")),
                    );
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {facts} facts in {files} captures are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    eprintln!("{facts} facts in {files} captures are right");
}

fn nvidia_smi_reports_are_read_as_they_stand() {
    check("nvidia_smi.json", |entry| ("nvidia-smi".into(), entry.clone()));
}

fn tool_answers_are_read_as_they_stand() {
    check("tools.json", |entry| {
        (
            entry["reader"].as_str().unwrap().into(),
            if entry.get("refused").is_some() { entry.clone() } else { entry["expect"].clone() },
        )
    });
}

/// Every reader over every capture, whole, cut in the middle and with a broken byte: an answer or a refusal,
/// never a panic.
fn no_capture_makes_a_reader_panic() {
    let folder = captures().unwrap();
    let mut count = 0;
    for kind in std::fs::read_dir(&folder).unwrap().flatten().filter(|e| e.path().is_dir()) {
        for file in std::fs::read_dir(kind.path()).unwrap().flatten() {
            let bytes = std::fs::read(file.path()).unwrap();
            let mut broken = bytes.clone();
            if let Some(byte) = broken.get_mut(bytes.len() / 3) {
                *byte = 0xff;
            }
            for text in [&bytes[..], &bytes[..bytes.len() / 2], &broken] {
                let text = String::from_utf8_lossy(text);
                for reader in READERS {
                    let _ = read(reader, &text);
                }
            }
            count += 1;
        }
    }
    assert!(count > 300, "only {count} captures");
}

/// In every capture the causes that are right there, and none in what is healthy.
fn causes_are_found_where_they_are_and_nowhere_else() {
    let folder = captures().unwrap();
    let mut expected = std::collections::BTreeMap::new();
    for line in include_str!("../data/expected/diagnosis.tsv").lines().filter(|l| !l.starts_with('#')) {
        let (path, causes) = line.split_once('\t').unwrap();
        expected.insert(path, causes);
    }
    let mut wrong = vec![];
    let mut seen = 0;
    let mut folders = vec![folder.clone()];
    while let Some(at) = folders.pop() {
        for path in std::fs::read_dir(at).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&folder).unwrap().display().to_string();
            if name == "INDEX.tsv" {
                continue;
            }
            seen += 1;
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            let input = Input { name: name.clone(), text: &text, sources: vec![] };
            let found: Vec<String> = diagnose(&[input]).findings.into_iter().map(|f| f.cause).collect();
            let (found, wanted) = (found.join(" "), expected.get(name.as_str()).copied().unwrap_or_default());
            if found != wanted {
                wrong.push(format!("{name}: `{found}`, expected `{wanted}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 100, "{seen}");
}

fn main() -> std::process::ExitCode {
    vsgpu_tests::harness::main(&[("", TESTS)])
}

const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    nvidia_smi_reports_are_read_as_they_stand[Captures],
    tool_answers_are_read_as_they_stand[Captures],
    no_capture_makes_a_reader_panic[Captures],
    causes_are_found_where_they_are_and_nowhere_else[Captures]
];
