//! The glance as lines of a screen, eighty columns wide or wider, each with how loud it is.

use crate::inventory::acquired::span;
use crate::monitoring::top::bars;
use crate::monitoring::top::needs::{Severity, of_node};
use crate::monitoring::top::summary::{FleetSummary, Gpu, GpuServer, Node, Run, Usable, Vgpu};
use crate::node::NodeKind;
use vsgpu_core::words::counted;

#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub text: String,
    /// How loud it is.
    pub mood: Severity,
}

/// What stands between two nodes in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Host,
    Guest,
}

/// A node with its GPUs: they are sorted, filtered and opened together.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    pub part: Part,
    /// Name of the node.
    pub name: String,
    /// How busy its busiest GPU is, 0 to 1.
    pub busy: f64,
    /// Its own line, then its GPUs and vGPUs.
    pub lines: Vec<Line>,
}

impl Block {
    /// The loudest of its lines.
    pub fn mood(&self) -> Severity {
        self.lines.iter().map(|line| line.mood).max().unwrap_or(Severity::Fine)
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Two lines: the fleet, and its latest run.
    pub head: [String; 2],
    /// Two lines: what the columns of GPUs and of vGPUs are. Empty where there is nothing to show.
    pub columns: Vec<String>,
    /// Hosts with their GPUs and vGPUs, then guests.
    pub blocks: Vec<Block>,
}

impl View {
    /// All lines, with a heading before the guests.
    pub fn lines(&self) -> Vec<&str> {
        let mut all = vec![];
        for (at, block) in self.blocks.iter().enumerate() {
            if block.part == Part::Guest && (at == 0 || self.blocks[at - 1].part == Part::Host) {
                all.push("guests");
            }
            all.extend(block.lines.iter().map(|line| line.text.as_str()));
        }
        all
    }
}

fn gib(bytes: Option<f64>) -> String {
    bytes.map_or("-".into(), |b| format!("{:.1}", b / f64::from(1 << 30)))
}

fn percent(ratio: Option<f64>) -> String {
    ratio.map_or("-".into(), |r| format!("{:.0}%", r * 100.0))
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        text.into()
    } else {
        text.chars().take(width.saturating_sub(1)).chain(['~']).collect()
    }
}

/// Widths of columns: what a window is wider than eighty goes to the names.
#[derive(Clone, Copy)]
struct Widths {
    all: usize,
    node: usize,
    model: usize,
    vm: usize,
    profile: usize,
}

impl Widths {
    fn of(width: usize) -> Self {
        let more = width.saturating_sub(80).min(40);
        let all = width.max(80);
        Self { all, node: 18 + more / 2, model: 22 + more, vm: 15 + more - more / 3, profile: 17 + more / 3 }
    }

    fn gpu(self, [gpu, model, busy, used, all, heat, power]: [&str; 7]) -> String {
        let (model, wide) = (cut(model, self.model), self.model);
        format!("  {:<12} {model:<wide$} {busy:>5} {used:>6}/{all:<5} {heat:>5} {power:>5}", cut(gpu, 12))
    }

    fn vgpu(self, [vm, profile, busy, used, license, driver]: [&str; 6]) -> String {
        let (vm, profile) = (cut(vm, self.vm), cut(profile, self.profile));
        let (first, second) = (self.vm, self.profile);
        format!("    {vm:<first$} {profile:<second$} {busy:>5} {used:>6} {license:<10} {}", cut(driver, 14))
    }
}

/// Makes lines of it. `width`: columns of the window.
pub fn view(glance: &FleetSummary, width: usize) -> View {
    let widths = Widths::of(width);
    let block = |part: Part, node: &Node| {
        let mut lines = vec![node_line(node, if part == Part::Guest { "  " } else { "" }, widths)];
        lines.extend(node.gpu_server.as_ref().map(server_line));
        node.gpus.iter().for_each(|gpu| gpu_lines(gpu, widths, &mut lines));
        let busy = node.gpus.iter().filter_map(|gpu| gpu.utilization_ratio).fold(0.0, f64::max);
        Block { part, name: node.name.clone(), busy, lines }
    };
    let blocks: Vec<Block> = glance
        .hosts
        .iter()
        .map(|node| block(Part::Host, node))
        .chain(glance.guests.iter().map(|node| block(Part::Guest, node)))
        .collect();
    let away = |nodes: &[Node]| nodes.iter().filter(|n| !n.reachable).count();
    let gpus: Vec<&Gpu> = glance.hosts.iter().flat_map(|h| &h.gpus).collect();
    let vgpus = gpus.iter().map(|gpu| gpu.vgpus.len()).sum::<usize>();
    let some = |n: usize, what: &str| if n > 0 { format!(", {n} {what}") } else { String::new() };
    let first = format!(
        "{}  {}{}{}, {}, {}, {}{}",
        cut(&glance.fleet, 24),
        counted(glance.hosts.len(), "host"),
        some(glance.hosts.iter().filter(|h| h.maintenance == Some(true)).count(), "in maintenance"),
        some(away(&glance.hosts), "AWAY"),
        counted(gpus.len(), "GPU"),
        counted(vgpus, "vGPU"),
        counted(glance.guests.len(), "guest"),
        some(away(&glance.guests), "AWAY")
    );
    let mut columns = vec![];
    if blocks.iter().any(|b| b.part == Part::Guest || b.lines.len() > 1) {
        columns.push(widths.gpu(["GPU", "MODEL", "BUSY", "GiB", "ALL", "HEAT", "POWER"]));
        columns.push(widths.vgpu(["VM", "VGPU TYPE", "BUSY", "GiB", "LICENSE", "GUEST DRIVER"]));
    }
    View { head: [first, run_line(glance)], columns, blocks }
}

fn run_line(glance: &FleetSummary) -> String {
    if !glance.runs_readable {
        return "THE RUNS CANNOT BE READ: `vsgpu status` says why".into();
    }
    let Some(Run { number, state, steps, done, failed, held }) = &glance.run else {
        return "no run yet".into();
    };
    let state = if *state == "unfinished" { "NOT FINISHED" } else { state };
    let failed = if *failed > 0 { format!(", {failed} FAILED") } else { String::new() };
    let held = if *held > 0 { format!("; {held} nodes held") } else { String::new() };
    format!("run {number}: {state}, {done} of {steps} steps done{failed}{held}")
}

/// What a GPU server has to give, and who waits for it.
fn server_line(server: &GpuServer) -> Line {
    let mut mood = Severity::Fine;
    let mut words = vec![format!("{} of {} GPUs free", server.free, server.gpus)];
    if !server.up {
        return Line { text: "    GPU server: THE GATEWAY DOES NOT ANSWER".into(), mood: Severity::Bad };
    }
    let mut say = |so: bool, text: String, how: Severity| {
        if so {
            mood = mood.max(how);
            words.push(text);
        }
    };
    let GpuServer { waiting, oldest_secs, out_of_service, .. } = server;
    say(server.blocked, "BLOCKED".into(), Severity::Bad);
    say(*out_of_service > 0, format!("{out_of_service} OUT OF SERVICE"), Severity::Bad);
    say(server.drained, "drained".into(), Severity::Doubt);
    say(*waiting > 0, format!("{waiting} waiting for {}", span(*oldest_secs)), Severity::Fine);
    Line { text: cut(&format!("    GPU server: {}", words.join(", ")), 80), mood }
}

/// A host or a guest: whether it answers, what it wishes, what is wrong.
fn node_line(node: &Node, indent: &str, widths: Widths) -> Line {
    let mut mood = Severity::Fine;
    let mut words: Vec<String> = vec![];
    let mut say = |so: bool, word: &str, how: Severity| {
        if so {
            mood = mood.max(how);
            words.push(word.into());
        }
    };
    match (&node.host, &node.file_host) {
        (Some(host), None) => say(true, &format!("on {host}"), Severity::Fine),
        (Some(host), Some(file)) => say(true, &format!("on {host} (file says {file})"), Severity::Doubt),
        (None, _) => {}
    }
    say(!node.reachable, "AWAY", Severity::Bad);
    node.held.iter().for_each(|hold| say(true, &format!("held ({hold})"), Severity::Bad));
    say(node.maintenance == Some(true), "maintenance", Severity::Doubt);
    say(node.reboot_pending == Some(true), "reboot pending", Severity::Doubt);
    say(node.driver_loaded == Some(false), "no driver", Severity::Bad);
    say(node.licensed == Some(true), "licensed", Severity::Fine);
    say(node.licensed == Some(false), "UNLICENSED", Severity::Bad);
    say(node.proof == Some("right"), "proof right", Severity::Fine);
    say(node.proof == Some("of-another-boot"), "proof of another boot", Severity::Doubt);
    say(node.proof == Some("wrong"), "PROOF WRONG", Severity::Bad);
    say(node.health == Some("critical"), "CRITICAL", Severity::Bad);
    say(node.health == Some("warning"), "health warning", Severity::Doubt);
    if let Some(Usable { usable, of }) = &node.gpu_servers {
        let how = match (usable, of) {
            (0, 1..) => Severity::Bad,
            (usable, of) if usable < of => Severity::Doubt,
            _ => Severity::Fine,
        };
        say(true, &format!("{usable}/{of} GPU servers usable"), how);
    }
    if let Some(wishes) = &node.wishes {
        say(
            true,
            &format!("{}/{} met", wishes.met, wishes.of),
            if wishes.met == wishes.of { Severity::Fine } else { Severity::Doubt },
        );
    }
    let (name, wide) = (cut(&node.name, widths.node), widths.node);
    let text = format!("{indent}{name:<wide$}  {}", words.join(", "));
    Line { text: cut(text.trim_end(), widths.all), mood }
}

/// A GPU with its vGPUs.
fn gpu_lines(gpu: &Gpu, widths: Widths, lines: &mut Vec<Line>) {
    let (mood, more) = match gpu {
        Gpu { memory_errors: true, .. } => (Severity::Bad, "  MEMORY ERRORS"),
        Gpu { throttled: true, .. } => (Severity::Doubt, "  throttled"),
        _ => (Severity::Fine, ""),
    };
    let one = |value: Option<f64>, unit: &str| value.map_or("-".into(), |v| format!("{v:.0}{unit}"));
    let given = match (gpu.vms.as_slice(), gpu.one_of.as_slice()) {
        ([], []) => "passthrough: no VM".to_string(),
        ([], [only]) => format!("whole: {only}"),
        ([], some) => format!("whole: one of {}", some.join(", ")),
        (vms, _) => format!("whole: {}", vms.join(", ")),
    };
    let model = gpu.name.as_deref().unwrap_or(if gpu.passthrough { &given } else { "-" });
    let row = widths.gpu([
        &gpu.gpu,
        model,
        &percent(gpu.utilization_ratio),
        &gib(gpu.memory_used_bytes),
        &gib(gpu.memory_total_bytes),
        &one(gpu.temperature_celsius, "C"),
        &one(gpu.power_watts, "W"),
    ]);
    lines.push(Line { text: format!("{row}{more}").trim_end().into(), mood });
    lines.extend(gpu.vgpus.iter().map(|vgpu| vgpu_line(vgpu, widths)));
}

fn vgpu_line(vgpu: &Vgpu, widths: Widths) -> Line {
    let (word, mood) = match vgpu.licensed {
        Some(true) => ("licensed", Severity::Fine),
        Some(false) => ("UNLICENSED", Severity::Bad),
        None => ("-", Severity::Fine),
    };
    let (busy, used) = (percent(vgpu.utilization_ratio), gib(vgpu.memory_used_bytes));
    let row = [vgpu.vm.as_str(), &vgpu.profile, &busy, &used, word, &vgpu.guest_driver];
    Line { text: widths.vgpu(row).trim_end().into(), mood }
}

/// All that is known of one node, for who opens its line.
pub fn detail(glance: &FleetSummary, part: Part, name: &str, width: usize) -> Vec<Line> {
    let nodes = if part == Part::Host { &glance.hosts } else { &glance.guests };
    let Some(node) = nodes.iter().find(|node| node.name == name) else {
        return vec![Line { text: format!("{name} is not in the fleet any more"), mood: Severity::Doubt }];
    };
    let widths = Widths::of(width);
    let mut lines = vec![node_line(node, "", widths)];
    let plain = |text: String| Line { text: cut(&text, widths.all), mood: Severity::Fine };
    if let Some(age) = node.age_secs {
        lines.push(plain(format!("  what is shown is {} old", span(age))));
    }
    lines.push(plain(String::new()));
    match (&node.wishes, node.unmet.as_slice()) {
        (None, _) => {
            lines.push(plain("  nothing is known of what the fleet file says here: vsgpu verify".into()))
        }
        (Some(wishes), []) => {
            lines.push(plain(format!("  as the fleet file says: all {} requirements", wishes.of)))
        }
        (Some(_), unmet) => {
            lines.push(plain("  not as the fleet file says:".into()));
            let row =
                |what: &String| Line { text: cut(&format!("    {what}"), widths.all), mood: Severity::Doubt };
            lines.extend(unmet.iter().map(row));
            lines.push(plain(format!("  why: vsgpu verify   what would be done: vsgpu plan -n {name}")));
        }
    }
    let kind = if part == Part::Host { NodeKind::Host } else { NodeKind::Guest };
    let needs = of_node(node, kind);
    if !needs.is_empty() {
        lines.push(plain(String::new()));
        for need in needs {
            lines.push(Line { text: cut(&format!("  {}", need.what), widths.all), mood: need.severity });
            lines.push(plain(format!("    {}", need.fix)));
        }
    }
    let gpus: Vec<Line> = {
        let mut lines = vec![];
        lines.extend(node.gpu_server.as_ref().map(server_line));
        for gpu in &node.gpus {
            gpu_lines(gpu, widths, &mut lines);
            let parts = bars::parts(gpu);
            if !parts.is_empty() {
                let room = bars::room(gpu).unwrap_or_default();
                lines.push(plain(
                    format!("    {}  {room}", crate::picture::characters(&parts, 32)).trim_end().into(),
                ));
            }
        }
        lines
    };
    if !gpus.is_empty() {
        lines.push(plain(String::new()));
        lines.extend(gpus);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitoring::top::summary::{Seats, glance};

    const PAGE: &str = "# HELP x\nvsgpu_node_reachable{node=\"esx-01\",role=\"host\"} 1\nvsgpu_node_reachable{node=\"esx-02\",role=\"host\"} 0\nvsgpu_node_reachable{node=\"vm-01\",role=\"guest\"} 1\nvsgpu_host_maintenance_mode{node=\"esx-01\",role=\"host\"} 1\nvsgpu_gpu_info{node=\"esx-01\",role=\"host\",gpu=\"0000:3b:00.0\",name=\"NVIDIA A100-PCIE-40GB\"} 1\nvsgpu_gpu_utilization_ratio{node=\"esx-01\",role=\"host\",gpu=\"0000:3b:00.0\"} 0.87\nvsgpu_gpu_memory_used_bytes{node=\"esx-01\",role=\"host\",gpu=\"0000:3b:00.0\"} 34359738368\nvsgpu_gpu_memory_total_bytes{node=\"esx-01\",role=\"host\",gpu=\"0000:3b:00.0\"} 42949672960\nvsgpu_host_vgpu_info{node=\"esx-01\",role=\"host\",gpu=\"0000:3b:00.0\",vm=\"a \\\"long\\\" name of a machine\",type=\"nvidia_a100-10c\",guest_driver=\"535.183.01\"} 1\nvsgpu_host_vgpu_licensed{node=\"esx-01\",role=\"host\",gpu=\"0000:3b:00.0\",vm=\"a \\\"long\\\" name of a machine\"} 0\nvsgpu_host_gpu_owner_info{node=\"esx-01\",role=\"host\",gpu=\"0000:af:00.0\",configured=\"VM Passthru\",active=\"VM Passthru\"} 1\nvsgpu_gpu_info{node=\"vm-01\",role=\"guest\",gpu=\"0000:03:00.0\",name=\"NVIDIA A100-PCIE-40GB\"} 1\nvsgpu_gpu_utilization_ratio{node=\"vm-01\",role=\"guest\",gpu=\"0000:03:00.0\"} 0.5\nvsgpu_license_licensed{node=\"vm-01\",role=\"guest\",gpu=\"x\"} 1\nvsgpu_license_licensed{node=\"vm-01\",role=\"guest\",gpu=\"y\"} 0\nvsgpu_requirement_met{node=\"vm-01\",role=\"guest\",vm=\"\",requirement=\"driver\"} 0\nvsgpu_run_number 3\nvsgpu_run_unfinished 1\nvsgpu_controller_at_work 0\nvsgpu_run_steps{state=\"done\"} 4\nvsgpu_run_steps{state=\"waiting\"} 2\n";

    #[test]
    fn gpu_servers_and_their_clients_have_their_line() {
        let of = |labels: &str, rest: &str| format!("{{node=\"gpu-srv-1\",role=\"guest\"{labels}}} {rest}\n");
        let mut page = String::new();
        for (name, labels, value) in [
            ("node_reachable", "", "1"),
            ("pool_up", "", "1"),
            ("pool_slots", ",state=\"free\"", "1"),
            ("pool_slots", ",state=\"held\"", "2"),
            ("pool_slots", ",state=\"ending\"", "0"),
            ("pool_slots", ",state=\"out-of-service\"", "1"),
            ("pool_queue", ",team=\"ml\"", "2"),
            ("pool_queue", ",team=\"ci\"", "1"),
            ("pool_queue_oldest_seconds", "", "125"),
            ("pool_drained", "", "1"),
            ("pool_blocked", "", "0"),
        ] {
            page += &format!("vsgpu_{name}{}", of(labels, value));
        }
        let client = page.lines().next().unwrap_or_default().replace("gpu-srv-1", "ml-1");
        page += &format!("{client}\n");
        for (server, usable) in [("gpu-srv-1", 1), ("gpu-srv-2", 0)] {
            page += &format!(
                "vsgpu_network_gpu_server_usable{{node=\"ml-1\",role=\"guest\",server=\"{server}\"}} {usable}\n"
            );
        }
        let seen = |page: &str| view(&glance("f", &Seats::new(), page), 80);
        let text = |page: &str| seen(page).lines().into_iter().map(String::from).collect::<Vec<_>>();
        assert_eq!(
            text(&page),
            [
                "guests",
                "  gpu-srv-1",
                "    GPU server: 1 of 4 GPUs free, 1 OUT OF SERVICE, drained, 3 waiting for 2 min",
                "  ml-1                1/2 GPU servers usable",
            ]
        );
        let blocks = seen(&page).blocks;
        assert_eq!((blocks[0].mood(), blocks[1].mood()), (Severity::Bad, Severity::Doubt));
        let away = page.replace(
            "vsgpu_pool_up{node=\"gpu-srv-1\",role=\"guest\"} 1",
            "vsgpu_pool_up{node=\"gpu-srv-1\",role=\"guest\"} 0",
        );
        assert_eq!(text(&away)[2], "    GPU server: THE GATEWAY DOES NOT ANSWER");
    }

    #[test]
    fn a_page_becomes_lines_of_eighty_columns() {
        let glance = glance("fleet.yaml", &Seats::new(), PAGE);
        let view = view(&glance, 80);
        let text = view.lines();
        assert_eq!(
            text,
            [
                "esx-01              maintenance",
                "  0000:3b:00.0 NVIDIA A100-PCIE-40GB    87%   32.0/40.0      -     -",
                "    a \"long\" name ~ nvidia_a100-10c       -      - UNLICENSED 535.183.01",
                "  0000:af:00.0 passthrough: no VM         -      -/-         -     -",
                "esx-02              AWAY",
                "guests",
                "  vm-01               UNLICENSED, 0/1 met",
                "  0000:03:00.0 NVIDIA A100-PCIE-40GB    50%      -/-         -     -",
            ]
        );
        assert_eq!(view.blocks[0].lines[2].mood, Severity::Bad);
        assert_eq!(view.head[0], "fleet.yaml  2 hosts, 1 in maintenance, 1 AWAY, 2 GPUs, 1 vGPU, 1 guest");
        assert_eq!(view.head[1], "run 3: NOT FINISHED, 4 of 6 steps done");
        assert_eq!(
            view.columns,
            [
                "  GPU          MODEL                   BUSY    GiB/ALL    HEAT POWER",
                "    VM              VGPU TYPE          BUSY    GiB LICENSE    GUEST DRIVER"
            ]
        );
        assert!(
            text.iter()
                .chain(view.head.each_ref().map(String::as_str).iter())
                .all(|l| l.chars().count() <= 80)
        );
    }

    #[test]
    fn whole_gpus_and_guests_say_whose_and_where() {
        let host = |node: &str, rest: &str| {
            format!("vsgpu_{rest}").replace("{", &format!("{{node=\"{node}\",role=\"host\","))
        };
        let page = [
            "vsgpu_node_reachable{node=\"esx-01\",role=\"host\"} 1\n".to_string(),
            "vsgpu_node_reachable{node=\"esx-02\",role=\"host\"} 1\n".into(),
            "vsgpu_node_reachable{node=\"vm-a\",role=\"guest\"} 1\n".into(),
            "vsgpu_node_reachable{node=\"vm-b\",role=\"guest\"} 1\n".into(),
            host("esx-01", "host_gpu_owner_info{gpu=\"0000:3b:00.0\",configured=\"VM Passthru\",active=\"VM Passthru\"} 1\n"),
            host("esx-01", "host_whole_gpu_info{gpu=\"0000:3b:00.0\",vm=\"a\"} 1\n"),
            host("esx-02", "host_gpu_owner_info{gpu=\"0000:5e:00.0\",configured=\"VM Passthru\",active=\"VM Passthru\"} 1\n"),
            host("esx-02", "host_whole_gpu_info{gpu=\"10de:1eb8\",vm=\"b\"} 1\n"),
            host("esx-02", "host_whole_gpu_info{gpu=\"10de:1eb8\",vm=\"c\"} 1\n"),
        ]
        .concat();
        let seat = |vm: &str| (format!("vm-{vm}"), (vec!["esx-01".to_string()], vm.to_string()));
        let seats: Seats = ["a", "b"].map(seat).into();
        let seen = glance("f", &seats, &page);
        assert_eq!(
            view(&seen, 80).lines(),
            [
                "esx-01",
                "  0000:3b:00.0 whole: a                   -      -/-         -     -",
                "esx-02",
                "  0000:5e:00.0 whole: one of b, c         -      -/-         -     -",
                "guests",
                "  vm-a                on esx-01",
                "  vm-b                on esx-02 (file says esx-01)",
            ]
        );
        let open = detail(&seen, Part::Guest, "vm-b", 80);
        assert!(open.iter().any(|line| line.text.contains("nothing is known")), "{open:?}");
        let wide = view(&seen, 120);
        assert!(
            wide.columns[0].chars().count() > 100 && wide.lines().iter().all(|l| l.chars().count() <= 120)
        );
    }
}
