//! A trap in a line for the user.

use wasmtime::{Error, WasmBacktrace};

use super::log::printable;

/// Innermost functions that are named.
const FRAMES: usize = 6;

/// What happened and where, below 1.1 KB, on one line.
pub(super) fn explain(error: &Error) -> String {
    let cause = error.root_cause().to_string();
    let mut text = cause.strip_prefix("wasm trap: ").unwrap_or(&cause).to_owned();
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        // Its lines are `0: 0x1f - module!function`, after a first one that says what this is.
        let backtrace = backtrace.to_string();
        let functions = backtrace.lines().skip(1).filter_map(|line| line.split_once("!"));
        for (at, (_, function)) in functions.take(FRAMES).enumerate() {
            text.push_str(if at == 0 { ", in " } else { ", called by " });
            text.push_str(function);
        }
    }
    printable(&text)
}
