//! Keys and values in fewer bits than halves have.
//!
//! Eight bits are e4m3: they reach from 2^-9 to 448, beyond which they are clamped. Four bits are steps of a 16th between
//! the extremes of 32 numbers, which have one scale. A head's numbers are rotated before those, by the Hadamard
//! transform over the largest power of two that divides it: what stands out in one dimension is spread over all, so that the
//! errors are small. Queries are rotated alike, which keeps products, and what attention gives is rotated back.

use super::{Isa, KvKind};
use half::f16;

/// Numbers that share a scale.
const GROUP: usize = 32;
/// Bytes of such a group: the scale, and half a byte a number.
const GROUP_BYTES: usize = 2 + GROUP / 2;

/// What decoded numbers are to be multiplied with: e4m3 is decoded without moving its exponent.
pub fn unit(kind: KvKind) -> f32 {
    if kind == KvKind::Fp8 { 256.0 } else { 1.0 }
}

/// Rotates a head's numbers; twice is not at all.
pub fn rotate(x: &mut [f32]) {
    let size = 1 << x.len().trailing_zeros();
    let scale = (size as f32).sqrt().recip();
    for x in x.chunks_exact_mut(size) {
        let mut half = 1;
        while half < size {
            for pair in x.chunks_exact_mut(2 * half) {
                let (a, b) = pair.split_at_mut(half);
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        x.iter_mut().for_each(|x| *x *= scale);
    }
}

/// Numbers in eight bits.
pub fn encode_fp8(x: &[f32], out: &mut [u8]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = e4m3(x);
    }
}

/// The nearest number of four bits of exponent and three of mantissa, of two the even one.
fn e4m3(x: f32) -> u8 {
    let sign = (x.to_bits() >> 24) as u8 & 0x80;
    let x = x.abs().min(448.0);
    let magnitude = if x < 0.015_625 {
        // Below 2^-6 steps are of 2^-9.
        (x * 512.0).round_ties_even() as u8
    } else {
        let bits = x.to_bits();
        let rounded = bits + 0x7_ffff + (bits >> 20 & 1);
        ((rounded >> 20) - ((127 - 7) << 3)) as u8
    };
    sign | magnitude
}

/// Numbers from eight bits, to be multiplied with [`unit`].
pub fn decode_fp8(bytes: &[u8], out: &mut [f16]) {
    for (out, &byte) in out.iter_mut().zip(bytes) {
        *out = f16::from_bits(u16::from(byte & 0x80) << 8 | u16::from(byte & 0x7f) << 7);
    }
}

/// Rotated numbers in four bits.
pub fn encode_q4(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.chunks_exact(GROUP).zip(out.chunks_exact_mut(GROUP_BYTES)) {
        let extreme = x.iter().fold(0.0_f32, |extreme, &x| if x.abs() > extreme.abs() { x } else { extreme });
        // The extreme one is -8 steps, so that 7 are left on the other side.
        let step = f16::from_f32((extreme / -8.0).clamp(-65504.0, 65504.0));
        let by = if step.to_f32() == 0.0 { 0.0 } else { step.to_f32().recip() };
        let quant = |x: f32| ((x * by).round_ties_even() + 8.0).clamp(0.0, 15.0) as u8;
        out[..2].copy_from_slice(&step.to_le_bytes());
        let (low, high) = x.split_at(GROUP / 2);
        for (out, (&low, &high)) in out[2..].iter_mut().zip(low.iter().zip(high)) {
            *out = quant(low) | quant(high) << 4;
        }
    }
}

/// Numbers from four bits.
pub fn decode_q4(isa: Isa, bytes: &[u8], out: &mut [f16]) {
    for (bytes, out) in bytes.chunks_exact(GROUP_BYTES).zip(out.chunks_exact_mut(GROUP)) {
        let step = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        let steps: [f32; 16] = std::array::from_fn(|quant| (quant as f32 - 8.0) * step);
        let mut levels = [f16::ZERO; 16];
        isa.to_f16(&steps, &mut levels);
        let (low, high) = out.split_at_mut(GROUP / 2);
        for (byte, (low, high)) in bytes[2..].iter().zip(low.iter_mut().zip(high)) {
            *low = levels[usize::from(byte & 15)];
            *high = levels[usize::from(byte >> 4)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::quant::tests::Random;
    use proptest::prelude::*;

    #[test]
    fn every_number_of_eight_bits_is_its_own_nearest() {
        for byte in (0..=255_u8).filter(|byte| byte & 0x7f != 0x7f) {
            let mut out = [f16::ZERO];
            decode_fp8(&[byte], &mut out);
            let value = out[0].to_f32() * unit(KvKind::Fp8);
            let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
            let magnitude = match exponent {
                0 => mantissa / 512.0,
                _ => (1.0 + mantissa / 8.0) * 2_f32.powi(exponent - 7),
            };
            assert_eq!(value, if byte & 0x80 == 0 { magnitude } else { -magnitude }, "{byte:#x}");
            assert_eq!(e4m3(value), byte);
        }
        let check = |x: f32, byte: u8| assert_eq!(e4m3(x), byte, "{x}");
        check(1e9, 0x7e);
        check(-450.0, 0xfe);
        // Half-way to the even one, on both sides of where steps begin to grow.
        check(1.0625, 0x38);
        check(1.1875, 0x3a);
        check(0.001, 0x01);
        check(0.0155, 0x08);
        check(1e-9, 0x00);
    }

    proptest! {
        #[test]
        fn four_bits_keep_most(seed in any::<u64>(), groups in 1_usize..9, outlier in 0_usize..32, height in 1_f32..50.0) {
            let mut x = Random(seed).floats(groups * GROUP);
            x[outlier] *= height;
            let mut rotated = x.clone();
            rotate(&mut rotated);
            let length = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            prop_assert!((length(&x) - length(&rotated)).abs() < 1e-4 * length(&x));
            let mut bytes = vec![0; KvKind::Q4.row_bytes(x.len())];
            encode_q4(&rotated, &mut bytes);
            let mut halves = vec![f16::ZERO; x.len()];
            decode_q4(Isa::detect(), &bytes, &mut halves);
            let mut back: Vec<f32> = halves.iter().map(|half| half.to_f32()).collect();
            rotate(&mut back);
            let error: Vec<f32> = x.iter().zip(&back).map(|(x, back)| x - back).collect();
            prop_assert!(length(&error) < 0.02 * length(&x), "{} of {}", length(&error), length(&x));
        }
    }
}
