//! What all verbs share: which fleet is meant, who we are, how a verb ends.

use crate::cli::context::{Choice, Config, Environment, choose};
use crate::error::{self, Error, Exit, Kind};
use crate::fleet::range::nearest;
use crate::fleet::{Fleet, file};
use crate::journal::{self, Folder};
use clap::Args;
use std::path::PathBuf;
use vsgpu_wire::client::Connector;

/// What of the command line is about all verbs.
#[derive(Clone, Default)]
pub(crate) struct GlobalArgs {
    pub context: Option<String>,
}

/// Where the fleet file is.
#[derive(Args, Clone)]
pub(crate) struct FleetArg {
    /// Fleet file [default: what `vsgpu config` shows]
    #[arg(value_name = "FLEET")]
    pub(super) fleet: Option<PathBuf>,
    /// Folder of certificates
    #[arg(long, value_name = "DIR", display_order = 992)]
    pub(super) pki: Option<PathBuf>,
}

impl FleetArg {
    /// A number in the place of the fleet file is a run, unless a file has that name.
    pub(super) fn take_run(&mut self) -> Option<u32> {
        let number = self.fleet.as_ref().filter(|path| !path.exists())?.to_str()?.parse().ok()?;
        self.fleet = None;
        Some(number)
    }

    /// Which fleet is meant.
    pub(crate) fn choice(&self, chosen: &GlobalArgs) -> Result<Choice, Error> {
        let around = Environment::here();
        choose(self.fleet.as_deref(), self.pki.as_deref(), chosen.context.as_deref(), &around, &|| {
            Config::read(&around.file)
        })
    }

    /// Reads the fleet file, and with `files` also the files that it names.
    pub(crate) fn read(&self, files: bool, chosen: &GlobalArgs) -> Result<Fleet, Vec<Error>> {
        let choice = self.choice(chosen).map_err(|e| vec![e])?;
        let mut fleet = file::read(&choice.fleet.value)?;
        fleet.file =
            std::path::absolute(&fleet.file).map_err(|e| vec![Error::new(Kind::Usage, e.to_string())])?;
        if let Some(pki) = choice.pki {
            fleet.pki = pki.value;
        }
        if files {
            file::resolve(&mut fleet)?;
        }
        Ok(fleet)
    }
}

/// The folder of certificates of a verb that needs no fleet file: `--pki`, or what goes with the context that
/// is named, or VSGPU_PKI, or `pki`.
pub(crate) fn own_pki(option: Option<&PathBuf>, chosen: &GlobalArgs) -> Result<PathBuf, Vec<Error>> {
    if let Some(folder) = option {
        return Ok(folder.clone());
    }
    let around = Environment::here();
    let Some(name) = &chosen.context else { return Ok(around.pki.unwrap_or_else(|| "pki".into())) };
    let config = Config::read(&around.file).map_err(|e| vec![e])?;
    let context = config.find(name).map_err(|e| vec![e])?;
    Ok(context.pki.clone().unwrap_or_else(|| context.fleet.with_file_name("pki")))
}

/// Everything that can end a verb early.
pub(crate) type CliResult = Result<Exit, Vec<Error>>;

/// Runs async work on a small runtime: the controller waits for the network, it does not compute.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Vec<Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    runtime.map(|r| r.block_on(work)).map_err(|e| vec![Error::new(Kind::Internal, e.to_string())])
}

pub(crate) fn connector(fleet: &Fleet) -> Result<Connector, Vec<Error>> {
    Connector::load(&fleet.pki).map_err(|e| vec![e.into()])
}

/// The same, with VMs that may run on several hosts where they run now, and those that are to be made where they fit.
pub(crate) fn connected(fleet: &mut Fleet) -> Result<Connector, Vec<Error>> {
    let connector = connector(fleet)?;
    block_on(async {
        let homeless = crate::inventory::follow(fleet, &connector).await;
        crate::placing::place_new(fleet, &connector, &homeless).await;
    })?;
    Ok(connector)
}

/// For who only reads metrics: a monitor's certificate will do.
pub(crate) fn reader(fleet: &Fleet) -> Result<Connector, Vec<Error>> {
    Connector::reading(&fleet.pki).map_err(|e| vec![e.into()])
}

/// Seconds since 1970, for records.
#[expect(
    clippy::disallowed_methods,
    reason = "the edge: records carry a time for people, nothing is decided by it"
)]
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Who we are, to the agents: people read it when two controllers meet. The id makes a copy of the machine
/// another one.
pub(crate) fn holder(fleet: &Fleet) -> Result<String, Vec<Error>> {
    let host = nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default();
    let user =
        nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|u| u.name).unwrap_or_default();
    let id = crate::files::own_id(&fleet.state_folder().join("id")).map_err(|e| vec![e])?;
    let file = fleet.file.display().to_string();
    // The end of a long path says more than its beginning.
    let file: String = file.chars().skip(file.chars().count().saturating_sub(200)).collect();
    // As agents want it: what no name can have is seen there.
    Ok(vsgpu_core::text::sentence(&format!("{user}@{host}:{file} ({id})")))
}

/// Refuses names that the fleet file does not have.
pub(crate) fn only_known(fleet: &Fleet, asked: &[String]) -> Result<(), Vec<Error>> {
    let names = || {
        let hosts = fleet.hosts.iter().map(|h| h.name.as_str());
        hosts.chain(fleet.vms.iter().map(|v| v.name.as_str()))
    };
    let Some(unknown) = asked.iter().find(|n| !names().any(|known| known == n.as_str())) else {
        return Ok(());
    };
    let error =
        Error::new(Kind::Usage, format!("the fleet file has no node `{unknown}`")).code("unknown-node");
    Err(vec![match nearest(unknown, names()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error,
    }])
}

/// What the last run left behind.
pub(crate) fn leftovers(fleet: &Fleet) -> Result<crate::plan::Leftovers, Vec<Error>> {
    let run = journal::latest(&Folder(fleet.state_folder())).map_err(|e| vec![e])?;
    Ok(run.map(|r| journal::outstanding(&r.status)).unwrap_or_default())
}

/// The exit status for several errors: the one a person has to act on most.
pub(crate) fn worst(errors: &[Error]) -> Exit {
    let order = [Kind::Internal, Kind::Usage, Kind::Failed, Kind::Blocked, Kind::Unreachable, Kind::Differs];
    let found = order.into_iter().find(|kind| errors.iter().any(|e| e.kind == *kind));
    found.map_or(error::Exit::Done, Exit::Not)
}
