//! The order of elements that a server insists on: it reads a data object with a cursor that only goes forward.

use vsgpu_core::readers::xml::Element;

/// For each call and data object that the client sends: its elements in their order; those with `*` may come again.
const ORDER: [(&str, &[&str]); 68] = [
    ("RetrieveServiceContent", &["_this"]),
    ("Login", &["_this", "userName", "password", "locale"]),
    ("Logout", &["_this"]),
    ("CreateContainerView", &["_this", "container", "type*", "recursive"]),
    ("DestroyView", &["_this"]),
    ("RetrievePropertiesEx", &["_this", "specSet*", "options"]),
    ("ContinueRetrievePropertiesEx", &["_this", "token"]),
    ("HasPrivilegeOnEntities", &["_this", "entity*", "sessionId", "privId*"]),
    ("CurrentTime", &["_this"]),
    ("QueryAvailablePerfMetric", &["_this", "entity", "beginTime", "endTime", "intervalId"]),
    ("QueryPerf", &["_this", "querySpec*"]),
    (
        "querySpec",
        &["entity", "startTime", "endTime", "maxSample", "metricId*", "intervalId", "format", "deviceConfig"],
    ),
    ("metricId", &["counterId", "instance"]),
    ("specSet", &["propSet*", "objectSet*", "reportMissingObjectsInResults"]),
    ("propSet", &["type", "all", "pathSet*"]),
    ("objectSet", &["obj", "skip", "selectSet*"]),
    ("selectSet", &["name", "type", "path", "skip", "selectSet*"]),
    ("options", &["maxObjects"]),
    ("QueryConfigTarget", &["_this", "host"]),
    ("RetrieveHardwareUptime", &["_this"]),
    ("HostImageConfigGetAcceptance", &["_this"]),
    ("HostImageConfigGetProfile", &["_this"]),
    ("fetchSoftwarePackages", &["_this"]),
    ("QueryModules", &["_this"]),
    ("QueryConfiguredModuleOptionString", &["_this", "name"]),
    ("BrowseDiagnosticLog", &["_this", "host", "key", "start", "lines"]),
    ("UpdateGraphicsConfig", &["_this", "config"]),
    // Of graphics, and of passthrough.
    (
        "config",
        &[
            "hostDefaultGraphicsType",
            "sharedPassthruAssignmentPolicy",
            "deviceType*",
            "id",
            "passthruEnabled",
            "applyNow",
            "hardwareLabel",
        ],
    ),
    ("deviceType", &["deviceId", "graphicsType", "vgpuMode"]),
    ("RefreshGraphicsManager", &["_this"]),
    ("UpdatePassthruConfig", &["_this", "config*"]),
    ("UpdateModuleOptionString", &["_this", "name", "options"]),
    ("UpdateHostImageAcceptanceLevel", &["_this", "newAcceptanceLevel"]),
    ("RestartService", &["_this", "id"]),
    ("EnterMaintenanceMode_Task", &["_this", "timeout", "evacuatePoweredOffVms", "maintenanceSpec"]),
    ("ExitMaintenanceMode_Task", &["_this", "timeout"]),
    ("RebootHost_Task", &["_this", "force"]),
    ("PowerOnVM_Task", &["_this", "host"]),
    ("PowerOffVM_Task", &["_this"]),
    ("ShutdownGuest", &["_this"]),
    ("CancelTask", &["_this"]),
    ("ReconfigVM_Task", &["_this", "spec"]),
    ("ClusterEnterMaintenanceMode", &["_this", "host*", "option*", "info"]),
    ("RetrieveVgpuProfileInfo", &["_this"]),
    ("QueryOptions", &["_this", "name"]),
    ("ReconfigureComputeResource_Task", &["_this", "spec", "modify"]),
    ("dasConfig", &["enabled"]),
    (
        "drsConfig",
        &[
            "enabled",
            "enableVmBehaviorOverrides",
            "defaultVmBehavior",
            "vmotionRate",
            "scaleDescendantsShares",
            "option*",
        ],
    ),
    ("option", &["key", "value"]),
    ("RetrieveManagedMethodExecuter", &["_this"]),
    ("ExecuteSoap", &["_this", "moid", "version", "method", "argument*"]),
    ("argument", &["name", "val"]),
    ("InstallHostPatchV2_Task", &["_this", "metaUrls*", "bundleUrls*", "vibUrls*", "spec"]),
    ("StopService", &["_this", "id"]),
    ("FindExtension", &["_this", "extensionKey"]),
    ("DirectPathProfileManagerQueryCapacity", &["_this", "target", "querySpec*"]),
    ("MakeDirectory", &["_this", "name", "datacenter", "createParentDirectories"]),
    ("CloneVM_Task", &["_this", "folder", "name", "spec"]),
    (
        "location",
        &[
            "service",
            "folder",
            "datastore",
            "diskMoveType",
            "pool",
            "host",
            "disk*",
            "transform",
            "deviceChange*",
        ],
    ),
    // Of a VM's settings, of a clone, of a cluster.
    (
        "spec",
        &[
            "dasConfig",
            "drsConfig",
            "location",
            "template",
            "config",
            "customization",
            "powerOn",
            "changeVersion",
            "name",
            "version",
            "numCPUs",
            "memoryMB",
            "deviceChange*",
            "cpuAllocation",
            "memoryAllocation",
            "latencySensitivity",
            "extraConfig*",
            "swapPlacement",
            "bootOptions",
            "firmware",
            "memoryReservationLockedToMax",
        ],
    ),
    ("deviceChange", &["operation", "fileOperation", "device", "profile"]),
    (
        "device",
        &[
            "key",
            "deviceInfo",
            "backing",
            "connectable",
            "slotInfo",
            "controllerKey",
            "unitNumber",
            "numaNode",
        ],
    ),
    (
        "backing",
        &["vgpu", "deviceName", "useAutoDetect", "id", "deviceId", "systemId", "vendorId", "allowedDevice*"],
    ),
    ("allowedDevice", &["vendorId", "deviceId", "subVendorId", "subDeviceId", "revisionId"]),
    ("cpuAllocation", &["reservation", "expandableReservation", "limit", "shares"]),
    ("memoryAllocation", &["reservation", "expandableReservation", "limit", "shares"]),
    ("extraConfig", &["key", "value"]),
    ("", &[]),
];

/// What is wrong with a call, in the words of a real server.
pub fn wrong(element: &Element) -> Option<String> {
    let (_, order) = ORDER.iter().find(|(name, _)| *name == element.name)?;
    let mut at = 0;
    for child in &element.children {
        let place = order[at..].iter().position(|name| name.trim_end_matches('*') == child.name);
        let Some(place) = place else {
            return Some(format!(
                "Unexpected element tag \"{}\" seen while parsing serialized DataObject of {} (simulated)",
                child.name, element.name
            ));
        };
        at += place;
        if !order[at].ends_with('*') {
            at += 1;
        }
        if child.name == "selectSet" && child.attribute("type").is_none() {
            return Some("selectSet: the type of a SelectionSpec is missing (simulated)".into());
        }
        if let Some(wrong) = wrong(child) {
            return Some(wrong);
        }
    }
    None
}
