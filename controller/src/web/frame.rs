//! What stands around every page: head, ways to the others, style sheet; and the small pieces that all of them use.

use crate::monitoring::top::Severity;
use crate::render::words::age;
use crate::web::links::Place;
use maud::{DOCTYPE, Markup, PreEscaped, html};

pub const CSS: &str = include_str!("page.css");

/// What a page needs around itself.
pub struct Frame<'a> {
    pub place: Place,
    /// Name of the fleet file.
    pub fleet: &'a str,
    /// What it is: the browser's title, behind the fleet's name.
    pub title: &'a str,
    /// When its values were asked for: `2026-11-26 22:45 UTC`, and how long ago.
    pub as_of: String,
    /// How many things need a person; absent where that is not known.
    pub needs: Option<usize>,
    /// The address of the same page that asks again by itself, and of the one that does not; empty in a file.
    pub again: Option<(String, bool)>,
}

impl Frame<'_> {
    pub fn around(&self, inside: &Markup) -> String {
        let site = self.place == Place::Site;
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " - " (self.fleet) " - vsgpu" }
                    @if site {
                        link rel="stylesheet" href="/page.css";
                    } @else {
                        meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                        style { (PreEscaped(CSS)) }
                    }
                }
                body {
                    a.skip href="#main" { "To the content" }
                    header {
                        p.brand { "vsgpu " span.fleet { (self.fleet) } }
                        @if site {
                            nav aria-label="Pages of this fleet" {
                                a href="/" { "Fleet" }
                                a href="/needs" { "To do" @if let Some(n) = self.needs.filter(|n| *n > 0) { " (" (n) ")" } }
                                a href="/runs" { "Runs" }
                                a href="/metrics" { "Metrics" }
                            }
                        }
                        p.quiet {
                            (self.as_of)
                            @if let Some((address, on)) = &self.again {
                                " · " a href=(address) { @if *on { "stop asking again" } @else { "ask again every 30 s" } }
                            }
                        }
                    }
                    main id="main" tabindex="-1" { (inside) }
                    footer { p.quiet { "vsgpu " (env!("CARGO_PKG_VERSION")) ". This page only shows. Times are UTC." } }
                }
            }
        };
        page.into_string()
    }
}

/// A word with a sign: its meaning never hangs on its colour.
pub fn mark(severity: Severity, word: &str) -> Markup {
    let (class, sign) = match severity {
        Severity::Fine => ("mark good", "✓"),
        Severity::Doubt => ("mark doubt", "!"),
        Severity::Bad => ("mark bad", "✗"),
    };
    html! { span class=(class) { span aria-hidden="true" { (sign) } " " (word) } }
}

/// A neutral word.
pub fn word(word: &str) -> Markup {
    html! { span class="mark" { (word) } }
}

/// What is to be typed stands between backquotes.
pub fn with_commands(text: &str) -> Markup {
    html! {
        @for (at, piece) in text.split('`').enumerate() {
            @if at % 2 == 1 { code { (piece) } } @else { (piece) }
        }
    }
}

/// `seen 4 s ago`.
pub fn seen(age_secs: Option<u64>) -> Markup {
    html! { span.quiet { @match age_secs { Some(secs) => { "seen " (age(secs)) " ago" } None => "never seen" } } }
}
