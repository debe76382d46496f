//! What the host itself refuses, whoever asks: a change that needs maintenance mode on a host that is not in
//! it, or VMs that are off while some run. The plan sees to both; this is for whoever comes without one.

use crate::facts::virtual_machines::VirtualMachines;
use crate::host::MAINTENANCE_MODE;
use crate::host::maintenance_mode::MaintenanceModeFact;
use crate::vm::POWER;
use vsgpu_core::observe::{self, Facts};
use vsgpu_core::outcome::Outcome;
use vsgpu_core::requirement::Needs;
use vsgpu_core::{Fact, FactEntry, Scope, Subject, System};

/// VMs in a message.
const NAMED: usize = 5;

/// `Agent::may_change` of a host. Of a VM's own power its own requirements ask (`facts::vm_config`).
pub(crate) fn may_change(system: &dyn System, on: &Subject, needs: Needs) -> Result<(), Outcome> {
    if on.vm.is_some() || needs == Needs::Nothing {
        return Ok(());
    }
    let entry = FactEntry::of::<MaintenanceModeFact>(Scope::Host);
    let fact = observe::observe(system, on, &[entry]).remove(MaintenanceModeFact::NAME);
    let fact = fact.map(|fact| fact.map(serde_json::from_value::<MaintenanceModeFact>));
    let refused = |why: String| {
        let hint = "somebody ended maintenance mode or started a VM meanwhile: ask, then `vsgpu plan`";
        Err(Outcome::Blocked { why: format!("{why}; nothing was done"), hint: hint.into() })
    };
    match fact {
        Some(Ok(Ok(fact))) if needs == Needs::MaintenanceMode && !fact.enabled => {
            refused("the host is not in maintenance mode".into())
        }
        Some(Ok(Ok(fact))) if !fact.running.is_empty() => {
            let more = fact.running.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            refused(format!(
                "VMs run on the host: {}{more}",
                fact.running.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ")
            ))
        }
        Some(Ok(Ok(_))) => Ok(()),
        Some(Ok(Err(why))) => refused(format!("maintenance mode cannot be read: {why}")),
        Some(Err(why)) => refused(format!("maintenance mode cannot be read: {why}")),
        None => refused("maintenance mode cannot be read".into()),
    }
}

/// `Agent::looks` of a host.
pub(crate) fn looks(facts: &Facts) -> Vec<vsgpu_wire::acquired::Look> {
    let maintenance = observe::typed::<MaintenanceModeFact>(facts)
        .map(|fact| (MAINTENANCE_MODE, String::new(), fact.enabled));
    let listed = observe::typed::<VirtualMachines>(facts).map(|listed| listed.vms);
    let all_listed = listed.is_some().then(|| (POWER, String::new(), false));
    let vms = listed.into_iter().flatten().map(|vm| (POWER, vm.name, !vm.running));
    maintenance.into_iter().chain(all_listed).chain(vms).collect()
}
