//! A real terminal for a program: tmux's, with its size, its keys, its colours.

use super::{free_port, wait_until};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Longest wait for anything on a screen.
const PATIENCE: Duration = Duration::from_secs(90);

/// A program in a terminal of its own. Dropped, both are gone.
pub struct Terminal {
    server: String,
}

/// tmux, where it is (Debian's package tmux).
pub fn why_not() -> Option<String> {
    let here = Command::new("tmux").arg("-V").stdout(Stdio::null()).status().is_ok_and(|s| s.success());
    (!here).then(|| "tmux is not here".into())
}

impl Terminal {
    /// Starts a program with its folder and its environment.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Self {
        let this = Self { server: format!("vsgpu-{}-{}", std::process::id(), free_port()) };
        let word = |word: &std::ffi::OsStr| vsgpu_core::effect::quoted(&word.to_string_lossy());
        let mut line = String::from("trap : INT; env");
        for (name, value) in command.get_envs() {
            line += &match value {
                Some(value) => format!(" {}={}", name.to_string_lossy(), word(value)),
                None => format!(" -u {}", name.to_string_lossy()),
            };
        }
        line += &format!(" {}", word(command.get_program()));
        line = command.get_args().fold(line, |line, arg| format!("{line} {}", word(arg)));
        line += &format!("; echo $? >{}", word(this.status().as_os_str()));
        let folder = command.get_current_dir().map_or_else(std::env::temp_dir, Into::into);
        let (rows, columns) = (rows.to_string(), columns.to_string());
        // The first session sets the options, the second has the program: options come before what they are
        // about.
        this.tmux(&["new-session", "-d", "-s", "first", "-x", &columns, "-y", &rows, "sleep 600"]);
        this.tmux(&["set", "-g", "remain-on-exit", "on"]);
        this.tmux(&["set", "-g", "status", "off"]);
        this.tmux(&["set", "-g", "default-terminal", "xterm-256color"]);
        let folder = folder.display().to_string();
        this.tmux(&["new-session", "-d", "-s", "it", "-x", &columns, "-y", &rows, "-c", &folder, &line]);
        this
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-f", "/dev/null", "-L", &self.server])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What is on the screen now.
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-t", "it"])
    }

    /// All that was ever shown, with colours.
    pub fn all(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e", "-J", "-S", "-", "-t", "it"])
    }

    /// Waits until a text is on the screen.
    pub fn wait_for(&self, text: &str) {
        let mut last = String::new();
        let seen = |last: &mut String| {
            *last = self.all();
            last.contains(text)
        };
        let end = std::time::Instant::now() + PATIENCE;
        while !seen(&mut last) {
            assert!(std::time::Instant::now() < end, "`{text}` was never shown\n{last}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Types keys, as tmux names them: `y`, `Enter`, `C-c`.
    pub fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys", "-t", "it"], keys].concat());
    }

    /// Makes the window another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.tmux(&["resize-window", "-t", "it", "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }

    /// Waits until the program has ended: its exit status, and all that it showed, with colours.
    pub fn end(&self) -> (Option<i32>, String) {
        let status = || std::fs::read_to_string(self.status()).ok().and_then(|text| text.trim().parse().ok());
        wait_until("the program in the terminal ends", PATIENCE, || status().is_some());
        (status(), self.all())
    }

    /// Where the program's exit status is written to: tmux itself does not always know it.
    fn status(&self) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("{}.status", self.server))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.server, "kill-server"]).stderr(Stdio::null()).status();
        let _ = std::fs::remove_file(self.status());
    }
}
