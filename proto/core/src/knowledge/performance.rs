//! Published figures of how much of a bare-metal GPU is left, by workload and way. Figures that compare something else
//! (another hypervisor, passthrough as the base, copies alone, out of memory) stand in the table for people, and count
//! for nothing.

use crate::knowledge::Basis;
use crate::knowledge::table::rows;
use std::sync::LazyLock;

const TABLE: &str = "performance.tsv";

/// One published figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// `inference`, `training`, `hpc`, `graphics`, `development`.
    pub workload: &'static str,
    /// `passthrough`, `vgpu-time-sliced`, `vgpu-mig`, `network`.
    pub way: &'static str,
    /// VMs that share the GPU.
    pub users: u64,
    /// Percent of bare metal, lowest.
    pub low: f64,
    /// Highest.
    pub high: f64,
    /// Of the whole GPU, all users together; else of one VM.
    pub whole_gpu: bool,
    /// What was measured.
    pub what: &'static str,
    /// It compares with bare metal, on vSphere or (MIG) on bare metal itself.
    pub counts: bool,
    /// Year and month, or `unknown`.
    pub date: &'static str,
    /// Where it comes from.
    pub basis: Basis,
}

static ALL: LazyLock<Vec<Figure>> = LazyLock::new(|| {
    let of_row = |r: crate::knowledge::table::Row| Figure {
        workload: r.get("workload"),
        way: r.get("way"),
        users: r.number("users").unwrap_or(1),
        low: r.get("share_low").parse().unwrap_or(0.0),
        high: r.get("share_high").parse().unwrap_or(0.0),
        whole_gpu: r.get("of") == "whole-gpu",
        what: r.get("what"),
        counts: r.get("counts") == "yes",
        date: r.get("date"),
        basis: r.basis(TABLE, format!("{} {} {}", r.get("workload"), r.get("way"), r.get("what"))),
    };
    rows("performance.tsv").map(of_row).collect()
});

/// Every figure.
pub fn all() -> &'static [Figure] {
    &ALL
}

/// What the figures of a way say together.
#[derive(Clone, Debug)]
pub struct Share {
    /// The one in the middle.
    pub typical: f64,
    /// Lowest seen.
    pub low: f64,
    /// Highest seen.
    pub high: f64,
    /// All of them.
    pub figures: Vec<&'static Figure>,
}

/// The figures that count for a workload, a way, and one or several VMs on a GPU; `None` where nothing is published.
pub fn share(workload: &str, way: &str, several: bool) -> Option<Share> {
    let figures: Vec<&'static Figure> = ALL
        .iter()
        .filter(|f| f.counts && f.workload == workload && f.way == way && (f.users > 1) == several)
        .collect();
    let mut middles: Vec<f64> = figures.iter().map(|f| f64::midpoint(f.low, f.high)).collect();
    middles.sort_by(f64::total_cmp);
    let low = figures.iter().map(|f| f.low).fold(f64::INFINITY, f64::min);
    // The range of one source has no middle that was measured.
    let typical = if middles.len() == 1 { low } else { *middles.get(middles.len() / 2)? };
    let high = figures.iter().map(|f| f.high).fold(0.0, f64::max);
    Some(Share { typical, low, high, figures })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_figure_with_a_source() {
        assert!(all().len() > 60);
        for figure in all() {
            assert!(figure.low > 0.0 && figure.low <= figure.high && figure.high < 110.0, "{figure:?}");
            assert!(!figure.basis.source.is_empty() && !figure.what.is_empty() && !figure.date.is_empty());
            assert!(figure.basis.confirmed || !figure.counts, "{figure:?}");
            assert!(["passthrough", "vgpu-time-sliced", "vgpu-mig", "network"].contains(&figure.way));
        }
        let vgpu = share("inference", "vgpu-time-sliced", false).unwrap();
        assert!((96.0..98.0).contains(&vgpu.typical) && vgpu.low < 90.0 && vgpu.high > 104.0, "{vgpu:?}");
        assert!(share("inference", "network", false).is_none(), "nothing is published for our engine");
    }
}
