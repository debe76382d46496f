//! Health of a guest's GPUs, looked at as often as the metrics are: what the driver, its counters and the
//! kernel's log say, each finding with its severity and what to do. Never a wish: health is reported, not
//! made.

use crate::facts::driver_module::module_version;
use crate::facts::gridd_log::expiry;
use crate::facts::kernel_log;
use crate::facts::os::kernel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::diagnosis::{Input, Source, first_cause};
use vsgpu_core::knowledge::xids::{self, Severity};
use vsgpu_core::readers::nvidia_smi::{self, Gpu, SmiFailure, SmiReport, is_licensed};
use vsgpu_core::requirement::Explained;
use vsgpu_core::{ExitKind, Fact, Observation, Probe, Subject, Unreadable};

/// The loaded module's own words; the file is there only while it is loaded.
const LOADED: &str = "/proc/driver/nvidia/version";
/// Seconds before its end at which a license is worth a warning. A lease of NLS is for a day and renewed long
/// before its end.
const LICENSE_SOON: u64 = 3600;

/// Health of a guest.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// The worst of the findings; `info` without any.
    pub worst: Option<Severity>,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
    /// The kernel module is loaded.
    pub loaded: bool,
    /// Version of the loaded module.
    pub module: Option<String>,
    /// Version of the module on disk for this kernel.
    pub on_disk: Option<String>,
    /// Xid events of this boot, by GPU and code.
    pub xids: Vec<XidSeen>,
    /// When the license ends, seconds since 1970; absent where it does not, or none is there.
    pub license_expires: Option<u64>,
    /// Seconds since 1970 when this was looked at, by the guest's clock.
    pub at: u64,
}

/// Xid events of one code on one GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct XidSeen {
    /// PCI address, as the driver writes it.
    pub gpu: String,
    /// Code.
    pub code: u32,
    /// NVIDIA's meaning, or its name for it.
    pub meaning: String,
    /// How bad.
    pub severity: Severity,
    /// How often in this boot.
    pub count: u32,
    /// The last time, seconds since 1970.
    pub last: u64,
    /// What the driver said then.
    pub text: String,
}

/// Something that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// PCI address, where it is about one GPU.
    pub gpu: Option<String>,
    /// What is so.
    pub what: String,
    /// What to do.
    pub fix: String,
}

impl Fact for Health {
    const NAME: &'static str = "health";
    const ABOUT: &'static str = "Health of the GPUs: driver, Xid events, memory errors, throttling, license";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = vec![Probe::Read(LOADED.into()), Probe::KernelRelease, Probe::Now];
        probes.extend([nvidia_smi::query(), kernel_log::command()].map(Probe::Run));
        probes.extend(kernel(seen).ok().map(|k| Probe::Run(module_version(&k))));
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let at = seen.text(&Probe::Now)?.and_then(|t| t.parse().ok()).unwrap_or_default();
        let loaded = seen.file(LOADED)?;
        let report = nvidia_smi::report(seen);
        let said = seen.output(&nvidia_smi::query())?;
        let on_disk = kernel(seen)
            .ok()
            .and_then(|k| seen.stdout_if_ok(&module_version(&k)).map(|v| v.trim().to_string()));
        let mut health = Self {
            loaded: loaded.is_some(),
            module: loaded.and_then(loaded_version),
            on_disk: on_disk.filter(|v| !v.is_empty()),
            xids: xids_of(seen.stdout_if_ok(&kernel_log::command()).unwrap_or_default()),
            at,
            ..Self::default()
        };
        let hangs = matches!(said.ended, ExitKind::TimedOut(_));
        let kernel = seen.stdout_if_ok(&kernel_log::command()).unwrap_or_default();
        let failure = report.as_ref().err().map(|_| nvidia_smi::failure(&said.both()));
        let mut found = health.of_driver(hangs, failure, kernel);
        for gpu in report.iter().flat_map(|r: &SmiReport| &r.gpus) {
            found.extend(of_gpu(gpu));
            found.extend(health.of_license(gpu));
        }
        found.extend(health.xids.iter().filter(|x| x.severity >= Severity::Warning).map(of_xid));
        found.sort_by_key(|f| std::cmp::Reverse(f.severity));
        health.worst = found.first().map(|f| f.severity);
        health.findings = found;
        Ok(health)
    }
    fn sentence(&self) -> Option<String> {
        let driver = match &self.module {
            Some(version) => format!("driver {version} loaded"),
            None if self.loaded => "driver loaded".into(),
            None => "driver not loaded".into(),
        };
        let found = self.findings.iter().map(|finding| finding.what.clone());
        Some(format!("{driver}; {}", vsgpu_core::words::first(found, 3, "nothing is wrong")))
    }
}

/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 ...`; the open one says `Open
/// Kernel Module for x86_64  570...`.
pub fn loaded_version(text: &str) -> Option<String> {
    let line = text.lines().find(|l| l.starts_with("NVRM version"))?;
    line.split_whitespace().find(|w| w.parse::<vsgpu_core::units::DriverVersion>().is_ok()).map(String::from)
}

fn xids_of(log: &str) -> Vec<XidSeen> {
    let mut all: BTreeMap<(String, u32), XidSeen> = BTreeMap::new();
    for (at, line) in kernel_log::lines(log) {
        let Some((gpu, code, text)) = xids::read(line) else { continue };
        let known = xids::of_code(code);
        let words = known.map_or("", |x| if x.meaning.is_empty() { x.mnemonic } else { x.meaning });
        let new = || XidSeen {
            gpu: gpu.clone(),
            code,
            meaning: words.into(),
            severity: known.map_or(Severity::Warning, |x| x.severity),
            count: 0,
            last: 0,
            text: String::new(),
        };
        let seen = all.entry((gpu.clone(), code)).or_insert_with(new);
        seen.count += 1;
        seen.last = at;
        seen.text = text.chars().take(200).collect();
    }
    all.into_values().collect()
}

fn of_xid(xid: &XidSeen) -> Finding {
    let times = if xid.count > 1 { format!(", {} times", xid.count) } else { String::new() };
    let advice = xids::of_code(xid.code).map_or("", |x| x.action);
    Finding {
        severity: xid.severity,
        gpu: Some(xid.gpu.clone()),
        what: format!("Xid {} ({}){times}: {}", xid.code, xid.meaning, xid.text),
        fix: xids::advice(advice).into(),
    }
}

fn finding(severity: Severity, gpu: Option<&Gpu>, what: String, fix: &str) -> Finding {
    Finding { severity, gpu: gpu.map(|g| g.bus_id.clone()), what, fix: fix.into() }
}

fn of_gpu(gpu: &Gpu) -> Vec<Finding> {
    let mut found = vec![];
    if let Some(ecc) = gpu.ecc_errors.filter(|e| e.uncorrected > 0) {
        let what =
            format!("{} memory error(s) since the driver was loaded could not be corrected", ecc.uncorrected);
        found.push(finding(
            Severity::Critical,
            Some(gpu),
            what,
            "power-cycle the VM; if it comes back, have the board looked at",
        ));
    }
    if let Some(rows) = gpu.remapped_rows {
        if rows.failed {
            let what = "a broken row of memory could not be replaced: no spare row is left".into();
            found.push(finding(Severity::Critical, Some(gpu), what, "have the board replaced"));
        } else if rows.pending {
            let what = "a row of memory waits to be replaced".into();
            found.push(finding(
                Severity::Warning,
                Some(gpu),
                what,
                "reset the GPU: power-cycle the VM when its work is done",
            ));
        }
    }
    for reason in &gpu.slowdowns {
        let (what, fix) = match reason.as_str() {
            "hw_power_brake_slowdown" => {
                ("the clocks are held down by the board's power brake", "look at the host's power supplies")
            }
            "hw_thermal_slowdown" | "sw_thermal_slowdown" => {
                ("the clocks are held down by heat", "look at the host's fans and its air")
            }
            _ => ("the clocks are held down by the hardware", "look at power and heat of the host"),
        };
        found.push(finding(Severity::Warning, Some(gpu), format!("{what} ({reason})"), fix));
    }
    found
}

impl Health {
    /// `kernel`: the kernel's log of this boot, which knows why a module drives nothing.
    fn of_driver(&self, hangs: bool, failure: Option<Option<SmiFailure>>, kernel: &str) -> Vec<Finding> {
        let mut found = vec![];
        let mut say = |severity, what: String, fix: &str| found.push(finding(severity, None, what, fix));
        match failure {
            _ if hangs => say(
                Severity::Critical,
                "nvidia-smi does not answer: the driver or the GPU is stuck".into(),
                "look for Xid lines in `dmesg`; power-cycle the VM",
            ),
            Some(Some(SmiFailure::DeviceHandle)) => say(
                Severity::Critical,
                "a GPU does not answer: it has fallen off the bus".into(),
                "power-cycle the VM, then the host; look at power, seat and above-4G decoding",
            ),
            Some(Some(SmiFailure::VersionMismatch)) => say(
                Severity::Critical,
                "library and loaded module of the driver have different versions".into(),
                "reboot the guest; hold the driver's packages (`driver-held`)",
            ),
            Some(Some(why @ (SmiFailure::NoLibrary | SmiFailure::NoPermission))) => say(
                Severity::Critical,
                why.to_string(),
                "install the driver anew, or look at the rights of /dev/nvidia*",
            ),
            Some(_) if self.loaded => {
                let input =
                    Input { name: "kernel log".into(), text: kernel, sources: vec![Source::GuestKernel] };
                match first_cause(&[input]) {
                    Some((_, Explained { cause, fix })) => {
                        say(Severity::Critical, format!("the driver drives no GPU: {cause}"), &fix);
                    }
                    None => say(
                        Severity::Critical,
                        "the driver is loaded, but drives no GPU".into(),
                        "read the lines of NVRM in `dmesg`; compare host and guest driver with `vsgpu compat`",
                    ),
                }
            }
            Some(_) if self.on_disk.is_some() => say(
                Severity::Critical,
                "the driver is installed, but not loaded".into(),
                "run `vsgpu plan`: it says why and what to do",
            ),
            // A guest without any driver is not ill.
            _ => {}
        }
        if let (Some(module), Some(disk)) = (&self.module, &self.on_disk)
            && module != disk
        {
            say(
                Severity::Warning,
                format!(
                    "module {module} is loaded, {disk} is installed: the next start of a program may fail"
                ),
                "reboot the guest",
            );
        }
        found
    }

    fn of_license(&mut self, gpu: &Gpu) -> Vec<Finding> {
        let Some(status) = gpu.license_status.as_deref() else { return vec![] };
        if !is_licensed(status) {
            let (severity, what) = match status {
                s if s.contains("Restricted") && !s.contains("Unrestricted") => {
                    (Severity::Critical, "no license: the vGPU is throttled")
                }
                s if s.contains("Unrestricted") => {
                    (Severity::Warning, "no license yet: the vGPU works unrestricted for a time")
                }
                _ => (Severity::Critical, "no license"),
            };
            return vec![finding(
                severity,
                Some(gpu),
                what.into(),
                "`vsgpu plan` says the reason; `journalctl -u nvidia-gridd` in the guest has the daemon's own words",
            )];
        }
        let Some(end) = expiry(status) else { return vec![] };
        self.license_expires = Some(self.license_expires.map_or(end, |old| old.min(end)));
        if end <= self.at {
            let what = "the license has ended by this guest's clock".into();
            return vec![finding(
                Severity::Critical,
                Some(gpu),
                what,
                "look at the clock and at the license server",
            )];
        }
        if end - self.at < LICENSE_SOON {
            let what = format!("the license ends in {} minutes and was not renewed", (end - self.at) / 60);
            return vec![finding(
                Severity::Warning,
                Some(gpu),
                what,
                "look whether the guest reaches its license server",
            )];
        }
        vec![]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xids_are_counted_with_their_meaning() {
        let log = "1700000000.1 vm kernel: NVRM: Xid (PCI:0000:02:00): 31, pid=1, MMU Fault\n1700000009.1 vm kernel: NVRM: Xid (PCI:0000:02:00): 31, pid=2, MMU Fault\n1700000010.1 vm kernel: NVRM: Xid (PCI:0000:02:00): 79, GPU has fallen off the bus.\n";
        let all = xids_of(log);
        assert_eq!(
            all.iter().map(|x| (x.code, x.count, x.last)).collect::<Vec<_>>(),
            [(31, 2, 1_700_000_009), (79, 1, 1_700_000_010)]
        );
        assert!(all[1].severity == Severity::Critical && of_xid(&all[1]).fix.contains("host"));
    }

    /// What the module drives nothing for stands in the kernel's log.
    #[test]
    fn a_driver_without_a_gpu_says_the_kernels_reason() {
        let health = Health { loaded: true, ..Health::default() };
        let said = |kernel: &str| {
            let found = health.of_driver(false, Some(Some(SmiFailure::NoDevices)), kernel);
            format!("{}; {}", found[0].what, found[0].fix)
        };
        let open = "1795633000.1 vm kernel: NVRM: The NVIDIA GPU 0000:02:00.0 (PCI ID: 10de:2bb5)\n1795633000.1 vm kernel: NVRM: installed in this system requires use of the NVIDIA open kernel modules.\n1795633000.2 vm kernel: NVRM: GPU 0000:02:00.0: RmInitAdapter failed! (0x22:0x56:884)\n";
        assert!(
            said(open).contains("open kernel module") && said(open).contains("kernel-module: open"),
            "{}",
            said(open)
        );
        let bar = "1795633000.1 vm kernel: NVRM: This PCI I/O region assigned to your NVIDIA device is invalid:\n1795633000.1 vm kernel: NVRM: BAR1 is 0M @ 0x0 (PCI:0000:02:00.0)\n";
        assert!(said(bar).contains("BAR1") && said(bar).contains("mmio"), "{}", said(bar));
        assert!(said("").contains("vsgpu compat"));
    }

    #[test]
    fn a_sick_gpu_says_why_and_a_sound_one_nothing() {
        use vsgpu_core::readers::nvidia_smi::{EccErrors, RemappedRows};
        let sound = Gpu {
            bus_id: "0000:02:00.0".into(),
            ecc_errors: Some(EccErrors::default()),
            remapped_rows: Some(RemappedRows::default()),
            ..Gpu::default()
        };
        assert!(of_gpu(&sound).is_empty());
        let sick = Gpu {
            ecc_errors: Some(EccErrors { corrected: 9, uncorrected: 1, uncorrected_ever: 1 }),
            remapped_rows: Some(RemappedRows {
                correctable: 0,
                uncorrectable: 1,
                pending: true,
                failed: false,
            }),
            slowdowns: vec!["hw_thermal_slowdown".into()],
            ..sound
        };
        assert_eq!(of_gpu(&sick).len(), 3);
    }

    #[test]
    fn a_license_that_ends_is_told_before() {
        let mut health = Health { at: 1_800_000_000, ..Health::default() };
        let gpu = |status: &str| Gpu { license_status: Some(status.into()), ..Gpu::default() };
        let mut worst = |status: &str| health.of_license(&gpu(status)).first().map(|f| f.severity);
        assert_eq!(worst("Licensed (Expiry: N/A)"), None);
        assert_eq!(
            worst("Licensed (Expiry: 2027-1-15 8:30:0 GMT)"),
            Some(Severity::Warning),
            "half an hour is left"
        );
        assert_eq!(worst("Licensed (Expiry: 2027-1-2 3:4:5 GMT)"), Some(Severity::Critical));
        assert_eq!(worst("Licensed (Expiry: 2028-1-2 3:4:5 GMT)"), None);
        assert_eq!(worst("Unlicensed (Unrestricted)"), Some(Severity::Warning));
        assert_eq!(worst("Unlicensed (Restricted)"), Some(Severity::Critical));
    }

    #[test]
    fn versions_of_both_kinds_of_module_are_read() {
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.63.01  Tue Aug  3 20:44:16 UTC 2021\nGCC version:  gcc 4.8.5\n";
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.03  Release Build\n";
        assert_eq!(
            (loaded_version(closed).as_deref(), loaded_version(open).as_deref()),
            (Some("470.63.01"), Some("580.159.03"))
        );
    }
}
