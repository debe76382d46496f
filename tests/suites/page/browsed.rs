//! The pages in a real Chromium.

use crate::fleets::{Served, metrics, serve};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Instant;
use vsgpu_tests::lab::small_fleet::small;
use vsgpu_tests::real::browser::Browser;

/// Every text that is seen, with the contrast of its letters to what is behind them, where that is less than WCAG's AA
/// asks for: 4.5, or 3 of large letters.
const TOO_FAINT: &str = r#"(() => {
  const parse = c => { const m = c.match(/[\d.]+/g).map(Number); return { rgb: m.slice(0, 3), a: m.length > 3 ? m[3] : 1 } };
  const lum = rgb => { const [r, g, b] = rgb.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
  const behind = e => {
    if (e instanceof SVGElement) {
      const box = e.parentElement.querySelector(':scope > rect');
      return parse(getComputedStyle(box).fill).rgb;
    }
    for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.a === 1) return c.rgb }
    return [255, 255, 255];
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
    if (!text || ['title', 'style', 'option'].includes(e.tagName.toLowerCase()) || !e.checkVisibility()) continue;
    const style = getComputedStyle(e), svg = e instanceof SVGElement;
    const [a, b] = [lum(parse(svg ? style.fill : style.color).rgb), lum(behind(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const size = parseFloat(style.fontSize), large = size >= 24 || size >= 18.66 && parseInt(style.fontWeight) >= 700;
    seen++;
    if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)} ${e.tagName} ${text.slice(0, 60)}`);
  }
  return { seen, found };
})()"#;

const PATHS: [&str; 6] = ["/", "/needs", "/host/esx-0001", "/guest/esx-vm-0001", "/runs", "/host/gone"];

fn opened(served: &Served, browser: &mut Browser, path: &str) {
    browser.open(&format!("{}{path}", served.address));
}

/// What it loaded, and that nothing was refused or went wrong.
fn loaded(browser: &Browser, path: &str) -> BTreeSet<String> {
    for event in &browser.told {
        let method = event["method"].as_str().unwrap_or_default();
        assert!(
            !["Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening"].contains(&method)
                || event["params"]["entry"]["text"]
                    .as_str()
                    .is_some_and(|text| text.contains("favicon") || text.contains("404")),
            "{path}: {event}"
        );
    }
    let asked = browser.told.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
    asked.filter_map(|event| event["params"]["request"]["url"].as_str()).map(String::from).collect()
}

fn every_text_can_be_read_in_light_and_in_dark() {
    let served = serve("contrast", metrics("esx", 20));
    let mut browser = Browser::start("contrast");
    for dark in [false, true] {
        browser.as_seen(1_280, dark);
        for path in PATHS {
            opened(&served, &mut browser, path);
            let read = browser.eval(TOO_FAINT);
            assert!(read["seen"].as_u64().unwrap() > 5, "{path}: {read}");
            assert_eq!(read["found"], serde_json::json!([]), "{path}, dark: {dark}");
        }
    }
}

fn it_loads_its_own_style_sheet_and_nothing_else() {
    let served = serve("loads", metrics("esx", 8));
    let mut browser = Browser::start("loads");
    for path in PATHS {
        opened(&served, &mut browser, path);
        for address in loaded(&browser, path) {
            assert!(address.starts_with(&served.address), "{path} loads {address}");
        }
        assert_eq!(browser.eval("document.styleSheets.length"), 1, "{path}");
    }
    // A file that was mailed loads nothing at all.
    let lab = small("page-mailed");
    lab.expect(3, &["plan", "--html", "plan.html"]);
    lab.expect(0, &["apply", "--yes"]);
    lab.expect(0, &["report", "1", "--html", "run.html"]);
    lab.expect(0, &["report", "--html", "fleet.html"]);
    for file in ["plan.html", "run.html", "fleet.html"] {
        let text = std::fs::read_to_string(lab.folder.join(file)).unwrap();
        let address = browser.file(file, &text);
        for dark in [false, true] {
            browser.as_seen(1_280, dark);
            browser.open(&address);
            assert_eq!(loaded(&browser, file), BTreeSet::from([address.clone()]));
            let style = browser.eval("getComputedStyle(document.querySelector('.skip')).position");
            assert_eq!(style, "absolute", "its style holds");
            assert_eq!(browser.eval(TOO_FAINT)["found"], serde_json::json!([]), "{file}, dark: {dark}");
        }
        has_names(&mut browser, file);
        browser.as_seen(320, false);
        let wide = browser.eval("document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(wide <= 320, "{file}: {wide} wide");
    }
}

/// What a screen reader gets of a page: roles and names. All that needs a name has one.
fn has_names(browser: &mut Browser, page: &str) -> Vec<(String, String)> {
    let tree = browser.call("Accessibility.getFullAXTree", serde_json::json!({}));
    let shown = tree["nodes"].as_array().unwrap().iter().filter(|node| node["ignored"] != true);
    let text = |node: &Value, key: &str| node[key]["value"].as_str().unwrap_or_default().to_string();
    let roles: Vec<(String, String)> = shown.map(|node| (text(node, "role"), text(node, "name"))).collect();
    let named = ["link", "button", "image", "table", "searchbox", "combobox", "heading", "navigation"];
    for (role, name) in &roles {
        assert!(
            !named.contains(&role.as_str()) || !name.trim().is_empty(),
            "{page}: a {role} without a name"
        );
    }
    for role in ["main", "heading", "banner", "contentinfo"] {
        assert!(roles.iter().any(|(known, _)| known == role), "{page}: no {role}: {roles:?}");
    }
    roles
}

/// Roles and names, as a screen reader gets them.
fn a_screen_reader_gets_names_for_all_of_it() {
    let served = serve("reader", metrics("esx", 8));
    let mut browser = Browser::start("reader");
    for path in PATHS {
        opened(&served, &mut browser, path);
        let roles = has_names(&mut browser, path);
        if path == "/" {
            assert!(
                roles.iter().any(|(role, name)| *role == "image" && name.contains("room for 1 more")),
                "{roles:?}"
            );
            // Marks are words, not colours: unlicensed, away.
            let all: String = roles.iter().map(|(_, name)| format!("{name}\n")).collect();
            assert!(all.contains("does not answer") && all.contains("UNLICENSED"), "{all}");
        }
    }
}

/// Tab reaches everything in its order and is seen where it is; Enter opens what is folded.
fn everything_is_reached_by_keys() {
    let served = serve("keys", metrics("esx", 3));
    let mut browser = Browser::start("keys");
    opened(&served, &mut browser, "/");
    const WHERE: &str = "(() => { const e = document.activeElement, s = getComputedStyle(e), b = e.getBoundingClientRect(); return { what: e.tagName + ' ' + (e.name || e.innerText).split('\\n')[0], outlined: s.outlineStyle !== 'none' || e.className === 'skip', seen: b.width > 0 && b.left >= 0 } })()";
    let all = browser
        .eval("document.querySelectorAll('a[href], summary, input, select, button').length")
        .as_u64()
        .unwrap();
    let mut reached = vec![];
    for _ in 0..all {
        browser.press("Tab", 9);
        let at = browser.eval(WHERE);
        assert!(at["seen"] == true && at["outlined"] == true, "{at}");
        reached.push(at["what"].as_str().unwrap().to_string());
    }
    assert_eq!(reached[0], "A To the content");
    for what in ["A Runs", "INPUT q", "SELECT order", "BUTTON Show", "A esx-0001", "SUMMARY 2 GPUs, 3 vGPUs"]
    {
        assert!(reached.iter().any(|known| known.starts_with(what)), "{what}: {reached:?}");
    }
    browser.eval("document.querySelector('summary').focus()");
    assert_eq!(browser.eval("document.querySelector('details').open"), true);
    browser.press("Enter", 13);
    assert_eq!(browser.eval("document.querySelector('details').open"), false);
}

/// Without scripts, in a window as narrow as a telephone, and on paper.
fn nothing_is_lost_without_scripts_in_a_narrow_window_and_on_paper() {
    let served = serve("narrow", metrics("esx", 8));
    let mut browser = Browser::start("narrow");
    opened(&served, &mut browser, "/");
    let words = browser.eval("document.querySelector('main').innerText.length").as_u64().unwrap();
    browser.call("Emulation.setScriptExecutionDisabled", serde_json::json!({ "value": true }));
    for path in PATHS {
        browser.as_seen(320, false);
        opened(&served, &mut browser, path);
        let wide = browser.eval("document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(wide <= 320, "{path}: {wide} wide");
    }
    browser.as_seen(1_280, false);
    opened(&served, &mut browser, "/");
    assert_eq!(browser.eval("document.querySelector('main').innerText.length"), words);
    browser.call("Emulation.setEmulatedMedia", serde_json::json!({ "media": "print" }));
    assert_eq!(browser.eval("document.querySelector('form').checkVisibility()"), false);
    let paper = browser.call("Page.printToPDF", serde_json::json!({ "printBackground": true }));
    assert!(paper["data"].as_str().unwrap().starts_with("JVBERi"), "no PDF");
}

/// Text from machines stays text, also for a browser.
fn a_hostile_name_does_nothing() {
    let hostile = "<script>document.title='owned'</script>\"><img src=x onerror=\"document.title='owned'\">";
    let served = serve("owned", metrics(hostile, 2));
    let mut browser = Browser::start("owned");
    opened(&served, &mut browser, "/");
    assert!(!browser.eval("document.title").as_str().unwrap().contains("owned"));
    assert_eq!(browser.eval("document.querySelectorAll('script, img').length"), 0);
    let first = browser.eval("document.querySelector('.host a').href");
    browser.open(first.as_str().unwrap());
    let heading = browser.eval("document.querySelector('h1').innerText");
    assert!(
        heading.as_str().unwrap().starts_with("Host <script>document.title='owned'</script>"),
        "{heading}"
    );
    assert!(loaded(&browser, "host").iter().all(|address| address.starts_with(&served.address)));
}

fn a_thousand_hosts_are_shown_as_quickly_as_fifty() {
    let mut browser = Browser::start("thousand");
    let mut took = |hosts: usize| {
        let served = serve(&format!("thousand-{hosts}"), metrics("esx", hosts));
        served.page("/");
        opened(&served, &mut browser, "/");
        let begun = Instant::now();
        opened(&served, &mut browser, "/");
        let elements: Value = browser.eval("document.querySelectorAll('*').length");
        println!("{hosts} hosts in Chromium: {:.1?}, {elements} elements", begun.elapsed());
        (begun.elapsed().as_secs_f64(), elements.as_f64().unwrap())
    };
    let (few, many) = (took(50), took(1_000));
    assert!(many.1 < few.1 * 1.2, "{few:?} {many:?}");
    assert!(many.0 < few.0 * 4.0 + 0.2, "{few:?} {many:?}");
}

pub const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    every_text_can_be_read_in_light_and_in_dark[Chromium],
    it_loads_its_own_style_sheet_and_nothing_else[Chromium],
    a_screen_reader_gets_names_for_all_of_it[Chromium],
    everything_is_reached_by_keys[Chromium],
    nothing_is_lost_without_scripts_in_a_narrow_window_and_on_paper[Chromium],
    a_hostile_name_does_nothing[Chromium],
    a_thousand_hosts_are_shown_as_quickly_as_fifty[Chromium, Quiet]
];
