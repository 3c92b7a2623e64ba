//! Attention of one query a row over cached keys and values, in fp32 on one thread.
//!
//! libtorch's own reads every row up to the longest one's length, and its products of one query are MKL's `sgemv`, which
//! off Intel's processors does not use their vector units well: a third of the time of a small synthesizer. Here each row
//! reads what it sees and nothing else, and keys and values stream through once, all heads of a token together.

use std::ops::Range;

/// Lanes of one vector; heads are whole numbers of these wide.
pub(super) const LANES: usize = 8;

/// How a token's keys and a row's queries are divided.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    /// Heads of keys and values.
    pub(super) key_heads: usize,
    /// Queries that share one of them.
    pub(super) group: usize,
    /// Numbers of one head: a multiple of [`LANES`].
    pub(super) width: usize,
}

/// What each row reads, and what is made of it. Scratch memory of one is reused by the next.
#[derive(Debug, Default)]
pub(super) struct CachedAttention {
    scores: Vec<f32>,
}

impl CachedAttention {
    /// Writes softmax(q K^T / sqrt(width)) V of row r to `out[r]`.
    ///
    /// `queries` and `out` are `[rows, key_heads, group, width]`, `keys` and `values` `[tokens, key_heads, width]`; row r
    /// sees the tokens `seen[r]`, at least one.
    pub(super) fn attend(
        &mut self,
        heads: Heads,
        queries: &[f32],
        (keys, values): (&[f32], &[f32]),
        seen: &[Range<usize>],
        out: &mut [f32],
    ) {
        let (per_query, per_token) =
            (heads.key_heads * heads.group * heads.width, heads.key_heads * heads.width);
        let rows = queries.chunks_exact(per_query).zip(out.chunks_exact_mut(per_query)).zip(seen);
        for ((query, out), seen) in rows {
            let tokens = seen.start * per_token..seen.end * per_token;
            self.scores.clear();
            self.scores.resize(heads.key_heads * heads.group * seen.len(), 0.0);
            let (keys, values) = (&keys[tokens.clone()], &values[tokens]);
            Row { heads, query, keys, values, scores: &mut self.scores, out }.attend();
        }
    }
}

/// One row and what it reads.
struct Row<'a> {
    heads: Heads,
    query: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    /// One run of tokens for each query.
    scores: &'a mut [f32],
    out: &'a mut [f32],
}

impl Row<'_> {
    /// Compiled for the vector units at hand.
    fn attend(self) {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma")]
            fn with_avx2(row: Row<'_>) {
                row.attend_with(|a, b| dot_avx2(a, b), f32::mul_add);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the processor has what the function was compiled for.
                return unsafe { with_avx2(self) };
            }
        }
        // Without the instruction a fused multiply-add is a call.
        self.attend_with(dot, |a, b, sum| a * b + sum);
    }

    #[inline(always)]
    fn attend_with(
        self,
        dot: impl Fn(&[f32], &[f32]) -> f32,
        multiply_add: impl Fn(f32, f32, f32) -> f32 + Copy,
    ) {
        let Row { heads, query, keys, values, scores, out } = self;
        let Heads { key_heads, group, width } = heads;
        let per_token = key_heads * width;
        let tokens = keys.len() / per_token;
        let scale = 1.0 / (width as f32).sqrt();
        for (token, key) in keys.chunks_exact(per_token).enumerate() {
            for (head, key) in key.chunks_exact(width).enumerate() {
                for one in 0..group {
                    let number = head * group + one;
                    scores[number * tokens + token] = dot(&query[number * width..][..width], key) * scale;
                }
            }
        }
        for scores in scores.chunks_exact_mut(tokens) {
            softmax(scores, multiply_add);
        }
        out.fill(0.0);
        for (token, value) in values.chunks_exact(per_token).enumerate() {
            for (head, value) in value.chunks_exact(width).enumerate() {
                for one in 0..group {
                    let number = head * group + one;
                    let weight = scores[number * tokens + token];
                    let out = &mut out[number * width..][..width];
                    for (out, value) in out.iter_mut().zip(value) {
                        *out = multiply_add(weight, *value, *out);
                    }
                }
            }
        }
    }
}

type Lanes = [f32; LANES];

/// Both are whole numbers of lanes long.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums: Lanes = [0.0; LANES];
    for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    add_up(sums)
}

/// As [`dot`], which the compiler leaves scalar.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn dot_avx2(a: &[f32], b: &[f32]) -> f32 {
    use std::arch::x86_64::*;
    let mut sums = _mm256_setzero_ps();
    for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        // SAFETY: eight numbers lie there, whatever their alignment.
        let (a, b) = unsafe { (_mm256_loadu_ps(a.as_ptr()), _mm256_loadu_ps(b.as_ptr())) };
        sums = _mm256_fmadd_ps(a, b, sums);
    }
    let four = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

#[inline(always)]
fn add_up(lanes: Lanes) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// In place.
#[inline(always)]
fn softmax(scores: &mut [f32], multiply_add: impl Fn(f32, f32, f32) -> f32 + Copy) {
    let mut most: Lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = scores.as_chunks::<LANES>();
    for chunk in whole {
        for lane in 0..LANES {
            most[lane] = most[lane].max(chunk[lane]);
        }
    }
    let most = most.iter().chain(rest).fold(f32::NEG_INFINITY, |most, score| most.max(*score));
    let mut sums: Lanes = [0.0; LANES];
    let (whole, rest) = scores.as_chunks_mut::<LANES>();
    for chunk in whole {
        for lane in 0..LANES {
            chunk[lane] = exponential(chunk[lane] - most, multiply_add);
            sums[lane] += chunk[lane];
        }
    }
    let mut sum = add_up(sums);
    for score in rest {
        *score = exponential(*score - most, multiply_add);
        sum += *score;
    }
    let inverse = 1.0 / sum;
    scores.iter_mut().for_each(|score| *score *= inverse);
}

/// e^x of x <= 0, to 2 units in the last place; 0 below -87. 2^n times a polynomial for the rest, after Cephes' `expf`.
#[inline(always)]
fn exponential(x: f32, multiply_add: impl Fn(f32, f32, f32) -> f32) -> f32 {
    /// 1.5 * 2^23: added to a small number, it leaves that rounded to an integer in the lowest bits.
    const ROUNDING: f32 = 12_582_912.0;
    // ln 2 in two parts, the first with few bits, so that multiples of it are exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.max(-87.0);
    let shifted = multiply_add(clamped, std::f32::consts::LOG2_E, ROUNDING);
    let n = shifted - ROUNDING;
    let r = multiply_add(n, -LN_2_LOW, multiply_add(n, -LN_2_HIGH, clamped));
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = multiply_add(p, r, coefficient);
    }
    let fraction = multiply_add(p, r * r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    let whole = fraction * power;
    if x < -87.0 { 0.0 } else { whole }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn it_is_what_libtorch_makes_of_each_row_alone() {
        tch::manual_seed(3);
        let heads = [(4, 1, 32), (2, 3, 16), (1, 2, 8), (8, 1, 64)];
        for (key_heads, group, width) in heads {
            let options = (Kind::Float, Device::Cpu);
            let cache = || Tensor::randn([80, key_heads, width], options) * 2.0;
            let (keys, values) = (cache(), cache());
            let queries = Tensor::randn([4, key_heads, group, width], options) * 2.0;
            let seen = [0..1, 3..40, 40..57, 57..80];
            let floats = |tensor: &Tensor| Vec::<f32>::try_from(tensor.reshape(-1)).unwrap();
            let mut out = vec![f32::NAN; queries.numel()];
            let heads = Heads { key_heads: key_heads as usize, group: group as usize, width: width as usize };
            let (key_slice, value_slice) = (floats(&keys), floats(&values));
            CachedAttention::default().attend(
                heads,
                &floats(&queries),
                (&key_slice, &value_slice),
                &seen,
                &mut out,
            );
            for (row, seen) in seen.iter().enumerate() {
                let of_row = |cache: &Tensor| {
                    cache.narrow(0, seen.start as i64, seen.len() as i64).transpose(0, 1).unsqueeze(0)
                };
                let expected = Tensor::scaled_dot_product_attention::<Tensor>(
                    &queries.narrow(0, row as i64, 1),
                    &of_row(&keys),
                    &of_row(&values),
                    None,
                    0.0,
                    false,
                    None,
                    false,
                );
                let size = expected.numel();
                for (found, expected) in out[row * size..][..size].iter().zip(floats(&expected)) {
                    assert!((found - expected).abs() < 1e-5, "row {row}: {found} for {expected}");
                }
            }
        }
    }

    #[test]
    fn the_exponential_is_exact_to_two_units_in_the_last_place() {
        for step in 0..100_000 {
            let x = -(step as f32) * 1e-3;
            let expected = f64::from(x).exp();
            for found in [exponential(x, f32::mul_add), exponential(x, |a, b, sum| a * b + sum)] {
                let off = (f64::from(found) - expected).abs();
                let allowed = if x < -87.0 { 1e-37 } else { 2.4e-7 * expected };
                assert!(off <= allowed, "e^{x}: {found} for {expected}");
            }
        }
    }
}
