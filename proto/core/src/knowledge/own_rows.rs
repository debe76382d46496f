//! Rows of the operator, laid over the tables: files of the tables' names, each with a heading of the columns
//! that it fills. New GPUs and releases come every month; nobody has to wait for us.

use crate::knowledge::tables::{TABLES, Table, of_file};
use crate::suggest::nearest;
use crate::text::piece;
use crate::units::DriverVersion;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Largest file, in bytes.
pub const MAX_FILE: u64 = 1 << 20;
/// Most rows of a file.
const ROWS: usize = 10_000;
/// Longest cell, in bytes.
const CELL: usize = 2_000;
/// Columns of `gpus.tsv` that say yes or no.
const YES_OR_NO: &str = "mig ecc";
/// Faults that are said of a folder.
const FAULTS: usize = 20;

/// One row.
#[derive(Debug)]
pub(super) struct OwnRow {
    /// By the table's columns; `None` where the file has no such column.
    cells: Vec<Option<&'static str>>,
    pub(super) key: Vec<String>,
    /// `gpus.tsv:3`.
    pub(super) place: &'static str,
    /// The program has a row of this key.
    pub(super) replaces: bool,
}

impl OwnRow {
    /// The cells; where the file has no such column, ours.
    pub(super) fn over(&self, ours: &[&'static str]) -> Vec<&'static str> {
        let cell = |(at, own): (usize, &Option<&'static str>)| {
            own.unwrap_or_else(|| ours.get(at).copied().unwrap_or_default())
        };
        self.cells.iter().enumerate().map(cell).collect()
    }
}

/// What a folder brings to a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// Rows that we have not.
    pub added: usize,
    /// Rows in the place of ours.
    pub replaced: usize,
}

#[derive(Debug)]
struct Installed {
    folder: String,
    rows: BTreeMap<&'static str, Vec<OwnRow>>,
}

static INSTALLED: OnceLock<Installed> = OnceLock::new();

/// Own rows of a table.
pub(super) fn of(name: &str) -> &'static [OwnRow] {
    INSTALLED.get().and_then(|installed| installed.rows.get(name)).map_or(&[], Vec::as_slice)
}

/// The folder of the operator's rows, and what it brings to each table.
pub fn installed() -> Option<(&'static str, BTreeMap<&'static str, Layer>)> {
    let installed = INSTALLED.get()?;
    let layer = |rows: &Vec<OwnRow>| {
        let replaced = rows.iter().filter(|row| row.replaces).count();
        Layer { added: rows.len() - replaced, replaced }
    };
    Some((&installed.folder, installed.rows.iter().map(|(name, rows)| (*name, layer(rows))).collect()))
}

/// Whether a row was read already: rows of the operator come too late then.
static READ: AtomicBool = AtomicBool::new(false);

/// A row is read.
pub(super) fn too_late_from_now() {
    READ.store(true, Ordering::Relaxed);
}

/// Lays rows over the tables, for the rest of the process: files of one folder, each with its text. Nothing is
/// laid where anything in them is wrong.
///
/// # Errors
/// What is wrong, each with file and line; or that other rows were laid before, or the tables used.
pub fn install(folder: &str, files: Vec<(String, String)>) -> Result<(), Vec<String>> {
    let shown = piece(folder, 240);
    match INSTALLED.get() {
        Some(before) if before.folder == shown => return Ok(()),
        Some(before) => {
            return Err(vec![format!("{shown}: the tables of {} are in use already", before.folder)]);
        }
        None => {}
    }
    let (mut faults, mut rows) = (vec![], BTreeMap::new());
    for (file, text) in files {
        let Some(table) = of_file(&file) else {
            let meant = nearest(&file, TABLES.iter().map(|table| table.file));
            let meant = meant.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            faults.push(format!("{shown}: {} is none of our tables{meant}", piece(&file, 40)));
            continue;
        };
        match rows_of(table, text.leak()) {
            Ok(own) if own.is_empty() => faults.push(format!("{shown}/{file}: a heading and no row")),
            Ok(own) => drop(rows.insert(table.file, own)),
            Err(wrong) => faults.extend(wrong.into_iter().map(|fault| format!("{shown}/{fault}"))),
        }
    }
    if rows.is_empty() && faults.is_empty() {
        faults.push(format!("{shown}: holds no table: files are called gpus.tsv, vgpu_releases.tsv .."));
    }
    if !faults.is_empty() {
        let more = faults.len().saturating_sub(FAULTS);
        faults.truncate(FAULTS);
        if more > 0 {
            faults.push(format!("{shown}: and {more} more"));
        }
        return Err(faults);
    }
    if READ.load(Ordering::Relaxed) {
        return Err(vec![format!("{shown}: the tables were used before these rows were read")]);
    }
    INSTALLED
        .set(Installed { folder: shown, rows })
        .map_err(|_| vec!["two folders of tables at once".to_string()])
}

/// The rows of one file, or what is wrong with them.
fn rows_of(table: &'static Table, text: &'static str) -> Result<Vec<OwnRow>, Vec<String>> {
    let columns = table.columns();
    let text = text.trim_start_matches('\u{feff}');
    let at = |line: usize, what: String| format!("{}:{}: {what}", table.file, line + 1);
    let mut faults = vec![];
    let mut lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'));
    let Some((first, heading)) = lines.next() else { return Err(vec![at(0, "the file is empty".into())]) };
    let mut places = vec![];
    for name in heading.trim_end_matches('\r').split('\t').map(str::trim) {
        match columns.iter().position(|column| *column == name) {
            Some(place) if places.contains(&place) => {
                faults.push(at(first, format!("the column `{name}` is there twice")));
            }
            Some(place) => places.push(place),
            None => {
                let meant = nearest(name, columns.iter().copied());
                let meant = meant.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                let name = piece(name, 40);
                let hint = if heading.contains('\t') { "" } else { " (put one tab between cells)" };
                faults.push(at(first, format!("`{name}` is no column of {}{meant}{hint}", table.name())));
            }
        }
    }
    let needed = needs(table);
    let must =
        table.key.iter().copied().chain(["source"]).chain(columns.iter().copied().find(|c| *c == "status"));
    for name in must.filter(|name| !places.iter().any(|at| columns[*at] == *name)) {
        faults.push(at(first, format!("the column `{name}` is missing")));
    }
    if !faults.is_empty() {
        // A heading without tabs is one fault, and the cause of all the others.
        faults.truncate(if heading.contains('\t') { faults.len() } else { 1 });
        return Err(faults);
    }
    let mut rows: Vec<OwnRow> = vec![];
    let ours: std::collections::HashSet<Vec<String>> =
        table.built_in().map(|cells| table.key_of(&cells)).collect();
    let mut keys = BTreeMap::new();
    for (line, text) in lines {
        if rows.len() == ROWS {
            faults.push(at(line, format!("more than {ROWS} rows")));
            break;
        }
        let found: Vec<&'static str> = text.trim_end_matches('\r').split('\t').map(str::trim).collect();
        if found.len() == 1 && places.len() > 1 {
            faults.push(at(
                line,
                format!("1 cell under a heading of {}: put one tab between cells, no blanks", places.len()),
            ));
            continue;
        }
        if found.len() > places.len() {
            faults.push(at(line, format!("{} cells under a heading of {}", found.len(), places.len())));
            continue;
        }
        let mut cells: Vec<Option<&'static str>> = vec![None; columns.len()];
        for (n, place) in places.iter().enumerate() {
            let cell = found.get(n).copied().unwrap_or_default();
            if let Err(why) = check(columns[*place], cell, table) {
                faults.push(at(line, why));
            }
            cells[*place] = Some(cell);
        }
        let new = !ours
            .contains(&table.key_of(&cells.iter().map(|cell| cell.unwrap_or_default()).collect::<Vec<_>>()));
        let empty = |name: &&&str| {
            let cell = columns.iter().position(|column| *column == **name).and_then(|at| cells[at]);
            cell.map_or(new, str::is_empty)
        };
        if let Some(name) = needed.iter().find(empty) {
            faults.push(at(line, format!("`{name}` is missing or empty: without it the row says nothing")));
        }
        let flat: Vec<&str> = cells.iter().map(|cell| cell.unwrap_or_default()).collect();
        let key = table.key_of(&flat);
        if let Some(before) = keys.insert(key.clone(), line + 1) {
            faults.push(at(line, format!("the same row as in line {before}: {}", table.key.join(" and "))));
        }
        let place: &'static str = format!("{}:{}", table.file, line + 1).leak();
        rows.push(OwnRow { cells, replaces: ours.contains(&key), key, place });
    }
    if faults.is_empty() { Ok(rows) } else { Err(faults) }
}

/// Cells without which a row of its own says nothing, or the wrong thing.
fn needs(table: &Table) -> &'static [&'static str] {
    match table.file {
        "gpus.tsv" => &["pci_device_id"],
        "vgpu_types.tsv" => &["vsphere_profile_guess", "series", "kind", "profile_mb"],
        "vgpu_releases.tsv" => &["driver_branch", "host_vgpu_manager"],
        "vgpu_compat_rules.tsv" => &["verdict"],
        "vgpu_protocol_versions.tsv" => &["external_version_max"],
        "cuda_driver.tsv" => &["min_driver_minor_compat"],
        "mig_placements.tsv" => &["compute_slices", "memory_slices", "starts"],
        "gpu_peaks.tsv" => &["memory_gb_s"],
        _ => &[],
    }
}

/// Whether a cell can be what its column says.
fn check(column: &str, cell: &str, table: &Table) -> Result<(), String> {
    let must = table.key.contains(&column) || matches!(column, "source" | "status");
    let wrong = |what: &str| {
        let cell = piece(cell, 40);
        Err(format!("`{column}` is `{cell}`: {what}"))
    };
    if cell.is_empty() {
        return if must { Err(format!("`{column}` is empty")) } else { Ok(()) };
    }
    if cell.len() > CELL || cell.chars().any(char::is_control) {
        return wrong("too long, or no text");
    }
    let fits = match column {
        "mem_gb_per_gpu"
        | "gpus_per_board"
        | "bar1_mb"
        | "profile_mb"
        | "max_per_gpu"
        | "max_per_gpu_mixed_size"
        | "mig_slices"
        | "memory_gb_s"
        | "compute_slices"
        | "memory_slices"
        | "xid" => (cell.parse::<u32>().is_ok(), "a whole number is expected"),
        "pci_device_id" | "pci_subsystem_id" => (
            cell.len() == 4 && cell.chars().all(|c| c.is_ascii_hexdigit()),
            "four hexadecimal digits are expected, such as 20F1",
        ),
        "host_vgpu_manager" | "guest_linux" => {
            (cell.parse::<DriverVersion>().is_ok(), "a driver version is expected, such as 580.95.02")
        }
        "driver_branch" | "min_driver_branch" | "last_driver_branch" => {
            (crate::units::branch_of(cell).is_some(), "a driver branch is expected, such as R580")
        }
        "vgpu_release" if table.file == "vgpu_releases.tsv" => (
            cell.split('.').count() == 2 && cell.split('.').all(|n| n.parse::<u32>().is_ok()),
            "a release is expected, such as 21.0",
        ),
        "status" => (
            cell.starts_with("confirmed") || cell.starts_with("uncertain"),
            "`confirmed` or `uncertain` is expected; what is uncertain refuses nothing",
        ),
        "verdict" => {
            (matches!(cell, "allow" | "allow-limited" | "deny"), "allow, allow-limited or deny is expected")
        }
        // As each table writes it: what is written otherwise would be read as something else.
        flag if table.file == "gpus.tsv" && YES_OR_NO.split(' ').any(|name| name == flag) => {
            (cell == "no" || cell.starts_with("yes"), "yes or no is expected")
        }
        "cuda" | "ecc_capable" => (matches!(cell, "0" | "1"), "0 or 1 is expected"),
        "series" => (matches!(cell, "A" | "B" | "C" | "Q"), "A, B, C or Q is expected"),
        "kind" => (matches!(cell, "time-sliced" | "mig-backed"), "time-sliced or mig-backed is expected"),
        "licensing" => (
            matches!(cell, "legacy server only" | "legacy server or NLS") || cell.starts_with("NLS"),
            "`legacy server only`, `legacy server or NLS` or `NLS ..` is expected",
        ),
        "open_kernel_module" => {
            (matches!(cell, "no" | "optional" | "required"), "no, optional or required is expected")
        }
        _ => (true, ""),
    };
    if fits.0 { Ok(()) } else { wrong(fits.1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(text: &'static str) -> Result<Vec<OwnRow>, Vec<String>> {
        rows_of(of_file("gpus.tsv").unwrap(), text)
    }

    #[test]
    fn rows_are_checked_and_fill_only_their_columns() {
        let rows = gpus("# ours\nname\tpci_device_id\tbar1_mb\tstatus\tsource\nTesla M10\t13BD\t512\tconfirmed\tseen on esx-07\nX9000\t3fff\t65536\tuncertain\ta datasheet\n").unwrap();
        assert_eq!(
            rows.iter().map(|r| (r.replaces, r.place)).collect::<Vec<_>>(),
            [(true, "gpus.tsv:3"), (false, "gpus.tsv:4")]
        );
        let table = of_file("gpus.tsv").unwrap();
        let ours = table.built_in().find(|cells| cells.contains(&"Tesla M10")).unwrap();
        let (columns, cells) = (table.columns(), rows[0].over(&ours));
        let cell = |name: &str| cells[columns.iter().position(|c| *c == name).unwrap()];
        assert_eq!((cell("bar1_mb"), cell("arch"), cell("source")), ("512", "Maxwell", "seen on esx-07"));
        for (text, word) in [
            ("name\tbar1\tstatus\tsource\nA\t1\tconfirmed\tx\n", "did you mean `bar1_mb`?"),
            ("name bar1_mb status source\n", "put one tab between cells"),
            ("name\tstatus\nA\tconfirmed\n", "`source` is missing"),
            ("name\tstatus\tsource\nA\tconfirmed\t\n", "`source` is empty"),
            ("name\tstatus\tsource\nA\tsure\tx\n", "`confirmed` or `uncertain`"),
            (
                "name\tbar1_mb\tstatus\tsource\nA\t64 GB\tconfirmed\tx\n",
                "gpus.tsv:2: `bar1_mb` is `64 GB`: a whole number",
            ),
            ("name\tstatus\tsource\nA\tconfirmed\tx\na\tconfirmed\ty\n", "the same row as in line 2"),
            ("name\tstatus\tsource\nA\tconfirmed\tx\ty\n", "4 cells under a heading of 3"),
            ("", "the file is empty"),
            ("name\tstatus\tsource\nA confirmed x\n", "put one tab between cells"),
        ] {
            let faults = gpus(text).unwrap_err();
            assert!(faults.iter().any(|fault| fault.contains(word)), "{word}: {faults:?}");
        }
    }
}
