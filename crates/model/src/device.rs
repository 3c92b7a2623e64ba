//! Where a model runs and in which kind.

use std::path::PathBuf;

use tch::{Cuda, Device, Kind};

use crate::ModelError;

/// The device and floating kind that a process computes with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    /// The first visible CUDA device, or the CPU.
    pub device: Device,
    /// [`Kind::BFloat16`] where the hardware multiplies it fast, else [`Kind::Float`].
    pub kind: Kind,
}

impl Placement {
    /// The first CUDA device this process may use, or the CPU where there is none; bf16 on a GPU and on a CPU with
    /// AVX512-BF16 or AMX, fp32 on others (which do bf16 slowly).
    ///
    /// libtorch's CUDA part is loaded here, from the directory that `LYCEUM_TORCH_LIB` names or from beside
    /// libtorch_cpu: call this before the process's first tensor.
    ///
    /// # Errors
    /// There is a GPU, or `CUDA_VISIBLE_DEVICES` promises one (as an agent does to a process that was given some), and
    /// the driver or libtorch's CUDA part cannot be loaded or does not see it: running on would be a silent hundredfold
    /// slowdown. An empty `CUDA_VISIBLE_DEVICES` asks for the CPU.
    pub fn choose() -> Result<Self, ModelError> {
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        let wanted = Wanted::by(visible.as_deref());
        let devices = if wanted == Wanted::Cpu { 0 } else { lyceum_torch_shim::driver_devices() };
        if devices == 0 {
            return match (wanted, visible) {
                (Wanted::Gpu, Some(named)) => Err(ModelError::Device(format!(
                    "CUDA_VISIBLE_DEVICES={named} promises a GPU and the driver has none for this process: check \
                     `nvidia-smi` and the node's gpus in the manifest, or set CUDA_VISIBLE_DEVICES= for the CPU"
                ))),
                _ => Ok(Self::cpu()),
            };
        }
        let directory = std::env::var_os("LYCEUM_TORCH_LIB").map(PathBuf::from);
        lyceum_torch_shim::load_cuda(directory.as_deref()).map_err(|e| {
            ModelError::Device(format!(
                "{e}; {devices} GPUs are visible: let LYCEUM_TORCH_LIB name the lib directory of torch 2.11.0, or set \
                 CUDA_VISIBLE_DEVICES= for the CPU"
            ))
        })?;
        if !Cuda::is_available() {
            return Err(ModelError::Device(format!(
                "libtorch does not see any of the driver's {devices} GPUs"
            )));
        }
        Ok(Self { device: Device::Cuda(0), kind: Kind::BFloat16 })
    }

    /// The CPU, with the kind it is fast in.
    #[must_use]
    pub fn cpu() -> Self {
        let kind = if cpu_multiplies_bf16() { Kind::BFloat16 } else { Kind::Float };
        Self { device: Device::Cpu, kind }
    }

    /// The CPU in fp32: the reference.
    #[must_use]
    pub fn reference() -> Self {
        Self { device: Device::Cpu, kind: Kind::Float }
    }
}

/// What `CUDA_VISIBLE_DEVICES` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Cpu,
    Gpu,
    /// A GPU if there is one.
    Either,
}

impl Wanted {
    fn by(visible: Option<&str>) -> Self {
        match visible {
            None => Self::Either,
            Some("" | "-1") => Self::Cpu,
            Some(_) => Self::Gpu,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_multiplies_bf16() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_multiplies_bf16() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_device_named_is_the_cpu_and_one_named_is_no_matter_of_luck() {
        assert_eq!(Wanted::by(None), Wanted::Either);
        assert_eq!(Wanted::by(Some("")), Wanted::Cpu);
        assert_eq!(Wanted::by(Some("-1")), Wanted::Cpu);
        assert_eq!(Wanted::by(Some("0")), Wanted::Gpu);
        assert_eq!(Wanted::by(Some("GPU-8a1c,1")), Wanted::Gpu);
    }
}
