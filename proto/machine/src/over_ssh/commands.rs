//! Programs of a machine over ssh. A short one is run while the session lasts. A long one (an installation)
//! is started in the background there and looked after from here: a cut connection costs nothing but time,
//! and an agent that is started anew finds what still runs. It leaves its output and its end in a folder on
//! the host's ramdisk, so a reboot clears it away.

use crate::child::Input;
use crate::local::FOLDERS;
use crate::over_ssh::machine::{FILE, OverSsh, random};
use crate::ssh::ScriptError;
use std::sync::PoisonError;
use std::time::Duration;
use vsgpu_core::effect::{MAX_OUTPUT, quoted};
use vsgpu_core::{Command, ExitKind, IoError, Output, System as _};

/// Where long commands leave what they say.
const RUNNING: &str = "/var/run/vsgpu/remote";
/// Seconds from which on a command is run in the background.
const LONG: u32 = 61;
/// Seconds for one look at a long command; it is looked at once a second there.
const LOOK: u32 = 3;

impl OverSsh {
    /// Runs a command to its end, its deadline or its bound on output.
    pub(super) fn run_there(&self, command: &Command) -> Output {
        match self.start(command) {
            Err(why) => plain(ExitKind::Broken(why.to_string())),
            // A visitor stays until the end; only a serving agent may come back.
            Ok(start) if command.timeout_secs >= LONG && self.gateway.is_some() => self.long(&start, command),
            Ok(start) => self.short(&start, command),
        }
    }

    /// A long command that an earlier, killed agent left running.
    pub(super) fn still_running(&self) -> Option<String> {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Who cannot look must not think that nothing runs.
        let unknown = || Some("what may run on the host, which does not answer".to_string());
        let names = match self.list(RUNNING) {
            Ok(names) => names,
            Err(IoError::NotFound(_)) => return None,
            Err(_) => return unknown(),
        };
        names.into_iter().filter(|name| !own.contains(name)).find_map(|name| {
            let folder = self.word(&format!("{RUNNING}/{name}")).ok()?;
            let Ok(said) = self.script(RUNNING, &tidy(&folder), Input::Nothing, FILE) else {
                return unknown();
            };
            let text = String::from_utf8_lossy(&said.stdout).into_owned();
            Some(text.strip_prefix("runs ")?.trim().to_string())
        })
    }

    /// What stands before a program: where programs are looked for, and its environment.
    fn start(&self, command: &Command) -> Result<String, IoError> {
        let missing = self.ssh.end("missing");
        let below = |folder: &str| format!("{}{folder}", self.root);
        let folders = command.also.iter().map(String::as_str).chain(FOLDERS).map(below);
        let path: Vec<String> = self.tools.iter().cloned().chain(folders).collect();
        let path = quoted(&path.join(":"));
        let find = if command.program.starts_with('/') {
            let program = self.word(&command.program)?;
            format!("c={program}; [ -x \"$c\" ] || {missing}\n")
        } else if command.program.contains('/') {
            format!("{missing}\n")
        } else {
            format!("c=$(PATH={path}; command -v {}) || {missing}\n", quoted(&command.program))
        };
        let env: String =
            command.env.iter().map(|(name, value)| format!("{name}={} ", quoted(value))).collect();
        let args: String = command.args.iter().map(|arg| format!(" {}", quoted(arg))).collect();
        Ok(format!("{find}r() {{ umask 022; LC_ALL=C LANG=C {env}PATH={path} \"$c\"{args}; }}\n"))
    }

    fn short(&self, start: &str, command: &Command) -> Output {
        match self.owned(&format!("{start}r </dev/null"), Input::Nothing, command.timeout_secs) {
            Ok(said) => output(&said.end, &said.stdout, &said.stderr),
            Err(lost) => ended(lost),
        }
    }

    fn long(&self, start: &str, command: &Command) -> Output {
        let name = random();
        let folder = quoted(&format!("{}{RUNNING}/{name}", self.root));
        // Whoever makes `started` decides: the command before it is run, or somebody who tidies up, and then
        // it never is.
        let begin = format!(
            "d={folder}; mkdir -p \"$d\" || {nowhere}\nprintf '%s\\n' {shown} >\"$d/command\"\n{start}\n\
             (trap '' HUP; sh -c \"echo \\$PPID $$\" >\"$d/process\" && mkdir \"$d/started\" || exit 1\n\
             r </dev/null >\"$d/out\" 2>\"$d/err\"; echo $? >\"$d/end.new\"; mv \"$d/end.new\" \"$d/end\") </dev/null >/dev/null 2>&1 &\n\
             while [ ! -d \"$d/started\" ] && kill -0 $! 2>/dev/null; do :; done; [ -d \"$d/started\" ]",
            shown = quoted(&command.to_string()),
            nowhere = self.ssh.end("nowhere"),
        );
        self.own.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        let output = self.begin_and_wait(&begin, &folder, command.timeout_secs);
        // A machine that is away now is cleared by its reboot, or by the next agent.
        let _ = self.owned(&tidy(&folder), Input::Nothing, FILE);
        self.own.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        output
    }

    fn begin_and_wait(&self, begin: &str, folder: &str, within: u32) -> Output {
        let deadline = self.elapsed() + Duration::from_secs(within.into());
        // Whatever becomes of the session, what it began is not ended with it.
        match self.owned_as(begin, Input::Nothing, FILE, true) {
            Ok(said) if said.end == "0" => {}
            Ok(said) => return output(&said.end, &said.stdout, &said.stderr),
            // Cut while it was begun: whether it runs is seen below.
            Err(ScriptError::TimedOut(_) | ScriptError::Flooded(_)) => {}
            Err(lost @ ScriptError::Unreachable(_)) => {
                // Was it begun? Where nobody can say, it is left alone: it is found, and waited for, before
                // anything else is done.
                let begun = self.owned(
                    &format!("[ -d {folder} ] && ! mkdir {folder}/started 2>/dev/null"),
                    Input::Nothing,
                    FILE,
                );
                if !matches!(begun, Ok(said) if said.end == "0") {
                    return ended(lost);
                }
            }
        }
        let wait = format!(
            "d={folder}; i=0; read -r p g <\"$d/process\" || {gone}\n\
             while [ ! -f \"$d/end\" ] && [ $i -lt {LOOK} ]; do kill -0 $p 2>/dev/null || break; sleep 1; i=$((i+1)); \
             [ $(($(wc -c <\"$d/out\") + $(wc -c <\"$d/err\"))) -gt {MAX_OUTPUT} ] && {{ kill -9 -$g $p 2>/dev/null; {flooded}; }}; done\n\
             if [ ! -f \"$d/end\" ]; then kill -0 $p 2>/dev/null && {running}; [ -f \"$d/end\" ] || {gone}; fi\n\
             read -r e <\"$d/end\"; [ -n \"$e\" ] || {gone}\n\
             [ $(($(wc -c <\"$d/out\") + $(wc -c <\"$d/err\"))) -gt {MAX_OUTPUT} ] && {flooded}\n\
             cat \"$d/out\"; cat \"$d/err\" >&2; (exit $e)",
            gone = self.ssh.end("gone"),
            running = self.ssh.end("running"),
            flooded = self.ssh.end("flooded"),
        );
        loop {
            match self.owned(&wait, Input::Nothing, LOOK + FILE) {
                Ok(said) if said.end == "running" => {}
                Ok(said) => return output(&said.end, &said.stdout, &said.stderr),
                Err(ScriptError::Flooded(bytes)) => return plain(ExitKind::Flooded(bytes)),
                // The host reboots, or the network is away: it is asked again until the deadline.
                Err(_) => std::thread::sleep(Duration::from_secs(2)),
            }
            if self.elapsed() > deadline {
                let kill =
                    format!("read -r p g <{folder}/process; kill -9 -$g 2>/dev/null; kill -9 $p 2>/dev/null");
                let _ = self.owned(&kill, Input::Nothing, FILE);
                return plain(ExitKind::TimedOut(within));
            }
        }
    }
}

/// Takes away what is over, and says what is not: a command that runs stays. One that was not begun will not
/// be.
fn tidy(folder: &str) -> String {
    // Moved away first: half of a folder must not look like one in which nothing was begun.
    format!(
        "d={folder}; away() {{ mv \"$d\" \"${{d%/*}}.$$\" && rm -rf \"${{d%/*}}.$$\"; }}\n\
         if [ ! -d \"$d\" ]; then :; elif mkdir \"$d/started\" 2>/dev/null || [ -f \"$d/end\" ]; then away; \
         elif read -r p g <\"$d/process\" && kill -0 $p 2>/dev/null; then printf 'runs '; cat \"$d/command\"; else away; fi"
    )
}

fn plain(ended: ExitKind) -> Output {
    Output { ended, stdout: String::new(), stderr: String::new() }
}

/// How a command ended, by the word its script ended with.
fn output(end: &str, stdout: &[u8], stderr: &[u8]) -> Output {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let ended = match (end, end.parse::<i32>()) {
        ("missing", _) => ExitKind::Missing,
        ("flooded", _) => ExitKind::Flooded(MAX_OUTPUT),
        ("nowhere", _) => ExitKind::Broken(format!("{RUNNING} cannot be made on the host")),
        ("gone", _) => ExitKind::Broken(
            "it was ended on the host, or the host was started anew; how it ended is not known".into(),
        ),
        (_, Ok(signal @ 129..=192)) => ExitKind::Signal(signal - 128),
        (_, Ok(status)) => ExitKind::Status(status),
        (other, Err(_)) => ExitKind::Broken(format!("it ended with `{other}`")),
    };
    Output { ended, stdout: text(stdout), stderr: text(stderr) }
}

fn ended(lost: ScriptError) -> Output {
    plain(match lost {
        ScriptError::Unreachable(why) => ExitKind::Broken(why),
        ScriptError::TimedOut(secs) => ExitKind::TimedOut(secs),
        ScriptError::Flooded(bytes) => ExitKind::Flooded(bytes),
    })
}
