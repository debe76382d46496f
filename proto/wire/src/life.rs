//! How long a certificate lives, and from when on somebody has to be told that it ends. Pure: times are
//! seconds since 1970.

/// From the first to the last second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Life {
    /// When it begins.
    pub begins: u64,
    /// When it ends.
    pub ends: u64,
}

const DAY: u64 = 86_400;
/// Lives longer than this are renewed by hand, and a person is told these many days ahead.
const LONG: u64 = 90 * DAY;
const AHEAD: [u64; 3] = [1, 7, 30];

/// What is to be said of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It has ended.
    Ended,
    /// It ends within so many days (1, 7 or 30), and has so many seconds left.
    Soon(u64, u64),
    /// It lives shortly, and less than a third of that is left: whatever renews it does not.
    Overdue(u64),
}

impl Life {
    /// What is to be said at this moment, if anything.
    pub fn due(self, now: u64) -> Option<Due> {
        let left = self.ends.saturating_sub(now);
        if left == 0 {
            return Some(Due::Ended);
        }
        let life = self.ends.saturating_sub(self.begins);
        if life > LONG {
            return AHEAD.into_iter().find(|days| left <= days * DAY).map(|days| Due::Soon(days, left));
        }
        (left < life / 3).then_some(Due::Overdue(left))
    }
}

impl std::fmt::Display for Due {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let left = |secs: u64| match secs {
            0..=119 => format!("{secs} seconds"),
            120..=7_199 => format!("{} minutes", secs / 60),
            7_200..=172_799 => format!("{} hours", secs / 3_600),
            _ => format!("{} days", secs / DAY),
        };
        match self {
            Self::Ended => f.write_str("has ended"),
            Self::Soon(_, secs) => write!(f, "ends in {}", left(*secs)),
            Self::Overdue(secs) => write!(f, "ends in {} and should have been renewed by now", left(*secs)),
        }
    }
}

/// `2026-11-24 07:10 UTC`.
pub fn date(secs: u64) -> String {
    let at = i64::try_from(secs).ok().and_then(|secs| time::OffsetDateTime::from_unix_timestamp(secs).ok());
    at.map_or_else(
        || format!("{secs} s after 1970"),
        |t| {
            format!(
                "{}-{:02}-{:02} {:02}:{:02} UTC",
                t.year(),
                u8::from(t.month()),
                t.day(),
                t.hour(),
                t.minute()
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_told_in_time_and_not_earlier() {
        let year = Life { begins: 0, ends: 365 * DAY };
        let before = |days: u64| year.due(year.ends - days * DAY);
        assert_eq!((before(31), before(200)), (None, None));
        assert_eq!(before(30), Some(Due::Soon(30, 30 * DAY)));
        assert_eq!(before(8), Some(Due::Soon(30, 8 * DAY)));
        assert_eq!(before(7), Some(Due::Soon(7, 7 * DAY)));
        assert_eq!(before(1).map(|due| due.to_string()).as_deref(), Some("ends in 24 hours"));
        assert_eq!(year.due(year.ends), Some(Due::Ended));
        assert_eq!(year.due(year.ends + 9), Some(Due::Ended));
        // One that lives a day is renewed by a program.
        let day = Life { begins: 0, ends: DAY };
        assert_eq!((day.due(DAY / 2), day.due(DAY * 2 / 3)), (None, None));
        assert!(matches!(day.due(DAY * 2 / 3 + 60), Some(Due::Overdue(_))));
    }
}
