//! CUDA toolkit, driver and profile: a toolkit needs a driver of its age, and only C and Q types run CUDA.

use crate::compat::combination::{Combination, Finding};
use vsgpu_core::knowledge::cuda;

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    let mut found = vec![];
    if let Some((toolkit, guest)) = c.cuda.as_ref().zip(c.guest.as_ref())
        && let Some(minimum) =
            cuda::minimum(&toolkit.value).filter(|m| !cuda::at_least(&guest.value.version, m.driver))
    {
        let what = format!(
            "{} wants CUDA {}, which needs driver {} or later; {} wants driver {}",
            toolkit.by, toolkit.value, minimum.driver, guest.by, guest.value.version
        );
        let nearest = cuda::newest_for(&guest.value.version)
            .map(|t| format!("the newest toolkit for that driver is {t}"));
        found.push(c.finding(what, minimum.basis, nearest));
    }
    if c.cuda.is_some() || c.proof {
        for (profile, vgpu) in c.types().into_iter().filter(|(_, t)| !t.cuda) {
            let what = format!(
                "{}: the vGPU type {} (series {}) runs no CUDA programs",
                profile.by, vgpu.name, vgpu.series
            );
            let of_size = vsgpu_core::knowledge::vgpu_types::of_token(vgpu.token)
                .filter(|t| t.cuda && t.size_mib == vgpu.size_mib && t.mig == vgpu.mig);
            let nearest: Vec<&str> = of_size.map(|t| t.profile).collect();
            let nearest = (!nearest.is_empty()).then(|| format!("of the same size: {}", nearest.join(", ")));
            found.push(c.finding(what, vgpu.basis.clone(), nearest));
        }
    }
    found
}
