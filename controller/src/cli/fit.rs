//! `vsgpu fit`: will these VMs fit on these GPUs, and where. From words, from saved facts, or from the agents. Exit status
//! 0 they do, 6 they do not.

use crate::capacity;
use crate::cli::compat::esxi;
use crate::cli::global::{CliResult, FleetArg, GlobalArgs, block_on, connector};
use crate::cli::offline::{self, Saved};
use crate::cli::tables::Tables;
use crate::error::{Error, Exit, Kind};
use crate::fit::{self, Mode, Modes, Placement, Policy, Problem, WHOLE, Want};
use crate::fleet::{Fleet, file};
use crate::inventory::{self, Inventory, Scope, Seen};
use crate::node::{NodeId, NodeKind};
use crate::render::documents::{Current, GpuNow, value};
use crate::render::fit::{Report, answer};
use crate::render::{Answer, Printer, columns};
use clap::Args;
use std::path::{Path, PathBuf};
use vsgpu_core::words::counted;
use vsgpu_host_agent::facts::{EsxVersion, Vcenter};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu fit --hosts \"4 x 2 A100-80\" --want \"20 x a100d-8c, 6 x a100d-20c\"\n  vsgpu fit --hosts \"1 x 8 A100-80 512GiB\" --want \"3 x 2 a100d-80c 96GiB\"\n  vsgpu fit --want \"3 x a100d-20c\"            beside what runs now\n  vsgpu fit --current                         what every GPU still takes"
)]
pub(super) struct Fit {
    #[command(flatten)]
    fleet: FleetArg,
    #[command(flatten)]
    tables: Tables,
    /// GPUs: "4 x 2 A100-80, 1 x 4 L40S" is hosts x GPUs each
    #[arg(long, value_name = "HOSTS")]
    hosts: Option<String>,
    /// VMs: "20 x a100d-8c, 3 x 2 a100d-80c 96GiB, 2 x passthrough"
    #[arg(long, value_name = "VMS")]
    want: Option<String>,
    /// same-size, mixed-size, mig: what may be chosen
    #[arg(long, value_enum, value_delimiter = ',', value_name = "MODES", hide_possible_values = true)]
    modes: Vec<Mode>,
    /// Hosts that may be away
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    spare: usize,
    /// VMs with this profile are kept on different hosts (repeat)
    #[arg(long, value_name = "PROFILE")]
    apart: Vec<String>,
    /// performance or consolidation: the hosts' assignment policy
    #[arg(long, value_enum, value_name = "POLICY", default_value_t = Policy::Performance)]
    #[arg(hide_possible_values = true, hide_default_value = true)]
    policy: Policy,
    /// Release of ESXi of `--hosts`: 8.0.2
    #[arg(long, value_name = "RELEASE")]
    esxi: Option<String>,
    /// Saved facts, or a `vsgpu bundle`; asks no agent
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
    /// What every GPU still takes, as it is now
    #[arg(long, conflicts_with_all = ["hosts", "want", "after", "defragment", "spare"])]
    current: bool,
    /// Wishes of this fleet file, on the GPUs that are there
    #[arg(long, value_name = "FILE", conflicts_with = "hosts")]
    after: Option<PathBuf>,
    /// The fewest moves that make room
    #[arg(long)]
    defragment: bool,
    /// Draw it
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn usage(why: impl Into<String>) -> Vec<Error> {
    vec![Error::new(Kind::Usage, why).hint("`vsgpu fit --help` has examples")]
}

/// What the facts of a file are about, where no fleet file says more.
fn fleet_of(inventory: &Inventory) -> Result<Fleet, Vec<Error>> {
    let hosts: String = inventory
        .nodes
        .keys()
        .filter(|node| node.kind == NodeKind::Host)
        .map(|node| format!("  {:?}: {{}}\n", node.name))
        .collect();
    if hosts.is_empty() {
        return Err(usage("the facts are of no host"));
    }
    file::from_text(Path::new("facts"), &format!("version: 1\nhosts:\n{hosts}"))
}

struct Asked {
    problem: Problem,
    /// Who runs where; `None` where only words were given.
    now: Option<Placement>,
    addresses: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Fit {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        self.tables.lay()?;
        let mut asked = self.asked(chosen)?;
        self.narrow(&mut asked)?;
        if self.current {
            if let (Some(file), Some(now)) = (&self.svg, &asked.now) {
                let drawn = crate::render::fit::drawn(&asked.problem, now);
                crate::files::write_text(file, &drawn).map_err(|e| vec![e])?;
            }
            printer.show(current(&asked));
            return Ok(Exit::Done);
        }
        if asked.problem.wants.is_empty() {
            return Err(usage("nobody wants a GPU: name VMs with `--want`"));
        }
        let fits = self.answer(&asked, printer)?;
        Ok(if fits { Exit::Done } else { Exit::Not(Kind::Blocked) })
    }

    fn asked(&self, chosen: &GlobalArgs) -> Result<Asked, Vec<Error>> {
        // A fleet file may name tables of the operator: it is read before they judge a word.
        if self.hosts.is_none() || self.want.is_none() {
            self.fleet.read(false, chosen).map(drop).or_else(|wrong| {
                match self.facts.is_some() || self.hosts.is_some() {
                    true => Ok(()),
                    false => Err(wrong),
                }
            })?;
        }
        let mut wants: Vec<Want> = self
            .want
            .as_deref()
            .map(fit::wants)
            .transpose()
            .map_err(|why| usage(format!("--want: {why}")))?
            .unwrap_or_default();
        if let Some(text) = &self.hosts {
            if self.facts.is_some() {
                return Err(usage("`--hosts` and `--facts` both say which GPUs there are"));
            }
            if wants.is_empty() {
                wants = wishes(&self.fleet.read(false, chosen)?)?;
            }
            let hosts = fit::hosts(text, &wants).map_err(|why| usage(format!("--hosts: {why}")))?;
            let release = self.esxi.as_deref().map(esxi).transpose()?;
            let at_least = |least| release.as_deref().is_none_or(|v| EsxVersion::at_least(v, least));
            let mut problem = Problem { hosts, wants, series_mix: at_least("8.0.2"), esxi: release.clone() };
            if !at_least("8.0.3") {
                problem.hosts.iter_mut().flat_map(|h| &mut h.gpus).for_each(|g| g.modes.mixed_size = false);
            }
            let addresses = problem.hosts.iter().map(|h| vec![String::new(); h.gpus.len()]).collect();
            return Ok(Asked { problem, now: None, addresses, notes: vec![] });
        }
        let mut saved = self.facts.as_deref().map(offline::read).transpose()?;
        let fleet = match (&self.after, &saved) {
            (Some(file), _) => file::read(file)?,
            (None, Some(Saved { inventory, fleet: None })) if self.fleet.fleet.is_none() => {
                fleet_of(inventory)?
            }
            (None, _) => self.fleet.read_beside(saved.as_mut(), chosen)?,
        };
        let inventory = match saved {
            Some(saved) => saved.inventory,
            None => {
                let own = self.fleet.read(false, chosen)?;
                let connector = connector(&own)?;
                block_on(inventory::gather(&fleet, &connector, Scope::All, &|id| id.kind != NodeKind::Guest))?
            }
        };
        let capacity = capacity::of(&fleet, &inventory, &wants, !(self.defragment || self.spare > 0));
        let mut notes: Vec<String> =
            capacity.unknown.iter().map(|line| format!("NOT counted: {line}")).collect();
        notes.extend(by_vcenter(&inventory));
        Ok(Asked { problem: capacity.problem, now: Some(capacity.now), addresses: capacity.addresses, notes })
    }

    fn narrow(&self, asked: &mut Asked) -> Result<(), Vec<Error>> {
        if !self.modes.is_empty() {
            let may = Modes::of(&self.modes);
            for gpu in asked.problem.hosts.iter_mut().flat_map(|h| &mut h.gpus) {
                gpu.modes = gpu.modes.and(may);
            }
        }
        for name in &self.apart {
            let vgpu = fit::profile(name).map_err(|why| usage(format!("--apart: {why}")))?;
            let has = |want: &&mut Want| want.vgpus().any(|t| std::ptr::eq(t, vgpu));
            for want in asked.problem.wants.iter_mut().filter(has) {
                want.apart.push(name.clone());
            }
        }
        if let Some(word) =
            self.apart.iter().find(|word| !asked.problem.wants.iter().any(|w| w.apart.contains(word)))
        {
            return Err(usage(format!("--apart: no VM has {word}")));
        }
        if self.spare >= asked.problem.hosts.len() && self.spare > 0 {
            return Err(usage(format!("--spare {}: no host would be left", self.spare)));
        }
        Ok(())
    }

    fn answer(&self, asked: &Asked, printer: &Printer) -> Result<bool, Vec<Error>> {
        let problem = &asked.problem;
        let solved = fit::solve(problem);
        let mut notes = asked.notes.clone();
        // What runs stays where it is, if that is enough.
        let beside = asked.now.as_ref().map(|now| fit::without_moves(problem, now.clone()));
        let start = match (&beside, self.defragment) {
            (Some(beside), _) => Some(beside.clone()),
            (None, true) => Some(fit::power_on(problem, self.policy).placement),
            (None, false) => None,
        };
        let mut moves = None;
        let mut shown = solved.placement.clone();
        let mut fewest = false;
        if let Some(start) = &start {
            if start.left.is_empty() {
                shown = start.clone();
                moves = Some(vec![]);
            } else if solved.fits || self.defragment {
                match fit::make_room(problem, start) {
                    Some((found, after, sure)) => {
                        (moves, shown, fewest) = (Some(found), after, sure);
                    }
                    None if solved.fits => notes.push(
                        "No few moves lead there: up to four GPUs were emptied at once. VMs would have to be placed anew."
                            .into(),
                    ),
                    None => {}
                }
            }
        }
        if asked.now.is_none() && moves.as_ref().is_some_and(|all| !all.is_empty()) {
            notes.push(format!(
                "From words: the VMs are taken to run already, as the policy `{}` placed them in this order.",
                self.policy.word()
            ));
        }
        let nearest = if solved.fits { vec![] } else { fit::nearest(problem) };
        let spare = (self.spare > 0 && solved.fits)
            .then(|| (self.spare, fit::spare(problem, self.spare).err().map(|(hosts, _)| hosts)));
        let mixed = chosen(problem, &shown, Mode::MixedSize);
        let divided = chosen(problem, &shown, Mode::Mig);
        let order = |policy| {
            let mut as_chosen = problem.clone();
            for gpu in as_chosen.hosts.iter_mut().flat_map(|h| &mut h.gpus).filter(|g| g.modes.same_size) {
                gpu.modes.mixed_size &= mixed > 0;
            }
            fit::power_on(&as_chosen, policy)
        };
        // MIG instances follow no policy, and one VM alone has no order.
        let by_policy = problem.wants.len() > 1 && !problem.wants.iter().flat_map(Want::vgpus).any(|t| t.mig);
        let power_on =
            (solved.fits && by_policy && asked.now.is_none() && !self.defragment).then(|| order(self.policy));
        let better = power_on
            .as_ref()
            .filter(|o| !o.refused().is_empty() && self.policy == Policy::Performance)
            .and_then(|o| {
                let other = order(Policy::Consolidation).refused().len();
                match other {
                    0 => Some("With `consolidation` all of them start.".to_string()),
                    n if n < o.refused().len() => {
                        Some("Fewer with `consolidation`; or the larger ones first.".into())
                    }
                    _ => None,
                }
            });
        if mixed > 0 {
            let gpus = counted(mixed, "GPU");
            notes.push(format!(
                "{gpus} in mixed-size mode: needs ESXi 8.0 U3 and vGPU 17 or newer, `vgpu-mode: mixed-size` at the host."
            ));
        }
        if divided > 0 && asked.now.is_none() {
            notes.push(format!("{} divided by MIG: `mig: on` at the host, on empty GPUs; power on the largest instances first.", counted(divided, "GPU")));
        }
        if fit::doubtful(problem) {
            notes.push(
                "Unsure: NVIDIA names no places in mixed-size mode for this board; the host's own list wins."
                    .into(),
            );
        }
        let mixes = |w: &Want| w.vgpus().next().is_some() && w.parts.len() > w.vgpus().count();
        if problem.wants.iter().any(mixes) {
            notes.push("Unsure: no source says that one VM may have vGPUs and whole GPUs at once.".into());
        }
        let with_memory = problem.wants.iter().filter(|w| w.memory_mib.is_some()).count();
        let hosts_say = problem.hosts.iter().all(|h| h.memory_mib.is_some());
        if with_memory < problem.wants.len() || !hosts_say {
            let said = with_memory > 0 || problem.hosts.iter().any(|h| h.memory_mib.is_some());
            if said && asked.now.is_none() {
                notes.push("Memory is counted only where both hosts and VMs name it (`512GiB`: what is left for VMs).".into());
            }
        }
        let report = Report {
            problem,
            solved: &solved,
            shown: &shown,
            moves: moves.as_deref(),
            starts: start.as_ref().map_or(&[], |start| start.left.as_slice()),
            fewest,
            beside: beside.as_ref().is_some_and(|b| b.left.is_empty()),
            nearest: &nearest,
            spare: spare.clone(),
            power_on: power_on.as_ref(),
            better,
            notes,
        };
        printer.show(answer(&report));
        if let Some(file) = &self.svg {
            crate::files::write_text(file, &crate::render::fit::drawn(problem, &shown))
                .map_err(|e| vec![e])?;
        }
        Ok(solved.fits && spare.is_none_or(|(_, without)| without.is_none()))
    }
}

/// GPUs that are in a mode.
fn chosen(problem: &Problem, shown: &Placement, mode: Mode) -> usize {
    let mut fits = fit::Fits::new(problem.series_mix);
    let mut n = 0;
    for (h, host) in problem.hosts.iter().enumerate() {
        for (g, gpu) in host.gpus.iter().enumerate() {
            let held = fits.held(gpu, &shown.contents[h][g]).filter(|_| !shown.contents[h][g].is_empty());
            n += usize::from(held.is_some_and(|held| held.mode == mode));
        }
    }
    n
}

/// The wishes of a fleet file alone, without the hosts that it names.
fn wishes(fleet: &Fleet) -> Result<Vec<Want>, Vec<Error>> {
    let capacity = capacity::of_file(fleet);
    if capacity.is_empty() {
        return Err(usage("the fleet file wishes no GPU for any VM: name VMs with `--want`"));
    }
    Ok(capacity)
}

/// What vCenter itself counts, from 9.0 on: it also sees what Supervisors reserve.
fn by_vcenter(inventory: &Inventory) -> Vec<String> {
    let of_host = |(node, seen): (&NodeId, &Result<Seen, Error>)| {
        let host = seen.as_ref().ok()?.fact::<Vcenter>().ok()?.host?;
        let counted: Vec<String> =
            host.profiles.iter().filter_map(|of| Some(format!("{} x {}", of.remaining?, of.name))).collect();
        (!counted.is_empty()).then(|| format!("vCenter counts on {}: {}", node.name, counted.join(" or ")))
    };
    inventory.nodes.iter().filter_map(of_host).collect()
}

/// Each GPU, and what it still takes.
fn current(asked: &Asked) -> Answer {
    let problem = &asked.problem;
    let empty = Placement::new(problem);
    let now = asked.now.as_ref().unwrap_or(&empty);
    let mut rows = vec![["  HOST", "GPU", "HOLDS", "STILL TAKES"].map(String::from).to_vec()];
    let mut each = vec![];
    let mut total: Vec<(String, u64)> = vec![];
    for (h, host) in problem.hosts.iter().enumerate() {
        for (g, gpu) in host.gpus.iter().enumerate() {
            let holds: Vec<String> = now.contents[h][g]
                .0
                .iter()
                .map(|(t, n)| format!("{n} x {}", vsgpu_core::knowledge::vgpu_types::plain(t.profile)))
                .collect();
            let free = capacity::still_fits(problem, now, h, g);
            let whole = now.whole[h][g] || gpu.taken;
            let takes = match free.as_slice() {
                [] if gpu.whole && !whole => WHOLE.into(),
                [] => "-".into(),
                list => {
                    let some: Vec<String> =
                        list.iter().take(3).map(|(name, n)| format!("{n} x {name}")).collect();
                    some.join(" or ") + if list.len() > 3 { " .." } else { "" }
                }
            };
            for (name, n) in &free {
                match total.iter_mut().find(|(known, _)| known == name) {
                    Some((_, sum)) => *sum += n,
                    None => total.push((name.clone(), *n)),
                }
            }
            let held = match (whole, holds.is_empty()) {
                (true, _) => WHOLE.into(),
                (false, true) => "nothing".to_string(),
                (false, false) => holds.join(", "),
            };
            rows.push(vec![
                format!("  {}", host.name),
                format!("{} {}", g + 1, gpu.model.name),
                held.clone(),
                takes,
            ]);
            each.push(GpuNow {
                host: host.name.clone(),
                gpu: g + 1,
                address: asked.addresses[h][g].clone(),
                model: gpu.model.name.into(),
                holds: held,
                still_takes: free.iter().cloned().collect(),
            });
        }
    }
    let head = match total.is_empty() {
        true => "No GPU takes another vGPU.".to_string(),
        false => {
            let list: Vec<String> = total.iter().take(6).map(|(name, n)| format!("{n} x {name}")).collect();
            format!(
                "Free now, one kind at a time: {}{}",
                list.join(", "),
                if total.len() > 6 { " .." } else { "" }
            )
        }
    };
    let notes: String = asked.notes.iter().map(|note| format!("\n{note}")).collect();
    let text = format!("{head}\n\n{}{notes}", columns(&rows));
    let free = total.into_iter().collect();
    Answer::new(value(&Current { free, each, notes: asked.notes.clone() }), text)
}
