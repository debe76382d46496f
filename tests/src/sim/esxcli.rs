//! Simulated esxcli: answers in plain and XML form, in the shapes that were captured; refuses unknown options, relative
//! paths, and installs outside maintenance mode in esxcli's words.

use super::Answer;
use super::state::{Machine, Vib, install, now_ms};
use std::path::Path;

/// Rows of named fields, to be written in either form.
enum Shape {
    /// `Heading` and indented `Label: value`.
    Block {
        type_name: &'static str,
        heading: Option<String>,
        fields: Vec<(&'static str, String)>,
    },
    Blocks(Vec<(String, Vec<(&'static str, String)>)>),
    Table {
        type_name: &'static str,
        columns: Vec<&'static str>,
        rows: Vec<Vec<String>>,
    },
    Word(String),
    Nothing,
}

fn refuse(class: &str, text: &str) -> Answer {
    Answer::fail(1, format!(" [{class}]\n {text}\n Please refer to the log file for more details.\n"))
}

fn unknown_option(option: &str) -> Answer {
    Answer::fail(1, format!("Error: Invalid option {option}\n"))
}

/// Options as esxcli takes them: `--name value`, `--name=value`, `-n value`.
fn options<'a>(words: &[&'a str], known: &[(&str, &str)], flags: &[&str]) -> Result<Vec<(String, &'a str)>, Answer> {
    let mut found = vec![];
    let mut at = 0;
    while at < words.len() {
        let (name, inline) = words[at].split_once('=').map_or((words[at], None), |(n, v)| (n, Some(v)));
        if flags.contains(&name) {
            found.push((name.to_string(), ""));
        } else if let Some((long, _)) = known.iter().find(|(long, short)| name == *long || name == *short) {
            let value = match inline {
                Some(value) => value,
                None => {
                    at += 1;
                    words.get(at).copied().ok_or_else(|| Answer::fail(1, format!("Error: Missing value for option {name}\n")))?
                }
            };
            found.push((long.to_string(), value));
        } else {
            return Err(unknown_option(name));
        }
        at += 1;
    }
    Ok(found)
}

pub fn run(folder: &Path, words: &[&str]) -> Answer {
    let mut words = words.to_vec();
    let mut xml = false;
    if let Some(format) = words.first().and_then(|w| w.strip_prefix("--formatter=")) {
        match format {
            "xml" => xml = true,
            other => return Answer::fail(1, format!("Error: Unable to find requested formatter: {other}\n")),
        }
        words.remove(0);
    }
    match command(folder, &words) {
        Ok(shape) => Answer::ok(if xml { to_xml(&shape) } else { to_plain(&shape) }),
        Err(answer) => answer,
    }
}

fn command(folder: &Path, words: &[&str]) -> Result<Shape, Answer> {
    let read = || Machine::read(folder);
    let mut now = read();
    let old = now.esxi().version.starts_with('6');
    match words {
        ["system", "version", "get"] => {
            let host = now.esxi().clone();
            let update = host.version.rsplit('.').next().unwrap_or_default().to_string();
            let fields = vec![
                ("Product", "VMware ESXi".into()),
                ("Version", host.version),
                ("Build", host.build),
                ("Update", update),
                ("Patch", "0".into()),
            ];
            Ok(Shape::Block { type_name: "VersionGet", heading: None, fields })
        }
        ["system", "stats", "uptime", "get"] => Ok(Shape::Word(((now_ms() - now.booted_at_ms) * 1000).to_string())),
        ["system", "maintenanceMode", "get"] => Ok(Shape::Word(if now.esxi().maintenance { "Enabled" } else { "Disabled" }.into())),
        ["system", "maintenanceMode", "set", rest @ ..] => {
            let found = options(rest, &[("--enable", "-e"), ("--timeout", "-t"), ("--vsanmode", "-m")], &[])?;
            let enable = match found.iter().find(|(n, _)| n == "--enable").map(|(_, v)| *v) {
                Some("true") => true,
                Some("false") => false,
                _ => return Err(Answer::fail(1, "Error: Missing required parameter -e|--enable\n")),
            };
            Machine::with(folder, |m| {
                let host = m.esxi();
                if enable == host.maintenance {
                    return Err(Answer::fail(1, format!("Maintenance mode is already {}.\n", if enable { "enabled" } else { "disabled" })));
                }
                if enable && host.vms.iter().any(|vm| vm.on) {
                    return Err(Answer::fail(1, "Operation timed out.\n"));
                }
                host.maintenance = enable;
                Ok(Shape::Nothing)
            })
        }
        ["system", "shutdown", "reboot", rest @ ..] => {
            let found = options(rest, &[("--reason", "-r"), ("--delay", "-d")], &[])?;
            if !found.iter().any(|(n, _)| n == "--reason") {
                return Err(Answer::fail(1, "Error: Missing required parameter -r|--reason\n"));
            }
            if !now.esxi().maintenance {
                return Err(Answer::fail(1, "The host must be in maintenance mode to be rebooted.\n"));
            }
            super::power_event(folder, "reboot");
            Ok(Shape::Nothing)
        }
        ["graphics", "host", "get"] => {
            let host = now.esxi();
            let fields =
                vec![("Default Graphics Type", host.default_type.clone()), ("Shared Passthru Assignment Policy", host.policy.clone())];
            Ok(Shape::Block { type_name: "GraphicsHost", heading: None, fields })
        }
        ["graphics", "host", "set", rest @ ..] => {
            let found = options(rest, &[("--default-type", "-t"), ("--shared-passthru-assignment-policy", "-p")], &[])?;
            let allowed =
                |name: &str| if name == "--default-type" { ["Shared", "SharedPassthru"] } else { ["Performance", "Consolidation"] };
            if let Some((name, value)) = found.iter().find(|(n, v)| !allowed(n).contains(v)) {
                return Err(Answer::fail(1, format!("Error: Invalid value for option {name}: {value}\n")));
            }
            Machine::with(folder, |m| {
                for (name, value) in found {
                    match name.as_str() {
                        "--default-type" => m.esxi().default_type = value.into(),
                        _ => m.esxi().policy = value.into(),
                    }
                }
            });
            Ok(Shape::Nothing)
        }
        ["graphics", "device", "list"] => {
            let host = now.esxi().clone();
            let running = host.vms.iter().filter(|v| v.on).count();
            let module = if host.loaded.is_some() { "nvidia" } else { "None" };
            let device = |g: &super::state::Gpu| {
                let memory = if host.loaded.is_some() { g.memory_mib * 1024 } else { 0 };
                let fields = vec![
                    ("Vendor Name", "NVIDIA Corporation".into()),
                    ("Device Name", g.device_name.clone()),
                    ("Module Name", module.into()),
                    ("Graphics Type", g.graphics_type.clone()),
                    ("Memory Size in KB", memory.to_string()),
                    ("Number of VMs", running.to_string()),
                ];
                (g.bdf.clone(), fields)
            };
            Ok(Shape::Blocks(host.gpus.iter().map(device).collect()))
        }
        ["hardware", "pci", "list"] => {
            let host = now.esxi().clone();
            let device = |g: &super::state::Gpu| {
                let module = if host.loaded.is_some() { "nvidia" } else { "None" };
                let fields = vec![
                    ("Address", g.bdf.clone()),
                    ("Segment", "0x0000".into()),
                    ("Vendor Name", "NVIDIA Corporation".into()),
                    ("Device Name", g.device_name.clone()),
                    ("Configured Owner", "VMkernel".into()),
                    ("Current Owner", "VMkernel".into()),
                    ("Vendor ID", "0x10de".into()),
                    ("Device ID", g.device_id.clone()),
                    ("SubVendor ID", "0x10de".into()),
                    ("SubDevice ID", "0x1396".into()),
                    ("Module Name", module.into()),
                    ("Passthru Capable", "true".into()),
                ];
                (g.bdf.clone(), fields)
            };
            Ok(Shape::Blocks(host.gpus.iter().map(device).collect()))
        }
        ["software", "vib", "list", rest @ ..] => {
            let rebooting = !options(rest, &[], &["--rebooting-image"])?.is_empty();
            let host = now.esxi().clone();
            let list = if rebooting {
                host.vibs.iter().filter(|_| !host.staged.is_empty()).chain(&host.staged).cloned().collect()
            } else {
                host.vibs.clone()
            };
            let mut columns = vec!["Name", "Version", "Vendor", "Acceptance Level", "Install Date"];
            if !old {
                columns.push("Platforms");
            }
            let row = |v: &Vib| {
                let mut row = vec![v.name.clone(), v.version.clone(), v.vendor.clone(), "VMwareAccepted".into(), "2026-01-15".into()];
                if !old {
                    row.push("host".into());
                }
                row
            };
            Ok(Shape::Table { type_name: "VIB", columns, rows: list.iter().map(row).collect() })
        }
        ["software", "vib", "install", rest @ ..] => {
            let found = options(
                rest,
                &[("--depot", "-d"), ("--viburl", "-v"), ("--vibname", "-n")],
                &["--force", "-f", "--dry-run", "--no-sig-check", "--no-live-install", "--maintenance-mode"],
            )?;
            installed(folder, &found, "VIBs")
        }
        ["software", "component", "apply", rest @ ..] => {
            if old {
                return Err(Answer::fail(1, "Error: Unknown command or namespace software component apply\n\n"));
            }
            installed(folder, &options(rest, &[("--depot", "-d")], &["--dry-run", "--force", "-f"])?, "Components")
        }
        ["vm", "process", "list"] => {
            let host = now.esxi().clone();
            let vm = |v: &super::state::Vm| {
                let file = format!("/vmfs/volumes/{}/{}", v.datastore, v.file);
                let fields = vec![
                    ("World ID", (2_100_000 + v.vmid).to_string()),
                    ("Process ID", "0".into()),
                    ("VMX Cartel ID", (2_100_001 + v.vmid).to_string()),
                    ("UUID", "42 36 49 50 7c 48 2a 8b-18 b5 48 e1 0d db 9a 37".into()),
                    ("Display Name", v.name.clone()),
                    ("Config File", file),
                ];
                (v.name.clone(), fields)
            };
            Ok(Shape::Blocks(host.vms.iter().filter(|v| v.on).map(vm).collect()))
        }
        _ => Err(Answer::fail(1, format!("Error: Unknown command or namespace {}\n\n", words.join(" ")))),
    }
}

fn installed(folder: &Path, found: &[(String, &str)], what: &str) -> Result<Shape, Answer> {
    let Some((option, path)) = found.iter().find(|(n, _)| n == "--depot" || n == "--viburl") else {
        return Err(Answer::fail(1, "Error: Missing required parameter -d|--depot or -v|--viburl\n"));
    };
    let machine = Machine::read(folder);
    if !path.starts_with('/') {
        return Err(refuse(
            "MetadataDownloadError",
            &format!(
                "Could not download from depot at zip:/var/log/vmware/{path}?index.xml, skipping (('zip:/var/log/vmware/{path}?index.xml', '', \"Error extracting index.xml from /var/log/vmware/{path}: [Errno 2] No such file or directory: '/var/log/vmware/{path}'\"))\n        url = zip:/var/log/vmware/{path}?index.xml"
            ),
        ));
    }
    let real = machine.root(path);
    let artifact = vsgpu_core::Artifact { artifact: real.display().to_string(), sha256: None, size: None, kind: None, holds: vec![] };
    let Ok(artifact) = vsgpu::package::resolve(Path::new("/"), &artifact) else {
        return Err(refuse("MetadataDownloadError", &format!("Could not download from depot at zip:{path}?index.xml, skipping")));
    };
    let is_vib = artifact.kind == Some(vsgpu_core::artifact::Kind::Vib);
    if is_vib != (option == "--viburl") {
        return Err(refuse("MetadataDownloadError", &format!("Could not download from depot at zip:{path}?index.xml, skipping")));
    }
    Machine::with(folder, |m| {
        let link = artifact.holds.iter().any(|h| !h.name.to_lowercase().contains("mgmt"));
        let host = m.esxi();
        if !host.maintenance {
            let names: Vec<String> = artifact.holds.iter().map(|h| format!("NVD_bootbank_{}_{}", h.name, h.version)).collect();
            return Err(refuse("MaintenanceModeError", &format!("MaintenanceMode is required to install: [{}].", names.join(", "))));
        }
        let vibs: Vec<Vib> =
            artifact.holds.iter().map(|h| Vib { name: h.name.clone(), version: h.version.clone(), vendor: "NVIDIA".into() }).collect();
        let ids: Vec<String> = vibs.iter().map(|v| format!("NVIDIA_bootbank_{}_{}", v.name, v.version)).collect();
        let staged = !host.says_no_reboot;
        let removed = if staged {
            host.staged.extend(vibs);
            vec![]
        } else {
            install(host, vibs)
        };
        let gone: Vec<String> = removed.iter().map(|v| format!("NVIDIA_bootbank_{}_{}", v.name, v.version)).collect();
        let message = if staged {
            "The update completed successfully, but the system needs to be rebooted for the changes to be effective."
        } else {
            "Operation finished successfully."
        };
        let (done, removed_name, skipped): (&'static str, &'static str, &'static str) = if what == "VIBs" {
            ("VIBs Installed", "VIBs Removed", "VIBs Skipped")
        } else {
            ("Components Installed", "Components Removed", "Components Skipped")
        };
        let fields = vec![
            ("Message", message.to_string()),
            (done, ids.join(", ")),
            (removed_name, gone.join(", ")),
            (skipped, String::new()),
            ("Reboot Required", staged.to_string()),
        ];
        if link {
            m.link("nvidia-smi");
        }
        Ok(Shape::Block { type_name: "InstallationResult", heading: Some("Installation Result".into()), fields })
    })
}

fn to_plain(shape: &Shape) -> String {
    let lines = |fields: &[(&str, String)]| fields.iter().map(|(name, value)| format!("   {name}: {value}\n")).collect::<String>();
    match shape {
        Shape::Nothing => String::new(),
        Shape::Word(word) => format!("{word}\n"),
        Shape::Block { heading, fields, .. } => heading.iter().map(|h| format!("{h}\n")).collect::<String>() + &lines(fields),
        Shape::Blocks(blocks) => blocks.iter().map(|(title, fields)| format!("{title}\n{}\n", lines(fields))).collect(),
        Shape::Table { columns, rows, .. } => {
            let width = |at: usize| rows.iter().map(|r| r[at].len()).chain([columns[at].len()]).max().unwrap_or(0);
            let widths: Vec<usize> = (0..columns.len()).map(width).collect();
            let row = |cells: Vec<String>| cells.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect::<Vec<_>>().join("  ") + "\n";
            let ruler = widths.iter().map(|w| "-".repeat(*w)).collect();
            row(columns.iter().map(|c| c.to_string()).collect()) + &row(ruler) + &rows.iter().map(|r| row(r.clone())).collect::<String>()
        }
    }
}

fn to_xml(shape: &Shape) -> String {
    let escape = |t: &str| t.replace('&', "&amp;").replace('<', "&lt;");
    let field = |(name, value): (&str, &str)| {
        format!("         <field name=\"{}\">\n            <string>{}</string>\n         </field>\n", name.replace(' ', ""), escape(value))
    };
    let structure = |type_name: &str, fields: &[(&str, String)]| {
        format!(
            "      <structure typeName=\"{type_name}\">\n{}      </structure>\n",
            fields.iter().map(|(n, v)| field((n, v))).collect::<String>()
        )
    };
    let list = |inner: String| format!("<root>\n   <list type=\"structure\">\n{inner}   </list>\n</root>\n");
    let body = match shape {
        Shape::Nothing => "<root>\n</root>\n".to_string(),
        Shape::Word(word) => format!("<root>\n   <string>{}</string>\n</root>\n", escape(word)),
        Shape::Block { type_name, fields, .. } => format!("<root>\n{}</root>\n", structure(type_name, fields)),
        Shape::Blocks(blocks) => {
            let with_title = |(title, fields): &(String, Vec<(&'static str, String)>)| {
                // The plain form's heading is a field of the structure where it is none of its own.
                let mut fields = fields.clone();
                if !fields.iter().any(|(n, _)| *n == "Address" || *n == "Display Name") {
                    fields.insert(0, ("Address", title.clone()));
                }
                structure("Structure", &fields)
            };
            list(blocks.iter().map(with_title).collect())
        }
        Shape::Table { type_name, columns, rows } => {
            let row = |r: &Vec<String>| structure(type_name, &columns.iter().copied().zip(r.iter().cloned()).collect::<Vec<_>>());
            list(rows.iter().map(row).collect())
        }
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<output xmlns=\"http://www.vmware.com/Products/ESX/5.0/esxcli\">\n{body}</output>\n"
    )
}
