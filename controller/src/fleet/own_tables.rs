//! A folder with the operator's own rows for the tables, read from the disk.

use crate::error::{Error, Kind};
use crate::files;
use std::path::Path;
use vsgpu_core::knowledge::own_rows::{MAX_FILE, install};

/// Most files of such a folder that are looked at.
const FILES: usize = 100;

/// Lays the rows of this folder over the tables, for the rest of the process.
///
/// # Errors
/// All that is wrong with them.
pub fn own_tables(folder: &Path) -> Result<(), Vec<Error>> {
    let unreadable = |why: std::io::Error| {
        let what = match why.kind() {
            std::io::ErrorKind::NotFound => "no such folder".to_string(),
            _ => why.to_string(),
        };
        let error = Error::new(Kind::Usage, format!("{}: {what}", folder.display()));
        vec![error.hint(
            "name a folder with gpus.tsv, vgpu_releases.tsv ..; `vsgpu compat --list-tables` lists the names",
        )]
    };
    let entries = std::fs::read_dir(folder).map_err(unreadable)?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.ends_with(".tsv"))
        .take(FILES)
        .collect();
    names.sort_unstable();
    let text = |name: String| {
        let text = files::read_text(&folder.join(&name), MAX_FILE)?;
        Ok((name, text))
    };
    let read: Vec<(String, String)> =
        names.into_iter().map(text).collect::<Result<_, Error>>().map_err(|e| vec![e])?;
    // One folder by two names is one folder.
    let shown = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.into());
    install(&shown.display().to_string(), read).map_err(|faults| {
        let mut all: Vec<Error> = faults.into_iter().map(|fault| Error::new(Kind::Usage, fault)).collect();
        if let Some(last) = all.pop() {
            all.push(last.hint("the page `tables` says what each column holds; `vsgpu compat --list-tables -o json` lists them"));
        }
        all
    })
}
