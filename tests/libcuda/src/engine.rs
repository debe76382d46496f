//! What an engine for GPUs over the network asks of a driver beside what the proof calls: addresses that are reserved
//! and mapped, libraries and kernels, streams, copies beside the program. For one engine at a time, each client in a
//! process of its own, as engines do it.

use super::*;
use std::ffi::CString;

/// Addresses that an engine reserves; nothing of the host lies there.
const RESERVED_FROM: u64 = 0x7200_0000_0000;
/// In which sizes memory is given.
const GRANULARITY: usize = 2 << 20;

#[derive(Default)]
pub(super) struct Of {
    /// Size of what was created, by its handle.
    created: BTreeMap<u64, usize>,
    reserved: BTreeMap<u64, usize>,
    next: u64,
    /// Kernels of each library that was loaded.
    libraries: Vec<Vec<(usize, CString)>>,
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) -> c_int {
    known(device, || {
        unsafe { *uuid = *b"simulated GPU 00" };
        OK
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> c_int {
    unsafe { cuDevicePrimaryCtxRelease(device) }
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxGetState(
    device: c_int,
    flags: *mut c_uint,
    active: *mut c_int,
) -> c_int {
    known(device, || unsafe {
        (*flags, *active) = (0, 1);
        OK
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut *mut c_void) -> c_int {
    let current = with(|s| s.current);
    unsafe { *context = if current { std::ptr::dangling_mut() } else { std::ptr::null_mut() } };
    OK
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice(device: *mut c_int) -> c_int {
    inside(|_| {
        unsafe { *device = 0 };
        OK
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice_v2(device: *mut c_int, _context: *mut c_void) -> c_int {
    unsafe { cuCtxGetDevice(device) }
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAllocationGranularity(
    bytes: *mut usize,
    _properties: *const c_void,
    _option: c_int,
) -> c_int {
    unsafe { *bytes = GRANULARITY };
    OK
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAddressReserve(
    at: *mut u64,
    bytes: usize,
    _alignment: usize,
    wished: u64,
    _flags: u64,
) -> c_int {
    with(|s| {
        let end =
            s.of_engine.reserved.last_key_value().map_or(RESERVED_FROM, |(at, bytes)| at + *bytes as u64);
        let chosen = if wished == 0 { end.next_multiple_of(GRANULARITY as u64) } else { wished };
        s.of_engine.reserved.insert(chosen, bytes);
        unsafe { *at = chosen };
        OK
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAddressFree(at: u64, _bytes: usize) -> c_int {
    with(|s| if s.of_engine.reserved.remove(&at).is_some() { OK } else { INVALID_VALUE })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemCreate(
    handle: *mut u64,
    bytes: usize,
    _properties: *const c_void,
    _flags: u64,
) -> c_int {
    inside(|s| {
        let used: usize = s.of_engine.created.values().sum();
        if bytes == 0 || !bytes.is_multiple_of(GRANULARITY) {
            return INVALID_VALUE;
        }
        if used + bytes > size() {
            return OUT_OF_MEMORY;
        }
        s.of_engine.next += 1;
        s.of_engine.created.insert(s.of_engine.next, bytes);
        unsafe { *handle = s.of_engine.next };
        OK
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemRelease(handle: u64) -> c_int {
    with(|s| if s.of_engine.created.remove(&handle).is_some() { OK } else { INVALID_VALUE })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemMap(at: u64, bytes: usize, offset: usize, handle: u64, _flags: u64) -> c_int {
    with(|s| {
        let in_reserved = s
            .of_engine
            .reserved
            .range(..=at)
            .next_back()
            .is_some_and(|(start, size)| at + bytes as u64 <= start + *size as u64);
        let created = s.of_engine.created.get(&handle).copied();
        if !in_reserved || created.is_none_or(|size| offset + bytes > size) {
            return INVALID_VALUE;
        }
        s.memory.insert(at, vec![0xAA; bytes]);
        OK
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemUnmap(at: u64, _bytes: usize) -> c_int {
    with(|s| if s.memory.remove(&at).is_some() { OK } else { INVALID_VALUE })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemSetAccess(
    at: u64,
    bytes: usize,
    _access: *const c_void,
    _count: usize,
) -> c_int {
    with(|s| if find(s, at, bytes).is_some() { OK } else { INVALID_VALUE })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostRegister_v2(_at: *mut c_void, _bytes: usize, _flags: c_uint) -> c_int {
    inside(|_| OK)
}

/// What the engine takes for a client's pinned memory.
///
/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(at: *mut *mut c_void, bytes: usize, _flags: c_uint) -> c_int {
    unsafe { crate::cuMemAllocHost_v2(at, bytes) }
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostGetFlags(flags: *mut c_uint, _at: *mut c_void) -> c_int {
    inside(|_| {
        unsafe { *flags = 0 };
        OK
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostUnregister(_at: *mut c_void) -> c_int {
    inside(|_| OK)
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    _stream: *mut c_void,
) -> c_int {
    unsafe { cuMemcpyHtoD_v2(to, from, bytes) }
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    _stream: *mut c_void,
) -> c_int {
    unsafe { cuMemcpyDtoH_v2(to, from, bytes) }
}

/// Where a kernel's arguments lie, and how large they are: four of 8 bytes each, of the sample the last one of 4, or
/// none.
///
/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetParamInfo(
    function: *mut c_void,
    at: usize,
    offset: *mut usize,
    bytes: *mut usize,
) -> c_int {
    let arguments = match KERNELS.get(function.addr().wrapping_sub(1)) {
        None => return INVALID_VALUE,
        Some(&"nothing") => 0,
        Some(_) => 4,
    };
    if at >= arguments {
        return INVALID_VALUE;
    }
    let of_sample = KERNELS.get(function.addr().wrapping_sub(1)) == Some(&"vectorAdd");
    unsafe {
        *offset = at * 8;
        if !bytes.is_null() {
            *bytes = if of_sample && at == 3 { 4 } else { 8 };
        }
    }
    OK
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(
    milliseconds: *mut f32,
    from: *mut c_void,
    to: *mut c_void,
) -> c_int {
    unsafe { cuEventElapsedTime(milliseconds, from, to) }
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventDestroy_v2(_event: *mut c_void) -> c_int {
    OK
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventQuery(event: *mut c_void) -> c_int {
    unsafe { cuEventSynchronize(event) }
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleUnload(_module: *mut c_void) -> c_int {
    OK
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetLoadingMode(mode: *mut c_int) -> c_int {
    // Eager.
    unsafe { *mode = 1 };
    OK
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(
    value: *mut c_int,
    attribute: c_int,
    function: *mut c_void,
) -> c_int {
    if KERNELS.get(function.addr().wrapping_sub(1)).is_none() {
        return INVALID_VALUE;
    }
    // Threads of a block, registers, the two versions; nothing else is used by it.
    let known = match attribute {
        0 => 1024,
        4 => 16,
        5 | 6 => 80,
        1..=3 | 7..=9 => 0,
        _ => return INVALID_VALUE,
    };
    unsafe { *value = known };
    OK
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostGetDevicePointer_v2(
    at: *mut u64,
    of: *mut c_void,
    _flags: c_uint,
) -> c_int {
    // With unified addresses the device names it as the host does.
    unsafe { *at = of.addr() as u64 };
    OK
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetExportTable(_table: *mut *const c_void, _id: *const [u8; 16]) -> c_int {
    // NVIDIA documents none of these tables: an engine answers from its own.
    NOT_FOUND
}

/// First word of the container in which a compiler puts the code for several GPUs, and of what points to one.
const FAT: u32 = 0xBA55_ED50;
const POINTS_TO_FAT: u32 = 0x4662_43B1;

/// The kernels of a library that this driver computes, by their place in [`KERNELS`], as the compiler named them.
///
/// # Safety
/// `code` is such a container, or text that ends with a NUL.
unsafe fn kernels(code: *const u8) -> Vec<(usize, CString)> {
    let word = |code: *const u8| unsafe { code.cast::<u32>().read_unaligned() };
    let code = match word(code) {
        POINTS_TO_FAT => unsafe { code.add(8).cast::<*const u8>().read_unaligned() },
        _ => code,
    };
    let bytes = match word(code) {
        FAT => {
            let head = unsafe { code.add(6).cast::<u16>().read_unaligned() };
            let rest = unsafe { code.add(8).cast::<u64>().read_unaligned() };
            unsafe { std::slice::from_raw_parts(code, usize::from(head) + rest as usize) }
        }
        _ => unsafe { CStr::from_ptr(code.cast()) }.to_bytes(),
    };
    // The section with a kernel's code has its name.
    let mut found: Vec<(usize, CString)> = vec![];
    for name in bytes.split(|byte| *byte == 0).filter_map(|text| text.strip_prefix(b".text.")) {
        let known = KERNELS.iter().position(|k| name.windows(k.len()).any(|window| window == k.as_bytes()));
        let Some((at, name)) = known.zip(CString::new(name).ok()) else { continue };
        if found.iter().all(|(other, _)| *other != at) {
            found.push((at, name));
        }
    }
    found
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C" fn cuLibraryLoadData(
    library: *mut *mut c_void,
    code: *const c_void,
    _options: *mut c_int,
    _values: *mut *mut c_void,
    _count: c_uint,
    _library_options: *mut c_int,
    _library_values: *mut *mut c_void,
    _library_count: c_uint,
) -> c_int {
    // Of no context: it needs none.
    with(|s| match (s.initialised, code.is_null()) {
        (false, _) => NOT_INITIALIZED,
        (_, true) => INVALID_VALUE,
        _ => {
            s.of_engine.libraries.push(unsafe { kernels(code.cast()) });
            let handle = s.of_engine.libraries.len();
            unsafe { *library = std::ptr::without_provenance_mut(handle) };
            OK
        }
    })
}

fn library<T>(of: *mut c_void, f: impl FnOnce(&[(usize, CString)]) -> T) -> Option<T> {
    with(|s| s.of_engine.libraries.get(of.addr().wrapping_sub(1)).map(|kernels| f(kernels)))
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryUnload(of: *mut c_void) -> c_int {
    library(of, |_| OK).unwrap_or(INVALID_VALUE)
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetKernelCount(count: *mut c_uint, of: *mut c_void) -> c_int {
    let Some(kernels) = library(of, <[_]>::len) else { return INVALID_VALUE };
    unsafe { *count = kernels as c_uint };
    OK
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryEnumerateKernels(
    to: *mut *mut c_void,
    most: c_uint,
    of: *mut c_void,
) -> c_int {
    let all = library(of, |kernels| kernels.iter().map(|(at, _)| *at).collect::<Vec<_>>());
    let Some(all) = all else { return INVALID_VALUE };
    for (n, at) in all.into_iter().take(most as usize).enumerate() {
        unsafe { *to.add(n) = std::ptr::without_provenance_mut(at + 1) };
    }
    OK
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuKernelGetName(name: *mut *const c_char, kernel: *mut c_void) -> c_int {
    with(|s| {
        let all = s.of_engine.libraries.iter().flatten();
        match all.into_iter().find(|(at, _)| at + 1 == kernel.addr()) {
            Some((_, known)) => {
                // As long as the library, which is never taken away here.
                unsafe { *name = known.as_ptr() };
                OK
            }
            None => INVALID_VALUE,
        }
    })
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetKernel(
    kernel: *mut *mut c_void,
    of: *mut c_void,
    name: *const c_char,
) -> c_int {
    let name = unsafe { CStr::from_ptr(name) };
    let at =
        library(of, |kernels| kernels.iter().find(|(_, known)| known.as_c_str() == name).map(|(at, _)| *at));
    match at.flatten() {
        Some(at) => {
            unsafe { *kernel = std::ptr::without_provenance_mut(at + 1) };
            OK
        }
        None => NOT_FOUND,
    }
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetModule(module: *mut *mut c_void, _library: *mut c_void) -> c_int {
    unsafe { *module = std::ptr::dangling_mut() };
    OK
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuKernelGetFunction(function: *mut *mut c_void, kernel: *mut c_void) -> c_int {
    unsafe { *function = kernel };
    OK
}

/// # Safety
/// See `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuKernelGetParamInfo(
    kernel: *mut c_void,
    at: usize,
    offset: *mut usize,
    bytes: *mut usize,
) -> c_int {
    unsafe { cuFuncGetParamInfo(kernel, at, offset, bytes) }
}
