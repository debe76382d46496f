//! Simulated client of VMware Bitfusion, and the one server that it reaches, with one V100 of 16 GB. It knows what
//! public records show: `list_gpus`, and `run` with its options; everything else it refuses. What a success of
//! `list_gpus` looks like is in no record: it says that it is simulated.

use super::Answer;
use super::state::Machine;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use vsgpu_core::readers::bitfusion;

/// The server that there is.
pub const SERVER: &str = "10.0.0.5:56001";
const VERSION: &str = "4.5.0-0a1b2c3d";
const UUID: &str = "5f0c1d2e-0000-4000-8000-00000000a100";
const MEMORY_MIB: u64 = 16_160;
/// What a good token file says; one without this line is of another cluster.
pub const GOOD: &str = "id: simulated-client-of-this-cluster";

const NONE_RESPONDED: &str = "Error: none of the servers responded correctly to client id claim requests.";

pub fn run(folder: &Path, words: &[&str]) -> Answer {
    match words {
        ["list_gpus"] => match claim(folder) {
            Ok(log) => Answer::ok(format!("{log}(simulated) server 0 {SERVER}: 1 GPU, {MEMORY_MIB} MiB\n")),
            Err(answer) => answer,
        },
        ["run", rest @ ..] => run_program(folder, rest),
        [] => Answer::err(1, "Error: simulated bitfusion: a command is missing\n"),
        [other, ..] => Answer::err(1, format!("Error: unknown command \"{other}\" for \"bitfusion\"\n")),
    }
}

fn say(level: &str, text: &str) -> String {
    format!("[{level}] 2026-11-26T10:00:00Z {text}\n")
}

/// The client says who it is: by the token in the home, to the servers in its file. Each time it keeps a copy of
/// the token, and notes which servers it reached.
fn claim(folder: &Path) -> Result<String, Answer> {
    let machine = Machine::read(folder);
    // A machine inside of a test's own process has no environment of its own.
    let home = std::env::var("HOME").ok().filter(|home| machine.root(home).is_dir());
    let home = home.unwrap_or_else(|| "/root".into());
    let (token, conf) = (format!("{home}/.bitfusion/client.yaml"), format!("{home}/.bitfusion/servers.conf"));
    let refused = |log: String| Err(Answer::err(1, log + NONE_RESPONDED + "\n"));
    let Some(text) = machine.text(&conf) else {
        return Err(Answer::err(1, format!("Error: (simulated) no {conf}\n")));
    };
    let Ok(servers) = bitfusion::servers(&text) else {
        return Err(Answer::err(1, format!("Error: (simulated) {conf} is not understood\n")));
    };
    let mut log = String::new();
    for server in &servers.addresses {
        log += &say("INFO", &format!("Query server {server} to claim client id: {UUID}"));
        let url = format!("Get https://{server}/claim_id");
        let failed = |why: &str| {
            say("WARN", &format!("Error contacting server {server} to verify client id: {url}: {why}"))
        };
        if server != SERVER {
            log += &failed(&format!("dial tcp {server}: i/o timeout"));
            continue;
        }
        let Some(secret) = machine.text(&token).filter(|token| token.contains(GOOD)) else {
            log += &failed("context deadline exceeded");
            continue;
        };
        if let Some(at) = secret.lines().find_map(|line| line.strip_prefix("expired: ")) {
            return Err(Answer::err(1, log + &say("ERROR", &format!("Token expired at: {at}"))));
        }
        let file = machine.root(&conf);
        let writable = file.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o200 != 0);
        if !writable {
            log += &say("WARN", &format!("Failed to parse {conf}: open {conf}: read-only file system"));
            return refused(log);
        }
        let copies =
            std::fs::read_dir(machine.root(&format!("{home}/.bitfusion"))).into_iter().flatten().count();
        machine.write(&format!("{token}.20261126T1000{copies:02}"), &secret);
        let all: String = servers.addresses.iter().map(|address| format!("  - {address}\n")).collect();
        // As the client 3.5 writes it: no YAML.
        machine.write(&conf, &format!("servers:\n- reachable:{server}\n  addresses:\n{all}"));
        return Ok(log);
    }
    refused(log)
}

fn run_program(folder: &Path, words: &[&str]) -> Answer {
    let Some(at) = words.iter().position(|word| *word == "--") else {
        return Answer::err(1, "Error: (simulated) the program must follow --\n");
    };
    let (mut gpus, mut memory) = (0_u64, MEMORY_MIB);
    let mut options = words[..at].iter();
    while let Some(option) = options.next() {
        let value = options.next().copied().unwrap_or_default();
        let part = value.parse::<f64>().ok().filter(|part| *part > 0.0 && *part <= 1.0);
        match (*option, value.parse::<u64>(), part) {
            ("-n", Ok(n @ 1..), _) => gpus = n,
            ("-m", Ok(mib @ 1..), _) => memory = mib,
            ("-p", _, Some(part)) => memory = (MEMORY_MIB as f64 * part) as u64,
            ("--filter", _, _) if value.contains('=') => {}
            _ => {
                return Answer::err(
                    1,
                    format!("Error: unknown flag or value: {option} {value} (simulated)\n"),
                );
            }
        }
    }
    let mut log = match claim(folder) {
        Ok(log) => log,
        Err(answer) => return answer,
    };
    if gpus != 1 || memory > MEMORY_MIB {
        return Answer::err(
            1,
            format!("{log}Error: (simulated) {gpus} GPUs of {memory} MiB are not there\n"),
        );
    }
    let program = words[at + 1..].join(" ");
    let part = (memory as f64 / MEMORY_MIB as f64 * 100.0).round() / 100.0;
    log += &say("INFO", &format!("Query server {SERVER} gpu availability"));
    log += &say("INFO", &format!("Choosing GPUs from server list [{SERVER}]"));
    log += &say(
        "INFO",
        &format!("Requesting GPUs [0] with {memory} MiB of memory from server 0, with version {VERSION}..."),
    );
    log += &format!("Requested resources:\nServer List: {SERVER}\nClient idle timeout: 0 min\n");
    log += &say(
        "INFO",
        &format!(
            "Locked 1 GPUs with partial memory {part}, configuration saved to '/tmp/bitfusion940406361'"
        ),
    );
    log +=
        &say("INFO", &format!("Running client command '{program}' on 1 GPUs, with the following servers:"));
    log += &say("INFO", &format!("{} 55001 {UUID} 56001 {VERSION}", SERVER.trim_end_matches(":56001")));
    match &words[at + 1..] {
        [program, args @ ..] if *program == "/usr/lib/vsgpu/vsgpu-cuda-proof" => {
            let answer = match super::cuda::wrong_arguments(args) {
                Some(answer) => answer,
                None => super::cuda::proof_on("Tesla V100-PCIE-16GB (simulated)", memory),
            };
            Answer { stderr: log + &answer.stderr, ..answer }
        }
        _ => Answer::err(127, log + "Error: (simulated) only our proof runs here\n"),
    }
}

/// The archive of tokens as vCenter gives it, for these servers.
pub fn tokens(servers: &[&str], token: &str) -> Vec<u8> {
    let addresses: String = servers.iter().map(|server| format!("  - {server}\n")).collect();
    let conf = format!("servers:\n- addresses:\n{addresses}");
    let mut tar = tar::Builder::new(vec![]);
    for (name, text) in
        [("ca.crt", "simulated certificate authority\n"), ("client.yaml", token), ("servers.conf", &conf)]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(1_764_547_200);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}
