//! Advanced options of DRS that decide whether VMs with vGPUs leave a host by themselves. They belong to the host's
//! cluster: what one host says is so for all of it. Only vCenter has them.

use crate::facts::Vcenter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{Effect, Requirement, Verdict};

/// The options of the host's cluster.
pub struct DrsOptions;

/// An option (facts: vsphere-api 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum DrsOption {
    /// 1: DRS moves VMs with vGPUs and passthrough devices where they can move, from 8.0 U2.
    PassthroughDrsAutomation,
    /// VMs that move from or to one host at once.
    LBMaxVmotionPerHost,
    /// Seconds that a VM may stand still while it moves.
    VmDevicesStunTimeTolerated,
    /// -1: VMs with vGPUs are moved when their host enters maintenance mode, from 7.0 U3f.
    VgpuMMAutomationTimeoutSecs,
}

const ALL: [DrsOption; 4] = [
    DrsOption::PassthroughDrsAutomation,
    DrsOption::LBMaxVmotionPerHost,
    DrsOption::VmDevicesStunTimeTolerated,
    DrsOption::VgpuMMAutomationTimeoutSecs,
];

impl DrsOption {
    fn name(self) -> String {
        format!("{self:?}")
    }

    /// What DRS does where nobody has set it, where that is known.
    fn unset(self) -> Option<i64> {
        match self {
            Self::PassthroughDrsAutomation => Some(0),
            Self::VmDevicesStunTimeTolerated => Some(100),
            Self::LBMaxVmotionPerHost | Self::VgpuMMAutomationTimeoutSecs => None,
        }
    }
}

/// Values by option; without one it is to be as nobody had set it.
pub type DrsOptionsSpec = BTreeMap<DrsOption, Option<i64>>;

fn is(fact: &Vcenter, option: DrsOption) -> Option<i64> {
    let cluster = fact.host.as_ref()?.cluster.as_ref()?;
    let set = cluster.drs_options.iter().find(|(key, _)| *key == option.name());
    set.and_then(|(_, value)| value.trim().parse().ok())
}

fn shown(all: &[(DrsOption, Option<i64>)]) -> String {
    let one = |(option, value): &(DrsOption, Option<i64>)| match value {
        Some(value) => format!("{}={value}", option.name()),
        None => format!("{} not set", option.name()),
    };
    all.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl Requirement for DrsOptions {
    const NAME: &'static str = "drs-options";
    const ABOUT: &'static str =
        "Advanced options of DRS of the host's cluster: whether VMs with vGPUs are moved";
    const AFTER: &'static [&'static str] = &[];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 10;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"PassthroughDrsAutomation": 1, "VmDevicesStunTimeTolerated": 120}"#;
    type Spec = DrsOptionsSpec;
    type Fact = Vcenter;

    fn check(spec: &DrsOptionsSpec, fact: &Vcenter) -> Verdict {
        let Some(host) = &fact.host else {
            return Verdict::blocked(
                "options of DRS are vCenter's, and this host's agent does not reach it by vCenter",
                "serve the host by `vsgpu-host-agent gateway serve`, or take `drs-options` out",
            );
        };
        let Some(cluster) = &host.cluster else {
            return Verdict::blocked("the host is in no cluster: there is no DRS", "take `drs-options` out");
        };
        let differs = |(option, wanted): &(&DrsOption, &Option<i64>)| {
            is(fact, **option).or(option.unset()) != wanted.or(option.unset())
        };
        let open: Vec<(DrsOption, Option<i64>)> =
            spec.iter().filter(differs).map(|(option, wanted)| (*option, *wanted)).collect();
        let all: Vec<(DrsOption, Option<i64>)> =
            spec.iter().map(|(option, value)| (*option, *value)).collect();
        if open.is_empty() {
            return Verdict::met(shown(&all));
        }
        let now: Vec<(DrsOption, Option<i64>)> =
            open.iter().map(|(option, _)| (*option, is(fact, *option))).collect();
        let mut set = vec![];
        for (option, wanted) in &open {
            let Some(value) = wanted.or(option.unset()) else {
                return Verdict::blocked(
                    format!("what {} is where nobody has set it is not known", option.name()),
                    "remove the option in the vSphere Client: cluster, Configure, vSphere DRS, Advanced Options",
                );
            };
            set.push((option.name(), value.to_string()));
        }
        let effect = Effect::SetDrsOptions { cluster: cluster.name.clone(), set };
        Verdict::unmet(shown(&now), shown(&open), vec![effect])
    }

    fn as_spec(fact: &Vcenter) -> Option<DrsOptionsSpec> {
        fact.host.as_ref()?.cluster.as_ref()?;
        Some(ALL.iter().map(|option| (*option, is(fact, *option))).collect())
    }

    fn way_back(wish: &DrsOptionsSpec, mut before: DrsOptionsSpec) -> Option<DrsOptionsSpec> {
        // What somebody else set is theirs. What nobody had set goes back where it is known what that means.
        before.retain(|option, value| wish.contains_key(option) && value.or(option.unset()).is_some());
        (!before.is_empty()).then_some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::vcenter::{ClusterOfHost, HostInVcenter};

    fn fact(options: &[(&str, &str)]) -> Vcenter {
        let cluster = ClusterOfHost {
            name: "GPU-A".into(),
            hosts: 2,
            drs: Some("fullyAutomated".into()),
            drs_options: options.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ha: None,
            ha_admission: None,
            image_managed: None,
        };
        let host = HostInVcenter {
            server: "vc".into(),
            api: None,
            is_vcenter: true,
            name: "esx-01".into(),
            lockdown: None,
            cluster: Some(cluster),
            image: None,
            profiles: vec![],
            devices: vec![],
            counters: vec![],
        };
        Vcenter { host: Some(host) }
    }

    #[test]
    fn options_are_set_and_what_was_unset_is_restored_where_that_is_known() {
        let spec = |text: &str| serde_json::from_str::<DrsOptionsSpec>(text).unwrap();
        let check = |text: &str, options: &[(&str, &str)]| DrsOptions::check(&spec(text), &fact(options));
        let wish = r#"{"PassthroughDrsAutomation": 1, "LBMaxVmotionPerHost": 1}"#;
        let Verdict::Unmet { is, wants, effects } =
            check(wish, &[("LBMaxVmotionPerHost", "1"), ("other", "x")])
        else {
            panic!()
        };
        assert_eq!(
            (is.as_str(), wants.as_str()),
            ("PassthroughDrsAutomation not set", "PassthroughDrsAutomation=1")
        );
        assert_eq!(effects[0].to_string(), "set options of DRS of GPU-A: PassthroughDrsAutomation=1");
        assert!(check(wish, &[("LBMaxVmotionPerHost", "1"), ("PassthroughDrsAutomation", "1")]).is_met());
        // The way back.
        let before = DrsOptions::as_spec(&fact(&[("LBMaxVmotionPerHost", "4")])).unwrap();
        let back = DrsOptions::check(
            &before,
            &fact(&[("LBMaxVmotionPerHost", "1"), ("PassthroughDrsAutomation", "1")]),
        );
        let Verdict::Unmet { effects, .. } = back else { panic!("{back:?}") };
        assert_eq!(
            effects[0].to_string(),
            "set options of DRS of GPU-A: PassthroughDrsAutomation=0, LBMaxVmotionPerHost=4"
        );
        assert!(
            DrsOptions::check(
                &before,
                &fact(&[("LBMaxVmotionPerHost", "4"), ("PassthroughDrsAutomation", "0")])
            )
            .is_met()
        );
        let wished = spec(r#"{"PassthroughDrsAutomation": 1, "LBMaxVmotionPerHost": 1}"#);
        let before = DrsOptions::as_spec(&fact(&[("VmDevicesStunTimeTolerated", "50")])).unwrap();
        assert_eq!(
            DrsOptions::way_back(&wished, before),
            Some([(DrsOption::PassthroughDrsAutomation, None)].into())
        );
        let none = r#"{"VgpuMMAutomationTimeoutSecs": null}"#;
        assert!(matches!(check(none, &[("VgpuMMAutomationTimeoutSecs", "-1")]), Verdict::Blocked { .. }));
        assert!(check(none, &[]).is_met());
        assert!(matches!(DrsOptions::check(&spec("{}"), &Vcenter::default()), Verdict::Blocked { .. }));
        assert!(serde_json::from_str::<DrsOptionsSpec>(r#"{"Anything": 1}"#).is_err());
    }
}
