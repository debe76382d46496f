//! The answer of `fit` as a picture: a bar for each GPU, to scale.

use crate::fit::{Placement, Problem};
use crate::render::fit::{label, rows};

const WIDE: usize = 600;
const LEFT: usize = 300;
const LINE: usize = 30;
/// More GPUs than this make no picture that anybody reads.
const MOST: usize = 400;
const COLOURS: [&str; 6] = ["#4e79a7", "#59a14f", "#f28e2b", "#b07aa1", "#76b7b2", "#9c755f"];

pub fn picture(problem: &Problem, shown: &Placement) -> String {
    let rows = rows(problem, shown);
    let mut profiles: Vec<&str> = rows.iter().flat_map(|r| r.tenants.iter().map(|t| t.0.as_str())).collect();
    profiles.sort_unstable();
    profiles.dedup();
    let colour =
        |profile: &str| COLOURS[profiles.iter().position(|p| *p == profile).unwrap_or(0) % COLOURS.len()];
    let cut = rows.len().saturating_sub(MOST);
    let height = (rows.len().min(MOST) + 2) * LINE;
    let mut xml = xmlwriter::XmlWriter::new(xmlwriter::Options::default());
    xml.start_element("svg");
    xml.write_attribute("xmlns", "http://www.w3.org/2000/svg");
    xml.write_attribute_fmt("viewBox", format_args!("0 0 {} {height}", LEFT + WIDE + 40));
    xml.write_attribute("font-family", "sans-serif");
    xml.write_attribute("font-size", "13");
    let text = |xml: &mut xmlwriter::XmlWriter, x: usize, y: usize, colour: &str, words: &str| {
        xml.start_element("text");
        xml.write_attribute("x", &x);
        xml.write_attribute("y", &y);
        xml.write_attribute("fill", colour);
        xml.set_preserve_whitespaces(true);
        xml.write_text(&vsgpu_core::text::piece(words, 200));
        xml.end_element();
        xml.set_preserve_whitespaces(false);
    };
    for (at, row) in rows.iter().take(MOST).enumerate() {
        let y = (at + 1) * LINE;
        text(&mut xml, 10, y + 16, "#222", &format!("{}  GPU {}  {}", row.host, row.gpu, row.model));
        xml.start_element("rect");
        for (name, value) in [("x", LEFT), ("y", y), ("width", WIDE), ("height", LINE - 8)] {
            xml.write_attribute(name, &value);
        }
        xml.write_attribute("fill", "#eee");
        xml.write_attribute("stroke", "#999");
        xml.end_element();
        for (profile, vm, start, size) in &row.tenants {
            let (x, width) = (LEFT + start * WIDE / 1000, (size * WIDE / 1000).max(2));
            xml.start_element("rect");
            for (name, value) in [("x", x), ("y", y), ("width", width), ("height", LINE - 8)] {
                xml.write_attribute(name, &value);
            }
            xml.write_attribute("fill", colour(profile));
            xml.write_attribute("stroke", "#fff");
            xml.start_element("title");
            xml.write_text(&vsgpu_core::text::piece(&format!("{vm} {profile}"), 200));
            xml.end_element();
            xml.end_element();
            let label = label(profile);
            if label.len() * 9 < width {
                text(&mut xml, x + 5, y + 15, "#fff", label);
            }
        }
    }
    if cut > 0 {
        text(&mut xml, 10, height - 10, "#222", &format!("and {cut} GPUs more"));
    }
    xml.end_element();
    xml.end_document()
}
