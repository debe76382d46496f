//! What `nvidia-smi -q -x` says of the work on each GPU: utilisation and processes. Not a part of the report
//! that facts are made of: who asks for this asks at once and keeps nothing.

use crate::readers::nvidia_smi::failure;
use crate::readers::smi_tree::{Node, from_xml};

/// The work on one GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuWork {
    /// Its UUID; a MIG device's processes are those of its GPU.
    pub uuid: String,
    /// Utilisation in percent; absent where the driver does not say (MIG).
    pub busy_percent: Option<u32>,
    /// Who is on it, whatever for; absent where the driver does not say.
    pub processes: Option<Vec<GpuProcess>>,
}

/// A process on a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuProcess {
    /// Its number.
    pub pid: u32,
    /// Its program, as the driver names it.
    pub name: String,
}

/// Reads the XML.
///
/// # Errors
/// A sentence: the driver is not there, or the document is none.
pub fn read(text: &str) -> Result<Vec<GpuWork>, String> {
    if !text.contains("<nvidia_smi_log") {
        let cause = failure(text).map(|cause| cause.to_string());
        return Err(cause.unwrap_or("nvidia-smi printed no <nvidia_smi_log> document".into()));
    }
    let root = from_xml(text, "<nvidia_smi_log")?;
    let gpus = root.children.iter().filter(|node| node.name == "gpu");
    gpus.map(|gpu| {
        Ok(GpuWork {
            uuid: gpu.get(&[&["uuid"]]).ok_or("a GPU has no UUID")?.into(),
            busy_percent: gpu
                .get(&[&["utilization"], &["gpuutil"]])
                .and_then(|percent| percent.strip_suffix(" %")?.parse().ok()),
            processes: gpu.child(&["processes"]).and_then(processes),
        })
    })
    .collect()
}

/// `None` where the block says that it is not known (`N/A`).
fn processes(block: &Node) -> Option<Vec<GpuProcess>> {
    if block.children.is_empty() {
        return block.value.trim().is_empty().then(Vec::new);
    }
    // One that cannot be read is not nobody.
    let one = |info: &Node| {
        Some(GpuProcess {
            pid: info.get(&[&["pid"]])?.parse().ok()?,
            name: info.get(&[&["processname"]]).unwrap_or_default().into(),
        })
    };
    block.children.iter().filter(|child| child.name == "processinfo").map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(inside: &str) -> String {
        format!(
            "<nvidia_smi_log><gpu id=\"00000000:02:01.0\"><uuid>GPU-1</uuid>{inside}</gpu></nvidia_smi_log>"
        )
    }

    #[test]
    fn who_is_on_a_gpu() {
        let busy = "<utilization><gpu_util>97 %</gpu_util></utilization><processes><process_info><pid>2112</pid><type>C</type><process_name>engine</process_name></process_info></processes>";
        let expected = GpuWork {
            uuid: "GPU-1".into(),
            busy_percent: Some(97),
            processes: Some(vec![GpuProcess { pid: 2112, name: "engine".into() }]),
        };
        assert_eq!(read(&gpu(busy)), Ok(vec![expected]));
        let idle = read(&gpu("<utilization><gpu_util>0 %</gpu_util></utilization><processes>\n</processes>"));
        assert_eq!(
            idle.map(|all| (all[0].busy_percent, all[0].processes.clone())),
            Ok((Some(0), Some(vec![])))
        );
        let unknown = "<utilization><gpu_util>N/A</gpu_util></utilization><processes>N/A</processes>";
        assert_eq!(
            read(&gpu(unknown)).map(|all| (all[0].busy_percent, all[0].processes.clone())),
            Ok((None, None))
        );
        let half = "<processes><process_info><pid>N/A</pid></process_info></processes>";
        assert_eq!(read(&gpu(half)).map(|all| all[0].processes.clone()), Ok(None), "not: nobody");
        assert!(read("No devices were found").is_err());
        assert!(read("").is_err());
    }
}
