//! Tasks of this repository: `cargo xtask <task>`.

mod fuzz;
mod guest;
mod stress;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask <task>

  guest            build the default policy and write guest-sync/sync.wasm
  guest --check    build it and compare with the committed guest-sync/sync.wasm
  fuzz             build the fuzz targets and have each read its corpus
  stress           run the whole suite 20 times while every core is kept busy by something else
                   options: --rounds N, --at-once N, --busy LOOPS, and after -- what `cargo test` is to get";

fn main() -> Result<()> {
    if guest::is_rustc() {
        return guest::rustc();
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["guest"] => guest::write(),
        ["guest", "--check"] => guest::check(),
        ["fuzz"] => fuzz::run(),
        ["stress", ref options @ ..] => stress::run(options),
        [stress::SPIN] => stress::spin(),
        [] | ["help" | "-h" | "--help"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => bail!("no such task: {}\n\n{USAGE}", args.join(" ")),
    }
}
