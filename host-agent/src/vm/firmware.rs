//! EFI firmware: needed where a GPU's BAR1 is larger than 256 MiB. Only checked: an installed BIOS guest does
//! not survive a conversion (facts: esxi D1), so it is never done.

use crate::facts::vm_config::VmConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{Requirement, Verdict};

/// Firmware of a VM.
pub struct Firmware;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// UEFI.
    Efi,
}

impl Requirement for Firmware {
    const NAME: &'static str = "firmware";
    const ABOUT: &'static str = "Firmware of the VM: efi is checked, never converted";
    const AFTER: &'static [&'static str] = &["clone-of"];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#""efi""#;
    type Spec = Kind;
    type Fact = VmConfig;

    fn check(_: &Kind, fact: &VmConfig) -> Verdict {
        if fact.firmware == "efi" {
            return Verdict::met("efi");
        }
        Verdict::blocked(
            format!(
                "the firmware is {}; a guest that was installed that way does not start after a change to efi",
                fact.firmware
            ),
            "install the guest anew in a VM with EFI firmware",
        )
    }

    fn as_spec(fact: &VmConfig) -> Option<Kind> {
        (fact.firmware == "efi").then_some(Kind::Efi)
    }
}
