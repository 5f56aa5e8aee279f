//! The program `edgestore-host`; all of it is in the library's `cli` module.

fn main() -> std::process::ExitCode {
    edgestore_host::cli::main()
}
