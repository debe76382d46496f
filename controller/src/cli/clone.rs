//! `vsgpu clone`: copies a VM on its host, one copy for each name. Nothing but a fleet of wishes `clone-of`
//! that is planned and executed as every other, with a journal of its own.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs};
use crate::cli::run::RunCommand;
use crate::error::{Error, Kind};
use crate::fleet::range::expand;
use crate::fleet::{Specs, Vm};
use crate::inventory::{self, Scope};
use crate::journal::{self, Folder};
use crate::plan::{Leftovers, digest};
use crate::render::Printer;
use crate::run::Unfinished;
use clap::Args;
use serde_json::json;
use vsgpu_host_agent::vm::{CloneOf, CloneSpec, DEFAULT_GRACE_SECS};

#[derive(Args)]
#[command(
    after_help = "Example:\n  vsgpu clone --host esx-01 --base base-debian --name vm-[01-04]\n\nThe base has to be off, without snapshots and without PCI devices."
)]
pub(super) struct Clone {
    #[command(flatten)]
    fleet: FleetArg,
    /// Host of the base and of its copies
    #[arg(long)]
    host: String,
    /// Display name of the VM to be copied
    #[arg(long)]
    base: String,
    /// Names of the copies: vm-05, or vm-[01-04]
    #[arg(long)]
    name: String,
    /// Datastore of the copies [default: the base's]
    #[arg(long)]
    datastore: Option<String>,
    /// Show the plan and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before the first change (a script is never asked)
    #[arg(short, long)]
    yes: bool,
}

impl Clone {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let mut fleet = self.fleet.read(false, chosen)?;
        let wrong = |why: String| vec![Error::new(Kind::Usage, why)];
        if !fleet.hosts.iter().any(|h| h.name == self.host) {
            let near = crate::fleet::range::nearest(&self.host, fleet.hosts.iter().map(|h| h.name.as_str()))
                .map(|n| format!("did you mean `{n}`?"));
            let error = Error::new(Kind::Usage, format!("the fleet file has no host `{}`", self.host))
                .code("unknown-node");
            return Err(vec![near.into_iter().fold(error, Error::hint)]);
        }
        let names = expand(&self.name).map_err(wrong)?;
        let mut specs = Specs::default();
        specs.set::<CloneOf>(&CloneSpec { base: self.base.clone(), datastore: self.datastore.clone() });
        let copy = |(name, _): (String, String)| Vm {
            vm_name: name.clone(),
            name,
            host: self.host.clone(),
            any: vec![],
            power: None,
            shutdown_secs: DEFAULT_GRACE_SECS,
            hard_stop: false,
            expects: vec![],
            taken_away: Default::default(),
            specs: specs.clone(),
            guest: None,
        };
        fleet.hosts.retain(|h| h.name == self.host);
        fleet.hosts.iter_mut().for_each(|h| h.specs = Specs::default());
        fleet.vms = names.into_iter().map(copy).collect();
        // One controller at a time on these hosts: an apply that reboots one must not meet a copy.
        let _lock = journal::lock(&fleet.state_folder()).map_err(|e| vec![e])?;
        // A journal beside the fleet's own: a run of copies is none of the fleet.
        let stem = fleet.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        fleet.file.set_file_name(format!("{stem}.clone-{}.yaml", self.base.replace('/', "_")));
        if self.dry_run {
            let connector = crate::cli::global::connector(&fleet)?;
            let inventory =
                crate::cli::global::block_on(inventory::gather(&fleet, &connector, Scope::Wished, &|_| {
                    true
                }))?;
            let planned = crate::plan::plan(&fleet, &inventory, &Leftovers::default());
            printer.answer(
                &json!({ "plan": planned.plan, "problems": planned.problems }),
                &crate::render::plan::commands(&planned.plan),
            );
            printer.warnings(&planned.warnings);
            let errors: Vec<Error> = planned.problems.into_iter().map(|p| p.error).collect();
            printer.errors(&errors);
            return Ok(crate::cli::global::worst(&errors));
        }
        // An unfinished run of other copies of the same base is given up: what it left is seen, and made anew
        // where wished.
        let unfinished = journal::latest(&Folder(fleet.state_folder()))
            .map_err(|e| vec![e])?
            .filter(|run| run.status.ended.is_none());
        let abandon = unfinished.is_some_and(|run| run.status.plan.fleet != digest(&fleet));
        let unfinished = if abandon { Unfinished::GiveUp } else { Unfinished::GoOnIfSame };
        RunCommand { yes: self.yes, counted: false, unfinished, ..RunCommand::to(printer, &fleet) }.run()
    }
}
