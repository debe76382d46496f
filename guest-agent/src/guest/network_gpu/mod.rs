//! GPUs of other machines for this guest's programs, through our own GPU servers (`client`) or through Bitfusion's
//! (`bitfusion`). No NVIDIA driver is needed here. Proved by our own program on such a GPU, from ask to release.

mod bitfusion;
mod client;
mod fact;
mod spec;

pub use fact::{BitfusionFact, NetworkGpuFact, NetworkProof, ServerSeen};
pub use spec::{BitfusionFiles, ClientEngine, ClientSpec, NetworkGpuSpec, ProofSpec};

use crate::guest::gpu_server::Off;
use vsgpu_core::artifact::Artifact;
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict, WordOr};

/// Network GPU of a guest.
pub struct NetworkGpu;

impl Fact for NetworkGpuFact {
    const NAME: &'static str = "network-gpu";
    const ABOUT: &'static str = "GPUs of other machines: engine, daemon, servers, the last proof";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        [vec![Probe::BootId], client::probes(seen), bitfusion::probes(seen)].concat()
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        Ok(Self { bitfusion: bitfusion::parse(seen)?, ..client::parse(seen)? })
    }
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
    const FILLED_IN: &'static [&'static str] = &["addresses"];
    type Spec = NetworkGpuSpec;
    type Fact = NetworkGpuFact;

    fn check(spec: &NetworkGpuSpec, fact: &NetworkGpuFact) -> Verdict {
        let spec = match spec {
            WordOr::Word(Off::Off) => return off(fact),
            WordOr::Map(spec) => spec,
        };
        let (mine, other) = match &spec.engine {
            ClientEngine::Lupine(_) => (client::check(spec, fact), bitfusion::leave(fact)),
            ClientEngine::Bitfusion(files) => (bitfusion::check(files, spec, fact), client::leave(fact)),
        };
        // A program must not find two ways.
        match mine {
            Verdict::Unmet { is, wants, mut effects } if !other.is_empty() => {
                // What can fail without touching the other one comes first: unpacking, installing.
                let at = effects.iter().position(|e| matches!(e, Effect::Write { .. })).unwrap_or(0);
                effects.splice(at..at, other);
                Verdict::unmet(format!("another engine is set up, {is}"), wants, effects)
            }
            Verdict::Met { is } if !other.is_empty() => {
                Verdict::unmet("another engine is set up, too", is, other)
            }
            verdict => verdict,
        }
    }

    fn as_spec(fact: &NetworkGpuFact) -> Option<NetworkGpuSpec> {
        let spec = client::as_spec(fact).or_else(|| bitfusion::as_spec(fact)).map(WordOr::Map);
        spec.or_else(|| off(fact).is_met().then_some(WordOr::Word(Off::Off)))
    }

    fn artifacts_mut(spec: &mut NetworkGpuSpec) -> Vec<&mut Artifact> {
        match spec {
            WordOr::Word(_) => vec![],
            WordOr::Map(spec) => spec.engine.artifacts_mut(),
        }
    }
}

fn off(fact: &NetworkGpuFact) -> Verdict {
    match [client::leave(fact), bitfusion::leave(fact)].concat() {
        effects if effects.is_empty() => Verdict::met("off"),
        effects => Verdict::unmet("set up", "off", effects),
    }
}
