//! Tasks of this repository: `cargo xtask <task>`.

mod guest;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask <task>

  guest            build the default policy and write guest-sync/sync.wasm
  guest --check    build it and compare with the committed guest-sync/sync.wasm";

fn main() -> Result<()> {
    if guest::is_rustc() {
        return guest::rustc();
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["guest"] => guest::write(),
        ["guest", "--check"] => guest::check(),
        [] | ["help" | "-h" | "--help"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => bail!("no such task: {}\n\n{USAGE}", args.join(" ")),
    }
}
