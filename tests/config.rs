//! The configuration file of `edgestore-host`, end to end: what it says is what a host does, also
//! when it changes while the host runs.
#![allow(clippy::unwrap_used)]

mod program;

use std::process::Stdio;

use edgestore_host_tests::{StockNode, wait_until};
use program::{Folder, Running, edgestore, ran, run};

fn primary(dir: &Folder) -> StockNode {
    StockNode::serve(&dir.0.path().join("stock"), |engine| {
        engine.put(b"readings", b"sensor", b"21.5").unwrap();
        engine.flush_to_segments().unwrap();
    })
}

/// The database beside the file, as the file has it.
const DB: &str = "[host]\ndb = \"db\"\nlisten = \"none\"\n";

/// A file whose policy has these settings and pulls from a peer every 100 ms.
fn config(peer: &str, settings: &str) -> String {
    format!(
        "{DB}interval = \"100ms\"\n[peers]\nprimary = \"{peer}\"\n[policy.settings]\n{settings}\n"
    )
}

/// Writes the file as careful editors do.
fn replace(dir: &Folder, name: &str, text: &str) {
    let new = dir.write("new", text.as_bytes());
    std::fs::rename(new, dir.path(name)).unwrap();
}

fn last_error(host: &Running) -> String {
    host.status()["peers"][0]["last_error"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_host_with_a_file_alone_converges() {
    let dir = Folder::new();
    let primary = primary(&dir);
    let file = dir.write("host.toml", config(&primary.url, "window = 2").as_bytes());
    let db = dir.path("db");
    let mut host = Running::start(&db, &["--config", &file]);
    wait_until("it has pulled", || host.status()["root"] == primary.root().to_string());
    assert_eq!(host.status()["peers"][0]["id"], "primary");
    // Other commands find the database by the file, too.
    let get = ["get", "readings", "sensor", "--config", &file];
    assert_eq!(run(&get).ok().trim(), "21.5");
    assert_eq!(host.stop("-TERM"), Some(0));
    assert_eq!(run(&get).ok().trim(), "21.5");
}

#[test]
fn the_file_in_the_folder_is_read_by_itself() {
    let dir = Folder::new();
    let primary = primary(&dir);
    dir.write("edgestore-host.toml", config(&primary.url, "").as_bytes());
    let here = |args: &[&str]| {
        let mut command = edgestore(args);
        ran(command.current_dir(dir.0.path()).stdin(Stdio::null()).output().unwrap())
    };
    let once = here(&["run", "--once"]);
    assert!(once.err.contains("configuration file=edgestore-host.toml"), "{once:?}");
    assert!(once.ok().contains("primary"));
    assert_eq!(here(&["get", "readings", "sensor"]).ok().trim(), "21.5");
    assert!(dir.0.path().join("db").is_dir());
    // One that is named must be there.
    here(&["run", "--once", "--config", "no-such.toml"]).fails(&["no-such.toml"]);
}

#[test]
fn a_changed_setting_reaches_the_policy_without_a_restart() {
    let dir = Folder::new();
    let primary = primary(&dir);
    let good = config(&primary.url, "window = 2");
    let file = dir.write("host.toml", good.as_bytes());
    let db = dir.path("db");
    let mut host = Running::start(&db, &["--config", &file, "--set", "max-tries=3"]);
    // Failed ticks come ever more rarely, unless somebody asks for one.
    let ticked = |what: &str, done: &dyn Fn() -> bool| {
        wait_until(what, || {
            run(&["wake", "--db", &db]).ok();
            done()
        });
    };
    let in_sync = || host.status()["peers"][0]["last_report"]["in_sync"] == true;
    ticked("it is in sync", &|| in_sync() && last_error(&host).is_empty());

    // The policy refuses what it does not know, which shows that it was told.
    replace(&dir, "host.toml", &config(&primary.url, "windw = 2"));
    ticked("the tick fails", &|| last_error(&host).contains("windw"));
    // In place this time.
    dir.write("host.toml", good.as_bytes());
    ticked("it works again", &|| last_error(&host).is_empty());

    // The command line beats the file, before and after.
    replace(&dir, "host.toml", &config(&primary.url, "max-tries = 0\nbackoff-ms = 0"));
    ticked("the tick fails", &|| last_error(&host).contains("backoff-ms"));

    // A file with a mistake changes nothing, and neither does none.
    let ticks = || host.status()["peers"][0]["ticks"].as_u64().unwrap();
    for broken in [Some("[policy.settings\nwindow = 4"), None] {
        match broken {
            Some(text) => replace(&dir, "host.toml", text),
            None => std::fs::remove_file(&file).unwrap(),
        }
        // Longer than a change takes to arrive.
        std::thread::sleep(std::time::Duration::from_millis(1500));
        let before = ticks();
        run(&["wake", "--db", &db]).ok();
        wait_until("another tick", || ticks() > before);
        assert!(last_error(&host).contains("backoff-ms"), "{}", last_error(&host));
    }
    replace(&dir, "host.toml", &good);
    ticked("it works again", &|| last_error(&host).is_empty());
    assert_eq!(host.stop("-TERM"), Some(0));
}

#[test]
fn what_only_a_restart_changes_is_said() {
    let dir = Folder::new();
    let file = dir.write("host.toml", DB.as_bytes());
    let db = dir.path("db");
    let mut host = Running::start(&db, &["--config", &file]);
    replace(&dir, "host.toml", &format!("{DB}interval = \"9s\"\n[limits]\nfuel = 5\n"));
    wait_until("it says so", || {
        host.log().contains("takes effect after a restart: host.interval, limits.fuel")
    });
    replace(&dir, "host.toml", "[host]\nintervall = \"9s\"\n");
    wait_until("it refuses the file", || {
        host.log().contains("host.toml:2:1: unknown key `intervall`")
    });
    assert_eq!(host.stop("-TERM"), Some(0));
}

#[test]
fn a_file_with_mistakes_starts_no_host_and_all_of_them_are_told() {
    let dir = Folder::new();
    let text = format!("{DB}intervall = \"5s\"\ncompact-rate = \"fast\"\n[limits]\nfuel = \"a\"\n");
    let file = dir.write("host.toml", text.as_bytes());
    let told = [
        "there are 3 mistakes in",
        "host.toml:4:1: unknown key `intervall` in [host]; did you mean `interval`?",
        "  4 | intervall = \"5s\"\n    | ^^^^^^^^^",
        "host.toml:5:16: compact-rate: write a whole number and its unit",
        "host.toml:7:8: fuel: write a whole number",
    ];
    for (command, code) in [(&["run", "--config", &file][..], 2), (&["config", "check", &file], 1)]
    {
        let failed = run(command);
        assert_eq!(failed.code, Some(code), "{failed:?}");
        failed.fails(&told);
    }
    assert!(!dir.0.path().join("db").exists());
    run(&["--db", &dir.path("db"), "--limit", "memry=1MiB"]).fails(&["did you mean `memory`?"]);
}

#[test]
fn a_check_shows_each_value_and_where_it_is_from() {
    let dir = Folder::new();
    let file = dir.write("host.toml", config("http://10.0.0.1:8900", "window = 2").as_bytes());
    let flags =
        ["--interval", "7s", "--tick-timeout", "9s", "--set", "window=3", "--peer", "b=http://b:1"];
    let out = run(&[&["config", "check", &file][..], &flags].concat()).ok();
    let line = |key: &str| {
        let line = out.lines().find(|line| line.starts_with(key));
        line.unwrap_or_else(|| panic!("no {key} in {out}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(line("interval ="), "interval = \"7s\" # --interval");
    assert_eq!(line("listen ="), format!("listen = \"none\" # {file}:3"));
    assert_eq!(line("tombstone-grace ="), "tombstone-grace = \"10d\" # default");
    assert_eq!(line("tick-timeout ="), "tick-timeout = \"9s\" # --tick-timeout");
    assert_eq!(line("memory ="), "memory = \"256MiB\" # default");
    assert_eq!(line("window ="), "window = 3 # --set");
    assert_eq!(line("primary ="), format!("primary = \"http://10.0.0.1:8900\" # {file}:6"));
    assert_eq!(line("b ="), "b = \"http://b:1\" # --peer");
    assert_eq!(line("# plugin"), "# plugin # not set");
    // The example is a good file.
    let example = run(&["config", "example"]).ok();
    let example = dir.write("example.toml", example.as_bytes());
    run(&["config", "check", &example]).ok();
}
