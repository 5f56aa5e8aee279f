//! Policies for tests, from WebAssembly text.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A core module that is a policy whose tick does `body`, and reports zeros when that ends. Its
/// name and version are `hostile`. Locals of `body`: the reason, as the contract numbers them, and
/// the peer.
pub fn wat(body: &str) -> String {
    wat_with("", body)
}

/// Of [`wat()`], with further imports and data before the functions. The report of
/// zeros lies at 1032, behind the discriminant of a result at 1024.
pub fn wat_with(imports: &str, body: &str) -> String {
    format!(
        r#"(module {imports}
            (import "edgestore:sync/peers@0.2.0" "[resource-drop]peer" (func $drop (param i32)))
            (memory (export "memory") 2)
            (data (i32.const 16) "hostile")
            (data (i32.const 64) "\10\00\00\00\07\00\00\00\10\00\00\00\07\00\00\00\01\00\00\00")
            (global $next (mut i32) (i32.const 4096))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                global.get $next
                (global.set $next (i32.add (global.get $next)
                    (i32.and (i32.add (local.get 3) (i32.const 7)) (i32.const -8)))))
            (func (export "edgestore:sync/policy@0.2.0#describe") (result i32) (i32.const 64))
            (func $body (param $reason i32) (param $peer i32) {body})
            (func (export "edgestore:sync/policy@0.2.0#tick")
                (param i32 i64 i64 i32 i32 i32) (result i32)
                (call $body (local.get 0) (local.get 5))
                (call $drop (local.get 5))
                (i32.const 1024))
        )"#
    )
}

/// The component of a core module in WebAssembly text.
///
/// # Panics
/// When the text is no policy.
pub fn component(wat: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let wit = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let (package, _) = resolve.push_path(wit).expect("the WIT package");
    let env = resolve.select_world(&[package], Some("sync-policy")).expect("the world");
    let mut module = wat::parse_str(wat).expect("WebAssembly text");
    embed_component_metadata(&mut module, &resolve, env, StringEncoding::UTF8).expect("metadata");
    let mut encoder = ComponentEncoder::default();
    encoder.module(&module).expect("a module").validate(true).encode().expect("a component")
}

/// The component of what [`wat()`] makes.
pub fn policy(body: &str) -> Vec<u8> {
    component(&wat(body))
}
