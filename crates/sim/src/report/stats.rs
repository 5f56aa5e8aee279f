//! The little statistics that reports need.

use serde::Serialize;

/// How values spread. Each is one of the values, by nearest rank: the least value that at least
/// this share of all values do not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub p50: f64,
    /// 95 in 100 are no greater.
    pub p95: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of values in any order. Those that are not finite are left out; none when nothing is left.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let rank = |percent: usize| values.get((values.len() * percent).div_ceil(100).max(1) - 1);
        Some(Self { p50: *rank(50)?, p95: *rank(95)?, max: *values.last()? })
    }
}

/// Where a mean is, with a confidence of 95 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Interval {
    /// Of the mean of what `differences` are a sample of, by Student's t. None for fewer than two.
    ///
    /// This is the interval of the paired t-test (Student, "The probable error of a mean",
    /// Biometrika 6, 1908): mean ± t · s / √n, with n − 1 degrees of freedom.
    pub fn of_mean(differences: &[f64]) -> Option<Self> {
        let count = differences.len();
        if count < 2 {
            return None;
        }
        let mean = mean(differences)?;
        let squares: f64 = differences.iter().map(|value| (value - mean).powi(2)).sum();
        let error = (squares / (count - 1) as f64).sqrt() / (count as f64).sqrt();
        let reach = t_975(count - 1) * error;
        reach.is_finite().then_some(Self { low: mean - reach, high: mean + reach })
    }

    /// Whether zero is outside.
    pub fn excludes_zero(self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// None for no values.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The 97.5th percentile of Student's t. From a table up to 30 degrees of freedom, and beyond by
/// the first terms of Abramowitz and Stegun, 26.7.5, which are right to 0.0002 there.
fn t_975(freedom: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    const NORMAL: f64 = 1.959_964;
    if let Some(value) = freedom.checked_sub(1).and_then(|index| TABLE.get(index)) {
        return *value;
    }
    let (x, freedom) = (NORMAL, freedom as f64);
    let first = (x.powi(3) + x) / 4.0;
    let second = (5.0 * x.powi(5) + 16.0 * x.powi(3) + 3.0 * x) / 96.0;
    x + first / freedom + second / freedom.powi(2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let spread = Spread::of((1..=100).rev().map(f64::from)).unwrap();
        assert_eq!(spread, Spread { p50: 50.0, p95: 95.0, max: 100.0 });
        let ten = Spread::of((1..=10).map(f64::from)).unwrap();
        assert_eq!(ten, Spread { p50: 5.0, p95: 10.0, max: 10.0 });
        let one = Spread::of([7.0]).unwrap();
        assert_eq!(one, Spread { p50: 7.0, p95: 7.0, max: 7.0 });
    }

    #[test]
    fn what_is_no_number_counts_for_nothing() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::NAN, f64::INFINITY]), None);
        assert_eq!(Spread::of([f64::NAN, 2.0]).unwrap().max, 2.0);
    }

    #[test]
    fn the_quantile_agrees_with_printed_tables() {
        for (freedom, value) in [(1, 12.706), (10, 2.228), (30, 2.042)] {
            assert_eq!(t_975(freedom), value);
        }
        for (freedom, value) in [(31, 2.0395), (40, 2.0211), (60, 2.0003), (120, 1.9799)] {
            assert!((t_975(freedom) - value).abs() < 3e-4, "{freedom}: {}", t_975(freedom));
        }
        assert!((t_975(1_000_000) - 1.95997).abs() < 1e-4);
    }

    /// The sleep data of Student 1908, in hours: a known mean of 1.58 and interval of 0.70 to 2.46.
    #[test]
    fn the_interval_of_students_own_data_is_the_known_one() {
        let differences = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4];
        let interval = Interval::of_mean(&differences).unwrap();
        assert!((mean(&differences).unwrap() - 1.58).abs() < 1e-9);
        assert!((interval.low - 0.7001).abs() < 1e-3, "{interval:?}");
        assert!((interval.high - 2.4599).abs() < 1e-3, "{interval:?}");
        assert!(interval.excludes_zero());
    }

    #[test]
    fn one_difference_says_nothing_about_the_mean() {
        assert_eq!(Interval::of_mean(&[]), None);
        assert_eq!(Interval::of_mean(&[3.0]), None);
        assert_eq!(Interval::of_mean(&[f64::NAN, 1.0]), None);
    }

    proptest! {
        #[test]
        fn a_percentile_has_its_share_below(values in prop::collection::vec(-1e9..1e9, 1..300)) {
            let spread = Spread::of(values.iter().copied()).unwrap();
            for (value, share) in [(spread.p50, 0.5), (spread.p95, 0.95), (spread.max, 1.0)] {
                let at_most = values.iter().filter(|other| **other <= value).count() as f64;
                let below = values.iter().filter(|other| **other < value).count() as f64;
                let count = values.len() as f64;
                prop_assert!(values.contains(&value));
                prop_assert!(at_most >= share * count - 1e-9);
                prop_assert!(below < share * count);
            }
        }

        #[test]
        fn nothing_panics_on_any_numbers(values in prop::collection::vec(any::<f64>(), 0..20)) {
            let _ = Spread::of(values.iter().copied());
            let _ = Interval::of_mean(&values);
        }

        #[test]
        fn the_interval_is_around_the_mean(values in prop::collection::vec(-1e6..1e6, 2..50)) {
            let interval = Interval::of_mean(&values).unwrap();
            let mean = mean(&values).unwrap();
            prop_assert!(interval.low <= mean && mean <= interval.high);
        }
    }
}
