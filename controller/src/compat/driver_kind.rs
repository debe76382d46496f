//! Kind of guest driver: a vGPU takes only the `-grid` one; a whole GPU takes the data-center one, or `-grid`
//! where a licensed product is wanted.

use crate::compat::combination::{Combination, Finding};
use vsgpu_core::knowledge::pairs;

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    let Some(guest) = &c.guest else { return vec![] };
    let version = &guest.value.version;
    match (c.vgpu(), c.passthrough, guest.value.grid) {
        (true, _, Some(false)) => {
            let nearest = c
                .manager_releases()
                .iter()
                .find_map(|r| r.guest.as_ref())
                .map(|v| format!("use NVIDIA-Linux-x86_64-{v}-grid.run"));
            let nearest = nearest.or_else(|| Some("use the `-grid.run` of the host's vGPU release".into()));
            let what = format!(
                "{}: {version} is the data-center driver, which does not drive a vGPU{}",
                guest.by,
                profiles(c)
            );
            pairs::general("any", "data-center")
                .map(|(_, basis)| c.finding(what, basis, nearest))
                .into_iter()
                .collect()
        }
        (false, true, Some(true)) if c.license.is_none() => {
            let what = format!(
                "{}: {version} is the vGPU driver, but the VM has a whole GPU and no license is set",
                guest.by
            );
            let nearest = Some(format!(
                "use the data-center driver ({version} without `-grid`), or wish for a `license` with `feature-type: 2` (workstation) or `4` (compute)"
            ));
            pairs::general("none", "-grid")
                .map(|(_, basis)| c.finding(what, basis, nearest).doubtful())
                .into_iter()
                .collect()
        }
        _ => vec![],
    }
}

fn profiles(c: &Combination) -> String {
    let named: Vec<&str> =
        c.profiles.iter().map(|p| p.value.as_str()).filter(|name| !name.is_empty()).collect();
    if named.is_empty() { String::new() } else { format!(" ({})", named.join(" + ")) }
}
