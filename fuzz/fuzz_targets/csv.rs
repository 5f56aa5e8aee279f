//! See `edgestore_host::fuzz`.
#![cfg_attr(fuzzing, no_main)]

edgestore_fuzz::target!("csv");
