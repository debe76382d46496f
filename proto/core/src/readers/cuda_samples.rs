//! Judges what `deviceQuery` and `vectorAdd` printed. The exit status alone proves nothing: a wrapper can
//! swallow it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What deviceQuery said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceQuery {
    /// `PASS` or `FAIL`; absent where neither was printed.
    pub result: Option<String>,
    /// Number of devices.
    pub devices: Option<u32>,
    /// Number that cudaGetDeviceCount returned on failure.
    pub error_code: Option<i32>,
    /// Name of device 0.
    pub first_device: Option<String>,
    /// CUDA version that the driver serves.
    pub driver_version: Option<String>,
    /// CUDA version the program was built with.
    pub runtime_version: Option<String>,
}

/// Reads deviceQuery's output.
pub fn device_query(text: &str) -> DeviceQuery {
    let after = |mark: &str| text.find(mark).map(|at| text[at + mark.len()..].trim_start());
    let word = |mark: &str| {
        after(mark)
            .and_then(|rest| rest.split([',', ' ', '\n', '\r']).next())
            .filter(|w| !w.is_empty())
            .map(str::to_string)
    };
    let result = text
        .lines()
        .rev()
        .map(str::trim)
        .find_map(|line| line.strip_prefix("Result = "))
        .map(|r| r.trim().to_string());
    let devices = word("NumDevs = ").or_else(|| word("Detected ")).and_then(|n| n.parse().ok());
    let first = text.lines().map(str::trim).find_map(|line| {
        let name = line.strip_prefix("Device 0:")?.trim();
        Some(name.trim_matches('"').to_string())
    });
    let code =
        after("cudaGetDeviceCount returned").and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    let (driver, runtime) = match (word("CUDA Driver Version = "), word("CUDA Runtime Version = ")) {
        (None, None) => after("CUDA Driver Version / Runtime Version")
            .and_then(|rest| rest.lines().next()?.split_once('/'))
            .map_or((None, None), |(a, b)| (Some(a.trim().to_string()), Some(b.trim().to_string()))),
        pair => pair,
    };
    DeviceQuery {
        result,
        devices,
        error_code: code,
        first_device: first,
        driver_version: driver,
        runtime_version: runtime,
    }
}

impl DeviceQuery {
    /// At least one device, and PASS.
    pub fn passed(&self) -> bool {
        self.result.as_deref() == Some("PASS") && self.devices.is_some_and(|n| n > 0)
    }
}

/// Whether vectorAdd computed right: the line `Test PASSED`, and no line that says it failed.
pub fn vector_add_passed(text: &str) -> bool {
    text.lines().any(|l| l.trim() == "Test PASSED") && !text.contains("FAILED") && !text.contains("Failed to")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pass_with_a_device_is_a_pass() {
        let good = "Detected 1 CUDA Capable device(s)\n\nDevice 0: \"GRID P100-8Q\"\ndeviceQuery, CUDA Driver = CUDART, CUDA Driver Version = 12.2, CUDA Runtime Version = 12.2, NumDevs = 1\nResult = PASS\n";
        assert!(device_query(good).passed());
        assert!(
            !device_query(
                "cudaGetDeviceCount returned 100\n-> no CUDA-capable device is detected\nResult = FAIL\n"
            )
            .passed()
        );
        assert!(!device_query("Result = PASS\n").passed(), "no device was seen");
        assert!(
            vector_add_passed("Test PASSED\nDone\n")
                && !vector_add_passed("Result verification FAILED\nTest PASSED?\n")
        );
    }
}
