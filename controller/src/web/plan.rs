//! A plan as `vsgpu plan` shows it: what goes down first, then one block for machines with the same steps, folded.

use crate::fleet::range::folded;
use crate::journal::History;
use crate::plan::Plan;
use crate::render::plan::nothing_to_do;
use crate::render::plan_summary::{SIGNS, names, summary};
use maud::{Markup, html};
use vsgpu_core::words::counted;

/// Blocks and machines of a block that are shown.
const BLOCKS: usize = 200;
const MACHINES: usize = 500;

/// `ahead`: it is not run yet; then its blocks are unfolded, and it says how long it may take.
pub fn section(plan: &Plan, history: &History, ahead: bool) -> Markup {
    if plan.steps.is_empty() {
        return html! { p { (nothing_to_do(plan)) } };
    }
    let summary = summary(plan, history);
    let cut = summary.blocks.len().saturating_sub(BLOCKS);
    html! {
        p.lead { (summary.cost) @if ahead { " " (summary.time) } }
        @if !summary.down.is_empty() {
            h3 { "Goes down" }
            ul { @for down in &summary.down { li { b { (names(&down.hosts)) } ": " (down.what) @if !down.off.is_empty() { ". VMs off: " (names(&down.off)) } } } }
        }
        @if !summary.no_way_back.is_empty() {
            h3 { "Rollback does not bring back" }
            ul { @for (what, nodes) in &summary.no_way_back { li { (what) " of " (names(nodes)) } } }
        }
        @if !summary.order.is_empty() { h3 { "In which order" } pre { (summary.order.trim_end()) } }
        h3 { "Steps" }
        p.quiet { @for (sign, what) in SIGNS { code { (sign) } " " (what) "  " } }
        @for block in summary.blocks.iter().take(BLOCKS) {
            details.block open[ahead] {
                summary { (block.counted()) " " (names(&block.nodes)) ": " (counted(block.lines.len(), "step")) @if block.nodes.len() > 1 { " each" } }
                @if block.nodes.len() > 6 { p.quiet { (folded(block.nodes.iter().take(MACHINES)).join(", ")) } }
                div.wide { table.steps { tbody { @for (sign, title, change) in &block.lines { tr {
                    td { code { (sign) } } th scope="row" { (title) } td { (change) }
                } } } } }
            }
        }
        @if cut > 0 { p { "and " (cut) " blocks more: " code { "vsgpu plan" } } }
        p { (summary.sum) }
    }
}
