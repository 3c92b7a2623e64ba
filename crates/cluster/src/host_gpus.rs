//! The GPUs that processes here may use, as NVML tells of them: `libnvidia-ml`, which comes with the driver and is loaded at run
//! time. Without it there are none.

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use crate::control::offer::Gpu;
use crate::manifest::MAX_GPUS;

/// What a driver has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) gpu: Gpu,
    /// Split by MIG: processes can have its parts, and none can have it whole.
    pub(crate) is_split: bool,
}

/// Who tells of GPUs.
pub(crate) trait Driver {
    /// The machine's, or the container's, in any order.
    fn devices(&self) -> Vec<Device>;
}

/// The GPUs of this machine that processes here may use, in PCI order; `None` without a driver.
pub(crate) fn gpus_here() -> Option<Vec<Gpu>> {
    let nvml = match Nvml::init() {
        Ok(nvml) => nvml,
        Err(error) => {
            tracing::debug!(%error, "no NVML, and so no GPUs");
            return None;
        }
    };
    let variable = |name: &str| std::env::var(name).ok();
    Some(usable(&nvml, variable("CUDA_VISIBLE_DEVICES"), variable("NVIDIA_VISIBLE_DEVICES")))
}

impl Driver for Nvml {
    fn devices(&self) -> Vec<Device> {
        let count = self.device_count().unwrap_or(0).min(MAX_GPUS);
        let device = |number: u32| -> Result<Device, NvmlError> {
            let device = self.device_by_index(number)?;
            let gpu = Gpu {
                uuid: device.uuid()?,
                model: device.name()?,
                pci: device.pci_info()?.bus_id,
                memory: device.memory_info()?.total,
            };
            // What cannot be split says that it does not know the question.
            let is_split = device.mig_mode().is_ok_and(|mode| mode.current == 1);
            Ok(Device { gpu, is_split })
        };
        let told = |number: u32| match device(number) {
            Ok(device) => Some(device),
            Err(error) => {
                tracing::warn!(number, %error, "a GPU cannot be used");
                None
            }
        };
        (0..count).filter_map(told).collect()
    }
}

/// The devices that are left to a process of this environment, in PCI order: `cuda` and `nvidia` are
/// `CUDA_VISIBLE_DEVICES` and `NVIDIA_VISIBLE_DEVICES`.
fn usable(driver: &dyn Driver, cuda: Option<String>, nvidia: Option<String>) -> Vec<Gpu> {
    let mut devices = driver.devices();
    // Fixed in width, so that the order of the words is that of the places.
    devices.sort_by_key(|device| device.gpu.pci.to_ascii_lowercase());
    if let Some(list) = nvidia {
        devices = lent(devices, &list);
    }
    if let Some(list) = cuda {
        devices = chosen(devices, &list);
    }
    let (split, whole): (Vec<Device>, Vec<Device>) = devices.into_iter().partition(|device| device.is_split);
    for Device { gpu, .. } in split {
        tracing::info!(
            uuid = gpu.uuid,
            model = gpu.model,
            "a GPU is split by MIG, and its parts are no whole GPUs"
        );
    }
    whole.into_iter().map(|device| device.gpu).collect()
}

/// Those that a container was lent. Its runtime shows it no others; what it was told itself is `none`, or which ones of the
/// host's. Numbers are the host's, so that they say nothing where just so many are there.
fn lent(devices: Vec<Device>, list: &str) -> Vec<Device> {
    let names: Vec<&str> = names(list).collect();
    match &names[..] {
        [] | ["all"] => devices,
        ["none" | "void"] => Vec::new(),
        names if names.len() == devices.len() => devices,
        _ => chosen(devices, list),
    }
}

/// Those on the list, by number in PCI order or by the beginning of their UUIDs; as with CUDA, the first name that is none's ends
/// the list.
fn chosen(devices: Vec<Device>, list: &str) -> Vec<Device> {
    let place = |name: &str| match name.parse::<usize>() {
        Ok(number) => (number < devices.len()).then_some(number),
        Err(_) if name.len() > "GPU-".len() => {
            devices.iter().position(|device| device.gpu.uuid.starts_with(name))
        }
        Err(_) => None,
    };
    // A part of a split one is passed by: it is not counted, and does not end the list.
    let whole = names(list).filter(|name| !name.starts_with("MIG-"));
    let mut places: Vec<usize> = whole.map_while(place).collect();
    places.sort_unstable();
    places.dedup();
    places.into_iter().map(|place| devices[place].clone()).collect()
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands in for a machine with GPUs.
    struct Machine(Vec<Device>);

    impl Driver for Machine {
        fn devices(&self) -> Vec<Device> {
            self.0.clone()
        }
    }

    fn device(uuid: &str, pci: &str, is_split: bool) -> Device {
        let gpu = Gpu { uuid: uuid.into(), model: "H100".into(), pci: pci.into(), memory: 80 << 30 };
        Device { gpu, is_split }
    }

    /// The UUIDs of those of four that are left; the driver tells of them in an order of its own, and the third is split.
    fn left(cuda: Option<&str>, nvidia: Option<&str>) -> Vec<String> {
        let machine = Machine(vec![
            device("GPU-dddd", "00000001:0A:00.0", false),
            device("GPU-aaaa", "00000000:18:00.0", false),
            device("GPU-cccc", "00000000:af:00.0", true),
            device("GPU-bbbb", "00000000:2A:00.0", false),
        ]);
        let gpus = usable(&machine, cuda.map(str::to_owned), nvidia.map(str::to_owned));
        gpus.into_iter().map(|gpu| gpu.uuid).collect()
    }

    #[test]
    fn gpus_are_in_pci_order_and_a_split_one_is_no_whole_one() {
        assert_eq!(left(None, None), ["GPU-aaaa", "GPU-bbbb", "GPU-dddd"]);
        assert_eq!(usable(&Machine(Vec::new()), None, None), []);
    }

    #[test]
    fn the_agents_own_environment_says_which_it_may_use() {
        let nothing: [&str; 0] = [];
        assert_eq!(left(Some(""), None), nothing);
        assert_eq!(left(Some("-1"), None), nothing);
        assert_eq!(left(Some("1,0"), None), ["GPU-aaaa", "GPU-bbbb"], "in PCI order all the same");
        assert_eq!(left(Some("3, 1,1"), None), ["GPU-bbbb", "GPU-dddd"]);
        assert_eq!(left(Some("GPU-d,GPU-bbbb"), None), ["GPU-bbbb", "GPU-dddd"]);
        assert_eq!(left(Some("0,4,1"), None), ["GPU-aaaa"], "the list ends at what is not there");
        assert_eq!(left(Some("GPU-,0"), None), nothing);
        assert_eq!(left(Some("2"), None), nothing, "the split one");
        assert_eq!(left(Some("MIG-cccc,0"), None), ["GPU-aaaa"]);
    }

    #[test]
    fn what_a_container_was_lent_is_what_its_runtime_shows_it() {
        let nothing: [&str; 0] = [];
        let all = ["GPU-aaaa", "GPU-bbbb", "GPU-dddd"];
        for list in ["all", "", "4,5,6,7", "GPU-aaaa,GPU-bbbb,GPU-cccc,GPU-dddd"] {
            assert_eq!(left(None, Some(list)), all, "{list}");
        }
        for list in ["none", "void"] {
            assert_eq!(left(None, Some(list)), nothing, "{list}");
        }
        assert_eq!(left(None, Some("GPU-aaaa")), ["GPU-aaaa"], "set by hand, where nobody hides the others");
        assert_eq!(left(None, Some("0,3")), ["GPU-aaaa", "GPU-dddd"]);
        assert_eq!(left(Some("1"), Some("0,3")), ["GPU-dddd"], "numbers count what is left");
    }

    #[test]
    fn without_a_driver_there_are_none() {
        if std::path::Path::new("/dev/nvidiactl").exists() {
            eprintln!("skipped: this machine has a driver");
            return;
        }
        assert_eq!(gpus_here(), None);
    }
}
