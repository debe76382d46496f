//! A plan as `vsgpu plan` shows it: what goes down first, then one block for machines with the same steps, folded.

use crate::fleet::range::folded;
use crate::journal::History;
use crate::plan::Plan;
use crate::render::plan::nothing_to_do;
use crate::render::plan_summary::{SIGNS, names, summary};
use maud::{Markup, html};
use vsgpu_core::words::counted;

/// Blocks that are shown.
const BLOCKS: usize = 200;

/// All names, as ranges.
fn all(names: &[String]) -> String {
    folded(names).join(", ")
}

/// `ahead`: how long steps took before, where it is not run yet; then its blocks are unfolded, and it says how long it may
/// take. All machines are named: this may be a change ticket.
pub fn section(plan: &Plan, ahead: Option<&History>) -> Markup {
    if plan.steps.is_empty() {
        return html! { p { (nothing_to_do(plan)) } };
    }
    let none = History::default();
    let summary = summary(plan, ahead.unwrap_or(&none));
    let cut = summary.blocks.len().saturating_sub(BLOCKS);
    html! {
        p.lead { (summary.cost) @if ahead.is_some() { " " (summary.time) } }
        @if !summary.down.is_empty() {
            h3 { "Goes down" }
            ul { @for down in &summary.down { li { b { (all(&down.hosts)) } ": " (down.what) @if ahead.is_some() { (down.long) } @if !down.off.is_empty() { ". VMs off: " (all(&down.off)) } @for (how, vms) in &down.moved { ". VMs " (how) ": " (all(vms)) } } } }
        }
        @if !summary.no_way_back.is_empty() {
            h3 { "Rollback does not bring back" }
            ul { @for (what, nodes) in &summary.no_way_back { li { (what) " of " (all(nodes)) } } }
        }
        @if !summary.network.is_empty() { h3 { "GPUs over the network" } p { (summary.network) } }
        @if !summary.order.is_empty() { h3 { "In which order" } pre { (summary.order.trim_end()) } }
        h3 { "Steps" }
        p.quiet { @for (sign, what) in SIGNS { code { (sign) } " " (what) "  " } }
        @for block in summary.blocks.iter().take(BLOCKS) {
            details.block open[ahead.is_some()] {
                summary { (block.counted()) " " (names(&block.nodes)) ": " (counted(block.lines.len(), "step")) @if block.nodes.len() > 1 { " each" } }
                @if block.nodes.len() > 6 { p.quiet { (all(&block.nodes)) } }
                div.wide { table.steps { caption.hidden { "Steps of " (names(&block.nodes)) } tbody { @for (sign, title, change) in &block.lines { tr {
                    td { code { (sign) } } th scope="row" { (title) } td { (change) }
                } } } } }
            }
        }
        @if cut > 0 { p { "and " (cut) " blocks more: " code { "vsgpu plan" } } }
        p { (summary.sum) }
    }
}
