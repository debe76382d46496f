//! What happened at one time on several machines: times of log lines, brought to one clock by what the
//! machines' own clocks said when they were looked at. Two logs that tell of trouble within seconds tell of
//! one trouble.

use crate::inventory::Inventory;
use crate::node::{NodeId, NodeKind};
use schemars::JsonSchema;
use serde::Serialize;
use time::{Date, Month, PrimitiveDateTime, Time};
use vsgpu_core::diagnosis::Finding;
use vsgpu_guest_agent::facts::Clock;

/// Two lines within so many seconds belong together.
const TOGETHER_SECS: f64 = 30.0;

/// Two causes that showed at one time, on two machines or in two logs.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Together {
    /// The first, and the log it stands in.
    pub first: String,
    pub first_in: String,
    /// What followed.
    pub then: String,
    pub then_in: String,
    /// Seconds between them, by one clock.
    pub seconds: f64,
}

/// Seconds since 1970 that a line begins with: `2026-11-01T10:00:00.123Z`, with an offset, or `1763471234.123456`.
/// A time without a year or a zone says nothing to another machine.
pub fn seconds(line: &str) -> Option<f64> {
    let line = line.trim_start();
    let word = line.split_whitespace().next()?.trim_start_matches('[').trim_end_matches(']');
    if let Some((whole, part)) = word.split_once('.')
        && whole.len() == 10
        && whole.bytes().chain(part.bytes()).all(|b| b.is_ascii_digit())
    {
        return word.parse().ok();
    }
    let number = |range: std::ops::Range<usize>| word.get(range)?.parse::<u32>().ok();
    let sign = |at: usize, c: u8| (word.as_bytes().get(at) == Some(&c)).then_some(());
    sign(4, b'-').and(sign(7, b'-')).and(sign(10, b'T')).and(sign(13, b':')).and(sign(16, b':'))?;
    let month = Month::try_from(u8::try_from(number(5..7)?).ok()?).ok()?;
    let date =
        Date::from_calendar_date(number(0..4)?.cast_signed(), month, number(8..10)?.try_into().ok()?).ok()?;
    let (hour, minute) = (number(11..13)?.try_into().ok()?, number(14..16)?.try_into().ok()?);
    let time = Time::from_hms(hour, minute, number(17..19)?.try_into().ok()?).ok()?;
    let rest = word.get(19..)?;
    let digits =
        rest.strip_prefix(['.', ',']).map_or(0, |part| part.bytes().take_while(u8::is_ascii_digit).count());
    let fraction: f64 = if digits > 0 { format!("0.{}", &rest[1..=digits]).parse().ok()? } else { 0.0 };
    let zone = &rest[if digits > 0 { digits + 1 } else { 0 }..];
    let minutes = |text: &str| -> Option<i64> {
        let (hours, minutes) = text.split_once(':').or_else(|| text.split_at_checked(2))?;
        Some(hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?)
    };
    let offset = match zone.as_bytes().first()? {
        b'Z' => 0,
        b'+' => minutes(zone.get(1..6).or_else(|| zone.get(1..5))?)?,
        b'-' => -minutes(zone.get(1..6).or_else(|| zone.get(1..5))?)?,
        _ => return None,
    };
    let whole = PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp() - offset * 60;
    Some(whole as f64 + fraction)
}

/// Seconds that a machine's clock is ahead of ours; 0 where nobody asked it.
pub fn ahead(inventory: &Inventory, node: &NodeId) -> f64 {
    if inventory.at == 0 || node.kind != NodeKind::Guest {
        return 0.0;
    }
    inventory.fact::<Clock>(node).map_or(0.0, |clock| clock.now as f64 - inventory.at as f64)
}

/// A finding with the times of its lines, by one clock.
pub struct Timed {
    pub cause: String,
    pub log: String,
    pub at: f64,
}

/// The last line of a finding that has a time: what is so now, not what began it long ago.
pub fn timed(finding: &Finding, ahead: f64) -> Option<Timed> {
    let last = finding.evidence.iter().filter_map(|e| Some((seconds(&e.line)?, &e.text)));
    let (at, log) = last.max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(Timed { cause: finding.cause.clone(), log: log.clone(), at: at - ahead })
}

/// Pairs of different logs, the closest first.
pub fn together(mut all: Vec<Timed>) -> Vec<Together> {
    all.sort_by(|a, b| a.at.total_cmp(&b.at));
    let mut found: Vec<Together> = vec![];
    for (at, first) in all.iter().enumerate() {
        for then in all[at + 1..].iter().take_while(|then| then.at - first.at <= TOGETHER_SECS) {
            if first.log == then.log || first.cause == then.cause {
                continue;
            }
            found.push(Together {
                first: first.cause.clone(),
                first_in: first.log.clone(),
                then: then.cause.clone(),
                then_in: then.log.clone(),
                seconds: ((then.at - first.at) * 10.0).round() / 10.0,
            });
        }
    }
    found.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    found.truncate(MOST);
    found
}

/// Pairs that are kept of one VM.
const MOST: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_all_logs_are_one_clock() {
        assert_eq!(seconds("2026-11-01T10:00:00.500Z cpu3: NVRM: Xid"), Some(1_793_527_200.5));
        assert_eq!(seconds("2026-11-01T12:00:00.500+02:00 vmx"), seconds("2026-11-01T10:00:00.500Z"));
        assert_eq!(seconds("2026-11-01T12:00:00+0200 vmx"), Some(1_793_527_200.0));
        assert_eq!(seconds("1793527200.500000 vm kernel: NVRM: Xid"), Some(1_793_527_200.5));
        for none in [
            "Nov  1 10:00:00 vm kernel: x",
            "",
            "[   12.34] NVRM",
            "2026-13-01T10:00:00Z",
            "2026-11-01T10:00:00 x",
        ] {
            assert_eq!(seconds(none), None, "{none}");
        }
    }

    #[test]
    fn what_happens_within_seconds_on_two_machines_is_told_together() {
        let one = |cause: &str, log: &str, at: f64| Timed { cause: cause.into(), log: log.into(), at };
        let all = together(vec![
            one("rm-init", "kernel log of vm-01", 104.0),
            one("fallen-off", "vmkernel.log of esx-01", 100.0),
            one("old", "vmkernel.log of esx-01", 10.0),
            one("other", "vmkernel.log of esx-01", 101.0),
        ]);
        let shown: Vec<_> = all.iter().map(|t| (t.first.as_str(), t.then.as_str(), t.seconds)).collect();
        assert_eq!(shown, [("other", "rm-init", 3.0), ("fallen-off", "rm-init", 4.0)]);
    }
}
