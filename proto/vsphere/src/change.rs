//! Calls that change a host or a VM. Each is sent once; only one that a server refused because the session had ended is sent
//! again, for then it did nothing. Arguments in the order of the schema.

use crate::fault::Fault;
use crate::host::Graphics;
use crate::host_methods::Managers;
use crate::session::Session;
use crate::soap::{Ref, around, object, text, typed};
use crate::vm::Backing;
use vsgpu_core::readers::xml::Element;

/// A change of a VM's settings; what is none stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigSpec {
    /// Which state of the settings it is made for: the server refuses it where somebody changed them since.
    pub change_version: Option<String>,
    /// Keys of devices that go.
    pub removed: Vec<i32>,
    /// Devices that come.
    pub added: Vec<Backing>,
    /// MHz.
    pub cpu_reserved: Option<i64>,
    /// MiB.
    pub memory_reserved: Option<i64>,
    /// Settings; an empty value drops one.
    pub extra: Vec<(String, String)>,
    /// All memory is reserved, whatever its size becomes.
    pub memory_locked: Option<bool>,
}

impl ConfigSpec {
    /// In the order of the schema (facts: vsphere-api 6).
    fn xml(&self) -> String {
        let number = |name: &str, n: i64| around(name, &text("reservation", &n.to_string()));
        let mut inside = self.change_version.as_ref().map(|v| text("changeVersion", v)).unwrap_or_default();
        for key in &self.removed {
            let device = typed("device", "VirtualPCIPassthrough", &text("key", &key.to_string()));
            inside += &around("deviceChange", &(text("operation", "remove") + &device));
        }
        for (at, backing) in self.added.iter().enumerate() {
            // Keys of new devices are negative and differ.
            let key = text("key", &(-1 - i32::try_from(at).unwrap_or_default()).to_string());
            let device = typed("device", "VirtualPCIPassthrough", &(key + &of_backing(backing)));
            inside += &around("deviceChange", &(text("operation", "add") + &device));
        }
        inside += &self.cpu_reserved.map(|n| number("cpuAllocation", n)).unwrap_or_default();
        inside += &self.memory_reserved.map(|n| number("memoryAllocation", n)).unwrap_or_default();
        for (key, value) in &self.extra {
            inside +=
                &around("extraConfig", &(text("key", key) + &typed("value", "xsd:string", &inner(value))));
        }
        inside += &self
            .memory_locked
            .map(|on| text("memoryReservationLockedToMax", &on.to_string()))
            .unwrap_or_default();
        around("spec", &inside)
    }
}

/// Text between two tags.
fn inner(value: &str) -> String {
    let whole = text("x", value);
    whole[3..whole.len() - 4].to_string()
}

fn of_backing(backing: &Backing) -> String {
    let (kind, inside) = match backing {
        Backing::Vgpu(profile) => ("VirtualPCIPassthroughVmiopBackingInfo", text("vgpu", profile)),
        Backing::Fixed { id, device, system, vendor } => (
            "VirtualPCIPassthroughDeviceBackingInfo",
            text("deviceName", "")
                + &text("id", id)
                + &text("deviceId", device)
                + &text("systemId", system)
                + &text("vendorId", &vendor.to_string()),
        ),
        Backing::Dynamic(allowed) => {
            let one = |(vendor, device): &(i32, i32)| {
                let ids = text("vendorId", &vendor.to_string()) + &text("deviceId", &device.to_string());
                around("allowedDevice", &ids)
            };
            (
                "VirtualPCIPassthroughDynamicBackingInfo",
                text("deviceName", "") + &allowed.iter().map(one).collect::<String>(),
            )
        }
        Backing::Other => return String::new(),
    };
    typed("backing", kind, &inside)
}

impl Session {
    /// One call that changes something.
    fn change(&mut self, method: &str, this: &Ref, arguments: &str) -> Result<Vec<Element>, Fault> {
        self.within_session(|session| session.look(method, this, arguments))
    }

    /// The same for one that starts a task.
    pub(crate) fn start(&mut self, method: &str, this: &Ref, arguments: &str) -> Result<Ref, Fault> {
        let found = self.change(method, this, arguments)?;
        found.first().and_then(Ref::of).ok_or_else(|| Fault::said(format!("{method} gave no task")))
    }
}

/// Starts a VM, on this host.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn power_on(session: &mut Session, vm: &Ref, host: Option<&Ref>) -> Result<Ref, Fault> {
    let host = host.map(|host| object("host", host)).unwrap_or_default();
    session.start("PowerOnVM_Task", vm, &host)
}

/// Stops a VM at once.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn power_off(session: &mut Session, vm: &Ref) -> Result<Ref, Fault> {
    session.start("PowerOffVM_Task", vm, "")
}

/// Asks a VM's guest to shut down; it does so later, or never.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn shut_down_guest(session: &mut Session, vm: &Ref) -> Result<(), Fault> {
    session.change("ShutdownGuest", vm, "").map(|_| ())
}

/// Changes a VM's settings.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn reconfigure(session: &mut Session, vm: &Ref, spec: &ConfigSpec) -> Result<Ref, Fault> {
    session.start("ReconfigVM_Task", vm, &spec.xml())
}

/// Enters or leaves maintenance mode, giving up after so many seconds.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn maintenance(session: &mut Session, host: &Ref, enter: bool, secs: u32) -> Result<Ref, Fault> {
    let timeout = text("timeout", &secs.to_string());
    match enter {
        true => {
            let arguments = timeout + &text("evacuatePoweredOffVms", "false");
            session.start("EnterMaintenanceMode_Task", host, &arguments)
        }
        false => session.start("ExitMaintenanceMode_Task", host, &timeout),
    }
}

/// Sets advanced options of DRS of a cluster. `all`: with those that it has already, as the server may take the list whole.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn set_drs_options(session: &mut Session, cluster: &Ref, all: &[(String, String)]) -> Result<Ref, Fault> {
    let option = |(key, value): &(String, String)| {
        around("option", &(text("key", key) + &typed("value", "xsd:string", &inner(value))))
    };
    let options: String = all.iter().map(option).collect();
    let spec = typed("spec", "ClusterConfigSpecEx", &around("drsConfig", &options));
    session.start("ReconfigureComputeResource_Task", cluster, &(spec + &text("modify", "true")))
}

/// Reboots a host that is in maintenance mode.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn reboot(session: &mut Session, host: &Ref) -> Result<Ref, Fault> {
    session.start("RebootHost_Task", host, &text("force", "false"))
}

impl Managers {
    /// Sets all graphics settings of a host: the server takes them whole.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub fn set_graphics(&self, session: &mut Session, settings: &Graphics) -> Result<(), Fault> {
        let own = settings.own.iter().map(|(gpu, (kind, mode))| {
            let mode = mode.as_ref().map(|mode| text("vgpuMode", mode)).unwrap_or_default();
            around("deviceType", &(text("deviceId", gpu) + &text("graphicsType", kind) + &mode))
        });
        let inside = text("hostDefaultGraphicsType", &settings.default_type)
            + &text("sharedPassthruAssignmentPolicy", &settings.policy)
            + &own.collect::<String>();
        session.change("UpdateGraphicsConfig", self.graphics()?, &around("config", &inside)).map(|_| ())
    }

    /// Reads graphics devices again.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub fn refresh_graphics(&self, session: &mut Session) -> Result<(), Fault> {
        session.change("RefreshGraphicsManager", self.graphics()?, "").map(|_| ())
    }

    /// Gives a GPU away, or takes it back.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub fn set_passthrough(
        &self,
        session: &mut Session,
        gpu: &str,
        enabled: bool,
        at_once: Option<bool>,
    ) -> Result<(), Fault> {
        let at_once = at_once.map(|on| text("applyNow", &on.to_string())).unwrap_or_default();
        let inside = text("id", gpu) + &text("passthruEnabled", &enabled.to_string()) + &at_once;
        let config = typed("config", "HostPciPassthruConfig", &inside);
        session.change("UpdatePassthruConfig", self.passthrough()?, &config).map(|_| ())
    }

    /// Sets the whole line of a module's options.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub fn set_options(&self, session: &mut Session, module: &str, line: &str) -> Result<(), Fault> {
        let arguments = text("name", module) + &text("options", line);
        session.change("UpdateModuleOptionString", self.module_system()?, &arguments).map(|_| ())
    }

    /// Sets the acceptance level.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub fn set_acceptance(&self, session: &mut Session, level: &str) -> Result<(), Fault> {
        let arguments = text("newAcceptanceLevel", level);
        session.change("UpdateHostImageAcceptanceLevel", self.image()?, &arguments).map(|_| ())
    }

    /// Installs single packages (`.vib`) from where the host finds them. Below vCenter 9 only.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub fn install_vibs(&self, session: &mut Session, urls: &[String]) -> Result<Ref, Fault> {
        let urls: String = urls.iter().map(|url| text("vibUrls", url)).collect();
        session.start("InstallHostPatchV2_Task", self.patch()?, &urls)
    }

    /// Stops a service of the host; the fault `NotFound` where there is none.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub fn stop_service(&self, session: &mut Session, id: &str) -> Result<(), Fault> {
        session.change("StopService", self.services()?, &text("id", id)).map(|_| ())
    }

    /// Restarts a service of the host; the fault `NotFound` where there is none.
    ///
    /// # Errors
    /// What the server said, or why it is not heard.
    pub fn restart_service(&self, session: &mut Session, id: &str) -> Result<(), Fault> {
        session.change("RestartService", self.services()?, &text("id", id)).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_a_vm_is_in_the_order_of_the_schema() {
        let spec = ConfigSpec {
            change_version: Some("7".into()),
            removed: vec![13_000],
            added: vec![Backing::Vgpu("grid_a100-40c".into()), Backing::Dynamic(vec![(4318, 8433)])],
            cpu_reserved: Some(8_000),
            memory_reserved: None,
            extra: vec![("a<b".into(), String::new())],
            memory_locked: Some(true),
        };
        let xml = spec.xml();
        let order = [
            "<changeVersion>",
            "<operation>remove",
            "<key>-1<",
            "<key>-2<",
            "<cpuAllocation>",
            "<extraConfig>",
            "<memoryReservationLockedToMax>",
        ];
        let places: Vec<usize> =
            order.iter().map(|of| xml.find(of).unwrap_or_else(|| panic!("{of}: {xml}"))).collect();
        assert!(places.is_sorted(), "{xml}");
        assert!(xml.contains("<key>a&lt;b</key><value xsi:type=\"xsd:string\"></value>"), "{xml}");
    }
}
