//! GPUs through our own GPU servers: the daemon (`vsgpu-gpu`) comes with the agent's package, the engine's client
//! half is the operator's own file.

use super::fact::{NetworkGpuFact, NetworkProof, ServerSeen, not_proved};
use super::spec::{ClientSpec, ELEMENTS, proof};
use crate::facts::engine_bundles::{self, folder};
use crate::facts::{proof_record, unit};
use crate::guest::gpu_server::EngineFile;
use serde::Deserialize;
use vsgpu_core::engine::manifest::Side;
use vsgpu_core::pool::config::{CLIENT_CONFIG, CONFIG_VERSION, ClientConfig, EngineBuild};
use vsgpu_core::readers::cuda_report::{self, CudaReport};
use vsgpu_core::{Command, Effect, Observation, Probe, Unreadable, Verdict, WordOr};

const PROGRAM: &str = "vsgpu-gpu";
const PROGRAM_PATH: &str = "/usr/bin/vsgpu-gpu";
const UNIT: &str = "vsgpu-gpu.service";
const RECORD: &str = "/var/lib/vsgpu/network-gpu-proof.json";
/// How long the proof waits for a GPU, and how long it may take then.
const WAIT: (&str, u32) = ("10m", 600 + 300);

#[derive(Deserialize)]
struct Listed {
    servers: Vec<ServerSeen>,
}

fn list() -> Command {
    Command::new(PROGRAM, ["list", "-o", "json"])
}

/// What is to be asked.
pub(super) fn probes(seen: &Observation) -> Vec<Probe> {
    let mut probes = engine_bundles::probes(seen);
    probes.push(Probe::Size(PROGRAM_PATH.into()));
    probes.extend([RECORD, CLIENT_CONFIG].map(|path| Probe::Read(path.into())));
    // Most guests are no clients: no program is run for it there.
    if matches!(seen.file(CLIENT_CONFIG), Ok(Some(_))) {
        probes.extend(unit::probes(UNIT));
        probes.push(Probe::Run(list()));
    }
    probes
}

/// What is so.
pub(super) fn parse(seen: &Observation) -> Result<NetworkGpuFact, Unreadable> {
    let text = seen.file(CLIENT_CONFIG)?;
    let daemon = text.map(|_| unit::parse(UNIT, seen)).transpose()?.unwrap_or_default();
    let listed = text.map(|_| seen.output(&list())).transpose()?;
    let (config, broken) = match text.map(|text| ClientConfig::read(text.as_bytes())) {
        None => (None, None),
        Some(Ok((config, _))) => (Some(config), None),
        Some(Err(why)) => (None, Some(why)),
    };
    let listed = listed.and_then(|listed| serde_json::from_str::<Listed>(&listed.stdout).ok());
    Ok(NetworkGpuFact {
        program: seen.text(&Probe::Size(PROGRAM_PATH.into()))?.is_some(),
        engines: engine_bundles::parse(seen, Side::Client)?,
        config,
        broken,
        active: daemon.is_active(),
        enabled: daemon.is_enabled(),
        servers: listed.map(|listed| listed.servers).unwrap_or_default(),
        proof: proved(seen)?,
        ..NetworkGpuFact::default()
    })
}

fn proved(seen: &Observation) -> Result<Option<NetworkProof>, Unreadable> {
    let Some(record) = proof_record::read(seen, RECORD)? else { return Ok(None) };
    let run = &record.outputs[0];
    // What the runner says stands before what the program says, on the other stream.
    let said = &run.output.stderr;
    let granted = said.lines().find_map(|line| line.split_once("granted: "));
    let granted = granted.and_then(|(_, granted)| granted.rsplit_once(" of "));
    let server = granted.map(|(_, rest)| rest.split([',', ' ']).next().unwrap_or_default().to_string());
    let round_trip = granted
        .and_then(|(_, rest)| Some(rest.split_once("round trip ")?.1.split([',', ')']).next()?.to_string()));
    let (report, failure) = match cuda_report::read(&run.output.stdout) {
        Ok(report) => {
            let failure = report.failure.as_ref().map(ToString::to_string);
            (report, failure)
        }
        Err(_) => {
            // The last thing that was said: a hint may stand behind it, and the grant before it.
            let is_cause = |line: &&str| !line.starts_with(' ') && !line.contains(": granted: ");
            let why = said.lines().rfind(is_cause).unwrap_or_default();
            let why = why.strip_prefix("vsgpu-gpu: ").unwrap_or(why);
            (CudaReport::default(), Some(format!("{}: {why}", run.output.ended)))
        }
    };
    Ok(Some(NetworkProof {
        at: record.at,
        current: record.is_of(seen, CLIENT_CONFIG)?,
        commands: record.commands(),
        report,
        server,
        round_trip,
        failure,
    }))
}

impl ClientSpec {
    /// The proof's command; `None` where none is wanted.
    fn proof_command(&self) -> Option<Command> {
        let WordOr::Map(proof) = &self.proof else { return None };
        let mut args: Vec<String> = ["prove", "-n", "1", "--wait", WAIT.0].map(String::from).into();
        if let Some(memory) = proof.memory {
            args.extend(["-m".into(), memory.to_string()]);
        }
        args.push(ELEMENTS.into());
        Some(Command::new(PROGRAM, args).within(WAIT.1))
    }
}

/// The wish that this configuration meets.
pub(super) fn as_spec(fact: &NetworkGpuFact) -> Option<ClientSpec> {
    let config = fact.config.as_ref()?;
    let file = engine_bundles::artifact(&config.bundle, &config.engine, Side::Client);
    Some(ClientSpec {
        engine: EngineFile::named(&config.engine.name, file)?.into(),
        servers: config.servers.iter().map(|server| server.node.clone()).collect(),
        users: config.groups.clone(),
        proof: proof(),
        addresses: config.servers.clone(),
    })
}

/// What takes it back, where anything of it is there.
pub(super) fn leave(fact: &NetworkGpuFact) -> Vec<Effect> {
    if !fact.active && !fact.enabled && fact.config.is_none() && fact.broken.is_none() {
        return vec![];
    }
    vec![run(&["disable", "--now", UNIT]), Effect::Remove { path: CLIENT_CONFIG.into() }]
}

fn run(args: &[&str]) -> Effect {
    Effect::run(Command::new("systemctl", args.iter().copied()))
}

/// Whether it is so, and what makes it so.
pub(super) fn check(spec: &ClientSpec, fact: &NetworkGpuFact) -> Verdict {
    let wants = format!("GPUs of {}", spec.servers.join(", "));
    if !fact.program {
        return Verdict::blocked(
            format!("{PROGRAM} is not installed"),
            "it comes with the package of this agent: install that package again",
        );
    }
    let Some(file) = spec.engine.bundle() else { return Verdict::waits("another engine is wanted", wants) };
    let build = match file.build(Side::Client) {
        Ok(Some(build)) => build,
        Ok(None) => return Verdict::waits("which build the engine's file holds is not known", wants),
        Err(why) => return Verdict::blocked_for_good(why, "name the file with the engine's client half"),
    };
    let (mut is, mut effects) = (vec![], vec![]);
    if !engine_bundles::is_there(&fact.engines, &build, Side::Client) {
        effects.extend(engine_bundles::unpack(file.artifact(), &build.build, Side::Client));
        is.push("the engine's libraries are not there".to_string());
    }
    let config = ClientConfig {
        version: CONFIG_VERSION,
        libraries: folder(&build.build, Side::Client),
        engine: build.clone(),
        bundle: engine_bundles::bundle_file(file.artifact()),
        servers: spec.addresses.clone(),
        groups: spec.users.clone(),
    };
    if fact.config.as_ref() != Some(&config) {
        is.push(match (&fact.config, &fact.broken) {
            (None, Some(why)) => format!("its configuration cannot be read ({why})"),
            (None, None) => "not set up".into(),
            (Some(_), _) => "servers, users or engine differ".into(),
        });
        let contents = serde_json::to_string(&config).unwrap_or_default() + "\n";
        effects.push(Effect::Write { path: CLIENT_CONFIG.into(), contents, mode: 0o644 });
    }
    if !fact.active || !fact.enabled {
        is.push(if fact.active { "not started with the machine" } else { "the daemon does not run" }.into());
        effects.push(run(&["enable", "--now", UNIT]));
    }
    let proof = spec.proof_command();
    match proof.as_ref().map(|command| not_proved(&[command.to_string()], fact.proof.as_ref())) {
        None | Some(None) if effects.is_empty() => return Verdict::met(proved_text(spec, &build, fact)),
        None => {}
        Some(why) => {
            is.push(why.unwrap_or_else(|| "its proof is to be made again".into()));
            let commands = proof.into_iter().collect();
            effects.push(Effect::Record { commands, path: RECORD.into(), beside: CLIENT_CONFIG.into() });
        }
    }
    if fact.config.is_none() && fact.broken.is_none() {
        is = vec!["not set up".into()];
    }
    Verdict::unmet(is.join(", "), wants, effects)
}

fn proved_text(spec: &ClientSpec, build: &EngineBuild, fact: &NetworkGpuFact) -> String {
    let engine = format!("engine {} (CUDA {})", build.name, build.cuda);
    let Some(proof) = fact.proof.as_ref().filter(|_| matches!(spec.proof, WordOr::Map(_))) else {
        return format!("set up for {}, {engine}, not proved", spec.servers.join(", "));
    };
    let name = proof.report.devices.first().map(|device| device.name.clone()).unwrap_or_default();
    let server = proof.server.clone().unwrap_or_default();
    // As it was at the proof: this text must not differ from look to look.
    let rtt = proof.round_trip.as_ref().map(|rtt| format!(", round trip {rtt}")).unwrap_or_default();
    format!("{name} over the network from {server}{rtt}, {engine}, every sum right")
}
