//! What the keys of `vsgpu top` do: which lines are shown, which of them is chosen, what is opened. Pure;
//! drawing it and reading keys is `top`'s.

use crate::monitoring::top::{Block, Line, Part, Severity, View};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// In which order nodes stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    #[default]
    Name,
    Busy,
    Trouble,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Self::Name => Self::Busy,
            Self::Busy => Self::Trouble,
            Self::Trouble => Self::Name,
        }
    }

    fn said(self) -> &'static str {
        match self {
            Self::Name => "by name",
            Self::Busy => "busiest first",
            Self::Trouble => "trouble first",
        }
    }
}

/// A line on the screen, and the node that it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Row<'a> {
    pub text: &'a str,
    pub mood: Severity,
    /// `None`: a heading.
    pub node: Option<(Part, &'a str)>,
    /// The chosen one.
    pub chosen: bool,
}

/// Where the operator is.
#[derive(Debug, Default)]
pub struct Screen {
    order: Order,
    only_bad: bool,
    filter: String,
    /// Keys go into the filter.
    typing: bool,
    /// The help is shown.
    pub help: bool,
    /// The node whose line is open.
    pub open: Option<(Part, String)>,
    /// Lines of it that have scrolled away.
    pub scrolled: usize,
    chosen: usize,
    from: usize,
}

/// What is said of the keys.
pub const HELP: [&str; 12] = [
    "arrows, j k       choose a line",
    "PgUp PgDn         a screen up or down",
    "Home End          the first, the last",
    "Enter             open the node: what is not met, its GPUs",
    "Esc               back",
    "/                 only nodes with this text in their lines",
    "s                 order: by name, busiest first, trouble first",
    "p                 only what needs a person",
    "?                 this help",
    "q, Ctrl-C         leave",
    "",
    "~ cuts a name: make the window wider.",
];

impl Screen {
    /// Lines in order, without what is filtered away.
    pub fn rows<'a>(&self, view: &'a View) -> Vec<Row<'a>> {
        let wanted = self.filter.to_lowercase();
        let has = |block: &&Block| {
            wanted.is_empty() || block.lines.iter().any(|line| line.text.to_lowercase().contains(&wanted))
        };
        let mut blocks: Vec<&Block> =
            view.blocks.iter().filter(|b| !self.only_bad || b.mood() != Severity::Fine).filter(has).collect();
        match self.order {
            Order::Name => {}
            Order::Busy => {
                blocks.sort_by(|a, b| a.part.cmp(&b.part).then(f64::total_cmp(&b.busy, &a.busy)));
            }
            Order::Trouble => blocks.sort_by_key(|b| (b.part, std::cmp::Reverse(b.mood()))),
        }
        let mut rows: Vec<Row<'a>> = vec![];
        let mut guests = false;
        for block in blocks {
            if block.part == Part::Guest && !std::mem::replace(&mut guests, true) {
                rows.push(Row { text: "guests", mood: Severity::Fine, node: None, chosen: false });
            }
            // The node's own line says whose the lines under it are.
            let shown =
                |(at, line): &(usize, &Line)| *at == 0 || !self.only_bad || line.mood != Severity::Fine;
            let row = |(_, line): (usize, &'a Line)| Row {
                text: &line.text,
                mood: line.mood,
                node: Some((block.part, block.name.as_str())),
                chosen: false,
            };
            rows.extend(block.lines.iter().enumerate().filter(shown).map(row));
        }
        rows
    }

    /// The part of the rows that fits, with the chosen one in it, and how many there are before and in all.
    pub fn shown<'a>(&mut self, mut rows: Vec<Row<'a>>, height: usize) -> (Vec<Row<'a>>, usize, usize) {
        let all = rows.len();
        self.chosen = self.chosen.min(all.saturating_sub(1));
        self.from = self.from.min(all.saturating_sub(height));
        if self.chosen < self.from {
            self.from = self.chosen;
        } else if self.chosen >= self.from + height {
            self.from = self.chosen + 1 - height;
        }
        if let Some(row) = rows.get_mut(self.chosen) {
            row.chosen = true;
        }
        (rows.into_iter().skip(self.from).take(height).collect(), self.from, all)
    }

    /// What stands in the last line.
    pub fn foot(&self) -> String {
        if self.typing {
            return format!("/{}_   Enter keeps it, Esc drops it", self.filter);
        }
        if self.help || self.open.is_some() {
            return "Esc back   arrows scroll   q leaves".into();
        }
        let mut words = vec!["q leaves   ? keys   Enter opens   / filter".to_string()];
        if self.order != Order::Name {
            words.push(self.order.said().into());
        }
        if self.only_bad {
            words.push("only trouble".into());
        }
        if !self.filter.is_empty() {
            words.push(format!("only `{}`", self.filter));
        }
        words.join("   ")
    }

    /// A key. `nodes`: of each row, whose it is; `height`: rows that fit. Whether to leave.
    pub fn press(&mut self, key: KeyEvent, nodes: &[Option<(Part, String)>], height: usize) -> bool {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return true;
        }
        if self.typing {
            match key.code {
                KeyCode::Esc => (self.typing, self.filter) = (false, String::new()),
                KeyCode::Enter => self.typing = false,
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Char(letter) if self.filter.chars().count() < 60 => self.filter.push(letter),
                _ => {}
            }
            self.chosen = 0;
            return false;
        }
        if key.code == KeyCode::Char('q') {
            return true;
        }
        if self.help || self.open.is_some() {
            if matches!(key.code, KeyCode::Esc | KeyCode::Enter | KeyCode::Char('?') | KeyCode::Backspace) {
                (self.help, self.open) = (false, None);
            }
            self.scrolled = match key.code {
                KeyCode::Up | KeyCode::Char('k') => self.scrolled.saturating_sub(1),
                KeyCode::Down | KeyCode::Char('j') => self.scrolled + 1,
                KeyCode::PageUp => self.scrolled.saturating_sub(height),
                KeyCode::PageDown => self.scrolled + height,
                _ => self.scrolled,
            };
            return false;
        }
        match key.code {
            KeyCode::Esc if self.filter.is_empty() && !self.only_bad => return true,
            KeyCode::Esc => (self.filter, self.only_bad) = (String::new(), false),
            KeyCode::Char('?') => self.help = true,
            KeyCode::Char('/') => (self.typing, self.filter) = (true, String::new()),
            KeyCode::Char('s') => (self.order, self.chosen) = (self.order.next(), 0),
            KeyCode::Char('p') => (self.only_bad, self.chosen) = (!self.only_bad, 0),
            KeyCode::Enter => {
                (self.open, self.scrolled) = (nodes.get(self.chosen).cloned().flatten(), 0);
            }
            KeyCode::Up | KeyCode::Char('k') => self.chosen = self.chosen.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.chosen += 1,
            KeyCode::PageUp => self.chosen = self.chosen.saturating_sub(height),
            KeyCode::PageDown => self.chosen += height,
            KeyCode::Home => self.chosen = 0,
            KeyCode::End => self.chosen = nodes.len().saturating_sub(1),
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        let line = |text: &str, mood| Line { text: text.into(), mood };
        let block = |part, name: &str, busy, mood| Block {
            part,
            name: name.into(),
            busy,
            lines: vec![line(name, Severity::Fine), line(&format!("  gpu of {name}"), mood)],
        };
        let blocks = vec![
            block(Part::Host, "esx-01", 0.1, Severity::Fine),
            block(Part::Host, "esx-02", 0.9, Severity::Bad),
            block(Part::Guest, "vm-01", 0.0, Severity::Fine),
        ];
        View { blocks, ..View::default() }
    }

    fn texts(screen: &Screen, view: &View) -> Vec<String> {
        screen.rows(view).iter().map(|row| row.text.to_string()).collect()
    }

    fn keys(screen: &mut Screen, view: &View, keys: &[KeyCode]) -> bool {
        keys.iter().any(|key| {
            let nodes: Vec<Option<(Part, String)>> = screen
                .rows(view)
                .iter()
                .map(|row| row.node.map(|(part, name)| (part, name.into())))
                .collect();
            screen.press(KeyEvent::from(*key), &nodes, 3)
        })
    }

    #[test]
    fn lines_are_sorted_filtered_and_opened() {
        let (mut screen, view) = (Screen::default(), view());
        let all =
            ["esx-01", "  gpu of esx-01", "esx-02", "  gpu of esx-02", "guests", "vm-01", "  gpu of vm-01"];
        assert_eq!(texts(&screen, &view), all);
        keys(&mut screen, &view, &[KeyCode::Char('s')]);
        assert_eq!(texts(&screen, &view)[..3], ["esx-02", "  gpu of esx-02", "esx-01"]);
        keys(&mut screen, &view, &[KeyCode::Char('s'), KeyCode::Char('s'), KeyCode::Char('p')]);
        assert_eq!(texts(&screen, &view), ["esx-02", "  gpu of esx-02"]);
        keys(&mut screen, &view, &[KeyCode::Esc, KeyCode::Char('/'), KeyCode::Char('V'), KeyCode::Char('m')]);
        assert_eq!(texts(&screen, &view), ["guests", "vm-01", "  gpu of vm-01"]);
        assert!(screen.foot().starts_with("/Vm_"));
        // A heading opens nothing; a GPU's line opens its node.
        keys(&mut screen, &view, &[KeyCode::Enter, KeyCode::Enter]);
        assert_eq!(screen.open, None);
        keys(&mut screen, &view, &[KeyCode::End, KeyCode::Enter]);
        assert_eq!(screen.open, Some((Part::Guest, "vm-01".into())));
        assert!(
            !keys(&mut screen, &view, &[KeyCode::Esc, KeyCode::Esc]),
            "the first goes back, the second clears"
        );
        assert!(screen.open.is_none() && screen.filter.is_empty());
        assert!(keys(&mut screen, &view, &[KeyCode::Esc]), "and the third leaves");
    }

    #[test]
    fn the_chosen_line_is_always_on_the_screen() {
        let (mut screen, view) = (Screen::default(), view());
        for (key, text) in [
            (KeyCode::PageDown, "  gpu of esx-02"),
            (KeyCode::End, "  gpu of vm-01"),
            (KeyCode::Home, "esx-01"),
        ] {
            keys(&mut screen, &view, &[key]);
            let (rows, ..) = screen.shown(screen.rows(&view), 3);
            let chosen: Vec<&str> = rows.iter().filter(|row| row.chosen).map(|row| row.text).collect();
            assert_eq!((rows.len(), chosen.as_slice()), (3, [text].as_slice()));
        }
    }
}
