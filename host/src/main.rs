//! The program `edgestore-host`; all of it is in the library's `cli` module.
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

fn main() -> std::process::ExitCode {
    edgestore_host::cli::main()
}
