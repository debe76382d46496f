//! The host in vCenter: its cluster, who moves and starts its VMs, who owns its image. Only a gateway knows it.

use crate::facts::host_image::HostImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::words::{counted, first};
use vsgpu_core::{Fact, InVcenter, Observation, Probe, Subject, Unreadable};

/// The host as vCenter has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Vcenter {
    /// None where this agent does not reach its host by vCenter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostInVcenter>,
}

/// What vCenter says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostInVcenter {
    /// `VMware vCenter Server 8.0.3 build-24022515`
    pub server: String,
    /// Version of its API: `8.0.3.0`.
    #[serde(default)]
    pub api: Option<String>,
    /// vCenter, and no host that stands alone.
    #[serde(default)]
    pub is_vcenter: bool,
    /// The host's name there.
    pub name: String,
    /// `lockdownDisabled`, `lockdownNormal`, `lockdownStrict`.
    #[serde(default)]
    pub lockdown: Option<String>,
    /// None where the host stands alone.
    #[serde(default)]
    pub cluster: Option<ClusterOfHost>,
    /// The image it is made from, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<HostImage>,
    /// vGPU profiles that the host offers, and whether a VM that has one can move while it runs.
    #[serde(default)]
    pub profiles: Vec<OfferedProfile>,
    /// How its GPUs are used, as vCenter says it from 9.1 on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DirectPathDevice>,
    /// What vCenter measured last on its GPUs.
    #[serde(default)]
    pub counters: Vec<GpuCounters>,
}

/// A cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterOfHost {
    /// Its name.
    pub name: String,
    /// Hosts in it.
    pub hosts: usize,
    /// DRS: `off`, `manual`, `partiallyAutomated`, `fullyAutomated`; none where it may not be read.
    #[serde(default)]
    pub drs: Option<String>,
    /// Advanced options of DRS.
    #[serde(default)]
    pub drs_options: Vec<(String, String)>,
    /// HA is on; none where it may not be read.
    #[serde(default)]
    pub ha: Option<bool>,
    /// Admission control of HA is on.
    #[serde(default)]
    pub ha_admission: Option<bool>,
    /// vSphere Lifecycle Manager keeps one image for all its hosts; none before 7.0.
    #[serde(default)]
    pub image_managed: Option<bool>,
}

/// A vGPU profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OfferedProfile {
    /// `grid_a100-40c`
    pub name: String,
    /// vMotion is possible.
    pub can_move: bool,
    /// So many more fit on the host now; vCenter counts from 9.0 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u64>,
}

/// A GPU as vCenter 9.1 has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DirectPathDevice {
    /// Its address.
    pub gpu: String,
    /// `host`, `directPath`, `enhancedDirectPath`, `vGpuSameSize`, ..
    #[serde(default)]
    pub mode: Option<String>,
    /// Version of the driver that holds it.
    #[serde(default)]
    pub driver_version: Option<String>,
}

/// Counters of one GPU, of the last 20 seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuCounters {
    /// What vCenter calls the GPU; `all` where it says only the sum of the host's.
    pub gpu: String,
    /// By the names that metrics have, in their units (ratio, bytes, watts, degrees Celsius, errors).
    pub values: BTreeMap<String, f64>,
}

impl Fact for Vcenter {
    const NAME: &'static str = "vcenter";
    const ABOUT: &'static str = "The host in vCenter: its cluster, DRS, HA, who owns its image";
    fn probes(_: &Subject, _: &Observation) -> Vec<Probe> {
        vec![Probe::Inventory(InVcenter::Host)]
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let Some(text) = seen.text(&Probe::Inventory(InVcenter::Host))? else { return Ok(Self::default()) };
        let host = serde_json::from_str(text)
            .map_err(|why| Unreadable::new(format!("what vCenter says cannot be read: {why}")))?;
        Ok(Self { host: Some(host) })
    }
    fn sentence(&self) -> Option<String> {
        let host = self.host.as_ref()?;
        let of_image = match &host.image {
            Some(image) => format!(", image by Lifecycle Manager: {}", image.sentence()),
            None => String::new(),
        };
        let Some(cluster) = &host.cluster else {
            return Some(format!("{}, in no cluster{of_image}", host.name));
        };
        let drs = match cluster.drs.as_deref() {
            None => "DRS not known".to_string(),
            Some("off") => "DRS off".into(),
            Some("fullyAutomated") => "DRS Fully Automated".into(),
            Some("partiallyAutomated") => "DRS Partially Automated".into(),
            Some("manual") => "DRS Manual".into(),
            // A cluster that never said how.
            Some("") => "DRS on".into(),
            Some(other) => format!("DRS {other}"),
        };
        let ha = match (cluster.ha, cluster.ha_admission) {
            (None, _) => "HA not known",
            (Some(false), _) => "HA off",
            (Some(true), Some(true)) => "HA on with admission control",
            (Some(true), _) => "HA on",
        };
        let image = match (cluster.image_managed, &host.image) {
            (Some(true), None) => ", image by Lifecycle Manager".into(),
            _ => of_image,
        };
        let more: Vec<String> = host
            .profiles
            .iter()
            .filter_map(|of| Some(format!("{} {}", of.remaining?, of.name)))
            .filter(|text| !text.starts_with("0 "))
            .collect();
        let more = match more.as_slice() {
            [] => String::new(),
            all => format!("; still fits, one kind at a time: {}", first(all.iter().cloned(), 3, "")),
        };
        let hosts = counted(cluster.hosts, "host");
        Some(format!("in {} ({hosts}), {drs}, {ha}{image}{more}", cluster.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsgpu_core::IoError;
    use vsgpu_core::observation::Answer;

    fn fact(answer: Result<String, IoError>) -> Result<Vcenter, Unreadable> {
        let mut seen = Observation::default();
        seen.0.insert(Probe::Inventory(InVcenter::Host), Answer::Text(answer));
        Vcenter::parse(&Subject::node(), &seen)
    }

    #[test]
    fn a_host_without_vcenter_has_nothing_to_say_of_it() {
        let none = fact(Err(IoError::NotFound("vCenter's inventory".into()))).unwrap();
        assert_eq!((none.sentence(), serde_json::to_string(&none).unwrap().as_str()), (None, "{}"));
        let text = r#"{"server": "vCenter", "name": "esx-01", "cluster": {"name": "GPU-A", "hosts": 8, "drs": "fullyAutomated", "ha": true, "ha_admission": true, "image_managed": true}}"#;
        assert_eq!(
            fact(Ok(text.into())).unwrap().sentence().unwrap(),
            "in GPU-A (8 hosts), DRS Fully Automated, HA on with admission control, image by Lifecycle Manager"
        );
        assert!(fact(Err(IoError::Unreachable("vc: no answer".into()))).is_err());
    }
}
