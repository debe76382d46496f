//! The answer of `advise`, and its questions at a terminal.

use crate::advise::{Advice, Guest, Kind, License, Need, Question, Way, Workload};
use crate::render::Answer;
use serde_json::{Value, json};
use vsgpu_core::knowledge::performance::Share;

/// Characters of a line.
const WIDTH: usize = 80;
/// Where a text begins beside its word.
const INDENT: usize = 12;

/// A text beside a word, broken at blanks.
fn beside(word: &str, text: &str) -> String {
    let mut lines = vec![String::new()];
    for part in text.split(' ') {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && INDENT + lines[last].chars().count() + 1 + part.chars().count() > WIDTH
        {
            lines.push(part.into());
        } else {
            let gap = if lines[last].is_empty() { "" } else { " " };
            lines[last] += &format!("{gap}{part}");
        }
    }
    let rest: String = lines[1..].iter().map(|l| format!("\n{:INDENT$}{l}", "")).collect();
    format!("  {word:<10}{}{rest}", lines[0])
}

fn share_text(share: Option<&Share>, q: &Question) -> String {
    let Some(share) = share else { return "no figure is published for this: measure it".into() };
    let of = match q.users {
        1 => "of bare metal",
        _ => "of a whole bare-metal GPU, all users together",
    };
    let range = match (share.low - share.high).abs() < 0.5 {
        true => format!("about {:.0} %", share.typical),
        false => format!("about {:.0} % ({:.0} to {:.0})", share.typical, share.low, share.high),
    };
    let first = share.figures.first().map_or(String::new(), |f| {
        let source: String = f.basis.source.split(',').next().unwrap_or_default().into();
        match share.figures.len() {
            1 => format!("; {source}, {}", f.date),
            n => format!("; {n} figures, such as {source}, {}", f.date),
        }
    });
    format!("{range} {of}{first}")
}

fn title(way: &Way) -> String {
    match way.profile {
        Some(profile) => {
            let name = profile.name.trim_start_matches("NVIDIA ").trim_start_matches("GRID ");
            format!("{}: {name}", way.way.title())
        }
        None => way.way.title().to_string(),
    }
}

/// The shape, in a line or two.
fn shape(q: &Question, way: &Way) -> String {
    let gpu = q.model().map_or("GPU".to_string(), |m| m.name.to_string());
    match way.way {
        Kind::Passthrough => match q.gpus_per_vm() {
            1 => format!("  [ VM ]====[ {gpu} ]"),
            n => format!("  [ VM ]===={n} x [ {gpu} ]"),
        },
        Kind::VgpuTimeSliced | Kind::VgpuMig => {
            let n = way.per_gpu.max(if way.profile.is_none() { q.users } else { 1 }).clamp(1, 8);
            let cells: String = (1..=n).map(|n| format!(" VM {n} |")).collect();
            let more = if way.per_gpu > n { " .." } else { "" };
            format!("  [|{cells}{more}]  one {gpu}")
        }
        Kind::Network => format!("  [ VM ]----network----[ GPU server VM ]====[ {gpu} ]"),
    }
}

fn block(q: &Question, way: &Way, whole: bool) -> String {
    let mut lines = vec![];
    for (at, reason) in way.reasons.iter().enumerate() {
        lines.push(beside(if at == 0 { "why" } else { "" }, reason));
    }
    lines.push(beside("speed", &share_text(way.share.as_ref(), q)));
    lines.push(beside("gives up", &way.gives_up.join(", ")));
    for (at, need) in way.needs.iter().enumerate() {
        lines.push(beside(if at == 0 { "needs" } else { "" }, need));
    }
    if !way.certain {
        lines.push(beside("unsure", "this rests on weak sources: try it before you buy"));
    }
    if whole {
        lines.push(String::new());
        lines.push(way.fleet.trim_end().lines().map(|l| format!("    {l}")).collect::<Vec<_>>().join("\n"));
    }
    lines.join("\n")
}

fn compose(q: &Question, advice: &Advice, wide: bool) -> String {
    let fitting: Vec<&Way> = advice.ways.iter().filter(|w| w.fits).collect();
    let Some(best) = fitting.first() else {
        let mut text = "No way fits.".to_string();
        for way in &advice.ways {
            text += &format!("\n  {}", way.way.title());
            for reason in &way.reasons {
                text += &format!("\n{}", beside("", reason));
            }
        }
        return match &advice.nearest {
            Some(nearest) => format!("{text}\n\nNearest: {nearest}"),
            None => text,
        };
    };
    let mut text = format!("Take {}.\n\n{}\n\n{}", title(best), shape(q, best), block(q, best, wide));
    if fitting.len() > 1 {
        text += "\n\nAlso possible, in this order";
        for way in &fitting[1..] {
            text += &format!("\n  {}", title(way));
            if wide {
                text += &format!("\n{}\n", block(q, way, true));
            }
        }
    }
    let not: Vec<&Way> = advice.ways.iter().filter(|w| !w.fits).collect();
    if !not.is_empty() {
        text += "\n\nNot";
        for way in not {
            let why = way.reasons.first().map_or("", String::as_str);
            text += &format!("\n  {}\n{}", way.way.title(), beside("", why));
        }
    }
    if !wide {
        text += "\n\n`-o wide` shows all of each way, `--show-fleet` a fleet file to begin with.";
    }
    text
}

pub fn answer(question: &Question, advice: &Advice) -> Answer {
    let share = |share: &Share| {
        let figures: Vec<Value> = share
            .figures
            .iter()
            .map(|f| json!({ "low": f.low, "high": f.high, "what": f.what, "source": f.basis.source, "date": f.date }))
            .collect();
        json!({ "typical": share.typical, "low": share.low, "high": share.high, "figures": figures })
    };
    let ways: Vec<Value> = advice
        .ways
        .iter()
        .map(|way| {
            json!({
                "way": way.way, "title": way.way.title(), "fits": way.fits, "certain": way.certain, "reasons": way.reasons,
                "gives-up": way.gives_up, "needs": way.needs, "share": way.share.as_ref().map(share),
                "profile": way.profile.map(|p| p.profile), "series": way.profile.map(|p| p.series),
                "vms-per-gpu": way.per_gpu, "fleet": way.fleet,
            })
        })
        .collect();
    let names = advice.ways.iter().filter(|w| w.fits).map(|w| w.way.word().to_string()).collect();
    let document = json!({ "ways": ways, "nearest": advice.nearest });
    let text = compose(question, advice, false);
    Answer { wide: Some(compose(question, advice, true)), names, ..Answer::new(document, text) }
}

/// Asks what is not known: arrows choose, Enter takes, Esc goes back. `None` where somebody goes back from the first one.
///
/// # Errors
/// The terminal fails, or an answer is none.
pub fn questions(start: Question) -> Result<Option<Question>, String> {
    let mut q = start;
    let mut at = 0;
    loop {
        let went = match at {
            0 => one_of(
                "What do the VMs do?",
                &Workload::ALL.map(|w| w.word().to_string()),
                position(&Workload::ALL, &q.workload),
            )?
            .map(|n| q.workload = Workload::ALL[n]),
            1 => line("How many VMs use one GPU at the same time?", &q.users.to_string())?
                .map(|text| match text.parse::<u64>() {
                    Ok(n) if (1..=1000).contains(&n) => {
                        q.users = n;
                        Ok(())
                    }
                    _ => Err(format!("`{text}` is no number from 1 to 1000")),
                })
                .transpose()?,
            2 => some_of(
                "What do these VMs need? (space marks, Enter takes)",
                &Need::ALL.map(|n| n.word().to_string()),
                &Need::ALL.map(|n| q.needs.contains(&n)),
            )?
            .map(|marked| q.needs = marked.into_iter().map(|n| Need::ALL[n]).collect()),
            3 => {
                line("Which GPU? (A100-80, L40S, ..; empty: not chosen yet)", q.gpu.as_deref().unwrap_or(""))?
                    .map(|text| q.gpu = Some(text).filter(|t| !t.is_empty()))
            }
            4 => line(
                "GPU memory of each VM? (20GiB; empty: as much as there is)",
                &q.memory.map(|m| m.to_string()).unwrap_or_default(),
            )?
            .map(|text| match text.as_str() {
                "" => {
                    q.memory = None;
                    Ok(())
                }
                some => some.parse().map(|m| q.memory = Some(m)),
            })
            .transpose()?,
            5 => line("Release of ESXi? (8.0.3; empty: a new one)", q.esxi.as_deref().unwrap_or(""))?
                .map(|text| q.esxi = Some(text).filter(|t| !t.is_empty())),
            6 => one_of(
                "Guests?",
                &["linux".into(), "windows".into()],
                usize::from(q.guest == Guest::Windows),
            )?
            .map(|n| q.guest = if n == 1 { Guest::Windows } else { Guest::Linux }),
            7 => {
                let words = [
                    "not decided",
                    "none",
                    "nvaie (AI Enterprise, formerly vCS)",
                    "vws (RTX vWS, formerly vDWS)",
                    "vpc",
                    "vapps",
                ];
                one_of("Which NVIDIA license is there?", &words.map(String::from), 0)?
                    .map(|n| match n {
                        0 => {
                            q.license = License::default();
                            Ok(())
                        }
                        n => License::parse(words[n].split(' ').next().unwrap_or_default())
                            .map(|l| q.license = l),
                    })
                    .transpose()?
            }
            8 => line(
                "How much may be lost against bare metal, in percent? (empty: it does not matter)",
                &q.max_loss.map(|p| p.to_string()).unwrap_or_default(),
            )?
            .map(|text| match text.trim_end_matches('%') {
                "" => {
                    q.max_loss = None;
                    Ok(())
                }
                some => match some.trim().parse::<f64>() {
                    Ok(p) if (0.0..100.0).contains(&p) => {
                        q.max_loss = Some(p);
                        Ok(())
                    }
                    _ => Err(format!("`{text}` is no percentage")),
                },
            })
            .transpose()?,
            _ => return Ok(Some(q)),
        };
        match (went, at) {
            (Some(()), _) => at += 1,
            (None, 0) => return Ok(None),
            (None, _) => at -= 1,
        }
    }
}

fn position<T: PartialEq>(list: &[T], item: &T) -> usize {
    list.iter().position(|i| i == item).unwrap_or(0)
}

fn one_of(prompt: &str, list: &[String], start: usize) -> Result<Option<usize>, String> {
    let asked = dialoguer::Select::new().with_prompt(prompt).items(list).default(start).interact_opt();
    asked.map_err(|why| why.to_string())
}

fn some_of(prompt: &str, list: &[String], marked: &[bool]) -> Result<Option<Vec<usize>>, String> {
    let asked = dialoguer::MultiSelect::new().with_prompt(prompt).items(list).defaults(marked).interact_opt();
    asked.map_err(|why| why.to_string())
}

/// A line; `<` goes back, as Esc does in a list.
fn line(prompt: &str, start: &str) -> Result<Option<String>, String> {
    let asked = dialoguer::Input::<String>::new()
        .with_prompt(format!("{prompt} [< goes back]"))
        .default(start.to_string())
        .show_default(!start.is_empty())
        .allow_empty(true)
        .interact_text();
    let text = asked.map_err(|why| why.to_string())?;
    let text = text.trim();
    Ok((text != "<").then(|| text.to_string()))
}
