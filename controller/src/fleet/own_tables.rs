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
    let unreadable =
        |why: std::io::Error| vec![Error::new(Kind::Usage, format!("{}: {why}", folder.display()))];
    let entries = std::fs::read_dir(folder).map_err(unreadable)?;
    let mut names: Vec<String> = entries
        .take(FILES)
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.ends_with(".tsv"))
        .collect();
    names.sort_unstable();
    let text = |name: String| {
        let text = files::read_text(&folder.join(&name), MAX_FILE)?;
        Ok((name, text))
    };
    let read: Vec<(String, String)> =
        names.into_iter().map(text).collect::<Result<_, Error>>().map_err(|e| vec![e])?;
    install(&folder.display().to_string(), read).map_err(|faults| {
        let error = |fault| {
            Error::new(Kind::Usage, fault)
                .hint("`vsgpu compat --list-tables -o json` lists the columns of each table")
        };
        faults.into_iter().map(error).collect()
    })
}
