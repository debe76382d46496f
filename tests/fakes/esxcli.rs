//! Simulated esxcli: answers in plain and XML form, in the shapes that were captured; refuses unknown
//! options, relative paths, and installs outside maintenance mode in esxcli's words.

use super::Answer;
use super::state::{Machine, Vib, install, now_ms};
use std::path::Path;

/// Rows of named fields, to be written in either form.
pub enum Shape {
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

pub fn refuse(class: &str, text: &str) -> Answer {
    Answer::fail(1, format!(" [{class}]\n {text}\n Please refer to the log file for more details.\n"))
}

fn unknown_option(option: &str) -> Answer {
    Answer::fail(1, format!("Error: Invalid option {option}\n"))
}

/// Options as esxcli takes them: `--name value`, `--name=value`, `-n value`.
pub fn options<'a>(
    words: &[&'a str],
    known: &[(&str, &str)],
    flags: &[&str],
) -> Result<Vec<(String, &'a str)>, Answer> {
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
                    words
                        .get(at)
                        .copied()
                        .ok_or_else(|| Answer::fail(1, format!("Error: Missing value for option {name}\n")))?
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
        ["system", "stats", "uptime", "get"] => {
            Ok(Shape::Word(((now_ms() - now.booted_at_ms) * 1000).to_string()))
        }
        ["system", "maintenanceMode", "get"] => {
            Ok(Shape::Word(if now.esxi().maintenance { "Enabled" } else { "Disabled" }.into()))
        }
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
                    return Err(Answer::fail(
                        1,
                        format!(
                            "Maintenance mode is already {}.\n",
                            if enable { "enabled" } else { "disabled" }
                        ),
                    ));
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
        ["graphics", ..] | ["hardware", "pci", ..] | ["system", "module", "parameters", ..] => {
            super::esxcli_gpu::command(folder, words)
        }
        ["system", "uuid", "get"] => Ok(Shape::Word(now.esxi().uuid.clone())),
        ["software", "acceptance", "get"] => Ok(Shape::Word(now.esxi().acceptance.clone())),
        ["software", "acceptance", "set", rest @ ..] => {
            let found = options(rest, &[("--level", "-l")], &[])?;
            let levels = ["CommunitySupported", "PartnerSupported", "VMwareAccepted", "VMwareCertified"];
            let Some((_, level)) = found.iter().find(|(_, level)| levels.contains(level)) else {
                return Err(Answer::fail(1, "Error: Invalid or missing value for option --level\n"));
            };
            Machine::with(folder, |m| m.esxi().acceptance = (*level).into());
            Ok(Shape::Word(format!("Host acceptance level changed to '{level}'.")))
        }
        ["software", "profile", "get"] => {
            let host = now.esxi();
            let fields = vec![
                ("Name", host.profile.clone()),
                ("Vendor", "VMware, Inc.".into()),
                ("Acceptance Level", host.acceptance.clone()),
            ];
            Ok(Shape::Block { type_name: "ImageProfile", heading: Some(host.profile.clone()), fields })
        }
        ["software", "component", "list"] if !old => {
            let row =
                |v: &Vib| [&v.name, &v.name, &v.version, &v.version, &v.vendor].map(String::clone).to_vec();
            let columns = vec!["Name", "Display Name", "Version", "Display Version", "Vendor"];
            Ok(Shape::Table {
                type_name: "Component",
                columns,
                rows: now.esxi().components.iter().map(row).collect(),
            })
        }
        ["software", kind @ ("vib" | "component"), "remove", rest @ ..] => {
            let found = options(
                rest,
                &[("--vibname", "-n"), ("--component", "-n")],
                &["--dry-run", "--force", "-f"],
            )?;
            removed(folder, kind, found.first().map(|(_, name)| *name).unwrap_or_default())
        }
        ["software", "vib", "list", rest @ ..] => {
            let rebooting = !options(rest, &[], &["--rebooting-image"])?.is_empty();
            let host = now.esxi().clone();
            let list = if rebooting {
                let waits = !host.staged.is_empty() || !host.removing.is_empty();
                let left = host.vibs.iter().filter(|v| waits && !host.removing.contains(&v.name));
                left.chain(&host.staged).cloned().collect()
            } else {
                host.vibs.clone()
            };
            let mut columns = vec!["Name", "Version", "Vendor", "Acceptance Level", "Install Date"];
            if !old {
                columns.push("Platforms");
            }
            let row = |v: &Vib| {
                let mut row = vec![
                    v.name.clone(),
                    v.version.clone(),
                    v.vendor.clone(),
                    "VMwareAccepted".into(),
                    "2026-01-15".into(),
                ];
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
                return Err(Answer::fail(
                    1,
                    "Error: Unknown command or namespace software component apply\n\n",
                ));
            }
            installed(
                folder,
                &options(rest, &[("--depot", "-d")], &["--dry-run", "--force", "-f"])?,
                "Components",
            )
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

fn removed(folder: &Path, kind: &str, name: &str) -> Result<Shape, Answer> {
    Machine::with(folder, |m| {
        let host = m.esxi();
        if !host.maintenance {
            return Err(refuse(
                "MaintenanceModeError",
                &format!("MaintenanceMode is required to remove: [{name}]."),
            ));
        }
        let known =
            host.vibs.iter().any(|v| v.name == name) || host.components.iter().any(|c| c.name == name);
        if !known {
            return Err(refuse(
                "NoMatchError",
                &format!("No VIB matching VIB search specification '{name}'."),
            ));
        }
        let staged = !host.says_no_reboot;
        if staged {
            // What is left waits for the next boot; the running image stays as it is until then.
            host.removing.push(name.into());
        } else if kind == "component" {
            // Its VIBs go with it: here a component and its VIB share kind and vendor.
            let manager =
                host.components.iter().find(|c| c.name == name).is_some_and(super::state::is_manager);
            host.components.retain(|c| c.name != name);
            host.vibs.retain(|v| !v.vendor.starts_with("NV") || super::state::is_manager(v) != manager);
        } else {
            host.vibs.retain(|v| v.name != name);
        }
        let fields = vec![
            ("Message", "Operation finished successfully.".to_string()),
            ("VIBs Installed", String::new()),
            ("VIBs Removed", name.to_string()),
            ("VIBs Skipped", String::new()),
            ("Reboot Required", staged.to_string()),
        ];
        Ok(Shape::Block { type_name: "InstallationResult", heading: Some("Removal Result".into()), fields })
    })
}

/// Our own agent: a live installation, without maintenance mode and reboot; its init script and its files are
/// there then.
fn our_agent(folder: &Path, artifact: &vsgpu_core::Artifact) -> Shape {
    use std::os::unix::fs::PermissionsExt as _;
    let root = folder.join("root");
    for script in ["etc/init.d/vsgpu-host-agent", "sbin/auto-backup.sh"] {
        super::state::link(&root.join(script));
    }
    for file in ["agent.conf", "ca.pem", "node.pem", "node.key"] {
        let path = root.join("etc/opt/vsgpu").join(file);
        if !path.exists() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o1600)).unwrap();
        }
    }
    let ids: Vec<String> =
        artifact.holds.iter().map(|h| format!("vsgpu_bootbank_{}_{}", h.name, h.version)).collect();
    let fields = vec![
        ("Message", "Operation finished successfully.".to_string()),
        ("VIBs Installed", ids.join(", ")),
        ("VIBs Removed", String::new()),
        ("VIBs Skipped", String::new()),
        ("Reboot Required", "false".to_string()),
    ];
    Shape::Block { type_name: "InstallationResult", heading: Some("Installation Result".into()), fields }
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
    let artifact = vsgpu_core::Artifact {
        artifact: real.display().to_string(),
        sha256: None,
        size: None,
        kind: None,
        holds: vec![],
    };
    let Ok(artifact) = vsgpu::fleet::package::resolve(Path::new("/"), &artifact) else {
        return Err(refuse(
            "MetadataDownloadError",
            &format!("Could not download from depot at zip:{path}?index.xml, skipping"),
        ));
    };
    let is_vib = artifact.kind == Some(vsgpu_core::artifact::Kind::Vib);
    if is_vib != (option == "--viburl") {
        return Err(refuse(
            "MetadataDownloadError",
            &format!("Could not download from depot at zip:{path}?index.xml, skipping"),
        ));
    }
    if artifact.holds.iter().any(|h| h.name == "vsgpu-host-agent") {
        return Ok(our_agent(folder, &artifact));
    }
    Machine::with(folder, |m| {
        let link = artifact.holds.iter().any(|h| !h.name.to_lowercase().contains("mgmt"));
        let host = m.esxi();
        if !host.maintenance {
            let names: Vec<String> =
                artifact.holds.iter().map(|h| format!("NVD_bootbank_{}_{}", h.name, h.version)).collect();
            return Err(refuse(
                "MaintenanceModeError",
                &format!("MaintenanceMode is required to install: [{}].", names.join(", ")),
            ));
        }
        let rank = |word: &str| {
            ["community", "partner", "accepted", "certified"]
                .iter()
                .position(|l| word.to_lowercase().contains(l))
        };
        let low = artifact
            .holds
            .iter()
            .find(|h| h.acceptance.as_deref().is_some_and(|a| rank(a) < rank(&host.acceptance)));
        if let Some(vib) = low {
            return Err(refuse(
                "AcceptanceConfigError",
                &format!(
                    "VIB NVD_bootbank_{}_{}'s acceptance level is {}, which is not compliant with the ImageProfile acceptance level {}\n To change the host acceptance level, use the 'esxcli software acceptance set' command.",
                    vib.name,
                    vib.version,
                    vib.acceptance.clone().unwrap_or_default(),
                    host.acceptance
                ),
            ));
        }
        if what == "Components" {
            for held in &artifact.holds {
                let same = |c: &Vib| c.name == held.name;
                host.components.retain(|c| !same(c));
                host.components.push(Vib {
                    name: held.name.clone(),
                    version: held.version.clone(),
                    vendor: "NVIDIA".into(),
                });
            }
        }
        let vibs: Vec<Vib> = artifact
            .holds
            .iter()
            .map(|h| Vib { name: h.name.clone(), version: h.version.clone(), vendor: "NVIDIA".into() })
            .collect();
        let ids: Vec<String> =
            vibs.iter().map(|v| format!("NVIDIA_bootbank_{}_{}", v.name, v.version)).collect();
        let staged = !host.says_no_reboot;
        let removed = if staged {
            host.staged.extend(vibs);
            vec![]
        } else {
            install(host, vibs)
        };
        let gone: Vec<String> =
            removed.iter().map(|v| format!("NVIDIA_bootbank_{}_{}", v.name, v.version)).collect();
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
        Ok(Shape::Block {
            type_name: "InstallationResult",
            heading: Some("Installation Result".into()),
            fields,
        })
    })
}

fn to_plain(shape: &Shape) -> String {
    let lines = |fields: &[(&str, String)]| {
        fields.iter().map(|(name, value)| format!("   {name}: {value}\n")).collect::<String>()
    };
    match shape {
        Shape::Nothing => String::new(),
        Shape::Word(word) => format!("{word}\n"),
        Shape::Block { heading, fields, .. } => {
            heading.iter().map(|h| format!("{h}\n")).collect::<String>() + &lines(fields)
        }
        Shape::Blocks(blocks) => {
            blocks.iter().map(|(title, fields)| format!("{title}\n{}\n", lines(fields))).collect()
        }
        Shape::Table { columns, rows, .. } => {
            let width =
                |at: usize| rows.iter().map(|r| r[at].len()).chain([columns[at].len()]).max().unwrap_or(0);
            let widths: Vec<usize> = (0..columns.len()).map(width).collect();
            let row = |cells: Vec<String>| {
                cells.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect::<Vec<_>>().join("  ")
                    + "\n"
            };
            let ruler = widths.iter().map(|w| "-".repeat(*w)).collect();
            row(columns.iter().map(|c| c.to_string()).collect())
                + &row(ruler)
                + &rows.iter().map(|r| row(r.clone())).collect::<String>()
        }
    }
}

fn to_xml(shape: &Shape) -> String {
    let escape = |t: &str| t.replace('&', "&amp;").replace('<', "&lt;");
    let field = |(name, value): (&str, &str)| {
        format!(
            "         <field name=\"{}\">\n            <string>{}</string>\n         </field>\n",
            name.replace(' ', ""),
            escape(value)
        )
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
        Shape::Block { type_name, fields, .. } => {
            format!("<root>\n{}</root>\n", structure(type_name, fields))
        }
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
            let row = |r: &Vec<String>| {
                structure(type_name, &columns.iter().copied().zip(r.iter().cloned()).collect::<Vec<_>>())
            };
            list(rows.iter().map(row).collect())
        }
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<output xmlns=\"http://www.vmware.com/Products/ESX/5.0/esxcli\">\n{body}</output>\n"
    )
}
