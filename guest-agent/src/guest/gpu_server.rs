//! A GPU server: this guest's GPUs are given to other machines, one at a time, over the network. The gateway
//! (`vsgpu-pool`) and the units come with the agent's package; the engine is the operator's own file.
//!
//! A change of who may have how much holds at once and ends nothing. A change of the engine or of the GPUs needs
//! another gateway, and that ends all GPU leases: it waits for them only where `drain` says for how long.

use crate::facts::Gpus;
use crate::facts::engine_bundles::{self, Bundle, folder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::amounts::Span;
use vsgpu_core::artifact::Artifact;
use vsgpu_core::engine::{self, Engine, manifest::Side};
use vsgpu_core::pool::config::{CONFIG_VERSION, EngineBuild, PORT, SERVER_CONFIG, ServerConfig};
use vsgpu_core::pool::{Policy, PoolStatus, Slot, SlotKind, SlotUse, Team};
use vsgpu_core::readers::nvidia_smi;
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{
    Command, Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict, WordOr,
};
use vsgpu_wire::pool::fingerprint;

const PROGRAM: &str = "vsgpu-pool";
const PROGRAM_PATH: &str = "/usr/bin/vsgpu-pool";
const UNIT: &str = "vsgpu-pool.service";
/// Seconds for the gateway to stop its engines and start.
const START_SECS: u32 = 120;

/// GPU server of a guest.
pub struct GpuServer;

/// What is wanted: nothing, or a GPU server.
pub type GpuServerSpec = WordOr<Off, ServerSpec>;

/// The one word.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Off {
    /// None.
    Off,
}

/// A GPU server.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
pub struct ServerSpec {
    /// The engine's server half.
    pub engine: EngineFile,
    /// Who may have how much.
    #[serde(deserialize_with = "teams")]
    pub teams: BTreeMap<String, TeamSpec>,
    /// A GPU lease that does nothing for so long ends. Left out: never.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "idle")]
    pub idle_release: Option<Span>,
    /// TCP port of its gateway. Left out: 14843.
    #[serde(default = "port", skip_serializing_if = "is_port", deserialize_with = "a_port")]
    pub port: u16,
    /// A change that ends GPU leases waits so long for them to end by themselves, `50m` at most. Left out: it is not
    /// made while there are any.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "a_drain")]
    pub drain: Option<Span>,
}

/// Teams that are right in themselves.
fn teams<'de, D: serde::Deserializer<'de>>(input: D) -> Result<BTreeMap<String, TeamSpec>, D::Error> {
    let teams = BTreeMap::<String, TeamSpec>::deserialize(input)?;
    if teams.is_empty() {
        return Err(serde::de::Error::custom("no team: nobody could have a GPU"));
    }
    policy(&teams, None).check().map_err(serde::de::Error::custom)?;
    Ok(teams)
}

fn idle<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<Span>, D::Error> {
    let span = Option::<Span>::deserialize(input)?;
    policy(&BTreeMap::new(), span).check().map_err(serde::de::Error::custom)?;
    Ok(span)
}

/// Below what a step has (`deadlines`), with room for what is done behind it.
const LONGEST_DRAIN: u64 = 50 * 60;

fn a_drain<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<Span>, D::Error> {
    let span = Option::<Span>::deserialize(input)?;
    match span {
        Some(span) if span.secs > LONGEST_DRAIN => Err(serde::de::Error::custom(
            "at most 50m: a step has an hour; `vsgpu pool drain NODE` beforehand waits as long as you like",
        )),
        span => Ok(span),
    }
}

fn a_port<'de, D: serde::Deserializer<'de>>(input: D) -> Result<u16, D::Error> {
    match u16::deserialize(input)? {
        0 => Err(serde::de::Error::custom("0 is no port")),
        port => Ok(port),
    }
}

fn port() -> u16 {
    PORT
}

fn is_port(port: &u16) -> bool {
    *port == PORT
}

/// An engine, and the file that holds it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EngineFile {
    /// Lupine; `packaging/engine/build-lupine` makes the file from its source.
    Lupine(Artifact),
}

impl EngineFile {
    /// The engine.
    pub fn engine(&self) -> &'static Engine {
        match self {
            Self::Lupine(_) => &engine::lupine::LUPINE,
        }
    }

    /// Its file.
    pub fn artifact(&self) -> &Artifact {
        match self {
            Self::Lupine(artifact) => artifact,
        }
    }

    pub(crate) fn artifact_mut(&mut self) -> &mut Artifact {
        match self {
            Self::Lupine(artifact) => artifact,
        }
    }

    /// Which build the file holds, where it was looked at.
    pub fn build(&self, side: Side) -> Result<Option<EngineBuild>, String> {
        engine_bundles::of_artifact(self.artifact(), self.engine().name, side)
    }
}

/// A team.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
pub struct TeamSpec {
    /// Names of VMs; `*` stands for any text.
    pub members: Vec<String>,
    /// GPUs that it may have at once.
    pub gpus: u32,
    /// GPUs of one lease, at most. Left out: as many as it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_lease: Option<u32>,
    /// How long one lease may last. Left out: as long as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest: Option<Span>,
    /// Its part against other teams' where all wait.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

fn is_one(n: &u32) -> bool {
    *n == 1
}

fn policy(teams: &BTreeMap<String, TeamSpec>, idle_release: Option<Span>) -> Policy {
    let team = |(name, team): (&String, &TeamSpec)| Team {
        name: name.clone(),
        members: team.members.clone(),
        gpus: team.gpus,
        per_lease: team.per_lease,
        longest: team.longest.map(|span| span.secs * 1000),
        weight: team.weight,
    };
    Policy {
        teams: teams.iter().map(team).collect(),
        idle_release: idle_release.map(|span| span.secs * 1000),
    }
}

impl ServerSpec {
    /// Who may have how much.
    pub fn policy(&self) -> Policy {
        policy(&self.teams, self.idle_release)
    }

    fn of(config: &ServerConfig) -> Self {
        let span = |millis: Option<u64>| millis.map(|millis| Span { secs: millis / 1000 });
        let team = |team: &Team| TeamSpec {
            members: team.members.clone(),
            gpus: team.gpus,
            per_lease: team.per_lease,
            longest: span(team.longest),
            weight: team.weight,
        };
        Self {
            engine: EngineFile::Lupine(engine_bundles::artifact(
                &config.bundle,
                &config.engine,
                Side::Server,
            )),
            teams: config.policy.teams.iter().map(|of| (of.name.clone(), team(of))).collect(),
            idle_release: span(config.policy.idle_release),
            port: config.port,
            drain: None,
        }
    }
}

/// What is so.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct GpuServerFact {
    /// The gateway's program is there.
    pub program: bool,
    /// Server halves that are unpacked.
    pub engines: Vec<Bundle>,
    /// What the gateway is told, where it is told anything that can be read.
    pub config: Option<ServerConfig>,
    /// Its configuration is there, but cannot be read.
    pub broken: Option<String>,
    /// Units of the slots: what was written for each.
    pub units: BTreeMap<u32, String>,
    /// The gateway runs.
    pub active: bool,
    /// It is started with the machine.
    pub enabled: bool,
    /// What it says of itself.
    pub status: Option<PoolStatus>,
    /// GPUs that it can give, with the numbers of their device nodes.
    pub gpus: Vec<ServedGpu>,
    /// Why there are none, or what is in the way.
    pub no_gpus: Option<String>,
}

/// A GPU of this guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServedGpu {
    /// As a slot.
    pub slot: Slot,
    /// Of `/dev/nvidia0`.
    pub minor: u32,
}

fn systemctl(verb: &str) -> Command {
    Command::new("systemctl", [verb, UNIT])
}

fn status() -> Command {
    Command::new(PROGRAM, ["status", "-o", "json"])
}

fn unit_file(slot: u32) -> String {
    format!("/etc/systemd/system/vsgpu-engine@{slot}.service.d/vsgpu.conf")
}

/// What systemd would read otherwise, or what would leave its line.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/".contains(&b))
}

fn gpus(seen: &Observation) -> Result<Vec<ServedGpu>, String> {
    let report = nvidia_smi::report(seen).map_err(|why| why.to_string())?;
    let mut served = vec![];
    for (at, gpu) in report.gpus.iter().enumerate() {
        if gpu.mig_current == Some(true) {
            return Err(format!("{}: MIG is on; its parts are not served", gpu.bus_id));
        }
        let uuid = gpu.uuid.clone().filter(|uuid| is_plain(uuid));
        let uuid = uuid.ok_or_else(|| format!("{}: the driver names no UUID", gpu.bus_id))?;
        let slot = Slot {
            uuid,
            kind: SlotKind::Whole,
            memory_mib: gpu.fb_total_mib.unwrap_or_default(),
            name: gpu.name.clone().unwrap_or_default(),
        };
        served.push(ServedGpu { slot, minor: gpu.minor_number.unwrap_or(at as u32) });
    }
    Ok(served)
}

impl Fact for GpuServerFact {
    const NAME: &'static str = "gpu-server";
    const ABOUT: &'static str = "GPUs given to other machines: engine, gateway, GPU leases, queue";
    fn probes(on: &Subject, seen: &Observation) -> Vec<Probe> {
        // A client is proved behind it, also where both were rebooted: then this is looked at first.
        let mut probes =
            vec![Probe::Size(PROGRAM_PATH.into()), Probe::Read(SERVER_CONFIG.into()), Probe::BootId];
        probes.extend(engine_bundles::probes(seen));
        probes.extend(Gpus::probes(on, seen));
        let slots = gpus(seen).map_or(0, |gpus| gpus.len() as u32);
        probes.extend((0..slots).map(|slot| Probe::Read(unit_file(slot))));
        if may_serve(seen) {
            probes.extend([systemctl("is-active"), systemctl("is-enabled"), status()].map(Probe::Run));
        }
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let text = seen.file(SERVER_CONFIG)?;
        let serves = may_serve(seen);
        let word = |verb: &str| match serves {
            true => seen.output(&systemctl(verb)).map(|o| o.stdout.trim().to_string()),
            false => Ok(String::new()),
        };
        let said = serves.then(|| seen.output(&status())).transpose()?;
        let (config, broken) = match text.map(|text| ServerConfig::read(text.as_bytes())) {
            None => (None, None),
            Some(Ok((config, _))) => (Some(config), None),
            Some(Err(why)) => (None, Some(why)),
        };
        let (gpus, no_gpus) = match gpus(seen) {
            Ok(gpus) => (gpus, None),
            Err(why) => (vec![], Some(why)),
        };
        let mut units = BTreeMap::new();
        for slot in 0..gpus.len() as u32 {
            if let Some(text) = seen.file(&unit_file(slot))? {
                units.insert(slot, text.to_string());
            }
        }
        Ok(Self {
            program: seen.text(&Probe::Size(PROGRAM_PATH.into()))?.is_some(),
            engines: engine_bundles::parse(seen, Side::Server)?,
            config,
            broken,
            units,
            active: word("is-active")? == "active",
            enabled: word("is-enabled")? == "enabled",
            status: said.filter(|said| said.ok()).and_then(|said| serde_json::from_str(&said.stdout).ok()),
            gpus,
            no_gpus,
        })
    }
}

/// Whether a gateway may run: most guests are no servers, and no program is run for it there. Units of slots
/// stay where somebody took the configuration away.
fn may_serve(seen: &Observation) -> bool {
    let is_there = |path: &str| matches!(seen.file(path), Ok(Some(_)));
    is_there(SERVER_CONFIG) || is_there(&unit_file(0))
}

/// The unit of a slot: its own program, GPU and device nodes. The rest of it comes with the package.
fn unit(engine: &Engine, build: &str, gpu: &ServedGpu) -> String {
    let mut text = format!(
        "# Written by vsgpu.\n[Service]\nExecStart=\nExecStart={}/{}\n",
        folder(build, Side::Server),
        engine.server
    );
    for (name, value) in engine.server_env {
        text += &format!("Environment={name}={}\n", value.replace("{port}", &engine.port.to_string()));
    }
    text + &format!(
        "Environment=CUDA_VISIBLE_DEVICES={}\nDeviceAllow=/dev/nvidia{} rw\n",
        gpu.slot.uuid, gpu.minor
    )
}

fn run(args: &[&str]) -> Effect {
    Effect::run(Command::new("systemctl", args.iter().copied()).within(START_SECS))
}

/// Who holds GPU leases, for people.
fn holders(status: &PoolStatus) -> Vec<String> {
    let one = |lease: &vsgpu_core::pool::status::LeaseStatus| {
        format!("lease {} of {} on {}", lease.lease, lease.user, lease.node)
    };
    // One that is over waits for its engine only.
    status.leases.iter().filter(|lease| lease.ended.is_none()).map(one).collect()
}

fn off(fact: &GpuServerFact) -> Verdict {
    if !fact.active && !fact.enabled && fact.config.is_none() && fact.broken.is_none() {
        return Verdict::met("off");
    }
    let mut effects = vec![run(&["disable", "--now", UNIT])];
    effects.push(Effect::Remove { path: SERVER_CONFIG.into() });
    if fact.active {
        if let Some(stopped) = in_the_way(fact) {
            return stopped;
        }
        effects.insert(0, drained(None));
    }
    Verdict::unmet("a GPU server", "off", effects)
}

/// What keeps a gateway from being ended: GPU leases, or that nobody knows of any.
fn in_the_way(fact: &GpuServerFact) -> Option<Verdict> {
    match fact.status.as_ref().map(holders) {
        Some(held) if held.is_empty() => None,
        Some(held) => Some(busy(&held)),
        None => Some(Verdict::blocked(
            "the gateway does not say whether GPU leases run",
            "`systemctl restart vsgpu-pool` on this VM ends them; `journalctl -u vsgpu-pool` says what it does",
        )),
    }
}

/// Gives out no new leases and waits until none is left; fails, and undoes it, where one still is.
fn drained(wait: Option<Span>) -> Effect {
    let wait = wait.unwrap_or(Span { secs: 0 });
    let within = u32::try_from(wait.secs).unwrap_or(u32::MAX).saturating_add(30);
    Effect::run(Command::new(PROGRAM, ["drain", "--wait", &wait.to_string()]).within(within))
}

fn busy(held: &[String]) -> Verdict {
    Verdict::blocked(
        format!("this change would end GPU leases: {}", held.join("; ")),
        "`vsgpu pool drain NODE` gives out no new ones, then try again when these have ended; or `drain: 30m` under `gpu-server` waits for them",
    )
}

impl Requirement for GpuServer {
    const NAME: &'static str = "gpu-server";
    const ABOUT: &'static str = "This guest's GPUs are given to other machines over the network";
    const AFTER: &'static [&'static str] = &["driver", "license", "persistence"];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 30;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"engine": {"lupine": "files/lupine-1.0.0-cuda13.3-server.tar"}, "teams": {"ml": {"members": ["notebook-*"], "gpus": 2}}}"#;
    const UNTOUCHED: Option<&'static str> = Some(r#""off""#);
    type Spec = GpuServerSpec;
    type Fact = GpuServerFact;

    fn check(spec: &GpuServerSpec, fact: &GpuServerFact) -> Verdict {
        let spec = match spec {
            WordOr::Word(Off::Off) => return off(fact),
            WordOr::Map(spec) => spec,
        };
        let wants = "the gateway runs and gives out the GPUs";
        if !fact.program {
            return Verdict::blocked(
                format!("{PROGRAM} is not installed"),
                "it comes with the package of this agent: install that package again",
            );
        }
        let build = match spec.engine.build(Side::Server) {
            Ok(Some(build)) => build,
            Ok(None) => return Verdict::waits("which build the engine's file holds is not known", wants),
            Err(why) => return Verdict::blocked_for_good(why, "name the file with the engine's server half"),
        };
        if fact.gpus.is_empty() {
            let why = fact.no_gpus.clone().unwrap_or_else(|| "the driver shows none".into());
            return Verdict::waits(format!("there is no GPU to give: {why}"), wants);
        }
        changes(spec, &build, fact).unwrap_or_else(|| Verdict::met(now_served(&build, fact)))
    }

    fn as_spec(fact: &GpuServerFact) -> Option<GpuServerSpec> {
        match &fact.config {
            Some(config) => Some(WordOr::Map(ServerSpec::of(config))),
            None => off(fact).is_met().then_some(WordOr::Word(Off::Off)),
        }
    }

    fn artifacts_mut(spec: &mut GpuServerSpec) -> Vec<&mut Artifact> {
        match spec {
            WordOr::Word(_) => vec![],
            WordOr::Map(spec) => vec![spec.engine.artifact_mut()],
        }
    }
}

fn served(build: &EngineBuild, fact: &GpuServerFact) -> String {
    let count = fact.gpus.len();
    let plural = if count == 1 { "" } else { "s" };
    format!("gives {count} GPU{plural}, engine {} (CUDA {})", build.name, build.cuda)
}

/// What is so, with what keeps people waiting although all is set up: no change of ours would mend that.
fn now_served(build: &EngineBuild, fact: &GpuServerFact) -> String {
    let mut text = served(build, fact);
    let Some(status) = &fact.status else { return text };
    if status.drained {
        text += "; drained: no new GPU leases";
    }
    if let Some(why) = &status.blocked {
        text += &format!("; no new GPU leases: {why}");
    }
    match status.slots.iter().filter(|slot| slot.state == SlotUse::OutOfService).count() {
        0 => {}
        out => text += &format!("; {out} of them out of service"),
    }
    text
}

/// What is to be changed, and what that costs; `None` where nothing is.
fn changes(spec: &ServerSpec, build: &EngineBuild, fact: &GpuServerFact) -> Option<Verdict> {
    let wants = served(build, fact);
    let mut effects = vec![];
    let mut is = vec![];
    if !engine_bundles::is_there(&fact.engines, build, Side::Server) {
        effects.extend(engine_bundles::unpack(spec.engine.artifact(), &build.build, Side::Server));
        is.push("its engine is not there".to_string());
    }
    let unpacked = effects.len();
    let mut restart = false;
    let units: Vec<(u32, String)> = fact
        .gpus
        .iter()
        .enumerate()
        .map(|(slot, gpu)| (slot as u32, unit(spec.engine.engine(), &build.build, gpu)))
        .filter(|(slot, text)| fact.units.get(slot) != Some(text))
        .collect();
    if !units.is_empty() {
        restart = true;
        let count = units.len();
        is.push(format!("{count} GPU{} not set up", if count == 1 { " is" } else { "s are" }));
        effects.extend(units.into_iter().map(|(slot, contents)| Effect::Write {
            path: unit_file(slot),
            contents,
            mode: 0o644,
        }));
        effects.push(run(&["daemon-reload"]));
    }
    let config = ServerConfig {
        version: CONFIG_VERSION,
        port: spec.port,
        engine: build.clone(),
        bundle: engine_bundles::bundle_file(spec.engine.artifact()),
        policy: spec.policy(),
        slots: fact.gpus.iter().map(|gpu| gpu.slot.clone()).collect(),
    };
    // What runs counts, where it says so: a file may have been written and never taken up.
    let runs = fact.status.as_ref().filter(|status| fact.active && !status.config.is_empty());
    let reload = match runs {
        Some(status) => status.config_of_start == fingerprint(&config.of_start()),
        None => fact.config.as_ref().is_some_and(|old| old.of_start() == config.of_start()),
    };
    let is_written = fact.config.as_ref() == Some(&config);
    let is_taken_up = runs.is_none_or(|status| status.config == fingerprint(&config));
    let holds = is_written && is_taken_up;
    restart |= !(holds || reload);
    if !is_written {
        is.push(match (&fact.config, &fact.broken, reload) {
            (None, Some(why), _) => format!("its configuration cannot be read ({why})"),
            (None, None, _) => "no GPU server".into(),
            (Some(_), _, true) => "teams or limits differ".into(),
            (Some(_), _, false) => "engine, GPUs or port differ".into(),
        });
        let contents = serde_json::to_string(&config).unwrap_or_default() + "\n";
        effects.push(Effect::Write { path: SERVER_CONFIG.into(), contents, mode: 0o644 });
    }
    if is_written && !is_taken_up {
        is.push("the gateway goes by an older configuration".into());
    }
    if fact.active && fact.status.is_none() && !restart && is_written {
        return in_the_way(fact);
    }
    if !fact.active || !fact.enabled {
        is.push(if fact.active { "not started with the machine" } else { "the gateway does not run" }.into());
    }
    if fact.active && restart {
        if let Some(stopped) = in_the_way(fact).filter(|_| spec.drain.is_none() || fact.status.is_none()) {
            return Some(stopped);
        }
        // Nothing that is in use is changed before they have ended.
        effects.insert(unpacked, drained(spec.drain));
        effects.push(run(&["restart", UNIT]));
    } else if fact.active && !holds {
        effects.push(Effect::run(Command::new(PROGRAM, ["reload"])));
    }
    if !fact.active || !fact.enabled {
        effects.push(run(&["enable", "--now", UNIT]));
    }
    if fact.config.is_none() && fact.broken.is_none() {
        is = vec!["no GPU server".into()];
    }
    (!effects.is_empty()).then(|| Verdict::unmet(is.join(", "), wants, effects))
}
