//! What the host itself refuses, whoever asks: a change that needs maintenance mode on a host that is not in it, or VMs that are off
//! while some run. The plan sees to both; this is for whoever comes without one.

use crate::host::MaintenanceModeFact;
use vsgpu_core::execute::{self, Outcome};
use vsgpu_core::requirement::Needs;
use vsgpu_core::{Fact as _, FactEntry, Scope, Subject, System};

/// `Agent::gate` of a host. Of a VM's own power its own requirements ask (`vm::config`).
pub(crate) fn gate(system: &dyn System, on: &Subject, needs: Needs) -> Result<(), Outcome> {
    if on.vm.is_some() || needs == Needs::Nothing {
        return Ok(());
    }
    let entry = FactEntry::of::<MaintenanceModeFact>(Scope::Host);
    let fact = execute::observe(system, on, &[entry]).remove(MaintenanceModeFact::NAME);
    let fact = fact.map(|fact| fact.map(serde_json::from_value::<MaintenanceModeFact>));
    let refused = |why: String| {
        let hint = "`vsgpu plan` and `vsgpu apply` enter maintenance mode and shut VMs down where that is needed";
        Err(Outcome::Blocked { why: format!("{why}; nothing was done"), hint: hint.into() })
    };
    match fact {
        Some(Ok(Ok(fact))) if needs == Needs::MaintenanceMode && !fact.enabled => refused("the host is not in maintenance mode".into()),
        Some(Ok(Ok(fact))) if !fact.running.is_empty() => refused(format!("VMs run on the host: {}", fact.running.join(", "))),
        Some(Ok(Ok(_))) => Ok(()),
        Some(Ok(Err(why))) => refused(format!("whether the host is in maintenance mode cannot be seen: {why}")),
        Some(Err(why)) => refused(format!("whether the host is in maintenance mode cannot be seen: {why}")),
        None => refused("whether the host is in maintenance mode cannot be seen".into()),
    }
}
