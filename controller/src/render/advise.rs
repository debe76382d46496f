//! The answer of `advise`, and its questions at a terminal.

use crate::advise::{Advice, Guest, Kind, License, Need, Question, Way, Workload, memory, percent, release};
use crate::render::Answer;
use crate::render::documents::{self, FigureOf, ShareOf, value};
use crate::render::words::wrapped;
use vsgpu_core::knowledge::performance::{Figure, Share};

/// Where a text begins beside its word.
const INDENT: usize = 12;

/// A text beside a word, broken at blanks.
fn beside(word: &str, text: &str) -> String {
    let text = wrapped(text, &" ".repeat(INDENT));
    format!("  {word:<10}{}", text.trim_start())
}

fn share_text(way: Kind, share: Option<&Share>, q: &Question) -> String {
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
    // What the figure is of, where that is not this very thing.
    let but = match way {
        Kind::VgpuMig => {
            ". Measured with MIG on bare metal, without vSphere; much less where answers must come at once"
        }
        Kind::Passthrough if q.workload == Workload::Development => {
            ". A rule of thumb, not split by workload"
        }
        _ => "",
    };
    format!("{range} {of}{first}{but}")
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

/// What was not said, and is taken to be so.
fn assumed(q: &Question) -> String {
    let mut all = vec![];
    if q.users == 1 {
        all.push("1 VM on a GPU".to_string());
    }
    match (q.gpu.as_deref(), q.model()) {
        (None, _) => all.push("any GPU may be bought".into()),
        (Some(name), Some(model)) if !name.eq_ignore_ascii_case(model.name) => {
            all.push(format!("\"{name}\" is the {}", model.name));
        }
        _ => {}
    }
    if q.esxi.is_none() {
        all.push("a new ESXi".into());
    }
    if q.license.nvidia.is_none() {
        all.push("licenses can be bought".into());
    }
    if all.is_empty() {
        return String::new();
    }
    format!("\n\nTaken as so:\n{}", beside("", &all.join("; ")))
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
            let n = way.per_gpu.clamp(1, 6);
            let cells: String = (1..=n).map(|n| format!(" VM {n} |")).collect();
            let more = if way.per_gpu > n { " .." } else { "" };
            match q.gpus_per_vm() {
                1 => format!("  [|{cells}{more}] one {gpu}"),
                n => format!("  [ VM ]===={n} x [ {gpu} ]"),
            }
        }
        Kind::Network => format!("  [ VM ]----network----[ GPU server VM ]====[ {gpu} ]"),
    }
}

fn block(q: &Question, way: &Way, whole: bool) -> String {
    let mut lines = vec![];
    for (at, reason) in way.reasons.iter().enumerate() {
        lines.push(beside(if at == 0 { "why" } else { "" }, reason));
    }
    lines.push(beside("speed", &share_text(way.way, way.share.as_ref(), q)));
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
            Some(nearest) => format!("{text}\n\nSmallest change that helps:\n{}", beside("", nearest)),
            None => text,
        } + &assumed(q);
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
        text += "\n\nNot suitable";
        for way in not {
            let why = way.reasons.first().map_or("", String::as_str);
            text += &format!("\n  {}\n{}", way.way.title(), beside("", why));
        }
    }
    text += &assumed(q);
    if !wide {
        text += "\n\n`-o wide` shows all of each way, `--show-fleet` a fleet file to begin with.";
    }
    text
}

pub fn answer(question: &Question, advice: &Advice) -> Answer {
    let figure = |f: &&'static Figure| FigureOf {
        low: f.low,
        high: f.high,
        what: f.what.into(),
        source: f.basis.source.clone(),
        date: f.date.into(),
    };
    let share = |share: &Share| ShareOf {
        typical: share.typical,
        low: share.low,
        high: share.high,
        figures: share.figures.iter().map(figure).collect(),
    };
    let way = |way: &Way| documents::Way {
        way: way.way,
        title: way.way.title().into(),
        fits: way.fits,
        certain: way.certain,
        reasons: way.reasons.clone(),
        gives_up: way.gives_up.iter().map(ToString::to_string).collect(),
        needs: way.needs.clone(),
        share: way.share.as_ref().map(share),
        profile: way.profile.map(|p| p.profile.to_string()),
        series: way.profile.map(|p| p.series.to_string()),
        vms_per_gpu: way.per_gpu,
        fleet: way.fleet.clone(),
    };
    let names = advice.ways.iter().filter(|w| w.fits).map(|w| w.way.word().to_string()).collect();
    let ways = advice.ways.iter().map(way).collect();
    let document = value(&documents::Advice { ways, nearest: advice.nearest.clone() });
    let text = compose(question, advice, false);
    Answer { wide: Some(compose(question, advice, true)), names, ..Answer::new(document, text) }
}

/// Asks what is not known: arrows choose, Enter takes, Esc (or `<` in a line) goes back. `None` where
/// somebody goes back from the first one. A wrong answer is asked again.
///
/// # Errors
/// The terminal fails.
pub fn questions(start: Question) -> Result<Option<Question>, String> {
    let mut q = start;
    let mut at = 0;
    while let Some(went) = ask(at, &mut q)? {
        match (went, at) {
            (true, _) => at += 1,
            (false, 0) => return Ok(None),
            (false, _) => at -= 1,
        }
    }
    Ok(Some(q))
}

/// One question; `None` behind the last one, else whether it was answered.
fn ask(at: usize, q: &mut Question) -> Result<Option<bool>, String> {
    let users = |text: &str| match text.parse::<u64>() {
        Ok(n) if (1..=1000).contains(&n) => Ok(n),
        _ => Err(format!("`{text}` is no number from 1 to 1000")),
    };
    let maybe = |text: &str| -> Result<Option<String>, String> {
        Ok(Some(text.to_string()).filter(|t| !t.is_empty()))
    };
    Ok(Some(match at {
        0 => {
            let words = Workload::ALL.map(|w| w.word().to_string());
            match one_of("What do the VMs do?", &words, position(&Workload::ALL, &q.workload))? {
                Some(n) => {
                    q.workload = Workload::ALL[n];
                    true
                }
                None => false,
            }
        }
        1 => line("VMs that use one GPU at the same time", &q.users.to_string(), users)?
            .map(|n| q.users = n)
            .is_some(),
        2 => {
            let words = Need::ALL.map(|n| n.word().to_string());
            let marked = Need::ALL.map(|n| q.needs.contains(&n));
            match some_of("What do they need? Space marks, Enter goes on", &words, &marked)? {
                Some(all) => {
                    q.needs = all.into_iter().map(|n| Need::ALL[n]).collect();
                    true
                }
                None => false,
            }
        }
        3 => line("GPU, such as A100-80 or L40S (- for none yet)", q.gpu.as_deref().unwrap_or(""), maybe)?
            .map(|gpu| q.gpu = gpu)
            .is_some(),
        4 => {
            let now = q.memory.map(|m| m.to_string()).unwrap_or_default();
            let parse = |text: &str| if text.is_empty() { Ok(None) } else { memory(text).map(Some) };
            line("GPU memory of each VM, such as 20GiB (- for as much as there is)", &now, parse)?
                .map(|m| q.memory = m)
                .is_some()
        }
        5 => {
            let parse = |text: &str| if text.is_empty() { Ok(None) } else { release(text).map(Some) };
            line("ESXi, such as 8.0U3 (- for a new one)", q.esxi.as_deref().unwrap_or(""), parse)?
                .map(|esxi| q.esxi = esxi)
                .is_some()
        }
        6 => {
            let words = ["linux".to_string(), "windows".into()];
            match one_of("Guests", &words, usize::from(q.guest == Guest::Windows))? {
                Some(n) => {
                    q.guest = if n == 1 { Guest::Windows } else { Guest::Linux };
                    true
                }
                None => false,
            }
        }
        7 => {
            let words = LICENSES.map(|(_, text)| text.to_string());
            let now = LICENSES
                .iter()
                .position(|(word, _)| License::parse(word).is_ok_and(|l| l.nvidia == q.license.nvidia));
            match one_of("NVIDIA license that is there", &words, now.unwrap_or(0))? {
                Some(n) => {
                    let chosen = License::parse(LICENSES[n].0)?;
                    q.license = License { standard: q.license.standard, ..chosen };
                    true
                }
                None => false,
            }
        }
        8 => {
            let parse = |text: &str| if text.is_empty() { Ok(None) } else { percent(text).map(Some) };
            let now = q.max_loss.map(|p| format!("{p}%")).unwrap_or_default();
            line("Loss against bare metal that is bearable, such as 5% (- for any)", &now, parse)?
                .map(|p| q.max_loss = p)
                .is_some()
        }
        _ => return Ok(None),
    }))
}

const LICENSES: [(&str, &str); 6] = [
    ("", "not decided"),
    ("none", "none"),
    ("nvaie", "NVIDIA AI Enterprise (formerly vCS)"),
    ("vws", "RTX vWS (formerly vDWS)"),
    ("vpc", "vPC"),
    ("vapps", "vApps"),
];

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

/// A line: `<` goes back, `-` empties it. Asked again until it can be read.
fn line<T>(
    prompt: &str,
    start: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    loop {
        let asked = dialoguer::Input::<String>::new()
            .with_prompt(format!("{prompt} [< back]"))
            .default(start.to_string())
            .show_default(!start.is_empty())
            .allow_empty(true)
            .interact_text();
        let text = asked.map_err(|why| why.to_string())?;
        match text.trim() {
            "<" => return Ok(None),
            text => match parse(if text == "-" { "" } else { text }) {
                Ok(value) => return Ok(Some(value)),
                Err(why) => crate::render::printer::say(&format!("{why}\n")),
            },
        }
    }
}
