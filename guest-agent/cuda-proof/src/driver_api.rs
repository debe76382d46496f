//! The CUDA driver API, loaded when it is needed: no toolkit and no CUDA at build time. The only file that
//! says `unsafe`.
//!
//! Types and numbers are those of NVIDIA's `cuda.h`; every function named here is in all drivers since R367.
//! A name with `_v2` is the one that programs have been linked against since CUDA 4.0. Deliberately absent:
//! streams, graphs and everything newer, so that the oldest vGPU driver can prove itself.
#![expect(
    unsafe_code,
    reason = "a foreign library is called through looked-up pointers: all of it is in this file"
)]

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::{null, null_mut};
use vsgpu_core::readers::cuda_report::CudaFailure;

/// The driver's library, by the name that its installer links.
const LIBRARY: &str = "libcuda.so.1";

/// A handle of the driver; only ever passed back to it.
type Handle = *mut c_void;
/// An address on the device. Never followed on the host.
pub type DevicePointer = u64;

macro_rules! api {
    ($($name:ident = $symbol:literal ( $($argument:ty),* );)*) => {
        /// The functions, found once.
        struct Functions { $($name: unsafe extern "C" fn($($argument),*) -> c_int,)* }

        impl Functions {
            fn find(library: &Library) -> Result<Self> {
                Ok(Self { $($name: {
                    // SAFETY: the symbol is a function of exactly this type in every version of the library
                    // (cuda.h).
                    let found = unsafe { library.get::<unsafe extern "C" fn($($argument),*) -> c_int>($symbol.as_bytes()) };
                    *found.map_err(|_| CudaFailure {
                        stage: "load".into(),
                        code: None,
                        name: "symbol-missing".into(),
                        text: format!("{LIBRARY} has no {}: it is no CUDA driver library, or older than R367", $symbol),
                    })?
                },)* })
            }
        }
    };
}

api! {
    init = "cuInit"(c_uint);
    driver_version = "cuDriverGetVersion"(*mut c_int);
    count = "cuDeviceGetCount"(*mut c_int);
    device = "cuDeviceGet"(*mut c_int, c_int);
    name = "cuDeviceGetName"(*mut c_char, c_int, c_int);
    total_memory = "cuDeviceTotalMem_v2"(*mut usize, c_int);
    attribute = "cuDeviceGetAttribute"(*mut c_int, c_int, c_int);
    pci_bus_id = "cuDeviceGetPCIBusId"(*mut c_char, c_int, c_int);
    retain = "cuDevicePrimaryCtxRetain"(*mut Handle, c_int);
    release = "cuDevicePrimaryCtxRelease"(c_int);
    set_current = "cuCtxSetCurrent"(Handle);
    synchronize = "cuCtxSynchronize"();
    load_module = "cuModuleLoadData"(*mut Handle, *const c_void);
    function = "cuModuleGetFunction"(*mut Handle, Handle, *const c_char);
    free_memory = "cuMemGetInfo_v2"(*mut usize, *mut usize);
    allocate = "cuMemAlloc_v2"(*mut DevicePointer, usize);
    free = "cuMemFree_v2"(DevicePointer);
    allocate_host = "cuMemAllocHost_v2"(*mut Handle, usize);
    free_host = "cuMemFreeHost"(Handle);
    to_device = "cuMemcpyHtoD_v2"(DevicePointer, *const c_void, usize);
    to_host = "cuMemcpyDtoH_v2"(*mut c_void, DevicePointer, usize);
    launch = "cuLaunchKernel"(Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut Handle, *mut Handle);
    event = "cuEventCreate"(*mut Handle, c_uint);
    record = "cuEventRecord"(Handle, Handle);
    wait = "cuEventSynchronize"(Handle);
    elapsed = "cuEventElapsedTime"(*mut f32, Handle, Handle);
    error_name = "cuGetErrorName"(c_int, *mut *const c_char);
    error_text = "cuGetErrorString"(c_int, *mut *const c_char);
}

/// What the proof asks of a device (`CUdevice_attribute`).
#[derive(Clone, Copy)]
pub enum Attribute {
    Multiprocessors = 16,
    Ecc = 32,
    /// Peak memory clock, kHz.
    MemoryClockKhz = 36,
    /// Width of the memory bus, bits.
    MemoryBusBits = 37,
    /// Compute capability, first number.
    ComputeMajor = 75,
    /// Compute capability, second number.
    ComputeMinor = 76,
}

/// The loaded and initialised driver.
pub struct Driver {
    functions: Functions,
    /// Keeps the functions alive.
    _library: Library,
}

/// A device with its primary context, current on this thread.
pub struct Device<'d> {
    driver: &'d Driver,
    ordinal: c_int,
    handle: c_int,
}

/// A kernel of a loaded module.
#[derive(Clone, Copy)]
pub struct Kernel(Handle);

/// Device memory; given back when dropped.
pub struct DeviceMemory<'d> {
    driver: &'d Driver,
    /// Its address.
    pub at: DevicePointer,
    bytes: usize,
}

/// Page-locked memory of the host as 32-bit floats.
pub struct HostMemory<'d> {
    driver: &'d Driver,
    at: *mut f32,
    len: usize,
}

type Result<T> = std::result::Result<T, CudaFailure>;

impl Driver {
    /// Loads and initialises it.
    ///
    /// # Errors
    /// Without a driver in milliseconds: its library is not there.
    pub fn load() -> Result<Self> {
        // SAFETY: loading runs the library's initialisers. It is the system's own NVIDIA driver, by its fixed
        // name.
        let library =
            unsafe { Library::open(Some(LIBRARY), RTLD_NOW | RTLD_LOCAL) }.map_err(|why| CudaFailure {
                stage: "load".into(),
                code: None,
                name: "no-driver".into(),
                text: format!("{LIBRARY} cannot be loaded: the NVIDIA driver is not installed ({why})"),
            })?;
        let driver = Self { functions: Functions::find(&library)?, _library: library };
        // SAFETY: `cuInit` takes 0 and nothing else.
        let code = unsafe { (driver.functions.init)(0) };
        driver.check(code, "init")?;
        Ok(driver)
    }

    /// Turns an answer of the driver into a failure with its own words.
    fn check(&self, code: c_int, stage: &str) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let words = |ask: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int| {
            let mut text = null();
            // SAFETY: the driver writes a pointer to a static string, or leaves it null for an unknown code.
            let known = unsafe { ask(code, &mut text) } == 0 && !text.is_null();
            // SAFETY: see above: a static string that ends with NUL.
            known.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        Err(CudaFailure {
            stage: stage.into(),
            code: Some(code),
            name: words(self.functions.error_name).unwrap_or_else(|| "unknown error".into()),
            text: words(self.functions.error_text).unwrap_or_else(|| "the driver has no words for it".into()),
        })
    }

    /// CUDA version that the driver serves, `12.2`.
    pub fn cuda_version(&self) -> Result<String> {
        let mut version = 0;
        // SAFETY: one number is written.
        self.check(unsafe { (self.functions.driver_version)(&mut version) }, "version")?;
        Ok(format!("{}.{}", version / 1000, version % 1000 / 10))
    }

    pub fn count(&self) -> Result<i32> {
        let mut count = 0;
        // SAFETY: one number is written.
        self.check(unsafe { (self.functions.count)(&mut count) }, "count")?;
        Ok(count)
    }

    /// Takes a device and makes its primary context current.
    pub fn device(&self, ordinal: i32) -> Result<Device<'_>> {
        let stage = format!("device {ordinal}: context");
        let mut handle = 0;
        // SAFETY: one number is written.
        self.check(unsafe { (self.functions.device)(&mut handle, ordinal) }, &stage)?;
        let mut context = null_mut();
        // SAFETY: one handle is written.
        self.check(unsafe { (self.functions.retain)(&mut context, handle) }, &stage)?;
        // Made before the next call, so that the context is given back if that fails.
        let device = Device { driver: self, ordinal, handle };
        // SAFETY: the handle is the one just retained.
        self.check(unsafe { (self.functions.set_current)(context) }, &stage)?;
        Ok(device)
    }
}

impl<'d> Device<'d> {
    fn check(&self, code: c_int, what: &str) -> Result<()> {
        if code == 0 { Ok(()) } else { self.driver.check(code, &format!("device {}: {what}", self.ordinal)) }
    }

    fn text(
        &self,
        ask: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int,
        what: &str,
    ) -> Result<String> {
        let mut buffer = [0 as c_char; 256];
        // SAFETY: the driver writes at most the stated length, one less than there is.
        self.check(unsafe { ask(buffer.as_mut_ptr(), 255, self.handle) }, what)?;
        // SAFETY: the last byte was never written and is NUL.
        Ok(unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_string_lossy().into_owned())
    }

    /// Name of the board, the vGPU type or the MIG instance.
    pub fn name(&self) -> Result<String> {
        self.text(self.driver.functions.name, "name")
    }

    /// PCI address.
    pub fn pci(&self) -> Result<String> {
        self.text(self.driver.functions.pci_bus_id, "PCI address")
    }

    /// A number that the driver states.
    pub fn attribute(&self, attribute: Attribute) -> Result<i32> {
        let mut value = 0;
        self.check(
            // SAFETY: one number is written.
            unsafe { (self.driver.functions.attribute)(&mut value, attribute as c_int, self.handle) },
            "attribute",
        )?;
        Ok(value)
    }

    /// Bytes of memory.
    pub fn memory(&self) -> Result<usize> {
        let mut bytes = 0;
        // SAFETY: one number is written.
        self.check(unsafe { (self.driver.functions.total_memory)(&mut bytes, self.handle) }, "memory")?;
        Ok(bytes)
    }

    /// Bytes that are free now.
    pub fn free_memory(&self) -> Result<usize> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: two numbers are written.
        self.check(unsafe { (self.driver.functions.free_memory)(&mut free, &mut total) }, "free memory")?;
        Ok(free)
    }

    /// Compiles PTX for this device and finds its kernels.
    pub fn kernels<const N: usize>(&self, ptx: &CStr, names: [&CStr; N]) -> Result<[Kernel; N]> {
        let mut module = null_mut();
        self.check(
            // SAFETY: the image is a NUL-terminated text, which outlives the call. The module lives as long
            // as the context.
            unsafe { (self.driver.functions.load_module)(&mut module, ptx.as_ptr().cast()) },
            "load the kernels",
        )?;
        let mut found = [Kernel(null_mut()); N];
        for (kernel, name) in found.iter_mut().zip(names) {
            self.check(
                // SAFETY: the module was just loaded, the name ends with NUL.
                unsafe { (self.driver.functions.function)(&mut kernel.0, module, name.as_ptr()) },
                "find a kernel",
            )?;
        }
        Ok(found)
    }

    pub fn allocate(&self, bytes: usize) -> Result<DeviceMemory<'d>> {
        let mut at = 0;
        self.check(
            // SAFETY: one address is written.
            unsafe { (self.driver.functions.allocate)(&mut at, bytes) },
            &format!("allocate {} MiB", bytes >> 20),
        )?;
        Ok(DeviceMemory { driver: self.driver, at, bytes })
    }

    /// Page-locked memory for `len` floats.
    pub fn allocate_host(&self, len: usize) -> Result<HostMemory<'d>> {
        let mut at = null_mut();
        self.check(
            // SAFETY: one address is written.
            unsafe { (self.driver.functions.allocate_host)(&mut at, len * 4) },
            "allocate page-locked memory",
        )?;
        let at = at.cast::<f32>();
        // SAFETY: the driver gave `len * 4` bytes, aligned to a page; zeros are floats.
        unsafe { at.write_bytes(0, len) };
        Ok(HostMemory { driver: self.driver, at, len })
    }

    /// Copies the first `len` floats to the device, `offset` bytes behind its beginning.
    pub fn to_device(&self, to: &DeviceMemory, offset: usize, from: &HostMemory, len: usize) -> Result<()> {
        assert!(len <= from.len && offset + len * 4 <= to.bytes, "a copy stays inside its memory");
        // SAFETY: both ranges were just checked; the call returns when the copy is done.
        let code = unsafe {
            (self.driver.functions.to_device)(to.at + offset as u64, from.at.cast_const().cast(), len * 4)
        };
        self.check(code, "copy to the device")
    }

    /// Copies `len` floats from the device to the beginning of host memory.
    pub fn to_host(&self, to: &mut HostMemory, from: &DeviceMemory, offset: usize, len: usize) -> Result<()> {
        assert!(len <= to.len && offset + len * 4 <= from.bytes, "a copy stays inside its memory");
        // SAFETY: both ranges were just checked; the call returns when the copy is done.
        let code = unsafe { (self.driver.functions.to_host)(to.at.cast(), from.at + offset as u64, len * 4) };
        self.check(code, "copy to the host")
    }

    /// Starts a kernel of this signature: three addresses and a count, or nothing. Does not wait.
    pub fn launch(
        &self,
        kernel: Kernel,
        blocks: u32,
        threads: u32,
        mut arguments: Option<[u64; 4]>,
    ) -> Result<()> {
        let mut pointers = [null_mut(); 4];
        if let Some(values) = &mut arguments {
            for (pointer, value) in pointers.iter_mut().zip(values) {
                *pointer = std::ptr::from_mut(value).cast();
            }
        }
        // SAFETY: the driver copies four 8-byte arguments during the call, or none for the kernel that takes
        // none.
        let code = unsafe {
            (self.driver.functions.launch)(
                kernel.0,
                blocks,
                1,
                1,
                threads,
                1,
                1,
                0,
                null_mut(),
                pointers.as_mut_ptr(),
                null_mut(),
            )
        };
        self.check(code, "launch")
    }

    /// Waits until the device has done everything.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: no arguments.
        self.check(unsafe { (self.driver.functions.synchronize)() }, "wait for the device")
    }

    /// Milliseconds by the device's own clock that `work` took on it.
    pub fn timed(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let functions = &self.driver.functions;
        let mut events = [null_mut(); 2];
        for event in &mut events {
            // SAFETY: one handle is written. Two events per measurement are left to the context.
            self.check(unsafe { (functions.event)(event, 0) }, "create an event")?;
        }
        // SAFETY: the event was just created; the null stream is the default one.
        self.check(unsafe { (functions.record)(events[0], null_mut()) }, "record an event")?;
        work()?;
        // SAFETY: as above.
        self.check(unsafe { (functions.record)(events[1], null_mut()) }, "record an event")?;
        // SAFETY: the event was recorded.
        self.check(unsafe { (functions.wait)(events[1]) }, "wait for the device")?;
        let mut milliseconds = 0.0;
        // SAFETY: both events have happened; one number is written.
        self.check(unsafe { (functions.elapsed)(&mut milliseconds, events[0], events[1]) }, "read the time")?;
        Ok(milliseconds.into())
    }
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        // SAFETY: retained once in `Driver::device`. What a wedged driver answers changes nothing any more.
        let _ = unsafe { (self.driver.functions.release)(self.handle) };
    }
}

impl Drop for DeviceMemory<'_> {
    fn drop(&mut self) {
        // SAFETY: allocated once, freed once.
        let _ = unsafe { (self.driver.functions.free)(self.at) };
    }
}

impl HostMemory<'_> {
    pub fn floats(&self) -> &[f32] {
        // SAFETY: `len` initialised floats, which only this value reaches.
        unsafe { std::slice::from_raw_parts(self.at, self.len) }
    }

    pub fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }
}

impl Drop for HostMemory<'_> {
    fn drop(&mut self) {
        // SAFETY: allocated once, freed once.
        let _ = unsafe { (self.driver.functions.free_host)(self.at.cast()) };
    }
}
