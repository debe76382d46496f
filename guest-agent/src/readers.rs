//! Readers of single outputs, for the tests that go through real captures.

pub use crate::facts::dkms::read as dkms_status;
pub use crate::facts::gridd_log::{GriddOutcome, gridd_outcome};
pub use crate::facts::health::loaded_version;
pub use crate::facts::host_view::host_view;
pub use crate::guest::driver::{InstallerLog, installer_log};
pub use crate::guest::license::gridd_values;
