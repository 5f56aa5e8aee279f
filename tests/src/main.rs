//! `edgestore-host` itself, built where the end-to-end tests can find it.

fn main() -> std::process::ExitCode {
    edgestore_host::cli::main()
}
