//! Questions to esxcli: in XML first, and in the plain form where a release (or a stand-in) does not offer
//! XML. Here they are only written down; `proto/machine` runs every command, local or over ssh.

use vsgpu_core::readers::esxcli::{self, Record};
use vsgpu_core::{Command, ExitKind, Observation, Probe, Unreadable};

pub(crate) fn xml(args: &[&str]) -> Command {
    Command::new("esxcli", ["--formatter=xml"].iter().chain(args).copied())
}

fn plain(args: &[&str]) -> Command {
    Command::new("esxcli", args.iter().copied())
}

/// Whether there is no esxcli at all.
pub(crate) fn is_missing(system: &dyn vsgpu_core::System) -> bool {
    system.run(&xml(&["system", "version", "get"]).within(10)).ended == ExitKind::Missing
}

/// The probes for one question.
pub(crate) fn probes(args: &[&str], seen: &Observation) -> Vec<Probe> {
    let mut probes = vec![Probe::Run(xml(args))];
    // Only an esxcli that answered and refused is asked again; a missing or hanging one would do the same.
    if seen.output(&xml(args)).is_ok_and(|o| matches!(o.ended, ExitKind::Status(s) if s != 0)) {
        probes.push(Probe::Run(plain(args)));
    }
    probes
}

/// Whether the vSphere API answers for the host, and has no answer.
pub(crate) fn is_without_answer(args: &[&str], seen: &Observation) -> bool {
    seen.output(&xml(args)).is_ok_and(|output| matches!(output.ended, ExitKind::ByApi(_)))
}

/// The answer, whichever form it came in.
pub(crate) fn answer(args: &[&str], seen: &Observation) -> Result<Vec<Record>, Unreadable> {
    let command = asked(args, seen);
    let output = seen.output(&command)?;
    let refused = esxcli::refusal(&output.both());
    if !output.ok() || refused.is_some() {
        let why = match (&output.ended, refused) {
            (ExitKind::ByApi(why), _) => why.clone(),
            (_, Some(r)) => r.class.map(|c| format!("[{c}] ")).unwrap_or_default() + &r.text,
            (_, None) => "esxcli failed".to_string(),
        };
        return Err(Unreadable::of(&command, output, why));
    }
    if output.stdout.trim().is_empty() {
        return Ok(vec![]);
    }
    esxcli::read(&output.stdout).map_err(|why| Unreadable::of(&command, output, why))
}

/// The answer, read further; what is wrong with it is said with the command and its words.
pub(crate) fn parsed<T>(
    args: &[&str],
    seen: &Observation,
    read: impl FnOnce(&[Record]) -> Result<T, String>,
) -> Result<T, Unreadable> {
    let records = answer(args, seen)?;
    read(&records).map_err(|why| {
        let command = asked(args, seen);
        match seen.output(&command) {
            Ok(output) => Unreadable::of(&command, output, why),
            Err(unreadable) => unreadable,
        }
    })
}

/// The same for an answer of one block.
pub(crate) fn single<T>(
    args: &[&str],
    seen: &Observation,
    read: impl FnOnce(&Record) -> Result<T, String>,
) -> Result<T, Unreadable> {
    parsed(args, seen, |records| read(records.first().ok_or("the answer is empty")?))
}

/// The form of the question that was answered last.
fn asked(args: &[&str], seen: &Observation) -> Command {
    if seen.output(&plain(args)).is_ok() { plain(args) } else { xml(args) }
}
