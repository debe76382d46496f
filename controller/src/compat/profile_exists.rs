//! vGPU profile and the host's GPUs: the profile is one of a GPU that is there. The host's own list of
//! supported types wins over the table.

use crate::compat::combination::{Combination, Finding, Gpu};
use vsgpu_core::knowledge::{Basis, gpus, vgpu_types};

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    let each = c.profiles.iter().filter_map(|profile| one(c, &profile.value, &profile.by));
    each.chain(several(c)).collect()
}

/// Several vGPUs in one VM are of the C and Q series.
fn several(c: &Combination) -> Option<Finding> {
    let of_one = c.types().into_iter().find(|(_, t)| matches!(t.series, "A" | "B"))?;
    (c.profiles.len() > 1).then(|| {
        let (profile, vgpu) = of_one;
        let basis = Basis::document("NVIDIA's vGPU user guide, multiple vGPUs: C and Q series", false);
        let what = format!(
            "{}: a VM has one vGPU of the {} series, not {}",
            profile.by,
            vgpu.series,
            c.profiles.len()
        );
        let same = vgpu_types::of_token(vgpu.token).find(|t| t.size_mib == vgpu.size_mib && t.series == "Q");
        c.finding(what, basis, same.map(|t| format!("of the same size there is {}", t.profile)))
    })
}

fn one(c: &Combination, profile: &str, by: &str) -> Option<Finding> {
    let wanted = vgpu_types::plain(profile);
    if let Some(supported) = c.supported.as_ref().filter(|list| !list.is_empty()) {
        if supported.iter().any(|name| vgpu_types::plain(name) == wanted) {
            return None;
        }
        let names: Vec<String> = supported.iter().map(|n| vgpu_types::plain(n)).collect();
        let basis = Basis::document("the host's own list: nvidia-smi vgpu -s", true);
        // MIG and graphics type change what a host lists: only a family it does not have at all is certain.
        let family = |name: &str| name.split('-').next().unwrap_or_default().to_string();
        let certain =
            vgpu_types::find(profile).is_some() && names.iter().all(|n| family(n) != family(&wanted));
        let finding = c.finding(
            format!("{by}: the host does not list the vGPU type `{profile}`"),
            basis,
            near(profile, names.iter().map(String::as_str)),
        );
        return Some(if certain { finding } else { finding.doubtful() });
    }
    let known = vgpu_types::find(profile);
    let gpus = c.host_gpus.as_ref().filter(|gpus| !gpus.is_empty());
    let listed = |gpus: &[Gpu]| {
        gpus.iter()
            .map(Gpu::shown)
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
            .join(", ")
    };
    match (known, gpus) {
        (None, _) => {
            // A token that is known with a size that is not: the table may be older than the driver.
            let token = wanted.split('-').next().unwrap_or_default().to_string();
            let of_token: Vec<String> =
                vgpu_types::of_token(&token).map(|t| vgpu_types::plain(t.profile)).collect();
            let basis = Basis {
                table: "vgpu_types.tsv",
                row: "none".into(),
                confirmed: false,
                source: "no row has this name".into(),
            };
            let all = vgpu_types::all()
                .iter()
                .map(|t| t.profile.trim_start_matches("grid_").trim_start_matches("nvidia_"));
            let ending = format!("_{wanted}");
            let nearest = if let Some(whole) = vgpu_types::all().iter().find(|t| t.profile.ends_with(&ending))
            {
                Some(format!("did you mean `{}`?", whole.profile))
            } else if of_token.is_empty() {
                near(profile, all)
            } else {
                near(profile, of_token.iter().map(String::as_str))
            };
            Some(c.finding(format!("{by}: `{profile}` is no vGPU type of the table"), basis, nearest))
        }
        (Some(vgpu), Some(gpus)) => {
            let serves: Vec<Option<bool>> = gpus.iter().map(|g| g.serves(vgpu)).collect();
            if serves.contains(&Some(true)) {
                return None;
            }
            let of_board: Vec<&str> = gpus.iter().filter_map(|g| g.model().map(|m| m.token)).collect();
            let same_size = |token: &str| {
                let mut of_size: Vec<_> = vgpu_types::of_token(token)
                    .filter(|t| t.size_mib == vgpu.size_mib && t.mig == vgpu.mig)
                    .collect();
                of_size.sort_by_key(|t| t.series != vgpu.series);
                of_size.first().map(|t| t.profile)
            };
            let nearest = of_board
                .iter()
                .find_map(|token| same_size(token))
                .map(|p| format!("of the same size there is {p}"));
            let owner = gpus::by_token(vgpu.token).map_or(vgpu.token, |m| m.name);
            let finding = c.finding(
                format!(
                    "{by}: `{profile}` is a type of {owner}; the GPUs that serve vGPUs here: {}",
                    listed(gpus)
                ),
                vgpu.basis.clone(),
                nearest,
            );
            // Ids are confirmed; a GPU that the table does not know may be anything.
            Some(if serves.contains(&None) { finding.doubtful() } else { finding })
        }
        (Some(_), None) => None,
    }
}

/// The nearest of these names without a prefix, in the prefix that was written.
fn near<'a>(profile: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let prefix = profile.split_once('_').map_or(String::new(), |(prefix, _)| format!("{prefix}_"));
    let wanted = vgpu_types::plain(profile);
    // A slip of the pen, and never another model: its number is the same.
    let number = |name: &str| -> String {
        name.split('-').next().unwrap_or_default().chars().filter(char::is_ascii_digit).collect()
    };
    let nearest =
        vsgpu_core::suggest::nearest(&wanted, names.filter(|name| number(name) == number(&wanted)))?;
    Some(format!("the nearest is `{prefix}{nearest}`"))
}
