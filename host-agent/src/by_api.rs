//! Which call of the vSphere API stands for a command that changes a host or a VM. Pure, and one list for both: plans show
//! it (`shown`), the gateway does it. A command that is not here cannot be done through the API.

use std::fmt;
use vsgpu_core::{Command, Effect};

/// One call that changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// The host's default graphics type, or how its VMs are placed.
    Graphics {
        /// `shared`, `sharedDirect`
        default_type: Option<&'static str>,
        /// `performance`, `consolidation`
        policy: Option<&'static str>,
    },
    /// Type or mode of one GPU.
    GraphicsOf {
        /// Its address.
        gpu: String,
        /// As above.
        graphics_type: Option<&'static str>,
        /// `sameSize`, `mixedSize`
        vgpu_mode: Option<&'static str>,
    },
    /// Gives a GPU away, or takes it back.
    Passthrough {
        /// Its address.
        gpu: String,
        /// Given away.
        enabled: bool,
        /// Without a reboot, where that can be.
        at_once: bool,
    },
    /// The line of options of a module.
    ModuleOptions {
        /// Its name.
        module: String,
        /// All of it.
        line: String,
    },
    /// The acceptance level, in the API's word.
    Acceptance(&'static str),
    /// A service of the host.
    RestartService(&'static str),
    /// A service of the host.
    StopService(&'static str),
    /// A single package, by its path on the host.
    InstallVib(String),
    /// esxcli through the API.
    Esxcli {
        /// `software vib`
        namespace: &'static [&'static str],
        /// `install`
        command: &'static str,
        /// By their long names, without hyphens.
        arguments: Vec<(String, String)>,
    },
    /// Graphics devices are read again.
    RefreshGraphics,
    /// Seconds until it is given up.
    EnterMaintenance(u32),
    /// The same.
    ExitMaintenance(u32),
    /// The host.
    Reboot,
    /// A VM, by its number.
    PowerOn(u32),
    /// The same, at once.
    PowerOff(u32),
    /// The same, by its guest.
    ShutDownGuest(u32),
    /// What another call does, or what is not needed.
    Nothing,
}

/// esxcli's words and the API's (facts: vsphere-api 5).
pub(crate) const GRAPHICS_TYPES: [(&str, &str); 4] =
    [("Basic", "basic"), ("Shared", "shared"), ("Direct", "direct"), ("SharedPassthru", "sharedDirect")];
pub(crate) const POLICIES: [(&str, &str); 2] =
    [("Performance", "performance"), ("Consolidation", "consolidation")];
pub(crate) const MODES: [(&str, &str); 2] = [("SameSize", "sameSize"), ("MixedSize", "mixedSize")];
pub(crate) const LEVELS: [(&str, &str); 4] = [
    ("CommunitySupported", "community"),
    ("PartnerSupported", "partner"),
    ("VMwareAccepted", "vmware_accepted"),
    ("VMwareCertified", "vmware_certified"),
];

const VIB: &[&str] = &["software", "vib"];
const COMPONENT: &[&str] = &["software", "component"];

fn esxcli(namespace: &'static [&'static str], command: &'static str, name: &str, value: &str) -> Call {
    Call::Esxcli { namespace, command, arguments: vec![(name.into(), value.into())] }
}

fn word(list: &[(&str, &'static str)], of_esxcli: &str) -> Option<&'static str> {
    list.iter().find(|(of, _)| *of == of_esxcli).map(|(_, of_api)| *of_api)
}

impl Call {
    /// The call that stands for a command; none where there is none.
    pub fn of(command: &Command) -> Option<Self> {
        let args: Vec<&str> = command.args.iter().map(String::as_str).collect();
        let number = |id: &str| id.parse::<u32>().ok();
        Some(match (command.program.as_str(), args.as_slice()) {
            ("esxcli", ["graphics", "host", "set", "--default-type", kind]) => {
                Self::Graphics { default_type: Some(word(&GRAPHICS_TYPES, kind)?), policy: None }
            }
            ("esxcli", ["graphics", "host", "set", "--shared-passthru-assignment-policy", policy]) => {
                Self::Graphics { default_type: None, policy: Some(word(&POLICIES, policy)?) }
            }
            ("esxcli", ["graphics", "device", "set", "-d", gpu, "-t", kind]) => Self::GraphicsOf {
                gpu: (*gpu).into(),
                graphics_type: Some(word(&GRAPHICS_TYPES, kind)?),
                vgpu_mode: None,
            },
            ("esxcli", ["graphics", "device", "set", "-d", gpu, "-m", mode]) => Self::GraphicsOf {
                gpu: (*gpu).into(),
                graphics_type: None,
                vgpu_mode: Some(word(&MODES, mode)?),
            },
            ("esxcli", ["graphics", "host", "refresh"]) => Self::RefreshGraphics,
            ("esxcli", ["hardware", "pci", "pcipassthru", "set", "-d", gpu, "-e", on, rest @ ..]) => {
                Self::Passthrough { gpu: (*gpu).into(), enabled: *on == "true", at_once: *rest == ["-a"] }
            }
            ("esxcli", ["system", "module", "parameters", "set", "-m", module, "-p", line]) => {
                Self::ModuleOptions { module: (*module).into(), line: (*line).into() }
            }
            ("esxcli", ["software", "acceptance", "set", level]) => {
                Self::Acceptance(word(&LEVELS, level.strip_prefix("--level=")?)?)
            }
            ("esxcli", ["system", "maintenanceMode", "set", "--enable", "true", "--timeout", secs]) => {
                Self::EnterMaintenance(number(secs)?)
            }
            ("esxcli", ["system", "maintenanceMode", "set", "--enable", "false"]) => {
                Self::ExitMaintenance(command.timeout_secs)
            }
            ("esxcli", ["system", "shutdown", "reboot", ..]) => Self::Reboot,
            ("vim-cmd", ["vmsvc/power.on", id]) => Self::PowerOn(number(id)?),
            ("vim-cmd", ["vmsvc/power.off", id]) => Self::PowerOff(number(id)?),
            ("vim-cmd", ["vmsvc/power.shutdown", id]) => Self::ShutDownGuest(number(id)?),
            ("esxcli", ["software", "vib", "install", "-v", path]) => Self::InstallVib((*path).into()),
            ("esxcli", ["software", "vib", "install", "-d", path]) => esxcli(VIB, "install", "depot", path),
            ("esxcli", ["software", "component", "apply", "-d", path]) => {
                esxcli(COMPONENT, "apply", "depot", path)
            }
            ("esxcli", ["software", "vib", "remove", "-n", name]) => esxcli(VIB, "remove", "vibname", name),
            ("esxcli", ["software", "component", "remove", "-n", name]) => {
                esxcli(COMPONENT, "remove", "component", name)
            }
            ("/etc/init.d/nvdGpuMgmtDaemon", ["stop"]) => Self::StopService("nvdGpuMgmtDaemon"),
            ("/etc/init.d/xorg", ["start"]) => Self::RestartService("xorg"),
            // The restart is one call; the engine of NVIDIA's monitoring has none.
            ("/etc/init.d/xorg", ["stop"]) | ("nv-hostengine", _) => Self::Nothing,
            _ => return None,
        })
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |name: &str, value: Option<&str>| value.map(|v| format!(" {name}={v}")).unwrap_or_default();
        match self {
            Self::Graphics { default_type, policy } => write!(
                f,
                "UpdateGraphicsConfig{}{}",
                set("hostDefaultGraphicsType", *default_type),
                set("sharedPassthruAssignmentPolicy", *policy)
            ),
            Self::GraphicsOf { gpu, graphics_type, vgpu_mode } => write!(
                f,
                "UpdateGraphicsConfig deviceType {gpu}{}{}",
                set("graphicsType", *graphics_type),
                set("vgpuMode", *vgpu_mode)
            ),
            Self::Passthrough { gpu, enabled, at_once } => {
                write!(f, "UpdatePassthruConfig {gpu} passthruEnabled={enabled} applyNow={at_once}")
            }
            Self::ModuleOptions { module, line } => write!(f, "UpdateModuleOptionString {module} \"{line}\""),
            Self::Acceptance(level) => write!(f, "UpdateHostImageAcceptanceLevel {level}"),
            Self::RestartService(name) => write!(f, "RestartService {name}"),
            Self::StopService(name) => write!(f, "StopService {name}"),
            Self::InstallVib(path) => write!(f, "InstallHostPatchV2_Task {}", place(path)),
            Self::Esxcli { namespace, command, arguments } => {
                write!(f, "ExecuteSoap esxcli {} {command}", namespace.join(" "))?;
                arguments.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
            }
            Self::RefreshGraphics => f.write_str("RefreshGraphicsManager"),
            Self::EnterMaintenance(secs) => {
                write!(f, "EnterMaintenanceMode_Task timeout={secs} evacuatePoweredOffVms=false")
            }
            Self::ExitMaintenance(secs) => write!(f, "ExitMaintenanceMode_Task timeout={secs}"),
            Self::Reboot => f.write_str("RebootHost_Task force=false"),
            Self::PowerOn(id) => write!(f, "PowerOnVM_Task, VM {id}"),
            Self::PowerOff(id) => write!(f, "PowerOffVM_Task, VM {id}"),
            Self::ShutDownGuest(id) => write!(f, "ShutdownGuest, VM {id}"),
            Self::Nothing => f.write_str("nothing"),
        }
    }
}

/// A file as the API names it: `[datastore1] a/a.vmx`.
pub fn place(path: &str) -> String {
    let file = path.strip_prefix("/vmfs/volumes/").and_then(|rest| rest.split_once('/'));
    file.map_or(path.into(), |(datastore, file)| format!("[{datastore}] {file}"))
}

/// An effect as the API does it; none where nothing is done for it.
pub fn shown(effect: &Effect) -> Option<String> {
    let call = |command: &Command| match Call::of(command) {
        Some(Call::Nothing) => None,
        Some(call) => Some(call.to_string()),
        None => Some(format!("{command}  (not through vCenter)")),
    };
    match effect {
        Effect::Run { command, .. } => call(command),
        Effect::RunUntil { command, otherwise, deadline_secs, .. } => {
            let last = otherwise.as_ref().and_then(call).map(|last| format!(", then {last}"));
            Some(format!("{}  (wait up to {deadline_secs} s{})", call(command)?, last.unwrap_or_default()))
        }
        Effect::ReconfigureVm { path, set, .. } => {
            let one = |(key, value): &(String, Option<String>)| match value {
                Some(value) => format!("{key} = \"{value}\""),
                None => format!("remove {key}"),
            };
            let file = place(path);
            let set: Vec<String> = set.iter().map(one).collect();
            Some(format!("ReconfigVM_Task {file}: {}", set.join("; ")))
        }
        Effect::Evacuate { within_secs, waits_for_people } => {
            let meanwhile = match waits_for_people {
                true => "now move the VMs that DRS leaves: it waits so many seconds",
                false => "VMs that run leave first",
            };
            Some(format!("{}  ({meanwhile})", Call::EnterMaintenance(*within_secs)))
        }
        Effect::SetDrsOptions { cluster, set } => {
            let set: Vec<String> = set.iter().map(|(key, value)| format!("{key}={value}")).collect();
            Some(format!("ReconfigureComputeResource_Task {cluster} drsConfig.option {}", set.join(" ")))
        }
        Effect::AddToImage { of, package, .. } => Some(format!(
            "esx/settings drafts: {} into the image of {of}, validate, scan, commit",
            package.rsplit('/').next().unwrap_or_default()
        )),
        Effect::Remediate { of, base, .. } => Some(format!(
            "esx/settings software of {of} (ESXi {base}): check, apply, only this host  (with its reboot: the next step does nothing then)"
        )),
        Effect::CloneVm { base, from, name, datastore, .. } => Some(format!(
            "CloneVM_Task {base} ({}) name={name} datastore={datastore} powerOn=false",
            place(from)
        )),
        Effect::Require { command, .. }
            if command.args.first().is_some_and(|a| a == "vmsvc/power.getstate") =>
        {
            Some("runtime.powerState  (must be poweredOff)".into())
        }
        // Notes are the agent's own.
        Effect::Write { .. } => None,
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command of a restart and of the reboot has its call.
    #[test]
    fn restarts_and_reboots_are_calls() {
        for effect in crate::catalogue().restarts().iter().flat_map(|restart| (restart.effects)()) {
            let Effect::Run { command, .. } = &effect else { panic!("{effect}") };
            assert!(Call::of(command).is_some(), "{command}");
        }
        assert_eq!(shown(&crate::reboot()).as_deref(), Some("RebootHost_Task force=false"));
    }

    #[test]
    fn a_plan_shows_the_call() {
        let command = |words: &str| Command::new("esxcli", words.split(' '));
        for (words, is) in [
            (
                "graphics host set --default-type SharedPassthru",
                "UpdateGraphicsConfig hostDefaultGraphicsType=sharedDirect",
            ),
            (
                "hardware pci pcipassthru set -d 0000:3b:00.0 -e true -a",
                "UpdatePassthruConfig 0000:3b:00.0 passthruEnabled=true applyNow=true",
            ),
            (
                "software vib install -d /vmfs/volumes/ds/x.zip",
                "ExecuteSoap esxcli software vib install depot=/vmfs/volumes/ds/x.zip",
            ),
            ("software vib install -v /vmfs/volumes/ds/a/x.vib", "InstallHostPatchV2_Task [ds] a/x.vib"),
            ("system settings advanced list", "esxcli system settings advanced list  (not through vCenter)"),
        ] {
            assert_eq!(shown(&Effect::run(command(words))).as_deref(), Some(is));
        }
        assert_eq!(shown(&Effect::run(Command::new("nv-hostengine", ["-t"]))), None);
    }
}
