//! Doing one effect on a machine, and saying why it failed in the tool's own words.

use crate::effect::{Command, Effect, reload};
use crate::readers::{key_value, vmx};
use crate::system::{ExitKind, IoError, KEEP_MODE, Output, System};
use crate::text::hides;
use serde_json::{Value, json};
use std::time::Duration;

const READ_LIMIT: usize = 1 << 20;

/// An effect that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct EffectError {
    /// Why, with the tool's own words.
    pub why: String,
    /// The failing command's answer.
    pub output: Option<Output>,
}

impl From<String> for EffectError {
    fn from(why: String) -> Self {
        Self { why, output: None }
    }
}

/// Does one effect.
///
/// # Errors
/// Why it failed, with the tool's own words.
pub fn act(system: &dyn System, effect: &Effect) -> Result<(), EffectError> {
    let run = |command: &Command, already: Option<&str>| {
        let output = system.run(command);
        if (output.ok() && !command.dialect().denies(&output))
            || already.is_some_and(|text| output.both().contains(text))
        {
            Ok(())
        } else {
            Err(EffectError { why: command.failure(&output), output: Some(output) })
        }
    };
    let words = |trouble: IoError| EffectError::from(trouble.to_string());
    if let Some(done) = system.by_api(effect) {
        return done.map_err(EffectError::from);
    }
    match effect {
        Effect::Run { command, already } => run(command, already.as_deref()),
        Effect::Require { command, shows, otherwise } => match system.run(command) {
            output if output.ok() && output.stdout.contains(shows.as_str()) => Ok(()),
            output => Err(format!("{otherwise} ({})", command.failure(&output)).into()),
        },
        Effect::RunUntil { command, done, shows, deadline_secs, otherwise, give_up } => {
            let started = run(command, None);
            let start = system.elapsed();
            loop {
                // Looked at even where the command failed: one that was cut off at its deadline may have come
                // through.
                if system.run(done).stdout.contains(shows.as_str()) {
                    return Ok(());
                }
                // One that was cut off at its deadline may only be slow: hostd goes on with it.
                let hopeless = started.as_ref().is_err_and(|b| {
                    !matches!(b.output.as_ref().map(|o| &o.ended), Some(ExitKind::TimedOut(_)))
                });
                if hopeless || system.elapsed() - start >= Duration::from_secs((*deadline_secs).into()) {
                    break;
                }
                system.sleep(Duration::from_secs(1));
            }
            let ended = match (otherwise, started) {
                (Some(last), _) => run(last, None),
                (None, Err(why)) => Err(why),
                (None, Ok(())) => Err(format!(
                    "`{command}` ran, but `{done}` did not show \"{shows}\" within {deadline_secs} s"
                )
                .into()),
            };
            if let (Err(_), Some(command)) = (&ended, give_up) {
                // The first failure is the one that tells something.
                drop(system.run(command));
            }
            ended
        }
        Effect::Write { path, contents, .. } if hides(contents) => {
            Err(format!("{path}: a password would be lost: nothing was written").into())
        }
        Effect::Write { path, contents, mode } => {
            system.write(path, contents.as_bytes(), *mode).map_err(words)
        }
        Effect::Copy { from, to, mode } => system.copy(from, to, *mode).map_err(words),
        Effect::ReconfigureVm { path, vmid, set } => {
            let before = system.read(path, READ_LIMIT).map_err(words)?;
            let after = vmx::edit(&before, set);
            if after != before {
                system.write(&format!("{path}.before-vsgpu"), &before, 0o600).map_err(words)?;
                system.write(path, &after, 0o755).map_err(words)?;
            }
            // Also where nothing was to write: hostd may not have read what an earlier try wrote.
            vmid.map_or(Ok(()), |vmid| run(&reload(vmid), None))
        }
        Effect::DeriveVmx { from, to, set } => {
            let base = system.read(from, READ_LIMIT).map_err(words)?;
            system.write(to, &vmx::edit(&base, set), 0o755).map_err(words)
        }
        Effect::CloneVm { .. }
        | Effect::Evacuate { .. }
        | Effect::SetDrsOptions { .. }
        | Effect::AddToImage { .. }
        | Effect::Remediate { .. } => {
            Err("only vCenter does this, and this host is not reached by it".to_string().into())
        }
        Effect::EditLines { path, section, set } => {
            let before = match system.read(path, READ_LIMIT) {
                // Lines that are not ours stay as they are, byte by byte.
                Ok(bytes) => String::from_utf8(bytes)
                    .map_err(|_| format!("{path} is not UTF-8: edit it by hand, or convert it"))?,
                Err(IoError::NotFound(_)) => String::new(),
                Err(trouble) => return Err(words(trouble)),
            };
            let after = key_value::set(&before, section.as_deref(), set);
            if after == before {
                Ok(())
            } else {
                system.write(path, after.as_bytes(), KEEP_MODE).map_err(words)
            }
        }
        Effect::Remove { path } => system.remove(path).map_err(words),
        Effect::Record { commands, path, beside } => {
            let outputs: Vec<Value> = commands
                .iter()
                .map(|c| json!({ "command": c.to_string(), "output": system.run(c) }))
                .collect();
            let kept = system.read(beside, READ_LIMIT).ok().map(|b| String::from_utf8_lossy(&b).into_owned());
            let record = json!({ "version": 1, "at": system.now(), "boot_id": system.boot_id().map_err(words)?, "beside": kept, "outputs": outputs });
            system.write(path, record.to_string().as_bytes(), 0o644).map_err(words)
        }
    }
}
