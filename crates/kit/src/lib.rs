//! The authoring kit: what somebody who writes a policy gets with the program.
//!
//! A [`Project`] is a small policy that works, in one of four [`Language`]s, with the contract and
//! the one command that builds it. [`pack`] makes a component of the core module that the compilers
//! of Rust and C make; those of JavaScript and Python make components themselves.

mod c_bindings;
mod error;
mod helper_crate;
mod name;
mod pack;
mod project;

pub use error::{KitError, PackError};
pub use name::PolicyName;
pub use pack::pack;
pub use project::{Language, Project};

/// The contract, as it stands in each project.
const CONTRACT: &str = include_str!("../../../wit/sync.wit");

/// The world of a policy in it.
const WORLD: &str = "sync-policy";

/// Package and version of the contract: its first statement, `package edgestore:sync@0.2.0;`.
fn contract() -> Option<(&'static str, &'static str)> {
    let statement = CONTRACT.lines().find_map(|line| line.strip_prefix("package "))?;
    statement.trim_end().strip_suffix(';')?.split_once('@')
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_contract_names_its_package_and_version() {
        let (package, version) = super::contract().unwrap();
        assert_eq!(package, "edgestore:sync");
        assert!(version.starts_with("0.2."), "{version}");
    }
}
