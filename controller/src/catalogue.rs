//! Everything all agents know, for checking and planning without them.

use std::sync::LazyLock;
use vsgpu_core::Catalogue;

/// All requirements and facts.
pub fn catalogue() -> &'static Catalogue {
    static ALL: LazyLock<Catalogue> = LazyLock::new(|| {
        let mut all = vsgpu_host_agent::catalogue();
        let guest = vsgpu_guest_agent::catalogue();
        all.entries.extend(guest.entries);
        all.extra_facts.extend(guest.extra_facts);
        all
    });
    &ALL
}
