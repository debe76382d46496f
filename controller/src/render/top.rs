//! The live view in a terminal: drawn by a library that sends only what changed, so that it is quiet over
//! ssh. Keys: arrows or j and k, page up and down, `p` for what needs a person only, `q` to leave.

use crate::monitoring::top::{Line, Severity, View};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Row, Text};
use ratatui::widgets::Paragraph;
use std::time::Duration;

const KEYS: &str = "q leaves   arrows scroll   p only what needs a person";

/// Shows views until the operator leaves. `next`: the newest view, asked between keys.
///
/// # Errors
/// Where the terminal cannot be used.
pub fn show(mut next: impl FnMut() -> View) -> std::io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let (mut from, mut only_bad) = (0, false);
    // Colours are obeyed here as everywhere.
    let colours = !matches!(anstream::AutoStream::choice(&std::io::stdout()), anstream::ColorChoice::Never);
    let ended = loop {
        let view = next();
        let lines: Vec<&Line> = view.lines.iter().filter(|l| !only_bad || l.mood != Severity::Fine).collect();
        let mut rows = 0;
        let drawn = terminal.draw(|frame| {
            // A small window has better use for its rows.
            let columns = if frame.area().height >= 12 { view.columns.as_slice() } else { &[] };
            let [head, names, body, foot] = Layout::vertical([
                Constraint::Length(2),
                Constraint::Length(columns.len() as u16),
                Constraint::Min(1),
                Constraint::Length(1),
            ])
            .areas(frame.area());
            let faint = Style::new().add_modifier(Modifier::DIM);
            frame.render_widget(
                Paragraph::new(Text::from(
                    columns.iter().map(|l| Row::styled(l.as_str(), faint)).collect::<Vec<_>>(),
                )),
                names,
            );
            rows = body.height as usize;
            from = from.min(lines.len().saturating_sub(rows));
            let bold = Style::new().add_modifier(Modifier::BOLD);
            frame.render_widget(
                Paragraph::new(Text::from(
                    view.head.each_ref().map(|l| Row::styled(l.as_str(), bold)).to_vec(),
                )),
                head,
            );
            let shown: Vec<Row> = lines
                .iter()
                .skip(from)
                .take(rows)
                .map(|l| Row::styled(l.text.as_str(), style(l.mood, colours)))
                .collect();
            frame.render_widget(Paragraph::new(shown), body);
            let place = if lines.len() > rows {
                format!("{KEYS}   {}-{} of {}", from + 1, (from + rows).min(lines.len()), lines.len())
            } else {
                KEYS.into()
            };
            frame.render_widget(Paragraph::new(place), foot);
        });
        if let Err(why) = drawn {
            break Err(why);
        }
        match event::poll(Duration::from_millis(250))
            .and_then(|any| if any { event::read().map(Some) } else { Ok(None) })
        {
            Err(why) => break Err(why),
            Ok(Some(Event::Key(key))) if key.kind != KeyEventKind::Release => match key.code {
                KeyCode::Char('q') | KeyCode::Esc => break Ok(()),
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => break Ok(()),
                KeyCode::Char('p') => (only_bad, from) = (!only_bad, 0),
                KeyCode::Up | KeyCode::Char('k') => from = from.saturating_sub(1),
                KeyCode::Down | KeyCode::Char('j') => from += 1,
                KeyCode::PageUp => from = from.saturating_sub(rows),
                KeyCode::PageDown => from += rows,
                KeyCode::Home => from = 0,
                KeyCode::End => from = usize::MAX / 2,
                _ => {}
            },
            // A change of size is drawn by the next turn.
            Ok(_) => {}
        }
    };
    ratatui::restore();
    ended
}

/// Words say it already; colour only helps to find them.
fn style(mood: Severity, colours: bool) -> Style {
    match (mood, colours) {
        (Severity::Fine, _) => Style::new(),
        (Severity::Doubt, true) => Style::new().fg(Color::Yellow),
        (Severity::Bad, true) => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        (_, false) => Style::new().add_modifier(Modifier::BOLD),
    }
}
