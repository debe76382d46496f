//! A GPU server: this guest's GPUs are given to other machines, one at a time, over the network. The gateway
//! (`vsgpu-pool`) and the units come with the agent's package; the engine is the operator's own file.
//!
//! A change of who may have how much holds at once and ends nothing. A change of the engine or of the GPUs needs
//! another gateway, and that ends all GPU leases: it waits for them only where `drain` says for how long.

mod fact;
mod spec;

pub use fact::{GpuServerFact, ServedGpu};
pub use spec::{EngineFile, GpuServerSpec, Off, ServerSpec, TeamSpec};

use crate::facts::engine_bundles::{self, folder};
use fact::{PROGRAM, PROOF_FILE, UNIT, unit_file};
use vsgpu_core::amounts::Span;
use vsgpu_core::artifact::Artifact;
use vsgpu_core::engine::{Engine, manifest::Side};
use vsgpu_core::pool::config::{CONFIG_VERSION, EngineBuild, SERVER_CONFIG, ServerConfig};
use vsgpu_core::pool::{PoolStatus, SlotUse};
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::words::counted;
use vsgpu_core::{Command, Effect, Requirement, Verdict, WordOr};
use vsgpu_wire::pool::fingerprint;

/// Seconds for the gateway to stop its engines and start.
const START_SECS: u32 = 120;

/// GPU server of a guest.
pub struct GpuServer;

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

/// The unit that tries a slot: a client, inside of the engine's own network.
fn proof_unit(engine: &Engine, build: &str) -> String {
    let (libraries, address) = (folder(build, Side::Server), format!("127.0.0.1:{}", engine.port));
    let variable = |(name, value): &(&str, &str)| {
        let value = value.replace("{libraries}", &libraries).replace("{address}", &address);
        format!("Environment={name}={value}\n")
    };
    let variables: String = engine.client_env.iter().map(variable).collect();
    format!("# Written by vsgpu.\n[Service]\n{variables}")
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
    // Each GPU is tried before it is offered.
    const SETTLE_SECS: u32 = 180;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"engine": {"lupine": "files/lupine-0f3a91c2d4e5-cuda13.3-server.tar"}, "teams": {"ml": {"members": ["notebook-*"], "gpus": 2}}}"#;
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
        changes(spec, &build, fact).unwrap_or_else(|| now_served(&build, fact))
    }

    fn as_spec(fact: &GpuServerFact) -> Option<GpuServerSpec> {
        match &fact.config {
            Some(config) => ServerSpec::of(config).map(WordOr::Map),
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
    format!("gives {}, engine {} (CUDA {})", counted(fact.gpus.len(), "GPU"), build.name, build.cuda)
}

/// What is so, with what keeps people waiting although all is set up: no change of ours would mend that.
fn now_served(build: &EngineBuild, fact: &GpuServerFact) -> Verdict {
    let mut text = served(build, fact);
    let Some(status) = &fact.status else { return Verdict::met(text) };
    let of = |state| status.slots.iter().filter(move |slot| slot.state == state);
    if of(SlotUse::Testing).next().is_some() {
        return Verdict::pending("its GPUs are tried before they are offered", text);
    }
    let out = of(SlotUse::OutOfService).count();
    if let Some(first) = of(SlotUse::OutOfService).find(|slot| slot.tried_again)
        && out == status.slots.len()
    {
        // Right after a boot the driver may only be late.
        let why = first.why.as_deref().unwrap_or_default();
        return Verdict::pending(format!("no GPU is offered yet: {why}"), text);
    }
    if let Some(first) = of(SlotUse::OutOfService).next().filter(|_| out == status.slots.len()) {
        return Verdict::blocked(
            format!("no GPU is offered: {}", first.why.as_deref().unwrap_or_default()),
            format!(
                "`vsgpu pool status` says it of each; when that is mended, `vsgpu-pool in-service {}` on this VM tries it again",
                first.slot
            ),
        );
    }
    if status.drained {
        text += "; drained: no new GPU leases";
    }
    if let Some(why) = &status.blocked {
        text += &format!("; no new GPU leases: {why}");
    }
    if out > 0 {
        text += &format!("; {out} of them out of service");
    }
    Verdict::met(text)
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
    let proof = proof_unit(spec.engine.engine(), &build.build);
    let proof = Some(proof).filter(|proof| fact.proof_unit.as_ref() != Some(proof));
    if !units.is_empty() || proof.is_some() {
        // The gateway reads nothing of the proof's unit: no GPU lease ends for it.
        restart |= !units.is_empty();
        is.push(match units.len() {
            0 => "the proof of its GPUs is not set up".into(),
            1 => "1 GPU is not set up".into(),
            count => format!("{count} GPUs are not set up"),
        });
        effects.extend(proof.map(|contents| Effect::Write {
            path: PROOF_FILE.into(),
            contents,
            mode: 0o644,
        }));
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
    let runs = fact.status.as_ref().filter(|_| fact.active);
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
