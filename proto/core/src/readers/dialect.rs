//! How a tool says that it failed: some lie about their exit status, and each has a place of its own for the
//! reason. A new tool that does either is one more arm here; whatever runs commands asks the command
//! (`Command::dialect`) and names no tool.

use crate::effect::Command;
use crate::observation::head;
use crate::readers::{esxcli, vim_cmd};
use crate::system::Output;

/// How one tool speaks.
pub trait Dialect: Sync {
    /// Whether the output says that it failed, whatever the exit status is.
    fn denies(&self, _output: &Output) -> bool {
        false
    }
    /// The reason, where it can be told from the output: a class, where there is one, and a sentence.
    fn reason(&self, output: &Output) -> Option<(Option<String>, String)> {
        esxcli::refusal(&output.both()).map(|refusal| (refusal.class, refusal.text))
    }
}

/// Tools that speak as POSIX wants it, and esxcli, whose refusals begin with a class in brackets.
struct Plain;

impl Dialect for Plain {}

/// vim-cmd answers some failures with exit status 0, and prints hostd's fault as an object.
struct VimCmd;

impl Dialect for VimCmd {
    fn denies(&self, output: &Output) -> bool {
        output.stdout.lines().any(|l| l.contains(" failed: ") || l.starts_with("Failed to"))
    }
    fn reason(&self, output: &Output) -> Option<(Option<String>, String)> {
        let fault = vim_cmd::fault(&output.both()).map(|fault| (fault.fault, fault.text));
        fault.or_else(|| Plain.reason(output))
    }
}

impl Command {
    /// How its program says that it failed.
    pub fn dialect(&self) -> &'static dyn Dialect {
        match self.program.as_str() {
            "vim-cmd" => &VimCmd,
            _ => &Plain,
        }
    }

    /// Why it is counted as failed, with the tool's own words.
    pub fn failure(&self, output: &Output) -> String {
        let classed = |(class, text): (Option<String>, String)| {
            class.map(|c| format!("[{c}] ")).unwrap_or_default() + &text
        };
        let words =
            self.dialect().reason(output).map_or_else(|| head(&output.both()).replace('\n', " | "), classed);
        format!("`{self}`: {}{}{words}", output.ended, if words.is_empty() { "" } else { ": " })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::ExitKind;

    #[test]
    fn a_tool_that_lies_about_its_exit_status_is_not_believed() {
        let said = |stdout: &str| Output {
            ended: ExitKind::Status(0),
            stdout: stdout.into(),
            stderr: String::new(),
        };
        let (on, ls) = (Command::new("vim-cmd", ["vmsvc/power.on", "7"]), Command::new("ls", ["/"]));
        assert!(
            on.dialect()
                .denies(&said("Powering on VM:\nPower on failed: (vim.fault.InvalidPowerState) {\n}\n"))
        );
        assert!(!on.dialect().denies(&said("Powering on VM:\n")));
        assert!(!ls.dialect().denies(&said("a file that failed: x")));
    }
}
