//! Where in a trace a call belongs: `traceparent` of W3C's Trace Context, version 00. The controller names
//! the run and the step, the agent writes both into its log, so that a line of `journalctl` or of a host's
//! syslog is found from a trace and the other way round.

/// A run (its trace, 32 hexadecimal digits) and a step of it (its span, 16).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceParent {
    /// The run's trace.
    pub trace: String,
    /// The step's span.
    pub span: String,
}

impl std::fmt::Display for TraceParent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "00-{}-{}-01", self.trace, self.span)
    }
}

impl TraceParent {
    /// Nothing where the text is none: a trace is a help, and no reason to refuse a step.
    pub fn parse(text: &str) -> Option<Self> {
        let [_, trace, span, _] = *text.split('-').collect::<Vec<_>>().first_chunk::<4>()?;
        let hex = |part: &str, digits: usize| {
            part.len() == digits
                && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
                && part.bytes().any(|b| b != b'0')
        };
        (hex(trace, 32) && hex(span, 16)).then(|| Self { trace: trace.into(), span: span.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let parent =
            TraceParent { trace: "4bf92f3577b34da6a3ce929d0e0e4736".into(), span: "00f067aa0ba902b7".into() };
        assert_eq!(TraceParent::parse(&parent.to_string()), Some(parent));
        for wrong in [
            "",
            "00",
            "00-x-y-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf9\n-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(wrong), None, "{wrong:?}");
        }
    }
}
