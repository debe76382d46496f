//! What goes into which package.

use crate::files::{Entry, read};
use crate::linux::Package;
use clap_complete::Shell;
use std::path::Path;

/// The host agent on ESXi. Files with the sticky bit are kept over a reboot and filled by enrolment and by
/// the agent (facts: esxi A4).
///
/// # Errors
/// A sentence.
pub fn esxi(root: &Path, agent: Vec<u8>) -> Result<Vec<Entry>, String> {
    let tree = root.join("packaging/esxi/root");
    let from = |path: &str, mode: u32| Ok::<_, String>(Entry::new(path, mode, read(&tree.join(path))?));
    Ok(vec![
        from("etc/init.d/vsgpu-host-agent", 0o555)?,
        from("etc/vmware/firewall/vsgpu.xml", 0o444)?,
        from("etc/vmware/service/vsgpu.xml", 0o444)?,
        Entry::new("opt/vsgpu/bin/vsgpu-host-agent", 0o555, agent),
        from("etc/opt/vsgpu/agent.conf", 0o1644)?,
        Entry::new("etc/opt/vsgpu/ca.pem", 0o1644, ""),
        Entry::new("etc/opt/vsgpu/node.pem", 0o1644, ""),
        Entry::new("etc/opt/vsgpu/node.key", 0o1600, ""),
        Entry::new("etc/opt/vsgpu/lease.json", 0o1600, ""),
        Entry::new("etc/opt/vsgpu/wishes.json", 0o1600, ""),
        Entry::new("etc/opt/vsgpu/taken.json", 0o1600, ""),
    ])
}

/// The controller, with its manual, its completions and the examples.
///
/// # Errors
/// A sentence.
pub fn controller(root: &Path, built: &Path) -> Result<Package, String> {
    let linux = root.join("packaging/linux");
    let mut entries = vec![
        Entry::new("usr/bin/vsgpu", 0o755, read(&built.join("vsgpu"))?),
        Entry::new(
            "usr/lib/systemd/system/vsgpu-exporter@.service",
            0o644,
            read(&linux.join("vsgpu-exporter@.service"))?,
        ),
        Entry::new("usr/share/doc/vsgpu/exporter.conf", 0o644, read(&linux.join("exporter.conf"))?),
    ];
    let command = vsgpu::cli::command();
    for (shell, path) in [
        (Shell::Bash, "usr/share/bash-completion/completions/vsgpu"),
        (Shell::Zsh, "usr/share/zsh/vendor-completions/_vsgpu"),
        (Shell::Fish, "usr/share/fish/vendor_completions.d/vsgpu.fish"),
    ] {
        let mut text = vec![];
        clap_complete::generate(shell, &mut command.clone(), "vsgpu", &mut text);
        entries.push(Entry::new(path, 0o644, text));
    }
    entries.extend(manual(command, 1)?);
    for example in ["large.yaml", "guests.yaml"] {
        let text = read(&root.join("packaging/examples").join(example))?;
        entries.push(Entry::new(&format!("usr/share/doc/vsgpu/examples/{example}"), 0o644, text));
    }
    for (path, text) in pages(&root.join("packaging/docs"))? {
        entries.push(Entry::new(&format!("usr/share/doc/vsgpu/docs/{path}"), 0o644, text));
    }
    for name in ["alerts.yaml", "alerts-test.yaml", "dashboard-fleet.json", "dashboard-gpu.json"] {
        let text = read(&root.join("packaging/monitoring").join(name))?;
        entries.push(Entry::new(&format!("usr/share/vsgpu/monitoring/{name}"), 0o644, text));
    }
    Ok(Package {
        name: "vsgpu",
        summary: "GPUs on VMware vSphere, from a bare ESXi host to a CUDA proof in a VM",
        description: "The operator's program: plans, applies and verifies what a fleet file wishes\nof ESXi hosts, their VMs and the guests in them.",
        entries,
        needs: None,
        scripts: instances(&linux, "vsgpu-exporter")?,
    })
}

/// The documentation: every file with its path, in their order.
fn pages(folder: &Path) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut all = vec![];
    for under in ["", "facts/"] {
        let there =
            std::fs::read_dir(folder.join(under)).map_err(|e| format!("{}: {e}", folder.display()))?;
        for path in there.flatten().map(|entry| entry.path()).filter(|path| path.is_file()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            all.push((format!("{under}{name}"), read(&path)?));
        }
    }
    all.sort();
    Ok(all)
}

/// The guest agent with its CUDA proof, and the programs for GPUs over the network.
///
/// # Errors
/// A sentence.
pub fn guest(root: &Path, built: &Path) -> Result<Package, String> {
    let linux = root.join("packaging/linux");
    let mut entries = vec![
        Entry::new("usr/bin/vsgpu-guest-agent", 0o755, read(&built.join("vsgpu-guest-agent"))?),
        Entry::new("usr/lib/vsgpu/vsgpu-cuda-proof", 0o755, read(&built.join("vsgpu-cuda-proof"))?),
        Entry::new("usr/lib/vsgpu/vsgpu-cuda-samples", 0o755, read(&built.join("vsgpu-cuda-samples"))?),
        Entry::new(
            "usr/lib/systemd/system/vsgpu-guest-agent.service",
            0o644,
            read(&linux.join("vsgpu-guest-agent.service"))?,
        ),
        Entry::config("etc/vsgpu/guest-agent.conf", 0o644, read(&linux.join("guest-agent.conf"))?),
    ];
    // Both are there, and run where the fleet file says so.
    for program in ["vsgpu-pool", "vsgpu-gpu"] {
        entries.push(Entry::new(&format!("usr/bin/{program}"), 0o755, read(&built.join(program))?));
    }
    for unit in [
        "vsgpu-pool.service",
        "vsgpu-gpu.service",
        "vsgpu-engine@.service",
        "vsgpu-engine-proof@.service",
        "vsgpu-netns@.service",
    ] {
        entries.push(Entry::new(&format!("usr/lib/systemd/system/{unit}"), 0o644, read(&linux.join(unit))?));
    }
    entries.extend(manual(vsgpu_wire::server::command(&vsgpu_guest_agent::agent()), 1)?);
    // In section 8: `vsgpu-pool` in section 1 is the page of `vsgpu pool`, of another package.
    entries.extend(manual(vsgpu_network_gpu::cli::pool::command(), 8)?);
    entries.extend(manual(vsgpu_network_gpu::cli::gpu::command(), 1)?);
    let script = |name| Ok::<_, String>((name, read(&linux.join(format!("guest-agent.{name}")))?));
    Ok(Package {
        name: "vsgpu-guest-agent",
        summary: "vsgpu agent of a Linux VM with a GPU",
        description: "Installs driver, license and CUDA as the operator's fleet file wishes, and\nproves that a CUDA program ran.",
        entries,
        needs: None,
        scripts: vec![script("postinst")?, script("prerm")?, script("postrm")?],
    })
}

/// The host agent for hosts that are reached over ssh, on a Linux machine beside them.
///
/// # Errors
/// A sentence.
pub fn host(root: &Path, built: &Path) -> Result<Package, String> {
    let linux = root.join("packaging/linux");
    let mut entries = vec![
        Entry::new("usr/bin/vsgpu-host-agent", 0o755, read(&built.join("vsgpu-host-agent"))?),
        Entry::new(
            "usr/lib/systemd/system/vsgpu-host-agent@.service",
            0o644,
            read(&linux.join("vsgpu-host-agent@.service"))?,
        ),
        Entry::new(
            "usr/lib/systemd/system/vsgpu-host-agent-vcenter@.service",
            0o644,
            read(&linux.join("vsgpu-host-agent-vcenter@.service"))?,
        ),
        Entry::new("usr/share/doc/vsgpu-host-agent/agent.conf", 0o644, read(&linux.join("host-agent.conf"))?),
    ];
    entries.extend(manual(vsgpu_wire::server::command(&vsgpu_host_agent::agent()), 1)?);
    Ok(Package {
        name: "vsgpu-host-agent",
        summary: "vsgpu agent of ESXi hosts on which no package may run",
        description: "Runs on a Linux machine and reaches ESXi hosts through vCenter (one instance of\nvsgpu-host-agent-vcenter@ for each vCenter) or OpenSSH (one of vsgpu-host-agent@ for\neach host).",
        entries,
        needs: Some(("openssh-client, libnss-systemd", "openssh-clients")),
        scripts: instances(&linux, "vsgpu-host-agent")?,
    })
}

/// The scripts of a package whose unit runs once for each name that the operator enables.
fn instances(linux: &Path, unit: &str) -> Result<Vec<(&'static str, Vec<u8>)>, String> {
    let script = |name: &'static str| {
        let text = read(&linux.join(format!("instances.{name}")))?;
        let text = String::from_utf8(text).map_err(|e| format!("instances.{name}: {e}"))?;
        Ok((name, text.replace("@UNIT@", unit).into_bytes()))
    };
    ["postinst", "prerm", "postrm"].into_iter().map(script).collect()
}

/// One page for a program, one for each of its verbs, in this section of the manual.
fn manual(command: clap::Command, section: u8) -> Result<Vec<Entry>, String> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let program = command.get_name().to_string();
    let mut pages = vec![(program.clone(), command.clone())];
    for verb in command.get_subcommands() {
        let name = format!("{program}-{}", verb.get_name());
        // `name` of a page is static in clap: these few live as long as the program.
        let leaked: &'static str = Box::leak(name.clone().into_boxed_str());
        pages.push((name, verb.clone().name(leaked)));
    }
    let page = |(name, command): (String, clap::Command)| {
        let mut text = vec![];
        let page = clap_mangen::Man::new(command).section(section.to_string());
        page.render(&mut text).map_err(|e| format!("{name}: {e}"))?;
        Ok(Entry::new(
            &format!("usr/share/man/man{section}/{name}.{section}.gz"),
            0o644,
            crate::files::gzip(&text)?,
        ))
    };
    pages.into_iter().map(page).collect()
}
