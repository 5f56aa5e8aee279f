//! Files, command lines and what comes of both.

use std::ffi::OsString;
use std::path::Path;

use super::file::ConfigFile;
use super::schema::{Schema, Section};
use super::{Effective, Origin, print};
use crate::cli::exit::Status;
use crate::cli::{Cli, parse};
use crate::policy::FetchBackoff;
use crate::protocol::ServerLimits;

fn file(text: &str) -> ConfigFile {
    ConfigFile::parse(Path::new("dir/x.toml"), text.into()).unwrap()
}

fn diagnostics(text: &str) -> String {
    let parsed = ConfigFile::parse(Path::new("x.toml"), text.into());
    parsed.unwrap_err().in_a_line()
}

pub(super) fn config(line: &str, text: Option<&str>) -> anyhow::Result<Effective> {
    let words = ["edgestore-host", "run"].into_iter().chain(line.split_whitespace());
    let (_, matches) = parse(words.map(OsString::from)).unwrap();
    let given = matches.subcommand_matches("run").unwrap().clone();
    Effective::new(given, text.map(file))
}

/// Value and origin of a key.
fn value(config: &Effective, section: Section, key: &str) -> (String, Origin) {
    let value = config.of(section).find(|value| value.key == key).unwrap();
    (value.text.clone().unwrap_or_default(), value.origin.clone())
}

#[test]
fn the_command_line_beats_the_file_which_beats_the_default() {
    let text = "[host]\ninterval = \"5s\"\nmax-clock-ahead = \"1m\"\n\
                [limits]\nfuel = 1_000\nmemory = \"1MiB\"";
    let config = config("--interval 7s --memory-limit 2MiB --limit handles=9", Some(text)).unwrap();
    let host = |key| value(&config, Section::Host, key);
    assert_eq!(host("interval"), ("7s".to_owned(), Origin::Flag("--interval".to_owned())));
    assert_eq!(host("max-clock-ahead"), ("1m".to_owned(), Origin::File(3)));
    assert_eq!(host("tombstone-grace"), ("10d".to_owned(), Origin::Default));
    let limits = config.args().limits();
    assert_eq!((limits.fuel, limits.memory_bytes, limits.handles), (1000, 2 << 20, 9));
    assert_eq!(limits.transfers, crate::policy::Limits::default().transfers);
}

#[test]
fn the_bounds_on_peers_are_options_with_the_defaults_of_the_library() {
    let none = config("", None).unwrap();
    let manifests = none.args().memory().manifests();
    let expected = ServerLimits { max_manifest_bytes: manifests, ..ServerLimits::default() };
    assert_eq!(none.args().server_limits(), expected);
    assert_eq!(none.args().fetch_backoff(), FetchBackoff::default());
    let text = "[host]\nmax-connections = 7\nmax-connections-per-address = 3\n\
                slow-client-grace = \"9s\"\nmanifest-memory = \"1MiB\"";
    let given = config("--fetch-failures 5 --fetch-backoff 7s", Some(text)).unwrap();
    let limits = given.args().server_limits();
    assert_eq!((limits.max_connections, limits.max_per_address), (7, 3));
    assert_eq!((limits.slow_grace.as_secs(), limits.max_manifest_bytes), (9, 1 << 20));
    let backoff = given.args().fetch_backoff();
    assert_eq!((backoff.failures, backoff.longest.as_secs()), (5, 7));
    for zero in ["max-connections = 0", "max-connections-per-address = 0", "fetch-failures = 0"] {
        assert!(diagnostics(&format!("[host]\n{zero}")).contains("x.toml:2:"), "{zero}");
    }
}

#[test]
fn peers_and_settings_of_the_command_line_join_those_of_the_file() {
    let text = "[peers]\nb = \"http://b:1\"\n\"10.0.0.1\" = \"http://a:1\"\n\
                [policy.settings]\nwindow = 8\nx = true";
    let config = config("--peer B=http://other:1 --peer c=http://c:1 --set window=2", Some(text));
    let config = config.unwrap();
    let peers = config.args().peers.iter().map(|peer| (peer.id.as_str(), peer.url.as_str()));
    let expected = [("10.0.0.1", "http://a:1"), ("B", "http://other:1"), ("c", "http://c:1")];
    assert_eq!(peers.collect::<Vec<_>>(), expected);
    let settings = config.settings().into_iter().collect::<Vec<_>>();
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(settings, [pair("window", "2"), pair("x", "true")]);
}

#[test]
fn peers_keep_their_order() {
    let text = "[peers]\nz = \"http://z:1\"\na = \"http://a:1\"\nm = \"http://m:1\"";
    let config = config("", Some(text)).unwrap();
    let ids: Vec<_> = config.args().peers.iter().map(|peer| peer.id.as_str()).collect();
    assert_eq!(ids, ["z", "a", "m"]);
}

#[test]
fn a_setting_is_text_a_number_or_a_truth() {
    let text = "[policy.settings]\na = \"x = y\"\nb = 0x10\nc = -1.50\nd = false\ne = 1_000";
    let config = config("", Some(text)).unwrap();
    let values: Vec<_> = config.settings().into_values().collect();
    assert_eq!(values, ["x = y", "16", "-1.50", "false", "1000"]);
    let why =
        diagnostics("[policy.settings]\na = [1]\nb = 2020-01-01\nc.d = 1\n\"e=f\" = 1\n\"\" = 1");
    for at in [
        "2:5: this is one value",
        "3:5: a date",
        "4:1: this is one value",
        "5:1: the key",
        "6:1: the key",
    ] {
        assert!(why.contains(&format!("x.toml:{at}")), "{at}: {why}");
    }
}

#[test]
fn paths_are_those_of_the_files_folder() {
    let text = "[host]\ndb = \"data\"\narchive = \"/archive\"\n[policy]\nplugin = \"../a.wasm\"";
    let config = config("", Some(text)).unwrap();
    assert_eq!(config.db(), Path::new("dir/data"));
    assert_eq!(value(&config, Section::Host, "archive").0, "/archive");
    assert_eq!(value(&config, Section::Policy, "plugin").0, "dir/../a.wasm");
    let typed = self::config("--db other", Some(text)).unwrap();
    assert_eq!(typed.db(), Path::new("other"));
}

#[test]
fn an_unknown_key_is_answered_with_the_one_that_was_meant() {
    for (text, answer) in [
        (
            "[host]\nintervall = \"5s\"",
            "2:1: unknown key `intervall` in [host]; did you mean `interval`?",
        ),
        ("[limits]\nmemory-limit = 1", "did you mean `memory`?"),
        ("[hots]\n", "1:2: unknown section `hots`; did you mean `host`?"),
        ("interval = \"5s\"", "1:1: unknown section `interval`; it belongs in [host]"),
        ("[host]\nplugin = \"a\"", "it belongs in [policy]"),
        ("[host]\ntick-timeout = \"1s\"", "it belongs in [limits]"),
        ("[host]\nonce = true", "--once is an option of the command line alone"),
        ("[host]\npeer = \"a\"", "peers are in [peers]"),
        ("[policy]\nset = \"a=b\"", "settings are in [policy.settings]"),
        ("[policy]\nzzz = 1", "known are plugin, probation, max-failures, settings"),
    ] {
        let why = diagnostics(text);
        assert!(why.contains(answer), "{text}: {why}");
    }
}

#[test]
fn all_problems_are_reported_at_once_with_their_lines() {
    let why = diagnostics(
        "[host]\ninterval = 5\nlisten = \"x\"\ncompact-rate = \"off\"\n[peers]\na = \"ftp://a\"\n\
         A = \"http://a:1\"\n.b = 1\n",
    );
    assert!(why.starts_with("x.toml:8:1: "), "syntax comes first: {why}");
    let why = diagnostics(
        "[host]\ninterval = 5\nlisten = \"x\"\ncompact-rate = \"off\"\n[peers]\na = \"ftp://a\"\n\
         A = \"http://a:1\"\nb.c = \"http://b:1\"\nd = 1\n\
         \"e f\" = \"http://e:1\"\n[limits]\nfuel = 0\n",
    );
    for at in [
        "2:12: interval: the unit is missing",
        "3:10: listen: write ADDR:PORT",
        "6:5: `ftp://a` is no peer URL",
        "7:1: a peer of this id stands above",
        "8:1: b is a table",
        "9:5: peer d: write",
        "10:1: \"e f\" is no peer id",
        "12:8: fuel: write a whole number above zero",
    ] {
        assert!(why.contains(&format!("x.toml:{at}")), "{at}: {why}");
    }
    assert_eq!(why.matches("x.toml:").count(), 8, "{why}");
}

#[test]
fn what_is_no_toml_is_told_with_its_line() {
    assert!(diagnostics("[host]\ninterval = \n").starts_with("x.toml:2:"));
    assert!(diagnostics("[host]\ninterval = \"5s\"\ninterval = \"6s\"").starts_with("x.toml:3:"));
    assert!(diagnostics("host = 1").contains("write [host] on a line"));
    let bytes = b"[host]\n\xff".to_vec();
    let error = ConfigFile::parse(Path::new("x.toml"), bytes).unwrap_err().in_a_line();
    assert_eq!(error, "x.toml:2:1: what follows is no UTF-8 text");
}

#[test]
fn settings_have_a_size_limit() {
    let text = format!("[limits]\nsettings = 10\n[policy.settings]\nkey = \"{}\"", "x".repeat(8));
    let error = config("", Some(&text)).unwrap_err().to_string();
    assert!(error.contains("11 bytes") && error.contains("`settings`"), "{error}");
    assert_eq!(Status::of(&config("", Some(&text)).unwrap_err()), Status::Usage);
    assert!(config("--limit settings=11", Some(&text)).is_ok());
}

/// What a host finds wrong before it opens anything, and the exit status of `run`.
fn wrong(line: &str, text: &str) -> Option<(String, Status)> {
    let error = config(line, Some(text)).unwrap().check().err()?;
    Some((error.to_string(), Status::of(&error)))
}

#[test]
fn all_that_is_wrong_with_peers_and_limits_is_told_before_anything_is_opened() {
    let line = "--peer nope --peer p=ftp://x --peer q=http://h:99999 --peer r=http://u:p@h \
                --peer s=http://h/?q=1 --peer t=http://t --peer T=http://u --limit fuel=1";
    let (why, status) = wrong(line, "[limits]\nmemory = \"1B\"").unwrap();
    assert_eq!(why.lines().count(), 7, "{why}");
    assert_eq!(status, Status::Usage);
    for said in [
        "peer nope: ",
        "peer p: ",
        "peer q: ",
        "peer r: ",
        "peer s: ",
        "called T",
        "--limit (fuel), dir/x.toml:2 (memory): too little",
    ] {
        assert!(why.contains(said), "{said}: {why}");
    }
    for limit in ["fuel=1", "memory=1B", "instances=1", "table-elements=1"] {
        let (why, status) = wrong(&format!("--limit {limit}"), "").unwrap();
        assert!(why.contains("limits."), "{limit}: {why}");
        assert_eq!(status, Status::Usage, "{limit}");
    }
    assert_eq!(wrong("--peer a=http://a --limit memory=64MiB --limit host-calls=1", ""), None);
}

#[test]
fn an_archive_that_can_not_be_written_is_told_and_none_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("a/b");
    assert_eq!(wrong(&format!("--archive {}", archive.display()), ""), None);
    assert_eq!(wrong(&format!("--archive {}", dir.path().display()), ""), None);
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for bad in [&file, &file.join("x"), Path::new("/proc/x")] {
        let (why, status) = wrong(&format!("--archive {}", bad.display()), "").unwrap();
        assert!(why.contains("as archive"), "{why}");
        assert_eq!(status, Status::Unknown);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_file_that_sets_nothing_is_said() {
    for (text, said) in [(" \n", "the file is empty"), ("# x", "the file sets nothing")] {
        let printed = print::effective(&config("", Some(text)).unwrap()).to_lowercase();
        assert!(printed.contains(said), "{printed}");
    }
    let printed = print::effective(&config("", Some("[limits]\nfuel = 7")).unwrap());
    assert!(!printed.contains("The file "), "{printed}");
}

#[test]
fn what_is_printed_is_a_file_that_says_the_same() {
    let text = "[host]\ndb = \"/db\"\n[peers]\n\"a.b\" = \"http://a:1\"\n\
                [policy.settings]\nodd = \"\\n\\\"\"\nn = \"5\"";
    let first = config("--limit fuel=7 --archive /a --set on=true", Some(text)).unwrap();
    let printed = print::effective(&first);
    for line in ["db = \"/db\"", "# dir/x.toml:2", "fuel = 7", "# --limit", "# plugin", "# not set"]
    {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    let second = config("", Some(&printed)).unwrap();
    assert_eq!(second.fixed(), first.fixed());
    assert_eq!(second.settings(), first.settings());
}

#[test]
fn the_example_has_every_key_and_says_the_defaults() {
    let example = print::example();
    // Without what has no default.
    let keys = |line: &&str| line.strip_prefix('#').is_some_and(|key| !key.starts_with(' '));
    let uncommented: Vec<_> =
        example.lines().map(|line| if keys(&line) { &line[1..] } else { line }).collect();
    let text = uncommented.join("\n").replace("\"./", "\"/");
    let all = file(&text);
    let schema = Schema::new();
    for section in [Section::Host, Section::Policy, Section::Limits] {
        for name in schema
            .names(section)
            .into_iter()
            .filter(|name| *name != "settings" || section == Section::Limits)
        {
            let found =
                all.values.iter().any(|value| value.section == section && value.key == name);
            assert!(found, "{name} is not in the example");
        }
    }
    let (example, default) = (config("", Some(&text)).unwrap(), config("", None).unwrap());
    for value in default.values.iter().filter(|value| value.text.is_some() && value.key != "db") {
        let (text, _) = self::value(&example, value.section, &value.key);
        assert_eq!(Some(text), value.text, "{}", value.key);
    }
}

#[test]
fn the_documentation_has_the_example() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let docs = std::fs::read_to_string(path).unwrap();
    let block = format!("```toml\n{}```\n", print::example());
    assert!(
        docs.contains(&block),
        "docs/configuration.md does not have what `config example` prints:\n{block}"
    );
}

#[test]
fn the_database_of_other_commands_is_that_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    // Diagnostics elsewhere are none of theirs.
    std::fs::write(&path, "[host]\ndb = \"data\"\nintervall = 5").unwrap();
    let words = ["edgestore-host", "status", "--config", path.to_str().unwrap()];
    let (Cli { global, .. }, _) = parse(words.map(OsString::from)).unwrap();
    assert_eq!(super::database(&global).unwrap(), dir.path().join("data"));
}

/// Everything that a configuration says in errors, and when it is good.
fn all_that_is_said(line: &str, text: Option<&str>) -> String {
    let words = ["edgestore-host", "run"].into_iter().chain(line.split('|'));
    let matches = match parse(words.filter(|word| !word.is_empty()).map(OsString::from)) {
        Ok((_, matches)) => matches,
        Err(error) => return error.render().to_string(),
    };
    let file =
        match text.map(|text| ConfigFile::parse(Path::new("x.toml"), text.into())).transpose() {
            Ok(file) => file,
            Err(error) => return format!("{error} {error:?} {}", error.in_a_line()),
        };
    let given = matches.subcommand_matches("run").unwrap().clone();
    let config = match Effective::new(given, file) {
        Ok(config) => config,
        Err(error) => return format!("{error:#} {error:?}"),
    };
    match config.check() {
        Ok(()) => print::effective(&config),
        Err(error) => format!("{error:#} {error:?}"),
    }
}

#[test]
fn no_secret_of_a_url_is_repeated() {
    for url in [
        "http://hunter2@a:1",
        "http://me:hunter2@a:1",
        "http://me:x'hunter2@a:1",
        "http://me:x hunter2@a:1",
        "http://me:x/hunter2@a:1",
        "http://me:x\\hunter2@a:1",
        "http://a:1/?token=hunter2",
        "http://a:1/#hunter2",
        "me:hunter2@a:1",
    ] {
        for line in [
            format!("--peer|{url}"),
            format!("--peer|x={url}"),
            format!("--peer|a b={url}"),
            format!("--peer|.x={url}"),
            format!("--pear={url}"),
            format!("--listen|{url}"),
            format!("--interval|{url}"),
            format!("--limit|{url}"),
            format!("--limit|fuel={url}"),
            url.to_owned(),
        ] {
            let said = all_that_is_said(&line, None);
            assert!(!said.contains("hunter2"), "{line}: {said}");
            assert!(!said.contains("# default"), "it is refused: {said}");
        }
        for text in [
            format!("[peers]\na = \"{url}\""),
            format!("[peers]\na = \"{url}"),
            format!("[peers]\na = {url}"),
            format!("[peers]\n\"{url}\" = \"http://a:1\""),
            format!("[peers]\n\"{url}\" = 1"),
            format!("[peers]\n{url}"),
            format!("{url}\n[host]"),
            format!("\"{url}\" = 1"),
            format!("[host]\nproxy = \"{url}\""),
            format!("[host]\nlisten = \"{url}\""),
            format!("[host]\ninterval = \"{url}\""),
            format!("[host]\ninterval = 5 # {url}"),
            format!("[limits]\nfuel = \"{url}\""),
        ] {
            let said = all_that_is_said("", Some(&text));
            assert!(!said.contains("hunter2"), "{text}: {said}");
            assert!(!said.contains("# default"), "it is refused: {said}");
        }
    }
    // No secrets of a peer: those of a policy's settings, and of an archive that is none.
    let url = "s3://key:hunter2@bucket/x?y=hunter2";
    let said = all_that_is_said(&format!("--set|source={url}"), None);
    assert!(said.contains("source = \"s3://***@bucket/x?***\""), "{said}");
    let text = format!("[policy.settings]\nsource = \"{url}\"");
    let said = all_that_is_said("", Some(&text));
    assert!(said.contains("source = \"s3://***@bucket/x?***\""), "{said}");
    for said in [
        all_that_is_said(&format!("--archive|{url}"), None),
        all_that_is_said("", Some(&format!("[host]\narchive = \"{url}\""))),
    ] {
        assert!(said.contains("the archive is a URL") && !said.contains("hunter2"), "{said}");
    }
}
