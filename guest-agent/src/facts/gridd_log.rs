//! Reads what nvidia-gridd writes: how its last attempt ended, and why in words that tell what to do
//! (facts: guests "License messages"; facts: failures F20 to F23).

use serde::Serialize;
use vsgpu_core::Command;
use vsgpu_core::diagnosis::{Input, Source, first_cause};
use vsgpu_core::requirement::Explained;

/// The end of the daemon's log.
pub(crate) fn journal() -> Command {
    Command::new("journalctl", ["-u", "nvidia-gridd", "-n", "50", "--no-pager", "-o", "cat"])
}

/// What the license daemon's log ends with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GriddOutcome {
    /// `licensed`, `failed`, `returned`, `acquiring` or `unknown`: the last decisive line wins.
    pub outcome: &'static str,
    /// Product it was about.
    pub product: Option<String>,
    /// The decisive line of a failure.
    pub reason: Option<String>,
}

pub fn gridd_outcome(text: &str) -> GriddOutcome {
    let mut last = GriddOutcome { outcome: "unknown", product: None, reason: None };
    // A missing gridd.conf is harmless with NLS, so `Failed to open` decides nothing.
    let failures = [
        "Failed to acquire license",
        "Failed to return license",
        "Failed to setup",
        "Failed to decode",
        "Failed to read configurations",
        "Failed to register client",
        "Unable to fetch the client configuration token",
        "Invalid feature type",
        "Configuration parameter ( ServerAddress FeatureType) not set",
        "Failed to update local trusted store",
        "clock windback",
    ];
    for line in text.lines() {
        // What an earlier daemon said is over.
        let outcome = if line.contains("Started (") {
            "unknown"
        } else if line.contains("License acquired successfully") {
            "licensed"
        } else if line.contains("License returned successfully") {
            "returned"
        } else if line.contains("Acquiring license") {
            "acquiring"
        } else if failures.iter().any(|f| line.contains(f)) {
            "failed"
        } else {
            continue;
        };
        let said = line
            .split("nvidia-gridd[")
            .last()
            .and_then(|l| l.split_once("]: "))
            .map_or(line, |(_, said)| said)
            .trim();
        // `(Info: SERVER, PRODUCT; Expiry: ...)` or `(Info: SERVER; PRODUCT)`.
        let info = line.split_once("(Info: ").map(|(_, info)| info.trim_end_matches(')'));
        let product = info.filter(|_| outcome != "returned").and_then(|info| {
            info.split([';', ',']).map(str::trim).find(|part| {
                let part = part.split(" - Error").next().unwrap_or_default();
                (part.starts_with("NVIDIA") || part.starts_with("GRID") || part.starts_with("Quadro"))
                    && !part.contains("://")
            })
        });
        let product = product.map(|p| p.split(" - Error").next().unwrap_or(p).to_string());
        last = GriddOutcome { outcome, product, reason: (outcome == "failed").then(|| said.to_string()) };
    }
    last
}

/// The cause behind a reason, and what to do.
pub(crate) fn cause(reason: &str) -> Option<Explained> {
    let input = Input { name: "nvidia-gridd".into(), text: reason, sources: vec![Source::Gridd] };
    first_cause(&[input]).map(|(_, explained)| explained)
}

/// Whether a reason is about the clock: then a restart of the daemon brings nothing.
pub(crate) fn is_clock(reason: &str) -> bool {
    ["allowed time to process response has expired", "lock windback"].iter().any(|n| reason.contains(n))
}

/// Whether a reason stays until somebody changes the token or the configuration: asking again brings nothing.
pub(crate) fn stays(reason: &str) -> bool {
    let for_good =
        ["Failed to decode", "Unable to fetch the client configuration token", "Invalid feature type"];
    for_good.iter().any(|n| reason.contains(n))
}

/// End of a license, from its status: `Licensed (Expiry: 2027-1-2 3:4:5 GMT)`, parts not padded. Seconds
/// since 1970.
pub(crate) fn expiry(status: &str) -> Option<u64> {
    let text = status.split_once("Expiry: ")?.1.trim_end_matches(')');
    let (date, rest) = text.split_once(' ')?;
    let numbers =
        |text: &str, by: char| text.split(by).map(|n| n.parse::<u32>().ok()).collect::<Option<Vec<u32>>>();
    let (date, clock) = (numbers(date, '-')?, numbers(rest.split(' ').next()?, ':')?);
    let ([year, month, day], [hour, minute, second]) = (&date[..], &clock[..]) else { return None };
    let small = |n: u32| u8::try_from(n).ok();
    let day = time::Date::from_calendar_date(
        i32::try_from(*year).ok()?,
        time::Month::try_from(small(*month)?).ok()?,
        small(*day)?,
    )
    .ok()?;
    let clock = time::Time::from_hms(small(*hour)?, small(*minute)?, small(*second)?).ok()?;
    u64::try_from(day.with_time(clock).assume_utc().unix_timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody told the daemon anything: that is the reason, until a license was acquired after it.
    #[test]
    fn a_daemon_that_was_told_nothing_says_so() {
        let told = "Started (900)\nConfiguration parameter ( ServerAddress FeatureType) not set\nValid GRID license not found. GPU features and performance are restricted.\n";
        let reason = gridd_outcome(told).reason.unwrap_or_default();
        assert!(reason.contains("ServerAddress"), "{reason}");
        assert!(cause(&reason).is_some_and(|e| e.fix.contains("license")), "{:?}", cause(&reason));
        let later =
            format!("{told}License acquired successfully. (Info: x, NVIDIA RTX Virtual Workstation)\n");
        assert_eq!(gridd_outcome(&later).outcome, "licensed");
    }

    #[test]
    fn reasons_have_causes() {
        for (reason, word) in [
            (
                "Failed to acquire license from api.cls.licensing.nvidia.com (Info: NVIDIA RTX Virtual Workstation - Error: No pool features found for : X)",
                "no license of that product",
            ),
            (
                "Failed to acquire license from 10.0.0.1 (Info: X - Error: Generic network communication failure)",
                "not reached",
            ),
            ("Failed to decode signature from token received", "token"),
            ("Failed to acquire license from X (Info: X - Error: Clock windback has been detected)", "clock"),
            (
                "Failed to acquire license from X (Info: X - Error: The allowed time to process response has expired)",
                "clocks",
            ),
            ("Unable to fetch the client configuration token file", "no token"),
            ("Failed to register client (2)", "does not take"),
        ] {
            assert!(cause(reason).is_some_and(|e| e.cause.contains(word)), "{reason}: {:?}", cause(reason));
        }
        assert_eq!(cause("something else"), None);
    }

    #[test]
    fn an_end_is_read_without_padding() {
        assert_eq!(expiry("Licensed (Expiry: 2027-1-2 3:4:5 GMT)"), Some(1_798_859_045));
        for none in [
            "Licensed (Expiry: N/A)",
            "Licensed",
            "Licensed (Expiry: 2027-13-2 3:4:5 GMT)",
            "Licensed (Expiry: x)",
            "Unlicensed",
        ] {
            assert_eq!(expiry(none), None, "{none}");
        }
    }
}
