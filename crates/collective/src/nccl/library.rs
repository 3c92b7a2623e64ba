//! The library and its functions. The named home of the calls into it.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cudarc::nccl::sys::{ncclResult_t, ncclUniqueId};

/// The name under which a system or a Python environment has it.
const FILE: &str = "libnccl.so.2";

/// What is asked for first, if it is set: the library's full path.
const VARIABLE: &str = "LYCEUM_NCCL";

/// The oldest version whose communicators can be aborted while they are being made (2.14), as `ncclGetVersion` says it.
const OLDEST: i32 = 21_400;

/// NCCL, loaded. It stays so for the life of the process.
pub struct NcclLibrary {
    path: PathBuf,
    version: i32,
    get_unique_id: GetUniqueId,
    get_error_string: GetErrorString,
}

type GetVersion = unsafe extern "C" fn(*mut c_int) -> ncclResult_t;
type GetUniqueId = unsafe extern "C" fn(*mut ncclUniqueId) -> ncclResult_t;
type GetErrorString = unsafe extern "C" fn(ncclResult_t) -> *const c_char;

/// Why NCCL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NcclError {
    /// None of the candidates could be loaded.
    #[error("no NCCL found ({tried}): install nvidia-nccl or name its {FILE} in {VARIABLE}")]
    NotFound {
        /// What was tried, with the loader's words.
        tried: String,
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

impl NcclLibrary {
    /// Loads the library that `LYCEUM_NCCL` names, else one beside each of `directories` (such as a torch's
    /// `nvidia/nccl/lib`), else the system's.
    ///
    /// # Errors
    /// [`NcclError::NotFound`] with all that was tried; the others when what was found is no use.
    pub fn find(directories: &[PathBuf]) -> Result<Self, NcclError> {
        let candidates = match std::env::var_os(VARIABLE) {
            Some(named) => vec![PathBuf::from(named)],
            None => directories.iter().map(|dir| dir.join(FILE)).chain([PathBuf::from(FILE)]).collect(),
        };
        let mut tried = Vec::new();
        for path in candidates {
            match open(&path) {
                Ok(handle) => return Self::bind(path, handle),
                Err(reason) => tried.push(format!("{}: {reason}", path.display())),
            }
        }
        Err(NcclError::NotFound { tried: tried.join("; ") })
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
    ///
    /// # Errors
    /// [`NcclError::Call`] when NCCL finds no network interface to listen on.
    pub fn unique_id(&self) -> Result<ncclUniqueId, NcclError> {
        let mut id = ncclUniqueId { internal: [0; 128] };
        // SAFETY: the function's type is that of nccl.h, and `id` is valid for writes.
        let result = unsafe { (self.get_unique_id)(&mut id) };
        self.check("ncclGetUniqueId", result)?;
        Ok(id)
    }

    fn check(&self, call: &'static str, result: ncclResult_t) -> Result<(), NcclError> {
        if result == ncclResult_t::ncclSuccess {
            return Ok(());
        }
        // SAFETY: NCCL gives a constant, null-terminated string for every result.
        let reason = unsafe { CStr::from_ptr((self.get_error_string)(result)) };
        Err(NcclError::Call { call, reason: reason.to_string_lossy().into_owned() })
    }

    fn bind(path: PathBuf, handle: *mut c_void) -> Result<Self, NcclError> {
        let find = |symbol: &'static CStr, name: &'static str| {
            // SAFETY: the handle is open and never closed, and the name is null-terminated.
            let address = unsafe { libc::dlsym(handle, symbol.as_ptr()) };
            if address.is_null() {
                return Err(NcclError::Incomplete { path: path.clone(), symbol: name });
            }
            Ok(address)
        };
        let get_version = find(c"ncclGetVersion", "ncclGetVersion")?;
        let get_unique_id = find(c"ncclGetUniqueId", "ncclGetUniqueId")?;
        let get_error_string = find(c"ncclGetErrorString", "ncclGetErrorString")?;
        let mut version = 0;
        // SAFETY: the functions' types are those of nccl.h, the same in every version since 2.0.
        let library = unsafe {
            let get_version = std::mem::transmute::<*mut c_void, GetVersion>(get_version);
            let result = get_version(&mut version);
            let library = Self {
                path,
                version,
                get_unique_id: std::mem::transmute::<*mut c_void, GetUniqueId>(get_unique_id),
                get_error_string: std::mem::transmute::<*mut c_void, GetErrorString>(get_error_string),
            };
            library.check("ncclGetVersion", result)?;
            library
        };
        if version < OLDEST {
            return Err(NcclError::TooOld { path: library.path, version });
        }
        Ok(library)
    }
}

impl fmt::Debug for NcclLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NcclLibrary({}, version {})", self.path.display(), self.version)
    }
}

/// Loads a library, or says why not in the loader's words.
fn open(path: &Path) -> Result<*mut c_void, String> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: loading runs the library's initialisers; naming the file is the owner's trust in it.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(handle);
    }
    // SAFETY: after a failure dlerror gives a string of this thread's, valid until its next call, or null.
    let reason = unsafe { libc::dlerror() };
    if reason.is_null() {
        return Err("unknown".into());
    }
    // SAFETY: as above.
    Err(unsafe { CStr::from_ptr(reason) }.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_an_error_that_says_what_was_tried() {
        let nowhere = PathBuf::from("/nowhere/at/all");
        match NcclLibrary::find(std::slice::from_ref(&nowhere)) {
            Ok(library) => assert!(library.version() >= OLDEST),
            Err(error) => {
                let error = error.to_string();
                assert!(
                    error.contains("/nowhere/at/all/libnccl.so.2") && error.contains(VARIABLE),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn a_library_that_is_something_else_is_refused() {
        let error = NcclLibrary::bind("libc".into(), open(Path::new("libc.so.6")).unwrap()).unwrap_err();
        assert!(error.to_string().contains("it lacks ncclGetVersion"), "{error}");
    }
}
