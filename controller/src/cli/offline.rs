//! What somebody saved, for verbs that ask no agent: facts (`vsgpu facts -o json`), or a `vsgpu bundle`, which has the
//! fleet file that goes with them.

use crate::cli::global::{FleetArg, GlobalArgs};
use crate::diagnose::{bundle, read_archive};
use crate::error::{Error, Kind};
use crate::fleet::{Fleet, file};
use crate::inventory::{Inventory, saved};
use std::io::Read as _;
use std::path::Path;

/// Facts, and of a bundle the fleet.
pub(super) struct Saved {
    pub inventory: Inventory,
    pub fleet: Option<Fleet>,
}

/// A fleet and facts as a bundle has them; packages are not in it.
pub(super) fn of_bundle(path: &Path, (fleet, facts): (String, String)) -> Result<Saved, Vec<Error>> {
    let mut fleet = file::of_bundle(Path::new(bundle::FLEET), &fleet)?;
    file::versions_from_file_names(&mut fleet);
    let inventory = saved::from_text(path, &facts).map_err(|e| vec![e])?;
    Ok(Saved { inventory, fleet: Some(fleet) })
}

/// Either of them, by how the file begins.
pub(super) fn read(path: &Path) -> Result<Saved, Vec<Error>> {
    let mut begin = [0; 2];
    let packed = crate::files::open(path).map_err(|e| vec![e])?.read_exact(&mut begin).is_ok()
        && begin == [0x1f, 0x8b];
    if !packed {
        return Ok(Saved { inventory: saved::read(path).map_err(|e| vec![e])?, fleet: None });
    }
    match read_archive(path).map_err(|e| vec![e])?.bundle {
        Some(texts) => of_bundle(path, texts),
        None => Err(vec![
            Error::new(Kind::Usage, format!("{}: no `vsgpu bundle`", path.display()))
                .code("facts-file")
                .hint("`vsgpu diagnose --bundle FILE` reads other archives; `vsgpu bundle` writes one"),
        ]),
    }
}

impl FleetArg {
    /// The fleet file that is named, else the one of the bundle, else the usual one.
    pub(super) fn read_beside(
        &self,
        saved: Option<&mut Saved>,
        chosen: &GlobalArgs,
    ) -> Result<Fleet, Vec<Error>> {
        match saved.and_then(|saved| saved.fleet.take()).filter(|_| self.fleet.is_none()) {
            Some(fleet) => Ok(fleet),
            None => self.read(false, chosen),
        }
    }
}
