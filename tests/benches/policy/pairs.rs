//! One piece of work on both sides, in turns: what else the machine does meets both alike.

use std::time::Duration;

use criterion::{Criterion, SamplingMode};

/// Where a tick runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Native,
    Wasm,
}

/// How many samples are taken.
#[derive(Debug, Clone, Copy)]
pub enum Effort {
    /// Of what takes microseconds.
    Short,
    /// Of what takes up to a second, and has to be set up each time.
    Long,
}

/// Times of one piece of work, natively and in WebAssembly.
#[derive(Debug)]
pub struct Pairs {
    pub name: &'static str,
    times: Vec<(Duration, Duration)>,
}

/// The figure in the middle, and those that a quarter is below and above of. Times in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Pairs {
    /// Has criterion measure `run` on both sides. Whichever of them it asks for, the other one runs
    /// as well, before it or after it by turns, and is noted here too.
    pub fn measure(
        criterion: &mut Criterion,
        name: &'static str,
        effort: Effort,
        mut run: impl FnMut(Side) -> Duration,
    ) -> Self {
        let mut times = Vec::new();
        let mut group = criterion.benchmark_group(name);
        match effort {
            Effort::Short => group
                .sample_size(30)
                .warm_up_time(Duration::from_millis(500))
                .measurement_time(Duration::from_secs(2)),
            Effort::Long => group
                .sample_size(10)
                .sampling_mode(SamplingMode::Flat)
                .warm_up_time(Duration::from_millis(1))
                .measurement_time(Duration::from_secs(1)),
        };
        for side in [Side::Native, Side::Wasm] {
            let label = if side == Side::Native { "native" } else { "wasm" };
            group.bench_function(label, |bencher| {
                bencher.iter_custom(|iterations| {
                    let pairs = (0..iterations).map(|_| {
                        let (native, wasm) = if times.len() % 2 == 0 {
                            let native = run(Side::Native);
                            (native, run(Side::Wasm))
                        } else {
                            let wasm = run(Side::Wasm);
                            (run(Side::Native), wasm)
                        };
                        times.push((native, wasm));
                        if side == Side::Native { native } else { wasm }
                    });
                    pairs.sum()
                });
            });
        }
        group.finish();
        Self { name, times }
    }

    /// None when criterion was told to leave it out.
    pub fn native(&self) -> Option<Spread> {
        self.spread(|native, _| native)
    }

    /// Of the same work in WebAssembly.
    pub fn wasm(&self) -> Option<Spread> {
        self.spread(|_, wasm| wasm)
    }

    /// Of one pair: by how much the component takes longer.
    pub fn difference(&self) -> Option<Spread> {
        self.spread(|native, wasm| wasm - native)
    }

    /// Of one pair: how fast the component is, where native code is 1.
    pub fn speed(&self) -> Option<Spread> {
        self.spread(|native, wasm| native / wasm)
    }

    /// How many pairs there are.
    pub fn count(&self) -> usize {
        self.times.len()
    }

    fn spread(&self, figure: impl Fn(f64, f64) -> f64) -> Option<Spread> {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let figures = self.times.iter().map(|&(native, wasm)| figure(micros(native), micros(wasm)));
        Spread::of(figures.collect())
    }
}

impl Spread {
    /// None of nothing.
    pub fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let at = |quarters: usize| figures.get(figures.len() * quarters / 4).copied();
        Some(Self { low: at(1)?, median: at(2)?, high: at(3)? })
    }
}
