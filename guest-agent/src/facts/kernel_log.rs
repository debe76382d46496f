//! The kernel's log of the running boot, with times: what the driver's module says about the hardware.

use vsgpu_core::Command;

/// Lines of the log that are read.
const LINES: &str = "4000";

/// `SECONDS.MICROSECONDS HOST kernel: TEXT` on each line.
pub(crate) fn command() -> Command {
    Command::new("journalctl", ["-k", "-b", "-n", LINES, "-o", "short-unix", "--no-pager"])
}

/// One line: when, and what.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (u64, &str)> {
    text.lines().filter_map(|line| {
        let (at, rest) = line.split_once(' ')?;
        let said = rest.split_once("kernel: ")?.1;
        Some((at.split('.').next()?.parse().ok()?, said))
    })
}

/// What was said from then on. The journal's clock is the machine's own.
pub(crate) fn since(text: &str, since: u64) -> String {
    // A second of grace: times are cut to seconds.
    lines(text).filter(|(at, _)| at + 1 >= since).map(|(_, said)| said).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_a_time_and_words() {
        let text = "-- Journal begins --\n1700000000.123456 vm-01 kernel: NVRM: old\n1700000100.000001 vm-01 kernel: NVRM: new\n";
        assert_eq!(since(text, 1_700_000_050), "NVRM: new");
        assert_eq!(lines(text).count(), 2);
    }
}
