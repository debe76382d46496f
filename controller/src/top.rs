//! The fleet at a glance: what all agents' metrics say, as lines that fit eighty columns. Pure: one page of text in (as the exporter
//! serves it), lines out.

use serde::Serialize;
use std::collections::BTreeMap;

/// How loud a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mood {
    /// All is well.
    Fine,
    /// Somebody should look.
    Doubt,
    /// Somebody must look.
    Bad,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// What it shows.
    pub text: String,
    /// How loud it is.
    pub mood: Mood,
}

/// The whole view.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct View {
    /// Two lines: the fleet, and its latest run.
    pub head: [String; 2],
    /// Hosts with their GPUs and vGPUs, then guests.
    pub lines: Vec<Line>,
    /// Hosts and guests, whole: lines cut long names.
    pub names: Vec<String>,
}

type Labels = BTreeMap<String, String>;

/// All series of a page.
struct Page(BTreeMap<String, Vec<(Labels, f64)>>);

impl Page {
    fn read(text: &str) -> Self {
        let mut all: BTreeMap<String, Vec<(Labels, f64)>> = BTreeMap::new();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let name = name.strip_prefix("vsgpu_").unwrap_or(name);
            all.entry(name.into()).or_default().push((labels_of(labels.trim_end_matches('}')), value));
        }
        Self(all)
    }

    fn of(&self, name: &str) -> impl Iterator<Item = &(Labels, f64)> {
        self.0.get(name).into_iter().flatten()
    }

    /// The first value whose labels are these.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |l: &Labels| labels.iter().all(|(key, value)| l.get(*key).is_some_and(|v| v == value));
        self.of(name).find(|(l, _)| fits(l)).map(|(_, value)| *value)
    }
}

/// `a="x",b="y"`, with `\"`, `\\` and `\n` inside.
fn labels_of(text: &str) -> Labels {
    let mut labels = Labels::new();
    let mut chars = text.chars().peekable();
    loop {
        let name: String = chars.by_ref().take_while(|c| *c != '=').collect();
        if name.is_empty() || chars.next() != Some('"') {
            return labels;
        }
        let mut value = String::new();
        while let Some(c) = chars.next() {
            match c {
                '"' => break,
                '\\' => value.extend(chars.next().map(|c| if c == 'n' { ' ' } else { c })),
                c => value.push(if c.is_control() { ' ' } else { c }),
            }
        }
        labels.insert(name, value);
        if chars.peek() == Some(&',') {
            chars.next();
        }
    }
}

fn gib(bytes: Option<f64>) -> String {
    bytes.map_or("-".into(), |b| format!("{:.1}", b / f64::from(1 << 30)))
}

fn percent(ratio: Option<f64>) -> String {
    ratio.map_or("-".into(), |r| format!("{:.0}%", r * 100.0))
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width { text.into() } else { text.chars().take(width.saturating_sub(1)).chain(['~']).collect() }
}

/// Makes the view of a page. `fleet`: the fleet file's name.
pub fn view(fleet: &str, page: &str) -> View {
    let page = Page::read(page);
    let nodes = |role: &str| -> Vec<String> {
        let of_role = page.of("node_reachable").filter(|(l, _)| l.get("role").is_some_and(|r| r == role));
        of_role.filter_map(|(l, _)| l.get("node").cloned()).collect()
    };
    let (mut hosts, mut guests) = (nodes("host"), nodes("guest"));
    hosts.sort();
    guests.sort();
    let mut lines = vec![];
    for host in &hosts {
        lines.push(node_line(&page, host, "host"));
        lines.extend(gpu_lines(&page, host));
    }
    if !guests.is_empty() {
        lines.push(Line { text: "guests".into(), mood: Mood::Fine });
    }
    lines.extend(guests.iter().map(|guest| node_line(&page, guest, "guest")));
    let count = |name: &str| page.of(name).filter(|(_, value)| *value == 1.0).count();
    let away =
        |role: &str| page.of("node_reachable").filter(|(l, value)| *value == 0.0 && l.get("role").is_some_and(|r| r == role)).count();
    let gpus = page.of("gpu_info").filter(|(l, _)| l.get("role").is_some_and(|r| r == "host")).count();
    let some = |n: usize, what: &str| if n > 0 { format!(", {n} {what}") } else { String::new() };
    let first = format!(
        "{}  {} hosts{}{}, {gpus} GPUs, {} vGPUs, {} guests{}",
        cut(fleet, 24),
        hosts.len(),
        some(count("host_maintenance_mode"), "in maintenance"),
        some(away("host"), "AWAY"),
        page.of("host_vgpu_info").count(),
        guests.len(),
        some(away("guest"), "AWAY")
    );
    let name = |role: &str, names: &[String]| names.iter().map(|name| format!("{role}/{name}")).collect::<Vec<_>>();
    let names = [name("host", &hosts), name("guest", &guests)].concat();
    View { head: [first, run_line(&page)], lines, names }
}

fn run_line(page: &Page) -> String {
    if page.value("runs_readable", &[]) == Some(0.0) {
        return "THE RUNS CANNOT BE READ: `vsgpu status` says why".into();
    }
    let Some(number) = page.value("run_number", &[]) else { return "no run yet".into() };
    let steps = |state: &str| page.value("run_steps", &[("state", state)]).unwrap_or(0.0);
    let all = ["waiting", "started", "done", "failed"].map(steps).iter().sum::<f64>();
    let state = match (page.value("controller_at_work", &[]), page.value("run_unfinished", &[])) {
        (Some(1.0), Some(1.0)) => "running",
        (_, Some(1.0)) => "NOT FINISHED",
        _ => "ended",
    };
    let failed = if steps("failed") > 0.0 { format!(", {} FAILED", steps("failed")) } else { String::new() };
    let held = page.of("node_held").count();
    let held = if held > 0 { format!("; {held} nodes held") } else { String::new() };
    format!("run {number}: {state}, {} of {all} steps done{failed}{held}", steps("done"))
}

/// A host or a guest: whether it answers, what it wishes, what is wrong.
fn node_line(page: &Page, node: &str, role: &str) -> Line {
    let of = [("node", node), ("role", role)];
    let mut mood = Mood::Fine;
    let mut words: Vec<String> = vec![];
    let mut say = |word: String, how: Mood| {
        mood = mood.max(how);
        words.push(word);
    };
    if page.value("node_reachable", &of) == Some(0.0) {
        say("AWAY".into(), Mood::Bad);
    }
    for (labels, _) in page.of("node_held").filter(|(l, _)| l.get("node").is_some_and(|n| n == node)) {
        // A host's hold has no role.
        if (role == "guest") == labels.get("role").is_some_and(|r| r == "guest") {
            say(format!("held ({})", labels.get("hold").map_or("", String::as_str)), Mood::Bad);
        }
    }
    if page.value("host_maintenance_mode", &of) == Some(1.0) {
        say("maintenance".into(), Mood::Doubt);
    }
    if page.value("host_reboot_pending", &of) == Some(1.0) {
        say("reboot pending".into(), Mood::Doubt);
    }
    if page.value("guest_driver_loaded", &of) == Some(0.0) {
        say("no driver".into(), Mood::Bad);
    }
    match page.value("license_licensed", &of) {
        Some(1.0) => say("licensed".into(), Mood::Fine),
        Some(_) => say("UNLICENSED".into(), Mood::Bad),
        None => {}
    }
    match (page.value("guest_cuda_proof_passed", &of), page.value("guest_cuda_proof_current", &of)) {
        (Some(1.0), Some(1.0)) => say("proof right".into(), Mood::Fine),
        (Some(1.0), _) => say("proof of another boot".into(), Mood::Doubt),
        (Some(_), _) => say("PROOF WRONG".into(), Mood::Bad),
        (None, _) => {}
    }
    match page.value("guest_health", &of) {
        Some(3.0) => say("CRITICAL".into(), Mood::Bad),
        Some(2.0) => say("health warning".into(), Mood::Doubt),
        _ => {}
    }
    let wishes: Vec<f64> =
        page.of("requirement_met").filter(|(l, _)| of.iter().all(|(k, v)| l.get(*k).is_some_and(|x| x == v))).map(|(_, v)| *v).collect();
    if !wishes.is_empty() {
        let met = wishes.iter().filter(|v| **v == 1.0).count();
        say(format!("{met}/{} as wished", wishes.len()), if met == wishes.len() { Mood::Fine } else { Mood::Doubt });
    }
    let indent = if role == "guest" { "  " } else { "" };
    Line { text: format!("{indent}{:<18}  {}", cut(node, 18), words.join(", ")).trim_end().into(), mood }
}

/// The GPUs of a host, each with its vGPUs.
fn gpu_lines(page: &Page, host: &str) -> Vec<Line> {
    let mut lines = vec![];
    let own = |l: &Labels| l.get("node").is_some_and(|n| n == host) && l.get("role").is_some_and(|r| r == "host");
    let label = |l: &Labels, name: &str| l.get(name).cloned().unwrap_or_default();
    for (labels, _) in page.of("gpu_info").filter(|(l, _)| own(l)) {
        let gpu = label(labels, "gpu");
        let of = [("node", host), ("role", "host"), ("gpu", gpu.as_str())];
        let number = |name: &str| page.value(name, &of);
        let mut mood = Mood::Fine;
        let mut more = String::new();
        if number("gpu_ecc_uncorrected_errors").is_some_and(|n| n > 0.0) || number("gpu_remap_failed") == Some(1.0) {
            (mood, more) = (Mood::Bad, "  MEMORY ERRORS".into());
        } else if number("gpu_throttled") == Some(1.0) {
            (mood, more) = (Mood::Doubt, "  throttled".into());
        }
        let one = |value: Option<f64>, unit: &str| value.map_or("-".into(), |v| format!("{v:.0}{unit}"));
        lines.push(Line {
            text: format!(
                "  {:<12} {:<22} {:>5} {:>6}/{:<5} {:>5} {:>5}{more}",
                cut(&gpu, 12),
                cut(&label(labels, "name"), 22),
                percent(number("gpu_utilization_ratio")),
                gib(number("gpu_memory_used_bytes")),
                gib(number("gpu_memory_total_bytes")),
                one(number("gpu_temperature_celsius"), "C"),
                one(number("gpu_power_watts"), "W"),
            ),
            mood,
        });
        for (labels, _) in page.of("host_vgpu_info").filter(|(l, _)| own(l) && label(l, "gpu") == gpu) {
            let vm = label(labels, "vm");
            let of = [("node", host), ("gpu", gpu.as_str()), ("vm", vm.as_str())];
            let licensed = page.value("host_vgpu_licensed", &of);
            let (word, mood) = match licensed {
                Some(1.0) => ("licensed", Mood::Fine),
                Some(_) => ("UNLICENSED", Mood::Bad),
                None => ("-", Mood::Fine),
            };
            lines.push(Line {
                text: format!(
                    "    {:<15} {:<17} {:>5} {:>6} {:<10} {}",
                    cut(&vm, 15),
                    cut(&label(labels, "type"), 17),
                    percent(page.value("host_vgpu_utilization_ratio", &of)),
                    gib(page.value("host_vgpu_memory_used_bytes", &of)),
                    word,
                    cut(&label(labels, "guest_driver"), 14)
                )
                .trim_end()
                .into(),
                mood,
            });
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP x\nvsgpu_node_reachable{node=\"esx-01\",role=\"host\"} 1\nvsgpu_node_reachable{node=\"esx-02\",role=\"host\"} 0\nvsgpu_node_reachable{node=\"vm-01\",role=\"guest\"} 1\nvsgpu_host_maintenance_mode{node=\"esx-01\",role=\"host\"} 1\nvsgpu_gpu_info{node=\"esx-01\",role=\"host\",gpu=\"0000:3b:00.0\",name=\"NVIDIA A100-PCIE-40GB\"} 1\nvsgpu_gpu_utilization_ratio{node=\"esx-01\",role=\"host\",gpu=\"0000:3b:00.0\"} 0.87\nvsgpu_gpu_memory_used_bytes{node=\"esx-01\",role=\"host\",gpu=\"0000:3b:00.0\"} 34359738368\nvsgpu_gpu_memory_total_bytes{node=\"esx-01\",role=\"host\",gpu=\"0000:3b:00.0\"} 42949672960\nvsgpu_host_vgpu_info{node=\"esx-01\",role=\"host\",gpu=\"0000:3b:00.0\",vm=\"a \\\"long\\\" name of a machine\",type=\"nvidia_a100-10c\",guest_driver=\"535.183.01\"} 1\nvsgpu_host_vgpu_licensed{node=\"esx-01\",role=\"host\",gpu=\"0000:3b:00.0\",vm=\"a \\\"long\\\" name of a machine\"} 0\nvsgpu_license_licensed{node=\"vm-01\",role=\"guest\",gpu=\"x\"} 1\nvsgpu_requirement_met{node=\"vm-01\",role=\"guest\",vm=\"\",requirement=\"driver\"} 0\nvsgpu_run_number 3\nvsgpu_run_unfinished 1\nvsgpu_controller_at_work 0\nvsgpu_run_steps{state=\"done\"} 4\nvsgpu_run_steps{state=\"waiting\"} 2\n";

    #[test]
    fn a_page_becomes_lines_of_eighty_columns() {
        let view = view("fleet.yaml", PAGE);
        let text: Vec<&str> = view.lines.iter().map(|l| l.text.as_str()).collect();
        assert_eq!(
            text,
            [
                "esx-01              maintenance",
                "  0000:3b:00.0 NVIDIA A100-PCIE-40GB    87%   32.0/40.0      -     -",
                "    a \"long\" name ~ nvidia_a100-10c       -      - UNLICENSED 535.183.01",
                "esx-02              AWAY",
                "guests",
                "  vm-01               licensed, 0/1 as wished",
            ]
        );
        assert_eq!(view.lines[2].mood, Mood::Bad);
        assert_eq!(view.head[0], "fleet.yaml  2 hosts, 1 in maintenance, 1 AWAY, 1 GPUs, 1 vGPUs, 1 guests");
        assert_eq!(view.head[1], "run 3: NOT FINISHED, 4 of 6 steps done");
        assert!(text.iter().chain(view.head.each_ref().map(String::as_str).iter()).all(|l| l.chars().count() <= 80));
    }
}
