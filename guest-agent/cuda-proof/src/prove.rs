//! What is proved on each device: the list that deviceQuery prints, vector additions whose every result is
//! checked, and how fast memory, copies and launches are.
//!
//! The summands are whole numbers below 2^16 that follow from the element's place, so every sum is exact in a
//! 32-bit float and the right result is known without keeping it: a hundred million elements need no more
//! host memory than one piece of 16 MiB.

use crate::driver_api::{Attribute, Device, DeviceMemory, Driver, HostMemory, Kernel};
use std::ffi::CStr;
use std::time::{Duration, Instant};
use vsgpu_core::readers::cuda_report::{CudaFailure, CudaReport, DeviceProof, Part, VERSION, VectorAdd};

/// The kernels, ended by a NUL for the driver.
const PTX: &str = concat!(include_str!("kernels.ptx"), "\0");
/// Threads of a block: every GPU takes 256.
const THREADS: u32 = 256;
/// Floats of one piece of host memory: 16 MiB.
const PIECE: usize = 4 << 20;
/// Bytes of each array of the bandwidth measurement: far larger than any cache, small enough for a vGPU of 1
/// GB.
const STREAM_BYTES: usize = 256 << 20;
/// Rounds of each measurement. The best one counts: nothing makes memory faster than it is.
const ROUNDS: usize = 10;
/// Launches of the empty kernel; the median counts.
const LAUNCHES: usize = 200;
/// Launches that are waited for together...
const QUEUED_LAUNCHES: u32 = 10_000;
/// ... or as many as are made in this time...
const QUEUED_FOR: Duration = Duration::from_millis(200);
/// ... and how often.
const QUEUED_ROUNDS: usize = 3;

/// Without a wish: NVIDIA's own sample adds so many, and so many show what the memory can do.
const DEFAULT_ELEMENTS: [u64; 2] = [50_000, 100_000_000];

/// Runs everything on every device; what was found before a failure is kept. Without elements the default
/// ones are added, the larger number cut to what a small vGPU's memory holds.
pub fn run(elements: &[u64]) -> CudaReport {
    let mut report = CudaReport { version: VERSION, ..CudaReport::default() };
    report.failure = all(elements, &mut report).err();
    report
}

fn all(elements: &[u64], report: &mut CudaReport) -> Result<(), CudaFailure> {
    let driver = Driver::load()?;
    report.cuda = Some(driver.cuda_version()?);
    let count = driver.count()?;
    if count == 0 {
        return Err(said("count", "no-device", "the driver is loaded, but CUDA sees no GPU".into()));
    }
    for ordinal in 0..count {
        let device = driver.device(ordinal)?;
        report.devices.push(listed(&device)?);
        let proof =
            report.devices.last_mut().ok_or_else(|| said("list", "bug", "the list is empty".into()))?;
        prove(&device, ordinal, elements, proof)?;
    }
    Ok(())
}

fn said(stage: &str, name: &str, text: String) -> CudaFailure {
    CudaFailure { stage: stage.into(), code: None, name: name.into(), text }
}

fn listed(device: &Device) -> Result<DeviceProof, CudaFailure> {
    let number = |attribute| device.attribute(attribute).map(|n| u32::try_from(n).unwrap_or(0));
    // A clock in kHz and a width in bits; memory moves data twice a cycle (CUDA Best Practices Guide,
    // theoretical bandwidth).
    let (clock, width) = (number(Attribute::MemoryClockKhz)?, number(Attribute::MemoryBusBits)?);
    let stated = f64::from(clock) * 1e3 * f64::from(width) / 8.0 * 2.0 / 1e9;
    let name = device.name()?;
    Ok(DeviceProof {
        part: Part::of(&name),
        name,
        pci: Some(device.pci()?.to_lowercase()),
        compute_capability: format!(
            "{}.{}",
            number(Attribute::ComputeMajor)?,
            number(Attribute::ComputeMinor)?
        ),
        memory_mib: device.memory()? as u64 >> 20,
        ecc: number(Attribute::Ecc)? == 1,
        multiprocessors: number(Attribute::Multiprocessors)?,
        stated_gb_s: (stated > 0.0).then_some(round(stated)),
        ..DeviceProof::default()
    })
}

fn prove(
    device: &Device,
    ordinal: i32,
    elements: &[u64],
    proof: &mut DeviceProof,
) -> Result<(), CudaFailure> {
    let ptx = CStr::from_bytes_with_nul(PTX.as_bytes())
        .map_err(|_| said("load", "bug", "the kernels hold a NUL".into()))?;
    let [vector_add, stream_add, nothing] =
        device.kernels(ptx, [c"vector_add", c"stream_add", c"nothing"])?;
    let mut host = device.allocate_host(PIECE)?;
    let chosen = if elements.is_empty() {
        let room = (device.free_memory()? / 16) as u64;
        DEFAULT_ELEMENTS.map(|count| count.min(room)).to_vec()
    } else {
        elements.to_vec()
    };
    for count in chosen {
        let done = add(device, vector_add, &mut host, count, proof)?;
        let passed = done.passed();
        let wrong = format!(
            "{} of {} results are wrong; the first: {}",
            done.wrong,
            count,
            done.first_wrong.as_deref().unwrap_or("?")
        );
        proof.vector_adds.push(done);
        if !passed {
            return Err(said(&format!("device {ordinal}: vector_add of {count}"), "wrong-result", wrong));
        }
    }
    proof.device_gb_s = Some(stream(device, stream_add)?);
    proof.launch_us = Some(launches(device, nothing)?);
    proof.queued_launch_us = Some(queued_launches(device, nothing)?);
    Ok(())
}

/// The two summands of an element, from its place alone.
fn summands(place: u64) -> (f32, f32) {
    let mixed = place.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 48) as f32, (mixed >> 32 & 0xffff) as f32)
}

/// Adds `count` elements in one launch and checks every result. The copies on the way are timed: they are the
/// ones that a program makes.
fn add(
    device: &Device,
    kernel: Kernel,
    host: &mut HostMemory,
    count: u64,
    proof: &mut DeviceProof,
) -> Result<VectorAdd, CudaFailure> {
    let bytes = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(4);
    let free = device.free_memory()?;
    if bytes.saturating_mul(3) > free {
        let text = format!(
            "{count} elements need {} MiB of GPU memory, {} MiB are free",
            bytes.saturating_mul(3) >> 20,
            free >> 20
        );
        return Err(said("memory", "too-little-memory", text));
    }
    let [a, b, c] = [device.allocate(bytes)?, device.allocate(bytes)?, device.allocate(bytes)?];
    let pieces =
        || (0..count as usize).step_by(PIECE).map(move |from| (from, PIECE.min(count as usize - from)));
    let mut speed = Speed::default();
    for (from, len) in pieces() {
        for (memory, second) in [(&a, false), (&b, true)] {
            for (at, value) in host.floats_mut()[..len].iter_mut().enumerate() {
                let (left, right) = summands((from + at) as u64);
                *value = if second { right } else { left };
            }
            speed.up.add(len, || device.to_device(memory, from * 4, host, len))?;
        }
    }
    let blocks = u32::try_from(count.div_ceil(THREADS.into())).unwrap_or(u32::MAX);
    let kernel_ms =
        device.timed(|| device.launch(kernel, blocks, THREADS, Some([a.at, b.at, c.at, count])))?;
    let mut done = VectorAdd { elements: count, kernel_ms: round(kernel_ms), ..VectorAdd::default() };
    for (from, len) in pieces() {
        speed.down.add(len, || device.to_host(host, &c, from * 4, len))?;
        for (at, is) in host.floats()[..len].iter().enumerate() {
            let place = (from + at) as u64;
            let (left, right) = summands(place);
            done.checked += 1;
            // Exact: both summands and their sum are whole numbers below 2^17.
            if *is != left + right {
                done.wrong += 1;
                done.first_wrong.get_or_insert_with(|| {
                    format!("element {place} is {is}, {left} + {right} is {}", left + right)
                });
            }
        }
    }
    speed.into(proof);
    Ok(done)
}

/// The fastest whole piece in each direction.
#[derive(Default)]
struct Speed {
    up: Best,
    down: Best,
}

#[derive(Default)]
struct Best(Option<f64>);

impl Best {
    #[expect(clippy::disallowed_methods, reason = "a program of its own: copies are measured by the clock")]
    fn add(
        &mut self,
        floats: usize,
        copy: impl FnOnce() -> Result<(), CudaFailure>,
    ) -> Result<(), CudaFailure> {
        let start = Instant::now();
        copy()?;
        let gb_s = (floats * 4) as f64 / start.elapsed().as_secs_f64().max(1e-9) / 1e9;
        // A piece that is not whole measures the call more than the copy.
        if floats == PIECE && self.0.is_none_or(|best| gb_s > best) {
            self.0 = Some(gb_s);
        }
        Ok(())
    }
}

impl Speed {
    fn into(self, proof: &mut DeviceProof) {
        let better = |old: Option<f64>, new: Best| match (old, new.0.map(round)) {
            (Some(old), Some(new)) => Some(old.max(new)),
            (old, new) => old.or(new),
        };
        proof.host_to_device_gb_s = better(proof.host_to_device_gb_s, self.up);
        proof.device_to_host_gb_s = better(proof.device_to_host_gb_s, self.down);
    }
}

/// Device memory bandwidth: two arrays are read, one is written.
fn stream(device: &Device, kernel: Kernel) -> Result<f64, CudaFailure> {
    let bytes = STREAM_BYTES.min(device.free_memory()? / 4) & !0xfff;
    if bytes < 1 << 20 {
        return Err(said("memory", "too-little-memory", "less than 4 MiB of GPU memory are free".into()));
    }
    let arrays: Vec<DeviceMemory> = (0..3).map(|_| device.allocate(bytes)).collect::<Result<_, _>>()?;
    let groups = (bytes / 16) as u64;
    let blocks = u32::try_from(groups.div_ceil(THREADS.into())).unwrap_or(u32::MAX);
    let arguments = Some([arrays[0].at, arrays[1].at, arrays[2].at, groups]);
    let mut best = f64::INFINITY;
    // The first round wakes the clocks up and is not the best one.
    for _ in 0..ROUNDS {
        best = best.min(device.timed(|| device.launch(kernel, blocks, THREADS, arguments))?);
    }
    Ok(round(3.0 * bytes as f64 / (best.max(1e-6) / 1e3) / 1e9))
}

#[expect(clippy::disallowed_methods, reason = "a program of its own: a launch is measured by the clock")]
fn launches(device: &Device, kernel: Kernel) -> Result<f64, CudaFailure> {
    let mut times = Vec::with_capacity(LAUNCHES);
    for _ in 0..LAUNCHES {
        let start = Instant::now();
        device.launch(kernel, 1, 1, None)?;
        device.synchronize()?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(round(times[times.len() / 2]))
}

/// The best of several rounds. A round is over in time, however slow the way to the GPU is.
#[expect(clippy::disallowed_methods, reason = "a program of its own: launches are measured by the clock")]
fn queued_launches(device: &Device, kernel: Kernel) -> Result<f64, CudaFailure> {
    let mut best = f64::INFINITY;
    for _ in 0..QUEUED_ROUNDS {
        let (start, mut made) = (Instant::now(), 0_u32);
        while made < QUEUED_LAUNCHES && (made % 100 != 0 || start.elapsed() < QUEUED_FOR) {
            device.launch(kernel, 1, 1, None)?;
            made += 1;
        }
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64() * 1e6 / f64::from(made.max(1)));
    }
    Ok(round(best))
}

/// Three digits behind the point: more would be noise in a file that people compare.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact_and_differ_from_place_to_place() {
        let mut seen = std::collections::BTreeSet::new();
        for place in (0..100_000_000).step_by(9973) {
            let (a, b) = summands(place);
            assert_eq!((a + b) as u64, a as u64 + b as u64);
            seen.insert((a as u32, b as u32));
        }
        assert!(seen.len() > 9_900, "a result of another element would not be noticed: {}", seen.len());
    }

    #[test]
    fn the_kernels_end_with_one_nul() {
        assert!(CStr::from_bytes_with_nul(PTX.as_bytes()).is_ok());
    }
}
