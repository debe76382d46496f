//! How many more devices of a kind fit on a host, as vCenter 9.0 counts them for DirectPath profiles; no profile has to exist
//! for the question (facts: vsphere-api 10).

use crate::fault::Fault;
use crate::session::Session;
use crate::soap::{Ref, object, text, typed};
use std::collections::BTreeMap;
use vsgpu_core::readers::xml::Element;

/// vGPU types of one question.
const AT_ONCE: usize = 50;

/// For each vGPU type the number that still fits: what is free, less what is reserved and not used. Types that vCenter
/// cannot count are left out. None where this server does not know the question.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn remaining(
    session: &mut Session,
    host: &Ref,
    vgpus: &[&String],
) -> Result<Option<BTreeMap<String, u64>>, Fault> {
    let Ok(manager) = session.named("directPathProfileManager") else { return Ok(None) };
    let target = typed("target", "DirectPathProfileManagerTargetHost", &object("host", host));
    let mut found = BTreeMap::new();
    for some in vgpus.chunks(AT_ONCE) {
        let of_type = |vgpu: &&String| {
            let config = text("vgpuProfile", vgpu);
            let config = typed("deviceConfig", "DirectPathProfileManagerVmiopDirectPathConfig", &config);
            typed("querySpec", "DirectPathProfileManagerCapacityQueryByDeviceConfig", &config)
        };
        let arguments = format!("{target}{}", some.iter().map(of_type).collect::<String>());
        let asked = session.within_session(|session| {
            session.look("DirectPathProfileManagerQueryCapacity", &manager, &arguments)
        });
        let answers = match asked {
            Err(fault)
                if ["MethodNotFound", "NotSupported", "NotImplemented"].contains(&fault.kind.as_str()) =>
            {
                return Ok(None);
            }
            other => other?,
        };
        // An answer says which type it is about; where it does not, there are as many as questions.
        let in_order = answers.len() == some.len();
        for (at, answer) in answers.iter().enumerate() {
            let said = answer.child("profile").and_then(|of| of.child("deviceConfig")?.child("vgpuProfile"));
            let name = said.map(|name| name.text.clone()).or_else(|| in_order.then(|| some[at].clone()));
            if let Some((name, free)) = name.zip(free(answer)) {
                found.insert(name, free);
            }
        }
    }
    Ok(Some(found))
}

fn free(answer: &Element) -> Option<u64> {
    let number = |name: &str| answer.child(name)?.text.parse::<u64>().ok();
    Some(number("remaining")?.saturating_sub(number("unusedReservation").unwrap_or_default()))
}
