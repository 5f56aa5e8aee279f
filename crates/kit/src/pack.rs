//! From a core module to a component.

use edgestore_policy_host::Outline;
use wasmparser::{Encoding, Parser, Payload};
use wit_component::ComponentEncoder;

use super::PackError;

/// Makes a policy of a core module that was compiled with bindings of the contract: what a compiler
/// leaves for `wasm32-unknown-unknown`.
///
/// # Errors
/// [`PackError`], which says how to build it instead.
pub fn pack(module: &[u8]) -> Result<Vec<u8>, PackError> {
    let found = Found::in_module(module)?;
    if !found.component_type {
        return Err(PackError::NoComponentType);
    }
    if !found.foreign.is_empty() {
        return Err(PackError::Imports { names: found.foreign });
    }
    let component = ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|encoder| encoder.encode())
        .map_err(|error| PackError::Encode(format!("{error:#}")))?;
    Outline::of(&component)?.check()?;
    Ok(component)
}

/// What decides whether a module can be a policy.
#[derive(Default)]
struct Found {
    component_type: bool,
    /// Imports of modules that are no interfaces.
    foreign: Vec<String>,
}

impl Found {
    fn in_module(module: &[u8]) -> Result<Self, PackError> {
        if !module.starts_with(b"\0asm") {
            return Err(PackError::NotWasm);
        }
        let broken = |error: wasmparser::BinaryReaderError| PackError::Encode(error.to_string());
        let mut found = Self::default();
        for payload in Parser::new(0).parse_all(module) {
            match payload.map_err(broken)? {
                Payload::Version { encoding: Encoding::Component, .. } => {
                    return Err(PackError::Component);
                }
                Payload::CustomSection(section) => {
                    found.component_type |= section.name().starts_with("component-type");
                }
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        let import = import.map_err(broken)?;
                        if !is_of_a_contract(import.module) {
                            found.foreign.push(format!("{}.{}", import.module, import.name));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

/// The encoder knows interfaces, as in `edgestore:sync/log@0.2.0`, and names of its own, which
/// begin with a sign.
fn is_of_a_contract(module: &str) -> bool {
    module.contains(':') || module.starts_with(['$', '['])
}

#[cfg(test)]
mod tests {
    use wit_component::StringEncoding;
    use wit_parser::Resolve;

    use super::super::{CONTRACT, WORLD};
    use super::*;

    /// The error of a module in WebAssembly text with bindings of `world` in `wit`.
    fn refused(text: &str, wit: &str, env: &str) -> PackError {
        let mut module = wat::parse_str(text).unwrap();
        let mut resolve = Resolve::default();
        let package = resolve.push_str("test.wit", wit).unwrap();
        let env = resolve.select_world(&[package], Some(env)).unwrap();
        wit_component::embed_component_metadata(&mut module, &resolve, env, StringEncoding::UTF8)
            .unwrap();
        pack(&module).unwrap_err()
    }

    #[track_caller]
    fn says(error: &PackError, words: &[&str]) {
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "{text:?} does not say {word:?}");
        }
    }

    #[test]
    fn what_is_no_core_module_is_told_apart() {
        says(&pack(b"").unwrap_err(), &["not WebAssembly"]);
        says(&pack(b"(module)").unwrap_err(), &["not WebAssembly"]);
        let component = wat::parse_str("(component)").unwrap();
        says(&pack(&component).unwrap_err(), &["a component already"]);
        says(&pack(b"\0asm\x01\0\0\0rubbish").unwrap_err(), &["makes no component"]);
    }

    #[test]
    fn a_module_without_bindings_is_told_where_to_get_them() {
        let module = wat::parse_str(r#"(module (import "env" "f" (func)))"#).unwrap();
        says(
            &pack(&module).unwrap_err(),
            &["built without bindings of wit/sync.wit", "policy new"],
        );
    }

    #[test]
    fn imports_of_others_are_named_with_where_they_come_from() {
        let refused = |imports: &str| refused(&format!("(module {imports})"), CONTRACT, WORLD);
        let env = r#"(import "env" "printf" (func)) (import "env" "puts" (func))"#;
        says(&refused(env), &["env.printf, env.puts", "nowhere defined"]);
        let wasi = r#"(import "wasi_snapshot_preview1" "fd_write" (func))"#;
        says(&refused(wasi), &["wasi_snapshot_preview1.fd_write", "no WASI"]);
        let js = r#"(import "__wbindgen_placeholder__" "__wbindgen_throw" (func))"#;
        says(&refused(js), &["wasm-bindgen"]);
        let many: String = (0..9).map(|i| format!(r#"(import "m" "f{i}" (func))"#)).collect();
        says(&refused(&many), &["m.f4 and 4 more", "edgestore:sync"]);
    }

    #[test]
    fn a_component_of_another_world_is_no_policy() {
        let other = "package other:one@1.0.0; world w { export run: func(); }";
        let module = r#"(module (func (export "run")))"#;
        says(&refused(module, other, "w"), &["edgestore:sync/policy@"]);
    }

    #[test]
    fn a_module_without_the_exports_of_its_world_makes_no_component() {
        says(&refused("(module)", CONTRACT, WORLD), &["makes no component"]);
    }
}
