//! The optimizer's loops over flat host memory, one pass each, compiled for the vector units at hand.
//!
//! Nothing here depends on the number of threads or on the instruction set: element-wise arithmetic has no fused
//! multiply-adds (Rust never contracts), and sums have a fixed order.

use half::bf16;

/// Elements of one job, and of one partial sum: small enough to share out, large enough to be worth it.
pub const CHUNK: usize = 64 * 1024;

/// The scalars of one AdamW update, ready for single precision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// What gradients are multiplied by (clipping).
    pub gradient_scale: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// `1 - beta1`.
    pub one_minus_beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// `1 - beta2`.
    pub one_minus_beta2: f32,
    /// `learning rate / (1 - beta1^t)`.
    pub step_size: f32,
    /// `1 / sqrt(1 - beta2^t)`.
    pub inverse_root_correction: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
}

/// Updates one run of parameters, all with the same `keep = 1 - learning rate * weight decay`.
///
/// All slices are of one length.
pub fn adamw(
    step: &AdamWStep,
    keep: f32,
    gradient: &[f32],
    master: &mut [f32],
    moment1: &mut [f32],
    moment2: &mut [f32],
) {
    dispatch!(adamw_body, adamw_avx512, adamw_avx2, (step, keep, gradient, master, moment1, moment2))
}

/// Rounds to bfloat16, to nearest, ties to even. `from` holds no NaN.
pub fn round_to_bf16(from: &[f32], to: &mut [bf16]) {
    dispatch!(round_body, round_avx512, round_avx2, (from, to))
}

/// Adds `from` to `sum`, of one length.
pub fn add_bf16(sum: &mut [f32], from: &[bf16]) {
    dispatch!(add_body, add_avx512, add_avx2, (sum, from))
}

/// The sum of squares of at most [`CHUNK`] elements in double precision, in a fixed order.
pub fn sum_of_squares(values: &[f32]) -> f64 {
    dispatch!(squares_body, squares_avx512, squares_avx2, (values))
}

macro_rules! dispatch {
    ($body:ident, $avx512:ident, $avx2:ident, ($($argument:ident),*)) => {{
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                // SAFETY: the processor has what the function was compiled for.
                return unsafe { $avx512($($argument),*) };
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: as above.
                return unsafe { $avx2($($argument),*) };
            }
        }
        $body($($argument),*)
    }};
}
use dispatch;

macro_rules! compiled_for {
    ($body:ident, $avx512:ident, $avx2:ident, ($($argument:ident: $type:ty),*) $(-> $output:ty)?) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw")]
        fn $avx512($($argument: $type),*) $(-> $output)? {
            $body($($argument),*)
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2")]
        fn $avx2($($argument: $type),*) $(-> $output)? {
            $body($($argument),*)
        }
    };
}

compiled_for!(adamw_body, adamw_avx512, adamw_avx2, (
    step: &AdamWStep, keep: f32, gradient: &[f32], master: &mut [f32], moment1: &mut [f32], moment2: &mut [f32]
));
compiled_for!(round_body, round_avx512, round_avx2, (from: &[f32], to: &mut [bf16]));
compiled_for!(add_body, add_avx512, add_avx2, (sum: &mut [f32], from: &[bf16]));
compiled_for!(squares_body, squares_avx512, squares_avx2, (values: &[f32]) -> f64);

/// Loshchilov & Hutter, arXiv 1711.05101, algorithm 2, in the form of `torch.optim.AdamW`.
#[inline(always)]
fn adamw_body(
    step: &AdamWStep,
    keep: f32,
    gradient: &[f32],
    master: &mut [f32],
    moment1: &mut [f32],
    moment2: &mut [f32],
) {
    let len = master.len();
    let (gradient, moment1, moment2) = (&gradient[..len], &mut moment1[..len], &mut moment2[..len]);
    for i in 0..len {
        let g = gradient[i] * step.gradient_scale;
        let m = step.beta1 * moment1[i] + step.one_minus_beta1 * g;
        let v = step.beta2 * moment2[i] + step.one_minus_beta2 * g * g;
        moment1[i] = m;
        moment2[i] = v;
        let denominator = v.sqrt() * step.inverse_root_correction + step.epsilon;
        master[i] = master[i] * keep - step.step_size * (m / denominator);
    }
}

#[inline(always)]
fn round_body(from: &[f32], to: &mut [bf16]) {
    let from = &from[..to.len()];
    for i in 0..from.len() {
        let bits = from[i].to_bits();
        let rounded = bits.wrapping_add(0x7fff).wrapping_add((bits >> 16) & 1);
        to[i] = bf16::from_bits((rounded >> 16) as u16);
    }
}

#[inline(always)]
fn add_body(sum: &mut [f32], from: &[bf16]) {
    for (sum, value) in sum.iter_mut().zip(from) {
        *sum += f32::from_bits(u32::from(value.to_bits()) << 16);
    }
}

#[inline(always)]
fn squares_body(values: &[f32]) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [0.0f64; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for values in whole {
        for lane in 0..LANES {
            let value = f64::from(values[lane]);
            lanes[lane] += value * value;
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(*value) * f64::from(*value);
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: u32, len: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn l5_every_instruction_set_gives_the_same_bits() {
        let len = 1003;
        let step = AdamWStep {
            gradient_scale: 0.7,
            beta1: 0.9,
            one_minus_beta1: 0.1,
            beta2: 0.95,
            one_minus_beta2: 0.05,
            step_size: 1e-3,
            inverse_root_correction: 1.3,
            epsilon: 1e-8,
        };
        let start =
            || (values(1, len), values(2, len), values(3, len).iter().map(|v| v * v).collect::<Vec<_>>());
        let gradient = values(4, len);
        let (mut a, mut b) = (start(), start());
        adamw(&step, 0.999, &gradient, &mut a.0, &mut a.1, &mut a.2);
        adamw_body(&step, 0.999, &gradient, &mut b.0, &mut b.1, &mut b.2);
        assert_eq!(a, b);
        assert_eq!(sum_of_squares(&gradient).to_bits(), squares_body(&gradient).to_bits());
    }

    #[test]
    fn rounding_is_to_nearest_even_as_the_half_crate_does_it() {
        let mut from = values(5, 4096);
        from.extend([0.0, -0.0, 1.0, f32::MAX, f32::MIN_POSITIVE, 1.003_906_2, 1.011_718_8, f32::INFINITY]);
        let mut to = vec![bf16::ZERO; from.len()];
        round_to_bf16(&from, &mut to);
        for (value, rounded) in from.iter().zip(&to) {
            assert_eq!(bf16::from_f32(*value).to_bits(), rounded.to_bits(), "{value}");
        }
    }
}
