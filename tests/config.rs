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
fn settings_that_the_policy_refuses_change_nothing() {
    let dir = Folder::new();
    let primary = primary(&dir);
    let good = config(&primary.url, "window = 2");
    let file = dir.write("host.toml", good.as_bytes());
    let db = dir.path("db");
    let mut host = Running::start(&db, &["--config", &file, "--set", "max-tries=3"]);
    let ticks = || host.status()["peers"][0]["ticks"].as_u64().unwrap();
    let ticks_well = || {
        let before = ticks();
        wait_until("another tick", || {
            run(&["wake", "--db", &db]).ok();
            ticks() > before
        });
        let status = host.status();
        let peer = &status["peers"][0];
        assert_eq!(
            (last_error(&host).as_str(), &peer["last_report"]["in_sync"]),
            ("", &true.into())
        );
    };
    wait_until("it is in sync", || host.status()["peers"][0]["last_report"]["in_sync"] == true);
    ticks_well();

    // Values and keys that the policy does not know. The command line beats the file.
    for (line, key) in [("windw = 2", "windw"), ("max-tries = 0\nbackoff-ms = 0", "backoff-ms")] {
        let named = format!("({key})");
        replace(&dir, "host.toml", &config(&primary.url, line));
        wait_until("it is refused", || {
            host.log()
                .lines()
                .any(|line| line.contains("settings are refused") && line.contains(&named))
        });
        let at = format!("{file}:{} {named}", 8 + line.matches('\n').count());
        assert!(host.log().contains(&at), "{at}");
        let event = host.status()["policy_state"]["last_event"].clone();
        assert_eq!(event["event"], "refused");
        assert!(event["why"].as_str().unwrap().contains(key), "{event}");
        ticks_well();
    }
    // Each time once.
    assert_eq!(host.log().matches("settings are refused").count(), 2, "{}", host.log());

    // In place this time.
    dir.write("host.toml", config(&primary.url, "window = 3").as_bytes());
    wait_until("it is taken", || host.log().contains("changed=\"window\""));
    ticks_well();
    let event = host.status()["policy_state"]["last_event"].clone();
    assert_eq!(
        (&event["event"], &event["why"]),
        (&"settings".into(), &"new values of window".into())
    );
    let history = run(&["policy", "history", "--db", &db]).ok();
    assert!(history.contains("took settings"), "{history}");

    // A file with a problem changes nothing, and neither does none, or what is no file.
    for (broken, said) in [
        (Some("[policy.settings\nwindow = 4"), "what it said before holds"),
        (
            Some("[host]\ninterval = 5\n[policy.settings]\nwindow = 5"),
            "interval: the unit is missing",
        ),
        (Some(""), "the file is empty"),
        (None, "the file is gone"),
    ] {
        match broken {
            Some(text) => replace(&dir, "host.toml", text),
            None => std::fs::remove_file(&file).unwrap(),
        }
        wait_until("it says so", || host.log().contains(said));
        ticks_well();
    }
    std::fs::create_dir(&file).unwrap();
    wait_until("it says so", || host.log().contains("this is no file any more"));
    std::fs::remove_dir(&file).unwrap();
    replace(&dir, "host.toml", &config(&primary.url, "window = 4"));
    wait_until("it is taken", || host.log().matches("changed=\"window\"").count() == 2);
    ticks_well();
    for once in ["no file any more", "the file is empty"] {
        assert_eq!(host.log().matches(once).count(), 1, "{}", host.log());
    }
    assert_eq!(host.stop("-TERM"), Some(0));
}

#[test]
fn settings_that_the_policy_refuses_start_no_host_and_a_check_names_them() {
    let dir = Folder::new();
    let text = format!("{DB}[policy.settings]\nwindow = 2\nwindw = 4\n");
    let file = dir.write("host.toml", text.as_bytes());
    let at = format!("{file}:6 (windw): ");
    for command in [&["run", "--config", &file][..], &["config", "check", &file]] {
        run(command).fails(&["refuses its settings", "windw"]);
    }
    run(&["config", "check", &file]).fails(&[&at]);
    run(&["config", "check", &file, "--set", "window=0"]).fails(&["--set (window)"]);

    // A check and a host agree on who is to blame.
    let limited = ["--limit", "host-calls=1", "--set", "window=4"];
    let check = run(&[&["config", "check", "--db", &dir.path("new")][..], &limited].concat());
    assert!(check.err.contains("not by its settings"), "{check:?}");
    check.ok();
    let plain = run(&["config", "check", "--limit", "host-calls=1"]);
    assert!(plain.err.contains("not by its settings"), "{plain:?}");
    plain.ok();

    // A plugin that is not there, and one that is none.
    dir.write("none.wasm", b"none");
    for plugin in ["missing.wasm", "none.wasm"] {
        let text = format!("{DB}[policy]\nplugin = \"{plugin}\"\n");
        let file = dir.write("plugin.toml", text.as_bytes());
        run(&["config", "check", &file]).fails(&[&format!("{file}:5: "), plugin]);
    }
    let text = format!("{DB}[policy.settings]\nwindow = 2\n");
    let file = dir.write("host.toml", text.as_bytes());
    run(&["config", "check", &file]).ok();
    let mut host = Running::start(&dir.path("db"), &["--config", &file]);
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
fn a_file_with_problems_starts_no_host_and_all_of_them_are_reported() {
    let dir = Folder::new();
    let text = format!("{DB}intervall = \"5s\"\ncompact-rate = \"fast\"\n[limits]\nfuel = \"a\"\n");
    let file = dir.write("host.toml", text.as_bytes());
    let told = [
        "there are 3 problems in",
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
