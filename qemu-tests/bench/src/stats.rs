//! Percentiles, and how many samples a method gets.

/// The nearest-rank percentile of `sorted`, which must be sorted and not empty: the smallest sample that at least
/// `percent` per cent of all samples do not exceed. No interpolation, so the answer is always a value that was measured.
pub fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted[rank.clamp(1, sorted.len()) - 1]
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
