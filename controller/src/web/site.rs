//! Which page answers which address. What is shown comes from memory and from the journals; no machine is asked for a
//! page.

use crate::fleet::Fleet;
use crate::journal::{self, Disk as _, Folder, History};
use crate::monitoring::top::{self, FleetSummary, Need, Seats};
use crate::render::status;
use crate::web::frame::{CSS, Frame};
use crate::web::links::{Place, Query, named};
use crate::web::{fleet, machine, run};
use maud::{Markup, html};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use vsgpu_wire::life::date;
use vsgpu_wire::metrics::listener::{Page, Pages};

/// Runs of the list.
const RUNS: usize = 50;
/// Seconds after which a page asks again by itself, where somebody wants that.
const AGAIN: u32 = 30;

/// The fleet as it was read last.
pub struct Seen {
    pub summary: FleetSummary,
    pub needs: Vec<Need>,
    /// When, seconds since 1970.
    at: u64,
}

impl Seen {
    /// From a page of metrics, as it was at this time.
    pub fn of(fleet: &str, seats: &Seats, metrics: &str, at: u64) -> Self {
        let summary = top::glance(fleet, seats, metrics);
        let needs = top::needs(&summary);
        Self { summary, needs, at }
    }

    fn as_of(&self, now: u64) -> (String, u64) {
        let since = now.saturating_sub(self.at);
        (format!("As of {}, {} ago", date(self.at), crate::render::words::age(since)), since)
    }
}

/// The pages of one fleet.
pub struct Site {
    /// What the agents say, as monitoring systems get it.
    metrics: Arc<dyn Pages>,
    fleet: String,
    seats: Seats,
    state: PathBuf,
    /// Seconds since 1970.
    clock: fn() -> u64,
    /// What was read in which round.
    last: Mutex<(String, Option<Arc<Seen>>)>,
    /// The run that was shown last, with its journal's length: a large one takes long to read.
    run: Mutex<Option<(u32, u64, Arc<run::Shown>)>>,
}

impl Site {
    pub fn new(fleet: &Fleet, metrics: Arc<dyn Pages>, clock: fn() -> u64) -> Self {
        Self {
            metrics,
            fleet: fleet.file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            seats: top::seats(fleet),
            state: fleet.state_folder(),
            clock,
            last: Mutex::default(),
            run: Mutex::default(),
        }
    }

    /// Read once a round: the pages of thousands of machines take a while.
    fn seen(&self) -> Arc<Seen> {
        let round = self.metrics.ready().unwrap_or_default();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let (known, Some(seen)) = &*last
            && *known == round
            && !round.is_empty()
        {
            return seen.clone();
        }
        let seen = Seen::of(&self.fleet, &self.seats, &self.metrics.metrics(), (self.clock)());
        let seen = Arc::new(seen);
        *last = (round, Some(seen.clone()));
        seen
    }

    fn runs(&self) -> Markup {
        let disk = Folder(self.state.clone());
        let at_work = journal::at_work(&disk.0).is_some();
        let numbers = disk.numbers();
        let older = numbers.len().saturating_sub(RUNS);
        let listed = numbers.into_iter().take(RUNS).enumerate();
        let runs: Vec<_> = listed
            .map(|(at, number)| (number, journal::numbered(&disk, number), at_work && at == 0))
            .collect();
        run::list(&runs, older, status::state_of)
    }

    fn one_run(&self, number: u32) -> Result<Arc<run::Shown>, String> {
        let disk = Folder(self.state.clone());
        let length = disk.length(number).unwrap_or_default();
        let mut last = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, at, shown)) = &*last
            && *known == number
            && *at == length
            && shown.stored.status.ended.is_some()
        {
            return Ok(shown.clone());
        }
        let shown = Arc::new(shown_run(&disk, number, (self.clock)())?);
        *last = Some((number, length, shown.clone()));
        Ok(shown)
    }

    fn framed(&self, status: u16, title: &str, seen: &Seen, query: &Query, inside: &Markup) -> Page {
        let other = Query { again: if query.again.is_some() { None } else { Some(AGAIN) }, ..query.clone() };
        let frame = Frame {
            place: Place::Site,
            fleet: &self.fleet,
            title,
            as_of: seen.as_of((self.clock)()).0,
            needs: Some(seen.needs.len()),
            again: Some((other.at(query.page), query.again.is_some())),
        };
        Page { status, kind: "text/html; charset=utf-8", body: frame.around(inside), again: query.again }
    }
}

/// All that the page of a run shows, from its journal.
///
/// # Errors
/// Why it cannot be read.
pub fn shown_run(disk: &Folder, number: u32, now: u64) -> Result<run::Shown, String> {
    let none = || format!("this fleet has no run {number}");
    if !disk.numbers().contains(&number) {
        return Err(none());
    }
    let stored = journal::numbered(disk, number).map_err(|error| error.message)?.ok_or_else(none)?;
    let records = journal::records(disk, number).map_err(|error| error.message)?;
    let newest = disk.numbers().first() == Some(&number);
    let at_work = newest && journal::at_work(&disk.0).is_some();
    let timeline = journal::timeline::timeline(&stored.status.plan, &records, now);
    let (state, nodes) =
        (status::state_of(&stored, at_work).to_string(), journal::outcome::nodes(&stored, at_work));
    Ok(run::Shown { timeline, state, nodes, history: History::of(disk), stored })
}

impl Pages for Site {
    fn metrics(&self) -> String {
        self.metrics.metrics()
    }

    fn ready(&self) -> Result<String, String> {
        self.metrics.ready()
    }

    fn page(&self, path: &str, query: &str) -> Option<Page> {
        if path == "/page.css" {
            return Some(Page {
                status: 200,
                kind: "text/css; charset=utf-8",
                body: CSS.into(),
                again: None,
            });
        }
        let query = Query::read(query);
        let seen = self.seen();
        let shown = fleet::Shown::of(&seen.summary, &seen.needs, seen.as_of((self.clock)()).1);
        let found = match path {
            "/" => Some(("Fleet".to_string(), fleet::page(Place::Site, &shown, &query))),
            "/needs" => Some(("Needs somebody".into(), fleet::all_needs(Place::Site, &shown, &query))),
            "/runs" => Some(("Runs".into(), self.runs())),
            _ => None,
        };
        let host = || {
            let name = named(path, "/host/")?;
            Some((format!("Host {name}"), machine::host(Place::Site, &shown, &name)?))
        };
        let guest = || {
            let name = named(path, "/guest/")?;
            let vm = self.seats.get(&name).map(|(_, vm)| vm.as_str());
            Some((format!("Guest {name}"), machine::guest(Place::Site, &shown, vm, &name)?))
        };
        let vm = || {
            let name = named(path, "/vm/")?;
            let guest = self.seats.iter().find(|(_, (_, vm))| *vm == name).map(|(guest, _)| guest.as_str());
            Some((format!("VM {name}"), machine::vm(Place::Site, &shown, guest, &name)?))
        };
        let run = || {
            let number: u32 = named(path, "/run/")?.parse().ok()?;
            let inside = match self.one_run(number) {
                Ok(shown) => run::page(Place::Site, &shown, &query),
                Err(why) => html! { h1 { "Run " (number) " cannot be shown." } p { (why) } },
            };
            Some((format!("Run {number}"), inside))
        };
        Some(match found.or_else(host).or_else(guest).or_else(vm).or_else(run) {
            Some((title, inside)) => self.framed(200, &title, &seen, &query, &inside),
            None => {
                let inside = html! {
                    h1 { "There is no such page." }
                    p { "The machine may have left the fleet file. " a href="/" { "All that is there" } }
                };
                self.framed(404, "Not here", &seen, &Query::default(), &inside)
            }
        })
    }
}
