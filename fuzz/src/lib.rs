//! Targets for cargo-fuzz. What they run stands beside what it tests, in the modules `fuzz` of the
//! host; CONTRIBUTING.md has the commands.

/// The program of one target.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| edgestore_host::fuzz::run($name, bytes));

        #[cfg(not(fuzzing))]
        fn main() {
            eprintln!("built without a fuzzer: see CONTRIBUTING.md");
            std::process::exit(2);
        }
    };
}
