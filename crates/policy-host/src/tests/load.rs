//! Every way in which a file can be no policy, and what the user is told.

use std::fs;

use edgestore_engine::testing::LONG;

use super::super::testing::{component, component_of, limits, module, policy};
use super::super::*;

/// Time ends what loops, and not the fuel, however fast this machine is.
fn engine() -> PolicyEngine {
    PolicyEngine::new(None, Limits { tick_timeout: LONG, fuel: u64::MAX, ..limits() }).unwrap()
}

/// The error must be of this kind and hold these words.
#[track_caller]
fn refused(bytes: &[u8], kind: &str, words: &[&str]) {
    let error = engine().load(bytes).unwrap_err();
    let debug = format!("{error:?}");
    assert!(debug.starts_with(kind), "{debug}");
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

/// A core module with these exports alone, in the names of `wit-component`.
fn contract(wit: &str, export: &str) -> Vec<u8> {
    let body = format!(
        r#"(module (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        {export})"#
    );
    component_of(&body, wit, "w")
}

#[test]
fn the_default_policy_says_who_it_is() {
    let policy = engine().load_default().unwrap();
    assert_eq!(policy.name(), "default");
    assert!(!policy.version().is_empty());
    let bytes = include_bytes!("../../../../guest-sync/sync.wasm");
    assert_eq!(policy.hash(), edgestore_engine::Hash::of(bytes));
}

#[test]
fn a_policy_says_who_it_is_and_outlives_its_engine() {
    let policy = engine().load(&policy("", "(i32.const 1024)", "")).unwrap();
    assert_eq!((policy.name(), policy.version(), policy.cursor_schema()), ("hostile", "1", 5));
    assert_eq!(format!("{policy:?}"), format!("Policy(hostile 1, {})", policy.hash().short()));
}

#[test]
fn files_are_named_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.wasm");
    let error = engine().load_file(&path).unwrap_err();
    assert!(matches!(error, LoadError::Io { .. }), "{error:?}");
    assert!(error.to_string().contains("p.wasm"), "{error}");
    assert!(engine().load_file(dir.path()).is_err());

    fs::write(&path, b"hello").unwrap();
    let text = engine().load_file(&path).unwrap_err().to_string();
    assert!(text.contains("p.wasm") && text.contains("not WebAssembly"), "{text}");

    fs::write(&path, policy("", "(i32.const 1024)", "")).unwrap();
    assert_eq!(engine().load_file(&path).unwrap().name(), "hostile");

    fs::File::options().write(true).open(&path).unwrap().set_len((64 << 20) + 1).unwrap();
    let error = engine().load_file(&path).unwrap_err();
    assert!(error.to_string().contains("larger than 67108864 bytes"), "{error}");
}

#[test]
fn what_is_no_component_is_told_apart() {
    refused(b"", "NotWasm", &["not WebAssembly"]);
    refused(b"(component)", "NotWasm", &["not WebAssembly"]);
    let core = wat::parse_str("(module)").unwrap();
    refused(&core, "CoreModule", &["policy pack module.wasm"]);
    let mut torn = policy("", "(i32.const 1024)", "");
    torn.truncate(torn.len() / 2);
    refused(&torn, "Compile", &["does not compile"]);
    refused(b"\0asm\x0c\0\x01\0rubbish", "Compile", &["does not compile"]);
    refused(b"\0asm\x01\0\x02\0", "Compile", &["version"]);
}

#[test]
fn imports_of_others_are_named() {
    let wasi = r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#;
    let wasi = wat::parse_str(wasi).unwrap();
    refused(&wasi, "ForeignImport", &["wasi:cli/environment@0.2.0", "wasm32-unknown-unknown"]);
    let other = wat::parse_str(r#"(component (import "my:own/thing" (instance)))"#).unwrap();
    refused(&other, "ForeignImport", &["my:own/thing", "edgestore:sync"]);
}

#[test]
fn a_component_without_the_export_is_no_policy() {
    refused(&wat::parse_str("(component)").unwrap(), "MissingExport", &[check::EXPORT]);
}

#[test]
fn other_types_are_no_policy() {
    let wit = "package edgestore:sync@0.2.0;
        interface policy { describe: func() -> u32; }
        world w { export policy; }";
    let export =
        r#"(func (export "edgestore:sync/policy@0.2.0#describe") (result i32) unreachable)"#;
    refused(&contract(wit, export), "Mismatch", &["does not fit", "wit/sync.wit"]);

    let wit = "package edgestore:sync@0.2.0;
        interface policy { describe: func() -> u32; }
        interface log { scream: func(); }
        world w { import log; export policy; }";
    let import = r#"(import "edgestore:sync/log@0.2.0" "scream" (func))"#;
    let body = format!(
        r#"(module {import} (memory (export "memory") 1)
        (func (export "edgestore:sync/policy@0.2.0#describe") (result i32) call 0 unreachable))"#
    );
    refused(&component_of(&body, wit, "w"), "Mismatch", &["log"]);
}

#[test]
fn describe_must_return_at_once_and_alone() {
    let describes =
        |imports: &str, body: &str| component(&module(imports, body, "unreachable", ""));
    refused(&describes("", "unreachable"), "Describe", &["unreachable"]);
    refused(&describes("", "(loop (br 0)) unreachable"), "Describe", &["longer than 10s"]);
    let import = r#"(import "edgestore:sync/random@0.2.0" "next-u64" (func (result i64)))"#;
    refused(&describes(import, "(drop (call 0)) (i32.const 16)"), "Describe", &["import"]);
    // Seventeen pages of 64 KiB more than there may be.
    let greedy = "(drop (memory.grow (i32.const 1040))) (i32.const 16)";
    refused(&describes("", greedy), "Memory", &["67108864 bytes of memory", "limits.memory"]);
    // An empty name.
    refused(&describes("", "(i32.const 1024)"), "Description", &["name", "empty"]);
}

#[test]
fn compiled_code_is_kept_where_that_can_be() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("deep/cache");
    for _ in 0..2 {
        let engine = PolicyEngine::new(Some(&folder), Limits::default()).unwrap();
        assert_eq!(engine.load_default().unwrap().name(), "default");
    }
    assert!(fs::read_dir(&folder).unwrap().count() > 0, "nothing was kept");

    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let (lines, engine) =
        super::super::testing::logged(|| PolicyEngine::new(Some(&file), Limits::default()));
    assert_eq!(engine.unwrap().load_default().unwrap().name(), "default");
    assert!(lines.contains("WARN") && lines.contains("can't keep compiled policies"), "{lines}");
}
