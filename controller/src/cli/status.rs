//! `vsgpu status`: the latest run, from its journal; what the hosts' agents know that other runs left; and a line
//! about GPU servers.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs, block_on, now};
use crate::error::{Error, Exit, Kind};
use crate::fleet::Fleet;
use crate::inventory;
use crate::inventory::acquired::{self, Left};
use crate::journal::{self, Disk as _, Folder};
use crate::monitoring::pools;
use crate::node::{NodeId, NodeKind};
use crate::render::{Printer, pool, status};
use crate::setup::certificates;
use clap::Args;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use vsgpu_host_agent::host::MAINTENANCE_MODE;
use vsgpu_host_agent::vm::POWER;
use vsgpu_wire::client::Connector;

/// Between two looks at the journal, which is a local file.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu status\n  vsgpu status 3           run 3 of this fleet (`vsgpu runs` lists them)\n  vsgpu status -o wide     every step\n  vsgpu status --watch"
)]
pub(super) struct Status {
    #[command(flatten)]
    fleet: FleetArg,
    /// Show it again whenever something happens, until nobody works on the fleet any more
    #[arg(short, long)]
    watch: bool,
    /// One run of this fleet, by its number
    #[arg(long, value_name = "RUN", conflicts_with = "watch")]
    run: Option<u32>,
    /// From the journal alone: no host is asked
    #[arg(long)]
    local: bool,
}

/// Between two looks at the hosts.
const ASK_AGAIN_SECS: u64 = 10;
/// Longest wait for the hosts: what the journal says is wanted at once.
const HOSTS: Duration = Duration::from_secs(3);

impl Status {
    pub fn run(mut self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let number = self.fleet.take_run().or(self.run);
        let fleet = self.fleet.read(false, chosen)?;
        if let Some(number) = number {
            return one(printer, &fleet, number);
        }
        let folder = fleet.state_folder();
        let mut hosts = if self.local { Hosts::default() } else { Hosts::ask(printer, &fleet, true)? };
        let ending = certificates::ending(&fleet, hosts.connector.as_ref(), now());
        let mut shown = String::new();
        loop {
            let at_work = journal::at_work(&folder).is_some();
            let run = journal::latest(&Folder(folder.clone())).map_err(|e| vec![e])?;
            let own = run.as_ref().map(|run| run.status.run.as_str());
            let others: Vec<&Left> = hosts.left().filter(|left| Some(left.run.as_str()) != own).collect();
            let restored = own.map(|own| hosts.restored(&fleet, own)).unwrap_or_default();
            let mut answer = status::status(
                run.as_ref(),
                at_work,
                &status::Hosts { others: &others, restored: &restored },
                now(),
            );
            answer.json["certificates"] = json!(ending);
            if let Some(line) = pool::summary(&hosts.pools) {
                answer.text += &format!("\n{line}");
                answer.json["gpu-servers"] = pool::status(&hosts.pools).json["servers"].take();
            }
            if answer.text != shown {
                if self.watch {
                    printer.redraw();
                }
                shown.clone_from(&answer.text);
                printer.show(answer);
            }
            if !self.watch || !at_work || !printer.is_heard() {
                certificates::warnings(&ending).iter().for_each(|warning| printer.warn(warning));
                return Ok(Exit::Done);
            }
            std::thread::sleep(LOOK);
            if !self.local && now().saturating_sub(hosts.asked) > ASK_AGAIN_SECS {
                hosts = Hosts::ask(printer, &fleet, false)?;
            }
        }
    }
}

/// A run of long ago, from its journal alone.
fn one(printer: &Printer, fleet: &Fleet, number: u32) -> CliResult {
    let disk = Folder(fleet.state_folder());
    let none = || {
        let error = Error::new(Kind::Usage, format!("this fleet has no run {number}")).code("no-run");
        vec![error.hint("`vsgpu runs` lists them")]
    };
    if !disk.numbers().contains(&number) {
        return Err(none());
    }
    let run = journal::numbered(&disk, number).map_err(|e| vec![e])?.ok_or_else(none)?;
    let newest = disk.numbers().first() == Some(&number);
    let at_work = newest && journal::at_work(&disk.0).is_some();
    let nobody = status::Hosts { others: &[], restored: &BTreeSet::new() };
    printer.show(status::status(Some(&run), at_work, &nobody, now()));
    Ok(Exit::Done)
}

/// What runs left, by the hosts' own word.
struct Hosts {
    said: BTreeMap<String, Vec<Left>>,
    /// GPU servers, by their gateways' own word.
    pools: Vec<pools::Server>,
    connector: Option<Connector>,
    asked: u64,
}

impl Default for Hosts {
    fn default() -> Self {
        Self { said: BTreeMap::new(), pools: vec![], connector: None, asked: now() }
    }
}

impl Hosts {
    fn ask(printer: &Printer, fleet: &Fleet, aloud: bool) -> Result<Self, Vec<Error>> {
        let note = |text: &str| {
            if aloud {
                printer.note(text);
            }
        };
        // Without certificates the journal still tells its part.
        let connector = match Connector::load(&fleet.pki) {
            Ok(connector) => connector,
            Err(why) => {
                note(&format!("the hosts are not asked: {why}; `--pki DIR` names the CA's folder"));
                return Ok(Self::default());
            }
        };
        let within = HOSTS.min(Duration::from_secs(fleet.deadlines.connect_secs.into()));
        let (said, silent) = block_on(inventory::describe(fleet, &connector, within))?;
        if let Some(first) = silent.first() {
            let verb = if silent.len() == 1 { "does" } else { "do" };
            note(&format!(
                "{} {verb} not answer: what other runs left there is not known; `vsgpu facts -n {first}` says why",
                acquired::some_of(&silent)
            ));
        }
        let said = said.iter().map(|(host, said)| (host.clone(), acquired::described(host, said))).collect();
        let targets = pools::servers(fleet);
        let pools = block_on(pools::statuses(&connector, &targets, HOSTS))?;
        Ok(Self { said, pools, connector: Some(connector), asked: now() })
    }

    fn left(&self) -> impl Iterator<Item = &Left> {
        self.said.values().flatten()
    }

    /// What our own records say is outstanding, and the host says was restored: by another controller, or by
    /// hand.
    fn restored(&self, fleet: &Fleet, own: &str) -> BTreeSet<NodeId> {
        let has = |host: &str, what: &str, vm: &str| {
            let said = self.said.get(host)?;
            Some(said.iter().any(|left| left.run == own && left.what == what && left.vm == vm))
        };
        let hosts = fleet
            .hosts
            .iter()
            .filter(|h| has(&h.name, MAINTENANCE_MODE, "") == Some(false))
            .map(|h| (NodeKind::Host, &h.name));
        let vms = fleet
            .vms
            .iter()
            .filter(|vm| has(&vm.host, POWER, &vm.vm_name) == Some(false))
            .map(|vm| (NodeKind::Vm, &vm.name));
        hosts.chain(vms).map(|(kind, name)| NodeId::new(kind, name)).collect()
    }
}
