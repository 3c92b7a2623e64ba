//! Each call of the shim does what it says, and what libtorch throws comes back as an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lyceum_torch_shim::{
    AdamW, PackedLinear, Seen, ShimError, device_memory, driver_devices, empty_cache, fused_adamw, load_cuda,
    observe, tensor_over,
};
use tch::{Kind, Tensor};

/// Memory that counts its own end.
struct Owner {
    memory: Vec<i64>,
    ended: Arc<AtomicUsize>,
}

impl Owner {
    fn new(memory: Vec<i64>) -> (Self, Arc<AtomicUsize>) {
        let ended = Arc::new(AtomicUsize::new(0));
        (Self { memory, ended: Arc::clone(&ended) }, ended)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: i64s are readable as bytes.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.memory.len() * 8) }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn l4_a_tensor_over_memory_copies_nothing_and_keeps_its_owner() {
    let (owner, ended) = Owner::new((0..12).collect());
    let address = owner.memory.as_ptr() as usize;
    let ((tensor, row), seen) = observe(|| {
        // SAFETY: a `Vec`'s memory stays where it is.
        let tensor = unsafe { tensor_over(owner, Owner::bytes, &[3, 4], Kind::Int64) }.unwrap();
        let row = tensor.get(1);
        (tensor, row)
    })
    .unwrap();
    assert_eq!(seen.iter().find_map(Seen::allocated), None);
    assert_eq!(tensor.data_ptr() as usize, address);
    drop(tensor);
    assert_eq!(ended.load(Ordering::SeqCst), 0, "a view keeps it");
    assert_eq!(Vec::<i64>::try_from(&row).unwrap(), [4, 5, 6, 7]);
    drop(row);
    assert_eq!(ended.load(Ordering::SeqCst), 1);
}

#[test]
fn memory_that_does_not_fit_the_tensor_is_refused_and_freed() {
    for shape in [&[3_i64, 5][..], &[-1], &[i64::MAX, i64::MAX]] {
        let (owner, ended) = Owner::new((0..12).collect());
        // SAFETY: as above.
        let refused = unsafe { tensor_over(owner, Owner::bytes, shape, Kind::Int64) };
        assert!(matches!(refused, Err(ShimError::Memory(_))), "{shape:?}");
        assert_eq!(ended.load(Ordering::SeqCst), 1);
    }
    let (owner, _) = Owner::new((0..12).collect());
    // SAFETY: as above.
    let askew = unsafe { tensor_over(owner, |owner| &owner.bytes()[4..], &[2], Kind::Int64) };
    assert!(askew.unwrap_err().to_string().contains("not aligned"));
}

#[test]
fn l4_an_observation_sees_allocations_and_the_integers_that_operations_are_given() {
    let table = Tensor::zeros([10, 25], (Kind::Float, tch::Device::Cpu));
    let ids = Tensor::from_slice(&[3_i64, 5]);
    let (looked_up, seen) = observe(|| Tensor::f_embedding(&table, &ids, -1, false, false).unwrap()).unwrap();
    assert_eq!(looked_up.size(), [2, 25]);
    let own = |seen: &&Seen| {
        matches!(seen, Seen::Operand { operation, address, bytes: 16 }
            if operation == "aten::embedding" && *address == ids.data_ptr() as usize)
    };
    assert_eq!(seen.iter().filter(own).count(), 1, "{seen:?}");
    assert_eq!(seen.iter().filter_map(Seen::allocated).collect::<Vec<_>>(), [2 * 25 * 4]);

    // A copy shows, as an allocation and as an operand that lies elsewhere.
    let (_, seen) = observe(|| Tensor::f_embedding(&table, &ids.copy(), -1, false, false).unwrap()).unwrap();
    assert!(seen.contains(&Seen::Allocation { bytes: 16 }));
    assert_eq!(seen.iter().filter(own).count(), 0);

    // Other threads' doings are their own, and so is what comes after.
    let other = || drop(Tensor::zeros([100], (Kind::Float, tch::Device::Cpu)));
    let (_, seen) = observe(|| std::thread::spawn(other).join().unwrap()).unwrap();
    other();
    assert_eq!(seen, []);
    assert_eq!(observe(|| ()).unwrap().1, []);
}

#[test]
fn an_observation_ends_with_work_that_panics() {
    let panics = std::panic::catch_unwind(|| observe(|| panic!("as it should")));
    assert!(panics.is_err());
    assert!(observe(|| observe(|| ()).is_err()).unwrap().0, "observations do not nest");
}

#[test]
fn the_fused_step_is_adamws_formula() {
    let numbers = AdamW { rate: 0.1, beta1: 0.9, beta2: 0.95, decay: 0.01, epsilon: 1e-8 };
    let (start, gradients) = (vec![0.5_f32, -1.0, 2.0], vec![vec![0.1_f32, -0.2, 0.3], vec![-0.4, 0.1, 0.2]]);
    let mut parameter = Tensor::from_slice(&start);
    let (mut mean, mut variance) = (parameter.zeros_like(), parameter.zeros_like());
    let mut expected: Vec<(f64, f64, f64)> = start.iter().map(|p| (f64::from(*p), 0.0, 0.0)).collect();
    for (step, gradient) in (1..).zip(&gradients) {
        let mut tensor = Tensor::from_slice(gradient);
        let mut count = Tensor::from(step as f32);
        fused_adamw([&mut parameter, &mut tensor, &mut mean, &mut variance], &mut count, None, &numbers)
            .unwrap();
        for ((p, m, v), g) in expected.iter_mut().zip(gradient) {
            let g = f64::from(*g);
            *p -= 0.1 * 0.01 * *p;
            *m = 0.9 * *m + 0.1 * g;
            *v = 0.95 * *v + 0.05 * g * g;
            let (m, v) = (*m / (1.0 - 0.9_f64.powi(step)), *v / (1.0 - 0.95_f64.powi(step)));
            *p -= 0.1 * m / (v.sqrt() + 1e-8);
        }
    }
    for (found, (expected, ..)) in Vec::<f32>::try_from(&parameter).unwrap().iter().zip(&expected) {
        assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} is not {expected}");
    }
}

#[test]
fn a_divisor_divides_the_gradient_first() {
    let numbers = AdamW { rate: 0.1, beta1: 0.9, beta2: 0.95, decay: 0.0, epsilon: 1e-8 };
    let moved = |gradient: f32, divisor: Option<f32>| {
        let [mut p, mut m, mut v] = [0.0_f32; 3].map(|value| Tensor::from_slice(&[value]));
        let (mut gradient, mut step) = (Tensor::from_slice(&[gradient]), Tensor::from(1.0_f32));
        let divisor = divisor.map(Tensor::from);
        fused_adamw([&mut p, &mut gradient, &mut m, &mut v], &mut step, divisor.as_ref(), &numbers).unwrap();
        m.double_value(&[0])
    };
    assert!((moved(3.0, Some(2.0)) - moved(1.5, None)).abs() < 1e-9);
}

#[test]
fn a_step_on_tensors_that_do_not_match_is_an_error() {
    let numbers = AdamW { rate: 0.1, beta1: 0.9, beta2: 0.95, decay: 0.0, epsilon: 1e-8 };
    let [mut a, mut b, mut c] = [3, 3, 3].map(|n| Tensor::zeros([n], (Kind::Float, tch::Device::Cpu)));
    let mut short = Tensor::zeros([2], (Kind::Double, tch::Device::Cpu));
    let mut step = Tensor::from(1.0_f32);
    assert!(fused_adamw([&mut a, &mut short, &mut b, &mut c], &mut step, None, &numbers).is_err());
}

#[test]
fn a_packed_weight_gives_the_plain_product_for_any_number_of_rows() {
    let weight = Tensor::randn([48, 32], (Kind::Float, tch::Device::Cpu));
    let packed = PackedLinear::new(&weight, 8).unwrap();
    for rows in [1, 3, 8, 70] {
        let input = Tensor::randn([rows, 32], (Kind::Float, tch::Device::Cpu));
        let difference = packed.apply(&input).unwrap() - input.matmul(&weight.tr());
        assert!(difference.abs().max().double_value(&[]) < 1e-4, "{rows} rows");
    }
    assert!(packed.apply(&Tensor::zeros([2, 31], (Kind::Float, tch::Device::Cpu))).is_err());
    assert!(PackedLinear::new(&Tensor::zeros([2, 2], (Kind::Int64, tch::Device::Cpu)), 8).is_err());
}

#[test]
fn without_an_accelerator_its_calls_are_errors_or_do_nothing() {
    if driver_devices() > 0 {
        return; // Loading CUDA into a test process would change what the other tests see.
    }
    assert!(device_memory(0).is_err() && device_memory(1000).is_err());
    empty_cache().unwrap();
    let error = load_cuda(Some("/no/such/directory".as_ref())).unwrap_err().to_string();
    assert!(error.contains("/no/such/directory/libtorch_cuda.so"), "{error}");
}
