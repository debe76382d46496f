//! What is leased: a GPU, or a part of one that its own hardware keeps apart.

use super::{Ask, CRASHES_WITHIN, LeaseId, Millis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Slots of one gateway, at most: eight GPUs of seven MIG devices each.
pub const MAX_SLOTS: usize = 64;

/// Number of a slot, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotId(pub u32);

/// What a slot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SlotKind {
    /// A whole GPU, or a vGPU.
    Whole,
    /// A MIG device, as it was found: `1g.10gb`.
    Mig {
        /// Its profile.
        profile: String,
    },
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Slot {
    /// UUID of the GPU or of the MIG device, as `nvidia-smi -L` shows it.
    pub uuid: String,
    /// What it is.
    pub kind: SlotKind,
    /// Its memory, MiB.
    pub memory_mib: u64,
    /// Product name.
    pub name: String,
}

/// A slot as it is now.
#[derive(Clone, Debug)]
pub struct SlotState {
    /// What it is.
    pub slot: Slot,
    /// Whose it is. It stays so until the engine is gone.
    pub lease: Option<LeaseId>,
    /// Its proof runs: who asks for it waits.
    pub testing: bool,
    /// Why it is not given to anybody.
    pub out_of_service: Option<String>,
    /// When its engine crashed, of late, and in whose lease.
    pub crashes: Vec<(LeaseId, Millis)>,
}

impl SlotState {
    pub(super) fn free(slot: Slot) -> Self {
        Self { slot, lease: None, testing: false, out_of_service: None, crashes: vec![] }
    }

    /// Whether it can be given.
    pub fn is_free(&self) -> bool {
        self.lease.is_none() && self.out_of_service.is_none() && !self.testing
    }

    /// How often its engine crashed of late: in this lease, or in all.
    pub(super) fn crashed_of_late(&self, now: Millis, lease: Option<LeaseId>) -> usize {
        let late = self.crashes.iter().filter(|(_, at)| now.saturating_sub(*at) <= CRASHES_WITHIN);
        late.filter(|(of, _)| lease.is_none_or(|lease| lease == *of)).count()
    }

    pub(super) fn crashed(&mut self, lease: LeaseId, now: Millis) {
        self.crashes.retain(|(_, at)| now.saturating_sub(*at) <= CRASHES_WITHIN);
        self.crashes.push((lease, now));
    }
}

/// What an ask wants of a slot, in Bitfusion's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Filter {
    /// `device.name=A100`: the name has this in it, case aside.
    Name(String),
    /// `device.uuid=GPU-..`: this one.
    Uuid(String),
}

impl std::str::FromStr for Filter {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = "`device.name=A100` and `device.uuid=GPU-..` are known";
        let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is no filter: {known}"))?;
        let value = value.trim().to_string();
        if value.is_empty() {
            return Err(format!("`{text}`: nothing behind the `=`"));
        }
        match key.trim() {
            "device.name" => Ok(Self::Name(value)),
            "device.uuid" => Ok(Self::Uuid(value)),
            other => Err(format!("`{other}` is no filter: {known}")),
        }
    }
}

impl Filter {
    /// Whether a slot is so.
    pub fn fits(&self, slot: &Slot) -> bool {
        match self {
            Self::Name(name) => slot.name.to_lowercase().contains(&name.to_lowercase()),
            Self::Uuid(uuid) => slot.uuid.eq_ignore_ascii_case(uuid),
        }
    }
}

/// Slots that an ask may have, a bit each: whether they are free, or in service, is another question.
pub(super) fn fitting(slots: &[SlotState], ask: &Ask) -> u64 {
    let fits = |slot: &Slot| {
        ask.memory_mib.is_none_or(|least| slot.memory_mib >= least)
            && ask.filters.iter().all(|f| f.fits(slot))
    };
    slots.iter().enumerate().filter(|(_, s)| fits(&s.slot)).fold(0, |all, (at, _)| all | 1 << at)
}
