//! A GPU as a bar to scale, with whose part is where: as characters for a terminal, as SVG for pages and files. `fit`,
//! `top`, the page for a browser and the documents all draw with this.

use maud::{Markup, html};
use vsgpu_core::text::piece;

/// The whole of a bar.
pub const WHOLE: usize = 1000;
/// Units of an SVG bar from end to end, and from top to bottom.
const WIDE: usize = 600;
const HIGH: usize = 22;
/// Colours that white letters can be read on (4.5 to 1), on light and on dark pages.
const COLOURS: [&str; 6] = ["#2f5d8a", "#2e6b34", "#8a4b08", "#6b3f73", "#1f6566", "#6b4a36"];
/// Below this width of SVG units for each letter, a label is left out.
const LETTER: usize = 9;

/// A part of a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// What is written into it, where there is room: `8c`.
    pub label: String,
    /// What it is of: parts of one kind have one colour.
    pub kind: String,
    /// Whose it is, and all that is known of it.
    pub title: String,
    /// Where it begins, in parts of [`WHOLE`].
    pub start: usize,
    /// How much it has, in parts of [`WHOLE`].
    pub size: usize,
}

/// Which kind of part has which colour.
#[derive(Default)]
pub struct Palette(Vec<(String, &'static str)>);

impl Palette {
    /// Of these parts, on a whole page.
    pub fn of<'a>(parts: impl Iterator<Item = &'a Part>) -> Self {
        let mut all: Vec<&str> = parts.map(|part| part.kind.as_str()).collect();
        all.sort_unstable();
        all.dedup();
        let colours = COLOURS.into_iter().cycle();
        Self(all.into_iter().map(String::from).zip(colours).collect())
    }

    /// Where colours mean something: the same on every page. White letters must be readable on them.
    pub fn fixed(kinds: &[(&str, &'static str)]) -> Self {
        Self(kinds.iter().map(|(kind, colour)| (kind.to_string(), *colour)).collect())
    }

    /// Of a kind; the first where it is not known.
    pub fn colour(&self, kind: &str) -> &'static str {
        self.0.iter().find(|(known, _)| known == kind).map_or(COLOURS[0], |(_, colour)| colour)
    }
}

/// `|8c |8c |8c |·······|`, so many characters wide and one more.
pub fn characters(parts: &[Part], width: usize) -> String {
    let mut cells = vec!['·'; width + 1];
    for part in parts {
        let from = (part.start * width / WHOLE).min(width);
        let to = ((part.start + part.size) * width).div_ceil(WHOLE).clamp(from, width);
        cells[from..=to].fill(' ');
        (cells[from], cells[to]) = ('|', '|');
        let room = to.saturating_sub(from + 1);
        if part.label.chars().count() <= room {
            part.label.chars().enumerate().for_each(|(at, c)| cells[from + 1 + at] = c);
        }
    }
    cells.into_iter().collect()
}

/// A share of a bar, in percent with one digit.
fn percent(of_whole: usize) -> String {
    format!("{}.{}%", of_whole / 10, of_whole % 10)
}

/// One bar as a picture inside a page, as wide as there is room; labels are cut where a part is narrow. `said`: the same
/// in words, for who does not see it.
pub fn inline(parts: &[Part], palette: &Palette, said: &str) -> Markup {
    html! {
        svg class="bar" role="img" aria-label=(piece(said, 400)) {
            rect class="room" width="100%" height="100%" fill="#eee" stroke="#767676" {}
            @for part in parts {
                // One that took no time is still seen, also at the end.
                svg x=(percent(part.start.min(WHOLE - 3))) width=(percent(part.size.clamp(3, WHOLE))) height="100%" {
                    title { (piece(&part.title, 200)) }
                    rect width="100%" height="100%" fill=(palette.colour(&part.kind)) stroke="#fff" {}
                    @if part.size >= WHOLE / 20 { text x="5" y="15" fill="#fff" { (piece(&part.label, 40)) } }
                }
            }
        }
    }
}

/// The bar alone, at a place of a picture.
fn bar(parts: &[Part], palette: &Palette, (left, top): (usize, usize)) -> Markup {
    html! {
        rect x=(left) y=(top) width=(WIDE) height=(HIGH) fill="#eee" stroke="#767676" {}
        @for part in parts {
            @let (x, width) = (left + part.start * WIDE / WHOLE, (part.size * WIDE / WHOLE).max(2));
            rect x=(x) y=(top) width=(width) height=(HIGH) fill=(palette.colour(&part.kind)) stroke="#fff" {
                title { (piece(&part.title, 200)) }
            }
            @if !part.label.is_empty() && part.label.chars().count() * LETTER < width {
                text x=(x + 5) y=(top + 15) fill="#fff" { (piece(&part.label, 40)) }
            }
        }
    }
}

/// A file with a bar below the other, each with words before it; `cut`: how many more there are.
pub fn sheet(rows: &[(String, Vec<Part>)], cut: usize) -> String {
    const LEFT: usize = 300;
    const LINE: usize = 30;
    let palette = Palette::of(rows.iter().flat_map(|(_, parts)| parts));
    let height = (rows.len() + 2) * LINE;
    let picture = html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {} {height}", LEFT + WIDE + 40)) font-family="sans-serif" font-size="13" {
            style { ".words { fill: #1f2328 } @media (prefers-color-scheme: dark) { .words { fill: #e6edf3 } }" }
            @for (at, (words, parts)) in rows.iter().enumerate() {
                @let top = (at + 1) * LINE;
                text class="words" x="10" y=(top + 16) { (piece(words, 200)) }
                (bar(parts, &palette, (LEFT, top)))
            }
            @if cut > 0 {
                text class="words" x="10" y=(height - 10) { "and " (cut) " GPUs more" }
            }
        }
    };
    picture.into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(label: &str, start: usize, size: usize) -> Part {
        Part { label: label.into(), kind: label.into(), title: format!("vm {label}"), start, size }
    }

    #[test]
    fn a_bar_is_to_scale_in_both_forms() {
        let parts = [part("8c", 0, 250), part("8c", 250, 250), part("20c", 500, 500)];
        assert_eq!(characters(&parts, 16), "|8c |8c |20c    |");
        assert_eq!(characters(&[], 8), "·········");
        let drawn = inline(&parts, &Palette::of(parts.iter()), "three").into_string();
        assert!(drawn.contains("x=\"50.0%\" width=\"50.0%\""), "{drawn}");
        assert_eq!(drawn.matches(COLOURS[1]).count(), 2, "the same label, the same colour");
    }

    #[test]
    fn parts_that_cannot_be_are_still_drawn_inside() {
        assert_eq!(characters(&[part("x", 900, 900), part("y", 5000, 1)], 10).chars().count(), 11);
    }

    #[test]
    fn a_hostile_name_stays_a_name() {
        let hostile = Part {
            label: "<script>".into(),
            kind: String::new(),
            title: "\"><script>\u{1b}[2J".into(),
            start: 0,
            size: 1000,
        };
        let drawn = sheet(&[("<b>".into(), vec![hostile])], 0);
        assert!(!drawn.contains("<script") && !drawn.contains("<b>") && !drawn.contains('\u{1b}'), "{drawn}");
    }

    /// WCAG's contrast of white letters.
    #[test]
    fn letters_can_be_read_on_every_colour() {
        for colour in COLOURS {
            let channel = |at: usize| {
                let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
                if value <= 0.039_28 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
            };
            let light = 0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5);
            assert!(1.05 / (light + 0.05) >= 4.5, "{colour}");
        }
    }
}
