//! What to do: the page of every hold and error, and of every alert. Each text has one source.

use super::{made_from, sections};
use std::fmt::Write as _;
use vsgpu::error::Kind;
use vsgpu::render::explain;

/// What to do about each alert.
const RUNBOOKS: &str = include_str!("../alerts.md");
const ALERTS: &str = include_str!("../../../monitoring/alerts.yaml");

/// Every code with its page, the holds first.
pub fn errors() -> String {
    let pages = explain::pages();
    let made = made_from("`controller/src/hold.rs` and `controller/src/render/explain.md`");
    let (holds, others): (Vec<_>, Vec<_>) = pages.iter().partition(|(code, _)| explain::hold(code).is_some());
    let mut text = format!(
        "# Holds and errors\n\n{made}\nEvery error reads `error[CODE]: ..`; `vsgpu explain CODE` prints what stands here. Exit codes: \
         [operations.md](operations.md#exit-codes).\n\n- [Holds](#holds): why a run has left a node alone\n- [Other errors](#other-errors)\n\n\
         ## Holds\n\n`vsgpu status` shows which node is held, with the word and the reason. The next `vsgpu apply` reads a held node \
         again, except where it says below that a person must release it first. A word can also be the code of an error.\n"
    );
    for (code, page) in holds {
        of_page(&mut text, code, page);
        if explain::hold(code).is_some_and(|hold| hold.needs_release()) {
            let _ = write!(text, "\nIt waits for `vsgpu release NODE`.\n");
        }
    }
    text += "\n## Other errors\n";
    for (code, page) in others {
        of_page(&mut text, code, page);
    }
    text
}

/// Every cause that `diagnose` knows, by stage.
pub fn causes() -> String {
    let made = made_from("`proto/core/src/diagnosis/known`");
    let mut text = format!(
        "# Causes that `vsgpu diagnose` knows\n\n{made}\n`vsgpu explain CAUSE` prints what stands here. Behind each source: A is a \
         vendor's document or source code, B a maintainer or several reports, C one report. How to use it: \
         [diagnose.md](diagnose.md).\n"
    );
    let mut stage = None;
    for (cause, page) in explain::causes() {
        if stage != Some(cause.stage) {
            stage = Some(cause.stage);
            let mut word = cause.stage.word().to_string();
            if let Some(first) = word.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            let _ = write!(text, "\n## {word}\n");
        }
        let _ = write!(text, "\n### {}\n\n", cause.id);
        for line in page.lines() {
            let _ = match line.strip_prefix("Do: ") {
                Some(what) => writeln!(text, "- {what}"),
                None => write!(text, "\n{line}\n"),
            };
        }
    }
    // Blank lines only where a paragraph begins.
    while text.contains("\n\n\n") {
        text = text.replace("\n\n\n", "\n\n");
    }
    text
}

fn of_page(text: &mut String, code: &str, page: &str) {
    let kinds = [Kind::Internal, Kind::Usage, Kind::Differs, Kind::Unreachable, Kind::Failed, Kind::Blocked];
    let _ = write!(text, "\n### {code}\n");
    for line in page.lines() {
        let _ = match line.strip_prefix("Do: ") {
            Some(what) => write!(text, "\n**Do:** {what}\n"),
            None => write!(text, "\n{line}\n"),
        };
    }
    if let Some(kind) = kinds.into_iter().find(|kind| kind.code() == code) {
        let _ = write!(
            text,
            "\nErrors without a narrower code have this one where the exit status is {}.\n",
            kind.status()
        );
    }
}

/// An alert, as its file has it.
struct Alert {
    name: String,
    lines: Vec<(String, String)>,
}

impl Alert {
    fn get(&self, key: &str) -> &str {
        self.lines.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    fn severity(&self) -> String {
        self.get("labels").trim_matches(['{', '}', ' ']).replace("severity: ", "")
    }

    fn after(&self) -> String {
        match self.get("for") {
            "" => "at once".into(),
            time => format!("after {time}"),
        }
    }
}

fn alerts_of(text: &str) -> Vec<Alert> {
    let mut all: Vec<Alert> = vec![];
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix("- alert: ") {
            all.push(Alert { name: name.into(), lines: vec![] });
        } else if let (Some(alert), Some((key, value))) = (all.last_mut(), line.split_once(": ")) {
            alert.lines.push((key.into(), value.into()));
        }
    }
    all
}

/// Every alert: what it says, when it fires, what to do.
pub fn alerts() -> Result<String, String> {
    let opening = "What each alert of `packaging/monitoring/alerts.yaml` says, when it fires, and what to do. How alerts are set up: \
                   [monitoring.md](monitoring.md#alerts).\n\n*(ops)*: typed where `vsgpu apply` is typed, in the folder of the fleet \
                   file. *(host)*, *(VM)*: on the node, as root. At night read [how to apply with care](operations.md#at-night) first; \
                   \"plan and apply\" below means that way.\n";
    let made = made_from("`packaging/monitoring/alerts.yaml` and `packaging/xtask/src/alerts.md`");
    let mut text = format!("# Alerts\n\n{made}\n{opening}");
    let alerts = alerts_of(ALERTS);
    text += "\n| alert | severity | fires |\n|---|---|---|\n";
    for alert in &alerts {
        let _ = writeln!(
            text,
            "| [{}](#{}) | {} | {} |",
            alert.name,
            alert.name.to_lowercase(),
            alert.severity(),
            alert.after()
        );
    }
    for alert in &alerts {
        let (_, what) = sections(RUNBOOKS)
            .find(|(name, _)| *name == alert.name)
            .ok_or(format!("alerts.md has no section {}", alert.name))?;
        let summary = alert.get("summary").trim_matches('"').replace("\\\"", "\"");
        let _ = write!(
            text,
            "\n## {}\n\n- {}, {}\n- says: `{summary}`\n- fires on: `{}`\n\n{what}\n",
            alert.name,
            alert.severity(),
            alert.after(),
            alert.get("expr")
        );
    }
    match sections(RUNBOOKS).find(|(name, _)| !alerts.iter().any(|alert| alert.name == *name)) {
        None => Ok(text),
        Some((name, _)) => Err(format!("alerts.md has a section {name}, and there is no such alert")),
    }
}
