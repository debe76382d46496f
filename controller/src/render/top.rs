//! The live view in a terminal: drawn by a library that sends only what changed, so that it is quiet over
//! ssh. What the keys do is `top_screen`'s.

use crate::monitoring::top::{FleetSummary, Line, Part, Severity, View, detail, view};
use crate::render::top_screen::{HELP, Screen};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Row, Text};
use ratatui::widgets::Paragraph;
use std::sync::Arc;
use std::time::Duration;

/// What is shown now: the newest look at the fleet, or a line on why there is none yet.
pub type Next = Result<Arc<FleetSummary>, [String; 2]>;

/// Shows it until the operator leaves. `next`: the newest, asked between keys.
///
/// # Errors
/// Where the terminal cannot be used.
pub fn show(mut next: impl FnMut() -> Next) -> std::io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let mut screen = Screen::default();
    // Colours are obeyed here as everywhere.
    let colours = !matches!(anstream::AutoStream::choice(&std::io::stdout()), anstream::ColorChoice::Never);
    let mut made: Option<(Arc<FleetSummary>, usize, View)> = None;
    let ended = loop {
        let (seen, width) = (next(), terminal.size().map_or(80, |size| size.width.into()));
        // A fleet of thousands is not laid out anew for each key.
        made = match (&seen, made.take()) {
            (Ok(seen), Some(old)) if Arc::ptr_eq(seen, &old.0) && old.1 == width => Some(old),
            (Ok(seen), _) => Some((seen.clone(), width, view(seen, width))),
            (Err(_), _) => None,
        };
        let waiting;
        let now = match (&made, &seen) {
            (Some((.., now)), _) => now,
            (None, Err(head)) => {
                waiting = View { head: head.clone(), ..View::default() };
                &waiting
            }
            (None, Ok(_)) => continue,
        };
        let rows = screen.rows(now);
        let nodes: Vec<Option<(Part, String)>> =
            rows.iter().map(|row| row.node.map(|(part, name)| (part, name.to_string()))).collect();
        let (mut height, mut at_most) = (0, usize::MAX);
        let drawn = terminal.draw(|frame| {
            // A small window has better use for its rows.
            let plain = !screen.help && screen.open.is_none() && frame.area().height >= 12;
            let columns = if plain { now.columns.as_slice() } else { &[] };
            let [head, names, body, foot] = Layout::vertical([
                Constraint::Length(2),
                Constraint::Length(columns.len() as u16),
                Constraint::Min(1),
                Constraint::Length(1),
            ])
            .areas(frame.area());
            let faint = Style::new().add_modifier(Modifier::DIM);
            let text = |lines: &[String], style: Style| {
                Paragraph::new(Text::from(
                    lines.iter().map(|l| Row::styled(l.clone(), style)).collect::<Vec<_>>(),
                ))
            };
            frame.render_widget(text(columns, faint), names);
            frame.render_widget(text(&now.head, Style::new().add_modifier(Modifier::BOLD)), head);
            height = body.height as usize;
            let mut place = String::new();
            let lines: Vec<Row> = if screen.help {
                HELP.iter().map(|line| Row::raw(*line)).collect()
            } else if let (Some((part, name)), Ok(seen)) = (&screen.open, &seen) {
                let styled = |l: Line| Row::styled(l.text, style(l.mood, colours, false));
                let all = detail(seen, *part, name, width);
                let most = all.len().saturating_sub(height);
                let from = screen.scrolled.min(most);
                if most > 0 {
                    place = format!("   {}-{} of {}", from + 1, (from + height).min(all.len()), all.len());
                }
                at_most = most;
                all.into_iter().skip(from).take(height).map(styled).collect()
            } else {
                let (shown, before, all) = screen.shown(rows.clone(), height);
                if all > height {
                    place = format!("   {}-{} of {all}", before + 1, before + shown.len());
                }
                shown.iter().map(|r| Row::styled(r.text, style(r.mood, colours, r.chosen))).collect()
            };
            frame.render_widget(Paragraph::new(lines), body);
            frame.render_widget(Paragraph::new(format!("{}{place}", screen.foot())), foot);
        });
        // What has scrolled to its end goes back with the next key.
        screen.scrolled = screen.scrolled.min(at_most);
        if let Err(why) = drawn {
            break Err(why);
        }
        match event::poll(Duration::from_millis(250))
            .and_then(|any| if any { event::read().map(Some) } else { Ok(None) })
        {
            Err(why) => break Err(why),
            Ok(Some(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                if screen.press(key, &nodes, height) {
                    break Ok(());
                }
            }
            // A change of size is drawn by the next turn.
            Ok(_) => {}
        }
    };
    ratatui::restore();
    ended
}

/// Words say it already; colour only helps to find them.
fn style(mood: Severity, colours: bool, chosen: bool) -> Style {
    let style = match (mood, colours) {
        (Severity::Fine, _) => Style::new(),
        (Severity::Doubt, true) => Style::new().fg(Color::Yellow),
        (Severity::Bad, true) => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        (_, false) => Style::new().add_modifier(Modifier::BOLD),
    };
    if chosen { style.add_modifier(Modifier::REVERSED) } else { style }
}
