//! A door's boots: who tells them apart, and the door itself for whoever looks that up beside it.

use std::sync::{Arc, Weak};
use vsgpu_core::{BootIdentity, IoError, System};

/// Of a door `D`.
#[derive(Clone)]
pub(crate) struct Boot<D>(Option<(Arc<dyn BootIdentity>, Weak<D>)>);

impl<D: System + 'static> Boot<D> {
    /// Read-only use: no boot id, because nobody waits for a reboot.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    pub(crate) fn of(identity: Box<dyn BootIdentity>, door: Weak<D>) -> Self {
        Self(Some((identity.into(), door)))
    }

    pub(crate) fn id(&self) -> Result<String, IoError> {
        let not_asked = || IoError::Other { path: "the boot".into(), why: "is not asked by looking".into() };
        let (identity, door) = self.0.as_ref().ok_or_else(not_asked)?;
        let door: Arc<dyn System> = door.upgrade().ok_or_else(not_asked)?;
        identity.id(&door)
    }
}

impl<D> std::fmt::Debug for Boot<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Boot(known)" } else { "Boot(none)" })
    }
}
