//! What a component imports and exports, read without compiling it.

use wasmparser::{Parser, Payload};

use super::contract::Contract;
use super::{LoadError, PolicyEngine, check};

/// The names of what a component imports and exports, as they stand in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outline {
    /// What it wants of the host, such as `edgestore:sync/peers@0.2.0`.
    pub imports: Vec<String>,
    /// What it offers.
    pub exports: Vec<String>,
}

impl Outline {
    /// Reads the outermost imports and exports of a component.
    ///
    /// # Errors
    /// [`LoadError::TooLarge`], [`LoadError::NotWasm`], [`LoadError::CoreModule`], or
    /// [`LoadError::Compile`] where the bytes are broken.
    pub fn of(component: &[u8]) -> Result<Self, LoadError> {
        PolicyEngine::check_size(component)?;
        check::header(component)?;
        let mut outline = Self::default();
        outline.read(component).map_err(|error| LoadError::Compile(error.to_string()))?;
        Ok(outline)
    }

    fn read(&mut self, component: &[u8]) -> wasmparser::Result<()> {
        // Modules and components in the component are told in its midst, each up to its end.
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(component) {
            match payload? {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(imports) if depth == 0 => {
                    for import in imports {
                        self.imports.push(import?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(exports) if depth == 0 => {
                    for export in exports {
                        self.exports.push(export?.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a policy may import this, and exports what every policy does.
    ///
    /// # Errors
    /// [`LoadError::WrongVersion`], [`LoadError::MixedVersions`], [`LoadError::ForeignImport`] or [`LoadError::MissingExport`].
    pub fn check(&self) -> Result<(), LoadError> {
        self.contract().map(drop)
    }

    /// Which version of the contract the component is of.
    pub(super) fn contract(&self) -> Result<Contract, LoadError> {
        check::interfaces(&self.imports, &self.exports)
    }
}

#[cfg(any(test, feature = "testing"))]
pub(super) mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_inside_of_a_component_is_not_its_own() {
        let component = wat::parse_str(
            r#"(component
                (import "a:b/c@1.0.0" (instance))
                (core module (import "env" "f" (func)) (func (export "g")))
                (component (import "inner" (instance)) (export "x" (instance 0)))
                (component $empty)
                (instance $i (instantiate $empty))
                (export "d:e/f" (instance $i)))"#,
        )
        .unwrap();
        let outline = Outline::of(&component).unwrap();
        assert_eq!(outline.imports, ["a:b/c@1.0.0"]);
        assert_eq!(outline.exports, ["d:e/f"]);
    }
}
