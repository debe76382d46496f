//! What a guest is as a GPU server: its files, its gateway, and what that says of itself.

use crate::facts::Gpus;
use crate::facts::engine_bundles::{self, Bundle};
use crate::facts::unit;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::engine::manifest::Side;
use vsgpu_core::pool::config::{SERVER_CONFIG, ServerConfig};
use vsgpu_core::pool::{PoolStatus, Slot, SlotKind};
use vsgpu_core::readers::nvidia_smi;
use vsgpu_core::{Command, Fact, Observation, Probe, Subject, Unreadable};

pub(super) const PROGRAM: &str = "vsgpu-pool";
const PROGRAM_PATH: &str = "/usr/bin/vsgpu-pool";
pub(super) const UNIT: &str = "vsgpu-pool.service";

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
    /// Unit of the proof on a slot: what was written for it.
    #[serde(default)]
    pub proof_unit: Option<String>,
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

fn status() -> Command {
    Command::new(PROGRAM, ["status", "-o", "json"])
}

pub(super) fn unit_file(slot: u32) -> String {
    format!("/etc/systemd/system/vsgpu-engine@{slot}.service.d/vsgpu.conf")
}

/// Of the unit that tries a slot: where the engine's libraries are, one for all slots.
pub(super) const PROOF_FILE: &str = "/etc/systemd/system/vsgpu-engine-proof@.service.d/vsgpu.conf";

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
        probes.push(Probe::Read(PROOF_FILE.into()));
        if may_serve(seen) {
            probes.extend(unit::probes(UNIT));
            probes.push(Probe::Run(status()));
        }
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let text = seen.file(SERVER_CONFIG)?;
        let serves = may_serve(seen);
        let gateway = serves.then(|| unit::parse(UNIT, seen)).transpose()?.unwrap_or_default();
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
            proof_unit: seen.file(PROOF_FILE)?.map(String::from),
            active: gateway.is_active(),
            enabled: gateway.is_enabled(),
            status: said
                .filter(|said| said.ok())
                .and_then(|said| PoolStatus::read(said.stdout.as_bytes()).ok()),
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
