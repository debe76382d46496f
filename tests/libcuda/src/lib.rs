//! A simulated `libcuda.so.1`: the functions that the CUDA proof calls, on a GPU that is the CPU. Its device
//! says that it is simulated, and it computes what the kernels of the proof say, by their names, only after
//! it was given PTX that has them.
//!
//! It refuses what the real one refuses: calls before `cuInit`, unknown devices, memory that was never
//! allocated, copies beyond an allocation, kernels that the module lacks. How it fails on demand is the file
//! named by `VSGPU_SIM_CUDA`, one word: `none` (no device), `init` (CUDA error 802), `wrong` (one wrong sum),
//! `hang`, `small` (1 MiB of memory), `lost` (the device is gone when a kernel is launched), `old` (PTX is
//! too new for it). A version such as `13.3` is no failure: the driver is as new as that.
//!
//! Where `LUPINE_SERVER` is set it plays the shim of an engine for GPUs over the network: it keeps a connection to
//! the stand-in engine there, and answers 46 to everything when that breaks. It still computes here.

#![allow(clippy::disallowed_methods, reason = "test code: it plays a driver library")]

mod engine;

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;

const OK: c_int = 0;
const INVALID_VALUE: c_int = 1;
const OUT_OF_MEMORY: c_int = 2;
const NOT_INITIALIZED: c_int = 3;
const DEVICE_UNAVAILABLE: c_int = 46;
const NO_DEVICE: c_int = 100;
const INVALID_DEVICE: c_int = 101;
const INVALID_CONTEXT: c_int = 201;
const UNSUPPORTED_PTX: c_int = 222;
const NOT_FOUND: c_int = 500;
const LAUNCH_FAILED: c_int = 719;
const NOT_READY: c_int = 802;

const NAME: &[u8] = b"Simulated GPU (the CPU)\0";
/// Those of the proof, and behind them the one of NVIDIA's sample vectorAdd, which counts its elements in 32 bits.
const KERNELS: [&str; 4] = ["vector_add", "stream_add", "nothing", "vectorAdd"];
const OF_THE_PROOF: usize = 3;

#[derive(Default)]
struct State {
    initialised: bool,
    current: bool,
    /// Allocations by address, with their size in bytes.
    memory: BTreeMap<u64, Vec<u8>>,
    module: bool,
    /// Nanoseconds at which each event was recorded, by its number.
    events: Vec<u128>,
    of_engine: engine::Of,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

fn with<T>(f: impl FnOnce(&mut State) -> T) -> T {
    let mut state = STATE.lock().unwrap_or_else(|e| e.into_inner());
    f(state.get_or_insert_with(State::default))
}

/// The connection to an engine, once there is one.
static ENGINE: Mutex<Option<TcpStream>> = Mutex::new(None);

/// Connects, where there is an engine to connect to; whether all is well.
fn connect() -> bool {
    let Ok(servers) = std::env::var("LUPINE_SERVER") else { return true };
    let stream = servers.split(',').next().and_then(|server| TcpStream::connect(server).ok());
    let Some(mut stream) = stream else { return false };
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(1) if byte[0] == b'\n' => break,
            Ok(1) => {}
            _ => return false,
        }
    }
    let held = stream.write_all(b"e").is_ok() && stream.set_nonblocking(true).is_ok();
    *ENGINE.lock().unwrap_or_else(|e| e.into_inner()) = Some(stream);
    held
}

/// Whether the connection still stands.
fn connected() -> bool {
    let engine = ENGINE.lock().unwrap_or_else(|e| e.into_inner());
    let closed = |stream: &TcpStream| match stream.peek(&mut [0]) {
        Ok(n) => n == 0,
        Err(why) => why.kind() != std::io::ErrorKind::WouldBlock,
    };
    !engine.as_ref().is_some_and(closed)
}

fn mode() -> String {
    std::env::var("VSGPU_SIM_CUDA")
        .ok()
        .and_then(|path| std::fs::read_to_string(path).ok())
        .unwrap_or_default()
        .trim()
        .to_string()
}

fn now() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos())
}

/// Memory of the device, bytes.
fn size() -> usize {
    if mode() == "small" { 1 << 20 } else { 4 << 30 }
}

/// Runs in a context, as everything about memory and kernels does.
fn inside(f: impl FnOnce(&mut State) -> c_int) -> c_int {
    with(|s| match (s.initialised, s.current) {
        (false, _) => NOT_INITIALIZED,
        (_, false) => INVALID_CONTEXT,
        _ if !connected() => DEVICE_UNAVAILABLE,
        _ => f(s),
    })
}

fn known(device: c_int, f: impl FnOnce() -> c_int) -> c_int {
    with(|s| match (s.initialised, device) {
        (false, _) => NOT_INITIALIZED,
        (_, 0) => f(),
        _ => INVALID_DEVICE,
    })
}

/// # Safety
/// As `cuda.h` says, here and below: pointers are valid for what is written through them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuInit(flags: c_uint) -> c_int {
    match mode().as_str() {
        "init" => return NOT_READY,
        "none" => return NO_DEVICE,
        "hang" => loop {
            std::thread::park();
        },
        _ if flags != 0 => return INVALID_VALUE,
        _ => {}
    }
    if !connect() {
        return DEVICE_UNAVAILABLE;
    }
    with(|s| s.initialised = true);
    OK
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    // `13.3` in the file of failures is no failure: the driver is as new as that.
    let newer = mode().split_once('.').and_then(|(major, minor)| {
        Some(major.parse::<c_int>().ok()? * 1000 + minor.parse::<c_int>().ok()? * 10)
    });
    unsafe { *version = newer.unwrap_or(12_020) };
    OK
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    known(0, || {
        unsafe { *count = 1 };
        OK
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    known(ordinal, || {
        unsafe { *device = 0 };
        OK
    })
}

/// # Safety
/// See `cuInit`.
unsafe fn text(to: *mut c_char, len: c_int, text: &[u8]) -> c_int {
    if (len as usize) < text.len() {
        return INVALID_VALUE;
    }
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), to, text.len()) };
    OK
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(to: *mut c_char, len: c_int, device: c_int) -> c_int {
    known(device, || unsafe { text(to, len, NAME) })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetPCIBusId(to: *mut c_char, len: c_int, device: c_int) -> c_int {
    known(device, || unsafe { text(to, len, b"0000:02:00.0\0") })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> c_int {
    known(device, || {
        unsafe { *bytes = size() };
        OK
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) -> c_int {
    known(device, || {
        let known = match attribute {
            // Threads of a block and of a multiprocessor, blocks of a grid.
            1..=3 => 1024,
            4 => 64,
            5 => i32::MAX,
            6 | 7 => 65_535,
            39 => 2048,
            // Shared memory, the warp, registers.
            8 => 48 << 10,
            10 => 32,
            12 => 65_536,
            16 => 2,
            36 => 1_000_000,
            37 => 64,
            // One address means one thing on both sides, memory can be mapped.
            41 | 102 => 1,
            75 => 8,
            // Others are known, and none of them is so here.
            9..=161 => 0,
            _ => return INVALID_VALUE,
        };
        unsafe { *value = known };
        OK
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, device: c_int) -> c_int {
    known(device, || {
        unsafe { *context = std::ptr::dangling_mut() };
        OK
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRelease(device: c_int) -> c_int {
    let known = known(device, || OK);
    with(|s| s.current = false);
    known
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> c_int {
    with(|s| s.current = !context.is_null());
    OK
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSynchronize() -> c_int {
    inside(|_| OK)
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) -> c_int {
    let ptx = unsafe { CStr::from_ptr(image.cast()) }.to_string_lossy();
    inside(|s| {
        let whole = ptx.contains(".version")
            && ptx.contains(".target")
            && KERNELS[..OF_THE_PROOF].iter().all(|k| ptx.contains(&format!(".entry {k}(")));
        if !whole || mode() == "old" {
            return UNSUPPORTED_PTX;
        }
        s.module = true;
        unsafe { *module = std::ptr::dangling_mut() };
        OK
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut *mut c_void,
    _module: *mut c_void,
    name: *const c_char,
) -> c_int {
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    inside(|s| match KERNELS.iter().position(|k| *k == name) {
        Some(at) if s.module => {
            unsafe { *function = std::ptr::without_provenance_mut(at + 1) };
            OK
        }
        _ => NOT_FOUND,
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int {
    inside(|s| {
        let used: usize = s.memory.values().map(Vec::len).sum();
        unsafe {
            *free = size().saturating_sub(used);
            *total = size();
        }
        OK
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(at: *mut u64, bytes: usize) -> c_int {
    inside(|s| {
        let used: usize = s.memory.values().map(Vec::len).sum();
        if bytes == 0 || used + bytes > size() {
            return OUT_OF_MEMORY;
        }
        // Addresses that lie nowhere on the host: whoever follows one there dies.
        let next = s.memory.last_key_value().map_or(0x7000_0000_0000, |(at, m)| at + m.len() as u64 + 4096);
        s.memory.insert(next, vec![0xAA; bytes]);
        unsafe { *at = next };
        OK
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(at: u64) -> c_int {
    with(|s| if s.memory.remove(&at).is_some() { OK } else { INVALID_VALUE })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(at: *mut *mut c_void, bytes: usize) -> c_int {
    inside(|_| {
        let layout = std::alloc::Layout::from_size_align(bytes.max(1), 4096).unwrap();
        unsafe { *at = std::alloc::alloc(layout).cast() };
        OK
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(_at: *mut c_void) -> c_int {
    // Left to the end of the process: the real one knows the size, this one does not.
    OK
}

/// The allocation that an address lies in, and how far behind its beginning.
fn find(s: &mut State, at: u64, bytes: usize) -> Option<&mut [u8]> {
    let (start, memory) = s.memory.range_mut(..=at).next_back()?;
    let from = usize::try_from(at - start).ok()?;
    memory.get_mut(from..from.checked_add(bytes)?)
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> c_int {
    inside(|s| match find(s, to, bytes) {
        Some(memory) => {
            unsafe { std::ptr::copy_nonoverlapping(from.cast(), memory.as_mut_ptr(), bytes) };
            OK
        }
        None => INVALID_VALUE,
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> c_int {
    inside(|s| match find(s, from, bytes) {
        Some(memory) => {
            unsafe { std::ptr::copy_nonoverlapping(memory.as_ptr(), to.cast(), bytes) };
            OK
        }
        None => INVALID_VALUE,
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    blocks: c_uint,
    _: c_uint,
    _: c_uint,
    threads: c_uint,
    _: c_uint,
    _: c_uint,
    _shared: c_uint,
    _stream: *mut c_void,
    arguments: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> c_int {
    let kernel = KERNELS.get(function.addr().wrapping_sub(1)).copied().unwrap_or_default();
    inside(|s| {
        if kernel.is_empty() || blocks == 0 || threads == 0 || threads > 1024 {
            return INVALID_VALUE;
        }
        if mode() == "lost" {
            return LAUNCH_FAILED;
        }
        if kernel == "nothing" {
            return OK;
        }
        let argument = |at: usize| unsafe { *(*arguments.add(at)).cast::<u64>() };
        let n = match kernel {
            "vectorAdd" => u64::from(unsafe { *(*arguments.add(3)).cast::<u32>() }),
            _ => argument(3),
        };
        let (a, b, c) = (argument(0), argument(1), argument(2));
        // Threads that are there do their part, as on a GPU: too few of them leave elements as they were.
        let groups = n.min(u64::from(blocks) * u64::from(threads)) as usize;
        let floats = if kernel == "stream_add" { groups * 4 } else { groups };
        let copy = |memory: Option<&mut [u8]>| memory.map(|m| m.to_vec());
        let (Some(left), Some(right)) = (copy(find(s, a, floats * 4)), copy(find(s, b, floats * 4))) else {
            return LAUNCH_FAILED;
        };
        let Some(sums) = find(s, c, floats * 4) else { return LAUNCH_FAILED };
        for ((sum, left), right) in
            sums.chunks_exact_mut(4).zip(left.chunks_exact(4)).zip(right.chunks_exact(4))
        {
            let number = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            sum.copy_from_slice(&(number(left) + number(right)).to_le_bytes());
        }
        if mode() == "wrong" && floats > 777 {
            sums[777 * 4] ^= 1;
        }
        OK
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut *mut c_void, _flags: c_uint) -> c_int {
    inside(|s| {
        s.events.push(0);
        unsafe { *event = std::ptr::without_provenance_mut(s.events.len()) };
        OK
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecord(event: *mut c_void, _stream: *mut c_void) -> c_int {
    inside(|s| match s.events.get_mut(event.addr().wrapping_sub(1)) {
        Some(at) => {
            *at = now();
            OK
        }
        None => INVALID_VALUE,
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventSynchronize(event: *mut c_void) -> c_int {
    inside(|s| {
        if s.events.get(event.addr().wrapping_sub(1)).is_some_and(|at| *at > 0) { OK } else { INVALID_VALUE }
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(
    milliseconds: *mut f32,
    from: *mut c_void,
    to: *mut c_void,
) -> c_int {
    inside(|s| {
        let at =
            |event: *mut c_void| s.events.get(event.addr().wrapping_sub(1)).copied().filter(|at| *at > 0);
        let (Some(from), Some(to)) = (at(from), at(to)) else { return INVALID_VALUE };
        unsafe { *milliseconds = (to.saturating_sub(from)) as f32 / 1e6 };
        OK
    })
}

fn words(code: c_int) -> Option<(&'static CStr, &'static CStr)> {
    Some(match code {
        INVALID_VALUE => (c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
        OUT_OF_MEMORY => (c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
        NOT_INITIALIZED => (c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
        NO_DEVICE => (c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected"),
        INVALID_DEVICE => (c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
        INVALID_CONTEXT => (c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
        UNSUPPORTED_PTX => (
            c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            c"the provided PTX was compiled with an unsupported toolchain.",
        ),
        NOT_FOUND => (c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
        LAUNCH_FAILED => (c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure"),
        NOT_READY => (c"CUDA_ERROR_SYSTEM_NOT_READY", c"system not yet initialized"),
        _ => return None,
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: c_int, text: *mut *const c_char) -> c_int {
    let Some((name, _)) = words(code) else { return INVALID_VALUE };
    unsafe { *text = name.as_ptr() };
    OK
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(code: c_int, text: *mut *const c_char) -> c_int {
    let Some((_, said)) = words(code) else { return INVALID_VALUE };
    unsafe { *text = said.as_ptr() };
    OK
}
