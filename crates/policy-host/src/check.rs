//! What a component must be to be a policy, checked so that each problem has a message of its own.

use wasmtime::component::Component;

use super::LoadError;
use super::bindings::policy::Description;
use super::contract::Contract;
use super::limits::{MEMORIES, TABLES};

/// What this host speaks; patch releases are compatible.
pub(super) const SPOKEN: &str = "edgestore:sync@0.2 and 0.1";

/// What every policy exports, in the newest version.
pub(super) const EXPORT: &str = "edgestore:sync/policy@0.2.0";

/// Longest name and version.
pub(super) const NAME_BYTES: usize = 64;

/// Most instances that a component may unfold to, by what it looks like. Composed ones have some
/// thousands.
const STARTS: u64 = 1_000_000;

const PACKAGE: &str = "edgestore:sync";

/// Tells a component from what else a file may be.
pub(super) fn header(bytes: &[u8]) -> Result<(), LoadError> {
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', _, _, 1, 0]) => Ok(()),
        Some([0, b'a', b's', b'm', _, _, 0, 0]) => Err(LoadError::CoreModule),
        Some([0, b'a', b's', b'm', rest @ ..]) => {
            Err(LoadError::Compile(format!("unknown WebAssembly version {rest:02x?}")))
        }
        _ => Err(LoadError::NotWasm),
    }
}

/// Checks how often the component's parts start each other, before the compiler unfolds all of it:
/// components within components, each of which starts the next one twice, are small and without
/// end. The product is more than there can be, whichever starts which.
pub(super) fn nesting(component: &[u8]) -> Result<(), LoadError> {
    use wasmparser::{ComponentInstance, Instance, Payload};

    let (mut parts, mut starts) = (0u64, 1u64);
    // Starts of components in each of the components that are open.
    let mut open = Vec::new();
    for payload in wasmparser::Parser::new(0).parse_all(component) {
        // What can't be read is told by the compiler, in its own words.
        let Ok(payload) = payload else { return Ok(()) };
        match payload {
            Payload::Version { .. } => open.push(0u64),
            Payload::InstanceSection(section) => {
                let is_start = |instance: &_| matches!(instance, Ok(Instance::Instantiate { .. }));
                parts += section.into_iter().filter(is_start).count() as u64;
            }
            Payload::ComponentInstanceSection(section) => {
                let is_start =
                    |instance: &_| matches!(instance, Ok(ComponentInstance::Instantiate { .. }));
                let count = section.into_iter().filter(is_start).count() as u64;
                parts += count;
                if let Some(open) = open.last_mut() {
                    *open += count;
                }
            }
            Payload::End(_) => starts = starts.saturating_mul(open.pop().unwrap_or(0).max(1)),
            _ => {}
        }
    }
    match parts.saturating_mul(starts) {
        0..=STARTS => Ok(()),
        _ => Err(LoadError::Nesting { limit: STARTS }),
    }
}

/// Checks what the component brings along, where it says so. The rest is counted when it starts.
pub(super) fn resources(component: &Component) -> Result<(), LoadError> {
    // None where it instantiates a module that it imports, and so will not link.
    let Some(needed) = component.resources_required() else { return Ok(()) };
    for (what, count, limit) in
        [("memories", needed.num_memories, MEMORIES), ("tables", needed.num_tables, TABLES)]
    {
        if count > limit {
            return Err(LoadError::TooMany { what, count, limit });
        }
    }
    Ok(())
}

/// Checks the names of imports and exports, so that a linker's error is about types alone. Returns
/// the one version of the contract that they are of.
pub(super) fn interfaces(imports: &[String], exports: &[String]) -> Result<Contract, LoadError> {
    let (mut built_for, mut foreign, mut exported) = (None, None, None);
    for name in imports {
        match ours(name)? {
            Some(contract) => unmixed(&mut built_for, contract)?,
            None => _ = foreign.get_or_insert(name),
        }
    }
    for name in exports {
        let Some(contract) = ours(name)? else { continue };
        unmixed(&mut built_for, contract)?;
        if name.starts_with("edgestore:sync/policy@") {
            exported = Some(contract);
        }
    }
    match foreign {
        Some(import) => Err(LoadError::ForeignImport { import: import.clone() }),
        None => exported.ok_or(LoadError::MissingExport),
    }
}

/// Notes the version of an interface, which must be that of those before.
fn unmixed(built_for: &mut Option<Contract>, contract: Contract) -> Result<(), LoadError> {
    let first = *built_for.get_or_insert(contract);
    if first == contract {
        return Ok(());
    }
    Err(LoadError::MixedVersions { one: first.version(), other: contract.version() })
}

/// Which version of the contract the interface is of; none when it is of another package.
fn ours(name: &str) -> Result<Option<Contract>, LoadError> {
    let (path, version) = name.split_once('@').unwrap_or((name, ""));
    if path.split_once('/').is_none_or(|(package, _)| package != PACKAGE) {
        return Ok(None);
    }
    if let Some(contract) = Contract::of(version) {
        return Ok(Some(contract));
    }
    let built_for = match version {
        "" => format!("{PACKAGE} without a version"),
        _ => format!("{PACKAGE}@{version}"),
    };
    Err(LoadError::WrongVersion { built_for })
}

/// Checks what will stand in logs and tables.
pub(super) fn description(description: &Description) -> Result<(), LoadError> {
    for (field, text) in [("name", &description.name), ("version", &description.version)] {
        let why = if text.trim().is_empty() {
            "empty"
        } else if text.len() > NAME_BYTES {
            "too long"
        } else if super::log::printable(text) != *text {
            "not printable"
        } else {
            continue;
        };
        return Err(LoadError::Description { field, why });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_told_apart_by_package_and_version() {
        for (version, contract) in [
            ("0.2.0", Contract::V0_2),
            ("0.2.7", Contract::V0_2),
            ("0.1.0", Contract::V0_1),
            ("0.1.12", Contract::V0_1),
        ] {
            let found = ours(&format!("edgestore:sync/peers@{version}")).unwrap();
            assert_eq!(found, Some(contract), "{version}");
        }
        assert!(matches!(ours("wasi:io/poll@0.2.0"), Ok(None)));
        assert!(matches!(ours("env"), Ok(None)));
        for other in ["@0.0.1", "@0.3.0", "@1.0.0", "@0.20.0", "@0.10.0", "@0.1", ""] {
            let name = format!("edgestore:sync/peers{other}");
            let Err(error) = ours(&name) else { panic!("{name} is taken") };
            assert!(error.to_string().contains(SPOKEN), "{error}");
            assert!(error.to_string().contains(&format!("edgestore:sync{other}")), "{error}");
        }
    }

    #[test]
    fn a_description_must_be_short_and_printable() {
        let named =
            |name: &str| Description { name: name.into(), version: "1".into(), cursor_schema: 1 };
        assert!(description(&named("größe 7")).is_ok());
        for (bad, why) in [("", "empty"), (" ", "empty"), ("a\nb", "not printable")] {
            let error = description(&named(bad)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(description(&named(&"x".repeat(64))).is_ok());
        assert!(description(&named(&"x".repeat(65))).is_err());
    }
}
