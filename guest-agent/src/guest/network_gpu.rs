//! GPUs of other machines for this guest's programs. The daemon (`vsgpu-gpu`) comes with the agent's package; the
//! engine's client half is the operator's own file. No NVIDIA driver is needed here. Proved by our own program
//! through a GPU lease, from ask to release.

use crate::facts::engine_bundles::{self, Bundle, folder};
use crate::facts::proof_record;
use crate::guest::gpu_server::{EngineFile, Off};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::amounts::Memory;
use vsgpu_core::artifact::Artifact;
use vsgpu_core::engine::manifest::Side;
use vsgpu_core::pool::config::{CLIENT_CONFIG, CONFIG_VERSION, ClientConfig, EngineBuild, ServerAddress};
use vsgpu_core::readers::cuda_report::{self, CudaReport};
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{
    Command, Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict, WordOr,
};

const PROGRAM: &str = "vsgpu-gpu";
const PROGRAM_PATH: &str = "/usr/bin/vsgpu-gpu";
const UNIT: &str = "vsgpu-gpu.service";
const RECORD: &str = "/var/lib/vsgpu/network-gpu-proof.json";
/// Elements of the vector addition: what is proved is the way, not the GPU's speed.
const ELEMENTS: &str = "50000";
/// How long the proof waits for a GPU, and how long it may take then.
const WAIT: (&str, u32) = ("10m", 600 + 300);

/// Network GPU of a guest.
pub struct NetworkGpu;

/// What is wanted: nothing, or GPUs of other machines.
pub type NetworkGpuSpec = WordOr<Off, ClientSpec>;

/// GPUs of other machines.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
pub struct ClientSpec {
    /// The engine's client half.
    pub engine: EngineFile,
    /// VMs of this file with `gpu-server`, in the order in which they are asked.
    #[serde(deserialize_with = "servers")]
    pub servers: Vec<String>,
    /// Local groups whose members may ask. Left out: only root.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "users")]
    pub users: Vec<String>,
    /// The proof through a GPU lease, or `off`.
    #[serde(default = "proof", skip_serializing_if = "is_plain_proof")]
    pub proof: WordOr<Off, ProofSpec>,
    /// Where the servers are; filled in by the controller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(skip)]
    pub addresses: Vec<ServerAddress>,
}

/// How it is proved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
pub struct ProofSpec {
    /// On a GPU with at least so much memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
}

fn proof() -> WordOr<Off, ProofSpec> {
    WordOr::Map(ProofSpec::default())
}

fn is_plain_proof(proof: &WordOr<Off, ProofSpec>) -> bool {
    matches!(proof, WordOr::Map(spec) if *spec == ProofSpec::default())
}

fn servers<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(input)?;
    let wrong = |why: String| Err(serde::de::Error::custom(why));
    if names.is_empty() || names.len() > 16 {
        return wrong(format!("{} servers: 1 to 16 are expected", names.len()));
    }
    match names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
        Some((_, twice)) => wrong(format!("{twice} is named twice")),
        None => Ok(names),
    }
}

fn users<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(input)?;
    let plain = |name: &String| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    match names.iter().find(|name| !plain(name)) {
        Some(wrong) => Err(serde::de::Error::custom(format!("`{wrong}` is no name of a local group"))),
        None => Ok(names),
    }
}

/// What is so.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NetworkGpuFact {
    /// The daemon's program is there.
    pub program: bool,
    /// Client halves that are unpacked.
    pub engines: Vec<Bundle>,
    /// What the daemon is told, where it is told anything that can be read.
    pub config: Option<ClientConfig>,
    /// Its configuration is there, but cannot be read.
    pub broken: Option<String>,
    /// The daemon runs.
    pub active: bool,
    /// It is started with the machine.
    pub enabled: bool,
    /// Its servers, as they were just now.
    pub servers: Vec<ServerSeen>,
    /// The last proof.
    pub proof: Option<NetworkProof>,
}

/// A GPU server as a client sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ServerSeen {
    /// Its name.
    pub server: String,
    /// Why it cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Round trip of a question, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_micros: Option<u64>,
}

/// What the kept record says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NetworkProof {
    /// When it was made, seconds since 1970.
    pub at: u64,
    /// Made in the running boot, with this configuration.
    pub current: bool,
    /// What was run.
    pub commands: Vec<String>,
    /// What our program found.
    pub report: CudaReport,
    /// The server that granted the GPU.
    pub server: Option<String>,
    /// Round trip to it then, as the runner printed it: `0.4 ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip: Option<String>,
    /// Why it is no proof.
    pub failure: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    servers: Vec<ServerSeen>,
}

fn systemctl(verb: &str) -> Command {
    Command::new("systemctl", [verb, UNIT])
}

fn list() -> Command {
    Command::new(PROGRAM, ["list", "-o", "json"])
}

impl Fact for NetworkGpuFact {
    const NAME: &'static str = "network-gpu";
    const ABOUT: &'static str = "GPUs of other machines: engine, daemon, servers, the last proof";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = engine_bundles::probes(seen);
        probes.extend([PROGRAM_PATH].map(|path| Probe::Size(path.into())));
        probes.extend([RECORD, CLIENT_CONFIG].map(|path| Probe::Read(path.into())));
        probes.push(Probe::BootId);
        // Most guests are no clients: no program is run for it there.
        if matches!(seen.file(CLIENT_CONFIG), Ok(Some(_))) {
            probes.extend([systemctl("is-active"), systemctl("is-enabled"), list()].map(Probe::Run));
        }
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let text = seen.file(CLIENT_CONFIG)?;
        let word = |verb: &str| match text {
            Some(_) => seen.output(&systemctl(verb)).map(|o| o.stdout.trim().to_string()),
            None => Ok(String::new()),
        };
        let listed = text.map(|_| seen.output(&list())).transpose()?;
        let (config, broken) = match text.map(|text| ClientConfig::read(text.as_bytes())) {
            None => (None, None),
            Some(Ok((config, _))) => (Some(config), None),
            Some(Err(why)) => (None, Some(why)),
        };
        let listed = listed.and_then(|listed| serde_json::from_str::<Listed>(&listed.stdout).ok());
        Ok(Self {
            program: seen.text(&Probe::Size(PROGRAM_PATH.into()))?.is_some(),
            engines: engine_bundles::parse(seen, Side::Client)?,
            config,
            broken,
            active: word("is-active")? == "active",
            enabled: word("is-enabled")? == "enabled",
            servers: listed.map(|listed| listed.servers).unwrap_or_default(),
            proof: proved(seen)?,
        })
    }
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
    fn of(config: &ClientConfig) -> Self {
        Self {
            engine: EngineFile::Lupine(engine_bundles::artifact(
                &config.bundle,
                &config.engine,
                Side::Client,
            )),
            servers: config.servers.iter().map(|server| server.node.clone()).collect(),
            users: config.groups.clone(),
            proof: proof(),
            addresses: config.servers.clone(),
        }
    }

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

fn off(fact: &NetworkGpuFact) -> Verdict {
    if !fact.active && !fact.enabled && fact.config.is_none() && fact.broken.is_none() {
        return Verdict::met("off");
    }
    let effects = vec![run(&["disable", "--now", UNIT]), Effect::Remove { path: CLIENT_CONFIG.into() }];
    Verdict::unmet("set up", "off", effects)
}

fn run(args: &[&str]) -> Effect {
    Effect::run(Command::new("systemctl", args.iter().copied()))
}

impl Requirement for NetworkGpu {
    const NAME: &'static str = "network-gpu";
    const ABOUT: &'static str = "Programs of this guest use GPUs of other machines; our proof ran on one";
    // Of the same guest: one that is a server, too, serves itself as well.
    const AFTER: &'static [&'static str] = &["package-source", "gpu-server"];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"engine": {"lupine": "files/lupine-0f3a91c2d4e5-cuda13.3-client.tar"}, "servers": ["gpu-srv-1"]}"#;
    const UNTOUCHED: Option<&'static str> = Some(r#""off""#);
    type Spec = NetworkGpuSpec;
    type Fact = NetworkGpuFact;

    fn check(spec: &NetworkGpuSpec, fact: &NetworkGpuFact) -> Verdict {
        let spec = match spec {
            WordOr::Word(Off::Off) => return off(fact),
            WordOr::Map(spec) => spec,
        };
        let wants = format!("GPUs of {}", spec.servers.join(", "));
        if !fact.program {
            return Verdict::blocked(
                format!("{PROGRAM} is not installed"),
                "it comes with the package of this agent: install that package again",
            );
        }
        let build = match spec.engine.build(Side::Client) {
            Ok(Some(build)) => build,
            Ok(None) => return Verdict::waits("which build the engine's file holds is not known", wants),
            Err(why) => return Verdict::blocked_for_good(why, "name the file with the engine's client half"),
        };
        let (mut is, mut effects) = (vec![], vec![]);
        if !engine_bundles::is_there(&fact.engines, &build, Side::Client) {
            effects.extend(engine_bundles::unpack(spec.engine.artifact(), &build.build, Side::Client));
            is.push("the engine's libraries are not there".to_string());
        }
        let config = ClientConfig {
            version: CONFIG_VERSION,
            libraries: folder(&build.build, Side::Client),
            engine: build.clone(),
            bundle: engine_bundles::bundle_file(spec.engine.artifact()),
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
            is.push(
                if fact.active { "not started with the machine" } else { "the daemon does not run" }.into(),
            );
            effects.push(run(&["enable", "--now", UNIT]));
        }
        let proof = spec.proof_command();
        match proof.as_ref().map(|command| not_proved(command, fact)) {
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

    fn as_spec(fact: &NetworkGpuFact) -> Option<NetworkGpuSpec> {
        match &fact.config {
            Some(config) => Some(WordOr::Map(ClientSpec::of(config))),
            None => off(fact).is_met().then_some(WordOr::Word(Off::Off)),
        }
    }

    fn artifacts_mut(spec: &mut NetworkGpuSpec) -> Vec<&mut Artifact> {
        match spec {
            WordOr::Word(_) => vec![],
            WordOr::Map(spec) => vec![spec.engine.artifact_mut()],
        }
    }
}

/// Why the record is no proof of this; `None` where it is.
fn not_proved(command: &Command, fact: &NetworkGpuFact) -> Option<String> {
    let Some(proof) = &fact.proof else { return Some("never proved".into()) };
    if !proof.current || proof.commands != [command.to_string()] {
        return Some("last proved in another boot, or set up in another way".into());
    }
    if let Some(failure) = &proof.failure {
        return Some(format!("the proof failed: {failure}"));
    }
    (!proof.report.passed()).then(|| "the proof's results are not right".into())
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
