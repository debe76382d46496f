//! Why a VM with a GPU did not start, or did not shut down: the cause and its fix, from what hostd answered, from the VM's own log
//! and from the host's kernel log. Only lines that were written after the attempt began count; an older
//! attempt may have failed for another reason. The causes are those of the catalogue (`vsgpu_core::diagnosis`).

use crate::facts::virtual_machines::VirtualMachines;
use crate::facts::vm_config::find;
use crate::facts::vm_devices::slots_of;
use crate::pci_slots::Slot;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use vsgpu_core::diagnosis::{Input, Source, first_cause};
use vsgpu_core::readers::vim_cmd;
use vsgpu_core::requirement::{Explained, Failure};
use vsgpu_core::{Command, Fact as _, Observation, Probe, Subject};

use crate::facts::log_findings::VMKERNEL;

const HOSTD: &str = "hostd";
/// The logs are written by other processes: a line may bear the second before ours.
const SLACK_SECS: i64 = 2;

/// The VM's log and the host's kernel log.
pub(super) fn probes(on: &Subject, seen: &Observation) -> Vec<Probe> {
    let mut probes = VirtualMachines::probes(on, seen);
    probes.push(Probe::Tail(VMKERNEL.into()));
    probes.extend(log_of(on, seen).map(Probe::Tail));
    if let Ok(vm) = find(on, seen) {
        probes.push(Probe::Run(ask_question(vm.vmid)));
        probes.push(Probe::Read(vm.vmx));
    }
    probes
}

/// The question that a VM waits with.
fn ask_question(vmid: u32) -> Command {
    Command::new("vim-cmd", ["vmsvc/message", &vmid.to_string()])
}

/// A VM that waits for an answer neither starts nor stops, and nobody sees it who does not look there.
fn waits_for_an_answer(on: &Subject, seen: &Observation) -> Option<Explained> {
    let vmid = find(on, seen).ok()?.vmid;
    let (number, said) = vim_cmd::question(&seen.output(&ask_question(vmid)).ok()?.both())?;
    Some(Explained {
        cause: format!("the VM waits for an answer: `{said}`"),
        fix: format!(
            "answer it in vCenter or the host client, or on the host with `vim-cmd vmsvc/message {vmid} {number} CHOICE`; then `vsgpu apply`"
        ),
    })
}

/// A shutdown is a request: VMware Tools hand it on, and the guest takes its time or does nothing.
fn ignores_the_shutdown(failure: &Failure) -> Option<Explained> {
    failure.why.contains("vmsvc/power.shutdown").then(|| Explained {
        cause: "the guest was asked to shut down, and still runs: it may install updates, ask somebody at its console, or do nothing".into(),
        fix: "look at its console and shut it down there, or give it longer (`shutdown-secs`); `hard-stop: true` of the VM allows a hard power-off; then `vsgpu apply`".into(),
    })
}

fn log_of(on: &Subject, seen: &Observation) -> Option<String> {
    Some(format!("{}/vmware.log", find(on, seen).ok()?.vmx.rsplit_once('/')?.0))
}

/// The cause, if one is known.
pub(super) fn explain(failure: &Failure, on: &Subject, seen: &Observation) -> Option<Explained> {
    if let Some(question) = waits_for_an_answer(on, seen) {
        return Some(question);
    }
    let log = log_of(on, seen);
    let tail =
        |path: &str| seen.text(&Probe::Tail(path.into())).ok().flatten().unwrap_or_default().to_string();
    let said = failure.output.as_ref().map(|o| o.both()).unwrap_or_default();
    let vm_log = log.as_deref().map(tail).unwrap_or_default();
    let kernel = tail(VMKERNEL);
    // The host's log tells of everybody's devices: only lines about this VM's own count, and those about the
    // host itself.
    let devices = devices_of(on, seen);
    let ours = |line: &&str| {
        devices.iter().any(|at| line.contains(at.as_str())) || line.contains("Out of interrupt vectors")
    };
    let vm_log = fresh(&vm_log, failure.since).join("\n");
    let kernel = fresh(&kernel, failure.since).into_iter().filter(ours).collect::<Vec<_>>().join("\n");
    let said = format!("{said}\n{}", failure.why);
    // What hostd answered is said anyway; a line of a log is evidence that nobody else shows.
    let quoted = |source: &str, line: &str| match source {
        HOSTD => String::new(),
        log => format!("; {log}: `{}`", line.trim().chars().take(240).collect::<String>()),
    };
    for (source, text) in [("vmware.log", &vm_log), (HOSTD, &said)] {
        if let Some((line, fix)) = text.lines().find_map(|line| Some((line, pages(line)?))) {
            return Some(Explained {
                cause: format!("the VM's MMIO window is too small for its GPUs{}", quoted(source, line)),
                fix,
            });
        }
    }
    // The VM's own log says more than hostd's one sentence, and both are nearer than the host's log.
    let texts = [
        ("vmware.log", &vm_log, vec![Source::VmwareLog]),
        (HOSTD, &said, vec![Source::Task, Source::HostAgent]),
        ("vmkernel.log", &kernel, vec![Source::Vmkernel]),
    ];
    let known = texts.into_iter().find_map(|(source, text, sources)| {
        let input = Input { name: source.into(), text, sources };
        let (finding, Explained { cause, fix }) = first_cause(&[input])?;
        let line = finding.evidence.first().map_or("", |e| e.line.as_str());
        Some(Explained { cause: cause + &quoted(source, line), fix })
    });
    known
        .or_else(|| ignores_the_shutdown(failure).filter(|_| failure.output.is_none()))
        .or_else(|| in_their_own_words(&said, &vm_log, &kernel))
}

/// Lines of a log that are quoted where no cause is known.
const QUOTED: usize = 2;
/// Words of lines that tell of an error.
const ERROR_WORDS: [&str; 8] =
    ["fail", "error", "exceed", "unable", "cannot", "could not", "invalid", "not supported"];

/// Where no cause is known: what hostd says beside its generic sentence, and the last lines of this attempt
/// that tell of an error. Nobody has to log in to the host to see them.
fn in_their_own_words(said: &str, vm_log: &str, kernel: &str) -> Option<Explained> {
    let value = |line: &str, key: &str| {
        let rest = line.trim().strip_prefix(key)?.trim_start().strip_prefix('=')?;
        Some(rest.trim().trim_end_matches(',').trim_matches('"').trim().to_string())
    };
    let generic: Vec<String> =
        said.lines().filter_map(|l| value(l, "msg").or_else(|| value(l, "reason"))).collect();
    let mut all: Vec<String> = said.lines().filter_map(|l| value(l, "message")).collect();
    all.retain(|text| !text.is_empty() && !generic.contains(text));
    all.dedup();
    all.iter_mut().for_each(|text| *text = format!("hostd: `{text}`"));
    for (source, log) in [("vmware.log", vm_log), ("vmkernel.log", kernel)] {
        let tells = |line: &&str| {
            let lower = line.to_lowercase();
            ERROR_WORDS.iter().any(|word| lower.contains(word))
        };
        let lines: Vec<&str> = log.lines().filter(tells).collect();
        let last = lines[lines.len().saturating_sub(QUOTED)..].iter();
        all.extend(
            last.map(|line| format!("{source}: `{}`", line.trim().chars().take(240).collect::<String>())),
        );
    }
    (!all.is_empty()).then(|| Explained {
        cause: format!("no known cause; {}", all.join("; ")),
        fix: "`vsgpu diagnose` looks at host and VM together; `vsgpu explain device-power-on-failed` says where to look"
            .into(),
    })
}

/// Addresses of the VM's fixed devices.
fn devices_of(on: &Subject, seen: &Observation) -> Vec<String> {
    let Ok(vm) = find(on, seen) else { return vec![] };
    let address =
        |slot: Slot| if let Slot::Fixed { at, .. } = slot { at.map(|at| at.to_string()) } else { None };
    slots_of(&vm.vmx, seen).into_values().filter_map(address).collect()
}

/// `total number of pages needed (33566722) exceeds limit (917504)`: pages of 4 KiB say how large the window
/// has to be.
fn pages(line: &str) -> Option<String> {
    let rest = line.split_once("number of pages needed (")?.1;
    let pages: u64 = rest.split(')').next()?.parse().ok()?;
    let gib = pages.checked_mul(4)? >> 20;
    let window = (gib + 1).next_power_of_two().max(32);
    Some(format!(
        "{gib} GiB are asked for: set `mmio: {window}`, and turn on above-4G decoding in the host's BIOS"
    ))
}

/// Lines since a moment. A line without a time of its own belongs to the one before.
fn fresh(text: &str, since: u64) -> Vec<&str> {
    let since = i64::try_from(since).unwrap_or(i64::MAX) - SLACK_SECS;
    let mut counts = false;
    let keep = |line: &&str| {
        if let Some(at) = time_of(line) {
            counts = at >= since;
        }
        counts
    };
    text.lines().filter(keep).collect()
}

/// `2023-07-21T09:40:52.413Z In(05) vmx - ..`, `2015-11-13T07:33:31.700+01:00| vmx| I120: ..`.
fn time_of(line: &str) -> Option<i64> {
    let word = line.split([' ', '|']).next()?;
    OffsetDateTime::parse(word, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsgpu_core::observation::Answer;
    use vsgpu_core::{Command, ExitKind, Output};

    const PAGES: &str = "2023-07-21T09:40:52.413Z In(05) vmx - PCIPassthru: total number of pages needed (33566722) exceeds limit (917504), failing";
    const AT: u64 = 1_689_932_450; // 2023-07-21T09:40:50Z

    fn explained(log: &str, hostd: &str, since: u64) -> Option<Explained> {
        explained_with(log, hostd, since, "")
    }

    fn explained_with(log: &str, hostd: &str, since: u64, kernel: &str) -> Option<Explained> {
        let listing = "Vmid   Name   File                 Guest OS          Version\n3      a      [ds1] a/a.vmx        debian11_64Guest   vmx-19\n";
        let ran = |text: &str| {
            Answer::Ran(Output { ended: ExitKind::Status(0), stdout: text.into(), stderr: String::new() })
        };
        let mut seen = Observation::default();
        seen.0.insert(Probe::Run(Command::new("vim-cmd", ["vmsvc/getallvms"])), ran(listing));
        seen.0.insert(
            Probe::Run(Command::new("esxcli", ["--formatter=xml", "vm", "process", "list"])),
            ran(""),
        );
        seen.0.insert(Probe::Tail("/vmfs/volumes/ds1/a/vmware.log".into()), Answer::Text(Ok(log.into())));
        let vmx = "pciPassthru0.present = \"TRUE\"\npciPassthru0.id = \"00000:094:00.0\"\npciPassthru0.vendorId = \"0x10de\"\npciPassthru0.deviceId = \"0x20f1\"\n";
        seen.0.insert(Probe::Read("/vmfs/volumes/ds1/a/a.vmx".into()), Answer::Text(Ok(vmx.into())));
        seen.0.insert(Probe::Tail(VMKERNEL.into()), Answer::Text(Ok(kernel.into())));
        let output = Output { ended: ExitKind::Status(1), stdout: hostd.into(), stderr: String::new() };
        explain(&Failure { why: "x".into(), output: Some(output), since }, &Subject::vm("a"), &seen)
    }

    #[test]
    fn the_window_is_computed_from_the_pages() {
        let fix = explained(PAGES, "", AT).map(|e| e.fix).unwrap_or_default();
        assert!(fix.contains("128 GiB") && fix.contains("mmio: 256"), "{fix}");
        assert!(pages("pages needed").is_none());
        assert!(
            pages("total number of pages needed (4206594) exceeds")
                .is_some_and(|fix| fix.contains("mmio: 32"))
        );
        assert!(
            pages("total number of pages needed (18446744073709551615) exceeds").is_none(),
            "absurd numbers are no reason to panic"
        );
    }

    #[test]
    fn an_older_attempt_explains_nothing() {
        assert_eq!(explained(PAGES, "", AT + 60), None);
        let old_form = "2023-07-21T11:40:52.413+02:00| vmx| I120: Msg_Post: Error\n[msg.x] The systemId does not match the current system or the deviceId, and the vendorId does not match the device currently at 97:0.0.\n";
        let cause = explained(old_form, "", AT).map(|e| e.cause).unwrap_or_default();
        assert!(
            cause.contains("vmware.log") && cause.contains("97:0.0"),
            "a line without a time belongs to the one before: {cause}"
        );
        assert_eq!(explained(old_form, "", AT + 3600), None);
    }

    #[test]
    fn another_devices_line_in_the_hosts_log_explains_nothing() {
        let line = "2023-07-21T09:40:52.000Z In(182) vmkernel: cpu59:2099897)PCI: 1401: Skipping device reset on 0000:05:00.0 because PCIe link to the device is down.";
        let hostd = "The amount of graphics resource available in the parent resource pool is insufficient for the operation.";
        let cause = explained_with("", hostd, AT, line).map(|e| e.cause).unwrap_or_default();
        assert!(cause.contains("graphics") && !cause.contains("link"), "{cause}");
        assert_eq!(explained_with("", "", AT, line), None);
        // The same line of the VM's own device (94 is 5e) does, as long as it is of this attempt.
        let own = line.replace("0000:05:00.0", "0000:5e:00.0");
        let cause = explained_with("", "Power on failed", AT, &own).map(|e| e.cause).unwrap_or_default();
        assert!(cause.contains("link") && cause.contains("vmkernel.log"), "{cause}");
        assert_eq!(explained_with("", "", AT + 3600, &own), None);
    }

    #[test]
    fn what_nobody_knows_is_quoted() {
        let hostd = "Powering on VM:\nPower on failed: (vim.fault.GenericVmConfigFault) {\n   faultMessage = (vmodl.LocalizableMessage) [\n         message = \"The teapot is cold\"\n   ],\n   reason = \"Module 'DevicePowerOn' power on failed. \",\n   msg = \"Module 'DevicePowerOn' power on failed. \"\n}\n";
        let log = "2023-07-21T09:40:52.413Z In(05) vmx - all well\n2023-07-21T09:40:52.413Z In(05) vmx - Teapot: error 7\n2023-07-21T09:40:52.414Z In(05) vmx - Teapot power on failed.\n";
        let said = explained(log, hostd, AT).unwrap();
        assert!(said.cause.contains("hostd: `The teapot is cold`"), "{said:?}");
        assert!(said.cause.contains("error 7") && said.cause.contains("Teapot power on failed"), "{said:?}");
        assert!(!said.cause.contains("all well") && !said.cause.contains("reason ="), "{said:?}");
        // An older attempt is not quoted.
        assert_eq!(explained(log, "Power on failed", AT + 3600), None);
    }

    #[test]
    fn a_failure_without_words_has_no_cause() {
        assert_eq!(explained("", "Powering on VM:\nPower on failed\n", AT), None);
        let found = explained(
            "",
            "Invalid memory setting: memory reservation (sched.mem.min) should be equal to memsize(32768).",
            AT,
        );
        let found = found.unwrap();
        assert!(found.cause.contains("reserved") && found.fix.contains("memory-reserved: all"), "{found:?}");
    }
}
