//! NVIDIA's component in the image that a host is made from: the way of the host's driver where vSphere Lifecycle Manager
//! owns what is installed, and from vCenter 9 on the only one. It comes into the image first, while all VMs run; the host is
//! remediated in its window. Not a key of the fleet file: `vgpu-manager` and `gpu-management-daemon` ask for it.

use crate::facts::Vcenter;
use crate::facts::host_image::{HostImage, MayChange};
use crate::facts::packages::PackageSpec;
use vsgpu_core::artifact::{Artifact, Kind};
use vsgpu_core::requirement::{Cost, Implied, Needs, TakesEffect};
use vsgpu_core::words::first;
use vsgpu_core::{Effect, Requirement, Verdict};

/// The component is in the image.
pub struct Image;

/// Seconds for vCenter to fetch a bundle and to make the image, or to remediate a host with its reboot. The deadline of the step
/// may be earlier.
const WITHIN: u32 = 7_200;
/// Packages in a message.
const NAMED: usize = 3;

fn commit(image: &HostImage, spec: &PackageSpec) -> Effect {
    Effect::AddToImage { of: image.of.clone(), package: spec.path(), within_secs: WITHIN }
}

/// What stands against changing the image at all, and what to do.
fn refused(image: &HostImage, spec: &PackageSpec) -> Option<(String, String)> {
    let of = &image.of;
    let by_hand = "add NVIDIA's component to that image in the vSphere Client (Updates, Hosts, Image, Edit) and remediate the host; vsgpu sees what is installed";
    if let Some(why) = &image.unread {
        return Some((format!("the image of {of} cannot be read: {why}"), by_hand.into()));
    }
    if let Some(owner) = image.orchestrator.as_ref().filter(|_| !image.holds(&spec.package)) {
        return Some((
            format!("the image of {of} is looked after by {owner}: a change made past it is drift"),
            format!(
                "import {} there (VCF Operations) and remediate there; or write `images-in-vcf = allow` into the gateway's file and restart the gateway",
                spec.package.file_name()
            ),
        ));
    }
    if image.may == MayChange::Never {
        let holds = image.holds(&spec.package);
        let (why, first) = match holds {
            true => (
                format!(
                    "the image of {of} holds {} already, and this host is not remediated",
                    spec.package.version().unwrap_or_default()
                ),
                "remediate the host in the vSphere Client (Updates, Hosts, Image)",
            ),
            false => (
                format!(
                    "{} (vSphere Lifecycle Manager): a package installed by hand is undone by the next remediation, or blocks it",
                    image.owned()
                ),
                "add NVIDIA's component to that image in the vSphere Client (Updates, Hosts, Image, Edit) and remediate the host",
            ),
        };
        return Some((
            why,
            format!(
                "{first}; or let vsgpu do it: `images = remediate` (or `commit`) in the gateway's file, and restart the gateway"
            ),
        ));
    }
    if image.base.is_none() {
        return Some((
            format!("{of} has no image yet"),
            "set one up in the vSphere Client (Updates, Hosts, Image), then `vsgpu plan`".into(),
        ));
    }
    if !matches!(spec.package.kind, Some(Kind::Component) | None) {
        return Some((
            format!("{} is no component: an image takes nothing else", spec.package.file_name()),
            "name NVIDIA's bundle with a component (NVD-..zip) instead of the single .vib".into(),
        ));
    }
    let newer = image.like(&spec.package).filter(|_| !spec.downgrade);
    let leading = vsgpu_core::units::DriverVersion::leading;
    let wanted = spec.package.version().and_then(leading);
    newer.filter(|is| leading(&is.version) > wanted).map(|is| {
        (
            format!("the image of {of} holds {} {}, which is newer", is.name, is.version),
            "name that version, or add `downgrade: true` if the older one is really wanted".into(),
        )
    })
}

/// Whether an image would bring another release of ESXi: `8.0.3-0.0.24022510`, `9.1.1.0.25714478` against `8.0.2`.
fn upgrades(base: &str, esx: &str) -> bool {
    let release = |text: &str| {
        let parts = text.split(['.', '-']).take(3).map(|part| part.parse::<u32>().ok());
        parts.collect::<Option<Vec<u32>>>().filter(|parts| parts.len() == 3)
    };
    release(base).zip(release(esx)).is_some_and(|(base, esx)| base != esx)
}

/// How a host gets a package that it does not have, by its image. `is`: what it has; `esx`: its release.
pub(super) fn verdict(image: &HostImage, spec: &PackageSpec, esx: &str, is: String, wants: &str) -> Verdict {
    if let Some((why, hint)) = refused(image, spec) {
        return Verdict::blocked(why, hint);
    }
    // vCenter would refuse it, once the VMs are down.
    if image.status.as_deref() == Some("INCOMPATIBLE") && image.holds(&spec.package) {
        let by_hand = first(image.by_hand.iter().cloned(), NAMED, "");
        let of = &image.of;
        return match by_hand.is_empty() {
            true => Verdict::blocked(
                format!("vCenter calls the host incompatible with the image of {of}"),
                "see why in the vSphere Client (Updates, Hosts, Image, Check Compliance), mend that, then `vsgpu plan`",
            ),
            false => Verdict::blocked(
                format!(
                    "vCenter calls the host incompatible with the image of {of}; on the host and not in the image: {by_hand}"
                ),
                "see why in the vSphere Client (Updates, Hosts, Image, Check Compliance); mostly the image needs that component, as new or newer. Remove nothing that disks or network use",
            ),
        };
    }
    let base = image.base.clone().unwrap_or_default();
    // A wish for a driver upgrades nobody's hypervisor.
    if image.may == MayChange::Remediate && upgrades(&base, esx) {
        return Verdict::blocked(
            format!(
                "the image of {} has ESXi {base}, the host {esx}: it would come with the driver",
                image.of
            ),
            "remediate the host in vCenter first; then `vsgpu apply` goes on",
        );
    }
    let remediate = Effect::Remediate { of: image.of.clone(), base, within_secs: WITHIN };
    let effects = match (image.holds(&spec.package), image.may) {
        (true, MayChange::Remediate) => vec![remediate],
        (false, MayChange::Remediate) => vec![commit(image, spec), remediate],
        (false, _) => vec![commit(image, spec)],
        (true, _) => {
            return Verdict::blocked(
                format!("the image of {} holds {wants} now, and the host is not remediated", image.of),
                "remediate the host in vCenter: vSphere Client, Updates, Hosts, Image, Remediate; then `vsgpu apply` goes on",
            );
        }
    };
    Verdict::unmet(is, wants, effects)
}

/// What the change of a package costs: one that only goes into the image needs no window, and no reboot.
pub(super) fn cost_of(verdict: &Verdict) -> Cost {
    match verdict {
        Verdict::Unmet { effects, .. } if is_commit_only(effects) => {
            Cost { needs: Needs::Nothing, takes_effect: TakesEffect::AtOnce, sure: true }
        }
        _ => Cost { needs: Needs::MaintenanceMode, takes_effect: TakesEffect::AfterReboot, sure: true },
    }
}

/// Whether a change only goes into the image, and waits for people then: it needs no window.
pub fn is_commit_only(effects: &[Effect]) -> bool {
    let commits = effects.iter().any(|effect| matches!(effect, Effect::AddToImage { .. }));
    commits && !effects.iter().any(|effect| matches!(effect, Effect::Remediate { .. }))
}

/// Whether a change begins with the image.
pub fn begins_with_image(effects: &[Effect]) -> bool {
    matches!(effects, [Effect::AddToImage { .. }, ..])
}

impl Requirement for Image {
    const NAME: &'static str = "image";
    const ABOUT: &'static str = "NVIDIA's component is in the host's image (asked by the plan)";
    const AFTER: &'static [&'static str] = &[];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 60;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"package": "files/NVD-AIE-800_550.90.05-1OEM.800.1.0.20613240_24013424.zip", "datastore": "datastore1"}"#;
    const IS_KEY: bool = false;
    type Spec = PackageSpec;
    type Fact = Vcenter;

    fn check(spec: &PackageSpec, fact: &Vcenter) -> Verdict {
        let image = fact.host.as_ref().and_then(|host| host.image.as_ref());
        let Some(image) = image else {
            return Verdict::blocked(
                "the host has no image any more",
                "`vsgpu plan` again: packages are installed on the host itself",
            );
        };
        let wants = spec.package.version().unwrap_or_default();
        if image.holds(&spec.package) {
            return Verdict::met(format!("the image of {} holds {wants}", image.of));
        }
        if let Some((why, hint)) = refused(image, spec) {
            return Verdict::blocked(why, hint);
        }
        let is = image.like(&spec.package).map_or("absent".into(), |is| is.version.clone());
        Verdict::unmet(is, wants, vec![commit(image, spec)])
    }

    fn as_spec(_: &Vcenter) -> Option<PackageSpec> {
        None
    }

    fn artifacts_mut(spec: &mut PackageSpec) -> Vec<&mut Artifact> {
        vec![&mut spec.package]
    }

    fn datastore(spec: &PackageSpec) -> Option<String> {
        Some(spec.datastore.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::host_image::Component;

    fn spec() -> PackageSpec {
        let held = vsgpu_core::artifact::PackageContent {
            name: "NVD-VGPU".into(),
            version: "550.90.05-1OEM.800.1.0.20613240".into(),
            acceptance: None,
        };
        let package = Artifact {
            artifact: "f/NVD-VGPU-800_550.90.05.zip".into(),
            sha256: Some("ab".repeat(32)),
            size: Some(1),
            kind: Some(Kind::Component),
            holds: vec![held],
        };
        PackageSpec { package, datastore: "ds1".into(), downgrade: false, allow_drift: false }
    }

    fn image(version: Option<&str>, may: MayChange) -> HostImage {
        let of = |version: &str| Component { name: "NVD-VGPU-800".into(), version: version.into() };
        let daemon = Component { name: "nvd-gpu-mgmt-daemon".into(), version: "550.90.05-0.0.0000".into() };
        HostImage {
            of: "GPU-A".into(),
            is_of_cluster: true,
            base: Some("8.0.3-0.0.24022510".into()),
            components: version.map(of).into_iter().chain([daemon]).collect(),
            may,
            ..HostImage::default()
        }
    }

    fn said(image: &HostImage, spec: &PackageSpec) -> String {
        match verdict(image, spec, "8.0.3", "absent".into(), "550.90.05") {
            Verdict::Unmet { effects, .. } => {
                let all: Vec<String> = effects.iter().map(ToString::to_string).collect();
                all.join("; ")
            }
            Verdict::Blocked { why, .. } => format!("BLOCKED {why}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn into_the_image_first_and_onto_the_host_where_that_is_allowed() {
        let path = "/vmfs/volumes/ds1/vsgpu/abababababababab/NVD-VGPU-800_550.90.05.zip";
        let add = format!("add {path} to the image of GPU-A");
        let remediate = "remediate the host by the image of GPU-A (ESXi 8.0.3-0.0.24022510)";
        let newest = "550.90.05-1OEM.800.1.0.20613240";
        for (version, may, is) in [
            (None, MayChange::Remediate, format!("{add}; {remediate}")),
            (Some("535.183.04-1OEM"), MayChange::Remediate, format!("{add}; {remediate}")),
            (Some(newest), MayChange::Remediate, remediate.to_string()),
            (None, MayChange::Commit, add),
            (
                Some(newest),
                MayChange::Commit,
                "BLOCKED the image of GPU-A holds 550.90.05 now, and the host is not remediated".into(),
            ),
            (
                Some("570.10.01-1OEM"),
                MayChange::Remediate,
                "BLOCKED the image of GPU-A holds NVD-VGPU-800 570.10.01-1OEM, which is newer".into(),
            ),
        ] {
            assert_eq!(said(&image(version, may), &spec()), is);
        }
        assert!(
            said(&image(None, MayChange::Never), &spec())
                .starts_with("BLOCKED GPU-A has one image for its hosts")
        );
    }

    #[test]
    fn what_is_somebody_elses_is_left() {
        let mut of_vcf = image(None, MayChange::Remediate);
        of_vcf.orchestrator = Some("SDDC Manager".into());
        assert!(said(&of_vcf, &spec()).contains("looked after by SDDC Manager"));
        // What it put there itself may be brought onto the host.
        let mut its_own = image(Some("550.90.05-1OEM"), MayChange::Remediate);
        its_own.orchestrator = of_vcf.orchestrator;
        assert!(said(&its_own, &spec()).starts_with("remediate"));
        let mut by_hand = image(Some("550.90.05-1OEM"), MayChange::Remediate);
        by_hand.status = Some("INCOMPATIBLE".into());
        by_hand.by_hand = vec!["NVD-VGPU(570.10.01-1OEM)".into()];
        assert!(said(&by_hand, &spec()).contains("not in the image: NVD-VGPU(570.10.01-1OEM)"));
        by_hand.by_hand.clear();
        let why = "vCenter calls the host incompatible with the image of GPU-A";
        assert!(said(&by_hand, &spec()).contains(why));
        let mut vib = spec();
        vib.package.kind = Some(Kind::Vib);
        assert!(said(&image(None, MayChange::Commit), &vib).contains("is no component"));
        let unread = HostImage { unread: Some("a privilege".into()), ..image(None, MayChange::Remediate) };
        assert!(said(&unread, &spec()).contains("cannot be read: a privilege"));
        let newer = HostImage { base: Some("9.1.1.0.25714478".into()), ..image(None, MayChange::Remediate) };
        assert!(said(&newer, &spec()).contains("has ESXi 9.1.1.0.25714478, the host 8.0.3"));
        assert!(upgrades("8.0.3-0.0.24022510", "8.0.2") && !upgrades("8.0.3-0.0.24022510", "8.0.3"));
        assert!(!upgrades("", "8.0.3"), "what cannot be read refuses nothing");
        let none = HostImage { base: None, ..image(None, MayChange::Commit) };
        assert!(said(&none, &spec()).contains("has no image yet"));
    }
}
