//! The order of changes on one node: dependencies first, and changes that become active together share one
//! activation.
//!
//! A *stage* is a run of changes followed by their activations. A change that builds on one which is active
//! only after a restart or a reboot belongs to a later stage.

use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::requirement::TakesEffect;
use vsgpu_core::{Catalogue, Scope};

/// All requirements that `name` builds on, directly or not.
pub fn foundations(catalogue: &Catalogue, scope: Scope, name: &str) -> BTreeSet<&'static str> {
    let mut all = BTreeSet::new();
    let mut next: Vec<&str> = catalogue.find(scope, name).map(|e| e.after.to_vec()).unwrap_or_default();
    while let Some(name) = next.pop() {
        if let Some(entry) = catalogue.find(scope, name)
            && all.insert(entry.name)
        {
            next.extend(entry.after);
        }
    }
    all
}

/// Sorts changes of one node into stages. Names keep the order of the catalogue where nothing else decides.
///
/// # Errors
/// The names that wait for each other.
pub fn stages(
    catalogue: &Catalogue,
    scope: Scope,
    changes: &[&'static str],
) -> Result<Vec<Vec<&'static str>>, Vec<&'static str>> {
    let builds_on: BTreeMap<&str, Vec<&'static str>> = changes
        .iter()
        .map(|name| {
            (*name, foundations(catalogue, scope, name).into_iter().filter(|f| changes.contains(f)).collect())
        })
        .collect();
    let mut stage_of: BTreeMap<&str, usize> = BTreeMap::new();
    let mut stages: Vec<Vec<&'static str>> = vec![];
    while stage_of.len() < changes.len() {
        let ready = changes.iter().find(|name| {
            !stage_of.contains_key(*name) && builds_on[*name].iter().all(|f| stage_of.contains_key(f))
        });
        let Some(name) = ready else {
            return Err(changes.iter().filter(|name| !stage_of.contains_key(*name)).copied().collect());
        };
        let later = |f: &&'static str| {
            usize::from(catalogue.find(scope, f).is_some_and(|e| e.takes_effect != TakesEffect::AtOnce))
        };
        let stage = builds_on[name].iter().map(|f| stage_of[f] + later(f)).max().unwrap_or(0);
        stage_of.insert(name, stage);
        stages.resize(stages.len().max(stage + 1), vec![]);
        stages[stage].push(name);
    }
    Ok(stages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vgpu_journey_of_a_host_has_two_stages() {
        let all = crate::catalogue::catalogue();
        let names = ["vgpu-manager", "gpu-management-daemon", "graphics-type", "assignment-policy", "ecc"];
        let stages = stages(all, Scope::Host, &names);
        assert_eq!(
            stages,
            Ok(vec![
                vec!["vgpu-manager", "gpu-management-daemon"],
                vec!["graphics-type", "assignment-policy", "ecc"]
            ])
        );
    }

    #[test]
    fn a_guest_reboots_once_for_nouveau_before_the_driver() {
        let all = crate::catalogue::catalogue();
        let names =
            ["build-tools", "nouveau", "display-manager", "driver", "license", "cuda-toolkit", "cuda-proof"];
        let stages = stages(all, Scope::Guest, &names);
        assert_eq!(
            stages,
            Ok(vec![
                vec!["build-tools", "nouveau"],
                vec!["display-manager", "driver", "license", "cuda-toolkit", "cuda-proof"]
            ])
        );
    }

    #[test]
    fn no_list_has_a_cycle_or_a_stranger() {
        let all = crate::catalogue::catalogue();
        for scope in [Scope::Host, Scope::Vm, Scope::Guest] {
            let names: Vec<_> = all.of(scope).map(|e| e.name).collect();
            assert!(stages(all, scope, &names).is_ok());
            for entry in all.of(scope) {
                assert!(entry.after.iter().all(|name| names.contains(name)), "{}", entry.name);
            }
            let unique: BTreeSet<_> = names.iter().collect();
            assert_eq!(unique.len(), names.len());
        }
    }
}
