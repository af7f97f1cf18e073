//! Random numbers of a method: a small generator that a seed of [`ModelAccess::random`] begins, the same everywhere.
//!
//! [`ModelAccess::random`]: engraft_plugin_api::ModelAccess::random

/// The generator splitmix64 (Steele, Lea & Flood 2014).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of the uniform distribution over [0, 1).
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_numbers_come_out_and_uniform_ones_fill_the_interval() {
        let mut random = Random::new(1234567);
        assert_eq!([random.bits(), random.bits()], [6457827717110365317, 3203168211198807973]);
        let values: Vec<f32> = (0..1000).map(|_| random.uniform()).collect();
        let mean = values.iter().sum::<f32>() / 1000.0;
        assert!(values.iter().all(|v| (0.0..1.0).contains(v)) && (mean - 0.5).abs() < 0.03, "{mean}");
    }
}
