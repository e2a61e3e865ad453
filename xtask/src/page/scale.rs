//! Where on an axis a number lies, and which numbers are written at it.

/// An axis from 0 on.
pub struct Linear {
    step: f64,
    most: f64,
    pixels: (f64, f64),
}

impl Linear {
    /// An axis with room for everything up to `most`; `pixels` are where 0 and the axis's end lie.
    pub fn new(most: f64, pixels: (f64, f64)) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        // The largest of 1, 2 and 5 times a power of ten that gives at least four steps.
        let decade = 10_f64.powf((most / 4.0).log10().floor());
        let step = [5.0, 2.0, 1.0].map(|times| times * decade).into_iter().find(|step| step * 4.0 <= most);
        let step = step.unwrap_or(decade);
        Self { step, most: (most / step).ceil() * step, pixels }
    }

    /// Where a number lies.
    pub fn at(&self, number: f64) -> f64 {
        between(self.pixels, number / self.most)
    }

    /// The numbers to write.
    pub fn ticks(&self) -> Vec<f64> {
        let steps = (self.most / self.step).round() as u32;
        (0..=steps).map(|index| f64::from(index) * self.step).collect()
    }
}

/// An axis on which each distance is a factor.
pub struct Log {
    least: f64,
    most: f64,
    pixels: (f64, f64),
}

impl Log {
    /// An axis from `least` to `most`, both above 0, which lie at `pixels`.
    pub fn new(least: f64, most: f64, pixels: (f64, f64)) -> Self {
        Self { least, most: if most > least { most } else { least * 2.0 }, pixels }
    }

    /// The same, from the last to the first number worth writing that lie outside.
    pub fn rounded(least: f64, most: f64, pixels: (f64, f64)) -> Self {
        let low = round_numbers(least).into_iter().rev().find(|number| *number <= least).unwrap_or(least);
        let high = round_numbers(most).into_iter().find(|number| *number >= most).unwrap_or(most);
        Self::new(low, high, pixels)
    }

    /// Where a number lies.
    pub fn at(&self, number: f64) -> f64 {
        between(self.pixels, (number / self.least).ln() / (self.most / self.least).ln())
    }

    /// The numbers to write.
    pub fn ticks(&self) -> Vec<f64> {
        let mut ticks = Vec::new();
        let mut decade = self.least;
        while decade <= self.most * 10.0 {
            ticks.extend(round_numbers(decade));
            decade *= 10.0;
        }
        ticks.retain(|tick| (self.least..=self.most).contains(tick));
        ticks.dedup();
        ticks
    }
}

/// 1, 2 and 5 times the power of ten that is not above `number`, and the next one.
fn round_numbers(number: f64) -> [f64; 4] {
    let decade = 10_f64.powi(number.log10().floor() as i32);
    [1.0, 2.0, 5.0, 10.0].map(|times| times * decade)
}

fn between((from, to): (f64, f64), share: f64) -> f64 {
    from + (to - from) * share
}

/// Moves labels apart that would overlap: in the same order, at least `gap` from one to the next, and none beyond
/// `most` if there is room.
pub fn apart(wanted: &[f64], gap: f64, most: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    let mut places = wanted.to_vec();
    for pair in order.windows(2) {
        places[pair[1]] = places[pair[1]].max(places[pair[0]] + gap);
    }
    let mut limit = most;
    for index in order.into_iter().rev() {
        places[index] = places[index].min(limit);
        limit = places[index] - gap;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_axis_ends_at_a_round_number() {
        let axis = Linear::new(902.4, (300.0, 0.0));
        assert_eq!(axis.ticks(), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        assert_eq!((axis.at(0.0), axis.at(500.0), axis.at(1000.0)), (300.0, 150.0, 0.0));
        assert_eq!(Linear::new(22_755.0, (0.0, 1.0)).ticks().last(), Some(&25_000.0));
        assert_eq!(Linear::new(0.0, (0.0, 1.0)).ticks().last(), Some(&1.0));
    }

    #[test]
    fn a_logarithmic_axis_has_equal_decades() {
        let axis = Log::rounded(129.0, 88_000.0, (400.0, 100.0));
        assert_eq!(axis.ticks(), [100., 200., 500., 1000., 2000., 5000., 10_000., 20_000., 50_000., 100_000.]);
        assert!((axis.at(1000.0) - 300.0).abs() < 1e-9 && (axis.at(10_000.0) - 200.0).abs() < 1e-9);
        assert_eq!(Log::rounded(200.0, 500.0, (0.0, 1.0)).ticks(), [200.0, 500.0]);
        assert_eq!(Log::rounded(0.3, 0.9, (0.0, 1.0)).ticks().len(), 3);
        assert_eq!(Log::rounded(5.0, 5.0, (0.0, 1.0)).ticks(), [5.0, 10.0]);
    }

    #[test]
    fn labels_do_not_overlap() {
        assert_eq!(apart(&[10.0, 12.0, 100.0], 15.0, 200.0), [10.0, 25.0, 100.0]);
        assert_eq!(apart(&[99.0, 98.0, 20.0], 15.0, 100.0), [100.0, 85.0, 20.0]);
        assert!(apart(&[], 15.0, 100.0).is_empty());
    }
}
