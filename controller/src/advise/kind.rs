//! The four ways in which vSphere offers a GPU.

/// The four ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Passthrough,
    VgpuTimeSliced,
    VgpuMig,
    Network,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Passthrough, Self::VgpuTimeSliced, Self::VgpuMig, Self::Network];

    pub fn word(self) -> &'static str {
        match self {
            Self::Passthrough => crate::fit::WHOLE,
            Self::VgpuTimeSliced => "vgpu-time-sliced",
            Self::VgpuMig => "vgpu-mig",
            Self::Network => "network",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Passthrough => "the whole GPU (DirectPath I/O)",
            Self::VgpuTimeSliced => "vGPU, time-sliced",
            Self::VgpuMig => "vGPU on MIG",
            Self::Network => "a GPU over the network",
        }
    }
}
