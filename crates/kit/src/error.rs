//! What can go wrong in the kit; each error says what to do.

use std::io;
use std::path::PathBuf;

use edgestore_policy_host::LoadError;

/// Why there is no project.
#[derive(Debug, thiserror::Error)]
pub enum KitError {
    /// The name can't be that of a package in all four languages.
    #[error(
        "{name:?} can't be the name of a policy: {why}; use 1 to 64 lower-case letters, digits and \
         single hyphens, beginning with a letter, as in `nightly-pull`"
    )]
    Name {
        /// The name as it was given.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is something in the folder already.
    #[error("{} is not empty: give a folder that is, or does not exist yet (--dir)", dir.display())]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
    /// A file can't be written.
    #[error("can't write {}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// What is built into this program does not fit together.
    #[error("what is built into this program is broken: {0}; please report this")]
    Broken(String),
}

/// Why a module makes no policy.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The bytes are not WebAssembly.
    #[error(
        "not WebAssembly (the `\\0asm` header is missing); give the .wasm file of the compiler"
    )]
    NotWasm,
    /// It needs no packing.
    #[error("a component already, not a core module; use it as it is (`policy check` looks at it)")]
    Component,
    /// It was compiled without the bindings, or a linker dropped what they say.
    #[error(
        "built without bindings of wit/sync.wit: the section `component-type` that they leave in a \
         module is missing; start from `edgestore-host policy new`, do not strip custom sections \
         before packing, and in C link the `sync_policy_component_type.o` of the bindings"
    )]
    NoComponentType,
    /// It wants functions of a module that is no part of the contract.
    #[error("imports {}{}", list(names), reason(names))]
    Imports {
        /// Module and function, as in `env.printf`.
        names: Vec<String>,
    },
    /// The bytes are broken, or do not fit the types that they name.
    #[error("makes no component: {0}; build it again with the bindings of one wit/sync.wit")]
    Encode(String),
    /// It makes a component, but no policy.
    #[error(transparent)]
    NoPolicy(#[from] LoadError),
}

/// The first few of them.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Why such imports come to be, by the first of them.
fn reason(names: &[String]) -> &'static str {
    let module = names.first().and_then(|name| name.split('.').next()).unwrap_or_default();
    if module.starts_with("wasi") {
        ", and a policy has no WASI: build without it, Rust for wasm32-unknown-unknown, C with \
         `--target=wasm32 -nostdlib`"
    } else if module == "env" {
        ": functions that are declared and called, and nowhere defined. Link what defines them; a \
         C library is no part of a policy, so write what is missing of it"
    } else if module.starts_with("__wbindgen") {
        ", which only a JavaScript host gives: leave out wasm-bindgen and what depends on it \
         (features such as `js` or `wasm-bindgen` of crates)"
    } else {
        ": import nothing but the interfaces of edgestore:sync"
    }
}
