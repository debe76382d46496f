//! What a fleet file may want of the driver. Apart from the requirement, because others follow from it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use vsgpu_core::WordOr;
use vsgpu_core::artifact::Artifact;

/// What is wanted: no driver at all, or this one.
pub type DriverSpec = WordOr<Absent, PackageSpec>;

/// The one word.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Absent {
    /// Removed.
    Absent,
}

/// A driver, and what may be done for it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
pub struct PackageSpec {
    /// NVIDIA's `.run`, `.deb` or `.rpm`; `-grid` for a vGPU.
    pub package: Artifact,
    /// Kernel module: by the GPU where it is left out.
    #[serde(default, skip_serializing_if = "is_auto")]
    pub kernel_module: KernelModule,
    /// Key and certificate that sign the modules, for guests with Secure Boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing: Option<Signing>,
    /// Remove packages that carry another driver.
    #[serde(default, skip_serializing_if = "is_false")]
    pub remove_packages: bool,
    /// Stop services and end programs that hold the GPU.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stop_processes: bool,
}

/// Which kernel module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KernelModule {
    /// The one that drives the GPU; the installer's own choice where both do.
    #[default]
    Auto,
    /// The open one: Turing and later, the only one from Blackwell on.
    Open,
    /// The proprietary one: up to Ada and Hopper.
    Proprietary,
}

/// Key and certificate. The key lies on the guest, readable by root alone, and stays: modules of later
/// kernels are signed with it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
pub struct Signing {
    /// Private key, PEM.
    pub key: Artifact,
    /// X.509 certificate, DER; enrolled in the guest once with mokutil.
    pub certificate: Artifact,
}

impl Signing {
    pub(crate) fn artifacts_mut(&mut self) -> [&mut Artifact; 2] {
        [&mut self.key, &mut self.certificate]
    }

    /// As nvidia-installer takes them.
    pub(crate) fn options(&self) -> [String; 2] {
        let option = |name: &str, file: &Artifact| format!("--module-signing-{name}={}", file.stored(None));
        [option("secret-key", &self.key), option("public-key", &self.certificate)]
    }
}

fn is_auto(module: &KernelModule) -> bool {
    *module == KernelModule::Auto
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// The driver that is wanted, for the requirements that follow from it; `None` where it is to be absent.
pub(crate) fn wanted(driver: &Value) -> Option<PackageSpec> {
    match DriverSpec::deserialize(driver).ok()? {
        DriverSpec::Map(spec) => Some(spec),
        DriverSpec::Word(Absent::Absent) => None,
    }
}
