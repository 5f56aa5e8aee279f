//! The contract in C: a header, the code behind it, and an object file with the component's type.

use wit_bindgen_c::{Enabled, Opts};
use wit_bindgen_core::Files;
use wit_parser::Resolve;

use super::{CONTRACT, KitError, WORLD};

/// The files of `bindings/`, with their names.
pub(super) fn generate() -> Result<Vec<(String, Vec<u8>)>, KitError> {
    let broken = |error| KitError::Broken(format!("{error:#}"));
    let mut resolve = Resolve::default();
    let package = resolve
        .push_str("sync.wit", CONTRACT)
        .map_err(|error| KitError::Broken(error.to_string()))?;
    let env = resolve.select_world(&[package], Some(WORLD)).map_err(broken)?;
    // The host wants each borrowed handle back at the end of a call.
    let options = Opts { autodrop_borrows: Enabled::Yes, ..Opts::default() };
    let mut files = Files::default();
    options.build().generate(&mut resolve, env, &mut files).map_err(broken)?;
    Ok(files.iter().map(|(name, bytes)| (name.to_owned(), bytes.to_owned())).collect())
}
