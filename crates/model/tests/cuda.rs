//! Generation on a GPU. Without one the test says so and passes; how to run it: `lyceum-train`'s `cuda` test.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use lyceum_model::generate::{Choice, GenerationLimits, Generator, Request, Stop};
use lyceum_model::{Placement, load_directory};
use tch::Kind;

#[test]
fn a_gpu_generates_the_tokens_of_the_cpu() {
    // Before the process's first tensor.
    let device = Placement::choose().unwrap().device;
    if !device.is_cuda() {
        return println!("skipped: no GPU");
    }
    let generate = |placement: Placement| {
        let (config, parameters) = load_directory(&common::reference("llama-untied"), &placement).unwrap();
        let llama = common::model(config, &parameters);
        assert_eq!(llama.device(), placement.device);
        let mut generator = Generator::new(llama, GenerationLimits::default()).unwrap();
        let requests = [&[1, 5, 9][..], &[1, 7], &[1, 2, 3, 4]].map(|prompt| Request {
            tokens: prompt.to_vec(),
            max_new_tokens: 16,
            choice: Choice::Greedy,
        });
        generator.generate(requests.to_vec(), &Stop::default()).unwrap()
    };
    let on_gpu = Placement { device, kind: Kind::Float };
    assert_eq!(generate(on_gpu), generate(Placement::reference()));
}
