//! A user's own program, in the foreground: it has the user's terminal and environment, no deadline, and no
//! bound on its output. Only for what a user starts himself; nothing of ours is run like this.

use std::io::{Error, ErrorKind};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command as Process};
use vsgpu_core::ExitKind;

/// What the shell says of a program that is not there, and of one that cannot be started.
pub const NOT_FOUND: u8 = 127;
/// See `NOT_FOUND`.
pub const NOT_STARTED: u8 = 126;

/// It runs.
pub struct Foreground(Child);

impl Foreground {
    /// Starts it. `env`: set in its environment; `without`: taken out of it.
    ///
    /// # Errors
    /// An exit status for our own program, and a sentence.
    #[expect(clippy::disallowed_methods, reason = "a door: the one for users' own programs")]
    pub fn start(
        command: &[String],
        env: &[(String, String)],
        without: &[String],
    ) -> Result<Self, (u8, String)> {
        let (program, args) = command.split_first().ok_or((NOT_FOUND, "there is no program".to_string()))?;
        let mut process = Process::new(program);
        process.args(args);
        for name in without {
            process.env_remove(name);
        }
        process.envs(env.iter().map(|(name, value)| (name, value)));
        let why = |error: Error| match error.kind() {
            ErrorKind::NotFound => (NOT_FOUND, format!("{program}: no such program")),
            _ => (NOT_STARTED, format!("{program}: {error}")),
        };
        process.spawn().map(Self).map_err(why)
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// Waits for its end.
    pub fn wait(mut self) -> ExitKind {
        match self.0.wait() {
            Ok(status) => status
                .code()
                .map_or_else(|| ExitKind::Signal(status.signal().unwrap_or_default()), ExitKind::Status),
            Err(why) => ExitKind::Broken(why.to_string()),
        }
    }
}
