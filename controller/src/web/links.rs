//! Addresses of pages, and what stands in them. In a file that is mailed there are no other pages: links lead nowhere
//! there, and names stay plain.

use maud::{Markup, html};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// What must not stand in a path as it is.
const PATH: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'/').add(b'<').add(b'>').add(b'?').add(b'\\');

/// Where a page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Among others: links lead to them.
    Site,
    /// Alone, in a file.
    File,
}

/// A name, and the page of what it names.
fn link(place: Place, path: &str, name: &str) -> Markup {
    match place {
        Place::Site => html! { a href=(path) { (name) } },
        Place::File => html! { (name) },
    }
}

pub fn host(place: Place, name: &str) -> Markup {
    link(place, &format!("/host/{}", utf8_percent_encode(name, PATH)), name)
}

pub fn guest(place: Place, name: &str) -> Markup {
    link(place, &format!("/guest/{}", utf8_percent_encode(name, PATH)), name)
}

/// A VM by its display name on its host.
pub fn vm(place: Place, name: &str) -> Markup {
    link(place, &format!("/vm/{}", utf8_percent_encode(name, PATH)), name)
}

pub fn run(place: Place, number: u32, text: &str) -> Markup {
    link(place, &format!("/run/{number}"), text)
}

/// What a path names behind a folder: `/host/esx-01` behind `/host/`.
pub fn named(path: &str, folder: &str) -> Option<String> {
    let rest = path.strip_prefix(folder).filter(|rest| !rest.is_empty() && !rest.contains('/'))?;
    Some(percent_encoding::percent_decode_str(rest).decode_utf8().ok()?.into_owned())
}

/// What somebody asked of a page, each bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// A part of a name.
    pub words: String,
    /// By which order.
    pub order: String,
    /// Which page, from 1.
    pub page: usize,
    /// Seconds after which to ask again.
    pub again: Option<u32>,
}

/// Shortest and longest time after which a browser may be told to ask again.
const AGAIN: std::ops::RangeInclusive<u32> = 5..=3_600;

impl Query {
    /// Of an address; what is not understood is left out.
    pub fn read(text: &str) -> Self {
        let mut query = Self { page: 1, ..Self::default() };
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            let value = vsgpu_core::text::piece(&value, 100);
            match &*name {
                "q" => query.words = value.trim().to_string(),
                "order" => query.order = value,
                "page" => query.page = value.parse().unwrap_or(1).clamp(1, 1_000_000),
                "again" => query.again = value.parse().ok().filter(|seconds| AGAIN.contains(seconds)),
                _ => {}
            }
        }
        query
    }

    /// The same with another page.
    pub fn at(&self, page: usize) -> String {
        let mut text = form_urlencoded::Serializer::new(String::new());
        if !self.words.is_empty() {
            text.append_pair("q", &self.words);
        }
        if !self.order.is_empty() {
            text.append_pair("order", &self.order);
        }
        if let Some(seconds) = self.again {
            text.append_pair("again", &seconds.to_string());
        }
        if page > 1 {
            text.append_pair("page", &page.to_string());
        }
        format!("?{}", text.finish())
    }

    /// Whether a name is asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.words.is_empty() || name.to_lowercase().contains(&self.words.to_lowercase())
    }
}

/// The part of a list that one page shows, and the way to the other parts.
pub fn paged<'a, T>(
    place: Place,
    query: &Query,
    all: &'a [T],
    each: usize,
    most: usize,
) -> (&'a [T], Markup) {
    if place == Place::File {
        let cut = all.len().saturating_sub(most);
        let said = html! { @if cut > 0 { p.quiet { "and " (cut) " more, which are not in this file" } } };
        return (&all[..all.len() - cut], said);
    }
    let pages = all.len().div_ceil(each).max(1);
    let page = query.page.min(pages);
    let from = (page - 1) * each;
    let said = html! {
        @if pages > 1 {
            nav.pages aria-label="Pages" {
                @if page > 1 { a rel="prev" href=(query.at(page - 1)) { "previous" } }
                span { "page " (page) " of " (pages) " (" (from + 1) " to " (all.len().min(from + each)) " of " (all.len()) ")" }
                @if page < pages { a rel="next" href=(query.at(page + 1)) { "next" } }
            }
        }
    };
    (&all[from..all.len().min(from + each)], said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_any_kind_comes_back_from_its_address() {
        for name in ["esx-01", "a b", "50%", "x/y", "ä\"<>#?", "..", "%2e"] {
            let shown = host(Place::Site, name).into_string();
            let path = shown.split('"').nth(1).unwrap().replace("&amp;", "&");
            assert_eq!(named(&path, "/host/").as_deref(), Some(name), "{path}");
        }
        assert_eq!(named("/host/a/b", "/host/"), None);
        assert_eq!(named("/host/%ff", "/host/"), None);
    }

    #[test]
    fn nonsense_in_an_address_is_the_first_page() {
        for text in ["page=0", "page=-1", "page=x", "&&&", "page=99999999999999999999", "%zz=%00"] {
            let query = Query::read(text);
            assert!((1..=1_000_000).contains(&query.page), "{text}: {query:?}");
        }
        assert_eq!(Query::read("again=1").again, None);
        let query = Query::read("q=%3Cb%3E+x&order=busy&page=2&again=30");
        assert_eq!((query.words.as_str(), query.page, query.again), ("<b> x", 2, Some(30)));
        assert_eq!(Query::read(query.at(3).trim_start_matches('?')), Query { page: 3, ..query });
        let all: Vec<usize> = (0..95).collect();
        let last = paged(Place::Site, &Query { page: 999, ..Query::default() }, &all, 50, 0).0;
        assert_eq!((last.len(), last[0]), (45, 50));
    }
}
