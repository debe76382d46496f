//! Readers of what tools print and files hold: text in, values out, never a panic.

pub mod bitfusion;
pub mod cuda_report;
pub mod cuda_samples;
pub mod dialect;
pub mod esxcli;
pub mod gpu_work;
pub mod key_value;
pub mod nvidia_smi;
mod smi_tree;
pub mod vim_cmd;
pub mod vmx;
pub mod xml;
