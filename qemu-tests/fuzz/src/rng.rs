//! Random numbers that come again with the same seed: splitmix64.

/// A generator.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator of the stream numbered `index` of a seed; streams do not resemble each other.
    pub fn new(seed: u64, index: u64) -> Rng {
        let mut rng = Rng(seed);
        let mixed = rng.next();
        let mut rng = Rng(mixed ^ index.wrapping_mul(0xd605_bbb5_8c8a_bc1d));
        rng.next();
        rng
    }

    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `limit` - 1; `limit` is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A number from `low` to `high`, both included.
    pub fn range(&mut self, low: i32, high: i32) -> i32 {
        low + self.below((high - low) as u64 + 1) as i32
    }

    /// True with a probability of `percent` in a hundred.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of them.
    pub fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_again() {
        let numbers = |seed, index| {
            let mut rng = Rng::new(seed, index);
            [rng.next(), rng.next(), rng.next()]
        };
        assert_eq!(numbers(1, 2), numbers(1, 2));
        assert_ne!(numbers(1, 2), numbers(1, 3));
        assert_ne!(numbers(1, 2), numbers(2, 2));
    }

    #[test]
    fn numbers_stay_within_their_limits() {
        let mut rng = Rng::new(7, 0);
        assert!((0..1000).all(|_| rng.below(3) < 3 && (-2..=2).contains(&rng.range(-2, 2))));
        assert!((0..100).all(|_| !rng.percent(0) && rng.percent(100)));
    }
}
