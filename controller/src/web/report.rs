//! A page as one file: to mail, or to attach to a change ticket. It loads nothing, and its links lead nowhere.

use crate::error::{Error, Kind};
use crate::journal::{Folder, History};
use crate::monitoring::top::Severity;
use crate::plan::Plan;
use crate::web::fleet::{self, Shown};
use crate::web::frame::{Frame, mark, with_commands};
use crate::web::links::{Place, Query};
use crate::web::run;
use crate::web::{plan, site::Seen};
use maud::{Markup, html};
use vsgpu_wire::life::date;

fn file(fleet: &str, title: &str, now: u64, inside: &Markup) -> String {
    let as_of = format!("Written {}", date(now));
    Frame { place: Place::File, fleet, title, as_of, needs: None, again: None }.around(inside)
}

/// The fleet as it is now.
pub fn of_fleet(fleet: &str, seen: &Seen, now: u64) -> String {
    let shown = Shown::of(&seen.summary, &seen.needs, 0);
    file(fleet, "Fleet", now, &fleet::page(Place::File, &shown, &Query::read("")))
}

/// A run, from its journal.
///
/// # Errors
/// Where there is none of this number, or it cannot be read.
pub fn of_run(fleet: &str, disk: &Folder, number: u32, now: u64) -> Result<String, Error> {
    let shown = super::site::shown_run(disk, number, now)?;
    let none = || {
        let error = Error::new(Kind::Usage, format!("this fleet has no run {number}")).code("no-run");
        error.hint("`vsgpu runs` lists them")
    };
    let shown = shown.ok_or_else(none)?;
    Ok(file(fleet, &format!("Run {number}"), now, &run::page(Place::File, &shown, &Query::read(""))))
}

/// What `vsgpu apply` would do. `said`: problems and warnings, which a terminal shows beside it.
pub fn of_plan(fleet: &str, plan: &Plan, history: &History, said: &[(Severity, String)], now: u64) -> String {
    let inside = html! {
        h1 { "Plan for " (fleet) }
        @for (severity, text) in said { p { (mark(*severity, text.lines().next().unwrap_or_default())) @for line in text.lines().skip(1) { br; (with_commands(line)) } } }
        section { h2 { "What would be done" } (plan::section(plan, Some(history))) }
        p { "Nothing has been changed." }
    };
    file(fleet, "Plan", now, &inside)
}
