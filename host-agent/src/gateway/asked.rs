//! One host of a site, to ask and to change it: what is known of it, its managers, and the tasks that were begun on it.

use super::site::Site;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use vsgpu_machine::Posix;
use vsgpu_vsphere::host::HostDetails;
use vsgpu_vsphere::host_methods::Managers;
use vsgpu_vsphere::inventory::Host;
use vsgpu_vsphere::{Fault, Session};

/// Tasks that this process began on a host.
#[derive(Default)]
pub(super) struct Tasks {
    /// Those that are waited for, by their ids.
    pub own: BTreeSet<String>,
    /// What threads have to tell of theirs.
    pub told: Vec<(ThreadId, String)>,
}

/// One host of a site.
pub(super) struct Asked<'a> {
    pub site: &'a Site,
    pub host: &'a Host,
    /// Tasks that were begun here.
    pub tasks: &'a Mutex<Tasks>,
    /// What is kept of the host; none for a visit.
    pub memory: Option<&'a Posix>,
}

/// What the server refused, for somebody who runs vsgpu.
pub(super) fn refused(fault: &Fault) -> String {
    match &fault.privilege {
        Some(privilege) => {
            format!(
                "the account lacks the privilege {privilege} (`vsgpu-host-agent gateway check` says where)"
            )
        }
        None => fault.to_string(),
    }
}

impl Asked<'_> {
    /// What is known of the host while vCenter reaches it: else it is old.
    pub fn details(&self) -> Result<Arc<HostDetails>, String> {
        let details = self.site.details(&self.host.of).map_err(|fault| refused(&fault))?;
        match details.connection.as_str() {
            "connected" => Ok(details),
            state => {
                let shown = match state {
                    "notResponding" => "Not responding",
                    "disconnected" => "Disconnected",
                    other => other,
                };
                Err(format!(
                    "vCenter shows {} as \"{shown}\": connect it again in the vSphere Client",
                    self.host.name
                ))
            }
        }
    }

    pub(super) fn method<T>(
        &self,
        call: impl FnOnce(&Managers, &mut Session) -> Result<T, Fault>,
    ) -> Result<T, String> {
        // A host that is away would hold a connection until it gives up.
        self.details()?;
        let called = self.site.with(|session| {
            let managers = self.site.managers(session, &self.host.of)?;
            call(&managers, session)
        });
        called.map_err(|fault| refused(&fault))
    }
}
