//! Peak memory bandwidth of GPUs, by NVIDIA's datasheets. What a program reaches is less: 80 to 93 % is
//! usual, so a wish in percent of the peak is better made against a baseline that was measured on bare metal.

use crate::knowledge::Basis;
use crate::knowledge::table::rows;

const TABLE: &str = "gpu_peaks.tsv";

/// One figure.
#[derive(Clone, Debug)]
pub struct Peak {
    /// The model it is of.
    pub model: &'static str,
    /// GB/s (10^9 bytes).
    pub gb_s: f64,
    /// Where it comes from. An uncertain one warns and never fails a proof.
    pub basis: Basis,
}

/// The figure of a GPU by its PCI ids. Where several boards carry one chip, the subsystem id decides.
pub fn by_pci(device_id: &str, subsystem_id: Option<&str>) -> Option<Peak> {
    let model = crate::knowledge::gpus::by_pci(device_id, subsystem_id)?;
    of_model(model.name)
}

/// The figure of a model of `gpus.tsv`.
pub fn of_model(name: &str) -> Option<Peak> {
    let row = rows("gpu_peaks.tsv").find(|r| r.get("name") == name)?;
    Some(Peak {
        model: row.get("name"),
        gb_s: row.number("memory_gb_s")? as f64,
        basis: row.basis(TABLE, row.get("name")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knowledge::gpus;

    #[test]
    fn every_row_is_a_model_of_the_gpu_table_with_its_ids() {
        let all: Vec<_> = rows("gpu_peaks.tsv").collect();
        assert!(all.len() > 30);
        for row in all {
            let model = gpus::all()
                .iter()
                .find(|m| m.name == row.get("name"))
                .unwrap_or_else(|| panic!("{}", row.get("name")));
            assert_eq!(model.device_id, row.get("pci_device_id").to_lowercase(), "{}", row.get("name"));
            assert!(
                row.number("memory_gb_s").is_some_and(|n| (50..20_000).contains(&n))
                    && !row.get("source").is_empty()
            );
        }
        assert_eq!(by_pci("20f1", None).map(|p| p.gb_s), Some(1555.0));
        assert_eq!(by_pci("25b6", Some("14a9")).map(|p| p.model), Some("A16"));
    }
}
