//! Components that are hostile before they do anything.

use super::super::super::testing::{component, module};
use super::*;

fn load(component: &[u8]) -> Result<Policy, LoadError> {
    PolicyEngine::new(None, Limits { fuel: 1_000_000, ..limits() }).unwrap().load(component)
}

/// A policy with these definitions more.
fn policy_with(more: &str) -> Result<Policy, LoadError> {
    load(&Case::with("(i32.const 1024)", more).component())
}

/// A policy that also has, and instantiates, a component in text form.
fn policy_and(inner: &str) -> Vec<u8> {
    let mut bytes = Case::new("(i32.const 1024)").component();
    let inner = wat::parse_str(inner).unwrap();
    // Sections have a number and a length; those with the number 4 are components.
    let (mut at, mut components) = (8, 0);
    while at < bytes.len() {
        components += u8::from(bytes[at] == 4);
        let (len, read) = leb128(&bytes[at + 1..]);
        at += 1 + read + len;
    }
    bytes.push(4);
    let mut len = inner.len();
    while len >= 0x80 {
        bytes.push(len as u8 | 0x80);
        len >>= 7;
    }
    bytes.push(len as u8);
    bytes.extend(inner);
    // One instance: of a component, this one, without arguments.
    bytes.extend([5, 4, 1, 0, components, 0]);
    bytes
}

fn leb128(bytes: &[u8]) -> (usize, usize) {
    let last = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap();
    let value =
        bytes[..=last].iter().rev().fold(0, |value, byte| value << 7 | usize::from(byte & 0x7f));
    (value, last + 1)
}

/// A component of so many core instances of an empty module.
fn instances(count: usize) -> String {
    format!("(component (core module $m) {})", "(core instance (instantiate $m))".repeat(count))
}

/// Components within each other, each of which starts the inner one twice: 2 to the power of
/// `depth` core instances in a few bytes.
fn nested(depth: usize) -> String {
    let twice = "(instance (instantiate $c)) (instance (instantiate $c))";
    (0..depth).fold(instances(1), |inner, _| {
        let inner = inner.replacen("(component", "(component $c", 1);
        format!("(component {inner} {twice})")
    })
}

#[test]
fn core_instances_are_limited() {
    assert!(load(&policy_and(&instances(200))).is_ok());
    for many in [instances(300), nested(10)] {
        let error = load(&policy_and(&many)).unwrap_err();
        assert!(matches!(error, LoadError::Instances { limit: 250 }), "{error:?}");
        assert!(error.to_string().contains("limits.instances"), "{error}");
    }
}

#[test]
fn what_unfolds_without_end_is_refused_before_it_does() {
    for depth in [20, 60] {
        let error = load(&policy_and(&nested(depth))).unwrap_err();
        assert!(matches!(error, LoadError::Nesting { .. }), "{depth}: {error:?}");
    }
    // Not within each other, but side by side, each with the one before from outside.
    let chain: String = (1..40)
        .map(|n| {
            let before = n - 1;
            format!(
                "(component $c{n} (alias outer $o $c{before} (component $b))
                (instance (instantiate $b)) (instance (instantiate $b)))"
            )
        })
        .collect();
    let chain = format!("(component $o (component $c0) {chain} (instance (instantiate $c39)))");
    let error = load(&policy_and(&chain)).unwrap_err();
    assert!(matches!(error, LoadError::Nesting { .. }), "{error:?}");
}

#[test]
fn memories_and_tables_are_counted() {
    for (what, one, limit) in [("memories", "(memory 0)", 20), ("tables", "(table 0 funcref)", 100)]
    {
        assert!(policy_with(&one.repeat(limit / 2)).is_ok());
        let error = policy_with(&one.repeat(limit)).unwrap_err();
        assert!(matches!(error, LoadError::TooMany { .. }), "{error:?}");
        let words = format!("{what}, and may have {limit}");
        assert!(error.to_string().contains(&words), "{error}");
    }
}

#[test]
fn what_a_component_starts_with_counts() {
    let error = policy_with("(memory 40000)").unwrap_err();
    assert!(matches!(error, LoadError::Memory { limit: 0x400_0000 }), "{error:?}");
    let error = policy_with("(table 100001 funcref)").unwrap_err();
    assert!(matches!(error, LoadError::Table { limit: 100_000 }), "{error:?}");
    assert!(error.to_string().contains("limits.table-elements"), "{error}");
}

#[test]
fn a_start_function_is_held_to_the_same_limits() {
    for (start, words) in [
        ("(loop (br 0))", "more than 1000000 instructions"),
        ("unreachable", "unreachable"),
        ("(drop (call $random))", "import"),
    ] {
        let error = policy_with(&format!("(start $s) (func $s {start})")).unwrap_err();
        assert!(matches!(error, LoadError::Describe(_)), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_policy_has_one_name_whatever_it_says_the_next_time() {
    // The schema is how often this instance was asked before, and the name grows by it.
    let describe = "(i32.store (i32.const 32) (i32.add (i32.load (i32.const 32)) (i32.const 1)))
        (i32.store (i32.const 20) (i32.load (i32.const 32))) (i32.const 16)";
    let bytes = component(&module("", describe, "(i32.const 1024)", ""));
    let policy = load(&bytes).unwrap();
    let said = (policy.name().to_owned(), policy.cursor_schema());
    world().tick(&policy).unwrap();
    assert_eq!((policy.name().to_owned(), policy.cursor_schema()), said);
    let again = load(&bytes).unwrap();
    assert_eq!((again.name().to_owned(), again.cursor_schema()), said);
}

#[test]
fn what_webassembly_has_beyond_the_default_is_refused() {
    for module in [
        "(memory i64 1)",
        "(memory 1 1 shared)",
        "(memory 1 (pagesize 1))",
        "(type (struct (field i32)))",
        "(tag)",
        "(type $f (func)) (type (cont $f))",
    ] {
        let error = policy_with(module).unwrap_err();
        assert!(matches!(error, LoadError::Compile(_)), "{module}: {error:?}");
    }
}

#[test]
fn many_functions_and_deep_nesting_take_the_compiler_some_time_and_no_more() {
    assert!(policy_with(&"(func)".repeat(10_000)).is_ok());
    let deep = format!("(func {} {})", "block ".repeat(10_000), "end ".repeat(10_000));
    assert!(policy_with(&deep).is_ok());
}
