//! The functions of `shim.cpp`.

use std::ffi::{c_char, c_int, c_void};

use torch_sys::C_tensor;

unsafe extern "C" {
    pub(crate) fn free(pointer: *mut c_void);

    pub(crate) fn lyceum_shim_fused_adamw(
        parameter: *mut C_tensor,
        gradient: *mut C_tensor,
        mean: *mut C_tensor,
        variance: *mut C_tensor,
        step: *mut C_tensor,
        rate: f64,
        beta1: f64,
        beta2: f64,
        decay: f64,
        epsilon: f64,
        gradient_divisor: *const C_tensor,
    ) -> *mut c_char;

    pub(crate) fn lyceum_shim_tensor_over(
        data: *mut c_void,
        shape: *const i64,
        dimensions: usize,
        kind: i8,
        owner: *mut c_void,
        release: unsafe extern "C" fn(*mut c_void),
        out: *mut *mut C_tensor,
    ) -> *mut c_char;

    pub(crate) fn lyceum_shim_pack_linear(
        weight: *const C_tensor,
        batch: i64,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;

    pub(crate) fn lyceum_shim_packed_linear(
        input: *const C_tensor,
        packed: *const C_tensor,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;

    pub(crate) fn lyceum_shim_observe_begin() -> *mut c_char;
    pub(crate) fn lyceum_shim_observe_end(
        tell: Option<unsafe extern "C" fn(*mut c_void, *const c_char, *const c_void, u64)>,
        context: *mut c_void,
    );
    pub(crate) fn lyceum_shim_empty_cache() -> *mut c_char;
    pub(crate) fn lyceum_shim_device_memory(
        device: i8,
        allocated: *mut i64,
        peak: *mut i64,
        reserved: *mut i64,
    ) -> *mut c_char;
    pub(crate) fn lyceum_shim_driver_devices() -> c_int;
    pub(crate) fn lyceum_shim_load_library(path: *const c_char) -> *mut c_char;
    pub(crate) fn lyceum_shim_libtorch_path() -> *mut c_char;
}
