//! Percentiles, and how many samples a method gets.

/// The nearest-rank percentile of `sorted`, which must be sorted and not empty: the smallest sample that at least
/// `percent` per cent of all samples do not exceed. No interpolation, so the answer is always a value that was measured.
pub fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// The mean of what is left of `sorted` without its lowest and its highest tenth. Where the samples fall into two groups of
/// about equal size, the median jumps between them from run to run; this does not.
pub fn mean_without_tails(sorted: &[u64]) -> u64 {
    let tail = sorted.len() / 10;
    let middle = &sorted[tail..sorted.len() - tail];
    middle.iter().sum::<u64>() / middle.len() as u64
}

/// A source of numbers that look random and are the same in every run.
pub struct Random(u64);

impl Random {
    /// The source, at its beginning.
    pub fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// A number below `limit`, by Marsaglia's xorshift.
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % limit
    }

    /// Puts `items` in another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// How many samples a method that costs `cost` a piece gets: `most`, or fewer when they would exceed `budget`, but never
/// fewer than `least` (nor more than `most`).
pub fn samples_within(budget: u64, cost: u64, least: usize, most: usize) -> usize {
    let affordable = usize::try_from(budget / cost.max(1)).unwrap_or(usize::MAX);
    affordable.max(least).min(most)
}

/// Whether a method with `n` samples takes one in round `round` of `rounds`: exactly `n` rounds say yes, spread evenly.
pub fn takes_part(round: usize, rounds: usize, n: usize) -> bool {
    (round + 1) * n / rounds != round * n / rounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let samples: Vec<u64> = (1..=10).collect();
        assert_eq!(percentile(&samples, 10), 1);
        assert_eq!(percentile(&samples, 50), 5);
        assert_eq!(percentile(&samples, 90), 9);
        assert_eq!(percentile(&samples, 100), 10);
        assert_eq!(percentile(&[7], 10), 7);
        assert_eq!(percentile(&[7], 90), 7);
        assert_eq!(percentile(&[1, 2, 3], 50), 2);
    }

    #[test]
    fn tails_are_left_out_of_the_mean() {
        assert_eq!(mean_without_tails(&[5]), 5);
        assert_eq!(mean_without_tails(&[1, 3]), 2);
        assert_eq!(mean_without_tails(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 1000]), 4);
    }

    #[test]
    fn every_place_is_taken_equally_often() {
        let mut random = Random::new();
        let mut first = [0; 5];
        for _ in 0..5000 {
            let mut items = [0, 1, 2, 3, 4];
            random.shuffle(&mut items);
            first[items[0]] += 1;
            items.sort_unstable();
            assert_eq!(items, [0, 1, 2, 3, 4]);
        }
        assert!(first.iter().all(|&count| (900..1100).contains(&count)), "{first:?}");
    }

    #[test]
    fn expensive_methods_get_fewer_samples() {
        assert_eq!(samples_within(1_000, 1, 5, 100), 100);
        assert_eq!(samples_within(1_000, 50, 5, 100), 20);
        assert_eq!(samples_within(1_000, 5_000, 5, 100), 5);
        assert_eq!(samples_within(1_000, 0, 5, 100), 100);
        assert_eq!(samples_within(1_000, 5_000, 5, 3), 3);
    }

    #[test]
    fn samples_are_spread_over_all_rounds() {
        for rounds in 1..40 {
            for n in 0..=rounds {
                let taken: Vec<_> = (0..rounds).filter(|&round| takes_part(round, rounds, n)).collect();
                assert_eq!(taken.len(), n, "{n} of {rounds}");
            }
        }
        let taken: Vec<_> = (0..100).filter(|&round| takes_part(round, 100, 4)).collect();
        assert_eq!(taken, [24, 49, 74, 99]);
    }
}
