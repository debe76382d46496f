//! What the client of VMware Bitfusion (2.0 to 4.5, past its end of life) prints and keeps: whether GPUs were
//! granted, why they were not, and which servers it knows. No program of VMware can be had any more, so only
//! what public records show is read; a line that is not known is left alone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest output that is read: the client says everything of interest at its start.
const MOST_BYTES: usize = 256 << 10;
/// Servers of one file: a cluster has three or a few more.
const MOST_SERVERS: usize = 64;

/// What a call of the client came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Said {
    /// GPUs were locked for it: the one line that says so.
    pub granted: Option<Granted>,
    /// Version of the server that serves it: `4.0.0-639f4163`.
    pub server_version: Option<String>,
    /// Minutes after which an idle client loses its GPUs; 0: never.
    pub idle_timeout_min: Option<u32>,
    /// Why nothing was granted.
    pub failure: Option<Failure>,
    /// What it warned of, without its time.
    pub warnings: Vec<String>,
}

/// GPUs that were locked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Granted {
    /// How many.
    pub gpus: u32,
    /// Part of the memory of each, as it is printed: `0.5`, `1`.
    pub part: String,
    /// Memory of each, MiB, where it was said.
    pub memory_mib: Option<u64>,
    /// `ADDRESS:PORT` of the server, where it was said.
    pub server: Option<String>,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum Failure {
    /// The year of its token is over.
    TokenExpired {
        /// When, as it is printed.
        at: String,
    },
    /// A server was reached and did not answer the question who this is.
    NotKnown {
        /// `ADDRESS:PORT`.
        server: String,
    },
    /// A server was not reached.
    Unreachable {
        /// `ADDRESS:PORT`.
        server: String,
    },
    /// The client cannot write the file in which it notes the servers that it reached.
    ReadOnly {
        /// The file.
        file: String,
    },
    /// Another error, in its own words.
    Other {
        /// Them.
        text: String,
    },
}

impl Failure {
    /// What is wrong, and what to do.
    pub fn explained(&self) -> (String, String) {
        match self {
            Self::TokenExpired { at } => (
                format!("the Bitfusion token of this client expired at {at}"),
                "in vCenter, Bitfusion, Tokens: extend it and apply again, or make a new one and name its archive in `tokens`".into(),
            ),
            Self::NotKnown { server } => (
                format!("{server} does not know this client, or does not answer in time"),
                "its token is of another Bitfusion cluster or was withdrawn: in vCenter, Bitfusion, Tokens, make a new one, and name its archive in `tokens`".into(),
            ),
            Self::Unreachable { server } => (
                format!("{server} is not reached"),
                "let this VM reach each Bitfusion server: TCP 56001, 55001, and 45201 and above for the data".into(),
            ),
            Self::ReadOnly { file } => (
                format!("the Bitfusion client cannot write {file}"),
                "it notes there which servers it reached: put the file on a file system that can be written".into(),
            ),
            Self::Other { text } => {
                (text.clone(), "`bitfusion health` on this VM says more; its servers' logs are in vCenter, Bitfusion".into())
            }
        }
    }
}

/// `[LEVEL] TIME text`: the level, and the text. The client has no other form; lines of the user's program
/// look otherwise.
fn logged(line: &str) -> Option<(&str, &str)> {
    let (level, rest) = line.trim_start().strip_prefix('[')?.split_once("] ")?;
    let known = ["INFO", "WARN", "ERROR", "DEBUG", "FATAL"].contains(&level);
    let (_, text) = rest.split_once(' ')?;
    known.then(|| (level, text.trim()))
}

/// The word behind a text.
fn word_behind<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    let word = text.split_once(before)?.1.split_whitespace().next()?;
    Some(word.trim_end_matches([':', ',', ';']))
}

/// What an output says: both of its streams, in any order.
pub fn read(text: &str) -> Said {
    let mut said = Said::default();
    let (mut memory_mib, mut server, mut errors, mut program_runs) = (None, None, vec![], false);
    let mut cut = text.len().min(MOST_BYTES);
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    for line in text[..cut].lines() {
        // What runs on the GPUs prints what it likes: none of it is the client's.
        let of_client = logged(line);
        if program_runs && of_client.is_none() {
            continue;
        }
        let (level, text) = of_client.unwrap_or(("", line.trim()));
        // Glued to the end of a warning, too.
        if let Some(at) = text.find("Error: ").filter(|_| level != "INFO") {
            errors.push(text[at + "Error: ".len()..].trim().to_string());
        }
        if let Some(at) =
            text.strip_prefix("Token expired at: ").or_else(|| Some(text.split_once("Token expired at: ")?.1))
        {
            said.failure = Some(Failure::TokenExpired { at: at.trim().into() });
        }
        if level == "WARN" {
            warned(text, &mut said);
        }
        if let Some(minutes) = word_behind(text, "Client idle timeout: ") {
            said.idle_timeout_min = minutes.parse().ok();
        }
        if text.starts_with("Requesting GPUs [") {
            memory_mib = word_behind(text, "] with ").and_then(|n| n.parse().ok());
        }
        if let Some(list) = text.strip_prefix("Server List: ") {
            server = list.split([',', ' ']).next().map(str::to_string);
        }
        if let Some(rest) = text.strip_prefix("Locked ")
            && let Some(gpus) = rest.split(' ').next().and_then(|n| n.parse().ok())
        {
            let part = word_behind(rest, "partial memory ").unwrap_or("1").to_string();
            said.granted = Some(Granted { gpus, part, memory_mib, server: server.clone() });
        }
        program_runs |= text.starts_with("Running client command ");
        if program_runs && said.server_version.is_none() {
            said.server_version = version_of_server(text);
        }
    }
    if said.granted.is_some() {
        // A server that was not reached is no failure where another one granted.
        said.failure = None;
    } else if let (None, Some(text)) = (&said.failure, errors.into_iter().next()) {
        said.failure = Some(Failure::Other { text });
    }
    said
}

/// A warning, and the cause in it where it is known. The first known cause stays.
fn warned(text: &str, said: &mut Said) {
    let text = text.split(" Error: ").next().unwrap_or(text);
    if said.warnings.len() < 20 {
        said.warnings.push(text.into());
    }
    let contacted = word_behind(text, "Error contacting server ").map(str::to_string);
    let cause = match contacted {
        Some(server) if text.ends_with("context deadline exceeded") => Some(Failure::NotKnown { server }),
        Some(server) if text.contains("dial tcp") => Some(Failure::Unreachable { server }),
        _ if text.ends_with("read-only file system") && text.starts_with("Failed to parse ") => {
            word_behind(text, "Failed to parse ").map(|file| Failure::ReadOnly { file: file.into() })
        }
        _ => None,
    };
    said.failure = said.failure.take().or(cause);
}

/// `192.168.1.100 55001 UUID 56001 2.5.0-fd3e4839`: the last word of a server's line.
fn version_of_server(text: &str) -> Option<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        [_, dispatcher, _, port, version]
            if [dispatcher, port].iter().all(|p| p.parse::<u16>().is_ok())
                && version.starts_with(|c: char| c.is_ascii_digit()) =>
        {
            Some((*version).into())
        }
        _ => None,
    }
}

/// Servers of a `servers.conf`, `ADDRESS:PORT`: those it names, and those that the client notes as reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Servers {
    /// Below `addresses:`.
    pub addresses: Vec<String>,
    /// Behind `reachable:`.
    pub reachable: Vec<String>,
}

/// Reads a `servers.conf` line by line. It looks like YAML, and the client 3.5 writes `-
/// reachable:ADDRESS:PORT`, which is none: so it is not read as YAML.
///
/// # Errors
/// The line that is neither, and a file without a server.
pub fn servers(text: &str) -> Result<Servers, String> {
    let mut found = Servers::default();
    let mut below = "";
    for (at, line) in text.lines().enumerate() {
        let wrong = |why: &str| format!("servers.conf, line {}: {why}", at + 1);
        let bare = line.split(" #").next().unwrap_or_default().trim();
        if bare.is_empty() || bare.starts_with('#') || bare == "---" {
            continue;
        }
        let bare = bare.strip_prefix('-').map_or(bare, str::trim_start);
        let list = match bare {
            "servers:" => continue,
            "addresses:" | "reachable:" => {
                below = bare.trim_end_matches(':');
                continue;
            }
            _ => match bare.strip_prefix("reachable:") {
                Some(rest) => ("reachable", rest.trim()),
                None => (below, bare),
            },
        };
        let address = list.1.trim_matches(['"', '\'']);
        let port = address
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty())
            .and_then(|(_, p)| p.parse::<u16>().ok());
        if port.is_none_or(|port| port == 0) || address.contains(char::is_whitespace) {
            return Err(wrong(&format!("`{bare}` is no `ADDRESS:PORT`")));
        }
        let into = match list.0 {
            "addresses" => &mut found.addresses,
            "reachable" => &mut found.reachable,
            _ => return Err(wrong("an address stands below `addresses:` or behind `reachable:`")),
        };
        if into.len() >= MOST_SERVERS {
            return Err(wrong(&format!("more than {MOST_SERVERS} servers")));
        }
        if !into.iter().any(|known| known == address) {
            into.push(address.into());
        }
    }
    if found.addresses.is_empty() {
        return Err("servers.conf: no server below `addresses:`".into());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANTED: &str = "[INFO] 2024-05-02T10:00:00Z Query server 10.0.0.5:56001 gpu availability\n\
        [INFO] 2024-05-02T10:00:01Z Requesting GPUs [0] with 4040 MiB of memory from server 0, with version 4.5.0-0a1b2c3d...\n\
        Requested resources:\nServer List: 10.0.0.5:56001\nClient idle timeout: 30 min\n\
        [INFO] 2024-05-02T10:00:01Z Locked 2 GPUs with partial memory 0.25, configuration saved to '/tmp/bitfusion1'\n\
        [INFO] 2024-05-02T10:00:01Z Running client command 'python x.py' on 2 GPUs, with the following servers:\n\
        [INFO] 2024-05-02T10:00:01Z 10.0.0.5 55001 5f0c0000-0000-4000-8000-000000000000 56001 4.5.0-0a1b2c3d\n\
        Error: the program's own\nToken expired at: the program's own\n";

    #[test]
    fn granted_with_all_that_is_said_of_it() {
        let said = read(GRANTED);
        let wanted = Granted {
            gpus: 2,
            part: "0.25".into(),
            memory_mib: Some(4040),
            server: Some("10.0.0.5:56001".into()),
        };
        assert_eq!(said.granted, Some(wanted));
        assert_eq!(
            (said.server_version.as_deref(), said.idle_timeout_min),
            (Some("4.5.0-0a1b2c3d"), Some(30))
        );
        assert_eq!((said.failure, said.warnings.len()), (None, 0));
    }

    #[test]
    fn each_failure_has_its_cause_and_what_to_do() {
        for (text, says, hint) in [
            (
                "[ERROR] 2024-05-02T10:00:00Z Token expired at: 2024-04-01 08:00:00 +0000 UTC\n",
                "expired at 2024-04-01",
                "extend",
            ),
            (
                "[WARN] 2024-05-02T10:00:00Z Error contacting server 10.0.0.5:56001 to verify client id: Get x: context deadline exceeded\nError: none of the servers responded\n",
                "10.0.0.5:56001 does not know",
                "another Bitfusion cluster",
            ),
            (
                "[WARN] 2024-05-02T10:00:00Z Error contacting server 10.0.0.5:56001 to verify client id: Get x: context deadline exceeded Error: none of the servers\n",
                "10.0.0.5:56001 does not know",
                "another Bitfusion cluster",
            ),
            (
                "[WARN] t Error contacting server 10.0.0.5:56001 to verify client id: Get x: dial tcp 10.0.0.5:56001: i/o timeout\nError: none\n",
                "10.0.0.5:56001 is not reached",
                "55001",
            ),
            (
                "[WARN] t Failed to parse /home/ada/.bitfusion/servers.conf: open x: read-only file system\nError: none\n",
                "cannot write /home/ada/.bitfusion/servers.conf",
                "can be written",
            ),
            ("Error: no GPUs of that size\n", "no GPUs of that size", "bitfusion health"),
        ] {
            let failure = read(text).failure.unwrap_or_else(|| panic!("{text}"));
            let (what, todo) = failure.explained();
            assert!(what.contains(says) && todo.contains(hint), "{text}: {what} / {todo}");
        }
        assert_eq!(read("").failure, None);
        // One server is away, another one grants.
        let away = "[WARN] t Error contacting server 10.0.0.4:56001 to verify client id: dial tcp 10.0.0.4:56001: i/o timeout\n";
        assert_eq!(read(&format!("{away}{GRANTED}")).failure, None);
    }

    #[test]
    fn servers_in_both_forms() {
        let yaml = "servers:\n- addresses:\n  - 10.0.0.5:56001\n  - 10.0.0.6:56001\n";
        assert_eq!(servers(yaml).map(|s| s.addresses.len()), Ok(2));
        let noted = "servers:\n- reachable:10.0.0.5:56001\n  addresses:\n  - 10.0.0.5:56001\n  - gpu.example:56001 # two\n";
        let read = servers(noted).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(read.reachable, ["10.0.0.5:56001"]);
        assert_eq!(read.addresses, ["10.0.0.5:56001", "gpu.example:56001"]);
        for wrong in
            ["", "servers:\n", "servers:\n- addresses:\n  - 10.0.0.5\n", "- 10.0.0.5:56001\n", "a: b\n"]
        {
            assert!(servers(wrong).is_err(), "{wrong}");
        }
    }
}
