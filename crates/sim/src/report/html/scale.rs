//! Which of a few colours a value has, and which instants a time axis names.

use std::collections::BTreeSet;

use super::super::words;

/// Colours of values above zero, `q1` to `q5`. Zero is `q0`.
const CLASSES: u32 = 5;

/// Classes by powers, because what differs by a factor is what matters.
pub(super) struct Classes {
    /// Upper bounds, each included, in order. Of at most [`CLASSES`].
    bounds: Vec<u64>,
}

impl Classes {
    pub(super) fn of(values: impl Iterator<Item = u64> + Clone) -> Self {
        let values = values.filter(|value| *value > 0);
        // A colour for each, where there are few.
        let mut distinct = BTreeSet::new();
        for value in values.clone() {
            distinct.insert(value);
            if distinct.len() > CLASSES as usize {
                break;
            }
        }
        if distinct.len() <= CLASSES as usize {
            return Self { bounds: distinct.into_iter().collect() };
        }
        let (Some(least), Some(most)) = (values.clone().min(), values.max()) else {
            return Self { bounds: Vec::new() };
        };
        let ratio = most as f64 / least as f64;
        let power = |step: u32| least as f64 * ratio.powf(f64::from(step) / f64::from(CLASSES));
        let mut bounds: Vec<u64> = (1..CLASSES).map(|step| power(step).round() as u64).collect();
        bounds.push(most);
        bounds.dedup();
        bounds.retain(|bound| (least..=most).contains(bound));
        Self { bounds }
    }

    /// 0 for zero, up to 5.
    pub(super) fn class(&self, value: u64) -> usize {
        if value == 0 {
            return 0;
        }
        let index = self.bounds.partition_point(|bound| *bound < value);
        // Few bounds use the strong colours as well.
        let spare = (CLASSES as usize).saturating_sub(self.bounds.len()) / 2;
        (index + 1 + spare).min(CLASSES as usize)
    }

    /// What the colours mean.
    pub(super) fn legend(&self, show: fn(u64) -> String, unit: &str) -> String {
        let mut items = item("q0", "0");
        let mut from = 1;
        for bound in &self.bounds {
            let class = format!("q{}", self.class(*bound));
            let to = if from == *bound { "" } else { "to " };
            items += &item(&class, &format!("{to}{}", show(*bound)));
            from = bound.saturating_add(1);
        }
        format!("{items}<span>{unit}</span>")
    }
}

/// A colour and what it stands for.
pub(super) fn item(class: &str, text: &str) -> String {
    format!(
        "<span><svg class=\"swatch\" viewBox=\"0 0 14 14\"><rect class=\"{class}\" width=\"14\" \
         height=\"14\"/></svg>{text}</span>"
    )
}

/// A count that a legend or cell shows.
pub(super) fn count(value: u64) -> String {
    words::count(value)
}

/// Instants from zero to `until`, in seconds: at most nine, at even distances that people use.
pub(super) fn instants(until: f64) -> Vec<f64> {
    const STEPS: [f64; 20] = [
        0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0,
        1800.0, 3600.0, 7200.0, 14_400.0, 43_200.0,
    ];
    if !(until.is_finite() && until > 0.0) {
        return vec![0.0];
    }
    let days = || 86_400.0 * (until / 86_400.0 / 8.0).ceil();
    let step = STEPS.into_iter().find(|step| until / step <= 8.0).unwrap_or_else(days);
    (0..=(until / step) as u32).map(|index| f64::from(index) * step).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_greatest_value_has_the_strongest_colour() {
        let values = [0, 1, 10, 100, 1000, 2000, 100_000];
        let classes = Classes::of(values.into_iter());
        assert_eq!(values.map(|value| classes.class(value)), [0, 1, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn few_values_have_a_colour_each() {
        let classes = Classes::of([0, 500, 7, 500, 9].into_iter());
        assert_eq!([0, 7, 9, 500].map(|value| classes.class(value)), [0, 2, 3, 4]);
    }

    #[test]
    fn where_all_is_zero_there_is_one_colour() {
        let classes = Classes::of([0, 0].into_iter());
        assert_eq!(classes.class(0), 0);
        assert!(!classes.legend(count, "keys").contains("q1"));
    }

    #[test]
    fn a_time_axis_has_round_instants() {
        assert_eq!(instants(600.0), [0.0, 120.0, 240.0, 360.0, 480.0, 600.0]);
        assert_eq!(instants(0.0), [0.0]);
        assert_eq!(instants(f64::NAN), [0.0]);
        assert_eq!(instants(86_400.0 * 20.0)[1], 86_400.0 * 3.0);
    }

    proptest! {
        #[test]
        fn more_is_never_paler(mut values in prop::collection::vec(any::<u64>(), 1..40)) {
            values.sort_unstable();
            let classes = Classes::of(values.iter().copied());
            let of: Vec<usize> = values.iter().map(|value| classes.class(*value)).collect();
            prop_assert!(of.is_sorted());
            prop_assert!(of.iter().all(|class| *class <= 5));
        }

        #[test]
        fn instants_are_few_and_within(until in 0.001..1e9f64) {
            let instants = instants(until);
            prop_assert!(instants.len() <= 9);
            prop_assert!(instants.iter().all(|at| *at <= until));
        }
    }
}
