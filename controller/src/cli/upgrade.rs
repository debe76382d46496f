//! `vsgpu upgrade`: brings hosts and guests to another vGPU release in rounds that keep every pair together; proves each
//! VM afterwards, and goes back where that fails.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs, block_on, connected, connector, worst};
use crate::cli::offline;
use crate::cli::run::RunCommand;
use crate::error::{Error, Exit, Kind};
use crate::files;
use crate::fleet::{Fleet, Host, Share, Vm, file};
use crate::inventory::{self, Inventory, Scope};
use crate::journal::{self, Folder, Purpose, StepState};
use crate::node::{NodeId, NodeKind};
use crate::render::upgrade::{Proved, Shown, answer, proved, text};
use crate::render::{Answer, Printer};
use crate::run::Unfinished;
use crate::upgrade::{self, Packages, Round, Upgrade, Which, fleet_of, replaced, rounds};
use clap::Args;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use vsgpu_core::units::DriverVersion;
use vsgpu_core::words::counted;
use vsgpu_core::{Artifact, Requirement, WordOr};
use vsgpu_guest_agent::facts::Percent;
use vsgpu_guest_agent::guest::{CudaProof, CudaProofFact, Driver, DriverFact, DriverSpec};
use vsgpu_host_agent::host::VgpuManager;
use vsgpu_host_agent::host::gpu_management_daemon::GpuManagementDaemon;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu upgrade --to 19.6 --explain           rounds and pairs; changes nothing\n  vsgpu upgrade --to 19.6 --files downloads   does it, after a question\n\nThe fleet file is changed with each round; the old one stays beside it."
)]
pub(super) struct UpgradeArgs {
    #[command(flatten)]
    fleet: FleetArg,
    /// vGPU release: `19.6`, or `19` for its newest
    #[arg(long, value_name = "RELEASE")]
    to: String,
    /// Folder with NVIDIA's packages of all rounds
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
    /// Show rounds and pairs only
    #[arg(long)]
    explain: bool,
    /// Saved facts, or a `vsgpu bundle`; asks no agent
    #[arg(long, value_name = "FILE", requires = "explain")]
    facts: Option<PathBuf>,
    /// Share of today's bandwidth that each proof must reach
    #[arg(long, value_name = "PERCENT", default_value = AT_LEAST, value_parser = percent)]
    bandwidth_at_least: Percent,
    /// Leave hosts as they are where a round fails
    #[arg(long)]
    no_rollback: bool,
    /// Do not ask before the first change (a script is never asked)
    #[arg(short, long)]
    yes: bool,
}

fn percent(text: &str) -> Result<Percent, String> {
    serde_json::from_value(json!(text)).map_err(|e| e.to_string())
}

/// A round that was looked at with the operator's packages.
#[derive(Default)]
struct Chosen {
    which: BTreeSet<Which>,
    missing: BTreeSet<String>,
}

/// What an upgrade would do, with no package at hand: for `vsgpu ready --to`. The fleet was read without its files.
pub(super) fn explained(
    mut fleet: Fleet,
    inventory: &Inventory,
    to: &str,
) -> Result<(Answer, Vec<Error>), Error> {
    let to = upgrade::release(to)?;
    file::versions_from_file_names(&mut fleet);
    let upgrade = upgrade::upgrade(&fleet, inventory, to, &[]);
    let all = rounds(&upgrade);
    let missing =
        all.iter().map(|round| choose(&fleet, &upgrade, round, &Packages::default()).missing).collect();
    let at_least = percent(AT_LEAST).map_or(String::new(), String::from);
    let order = order(&fleet, &all);
    let shown = Shown {
        upgrade: &upgrade,
        rounds: &all,
        files: vec![],
        missing,
        looked: false,
        lines: 0,
        order,
        at_least,
    };
    Ok((answer(&shown), upgrade.problems.clone()))
}

/// Of the bandwidth of before.
const AT_LEAST: &str = "90%";

impl UpgradeArgs {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let one = |e: Error| vec![e];
        // The lines that change are those of the file here, not of a bundle's copy. First of all, as it may name tables
        // of the operator.
        let mut fleet = self.fleet.read(false, chosen)?;
        let to = upgrade::release(&self.to).map_err(one)?;
        let saved = self.facts.as_deref().map(offline::read).transpose()?;
        file::versions_from_file_names(&mut fleet);
        let inventory = match saved {
            Some(saved) => saved.inventory,
            None => {
                connected(&mut fleet)?;
                look(&fleet, &|_| true)?
            }
        };
        let packages =
            self.files.as_ref().map(|dir| Packages::read(dir, &fleet.folder())).transpose().map_err(one)?;
        let at_hand = packages.as_ref().map(Packages::releases).unwrap_or_default();
        let upgrade = upgrade::upgrade(&fleet, &inventory, to, &at_hand);
        let all = rounds(&upgrade);
        let none = Packages::default();
        let found = packages.as_ref().unwrap_or(&none);
        let choices: Vec<Chosen> = all.iter().map(|round| choose(&fleet, &upgrade, round, found)).collect();
        let last: Vec<Which> = choices.last().map(|c| c.which.iter().cloned().collect()).unwrap_or_default();
        let old = files::read_text(&fleet.file, file::MAX_FILE).map_err(one)?;
        let shown_file = fleet.file.display().to_string();
        let lines = replaced(&shown_file, &old, &last).map_err(one)?.lines.len();
        let shown = Shown {
            upgrade: &upgrade,
            rounds: &all,
            files: choices.iter().map(|c| c.which.iter().map(|w| w.to.clone()).collect()).collect(),
            missing: choices.iter().map(|c| c.missing.clone()).collect(),
            looked: packages.is_some(),
            lines,
            order: order(&fleet, &all),
            at_least: self.bandwidth_at_least.into(),
        };
        let does = !self.explain && !all.is_empty();
        let explained = answer(&shown);
        match does {
            false => printer.show(explained),
            true if printer.format().is_document() => printer.talk(&explained.json),
            // Asked below, with the text before the question.
            true => {}
        }
        printer.warnings(&upgrade.warnings);
        let mut errors = unreachable(&inventory);
        errors.extend(upgrade.problems.iter().cloned());
        if !does {
            printer.errors(&errors);
            return Ok(match (errors.is_empty(), all.is_empty()) {
                (false, _) => worst(&errors),
                (true, true) => Exit::Done,
                (true, false) => Exit::Not(Kind::Differs),
            });
        }
        // A part of a fleet is upgraded only where a person leaves the rest out of the fleet file.
        if !errors.is_empty() {
            printer.note(&text(&shown));
            return Err(errors);
        }
        let missing: BTreeSet<&String> = choices.iter().flat_map(|c| &c.missing).collect();
        if !missing.is_empty() {
            printer.note(&text(&shown));
            let what: Vec<&str> = missing.iter().map(|m| m.as_str()).collect();
            let error = Error::new(Kind::Usage, format!("packages are missing: {}", what.join("; ")))
                .code("upgrade-files");
            return Err(one(
                error.hint("download them from NVIDIA's licensing portal; `--files DIR` names their folder")
            ));
        }
        self.agree(printer, &shown, &fleet)?;
        let folder = fleet.state_folder();
        let lock = journal::lock(&folder).map_err(one)?;
        let texts: Vec<String> = choices
            .iter()
            .map(|c| {
                let which: Vec<Which> = c.which.iter().cloned().collect();
                Ok(replaced(&shown_file, &old, &which)?.text)
            })
            .collect::<Result<_, Error>>()
            .map_err(one)?;
        let work = Work { printer, fleet: &fleet, inventory: &inventory, old: &old, args: &self };
        let ended = work.rounds(&all, &texts);
        drop(lock);
        match ended? {
            Exit::Done => work.proofs(&upgrade),
            exit => Ok(exit),
        }
    }

    /// A person's yes.
    fn agree(&self, printer: &Printer, shown: &Shown<'_>, fleet: &Fleet) -> Result<(), Vec<Error>> {
        let text = text(shown);
        if self.yes {
            printer.note(&format!("{text}\n"));
            return Ok(());
        }
        let question = format!("upgrade {} to vGPU {}?", fleet.file.display(), shown.upgrade.to.name);
        let error = |what: &str| {
            vec![Error::new(Kind::Usage, format!("{what}; nothing was changed")).code("not-confirmed")]
        };
        match printer.confirm(&text, &question, &|| false) {
            Some(true) => Ok(()),
            Some(false) => Err(error("not confirmed")),
            None => {
                let mut errors = error("nobody can be asked, because what is said goes elsewhere");
                errors[0].hints.push("look at `vsgpu upgrade --explain`, then add `--yes`".into());
                Err(errors)
            }
        }
    }
}

fn look(fleet: &Fleet, only: &dyn Fn(&NodeId) -> bool) -> Result<Inventory, Vec<Error>> {
    let connector = connector(fleet)?;
    block_on(inventory::gather(fleet, &connector, Scope::Wished, only))
}

/// Agents that did not answer, each once.
fn unreachable(inventory: &Inventory) -> Vec<Error> {
    let mut said = BTreeSet::new();
    let errors = inventory.nodes.values().filter_map(|seen| seen.as_ref().err());
    errors.filter(|error| said.insert(error.message.clone())).cloned().collect()
}

/// Which package takes the place of which in a round.
fn choose(fleet: &Fleet, upgrade: &Upgrade, round: &Round, packages: &Packages) -> Chosen {
    let mut chosen = Chosen::default();
    let mut add =
        |requirement: &'static str, old: &Artifact, found: Result<&upgrade::Found, String>| match found {
            Ok(new) if new.path == old.artifact => {}
            Ok(new) => {
                // A stated hash is one of the old file.
                let sha256 = old.sha256.as_ref().and_then(|_| hash(fleet, &new.path));
                let (from, to) = (old.artifact.clone(), new.path.clone());
                chosen.which.insert(Which { requirement, from, to, sha256 });
            }
            Err(missing) => drop(chosen.missing.insert(missing)),
        };
    let by_host = fleet.vms_by_host();
    for host in &upgrade.hosts {
        let Some(stage) = round.hosts.get(&host.host) else { continue };
        if let Some(of) = fleet.hosts.iter().find(|h| h.name == host.host).filter(|_| stage.host) {
            for (requirement, old) in of_host(of) {
                let same = old.version().and_then(DriverVersion::leading) == Some(round.release.host.clone());
                if !same {
                    add(
                        requirement,
                        &old,
                        packages.for_host(requirement, round.release, &old, host.esxi.as_deref()),
                    );
                }
            }
        }
        let managed: BTreeSet<&str> =
            host.guests.iter().filter(|g| g.managed).map(|g| g.vm.as_str()).collect();
        let vms = by_host.get(host.host.as_str()).into_iter().flatten();
        for vm in vms.filter(|vm| stage.guests && managed.contains(vm.name.as_str())) {
            let Some(old) = of_guest(vm) else { continue };
            let same = old.version().and_then(DriverVersion::leading) == round.release.guest;
            if !same {
                add(Driver::NAME, &old, packages.for_guest(round.release, &old));
            }
        }
    }
    chosen
}

fn of_host(host: &Host) -> Vec<(&'static str, Artifact)> {
    let manager = host.spec::<VgpuManager>().map(|wish| (VgpuManager::NAME, wish));
    let daemon = host.spec::<GpuManagementDaemon>().map(|wish| (GpuManagementDaemon::NAME, wish));
    let both = [manager, daemon].into_iter().flatten();
    both.filter_map(
        |(name, wish)| if let WordOr::Map(spec) = wish { Some((name, spec.package)) } else { None },
    )
    .collect()
}

fn of_guest(vm: &Vm) -> Option<Artifact> {
    match vm.guest.as_ref()?.spec::<Driver>()? {
        DriverSpec::Map(spec) => Some(spec.package),
        DriverSpec::Word(_) => None,
    }
}

fn hash(fleet: &Fleet, path: &str) -> Option<String> {
    crate::fleet::package::resolve(&fleet.folder(), &Artifact::at(path)).ok()?.sha256
}

/// The order of hosts, in words.
fn order(fleet: &Fleet, all: &[Round]) -> String {
    let most = all.iter().map(|round| round.hosts.len()).max().unwrap_or_default();
    if most < 2 {
        return "one host".into();
    }
    let first = match fleet.rollout.canary.unwrap_or(Share::Count(1)) {
        Share::Count(1) => "one host first, alone".to_string(),
        share => format!("{share} of the hosts first"),
    };
    format!(
        "{first}; the others when its VMs are proven, {} of a cluster at once; a stop when {} have failed",
        fleet.rollout.max_unavailable, fleet.rollout.stop_at_failed
    )
}

/// The work itself, under the fleet's lock.
struct Work<'a> {
    printer: &'a Printer,
    /// As it was read first.
    fleet: &'a Fleet,
    /// As everything was before.
    inventory: &'a Inventory,
    /// Text of the fleet file.
    old: &'a str,
    args: &'a UpgradeArgs,
}

/// How a round ended.
enum Ended {
    Done,
    /// It was stopped and can be gone on with.
    Stopped,
    /// Hosts where it failed after it had begun, and whether others are done.
    Failed {
        hosts: BTreeSet<String>,
        any_done: bool,
    },
}

impl Work<'_> {
    fn rounds(&self, all: &[Round], texts: &[String]) -> CliResult {
        // What hosts go back to: the fleet of the round before.
        let mut before = self.parsed(self.old)?;
        // The file says what is so, or is being made so: of each round in turn.
        let mut written = self.old;
        self.keep_old()?;
        for (at, (round, text)) in all.iter().zip(texts).enumerate() {
            let new = self.parsed(text)?;
            let fleet = fleet_of(new.clone(), round, self.inventory, self.args.bandwidth_at_least);
            self.printer.note(&format!("round {} of {}: vGPU {}", at + 1, all.len(), round.release.name));
            self.write(text)?;
            let known = self.latest_run();
            // A round has the specs of its own machines only: agents count the whole file, when it is done.
            let command = RunCommand { yes: true, counted: false, ..RunCommand::to(self.printer, &fleet) };
            let exit = match command.locked() {
                Ok(exit) => exit,
                Err(errors) => {
                    // Nothing was begun: the file says again what is so.
                    if self.latest_run() == known {
                        self.write(written)?;
                    }
                    return Err(errors);
                }
            };
            match self.ended(known.as_deref(), exit)? {
                Ended::Done => {
                    let connector = connector(&new)?;
                    block_on(crate::run::tell(&new, &connector))?;
                    before = new;
                    written = text;
                }
                Ended::Stopped => {
                    self.printer.note(&format!(
                        "stopped in round {} of {}. `vsgpu resume` goes on with it; then the same `vsgpu upgrade` does the rest",
                        at + 1,
                        all.len()
                    ));
                    return Ok(exit);
                }
                Ended::Failed { hosts, any_done } => {
                    if !any_done {
                        self.write(written)?;
                        self.printer
                            .note(&format!("{} is as it was before this round", shown(&self.fleet.file)));
                    }
                    return self.go_back(&before, &hosts, exit, any_done);
                }
            }
        }
        Ok(Exit::Done)
    }

    /// Reads a text as the fleet file, with its packages.
    fn parsed(&self, text: &str) -> Result<Fleet, Vec<Error>> {
        let mut fleet = file::from_text(&self.fleet.file, text)?;
        fleet.pki.clone_from(&self.fleet.pki);
        file::resolve(&mut fleet)?;
        connected(&mut fleet)?;
        Ok(fleet)
    }

    fn beside(&self) -> PathBuf {
        let name = self.fleet.file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        self.fleet.file.with_file_name(format!("{name}.before-{}", self.args.to))
    }

    /// The fleet file as it was, beside it.
    fn keep_old(&self) -> Result<(), Vec<Error>> {
        let beside = self.beside();
        files::write_text(&beside, self.old).map_err(|e| vec![e])?;
        self.printer.note(&format!(
            "{} will name the new packages; as it was: {}",
            shown(&self.fleet.file),
            shown(&beside)
        ));
        Ok(())
    }

    fn write(&self, text: &str) -> Result<(), Vec<Error>> {
        files::write_text(&self.fleet.file, text).map_err(|e| vec![e])
    }

    fn latest_run(&self) -> Option<String> {
        journal::latest(&Folder(self.fleet.state_folder())).ok().flatten().map(|run| run.status.run)
    }

    /// What became of the run that was just ended.
    fn ended(&self, known: Option<&str>, exit: Exit) -> Result<Ended, Vec<Error>> {
        let run = journal::latest(&Folder(self.fleet.state_folder())).map_err(|e| vec![e])?;
        let Some(run) = run.filter(|run| Some(run.status.run.as_str()) != known) else {
            // Nothing was to do.
            return match exit {
                Exit::Done => Ok(Ended::Done),
                Exit::Not(_) => Ok(Ended::Failed { hosts: BTreeSet::new(), any_done: false }),
            };
        };
        if run.status.ended.is_none() {
            return Ok(Ended::Stopped);
        }
        let mut by_host: BTreeMap<&str, (bool, bool)> = BTreeMap::new();
        for (step, state) in run.status.plan.steps.iter().zip(&run.status.steps) {
            let (begun, well) = by_host.entry(&step.host).or_insert((false, true));
            *begun |= state.begun();
            *well &= matches!(state, StepState::Done { .. });
        }
        let failed = by_host.iter().filter(|(_, (begun, well))| *begun && !well);
        let hosts: BTreeSet<String> = failed.map(|(host, _)| host.to_string()).collect();
        let any_done = by_host.values().any(|(begun, well)| *begun && *well);
        match exit {
            Exit::Done if hosts.is_empty() => Ok(Ended::Done),
            _ => Ok(Ended::Failed { hosts, any_done }),
        }
    }

    /// Brings hosts and their guests back to the packages of before.
    fn go_back(&self, before: &Fleet, hosts: &BTreeSet<String>, exit: Exit, kept: bool) -> CliResult {
        let names = crate::fleet::range::folded(hosts).join(", ");
        if hosts.is_empty() || self.args.no_rollback {
            if !hosts.is_empty() {
                self.printer.note(&format!("{names}: left as it is; `vsgpu status` shows what failed"));
            }
            return Ok(exit);
        }
        self.printer.note(&format!("going back on {names}: first the guests, then the host"));
        let [guests, all] = upgrade::way_back(before, hosts);
        let run = |fleet: &Fleet| {
            RunCommand {
                yes: true,
                purpose: Purpose::Rollback,
                unfinished: Unfinished::GiveUp,
                ..RunCommand::to(self.printer, fleet)
            }
            .locked()
        };
        // A guest that does not come up with what failed comes back with its host.
        if let Err(errors) = run(&guests) {
            self.printer.errors(&errors);
        }
        let back = run(&all);
        let well = matches!(back, Ok(Exit::Done));
        if let Err(errors) = back {
            self.printer.errors(&errors);
        }
        let what = if well {
            format!("the upgrade failed on {names}, which runs again as before")
        } else {
            format!("the upgrade failed on {names}, and so did the way back")
        };
        let error = Error::new(Kind::Failed, what).code("upgrade-failed");
        let error = if kept {
            error.hint("the other hosts are done: the fleet file keeps the new packages, and `vsgpu plan` shows what is left")
        } else {
            error.hint("see above what failed; when it is mended, the same `vsgpu upgrade` tries again")
        };
        Err(vec![if well {
            error
        } else {
            error.hint("`vsgpu status` shows where it stands, `vsgpu apply` goes towards the fleet file")
        }])
    }

    /// Every VM: what it runs and what it reached, beside before.
    fn proofs(&self, upgrade: &Upgrade) -> CliResult {
        let vms: BTreeSet<&str> =
            upgrade.going().flat_map(|h| &h.guests).filter(|g| g.managed).map(|g| g.vm.as_str()).collect();
        let fleet = self.parsed(&files::read_text(&self.fleet.file, file::MAX_FILE).map_err(|e| vec![e])?)?;
        let now = look(&fleet, &|id| id.kind == NodeKind::Guest && vms.contains(id.name.as_str()))?;
        let mut all = vec![];
        for vm in fleet.vms.iter().filter(|vm| vms.contains(vm.name.as_str())) {
            let node = NodeId::new(NodeKind::Guest, &vm.name);
            let driver = |of: &Inventory| of.fact::<DriverFact>(&node).ok().and_then(|d| d.version);
            let figures = |of: &Inventory| {
                let proof = of.fact::<CudaProofFact>(&node).ok().filter(|p| p.report.passed())?;
                proof.report.devices.first()?.device_gb_s
            };
            let asked = vm.guest.as_ref().is_some_and(|g| g.specs.has::<CudaProof>());
            all.push(Proved {
                vm: vm.name.clone(),
                from: driver(self.inventory),
                to: driver(&now),
                proof: asked.then(|| now.fact::<CudaProofFact>(&node).is_ok_and(|p| p.passed())),
                before: figures(self.inventory),
                now: figures(&now),
            });
        }
        let failed = all.iter().any(|one| one.proof == Some(false));
        let names = all.iter().map(|one| one.vm.clone()).collect();
        let head = format!(
            "vGPU {} on {} and {}.",
            upgrade.to.name,
            counted(upgrade.going().count(), "host"),
            counted(all.len(), "guest")
        );
        let text = if all.is_empty() { head } else { format!("{head}\n\n{}", proved(&all)) };
        self.printer
            .show(Answer { names, ..Answer::new(json!({ "to": upgrade.to.name, "vms": all }), text) });
        Ok(if failed { Exit::Not(Kind::Failed) } else { Exit::Done })
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
