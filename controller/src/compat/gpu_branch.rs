//! GPU and driver branch: the first and the last branch that knows a GPU, the first and the last vGPU
//! release, and the kernel module that drives it.

use crate::compat::combination::{Combination, Finding, Gpu, Module};
use vsgpu_core::knowledge::gpus::{Model, OpenModule};
use vsgpu_core::knowledge::{Basis, releases};
use vsgpu_core::units::DriverVersion;

/// R580 as the last branch for Maxwell, Pascal and Volta is confirmed by itself; the other limits of the
/// table are general knowledge (facts: nvidia 5).
const LAST_BRANCH_CONFIRMED: u32 = 580;

fn uncertain(model: &Model) -> Basis {
    Basis {
        confirmed: false,
        source: format!("{}; {}", model.basis.source, model.status),
        ..model.basis.clone()
    }
}

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    let mut found = vec![];
    let drivers: [Option<(&DriverVersion, &String)>; 2] =
        [c.manager.as_ref().map(|m| (&m.value, &m.by)), c.guest.as_ref().map(|g| (&g.value.version, &g.by))];
    // A vGPU's GPU is one of its profile; a whole GPU is its own.
    let of_profiles =
        c.types().into_iter().filter_map(|(_, t)| vsgpu_core::knowledge::gpus::by_token(t.token));
    let mut models: Vec<&'static Model> = c.whole.iter().filter_map(Gpu::model).chain(of_profiles).collect();
    // A pair that is asked about with a GPU and no profile: a vGPU of that GPU is meant.
    if let ([], true, Some([only])) = (&models[..], c.vgpu(), c.host_gpus.as_deref()) {
        models.extend(only.model());
    }
    models.dedup_by_key(|m| m.name);
    for model in models {
        for (version, by) in drivers.iter().flatten() {
            // The host's manager does not drive a GPU that was given away.
            if c.passthrough && !c.vgpu() && Some(*by) == c.manager.as_ref().map(|m| &m.by) {
                continue;
            }
            if let Some(last) = model.last_branch.filter(|last| version.branch() > *last) {
                let mut basis = uncertain(model);
                basis.confirmed = last == LAST_BRANCH_CONFIRMED;
                let nearest =
                    releases::of_branch(last).and_then(|(major, _)| releases::newest(major)).map(|r| {
                        format!(
                            "the newest of R{last}: host {}, guest {}",
                            r.host,
                            crate::compat::driver_pair::guest_of(r)
                        )
                    });
                found.push(c.finding(
                    format!(
                        "{by}: driver {version} no longer knows {} ({}); R{last} was the last",
                        model.name, model.architecture
                    ),
                    basis,
                    nearest,
                ));
            }
            if let Some(first) = model.first_branch.filter(|first| version.branch() < *first) {
                let nearest = Some(format!("use R{first} or later"));
                found.push(c.finding(
                    format!(
                        "{by}: driver {version} does not know {} yet; R{first} was the first",
                        model.name
                    ),
                    uncertain(model),
                    nearest,
                ));
            }
        }
        if c.vgpu() {
            found.extend(of_release(c, model));
        }
        let module = c.module.as_ref().map(|m| (m.value, model.open_module, &m.by));
        if let Some((asked, knows, by)) = module {
            let mut basis = model.basis.clone();
            basis.confirmed = true;
            match (asked, knows) {
                (Module::Open, OpenModule::No) => {
                    let what = format!(
                        "{by}: the open kernel module does not drive {} ({}): it needs a GPU System Processor",
                        model.name, model.architecture
                    );
                    found.push(c.finding(what, basis, Some("use the proprietary module".into())));
                }
                (Module::Proprietary, OpenModule::Required) => {
                    let what = format!(
                        "{by}: only the open kernel module drives {} ({})",
                        model.name, model.architecture
                    );
                    found.push(c.finding(what, basis, Some("use the open module".into())));
                }
                _ => {}
            }
        }
    }
    found
}

/// First and last vGPU release of a GPU, as far as they are known.
fn of_release(c: &Combination, model: &Model) -> Vec<Finding> {
    let Some(manager) = &c.manager else { return vec![] };
    // `16.1` -> (16, 1), `16.x` -> (16, 0); what is marked as a guess says nothing.
    let number = |text: &str| -> Option<(u32, u32)> {
        let (major, minor) = text.split([' ', '/']).next()?.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().unwrap_or(0))).filter(|_| !text.contains('?'))
    };
    let (first, last) = (model.vgpu_first.and_then(number), model.vgpu_last.and_then(number));
    let mut serves: Vec<(u32, u32)> = c.manager_releases().iter().filter_map(|r| number(r.name)).collect();
    if serves.is_empty() {
        // Of a version that is not in the table only the major is known.
        serves.extend(releases::of_branch(manager.value.branch()).map(|(major, _)| (major, u32::MAX)));
    }
    let Some(major) = serves.first().map(|(major, _)| *major) else { return vec![] };
    let mut found = vec![];
    if model.vgpu_first.is_none() {
        let what = format!(
            "{}: no release of vGPU for vSphere is known to us that serves {}",
            manager.by, model.name
        );
        let nearest = "compare the GPU with NVIDIA's list of supported GPUs for this release";
        found.push(c.finding(what, uncertain(model), Some(nearest.into())));
    }
    if first.is_some_and(|first| serves.iter().all(|s| *s < first)) {
        let what = format!(
            "{}: vGPU {major}.x does not serve {} yet; {} is the first",
            manager.by,
            model.name,
            model.vgpu_first.unwrap_or_default()
        );
        let mut basis = uncertain(model);
        basis.confirmed = model.status.contains("first release confirmed");
        found.push(c.finding(what, basis, None));
    }
    // The last release that a row names may be the newest that there was.
    let newest = releases::built_in().map(|r| r.major).max();
    if last.is_some_and(|(last, _)| major > last && Some(last) == newest) {
        let what = format!(
            "{}: our table knows {} up to vGPU {}; whether {major}.x serves it is not known here",
            manager.by,
            model.name,
            model.vgpu_last.unwrap_or_default()
        );
        let nearest = "compare NVIDIA's list of supported GPUs; a row of your own in gpus.tsv (`vgpu_last_release`) says it";
        found.push(c.finding(what, uncertain(model), Some(nearest.into())).doubtful());
    } else if last.is_some_and(|(last, _)| major > last) {
        let what = format!(
            "{}: vGPU {major}.x no longer serves {}; {} is the last",
            manager.by,
            model.name,
            model.vgpu_last.unwrap_or_default()
        );
        found.push(c.finding(what, uncertain(model), None));
    }
    found
}
