//! The two pictures of the README, drawn from what is there: the crates and the wire file, and the golden
//! screens of a run; and GPUs as bars, as `fit` and the page for a browser draw them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use vsgpu::picture::{self, Part};

const WIRE: &str = include_str!("../../../../proto/agent.proto");
const SCREENS: &str = include_str!("../../../../tests/data/golden/journey.txt");
/// Folders whose crates are no part of what is installed.
const AROUND: [&str; 2] = ["tests", "packaging"];

/// Readable on light and on dark pages.
const STYLE: &str = "<style>
  text { font: 13px sans-serif; fill: #1f2328 }
  .title { font-weight: bold }
  .quiet { font-size: 12px; fill: #59636e }
  .box { fill: #f6f8fa; stroke: #59636e }
  .accent { fill: #fff1e5; stroke: #bc4c00 }
  .band { fill: #fff8c5; stroke: none }
  .line { stroke: #59636e; stroke-width: 1.5; fill: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .quiet { fill: #9198a1 }
    .box { fill: #151b23; stroke: #9198a1 }
    .accent { fill: #3d1f0a; stroke: #f0883e }
    .band { fill: #2b2611 }
    .line { stroke: #9198a1 }
  }
</style>
";

struct Svg {
    body: String,
}

impl Svg {
    fn text(&mut self, x: usize, y: usize, class: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(self.body, "<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{text}</text>");
    }

    fn rect(&mut self, (x, y): (usize, usize), (width, height): (usize, usize), class: &str) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"4\" class=\"{class}\"/>"
        );
    }

    fn arrow(&mut self, (x, y): (usize, usize), (to_x, to_y): (usize, usize)) {
        let _ = writeln!(
            self.body,
            "<path d=\"M{x} {y} L{to_x} {to_y}\" class=\"line\" marker-end=\"url(#tip)\"/>"
        );
    }

    /// A box with a title and lines below it.
    fn card(
        &mut self,
        (x, y): (usize, usize),
        (width, height): (usize, usize),
        title: &str,
        lines: &[String],
    ) {
        self.rect((x, y), (width, height), "box");
        self.text(x + 12, y + 22, "title", title);
        for (at, line) in lines.iter().enumerate() {
            self.text(x + 12, y + 42 + at * 17, "quiet", line);
        }
    }

    fn end(self, title: &str, width: usize, height: usize) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n<!-- Written by `cargo xtask \
             docs`. -->\n<title>{title}</title>\n{STYLE}<defs><marker id=\"tip\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" \
             markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0 L10 5 L0 10\" class=\"line\"/></marker></defs>\n{}</svg>\n",
            self.body
        )
    }
}

/// Lines of at most so many characters.
fn wrapped(text: &str, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= most => {
                let _ = write!(line, " {word}");
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        text.into()
    } else {
        text.chars().take(most - 2).chain(" …".chars()).collect()
    }
}

/// A crate of ours: what it is, and which of ours it uses.
struct Crate {
    about: String,
    uses: Vec<String>,
}

fn crates() -> Result<BTreeMap<String, Crate>, String> {
    let root = crate::root();
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .map_err(|e| e.to_string())?;
    let inside = |package: &cargo_metadata::Package| {
        !AROUND.iter().any(|folder| package.manifest_path.starts_with(root.join(folder)))
    };
    let names: Vec<String> =
        metadata.packages.iter().filter(|p| inside(p)).map(|p| p.name.to_string()).collect();
    let ours = |name: &str| names.iter().any(|n| n == name);
    Ok(metadata
        .packages
        .into_iter()
        .filter(|package| ours(&package.name))
        .map(|package| {
            let normal = package
                .dependencies
                .iter()
                .filter(|d| d.kind == cargo_metadata::DependencyKind::Normal && ours(&d.name));
            let mut uses: Vec<String> = normal.map(|d| d.name.clone()).collect();
            uses.sort();
            (package.name.to_string(), Crate { about: package.description.unwrap_or_default(), uses })
        })
        .collect())
}

/// How many crates stand below one.
fn level(name: &str, all: &BTreeMap<String, Crate>) -> usize {
    all.get(name).map_or(0, |one| one.uses.iter().map(|below| 1 + level(below, all)).max().unwrap_or(0))
}

/// Who talks to whom, and which crate uses which.
pub fn parts() -> Result<String, String> {
    let all = crates()?;
    let about = |name: &str, most: usize| {
        all.get(name)
            .map(|one| wrapped(&one.about, most))
            .ok_or(format!("there is no crate {name}, which the picture shows"))
    };
    let with = |mut lines: Vec<String>, more: &str| {
        lines.push(more.into());
        lines
    };
    let calls: Vec<&str> =
        WIRE.lines().filter_map(|l| l.trim().strip_prefix("rpc ")?.split('(').next()).collect();
    let mut svg = Svg { body: String::new() };
    svg.card(
        (280, 16),
        (400, 82),
        "vsgpu: the controller",
        &with(about("vsgpu", 56)?, "on the machine you work on; reads fleet.yaml"),
    );
    svg.arrow((400, 98), (240, 190));
    svg.arrow((560, 98), (720, 190));
    svg.text(405, 132, "", "gRPC over mutual TLS");
    for (at, line) in wrapped(&calls.join(", "), 38).iter().enumerate() {
        svg.text(370, 150 + at * 16, "quiet", line);
    }
    svg.card(
        (40, 192),
        (400, 98),
        "vsgpu-host-agent",
        &with(about("vsgpu-host-agent", 56)?, "on each ESXi host, or beside it over ssh"),
    );
    svg.card(
        (520, 192),
        (400, 98),
        "vsgpu-guest-agent",
        &with(about("vsgpu-guest-agent", 56)?, "in each Linux VM with a GPU"),
    );
    svg.arrow((240, 290), (240, 328));
    svg.arrow((720, 290), (720, 328));
    svg.card((40, 330), (400, 54), "ESXi host", &["esxcli, vim-cmd, nvidia-smi, .vmx files".into()]);
    svg.card(
        (520, 330),
        (400, 54),
        "Linux guest",
        &["package tool, installers, nvidia-smi, CUDA driver API".into()],
    );
    svg.text(40, 424, "title", "Crates: each uses only those below it");
    let levels = all.keys().map(|name| level(name, &all)).max().unwrap_or(0);
    let mut y = 440;
    for at in (0..=levels).rev() {
        let here: Vec<_> = all.iter().filter(|(name, _)| level(name, &all) == at).collect();
        let width = (880 - (here.len() - 1) * 20) / here.len();
        for (column, (name, one)) in here.iter().enumerate() {
            let short = |name: &String| name.strip_prefix("vsgpu-").unwrap_or(name).to_string();
            let uses = one.uses.iter().map(short).collect::<Vec<_>>().join(", ");
            let uses = if uses.is_empty() { "uses none of ours".into() } else { format!("uses {uses}") };
            svg.card((40 + column * (width + 20), y), (width, 54), name, &[cut(&uses, width / 7)]);
        }
        y += 70;
    }
    Ok(svg.end("The parts of vsgpu: who talks to whom", 960, y))
}

/// A step of the run on the golden screens.
struct Step<'a> {
    node: &'a str,
    what: &'a str,
    is: &'a str,
}

fn steps() -> Vec<Step<'static>> {
    let run = SCREENS.split("$ vsgpu status 1 -o wide\nrun ").nth(1).unwrap_or_default();
    let cells = |line: &'static str| {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>()
    };
    run.lines()
        .skip(2)
        .map_while(|line| match cells(line)[..] {
            [_, node, what, "done", is] => Some(Step { node, what, is }),
            _ => None,
        })
        .collect()
}

/// The steps of one run, by node.
/// Three GPUs: vGPUs of one size, of several, and one that a VM has whole.
pub fn gpus() -> String {
    let part = |label: &str, title: &str, start: usize, size: usize| Part {
        label: label.into(),
        kind: label.into(),
        title: title.into(),
        start,
        size,
    };
    let same = (0..3).map(|n| part("10c", &format!("vm-0{}: a100-10c", n + 1), n * 250, 250)).collect();
    let mixed = vec![part("20c", "vm-04: a100-20c", 0, 500), part("10c", "vm-05: a100-10c", 500, 250)];
    let whole = vec![part("vm-06", "whole GPU of vm-06", 0, picture::WHOLE)];
    let rows = [
        ("esx-01  GPU 1  room for one 10c more", same),
        ("esx-01  GPU 2  two sizes (R550 and later)", mixed),
        ("esx-02  GPU 1  passed through whole", whole),
    ];
    picture::sheet(&rows.map(|(words, parts)| (words.to_string(), parts)), 0)
}

/// See the head of this file.
pub fn run() -> Result<String, String> {
    let steps = steps();
    let mut nodes: Vec<&str> = vec![];
    for step in &steps {
        if !nodes.contains(&step.node) {
            nodes.push(step.node);
        }
    }
    if nodes.len() != 3 {
        return Err(format!("the picture of a run has three nodes, the golden screens have {}", nodes.len()));
    }
    let cost = SCREENS
        .lines()
        .find(|line| line.contains(" steps on "))
        .and_then(|l| l.split("; ").next())
        .unwrap_or_default();
    let proof = SCREENS.lines().rfind(|line| line.ends_with("requirements are met")).unwrap_or_default();
    let (top, row, lane, width) = (84, 26, 200, 190);
    let y = |at: usize| top + at * row;
    let x = |node: &str| 20 + lane * nodes.iter().position(|n| *n == node).unwrap_or(0);
    let mut svg = Svg { body: String::new() };
    svg.text(20, 24, "title", "vsgpu apply");
    svg.text(120, 24, "quiet", cost);
    svg.text(
        20,
        44,
        "quiet",
        "On simulated machines. Yellow: the host is in maintenance mode. Orange: a reboot.",
    );
    for node in &nodes {
        svg.text(x(node) + 4, 72, "title", node);
    }
    svg.text(20 + lane * 3 + 4, 72, "title", "what is then so");
    let find = |what: &str| steps.iter().position(|step| step.what == what);
    if let (Some(enter), Some(leave)) = (find("enter maintenance mode"), find("leave maintenance mode")) {
        svg.rect((x(steps[enter].node) - 6, y(enter) - 2), (width + 12, (leave - enter + 1) * row), "band");
    }
    for (at, step) in steps.iter().enumerate() {
        let class = if step.what == "reboot" { "accent" } else { "box" };
        svg.rect((x(step.node), y(at)), (width, 22), class);
        svg.text(x(step.node) + 8, y(at) + 16, "", &cut(&format!("{}  {}", at + 1, step.what), 28));
        let is = step.is.rsplit('/').next().filter(|_| step.is.starts_with('/')).unwrap_or(step.is);
        svg.text(20 + lane * 3 + 4, y(at) + 16, "quiet", &cut(is, 52));
    }
    let end = y(steps.len()) + 18;
    svg.text(20, end, "title", "vsgpu verify");
    svg.text(120, end, "quiet", proof);
    Ok(svg.end("One run: maintenance mode, reboot, driver, license, proof", 980, end + 16))
}
