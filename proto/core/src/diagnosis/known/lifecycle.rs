//! Causes of moving, evacuating and changing VMs. The most telling ones first.

use crate::diagnosis::cause::Confidence::{High, Low, Medium};
use crate::diagnosis::cause::Fix::{Do, Fleet};
use crate::diagnosis::cause::Pattern::Line;
use crate::diagnosis::cause::Source::*;
use crate::diagnosis::cause::{At, Cause, Sign, Stage};

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        id: "hot-migration-off",
        stage: Stage::Lifecycle,
        title: "vMotion of vGPU VMs is switched off in vCenter",
        signs: &[Sign {
            found_in: &[Task, VmwareLog, HostAgent],
            lines: &[Line("vGPU hot migration is not enabled")],
            within: 0,
            confidence: High,
        }],
        unless: &[],
        symptom: false,
        rivals: &[],
        cause: "The advanced setting of vCenter is not set.",
        fix: &[
            Do("Set vgpu.hotmigrate.enabled = true in vCenter's advanced settings."),
            Fleet(At::Vm, "expects: [vmotion]"),
        ],
        source: "F27; vSphere 8 docs; williamlam.com (A)",
    },
    Cause {
        id: "vmotion-too-slow",
        stage: Stage::Lifecycle,
        title: "vMotion stopped because the VM would stand still too long",
        signs: &[
            Sign {
                found_in: &[Task, VmwareLog],
                lines: &[Line("exceeded the maximum switchover time of")],
                within: 0,
                confidence: High,
            },
            Sign {
                found_in: &[Task, VmwareLog],
                lines: &[Line("maxSwitchoverTimeExceeded")],
                within: 0,
                confidence: High,
            },
        ],
        unless: &[],
        symptom: false,
        rivals: &[],
        cause: "A large frame buffer takes more than the limit (100 s by default) over this network.",
        fix: &[
            Do("Raise the VM's vMotion stun time limit (8.0 U2 and later)."),
            Do("Use 25 or 100 GbE for vMotion, or move the VM while its GPU is idle."),
            Do(
                "If the target hangs at \"Start restoring vGPU state\", compare the host drivers of both hosts.",
            ),
        ],
        source: "F27; KB 320352; vSphere 8 stun time limit (A)",
    },
    Cause {
        id: "drs-leaves-vgpu-vm",
        stage: Stage::Lifecycle,
        title: "Maintenance mode waits: DRS does not move VMs with vGPUs",
        signs: &[
            Sign {
                found_in: &[Task],
                lines: &[Line(
                    "Destination host is selected for fixing policy/rule violation or its healthy state is better",
                )],
                within: 0,
                confidence: Medium,
            },
            Sign {
                found_in: &[Task],
                lines: &[Line("DRS * vGPU * cannot be migrated automatically")],
                within: 0,
                confidence: Low,
            },
        ],
        unless: &[],
        symptom: false,
        rivals: &[("passthrough-stays", "the VM has a whole GPU, no vGPU")],
        cause: "DRS only places such VMs at their start unless it is told more.",
        fix: &[
            Do(
                "Set in the cluster's DRS options: PassthroughDrsAutomation = 1, LBMaxVmotionPerHost = 1, VgpuMMAutomationTimeoutSecs = -1 (7.0 U3f and later).",
            ),
            Do("Raise VmDevicesStunTimeTolerated where VMs stand still for more than 100 s."),
            Do("On older releases move the VMs by hand."),
        ],
        source: "F28; KB 313479, 88271, 94881 (A)",
    },
    Cause {
        id: "passthrough-stays",
        stage: Stage::Lifecycle,
        title: "A VM with a whole GPU cannot be moved",
        signs: &[
            Sign {
                found_in: &[Task],
                lines: &[Line("uses a device that prevents * PCI device")],
                within: 0,
                confidence: Medium,
            },
            Sign {
                found_in: &[Task],
                lines: &[Line("device that prevents the operation: Device 'PCI device")],
                within: 0,
                confidence: Medium,
            },
        ],
        unless: &[],
        symptom: false,
        rivals: &[],
        cause: "DirectPath I/O and vMotion exclude each other. Maintenance mode waits until the VM is off.",
        fix: &[
            Do("Shut the VM down for the window; `vsgpu apply` does it where the fleet file allows it."),
            Fleet(At::Vm, "shutdown-secs: 300"),
        ],
        source: "F28; KB 313479; text from memory (A rule, C text)",
    },
];
