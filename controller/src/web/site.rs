//! Which page answers which address. What is shown comes from memory and from the journals; no machine is asked for a
//! page.

use crate::error::Error;
use crate::fleet::Fleet;
use crate::journal::{self, Disk as _, Folder};
use crate::monitoring::top::{self, FleetSummary, Need, Node, Seats};
use crate::render::{status, words};
use crate::web::frame::{CSS, Frame};
use crate::web::links::{Place, Query, named};
use crate::web::{fleet, machine, run};
use maud::{Markup, html};
use std::collections::BTreeMap;
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
        let said = match self.summary.round_age_secs {
            // Of the round, not of the browser that came first.
            Some(age) => {
                format!("As of {}, {} ago", date(self.at.saturating_sub(age)), words::age(since + age))
            }
            None => "The first answers come in".into(),
        };
        (said, since)
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
    /// Runs that were shown lately, each with the length of its journal then: a large one takes long to read.
    runs: Mutex<Vec<KeptRun>>,
    /// Runs of the list, likewise.
    listed: Mutex<BTreeMap<u32, (u64, run::Listed)>>,
    /// Who reads journals for a page: one at a time.
    reading: Mutex<()>,
}

/// Number, length of its journal, and all that its page shows.
type KeptRun = (u32, u64, Arc<run::Shown>);

/// Runs that are kept.
const KEPT: usize = 4;

/// A page, or that it must be waited for.
enum Made<T> {
    Page(T),
    Later,
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
            runs: Mutex::default(),
            listed: Mutex::default(),
            reading: Mutex::default(),
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

    fn list(&self) -> Made<Markup> {
        let disk = Folder(self.state.clone());
        if let Err(error) = disk.visible() {
            return Made::Page(html! { h1 { "Runs" } p { (error.message) } });
        }
        let Ok(_reading) = self.reading.try_lock() else { return Made::Later };
        let at_work = journal::at_work(&disk.0).is_some();
        let numbers = disk.numbers();
        let older = numbers.len().saturating_sub(RUNS);
        let mut known = self.listed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut runs = vec![];
        for (at, number) in numbers.into_iter().take(RUNS).enumerate() {
            let length = disk.length(number).unwrap_or_default();
            // Whether somebody works on the newest changes without a record.
            if let Some((_, listed)) = known.get(&number).filter(|(was, _)| at > 0 && *was == length) {
                runs.push((number, Ok(listed.clone())));
                continue;
            }
            let listed = match journal::numbered(&disk, number) {
                Ok(Some(run)) => Ok(run::Listed::of(&run, status::state_of(&run, at_work && at == 0))),
                Ok(None) => Err("it never did anything".into()),
                Err(error) => Err(error.message),
            };
            if let Ok(listed) = &listed {
                known.insert(number, (length, listed.clone()));
            }
            runs.push((number, listed));
        }
        known.retain(|number, _| runs.iter().any(|(shown, _)| shown == number));
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = known;
        Made::Page(run::list(&runs, older))
    }

    /// `None`: there is no such run.
    fn run(&self, number: u32) -> Made<Result<Option<Arc<run::Shown>>, String>> {
        let disk = Folder(self.state.clone());
        if let Err(error) = disk.visible() {
            return Made::Page(Err(error.message));
        }
        let Some(length) = disk.length(number) else { return Made::Page(Ok(None)) };
        // One that goes on is shown as it is now, also between two records.
        let same = |(known, at, shown): &&KeptRun| {
            *known == number && *at == length && shown.stored.status.ended.is_some()
        };
        let kept = || self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((.., shown)) = kept().iter().find(same) {
            return Made::Page(Ok(Some(shown.clone())));
        }
        let Ok(_reading) = self.reading.try_lock() else { return Made::Later };
        let shown = match shown_run(&disk, number, (self.clock)()) {
            Ok(Some(shown)) => Arc::new(shown),
            Ok(None) => return Made::Page(Ok(None)),
            Err(error) => return Made::Page(Err(error.message)),
        };
        let mut kept = kept();
        kept.retain(|(known, ..)| *known != number);
        kept.truncate(KEPT - 1);
        kept.insert(0, (number, length, shown.clone()));
        Made::Page(Ok(Some(shown)))
    }

    /// Another page is read from large journals just now: the browser comes again by itself.
    fn later(&self, seen: &Seen, query: &Query) -> Page {
        let inside = html! {
            h1 { "Being read ..." }
            p { "The records of a run are being read. This page comes by itself." }
        };
        Page { again: Some(2), ..self.framed(200, "Being read", seen, query, &inside) }
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

/// All that the page of a run shows, from its journal; `None` where there is no such run.
///
/// # Errors
/// Why it cannot be read.
pub fn shown_run(disk: &Folder, number: u32, now: u64) -> Result<Option<run::Shown>, Error> {
    disk.visible()?;
    if !disk.numbers().contains(&number) {
        return Ok(None);
    }
    let Some((stored, records)) = journal::with_records(disk, number)? else { return Ok(None) };
    let newest = disk.numbers().first() == Some(&number);
    let at_work = newest && journal::at_work(&disk.0).is_some();
    let status = &stored.status;
    let timeline = journal::timeline::timeline(&status.plan, status.begun, &records, at_work.then_some(now));
    let (state, nodes) = (status::state_of(&stored, at_work), journal::outcome::nodes(&stored, at_work));
    Ok(Some(run::Shown { timeline, state, nodes, stored }))
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
            "/needs" => Some(("To do".into(), fleet::all_needs(&shown, &query))),
            "/runs" => match self.list() {
                Made::Page(inside) => Some(("Runs".into(), inside)),
                Made::Later => return Some(self.later(&seen, &query)),
            },
            _ => None,
        };
        let host = || {
            let name = named(path, "/host/")?;
            Some((format!("Host {name}"), machine::host(&shown, &name)?))
        };
        let guest = || {
            let name = named(path, "/guest/")?;
            let vm = self.seats.get(&name).map(|(_, vm)| vm.as_str());
            Some((format!("Guest {name}"), machine::guest(&shown, vm, &name)?))
        };
        let vm = || {
            let name = named(path, "/vm/")?;
            // One with an agent.
            let is = |node: &&Node| self.seats.get(&node.name).is_some_and(|(_, vm)| *vm == name);
            let guest = seen.summary.guests.iter().find(is).map(|node| node.name.as_str());
            Some((format!("VM {name}"), machine::vm(&shown, guest, &name)?))
        };
        let run = || {
            let number: u32 = named(path, "/run/")?.parse().ok()?;
            let inside = match self.run(number) {
                Made::Page(Ok(shown)) => run::page(Place::Site, &*shown?, &query),
                Made::Page(Err(why)) => html! { h1 { "Run " (number) " cannot be shown." } p { (why) } },
                Made::Later => return Some(Err(())),
            };
            Some(Ok((format!("Run {number}"), inside)))
        };
        let found = found.or_else(host).or_else(guest).or_else(vm).map(Ok).or_else(run);
        Some(match found {
            Some(Ok((title, inside))) => self.framed(200, &title, &seen, &query, &inside),
            Some(Err(())) => self.later(&seen, &query),
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
