//! Asking esxcli: in XML first, and in the plain form where a release (or a stand-in) does not offer XML.

use vsgpu_core::esxcli::{self, Record};
use vsgpu_core::{Command, Ended, Evidence, Probe, Unreadable};

fn xml(args: &[&str]) -> Command {
    Command::new("esxcli", ["--formatter=xml"].iter().chain(args).copied())
}

fn plain(args: &[&str]) -> Command {
    Command::new("esxcli", args.iter().copied())
}

/// The probes for one question.
pub(crate) fn probes(args: &[&str], seen: &Evidence) -> Vec<Probe> {
    let mut probes = vec![Probe::Run(xml(args))];
    // Only an esxcli that answered and refused is asked again; a missing or hanging one would do the same.
    if seen.output(&xml(args)).is_ok_and(|o| matches!(o.ended, Ended::Status(s) if s != 0)) {
        probes.push(Probe::Run(plain(args)));
    }
    probes
}

/// The answer, whichever form it came in.
pub(crate) fn answer(args: &[&str], seen: &Evidence) -> Result<Vec<Record>, Unreadable> {
    let command = match seen.output(&plain(args)) {
        Ok(_) => plain(args),
        Err(_) => xml(args),
    };
    let output = seen.output(&command)?;
    let refused = esxcli::refusal(&output.both());
    if !output.ok() || refused.is_some() {
        let why = refused.map_or_else(|| "esxcli failed".to_string(), |r| r.class.map(|c| format!("[{c}] ")).unwrap_or_default() + &r.text);
        return Err(Unreadable::of(&command, output, why));
    }
    if output.stdout.trim().is_empty() {
        return Ok(vec![]);
    }
    esxcli::read(&output.stdout).map_err(|why| Unreadable::of(&command, output, why))
}

/// The single block of an answer.
pub(crate) fn single(args: &[&str], seen: &Evidence) -> Result<Record, Unreadable> {
    answer(args, seen)?.into_iter().next().ok_or_else(|| Unreadable::new(format!("`{}` answered nothing", plain(args))))
}

/// A field that must be there.
pub(crate) fn need(record: &Record, name: &str, args: &[&str]) -> Result<String, Unreadable> {
    record.need(name).map(String::from).map_err(|why| Unreadable::new(format!("`{}`: {why}", plain(args))))
}
