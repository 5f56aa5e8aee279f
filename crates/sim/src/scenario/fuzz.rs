//! Text of any kind, read as the file of a scenario.

use super::Scenario;

/// Reads `bytes`; what they say is the same once it was written and read again.
pub fn scenario(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Scenario::parse(text, "fuzz.toml") {
        Ok(scenario) => {
            let written = scenario.to_toml();
            let again = Scenario::parse(&written, "fuzz.toml");
            let again = again.unwrap_or_else(|error| panic!("{error}\nin\n{written}"));
            assert_eq!(again, scenario, "{written}");
        }
        Err(error) => assert!(error.to_string().contains("fuzz.toml"), "{error}"),
    }
}
