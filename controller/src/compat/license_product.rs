//! Licensed product, vGPU series and passthrough: a vGPU is licensed by its series (FeatureType 1), a whole
//! GPU by FeatureType 2 (workstation) or 4 (compute).

use crate::compat::combination::{Combination, Finding};
use vsgpu_core::knowledge::Basis;
use vsgpu_core::knowledge::products::Product;

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    let mut found = vec![];
    if let Some(feature) = c.feature_type.as_ref().filter(|_| c.passthrough && !c.vgpu()) {
        let right = c.product.and_then(Product::feature_type);
        let basis = Basis::document(
            "NVIDIA licensing user guide: FeatureType 2 or 4 for a whole GPU (gridd_conf_keys)",
            false,
        );
        let hint = "say `feature-type: 2` (workstation) or `4` (compute)";
        if !matches!(feature.value, 2 | 4) {
            let what = format!(
                "{} is licensed with FeatureType {}, which is for vGPUs; the VM has a whole GPU",
                feature.by, feature.value
            );
            found.push(c.finding(what, basis, Some(hint.into())));
        } else if let Some(right) = right.filter(|right| *right != feature.value) {
            let what = format!(
                "{} wants {}, but FeatureType {} is another product's",
                feature.by,
                c.product.map_or("", Product::shown),
                feature.value
            );
            found.push(c.finding(what, basis, Some(format!("say `feature-type: {right}`"))));
        }
    }
    let Some(product) = c.product.filter(|_| c.vgpu()) else { return found };
    for (profile, vgpu) in c.types() {
        let series = match vgpu.series {
            "Q" => Product::Workstation,
            "C" => Product::Compute,
            "B" => Product::Pc,
            _ => Product::Applications,
        };
        // A workstation license covers the types of a PC as well.
        let covered = series == product || (series, product) == (Product::Pc, Product::Workstation);
        if !covered {
            let what = format!(
                "{}: {} is licensed as {}, wanted is {}",
                profile.by,
                vgpu.name,
                series.shown(),
                product.shown()
            );
            found.push(
                c.finding(
                    what,
                    vgpu.basis.clone(),
                    Some("choose a type of that product's series (Q workstation, C compute, B PC, A applications)".into()),
                )
                .doubtful(),
            );
        }
    }
    found
}
