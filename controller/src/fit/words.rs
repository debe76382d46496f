//! Hosts and wishes as they are typed: `4 x 2 A100-80, 1 x 4 L40S 512GiB`, `20 x a100d-8c, 3 x 2 a100d-80c 96GiB`.

use super::boards::model;
use super::gpu::Gpu;
use super::problem::{Host, Part, WHOLE, Want};
use vsgpu_core::amounts::Memory;
use vsgpu_core::knowledge::vgpu_types::{self, VgpuType};
use vsgpu_core::suggest::nearest;

/// GPUs, hosts and VMs that are typed, at most.
const MOST: usize = 100_000;
/// Parts of one VM or one host.
const MOST_PARTS: usize = 128;

/// `20 x rest`: how many, and of what.
fn times(text: &str) -> Option<(usize, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let n = text[..digits].parse().ok()?;
    let rest = text[digits..].trim_start().strip_prefix(['x', 'X', '×', '*'])?.trim();
    (!rest.is_empty()).then_some((n, rest))
}

/// `2 A100-80`: how many, and of what. One where nothing is said.
fn leading(text: &str) -> (usize, &str) {
    match text.split_once(' ') {
        Some((n, rest)) if n.bytes().all(|b| b.is_ascii_digit()) && !n.is_empty() => {
            (n.parse().unwrap_or(usize::MAX), rest.trim())
        }
        _ => (1, text),
    }
}

/// Memory at the end, `96GiB` or `96 GiB`.
fn memory(text: &str) -> Result<(&str, Option<u64>), String> {
    let lower = text.to_ascii_lowercase();
    let unit = ["gib", "mib", "tib"].into_iter().find(|unit| lower.ends_with(unit));
    let Some(unit) = unit else { return Ok((text, None)) };
    let number = text[..text.len() - unit.len()].trim_end();
    let last = number.char_indices().rfind(|(_, c)| !c.is_ascii_digit());
    let begin = last.map_or(0, |(at, c)| at + c.len_utf8());
    let amount: Memory = format!("{}{unit}", &number[begin..]).parse()?;
    Ok((number[..begin].trim_end(), Some(amount.mib)))
}

fn list<'a>(text: &'a str, what: &str, example: &str) -> Result<Vec<&'a str>, String> {
    let items: Vec<&str> = text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
    if items.is_empty() { Err(format!("no {what} are named; write `{example}`")) } else { Ok(items) }
}

/// Hosts: how many, GPUs each, memory for VMs.
///
/// # Errors
/// A sentence that names the part that is wrong.
pub fn hosts(text: &str, wants: &[Want]) -> Result<Vec<Host>, String> {
    let tokens: Vec<&str> = wants.iter().flat_map(Want::vgpus).map(|t| t.token).collect();
    let mut all: Vec<Host> = vec![];
    for item in list(text, "hosts", "4 x 2 A100-80")? {
        let (item_text, memory_mib) = memory(item)?;
        let (n, each) = times(item_text).ok_or_else(|| {
            format!("`{item}` names no hosts: write how many, how many GPUs each, and which: `4 x 2 A100-80`")
        })?;
        let mut one = vec![];
        for part in each.split('+').map(str::trim) {
            let (count, name) = leading(part);
            let model = model(name, &tokens)?;
            // Boards of several GPUs are counted as people buy them.
            let gpus = count.saturating_mul(model.per_board as usize);
            if one.len().saturating_add(gpus) > MOST_PARTS {
                return Err(format!("`{item}`: at most {MOST_PARTS} GPUs in one host"));
            }
            one.extend(std::iter::repeat_n(Gpu::new(model), gpus));
        }
        if n == 0 || one.is_empty() {
            return Err(format!("`{item}` is no host: write `4 x 2 A100-80`"));
        }
        let before: usize = all.iter().map(|h| h.gpus.len()).sum();
        if n.saturating_mul(one.len()).saturating_add(before) > MOST {
            return Err(format!("`{item}`: at most {MOST} GPUs"));
        }
        for _ in 0..n {
            let name = format!("host-{}", all.len() + 1);
            all.push(Host { name, gpus: one.clone(), memory_mib });
        }
    }
    Ok(all)
}

/// The vGPU type of a name, as people and as vSphere write it.
///
/// # Errors
/// A sentence, with the nearest name.
pub fn profile(name: &str) -> Result<&'static VgpuType, String> {
    vgpu_types::find(name).ok_or_else(|| {
        let plain = vgpu_types::plain(name);
        let board = plain.split('-').next().unwrap_or_default().to_string();
        let of_board: Vec<String> =
            vgpu_types::of_token(&board).map(|t| vgpu_types::plain(t.profile)).collect();
        let near = nearest(&plain, of_board.iter().map(String::as_str));
        match near {
            Some(near) => format!("no vGPU profile is called `{name}`; did you mean `{near}`?"),
            None => format!("no vGPU profile is called `{name}`; write it as `a100d-8c`, or `passthrough`"),
        }
    })
}

fn part(text: &str) -> Result<Part, String> {
    let lower = text.to_ascii_lowercase();
    for word in [WHOLE, "directpath", "whole"] {
        if let Some(rest) = lower.strip_prefix(word) {
            let name = text[text.len() - rest.len()..].trim();
            if rest.is_empty() {
                return Ok(Part::Whole(None));
            }
            if rest.starts_with([' ', ':']) {
                let name = name.trim_start_matches(':').trim();
                model(name, &[])?;
                return Ok(Part::Whole(Some(name.into())));
            }
        }
    }
    profile(text).map(Part::Vgpu)
}

/// VMs: how many, what each has, its memory.
///
/// # Errors
/// A sentence that names the part that is wrong.
pub fn wants(text: &str) -> Result<Vec<Want>, String> {
    let mut all: Vec<Want> = vec![];
    for item in list(text, "VMs", "20 x a100d-8c, 2 x passthrough")? {
        let (item_text, memory_mib) = memory(item)?;
        let (n, each) = match times(item_text) {
            Some(found) => found,
            // Twenty VMs, or one with twenty?
            None if leading(item_text).0 != 1 => {
                let (n, name) = leading(item_text);
                return Err(format!(
                    "`{item}`: write `{n} x {name}` for {n} VMs, `1 x {n} {name}` for one with {n}"
                ));
            }
            None => (1, item_text),
        };
        let mut parts = vec![];
        for one in each.split('+').map(str::trim) {
            let (count, name) = leading(one);
            if parts.len().saturating_add(count) > MOST_PARTS {
                return Err(format!("`{item}`: at most {MOST_PARTS} GPUs for one VM"));
            }
            let part = part(name)?;
            parts.extend(std::iter::repeat_n(part, count));
        }
        if parts.is_empty() || n == 0 {
            return Err(format!("`{item}` wants nothing: write `20 x a100d-8c`"));
        }
        if all.len().saturating_add(n) > MOST {
            return Err(format!("`{item}`: at most {MOST} VMs"));
        }
        let one = Want { vm: String::new(), parts, memory_mib, host: None, apart: vec![] };
        for _ in 0..n {
            let vm = format!("vm-{}", all.len() + 1);
            all.push(Want { vm, ..one.clone() });
        }
    }
    Ok(all)
}
