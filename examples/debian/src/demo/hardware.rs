//! What the demo computes on. Its run files are those of a laptop: two nodes, two trainers. A machine with a GPU gets
//! one node and one trainer, which holds model and batches on the GPU.

use std::path::Path;

use lyceum_pretrain::run_file::RunFile;

/// Processors alone, or a GPU for the trainer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Hardware {
    /// Two trainers on processors.
    Cpu,
    /// One trainer on an NVIDIA GPU.
    Gpu,
}

impl Hardware {
    /// A GPU where the driver shows one.
    pub fn of_this_machine() -> Self {
        if Path::new("/dev/nvidia0").exists() { Self::Gpu } else { Self::Cpu }
    }

    /// The manifest of the demo's cluster, among Lyceum's own.
    pub fn manifest(self) -> &'static str {
        match self {
            Self::Cpu => "cluster/laptop.toml",
            Self::Gpu => "cluster/gpu.toml",
        }
    }

    /// Makes a run fit: the same steps on the same tokens.
    pub fn fit(self, run: &mut RunFile) {
        if self == Self::Gpu {
            run.trainer.world_size = 1;
            run.trainer.gpus = 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_cluster::manifest::Manifest;
    use lyceum_pretrain::demand;

    #[test]
    fn each_hardware_has_a_manifest_that_its_runs_fit() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for hardware in [Hardware::Cpu, Hardware::Gpu] {
            let manifest = Manifest::load(root.join("../..").join(hardware.manifest())).unwrap();
            for file in ["run.toml", "vanilla.toml"] {
                let mut run = RunFile::load(root.join(file)).unwrap();
                hardware.fit(&mut run);
                assert!(demand::unmet(&run, &manifest, None).is_none(), "{hardware:?} {file}");
                assert_eq!(run.trainer.gpus == 1.0, hardware == Hardware::Gpu);
            }
        }
    }
}
