//! The library and its functions. The named home of the calls into it.
//!
//! cudarc's own loader knows neither `libnccl.so.2` nor paths, and panics at a missing function; so the functions are
//! bound here, all of them at once, with cudarc's types. Results are taken as numbers: a later NCCL may say what this
//! version's enumeration does not know.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cudarc::nccl::sys::{
    cudaStream_t, ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclResult_t, ncclUniqueId,
};

/// The name under which a system has it, and under which torch's CUDA part has loaded its own.
const FILE: &str = "libnccl.so.2";

/// What is asked for first, if it is set: the library's full path.
const VARIABLE: &str = "LYCEUM_NCCL";

/// The oldest version whose communicators can be aborted while they are being made (2.14), as `ncclGetVersion` says it.
const OLDEST: i32 = 21_400;

/// NCCL, loaded. It stays so for the life of the process.
pub struct NcclLibrary {
    path: PathBuf,
    version: i32,
    pub(super) functions: Functions,
}

/// Why NCCL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NcclError {
    /// It could not be loaded.
    #[error(
        "no NCCL found ({path}: {reason}): load torch's CUDA part first, install nvidia-nccl, or name its {FILE} in {VARIABLE}",
        path = path.display()
    )]
    NotFound {
        /// What was tried.
        path: PathBuf,
        /// The loader's words.
        reason: String,
    },
    /// The library lacks a function that is needed.
    #[error("{} is no usable NCCL: it lacks {symbol}", path.display())]
    Incomplete {
        /// The library.
        path: PathBuf,
        /// The function.
        symbol: &'static str,
    },
    /// The library is older than what is needed.
    #[error("{} is NCCL {version}: at least {OLDEST} is needed", path.display())]
    TooOld {
        /// The library.
        path: PathBuf,
        /// Its version, as `ncclGetVersion` says it: 22809 is 2.28.9.
        version: i32,
    },
    /// A call failed.
    #[error("{call} failed: {reason}")]
    Call {
        /// Which.
        call: &'static str,
        /// NCCL's words.
        reason: String,
    },
}

/// What a call that succeeded says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Done,
    /// A non-blocking communicator is still at it.
    UnderWay,
}

macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($argument:ty),*) $(-> $output:ty)?;)*) => {
        /// The functions that are used, by their C names without the prefix.
        pub(super) struct Functions {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) $(-> $output)?,)*
        }

        impl Functions {
            /// Looks every function up.
            fn bind(path: &Path, handle: *mut c_void) -> Result<Self, NcclError> {
                Ok(Self {
                    $($field: {
                        let address = find(path, handle, $symbol)?;
                        // SAFETY: the type is that of nccl.h, the same in every version since 2.14.
                        unsafe {
                            std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($argument),*) $(-> $output)?,
                            >(address)
                        }
                    },)*
                })
            }
        }
    };
}

functions! {
    get_version = "ncclGetVersion": fn(*mut c_int) -> c_uint;
    get_unique_id = "ncclGetUniqueId": fn(*mut ncclUniqueId) -> c_uint;
    get_error_string = "ncclGetErrorString": fn(c_uint) -> *const c_char;
    get_last_error = "ncclGetLastError": fn(ncclComm_t) -> *const c_char;
    comm_init_rank_config = "ncclCommInitRankConfig":
        fn(*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut ncclConfig_t) -> c_uint;
    comm_get_async_error = "ncclCommGetAsyncError": fn(ncclComm_t, *mut c_uint) -> c_uint;
    comm_finalize = "ncclCommFinalize": fn(ncclComm_t) -> c_uint;
    comm_destroy = "ncclCommDestroy": fn(ncclComm_t) -> c_uint;
    comm_abort = "ncclCommAbort": fn(ncclComm_t) -> c_uint;
    all_reduce = "ncclAllReduce":
        fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t) -> c_uint;
    reduce_scatter = "ncclReduceScatter":
        fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t) -> c_uint;
    all_gather = "ncclAllGather":
        fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclComm_t, cudaStream_t) -> c_uint;
    broadcast = "ncclBroadcast":
        fn(*const c_void, *mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t) -> c_uint;
}

impl NcclLibrary {
    /// Loads the library that `LYCEUM_NCCL` names, else the one that this process has loaded already (torch's CUDA part
    /// brings its own), else the system's.
    ///
    /// # Errors
    /// [`NcclError::NotFound`] with what was tried; the others when what was found is no use.
    pub fn find() -> Result<Self, NcclError> {
        Self::open(&std::env::var_os(VARIABLE).map_or_else(|| PathBuf::from(FILE), PathBuf::from))
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version as NCCL writes it: 22809 is 2.28.9.
    pub fn version(&self) -> i32 {
        self.version
    }

    /// A new id, by which the ranks of one communicator find one another. It is a secret: whoever has it can join, so
    /// it travels inside TLS only.
    pub(super) fn unique_id(&self) -> Result<ncclUniqueId, NcclError> {
        let mut id = ncclUniqueId { internal: [0; 128] };
        // SAFETY: `id` is valid for writes.
        let result = unsafe { (self.functions.get_unique_id)(&mut id) };
        self.check("ncclGetUniqueId", result, std::ptr::null_mut())?;
        Ok(id)
    }

    /// What `result` of `call` on `comm` (null where there is none) means.
    pub(super) fn check(
        &self,
        call: &'static str,
        result: c_uint,
        comm: ncclComm_t,
    ) -> Result<Progress, NcclError> {
        const SUCCESS: c_uint = ncclResult_t::ncclSuccess as c_uint;
        const IN_PROGRESS: c_uint = ncclResult_t::ncclInProgress as c_uint;
        match result {
            SUCCESS => return Ok(Progress::Done),
            IN_PROGRESS => return Ok(Progress::UnderWay),
            _ => {}
        }
        // SAFETY: NCCL gives a constant string for every number.
        let general = unsafe { text((self.functions.get_error_string)(result)) };
        // SAFETY: null and live communicators are allowed; the string is NCCL's own.
        let last = unsafe { text((self.functions.get_last_error)(comm)) };
        let reason = if last.is_empty() { general } else { format!("{general} ({last})") };
        Err(NcclError::Call { call, reason })
    }

    fn open(path: &Path) -> Result<Self, NcclError> {
        let not_found = |reason: String| NcclError::NotFound { path: path.to_owned(), reason };
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| not_found(error.to_string()))?;
        // SAFETY: loading runs the library's initialisers; naming the file is the owner's trust in it.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        if handle.is_null() {
            // SAFETY: after a failure dlerror gives a string of this thread's, valid until its next call, or null.
            return Err(not_found(unsafe { text(libc::dlerror()) }));
        }
        let functions = Functions::bind(path, handle)?;
        let mut library = Self { path: path.to_owned(), version: 0, functions };
        // SAFETY: `version` is valid for writes.
        let result = unsafe { (library.functions.get_version)(&mut library.version) };
        library.check("ncclGetVersion", result, std::ptr::null_mut())?;
        if library.version < OLDEST {
            return Err(NcclError::TooOld { path: library.path, version: library.version });
        }
        Ok(library)
    }
}

impl fmt::Debug for NcclLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NcclLibrary({}, version {})", self.path.display(), self.version)
    }
}

fn find(path: &Path, handle: *mut c_void, symbol: &'static str) -> Result<*mut c_void, NcclError> {
    let missing = || NcclError::Incomplete { path: path.to_owned(), symbol };
    let name = CString::new(symbol).map_err(|_| missing())?;
    // SAFETY: the handle is open and never closed, and the name is null-terminated.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    if address.is_null() { Err(missing()) } else { Ok(address) }
}

/// # Safety
/// `string` is null or null-terminated, and stays so during the call.
unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: the caller's contract.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_an_error_that_says_what_was_tried() {
        let error = NcclLibrary::open(Path::new("/nowhere/at/all.so")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all.so") && error.contains(VARIABLE), "{error}");
    }

    #[test]
    fn a_library_that_is_something_else_is_refused_before_it_is_called() {
        let error = NcclLibrary::open(Path::new("libc.so.6")).unwrap_err();
        assert!(error.to_string().contains("it lacks ncclGetVersion"), "{error}");
    }
}
